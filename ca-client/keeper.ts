/** Keeps one workload in valid credentials: obtains them, renews them in time, holds on to the old while that fails. */
import type { Credentials } from '../mesh/credentials.ts';
import { Alarms, type OnAlarm } from './alarms.ts';
import { type Clock, systemClock } from './clock.ts';
import type { KeeperPhase, KeeperState } from './keeper-state.ts';
import {
  type Appointment,
  appointmentIn,
  attemptTime,
  keeperLimits,
  politeDelay,
  renewalShare,
  retryDelay,
  Tenure,
  untilDue,
} from './schedule.ts';
import { type CredentialSource, CredentialsError, RefusedSet } from './source.ts';

export interface FailedAttempt {
  /** Counts from 1 since the last success. */
  readonly attempt: number;
  readonly nextRetryMs: number;
  /** `refused`: there was a set, and it could not be used. `unobtained`: there was none. */
  readonly kind: 'unobtained' | 'refused';
}

export interface KeeperOptions {
  readonly source: CredentialSource;
  /**
   * Tries a new set before it is put in force: a handshake with itself. Rejecting refuses the set: the old one
   * stays, and the refusal counts as a failed attempt. Given up on, and its signal aborted, after `rehearseMs`.
   */
  readonly rehearse?: (credentials: Credentials, signal: AbortSignal) => Promise<void>;
  /** Handed each new set that passed, before `current` changes. One that throws refuses the set as well. */
  readonly onCredentials: (credentials: Credentials) => void;
  readonly onFailure: (error: Error, next: FailedAttempt) => void;
  readonly onAlarm?: OnAlarm;
  readonly clock?: Clock;
}

interface Held {
  readonly credentials: Credentials;
  /** By `Clock.tick`: when the wall clock should have come to its notBefore, with patience. */
  readonly giveUp: number;
}

/**
 * Obtains from `start()` on until `stop()`. A CA's answer is renewed at half of its life; a watched source decides
 * itself, and is asked only where it lets a set come near its end. An identity once held is never exchanged for
 * another. One thing runs at a time, an attempt or a held set's rehearsal, so that sets come in force in the order
 * they were obtained in; what a source offers meanwhile is fetched right after.
 */
