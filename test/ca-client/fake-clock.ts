/** A clock that waits to be told: days pass in a moment, and it can be set, suspended and dealt out to a thousand keepers. */
import type { Clock } from '../../ca-client/clock.ts';

interface Timer {
  readonly at: number;
  /** Timers of one moment run in the order they were set. */
  readonly order: number;
  callback: (() => void) | null;
}

/** Both clocks run together until `jump` parts them; `random` answers what the test sets, or a seed's numbers. */
export class FakeClock implements Clock {
  chance = 0.5;
  longestTimer = 0;
  /** Cleared by a test that tells itself by `stir` when promises have to settle; a thousand keepers' naps need not. */
  settleAlways = true;
  #ticks = 0;
  #offset = 1_800_000_000_000;
  #stirred = false;
  #count = 0;
  #seed: number | null = null;
  readonly #heap: Timer[] = [];

  constructor(seed: number | null = null) {
    this.#seed = seed;
  }

  now(): number {
    return this.#offset + this.#ticks;
  }

  get time(): number {
    return this.now();
  }

  tick(): number {
    return this.#ticks;
  }

  setTimeout(callback: () => void, ms: number): () => void {
    this.longestTimer = Math.max(this.longestTimer, ms);
    const timer: Timer = { at: this.#ticks + ms, order: this.#count++, callback };
    this.#push(timer);
    return () => {
      timer.callback = null;
    };
  }

  random(): number {
    if (this.#seed === null) return this.chance;
    // mulberry32: small, and good enough for chance
    this.#seed = (this.#seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#seed ^ (this.#seed >>> 15), 1 | this.#seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  get timers(): number {
    return this.#heap.filter((timer) => timer.callback !== null).length;
  }

  /** Sets the wall clock, or suspends the machine: no timer runs meanwhile. */
  jump(ms: number): void {
    this.#offset += ms;
  }

  /** Something a promise waits for happened. */
  stir(): void {
    this.#stirred = true;
  }

  /** Moves on, running what falls due in order, and lets promises settle in between. */
  async advance(ms: number): Promise<void> {
    const end = this.#ticks + ms;
    await settled();
    for (;;) {
      const next = this.#heap[0];
      if (next === undefined || next.at > end) break;
      this.#pop();
      if (next.callback === null) continue;
      this.#ticks = next.at;
      next.callback();
      if (this.settleAlways || this.#stirred) await settled();
      this.#stirred = false;
    }
    this.#ticks = end;
  }

  // a binary heap: the earliest is first

  #push(timer: Timer): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(timer);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!earlier(timer, heap[parent])) break;
      heap[at] = heap[parent] as Timer;
      at = parent;
    }
    heap[at] = timer;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (earlier(heap[child + 1], heap[child])) child++;
      if (!earlier(heap[child], last)) break;
      heap[at] = heap[child] as Timer;
      at = child;
    }
    heap[at] = last;
  }
}

function earlier(a: Timer | undefined, b: Timer | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** Every promise that can settle without I/O has. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
