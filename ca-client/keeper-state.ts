/** What the keeper tells of itself: plain data, without key or PEM. */
import type { Alarm } from './alarms.ts';

/**
 * `waiting`: no set yet. `held`: one is there, and not yet valid. `valid`: all is well. `renewing`: so it is, and an
 * attempt runs. `failing`: the last attempt failed, the set in force is valid. `expired`: it is not, any more.
 */
export type KeeperPhase = 'waiting' | 'held' | 'valid' | 'renewing' | 'failing' | 'expired';

/** What `/certs` and `/healthz` show; times are milliseconds since the epoch. No key, no PEM. */
export interface KeeperState {
  readonly source: string;
  readonly phase: KeeperPhase;
  /** What a phase other than `valid` and `renewing` waits for, in words. */
  readonly waitingFor: string | null;
  readonly identity: string | null;
  readonly serial: string | null;
  readonly notBefore: number | null;
  readonly notAfter: number | null;
  readonly expired: boolean;
  /** Sets put in force so far, the first included. */
  readonly rotations: number;
  /** When the source last answered with a usable set, be it the one we have. */
  readonly lastSuccess: number | null;
  /** Failed attempts since then, and the last one's words; 0 and null while all is well. */
  readonly failures: number;
  readonly lastError: string | null;
  /** When the next attempt is due; null while one runs, and while a set is held. */
  readonly nextAttempt: number | null;
  /** How far our clock is ahead of the issuer's (negative: behind) by its last answer; null: never told. */
  readonly clockSkewMs: number | null;
  readonly alarms: readonly Alarm[];
}
