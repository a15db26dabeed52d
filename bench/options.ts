/** What every bench is told. */

export interface BenchOptions {
  /** Measured time of each load, after its warm-up. */
  readonly seconds: number;
  readonly connections: readonly number[];
  readonly rounds: number;
  /** Names of the rows to measure; null for all. */
  readonly rows: readonly string[] | null;
  /** Requests a second of the open loop. */
  readonly rate: number;
  readonly accessLog: boolean;
}
