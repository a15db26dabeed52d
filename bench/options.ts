/** What every bench is told. */

/** What is measured in a round, and at its end. */
export const MEASUREMENTS = ['load', 'rate', 'bulk', 'fresh', 'handshakes', 'start', 'memory'] as const;
export type Measurement = (typeof MEASUREMENTS)[number];

export interface BenchOptions {
  /** Measured time of each load, after its warm-up. */
  readonly seconds: number;
  readonly connections: readonly number[];
  readonly rounds: number;
  /** Names of the rows to measure; null for all. */
  readonly rows: readonly string[] | null;
  /** What to measure; null for everything. */
  readonly measurements: readonly Measurement[] | null;
  /** Requests a second of the open loop. */
  readonly rate: number;
  readonly accessLog: boolean;
}

export function measures({ measurements }: BenchOptions, name: Measurement): boolean {
  return measurements === null || measurements.includes(name);
}
