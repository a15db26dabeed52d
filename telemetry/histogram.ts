/** A histogram as plain numbers: buckets that the hot path increments without allocating. */

/**
 * Upper bounds of Envoy's default buckets, which Istio's sidecars use for milliseconds and bytes alike
 * (Envoy `HistogramSettingsImpl::defaultBuckets`). The last one stands before `+Inf`.
 */
export const defaultBuckets: readonly number[] = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000,
  1_800_000, 3_600_000,
];

/** Observations by bucket. `counts` is not cumulative; the slot after the last bound is what lies above it. */
export class HistogramRecord {
  readonly counts: Float64Array;
  sum: number;
  /** Of the last observation: sizes and times of one kind of request seldom leave their bucket. */
  #last: number;

  constructor() {
    this.counts = new Float64Array(defaultBuckets.length + 1);
    this.sum = 0;
    this.#last = 0;
  }

  /** Counts one observation. What is negative or no number counts as 0: a clock that steps must not poison the sum. */
  observe(value: number): void {
    const observed = value > 0 ? value : 0;
    let bucket = this.#last;
    while (bucket < defaultBuckets.length && observed > (defaultBuckets[bucket] as number)) bucket++;
    while (bucket > 0 && observed <= (defaultBuckets[bucket - 1] as number)) bucket--;
    this.#last = bucket;
    this.counts[bucket] = (this.counts[bucket] as number) + 1;
    this.sum += observed;
  }
}
