/** Bounds the TLS handshakes of peers that are under way at once: others wait their turn, and a stalled one gives way. */
import { performance } from 'node:perf_hooks';

/** A handshake that is to be made on a socket that is there already. */
export interface PendingHandshake {
  /** Its turn has come. */
  begin(): void;
  /** It never came: its time is over. */
  timedOut(): void;
  /** It was begun, has stalled, and others wait. */
  giveWay(stalledMs: number): void;
}

/** Under way so long, a handshake among honest peers has stalled: it is two round trips. */
const STALLED_MS = 2_000;
const LOOK_MS = 250;

/** Of one thread. While there is room a handshake costs an entry in a map. */
export class Handshakes {
  readonly #max: number;
  readonly #timeoutMs: number;
  /** `performance.now()` at which each began, the oldest first. */
  readonly #running = new Map<PendingHandshake, number>();
  /** Of those that wait: since when. */
  readonly #waiting = new Map<PendingHandshake, number>();
  #timer: NodeJS.Timeout | null = null;

  /** @param timeoutMs how long one may wait for its turn */
  constructor(max: number, timeoutMs: number) {
    this.#max = max;
    this.#timeoutMs = timeoutMs;
  }

  /** Those that wait for their turn. */
  get waiting(): number {
    return this.#waiting.size;
  }

  get running(): number {
    return this.#running.size;
  }

  /**
   * Begins it now, or when its turn comes; to be followed by `done`, however it ends.
   * @returns false where it waits
   */
  enter(handshake: PendingHandshake): boolean {
    const now = performance.now();
    if (this.#running.size < this.#max) {
      this.#running.set(handshake, now);
      handshake.begin();
      return true;
    }
    this.#waiting.set(handshake, now);
    this.#makeRoom(now);
    if (this.#waiting.size > 0) this.#timer ??= setInterval(() => this.#look(), LOOK_MS).unref();
    return !this.#waiting.has(handshake);
  }

  /** It is over, or nobody wants it any more; again: nothing. */
  done(handshake: PendingHandshake): void {
    if (!this.#running.delete(handshake)) {
      this.#waiting.delete(handshake);
      return;
    }
    this.#beginNext();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #beginNext(): void {
    for (const handshake of this.#waiting.keys()) {
      if (this.#running.size >= this.#max) return;
      this.#waiting.delete(handshake);
      this.#running.set(handshake, performance.now());
      handshake.begin();
    }
  }

  /** As many as wait may push out as many as have stalled. */
  #makeRoom(now: number): void {
    let wanted = this.#waiting.size;
    for (const [handshake, since] of this.#running) {
      if (wanted-- <= 0 || now - since < STALLED_MS) return;
      handshake.giveWay(Math.round(now - since));
    }
  }

  #look(): void {
    const now = performance.now();
    for (const [handshake, since] of this.#waiting) {
      if (now - since < this.#timeoutMs) break;
      this.#waiting.delete(handshake);
      handshake.timedOut();
    }
    this.#makeRoom(now);
    if (this.#waiting.size === 0) this.stop();
  }
}
