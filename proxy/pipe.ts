/** A byte pipe between two streams: half-close kept, abort passed on as abort, back-pressure both ways. */
import type { Duplex } from 'node:stream';
import { abortStream, type Carrier, type ConnectionSocket } from './connections.ts';
import { hear, pass } from './hear.ts';

/** One end: the stream that carries plaintext and what is under it. */
export interface PipeEnd {
  readonly stream: Duplex;
  readonly socket: ConnectionSocket;
}

/** What each end said before it ended, already taken from its stream; null: it has not ended. */
export interface Early {
  readonly downstream: Buffer | null;
  readonly upstream: Buffer | null;
}

/** Told about what moves. `fromDownstream` says which way. */
export interface PipeObserver {
  moved(fromDownstream: boolean, bytes: number): void;
  /** Both directions are over. `error` is the first failure, null after two clean ends. */
  finished(error: Error | null, fromDownstream: boolean): void;
}

/** Joins two streams until both directions have ended. */
export class Pipe implements Carrier {
  readonly #downstream: PipeEnd;
  readonly #upstream: PipeEnd;
  readonly #observer: PipeObserver;
  #ends = 0;
  #over = false;

  constructor(downstream: PipeEnd, upstream: PipeEnd, observer: PipeObserver, early: Early) {
    this.#downstream = downstream;
    this.#upstream = upstream;
    this.#observer = observer;
    this.#join(downstream, upstream, true);
    this.#join(upstream, downstream, false);
    this.#pass(early.downstream, upstream, true);
    this.#pass(early.upstream, downstream, false);
  }

  drain(): void {
    // A TCP stream has no boundary to stop at: it runs until its ends or the drain deadline.
  }

  abort(): void {
    this.#finish(new Error('aborted'), true);
    // Both may be through, and the last bytes still on their way.
    abortStream(this.#downstream.stream, this.#downstream.socket);
  }

  #pass(early: Buffer | null, to: PipeEnd, fromDownstream: boolean): void {
    if (early === null || early.length === 0) return;
    this.#observer.moved(fromDownstream, early.length);
    to.stream.write(early);
  }

  #join(from: PipeEnd, to: PipeEnd, fromDownstream: boolean): void {
    hear(from.stream, (chunk) => {
      this.#observer.moved(fromDownstream, chunk.length);
      if (!pass(chunk, to.stream)) from.stream.pause();
    });
    to.stream.on('drain', () => from.stream.resume());
    const ended = (): void => {
      if (this.#over) return;
      to.stream.end();
      if (++this.#ends === 2) this.#finish(null, fromDownstream);
    };
    from.stream.on('end', ended);
    from.stream.on('error', (error: Error) => this.#finish(error, fromDownstream));
    const closed = (): void => {
      const { readableEnded, writableFinished } = from.stream;
      // The other side must not take what came so far for all of it, nor go on sending to nobody.
      if (!readableEnded || !writableFinished)
        this.#finish(new Error('closed before its end'), fromDownstream);
    };
    from.stream.on('close', closed);
    from.stream.resume();
    // It may be gone or have ended before anyone listened: right behind its TLS handshake, or while it was held.
    if (from.stream.destroyed) queueMicrotask(closed);
    else if (from.stream.readableEnded) queueMicrotask(ended);
  }

  #finish(error: Error | null, fromDownstream: boolean): void {
    if (this.#over) return;
    this.#over = true;
    if (error !== null) {
      abortStream(this.#downstream.stream, this.#downstream.socket);
      abortStream(this.#upstream.stream, this.#upstream.socket);
    }
    this.#observer.finished(error, fromDownstream);
  }
}
