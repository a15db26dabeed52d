/** The keeper's schedule on a clock of its own: renewal at half life, backoff, and the old set kept meanwhile. */
import t from 'tap';
import { CredentialKeeper, keeperLimits, renewalDelay, retryDelay } from '../../ca-client/keeper.ts';
import type { CredentialSource } from '../../ca-client/source.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { identityOf } from '../../mesh/identity.ts';
import { FakeClock } from './helper.ts';

const DAY = 86_400_000;
const identity = identityOf('cluster.local', 'shop', 'orders');

/** A source that answers from a script, and a keeper on it with all it said. */
function keeping(
  answer: (clock: FakeClock, attempt: number) => Credentials | Error | 'hang',
  watched = false,
) {
  const clock = new FakeClock();
  const attempts: number[] = [];
  const taken: string[] = [];
  const failures: { message: string; attempt: number; nextRetryMs: number }[] = [];
  let changed = () => {};
  let aborted = 0;
  let refuse: Error | null = null;
  const source: CredentialSource = {
    origin: 'ca 127.0.0.1:15012',
    obtain(signal) {
      attempts.push(clock.time);
      signal.addEventListener('abort', () => aborted++);
      const result = answer(clock, attempts.length);
      if (result === 'hang') return new Promise(() => {});
      return result instanceof Error ? Promise.reject(result) : Promise.resolve(result);
    },
    ...(watched && {
      watch: (onChange: () => void) => {
        changed = onChange;
        return () => {
          changed = () => t.fail('called after stop');
        };
      },
    }),
  };
  const keeper = new CredentialKeeper({
    source,
    clock,
    onCredentials: (credentials) => {
      if (refuse !== null) throw refuse;
      taken.push(credentials.serial);
    },
    onFailure: (error, next) => failures.push({ message: error.message, ...next }),
  });
  return {
    clock,
    attempts,
    taken,
    failures,
    keeper,
    change: () => changed(),
    aborts: () => aborted,
    refuseWith: (error: Error | null) => {
      refuse = error;
    },
  };
}

function set(clock: FakeClock, serial: string, lifeMs = DAY, who = identity): Credentials {
  return {
    identity: who,
    chainPem: `chain ${serial}`,
    keyPem: `key ${serial}`,
    rootsPem: ['root'],
    federated: [],
    clockSkewMs: null,
    notBefore: clock.time - 60_000,
    notAfter: clock.time + lifeMs,
    serial,
    origin: 'ca 127.0.0.1:15012',
  };
}

t.test('renews at half life, 10 % more or less', async (t) => {
  t.equal(renewalDelay(DAY, 0), 0.45 * DAY);
  t.equal(renewalDelay(DAY, 0.5), 0.5 * DAY);
  t.ok(renewalDelay(DAY, 0.999999) <= 0.55 * DAY);
  t.equal(renewalDelay(-5, 0.5), keeperLimits.renewLeastMs, 'never at once, even if nothing is left');
  for (const chance of [0, 0.5, 0.999]) {
    const run = keeping((clock, attempt) => set(clock, `${attempt}`));
    run.clock.chance = chance;
    run.keeper.start();
    await run.clock.advance(2 * DAY);
    const gap = (run.attempts[1] ?? 0) - (run.attempts[0] ?? 0);
    t.ok(Math.abs(gap - renewalDelay(DAY, chance)) < 1, `after ${gap} ms`);
    t.equal(run.taken.length, run.attempts.length);
    t.ok(run.clock.longestTimer <= 2 ** 31 - 1);
    run.keeper.stop();
    t.equal(run.clock.timers, 0);
  }
});

t.test('a life of years fits no timer, and is slept through in pieces', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, 200 * DAY));
  run.keeper.start();
  await run.clock.advance(99 * DAY);
  t.equal(run.attempts.length, 1);
  await run.clock.advance(2 * DAY);
  t.equal(run.attempts.length, 2);
  t.ok(run.clock.longestTimer < 2 ** 31);
  run.keeper.stop();
});

