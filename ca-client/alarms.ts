/** What is wrong with our credentials right now: each kind is told once when it rises and once when it is over. */

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

export class Alarms {
  readonly #raised = new Map<AlarmKind, Alarm>();
  readonly #tell: OnAlarm;

  constructor(tell: OnAlarm) {
    this.#tell = tell;
  }

  /** Those that are up, the oldest first. */
  get list(): readonly Alarm[] {
    return [...this.#raised.values()];
  }

  /** One that is up already keeps its time and takes the new message, untold. */
  raise(kind: AlarmKind, message: string, now: number): void {
    const known = this.#raised.get(kind);
    this.#raised.set(kind, { kind, since: known?.since ?? now, message });
    if (known === undefined) this.#tell(kind, true, message);
  }

  clear(kind: AlarmKind): void {
    const known = this.#raised.get(kind);
    if (known === undefined) return;
    this.#raised.delete(kind);
    this.#tell(kind, false, known.message);
  }
}
