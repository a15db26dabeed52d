/** Counts latencies, and tells which share of them was below what. */

/** 4 seconds in steps of 1 µs; what takes longer counts as that. */
const STEPS = 4_000_000;

export class Latencies {
  readonly #counts = new Uint32Array(STEPS);
  #count = 0;

  add(ms: number): void {
    const step = Math.min(Math.max(0, Math.round(ms * 1000)), STEPS - 1);
    this.#counts[step] = (this.#counts[step] ?? 0) + 1;
    this.#count++;
  }

  clear(): void {
    this.#counts.fill(0);
    this.#count = 0;
  }

  /** The latency that this share of all did not exceed, in milliseconds. */
  quantile(share: number): number {
    let left = Math.ceil(this.#count * share);
    for (let step = 0; step < STEPS; step++) {
      left -= this.#counts[step] ?? 0;
      if (left <= 0) return step / 1000;
    }
    return STEPS / 1000;
  }
}
