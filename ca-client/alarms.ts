/** What is wrong with our credentials right now: each kind is told once when it rises and once when it is over. */
import type { Clock } from './clock.ts';
import { keeperLimits, type Tenure } from './schedule.ts';

/**
 * `renewal_failing`: no new set for a while; the old one serves meanwhile. `set_refused`: a set was obtained and
 * could not be used. `clock_skew`: our clock and the issuer's are far apart. `expiring`: a fifth of the life is left.
 */
export type AlarmKind = 'renewal_failing' | 'set_refused' | 'clock_skew' | 'expiring';

export interface Alarm {
  readonly kind: AlarmKind;
  /** When it rose, milliseconds since the epoch. */
  readonly since: number;
  /** One line for people: what is wrong, and what to do. */
  readonly message: string;
}

/** Told of each rise (with the message) and of each end (with the message it had last). */
export type OnAlarm = (kind: AlarmKind, raised: boolean, message: string) => void;

/** Where a run of failed attempts stands. */
export interface FailedRun {
  readonly attempts: number;
  readonly sinceMs: number;
  readonly error: string;
}

export class Alarms {
  readonly #raised = new Map<AlarmKind, Alarm>();
  readonly #tell: OnAlarm;
  readonly #clock: Clock;

  constructor(tell: OnAlarm, clock: Clock) {
    this.#tell = tell;
    this.#clock = clock;
  }

  /** Those that are up, the oldest first. */
  get list(): readonly Alarm[] {
    return [...this.#raised.values()];
  }

  /** The source gave a set that cannot be used; over with the next that can. @param kept there is one before it */
  refused(error: string, kept: boolean): void {
    this.#raise('set_refused', kept ? `${error}; the set before stays in force` : error);
  }

  usable(): void {
    this.#clear('set_refused');
  }

  /**
   * A CA that is away for a moment, as while it is updated, is no alarm; one that lets our set expire is.
   * @param lifeMs of the set in force; 0: it has expired, Infinity: there is none yet
   */
  failing({ attempts, sinceMs, error }: FailedRun, lifeMs: number): void {
    const { failingAttempts, failingMs } = keeperLimits;
    if (attempts < failingAttempts || sinceMs < Math.min(failingMs, lifeMs / 20)) return;
    this.#raise('renewal_failing', `no new credentials in ${attempts} attempts: ${error}`);
  }

  answered(): void {
    this.#clear('renewal_failing');
  }

  /** @param error why there is no newer set; null: nothing failed */
  age(tenure: Tenure, error: string | null): void {
    if (tenure.leftUntilExpiring(this.#clock) > 0) {
      this.#clear('expiring');
      return;
    }
    const { serial, notAfter } = tenure.credentials;
    const what = this.#clock.now() >= notAfter ? 'expired' : 'will expire';
    const end = new Date(notAfter).toISOString();
    this.#raise('expiring', `certificate ${serial} ${what} at ${end}: ${error ?? 'there is none newer'}`);
  }

  /** @param skewMs how far our clock is ahead of the issuer's; negative: behind */
  skew(skewMs: number, issuer: string): void {
    const apart = Math.abs(skewMs);
    const bound = this.#raised.has('clock_skew') ? keeperLimits.skewCalmMs : keeperLimits.skewAlarmMs;
    if (apart <= bound) {
      this.#clear('clock_skew');
      return;
    }
    const side = skewMs > 0 ? 'ahead of' : 'behind';
    const seconds = Math.round(apart / 1000);
    this.#raise('clock_skew', `the clock here is ${seconds} s ${side} that of ${issuer}: set both by NTP`);
  }

  /** One that is up already keeps its time and takes the new message, untold. */
  #raise(kind: AlarmKind, message: string): void {
    const known = this.#raised.get(kind);
    this.#raised.set(kind, { kind, since: known?.since ?? this.#clock.now(), message });
    if (known === undefined) this.#tell(kind, true, message);
  }

  #clear(kind: AlarmKind): void {
    const known = this.#raised.get(kind);
    if (known === undefined) return;
    this.#raised.delete(kind);
    this.#tell(kind, false, known.message);
  }
}
