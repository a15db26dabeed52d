/** What every bench is told. */
import type { GroupId, KeyId } from './handshake-rows.ts';

/** What is measured in a round, and at its end. */
export const MEASUREMENTS = ['load', 'rate', 'bulk', 'fresh', 'start', 'memory'] as const;
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

/** What `handshakes` is told. */
export interface HandshakeOptions extends Pick<BenchOptions, 'seconds' | 'rounds' | 'rows'> {
  readonly keys: readonly KeyId[];
  readonly groups: readonly GroupId[];
}

export function measures({ measurements }: BenchOptions, name: Measurement): boolean {
  return measurements === null || measurements.includes(name);
}
