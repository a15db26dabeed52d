/** Keeps one workload in valid credentials: obtains them, renews them in time, holds on to the old while that fails. */
import type { Credentials } from '../mesh/credentials.ts';
import { type Clock, systemClock } from './clock.ts';
import { type CredentialSource, CredentialsError } from './source.ts';

export interface KeeperOptions {
  readonly source: CredentialSource;
  /**
   * Handed each new set, before `current` changes. One that throws refuses the set: the old one stays, and the
   * refusal counts as a failed attempt.
   */
  readonly onCredentials: (credentials: Credentials) => void;
  /** Told of each failed attempt: `attempt` counts from 1 since the last success, `nextRetryMs` from now. */
  readonly onFailure: (
    error: Error,
    next: { readonly attempt: number; readonly nextRetryMs: number },
  ) => void;
  readonly clock?: Clock;
}

/** What `/certs` and `/healthz` show; times are milliseconds since the epoch. No key, no PEM. */
export interface KeeperState {
  readonly source: string;
  readonly identity: string | null;
  readonly serial: string | null;
  readonly notBefore: number | null;
  readonly notAfter: number | null;
  readonly expired: boolean;
  /** Failed attempts since the last success, and the last one's words; 0 and null while all is well. */
  readonly failures: number;
  readonly lastError: string | null;
  /** When the next attempt is due; null while one runs, and for a watched source that has what it needs. */
  readonly nextAttempt: number | null;
}

export const keeperLimits = {
  /** Backoff: full jitter below a ceiling that doubles from `retryFirstMs` to `retryMostMs`. */
  retryFirstMs: 200,
  retryMostMs: 30_000,
  /** Full jitter may draw nearly nothing; this keeps a failing source from being asked in a tight loop. */
  retryLeastMs: 20,
  /** A certificate of which little is left is not asked for more often than this. */
  renewLeastMs: 250,
  /** Sources have their own deadline; this one is for a source that forgets it. */
  attemptMs: 30_000,
  /**
   * No timer sleeps longer: setTimeout wraps at 2^31 ms, and one long timer would sleep through a suspended
   * machine's lost hours. Each wake looks at the wall clock as well as at the time slept.
   */
  longestSleepMs: 60_000,
} as const;

/** Delay before renewing: half of what is left, ± 10 %, so that sidecars started together drift apart. */
export function renewalDelay(leftMs: number, random: number): number {
  return Math.max(keeperLimits.renewLeastMs, (leftMs / 2) * (0.9 + 0.2 * random));
}

/** Delay before attempt `failures` + 1: exponential backoff with full jitter. */
export function retryDelay(failures: number, random: number): number {
  const ceiling = Math.min(keeperLimits.retryMostMs, keeperLimits.retryFirstMs * 2 ** (failures - 1));
  return Math.max(keeperLimits.retryLeastMs, ceiling * random);
}

/**
 * Obtains from `start()` on until `stop()`. The clock decides when to renew a CA's answer; a watched source
 * decides itself. An identity once held is never exchanged for another: such a set is a failed attempt.
 */
export class CredentialKeeper {
  readonly #options: KeeperOptions;
  readonly #clock: Clock;
  #current: Credentials | null = null;
  #failures = 0;
  #lastError: string | null = null;
  #nextAttempt: number | null = null;
  #cancelSleep: (() => void) | null = null;
  #unwatch: (() => void) | null = null;
  #running: AbortController | null = null;
  /** The watched source called back while an attempt ran: what that one read may be old. */
  #changed = false;
  #stopped = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** The set in force; also an expired one, see `expired`. Null before the first. */
  get current(): Credentials | null {
    return this.#current;
  }

  /** True where there is a set and its time is over. */
  get expired(): boolean {
    return this.#current !== null && this.#clock.now() >= this.#current.notAfter;
  }

