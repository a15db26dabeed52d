/** Looks at a stream's first bytes until somebody has seen enough, and puts them all back. */
import type { Duplex } from 'node:stream';

export class FirstBytes {
  readonly #stream: Duplex;
  readonly #enough: (bytes: Buffer) => boolean;
  readonly #ended: (bytes: Buffer) => void;
  #bytes: Buffer = Buffer.alloc(0);
  #over = false;
  readonly #onData = (chunk: Buffer): void => this.#data(chunk);
  readonly #onEnd = (): void => {
    this.#leave();
    this.#ended(this.#bytes);
  };

  /**
   * @param enough sees all bytes so far; true ends the looking. What it wants done with the stream it must
   *   put off until the bytes are back (a microtask).
   * @param ended the stream ended first
   */
  constructor(stream: Duplex, enough: (bytes: Buffer) => boolean, ended: (bytes: Buffer) => void) {
    this.#stream = stream;
    this.#enough = enough;
    this.#ended = ended;
  }

  /** Bytes seen so far. */
  get length(): number {
    return this.#bytes.length;
  }

  start(): void {
    this.#stream.on('data', this.#onData);
    this.#stream.on('end', this.#onEnd);
    this.#stream.on('close', this.#onEnd);
    // Whoever looked before has paused it.
    this.#stream.resume();
    // It may have ended before anyone listened: right behind its TLS handshake.
    if (this.#stream.readableEnded) queueMicrotask(this.#onEnd);
  }

  /** Ends the looking before it is decided: the bytes go back. Safe to call when it is over. @returns them */
  giveUp(): Buffer {
    if (this.#over) return this.#bytes;
    this.#leave();
    this.#stream.pause();
    if (!this.#stream.destroyed && this.#bytes.length > 0) this.#stream.unshift(this.#bytes);
    return this.#bytes;
  }

  #data(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    if (this.#enough(this.#bytes)) this.giveUp();
  }

  #leave(): void {
    this.#over = true;
    this.#stream.off('data', this.#onData);
    this.#stream.off('end', this.#onEnd);
    this.#stream.off('close', this.#onEnd);
  }
}