export class CredentialKeeper {
  readonly #options: KeeperOptions;
  readonly #clock: Clock;
  readonly #alarms: Alarms;
  /**
   * Drawn once, so that sidecars started together drift further apart with each renewal: chance drawn anew each time
   * would keep them crowded around the middle for days.
   */
  readonly #pace: number;
  #tenure: Tenure | null = null;
  #held: Held | null = null;
  #rotations = 0;
  #lastSuccess: number | null = null;
  #failures = 0;
  #failingSince = 0;
  #lastError: string | null = null;
  /** Answers in a row that last no longer than what we had. */
  #fruitless = 0;
  #skewMs: number | null = null;
  #next: Appointment | null = null;
  #cancelNap: (() => void) | null = null;
  #unwatch: (() => void) | null = null;
  #running: AbortController | null = null;
  /** The watched source called back while an attempt ran: what that one read may be old. */
  #changed = false;
  #stopped = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#alarms = new Alarms(options.onAlarm ?? (() => {}), this.#clock);
    this.#pace = this.#clock.random();
  }

  /** The set in force; also an expired one, see `expired`. Null before the first. */
  get current(): Credentials | null {
    return this.#tenure?.credentials ?? null;
  }

  /** True where there is a set and its time is over. */
  get expired(): boolean {
    return this.current !== null && this.#clock.now() >= this.current.notAfter;
  }

  get state(): KeeperState {
    const { current } = this;
    return {
      source: this.#options.source.origin,
      phase: this.#phase,
      waitingFor: this.#waitingFor,
      identity: current?.identity.uri ?? null,
      serial: current?.serial ?? null,
      notBefore: current?.notBefore ?? null,
      notAfter: current?.notAfter ?? null,
      expired: this.expired,
      rotations: this.#rotations,
      lastSuccess: this.#lastSuccess,
      failures: this.#failures,
      lastError: this.#lastError,
      nextAttempt:
        this.#next === null
          ? null
          : Math.round(this.#clock.now() + Math.max(0, this.#next.tick - this.#clock.tick())),
      clockSkewMs: this.#skewMs,
      alarms: this.#alarms.list,
    };
  }

  get #phase(): KeeperPhase {
    if (this.expired) return 'expired';
    if (this.#held !== null) return 'held';
    if (this.current === null) return 'waiting';
    if (this.#failures > 0) return 'failing';
    return this.#running === null ? 'valid' : 'renewing';
  }

  get #waitingFor(): string | null {
    if (this.#held !== null) {
      const { serial, notBefore, origin } = this.#held.credentials;
      return `certificate ${serial} of ${origin}, not valid before ${iso(notBefore)}: it is ${iso(this.#clock.now())} here`;
    }
    if (this.current !== null && !this.expired && this.#failures === 0) return null;
    const { origin } = this.#options.source;
    return this.#lastError === null
      ? `credentials of ${origin}`
      : `credentials of ${origin}: ${this.#lastError}`;
  }

  /** Begins; the first answer comes to `onCredentials`. To be called once. */
  start(): void {
    this.#unwatch = this.#options.source.watch?.(() => this.#sourceChanged()) ?? null;
    this.#attempt();
  }

  /** Ends all timers, watching and the attempt under way. `current` stays. */
  stop(): void {
    this.#stopped = true;
    this.#unwatch?.();
    this.#cancelNap?.();
    this.#running?.abort();
    this.#next = null;
  }

  /** The wall clock was set, or the machine slept: whatever is due by it is not to wait for the next look. */
  wake(): void {
    if (!this.#stopped && this.#running === null) this.#look();
  }

  #sourceChanged(): void {
    if (this.#running !== null) this.#changed = true;
    else if (!this.#stopped) this.#attempt();
  }

  /** Looks at both clocks and does what is due; naps until something is, or may be. */
  #look(): void {
    this.#cancelNap?.();
    if (this.#stopped) return;
    if (this.#tenure !== null) this.#alarms.age(this.#tenure, this.#lastError);
    if (this.#running === null) {
      if (this.#held !== null && this.#looksHeld(this.#held)) return;
      if (this.#next !== null && untilDue(this.#next, this.#clock) <= 0) {
        this.#attempt();
        return;
      }
    }
    this.#cancelNap = this.#clock.setTimeout(() => this.#look(), this.#nap());
  }

  /** At least one millisecond: a timer may fire a fraction early. */
  #nap(): number {
    const clock = this.#clock;
    const waits: number[] = [
      // keepers that wake from a machine's suspension together should not all ask in the same moment
      keeperLimits.longestNapMs * (0.5 + 0.5 * clock.random()),
    ];
    if (this.#next !== null) waits.push(untilDue(this.#next, clock));
    if (this.#held !== null) {
      waits.push(keeperLimits.heldNapMs, this.#held.credentials.notBefore - clock.now());
    }
    const expiring = this.#tenure?.leftUntilExpiring(clock) ?? 0;
    if (expiring > 0) waits.push(expiring);
    return Math.max(1, Math.ceil(Math.min(...waits)));
  }

  // ---- attempts

  #attempt(): void {
    this.#changed = false;
    void this.#run(async (running) => {
      const { source } = this.#options;
      const obtained = source.obtain(running.signal);
      const offered = await this.#within(attemptTime(this.#left), running, source.origin, obtained);
      if (this.#stopped) return;
      this.#measureSkew(offered.clockSkewMs);
      await this.#take(offered, running);
    });
  }

  /** One thing at a time; what comes of it decides when the next is due. */
  async #run(work: (running: AbortController) => Promise<void>): Promise<void> {
    this.#next = null;
    const running = new AbortController();
    this.#running = running;
    // the age is watched meanwhile
    this.#look();
    let failure: Error | null = null;
    try {
      await work(running);
    } catch (error) {
      failure = error instanceof Error ? error : new CredentialsError(String(error));
    }
    this.#running = null;
    if (this.#stopped) return;
    if (failure === null) this.#succeeded();
    else this.#failed(failure);
    if (this.#changed) this.#meetIn(keeperLimits.retryLeastMs);
    this.#look();
  }

  #within<T>(ms: number, running: AbortController, who: string, work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const cancel = this.#clock.setTimeout(() => {
        reject(new CredentialsError(`${who} gave no answer within ${Math.round(ms / 100) / 10} s`));
        running.abort();
      }, ms);
      work.then(resolve, reject).finally(cancel);
    });
  }

  /** @throws RefusedSet */
  async #take(offered: Credentials, running: AbortController): Promise<void> {
    const { current } = this;
    if (current !== null && current.identity.uri !== offered.identity.uri) {
      throw new RefusedSet(
        `${offered.origin} offers the identity ${offered.identity.uri}, but this sidecar is ` +
          `${current.identity.uri}; restart it if it is to become another`,
      );
    }
    const early = offered.notBefore - this.#clock.now();
    if (early > 0) {
      const giveUp = this.#clock.tick() + early + keeperLimits.heldPatienceMs;
      if (this.#held === null || !sameSet(this.#held.credentials, offered)) {
        this.#held = { credentials: offered, giveUp };
      }
      return;
    }
    if (current === null || !sameSet(current, offered)) await this.#putInForce(offered, running);
    else this.#fruitless++;
    // whatever was held is older
    this.#held = null;
  }

  /** @throws RefusedSet; the set before stays in force then */
  async #putInForce(offered: Credentials, running: AbortController): Promise<void> {
    const { rehearse, onCredentials } = this.#options;
    try {
      if (rehearse !== undefined) {
        const rehearsed = rehearse(offered, running.signal);
        await this.#within(keeperLimits.rehearseMs, running, 'a handshake with itself', rehearsed);
      }
      if (this.#stopped) return;
      onCredentials(offered);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new RefusedSet(`certificate ${offered.serial} of ${offered.origin} cannot be used: ${reason}`);
    }
    this.#tenure = new Tenure(offered, !this.#watched, this.#tenure, this.#clock);
    this.#fruitless = this.#tenure.continues ? this.#fruitless + 1 : 0;
    this.#rotations++;
  }

  /** @returns true where its time has come, or will not: what follows is under way */
  #looksHeld(held: Held): boolean {
    if (this.#clock.now() >= held.credentials.notBefore) {
      void this.#run(async (running) => {
        this.#held = null;
        // what failed meanwhile may be a newer set, and its retries end with this success
        this.#changed ||= this.#failures > 0;
        await this.#putInForce(held.credentials, running);
      });
      return true;
    }
    if (this.#clock.tick() < held.giveUp) return false;
    void this.#run(async () => {
      this.#held = null;
      throw new RefusedSet(
        `certificate ${held.credentials.serial} of ${held.credentials.origin} is still not valid: the clock ` +
          `here was set back, and says ${iso(this.#clock.now())}; the certificate begins at ${iso(held.credentials.notBefore)}`,
      );
    });
    return true;
  }

  #succeeded(): void {
    this.#failures = 0;
    this.#lastError = null;
    this.#lastSuccess = this.#clock.now();
    this.#alarms.answered();
    // what is under way next will say when another is due
    if (this.#changed || this.#held !== null) return;
    this.#alarms.usable();
    if (this.#tenure !== null) this.#meetIn(this.#renewalDelay(this.#tenure));
  }

  /** A source that has nothing newer is not asked in ever shorter steps towards the end, all sidecars together. */
  #renewalDelay(tenure: Tenure): number {
    const quiet = tenure.leftUntilExpiring(this.#clock);
    const delay = this.#watched && quiet > 0 ? quiet : this.#left * renewalShare(this.#pace);
    const least =
      this.#fruitless > 0 ? retryDelay(this.#fruitless, 0, this.#clock.random()) : keeperLimits.renewLeastMs;
    return Math.max(delay, least);
  }

  #failed(error: Error): void {
    const refused = error instanceof RefusedSet;
    if (this.#failures++ === 0) this.#failingSince = this.#clock.tick();
    this.#lastError = error.message;
    if (error instanceof CredentialsError) this.#measureSkew(error.clockSkewMs);
    if (refused) this.#alarms.refused(error.message, this.current !== null);
    const attempts = this.#failures;
    const sinceMs = this.#clock.tick() - this.#failingSince;
    const lifeMs = this.expired ? 0 : (this.#tenure?.lifeMs ?? Number.POSITIVE_INFINITY);
    this.#alarms.failing({ attempts, sinceMs, error: error.message }, lifeMs);
    const delay = this.#changed ? keeperLimits.retryLeastMs : this.#retryDelay(error);
    this.#meetIn(delay);
    const kind = refused ? 'refused' : 'unobtained';
    this.#options.onFailure(error, { attempt: attempts, nextRetryMs: Math.round(delay), kind });
  }

  #retryDelay(error: Error): number {
    const random = this.#clock.random();
    const most = this.#watched ? keeperLimits.retryMostMs : keeperLimits.retryCeilingMostMs;
    const backoff = retryDelay(this.#failures, this.#left, random, most);
    const wish = error instanceof CredentialsError ? error.retryAfterMs : null;
    return wish === null ? backoff : Math.max(backoff, politeDelay(wish, this.#left, random));
  }

  #meetIn(delay: number): void {
    this.#next = appointmentIn(delay, this.#clock, this.current?.notAfter ?? null);
  }

  get #watched(): boolean {
    return this.#options.source.watch !== undefined;
  }

  /** Until the set in force expires; 0 where there is none. */
  get #left(): number {
    return this.#tenure?.left(this.#clock) ?? 0;
  }

  #measureSkew(skewMs: number | null): void {
    if (skewMs === null) return;
    this.#skewMs = skewMs;
    this.#alarms.skew(skewMs, this.#options.source.origin);
  }
}

function sameSet(a: Credentials, b: Credentials): boolean {
  const trustOf = ({ rootsPem, federated }: Credentials) => JSON.stringify([rootsPem, federated]);
  return a.chainPem === b.chainPem && a.keyPem === b.keyPem && trustOf(a) === trustOf(b);
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