  get state(): KeeperState {
    const current = this.#current;
    return {
      source: this.#options.source.origin,
      identity: current?.identity.uri ?? null,
      serial: current?.serial ?? null,
      notBefore: current?.notBefore ?? null,
      notAfter: current?.notAfter ?? null,
      expired: this.expired,
      failures: this.#failures,
      lastError: this.#lastError,
      nextAttempt: this.#nextAttempt,
    };
  }

  /** Begins; the first answer comes to `onCredentials`. To be called once. */
  start(): void {
    this.#unwatch = this.#options.source.watch?.(() => this.#sourceChanged()) ?? null;
    void this.#attempt();
  }

  /** Ends all timers, watching and the attempt under way. `current` stays. */
  stop(): void {
    this.#stopped = true;
    this.#unwatch?.();
    this.#cancelSleep?.();
    this.#running?.abort();
    this.#nextAttempt = null;
  }

  #sourceChanged(): void {
    if (this.#running !== null) this.#changed = true;
    else void this.#attempt();
  }

  async #attempt(): Promise<void> {
    if (this.#stopped || this.#running !== null) return;
    this.#cancelSleep?.();
    this.#nextAttempt = null;
    this.#changed = false;
    const running = new AbortController();
    this.#running = running;
    let failure: Error | null = null;
    try {
      const credentials = await this.#obtainInTime(running);
      if (!this.#stopped) this.#take(credentials);
    } catch (error) {
      failure = error instanceof Error ? error : new CredentialsError(String(error));
    }
    this.#running = null;
    if (this.#stopped) return;
    if (failure === null) this.#succeeded();
    else this.#failed(failure);
  }

  #obtainInTime(running: AbortController): Promise<Credentials> {
    const { source } = this.#options;
    return new Promise((resolve, reject) => {
      const cancel = this.#clock.setTimeout(() => {
        reject(
          new CredentialsError(`${source.origin} gave no answer within ${keeperLimits.attemptMs / 1000} s`),
        );
        running.abort();
      }, keeperLimits.attemptMs);
      source.obtain(running.signal).then(resolve, reject).finally(cancel);
    });
  }

  #take(credentials: Credentials): void {
    const current = this.#current;
    if (current !== null && current.identity.uri !== credentials.identity.uri) {
      throw new CredentialsError(
        `${credentials.origin} offers the identity ${credentials.identity.uri}, but this sidecar is ` +
          `${current.identity.uri}; restart it if it is to become another`,
      );
    }
    if (current !== null && sameSet(current, credentials)) return;
    this.#options.onCredentials(credentials);
    this.#current = credentials;
  }

  #succeeded(): void {
    this.#failures = 0;
    this.#lastError = null;
    if (this.#changed) void this.#attempt();
    else if (this.#options.source.watch === undefined && this.#current !== null) {
      this.#attemptAfter(renewalDelay(this.#current.notAfter - this.#clock.now(), this.#clock.random()));
    }
  }

  #failed(error: Error): void {
    this.#failures++;
    this.#lastError = error.message;
    const delay = this.#changed ? 0 : retryDelay(this.#failures, this.#clock.random());
    this.#attemptAfter(delay);
    this.#options.onFailure(error, { attempt: this.#failures, nextRetryMs: Math.round(delay) });
  }

  #attemptAfter(delay: number): void {
    this.#nextAttempt = this.#clock.now() + delay;
    this.#sleep(delay);
  }

  #sleep(left: number): void {
    const nap = Math.min(left, keeperLimits.longestSleepMs);
    this.#cancelSleep = this.#clock.setTimeout(() => {
      const due = left - nap <= 0 || this.#clock.now() >= (this.#nextAttempt ?? 0);
      if (due) void this.#attempt();
      else this.#sleep(left - nap);
    }, nap);
  }
}

function sameSet(a: Credentials, b: Credentials): boolean {
  return a.chainPem === b.chainPem && a.keyPem === b.keyPem && a.rootsPem.join('') === b.rootsPem.join('');
}
