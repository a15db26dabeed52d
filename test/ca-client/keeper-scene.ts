/** A keeper on a fake clock and a source that answers from a script, with all that was said. */
import { CredentialKeeper, type FailedAttempt } from '../../ca-client/keeper.ts';
import type { CredentialSource } from '../../ca-client/source.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { type Identity, identityOf } from '../../mesh/identity.ts';
import { FakeClock } from './fake-clock.ts';

export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;
const orders = identityOf('cluster.local', 'shop', 'orders');

export type Answer = Credentials | Error | 'hang' | Promise<Credentials>;

export interface SceneOptions {
  readonly watched?: boolean;
  /** What the clock answers for chance, the keeper's pace included. */
  readonly chance?: number;
  /** Chance from this seed instead. */
  readonly seed?: number;
  readonly rehearse?: (credentials: Credentials, signal: AbortSignal) => Promise<void>;
}

export type Scene = ReturnType<typeof keeping>;

/** @param answer called for each attempt, which count from 1 */
export function keeping(answer: (clock: FakeClock, attempt: number) => Answer, options: SceneOptions = {}) {
  const { watched = false, chance = 0.5, seed = null, rehearse } = options;
  const clock = new FakeClock(seed);
  clock.chance = chance;
  /** Of each attempt, by the clock that is never set. */
  const attempts: number[] = [];
  const taken: string[] = [];
  const failures: (FailedAttempt & { message: string })[] = [];
  const alarms: string[] = [];
  let watcher: (() => void) | null = null;
  let aborted = 0;
  let refusal: Error | null = null;
  const source: CredentialSource = {
    origin: 'ca 127.0.0.1:15012',
    async obtain(signal) {
      attempts.push(clock.tick());
      signal.addEventListener('abort', () => aborted++);
      const result = answer(clock, attempts.length);
      if (result === 'hang') return new Promise(() => {});
      if (result instanceof Error) throw result;
      return result;
    },
    ...(watched && {
      watch: (onChange: () => void) => {
        watcher = onChange;
        return () => {
          watcher = null;
        };
      },
    }),
  };
  const keeper = new CredentialKeeper({
    source,
    clock,
    ...(rehearse && { rehearse }),
    onCredentials: ({ serial }) => {
      if (refusal !== null) throw refusal;
      taken.push(serial);
    },
    onFailure: (error, next) => failures.push({ message: error.message, ...next }),
    onAlarm: (kind, raised) => alarms.push(`${raised ? 'up' : 'over'} ${kind}`),
  });
  return {
    clock,
    attempts,
    taken,
    failures,
    /** `up KIND` and `over KIND`, in order. */
    alarms,
    keeper,
    change: () => watcher?.(),
    isWatched: () => watcher !== null,
    aborts: () => aborted,
    refuseWith: (error: Error | null) => {
      refusal = error;
    },
  };
}

export interface SetWish {
  /** Valid so long from now, default a day. */
  readonly lifeMs?: number;
  /** Valid from so long before now, default a minute; negative: not yet valid. */
  readonly backdatedMs?: number;
  readonly who?: Identity;
  readonly clockSkewMs?: number;
}

/** A set as a source answers it; nobody here reads its PEM. */
export function set(clock: FakeClock, serial: string, wish: SetWish = {}): Credentials {
  const { lifeMs = DAY, backdatedMs = MINUTE, who = orders, clockSkewMs = null } = wish;
  return {
    identity: who,
    chainPem: `chain ${serial}`,
    keyPem: `key ${serial}`,
    rootsPem: ['root'],
    federated: [],
    clockSkewMs,
    notBefore: clock.now() - backdatedMs,
    notAfter: clock.now() + lifeMs,
    serial,
    origin: 'ca 127.0.0.1:15012',
  };
}
