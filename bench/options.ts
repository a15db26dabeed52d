/** What every bench is told. */

export interface BenchOptions {
  /** Measured time of each load, after its warm-up. */
  readonly seconds: number;
  readonly connections: readonly number[];
  readonly rounds: number;
}
