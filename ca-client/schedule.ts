/** When to ask for credentials: arithmetic of lives, waits and chance, in milliseconds. */
import type { Credentials } from '../mesh/credentials.ts';
import type { Clock } from './clock.ts';

export const keeperLimits = {
  /** Backoff: full jitter below a ceiling that doubles from `retryFirstMs` to what `retryDelay` allows. */
  retryFirstMs: 200,
  /** The ceiling where nothing valid is in force, for somebody waits, and for a watched source, which is near. */
  retryMostMs: 30_000,
  /** The ceiling's bounds while a valid set is in force. */
  retryCeilingLeastMs: 1_000,
  retryCeilingMostMs: 3_600_000,
  /** Full jitter may draw nearly nothing; this keeps a failing source from being asked in a tight loop. */
  retryLeastMs: 20,
  /** A source that asks to be left alone is, but no longer than this where nothing valid is in force. */
  retryAfterMostMs: 300_000,
  /** A certificate of which little is left is not asked for more often than this. */
  renewLeastMs: 250,
  /** Sources have their own deadline; this one is for a source that forgets it. */
  attemptMs: 30_000,
  /** Where little is left an attempt gets half of it, so that one that hangs leaves time for another. */
  attemptLeastMs: 3_000,
  /** A rehearsal is a handshake within this process; one that takes so long will not end. */
  rehearseMs: 10_000,
  /** A set held until its notBefore is given up where the clock has not come there so long after it should. */
  heldPatienceMs: 60_000,
  /** No nap is longer: timers stand still in a suspended machine, so each wake looks at the wall clock as well. */
  longestNapMs: 60_000,
  /** While a set is held: a wall clock that is put right makes it valid at once. */
  heldNapMs: 1_000,
  /** A clock that is further off raises the alarm; it is over once it is nearer than the second. */
  skewAlarmMs: 30_000,
  skewCalmMs: 25_000,
  /** Failures that are fewer, or last no longer than this (or a twentieth of the life), are no alarm. */
  failingAttempts: 3,
  failingMs: 60_000,
} as const;

/** The share of the life after which a pace renews: a half, a tenth of the life more or less. @param pace 0 to 1 */
export function renewalShare(pace: number): number {
  return 0.4 + 0.2 * pace;
}

/**
 * Delay before attempt `failures` + 1: exponential backoff with full jitter. The ceiling is a tenth of what is left,
 * so that ever more attempts fit in as the end comes near, and those a CA's outage kept waiting do not all come back
 * with its first minute.
 * @param leftMs until the set in force expires; 0 or less where none is valid
 * @param most the highest ceiling
 */
export function retryDelay(
  failures: number,
  leftMs: number,
  random: number,
  most: number = keeperLimits.retryCeilingMostMs,
): number {
  const { retryMostMs, retryFirstMs, retryCeilingLeastMs, retryLeastMs } = keeperLimits;
  const highest = leftMs <= 0 ? retryMostMs : Math.min(most, Math.max(retryCeilingLeastMs, leftMs / 10));
  const ceiling = Math.min(highest, retryFirstMs * 2 ** (failures - 1));
  return Math.max(retryLeastMs, ceiling * random);
}

/**
 * Delay where the source said how long to leave it alone: so long and up to half as long again, lest all it sent
 * away come back together; but a quarter of what is left at most, so that several more attempts fit in.
 */
export function politeDelay(retryAfterMs: number, leftMs: number, random: number): number {
  const most = leftMs <= 0 ? keeperLimits.retryAfterMostMs : leftMs / 4;
  const share = 1 + 0.5 * random;
  // what is cut to the bound is spread below it
  return Math.min(retryAfterMs * share, (most * share) / 1.5);
}

/** How long one attempt may take. @param leftMs as above */
export function attemptTime(leftMs: number): number {
  const { attemptMs, attemptLeastMs } = keeperLimits;
  return leftMs <= 0 ? attemptMs : Math.min(attemptMs, Math.max(attemptLeastMs, leftMs / 2));
}

/** When the next attempt is due. */
export interface Appointment {
  /** By the clock that is never set. */
  readonly tick: number;
  /**
   * By the wall clock, which rules where a suspended machine's timers stood still: not when it is due, but when a
   * third of what should have been left by then is gone as well. Smaller steps of the clock hurry nobody.
   */
  readonly wall: number;
}

/** @param notAfter of the set in force; null where there is none */
export function appointmentIn(delay: number, clock: Clock, notAfter: number | null): Appointment {
  const then = clock.now() + delay;
  const leftThen = notAfter === null ? 0 : notAfter - then;
  return { tick: clock.tick() + delay, wall: leftThen <= 0 ? Number.POSITIVE_INFINITY : then + leftThen / 3 };
}

/** Until it is due by either clock. */
export function untilDue({ tick, wall }: Appointment, clock: Clock): number {
  return Math.min(tick - clock.tick(), wall - clock.now());
}

/** A set in force and what its age is measured by. */
export class Tenure {
  readonly credentials: Credentials;
  /** The whole of its time. */
  readonly lifeMs: number;
  /** It ends when the set before it does: the source has nothing that lasts longer. */
  readonly continues: boolean;
  readonly #leftAtStart: number;
  readonly #startTick: number;

  /**
   * @param fresh issued for us just now: its time counts from here, whatever notBefore is backdated to
   * @param before the set it replaces. One that ends in the same moment is its continuation: where a CA's own
   *   certificate runs out, all it issues ends with it, and asking more often makes no life shorter
   */
  constructor(credentials: Credentials, fresh: boolean, before: Tenure | null, clock: Clock) {
    const { notBefore, notAfter } = credentials;
    const now = clock.now();
    const lifeMs = notAfter - (fresh ? Math.max(now, notBefore) : notBefore);
    this.credentials = credentials;
    this.continues = before !== null && before.credentials.notAfter === notAfter;
    this.lifeMs = this.continues ? Math.max(lifeMs, before?.lifeMs ?? 0) : lifeMs;
    this.#leftAtStart = notAfter - now;
    this.#startTick = clock.tick();
  }

  /** Until it expires, by whichever clock says less: a clock set back makes nothing younger. */
  left(clock: Clock): number {
    return Math.min(
      this.credentials.notAfter - clock.now(),
      this.#leftAtStart - (clock.tick() - this.#startTick),
    );
  }

  /** Until only a fifth of its life is left. */
  leftUntilExpiring(clock: Clock): number {
    return this.left(clock) - this.lifeMs / 5;
  }
}
