/** Keeps one workload in valid credentials: obtains them, renews them in time, holds on to the old while that fails. */
import type { Credentials } from '../mesh/credentials.ts';
import { type Alarm, Alarms, type OnAlarm } from './alarms.ts';
import { type Clock, systemClock } from './clock.ts';
import {
  type Appointment,
  appointmentIn,
  attemptTime,
  EXPIRING_SHARE,
  keeperLimits,
  politeDelay,
  renewalShare,
  retryDelay,
  Tenure,
} from './schedule.ts';
import { type CredentialSource, CredentialsError } from './source.ts';

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

/** There was a set, and it could not be used. */
class RefusedSet extends CredentialsError {}

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
  /** Answers in a row that expire no later than what we had: the source has nothing newer. */
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
    this.#alarms = new Alarms(options.onAlarm ?? (() => {}));
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

  #sourceChanged(): void {
    if (this.#running !== null) this.#changed = true;
    else if (!this.#stopped) this.#attempt();
  }

  /** Looks at both clocks and does what is due; naps until something is, or may be. */
  #look(): void {
    this.#cancelNap?.();
    if (this.#stopped) return;
    this.#judgeAge();
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
    const expiring = this.#leftUntilExpiring();
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
    const before = this.current?.notAfter ?? 0;
    this.#fruitless = offered.notAfter > before ? 0 : this.#fruitless + 1;
    this.#tenure = new Tenure(offered, !this.#watched, this.#clock.now(), this.#clock.tick());
    this.#rotations++;
  }

  /** @returns true where its time has come, or will not: what follows is under way */
  #looksHeld(held: Held): boolean {
    if (this.#clock.now() >= held.credentials.notBefore) {
      void this.#run(async (running) => {
        this.#held = null;
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
    this.#alarms.clear('renewal_failing');
    // what is under way next will say when another is due
    if (this.#changed || this.#held !== null) return;
    this.#alarms.clear('set_refused');
    if (this.#tenure !== null) this.#meetIn(this.#renewalDelay(this.#tenure));
  }

  /** A source that has nothing newer is not asked in ever shorter steps towards the end, all sidecars together. */
  #renewalDelay({ lifeMs }: Tenure): number {
    const left = this.#left;
    const expiring = lifeMs * EXPIRING_SHARE;
    const delay = this.#watched && left > expiring ? left - expiring : left * renewalShare(this.#pace);
    const least =
      this.#fruitless > 0 ? retryDelay(this.#fruitless, 0, this.#clock.random()) : keeperLimits.renewLeastMs;
    return Math.max(delay, least);
  }

  #failed(error: Error): void {
    const refused = error instanceof RefusedSet;
    const now = this.#clock.now();
    if (this.#failures++ === 0) this.#failingSince = this.#clock.tick();
    this.#lastError = error.message;
    if (refused) this.#alarms.raise('set_refused', `${error.message}; the set before stays in force`, now);
    if (this.#failsForLong) {
      const said = `no new credentials in ${this.#failures} attempts: ${error.message}`;
      this.#alarms.raise('renewal_failing', said, now);
    }
    const delay = this.#changed ? keeperLimits.retryLeastMs : this.#retryDelay(error);
    this.#meetIn(delay);
    const kind = refused ? 'refused' : 'unobtained';
    this.#options.onFailure(error, { attempt: this.#failures, nextRetryMs: Math.round(delay), kind });
  }

  #retryDelay(error: Error): number {
    const random = this.#clock.random();
    const most = this.#watched ? keeperLimits.retryMostMs : keeperLimits.retryCeilingMostMs;
    const backoff = retryDelay(this.#failures, this.#left, random, most);
    const wish = error instanceof CredentialsError ? error.retryAfterMs : null;
    return wish === null ? backoff : Math.max(backoff, politeDelay(wish, this.#left, random));
  }

  #meetIn(delay: number): void {
    this.#next = appointmentIn(delay, this.#clock.tick(), this.#clock.now(), this.current?.notAfter ?? null);
  }

  // ---- age and alarms

  get #watched(): boolean {
    return this.#options.source.watch !== undefined;
  }

  /** Of the set in force; 0 where there is none. */
  get #left(): number {
    return this.#tenure?.left(this.#clock.now(), this.#clock.tick()) ?? 0;
  }

  /** A CA that is away for a moment, as while it is updated, is no alarm; one that lets our set expire is. */
  get #failsForLong(): boolean {
    if (this.#failures < keeperLimits.failingAttempts) return false;
    const bearable = this.expired
      ? 0
      : Math.min(keeperLimits.failingMs, (this.#tenure?.lifeMs ?? Number.POSITIVE_INFINITY) / 20);
    return this.#clock.tick() - this.#failingSince >= bearable;
  }

  #leftUntilExpiring(): number {
    return this.#tenure === null ? 0 : this.#left - this.#tenure.lifeMs * EXPIRING_SHARE;
  }

  #judgeAge(): void {
    if (this.#tenure === null) return;
    if (this.#leftUntilExpiring() > 0) {
      this.#alarms.clear('expiring');
      return;
    }
    const { serial, notAfter } = this.#tenure.credentials;
    const what = this.expired ? 'expired' : 'will expire';
    const why = this.#lastError === null ? 'there is none newer' : this.#lastError;
    this.#alarms.raise(
      'expiring',
      `certificate ${serial} ${what} at ${iso(notAfter)}: ${why}`,
      this.#clock.now(),
    );
  }

  #measureSkew(skewMs: number | null): void {
    if (skewMs === null) return;
    this.#skewMs = skewMs;
    const apart = Math.abs(skewMs);
    if (apart > keeperLimits.skewAlarmMs) {
      const side = skewMs > 0 ? 'ahead of' : 'behind';
      const text = `the clock here is ${Math.round(apart / 1000)} s ${side} that of ${this.#options.source.origin}: set both by NTP`;
      this.#alarms.raise('clock_skew', text, this.#clock.now());
    } else if (apart < keeperLimits.skewCalmMs) this.#alarms.clear('clock_skew');
  }
}

/** Until it is due by either clock. */
function untilDue({ tick, wall }: Appointment, clock: Clock): number {
  return Math.min(tick - clock.tick(), wall - clock.now());
}

function sameSet(a: Credentials, b: Credentials): boolean {
  const trustOf = ({ rootsPem, federated }: Credentials) => JSON.stringify([rootsPem, federated]);
  return a.chainPem === b.chainPem && a.keyPem === b.keyPem && trustOf(a) === trustOf(b);
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
