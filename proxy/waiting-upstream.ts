/** An upstream that was reached before anybody knows whether it is TCP that will go there: nothing of it goes on, but it is heard. */
import { isGreeting } from './detect.ts';
import type { Upstream } from './dial.ts';
import { FirstBytes } from './first-bytes.ts';

export interface WaitingEvents {
  /** It greeted its client, ended without a word, or is gone: nobody is to wait for it. What it said is kept. */
  spoke(): void;
  /** What it said makes no greeting: it is closed. */
  lost(): void;
}

export class WaitingUpstream {
  readonly upstream: Upstream;
  /** All it said before it ended its side; null: it has not ended, or was reset. */
  said: Buffer | null = null;
  readonly #events: WaitingEvents;
  readonly #hearing: FirstBytes;
  #over = false;

  constructor(upstream: Upstream, events: WaitingEvents) {
    this.upstream = upstream;
    this.#events = events;
    // What it says goes back and waits in its stream, which is not read on: that bounds it.
    this.#hearing = new FirstBytes(
      upstream.stream,
      (bytes) => this.#heard(bytes),
      (bytes) => this.#ended(bytes),
    );
  }

  start(): void {
    this.#hearing.start();
  }

  /** It is TCP: the upstream is whole again and the caller's. */
  take(): Upstream {
    this.#over = true;
    this.#hearing.giveUp();
    return this.upstream;
  }

  close(): void {
    if (this.#over) return;
    closeUpstream(this.take());
  }

  #heard(bytes: Buffer): boolean {
    const greeting = isGreeting(bytes);
    if (greeting === 'more') return false;
    queueMicrotask(() => {
      if (this.#over) return;
      if (greeting) this.#events.spoke();
      else this.#lose();
    });
    return true;
  }

  #ended(bytes: Buffer): void {
    if (this.#over) return;
    if (this.upstream.stream.readableEnded) this.said = bytes;
    this.#events.spoke();
  }

  #lose(): void {
    this.close();
    this.#events.lost();
  }
}

/** Closes an upstream of which nothing was asked. */
export function closeUpstream(upstream: Upstream): void {
  upstream.stream.end();
  upstream.stream.destroy();
}