t.test('a machine that slept renews as soon as it wakes', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`));
  run.keeper.start();
  await run.clock.advance(1_000);
  // the wall clock jumps, no timer ran meanwhile
  run.clock.time += 20 * 3_600_000;
  await run.clock.advance(keeperLimits.longestSleepMs);
  t.equal(run.attempts.length, 2);
  run.keeper.stop();
});

t.test('backs off with full jitter below a doubling ceiling', async (t) => {
  t.equal(retryDelay(1, 1), 200);
  t.equal(retryDelay(2, 1), 400);
  t.equal(retryDelay(8, 1), 25_600);
  t.equal(retryDelay(9, 1), 30_000);
  t.equal(retryDelay(5_000, 1), 30_000);
  t.equal(retryDelay(9, 0.25), 7_500);
  t.equal(retryDelay(9, 0), keeperLimits.retryLeastMs, 'never a tight loop');
  const run = keeping(() => new Error('no CA'));
  run.clock.chance = 0.999;
  run.keeper.start();
  await run.clock.advance(10 * 60_000);
  t.same(
    run.failures.slice(0, 3).map(({ attempt, nextRetryMs }) => ({ attempt, nextRetryMs })),
    [
      { attempt: 1, nextRetryMs: 200 },
      { attempt: 2, nextRetryMs: 400 },
      { attempt: 3, nextRetryMs: 799 },
    ],
  );
  t.ok(
    run.attempts.length > 20 && run.attempts.length < 40,
    `${run.attempts.length} attempts in ten minutes`,
  );
  t.match(run.keeper.state, {
    source: 'ca 127.0.0.1:15012',
    serial: null,
    lastError: 'no CA',
    expired: false,
  });
  t.equal(run.keeper.current, null);
  run.keeper.stop();
  t.equal(run.clock.timers, 0);
});

t.test('keeps the old set while the CA fails, then takes the new one', async (t) => {
  let down = false;
  const run = keeping((clock, attempt) => (down ? new Error('401') : set(clock, `${attempt}`)));
  run.keeper.start();
  await run.clock.advance(1_000);
  down = true;
  await run.clock.advance(15 * 3_600_000);
  t.equal(run.keeper.current?.serial, '1');
  t.equal(run.keeper.expired, false);
  t.match(run.keeper.state, { lastError: '401', identity: identity.uri, serial: '1' });
  t.ok(run.keeper.state.failures > 10);
  await run.clock.advance(10 * 3_600_000);
  t.equal(run.keeper.expired, true, 'says so once its time is over');
  t.equal(run.keeper.current?.serial, '1');
  down = false;
  await run.clock.advance(60_000);
  t.equal(run.taken.length, 2);
  t.match(run.keeper.state, { failures: 0, lastError: null, expired: false });
  run.keeper.stop();
});

t.test('a source that never answers is given up on', async (t) => {
  const run = keeping((clock, attempt) => (attempt === 1 ? 'hang' : set(clock, `${attempt}`)));
  run.keeper.start();
  await run.clock.advance(keeperLimits.attemptMs + 1_000);
  t.equal(run.aborts(), 1);
  t.match(run.failures, [{ message: /no answer within 30 s/, attempt: 1 }]);
  t.same(run.taken, ['2']);
  run.keeper.stop();
});

t.test('another identity is refused', async (t) => {
  const other = identityOf('cluster.local', 'shop', 'payments');
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, DAY, attempt === 2 ? other : identity));
  run.keeper.start();
  await run.clock.advance(0.51 * DAY);
  t.same(run.taken, ['1', '3']);
  t.match(run.failures, [{ message: /identity .*payments, but this sidecar is .*orders/ }]);
  run.keeper.stop();
});

t.test('a set that its user refuses does not count', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`));
  run.keeper.start();
  await run.clock.advance(1_000);
  run.refuseWith(new Error('OpenSSL will not have it'));
  await run.clock.advance(0.51 * DAY);
  t.equal(run.keeper.current?.serial, '1');
  t.match(run.keeper.state.lastError, /OpenSSL/);
  run.refuseWith(null);
  await run.clock.advance(60_000);
  t.not(run.keeper.current?.serial, '1');
  run.keeper.stop();
});

t.test('a watched source decides itself', async (t) => {
  let serial = 'a';
  const run = keeping((clock) => ({ ...set(clock, serial), notAfter: 1_900_000_000_000 }), true);
  run.keeper.start();
  await run.clock.advance(10 * DAY);
  t.equal(run.attempts.length, 1, 'the clock renews nothing');
  t.equal(run.keeper.state.nextAttempt, null);
  run.change();
  await run.clock.advance(1);
  t.same(run.taken, ['a'], 'the same set again is none');
  serial = 'b';
  run.change();
  run.change();
  await run.clock.advance(1);
  t.same(run.taken, ['a', 'b']);
  t.equal(run.attempts.length, 4, 'a change during an attempt leads to another');
  run.keeper.stop();
});

t.test('stop ends an attempt under way, and its answer counts no more', async (t) => {
  const run = keeping((clock) => set(clock, 'late'));
  run.keeper.start();
  run.keeper.stop();
  await run.clock.advance(DAY);
  t.same(run.taken, []);
  t.equal(run.aborts(), 1);
});
