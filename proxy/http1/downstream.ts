/** The downstream's end of an HTTP/1 connection: who listens to it, whether it is read, and how it is let go. */
import type { Duplex } from 'node:stream';
import { hear } from '../hear.ts';

/** Whoever serves a downstream. */
export interface DownstreamUser {
  downstreamData(piece: Buffer): void;
  /** It ended its side (FIN). */
  downstreamEnd(): void;
  /** It is gone, with an error or without. */
  downstreamGone(): void;
  /** What was written has left. */
  downstreamDrain(): void;
}

export class Downstream {
  readonly stream: Duplex;
  #paused = false;
  readonly #onEnd: () => void;
  readonly #onGone: () => void;
  readonly #onDrain: () => void;

  /** Listens from here on, until `leave`. */
  constructor(stream: Duplex, user: DownstreamUser) {
    this.stream = stream;
    this.#onEnd = () => user.downstreamEnd();
    this.#onGone = () => user.downstreamGone();
    this.#onDrain = () => user.downstreamDrain();
    hear(stream, (piece) => user.downstreamData(piece));
    stream.on('end', this.#onEnd);
    stream.on('error', this.#onGone);
    stream.on('close', this.#onGone);
    stream.on('drain', this.#onDrain);
    // Whoever looked at the first bytes paused the stream: listening alone would not set it flowing again.
    stream.resume();
    // It may have ended before anyone listened: right behind its TLS handshake, say.
    if (stream.readableEnded) queueMicrotask(this.#onEnd);
  }

  pause(): void {
    this.#paused = true;
    this.stream.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.stream.resume();
  }

  /** The stream is somebody else's from here on, who sets it flowing again. */
  leave(): void {
    const { stream } = this;
    stream.pause();
    stream.off('end', this.#onEnd);
    stream.off('error', this.#onGone);
    stream.off('close', this.#onGone);
    stream.off('drain', this.#onDrain);
  }

  /**
   * Sends FIN and waits a moment for the other side's, so that the last answer is not lost to a reset (RFC 9112 §9.6).
   * The moment begins when all that was written has left, however slowly it is read.
   */
  endThenLinger(): void {
    const { stream } = this;
    stream.end(() => {
      if (stream.destroyed) return;
      const timer = setTimeout(() => stream.destroy(), LINGER_MS);
      stream.once('close', () => clearTimeout(timer));
    });
  }
}

const LINGER_MS = 1_000;
