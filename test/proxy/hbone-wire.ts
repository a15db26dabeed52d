/** A connection in memory that cuts what it carries anywhere, or holds it back: no reader of frames may rely on the pieces it gets. */
import { Duplex } from 'node:stream';

/** One end. */
class WireEnd extends Duplex {
  readonly #cut: (octets: number) => number;
  other: WireEnd | null = null;

  /** @param cut how many of so many octets come next, at least one */
  constructor(cut: (octets: number) => number) {
    super({ allowHalfOpen: true });
    this.#cut = cut;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, written: (error?: Error | null) => void): void {
    // As TLS does: when this returns the writer's memory is its own again.
    this.#carry(Buffer.from(chunk), written);
  }

  #carry(bytes: Buffer, written: (error?: Error | null) => void): void {
    const { other } = this;
    if (other === null || other.destroyed) written();
    else if (bytes.length === 0) written();
    else {
      const octets = this.#cut(bytes.length);
      other.push(bytes.subarray(0, octets));
      setImmediate(() => this.#carry(bytes.subarray(octets), written));
    }
  }

  override _read(): void {}

  override _final(ended: (error?: Error | null) => void): void {
    if (this.other?.destroyed === false) this.other.push(null);
    ended();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const { other } = this;
    setImmediate(() => {
      if (other?.destroyed === false) other.destroy();
    });
    done(error);
  }
}

/** @param cut how many of so many octets come next, at least one */
export function wire(cut: (octets: number) => number): readonly [Duplex, Duplex] {
  const ends = [new WireEnd(cut), new WireEnd(cut)] as const;
  ends[0].other = ends[1];
  ends[1].other = ends[0];
  return ends;
}

/** An end whose other end is the test: writes are kept, and the next one waits until the test lets it. */
export class HeldWire extends Duplex {
  /** What was written, write by write. */
  readonly writes: Buffer[] = [];
  #written: ((error?: Error | null) => void) | null = null;

  /** Says so to whoever reads this end. */
  say(...frames: readonly Buffer[]): void {
    this.push(Buffer.concat(frames));
  }

  /** Lets the write under way be through; false where there is none. */
  release(): boolean {
    const written = this.#written;
    this.#written = null;
    written?.();
    return written !== null;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, written: (error?: Error | null) => void): void {
    this.writes.push(Buffer.from(chunk));
    this.#written = written;
  }

  override _read(): void {}
}
