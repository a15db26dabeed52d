/** Sets that cannot be used, and alarms: told once when they rise and once when they are over. */
import t from 'tap';
import { keeperLimits } from '../../ca-client/schedule.ts';
import { RefusedSet } from '../../ca-client/source.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { DAY, HOUR, keeping, MINUTE, set } from './keeper-scene.ts';

const HALF = 0.5 * DAY + 1_000;

t.test('a set that fails its rehearsal leaves the old one in force, and is told of', async (t) => {
  let bad = false;
  const rehearsed: string[] = [];
  const run = keeping((clock, attempt) => set(clock, `${attempt}`), {
    rehearse: async ({ serial }) => {
      rehearsed.push(serial);
      if (bad) throw new Error('the handshake failed: unsuitable certificate purpose');
    },
  });
  run.keeper.start();
  await run.clock.advance(1_000);
  t.same([run.taken, rehearsed], [['1'], ['1']], 'the first is rehearsed as well');
  bad = true;
  await run.clock.advance(HALF);
  t.same(run.taken, ['1']);
  t.equal(run.keeper.current?.serial, '1');
  t.match(run.failures[0], {
    kind: 'refused',
    message:
      'certificate 2 of ca 127.0.0.1:15012 cannot be used: the handshake failed: unsuitable certificate purpose',
  });
  t.equal(run.alarms[0], 'up set_refused', 'at once');
  t.match(run.keeper.state, {
    phase: 'failing',
    serial: '1',
    alarms: [{ kind: 'set_refused', message: /purpose/ }],
  });
  t.ok(run.attempts.length > 3, 'others are asked for');
  bad = false;
  await run.clock.advance(HOUR);
  t.equal(run.taken.length, 2);
  t.match(run.keeper.state, { phase: 'valid', alarms: [], rotations: 2 });
  t.equal(run.alarms.filter((line) => line === 'over set_refused').length, 1);
  t.equal(run.alarms.filter((line) => line === 'up set_refused').length, 1);
  run.keeper.stop();
});

t.test('a set whose user throws counts as refused', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`));
  run.keeper.start();
  await run.clock.advance(1_000);
  run.refuseWith(new Error('OpenSSL will not have it'));
  await run.clock.advance(HALF);
  t.equal(run.keeper.current?.serial, '1');
  t.match(run.keeper.state.lastError, /OpenSSL/);
  t.equal(run.failures[0]?.kind, 'refused');
  run.refuseWith(null);
  await run.clock.advance(HOUR);
  t.not(run.keeper.current?.serial, '1');
  run.keeper.stop();
});

t.test('a rehearsal that never ends is ended', async (t) => {
  let aborted = 0;
  const run = keeping((clock, attempt) => set(clock, `${attempt}`), {
    rehearse: (_credentials, signal) => {
      signal.addEventListener('abort', () => aborted++);
      return run.attempts.length === 1 ? new Promise(() => {}) : Promise.resolve();
    },
  });
  run.keeper.start();
  await run.clock.advance(keeperLimits.rehearseMs + 1_000);
  t.equal(aborted, 1);
  t.match(run.failures, [{ kind: 'refused', message: /a handshake with itself gave no answer within 10 s/ }]);
  t.same(run.taken, ['2']);
  run.keeper.stop();
});

t.test('stop ends a rehearsal, and what it was for never comes in force', async (t) => {
  let aborted = 0;
  let pass = () => {};
  const run = keeping((clock, attempt) => set(clock, `${attempt}`), {
    rehearse: (_credentials, signal) => {
      signal.addEventListener('abort', () => aborted++);
      return new Promise((resolve) => {
        pass = resolve;
      });
    },
  });
  run.keeper.start();
  await run.clock.advance(10);
  run.keeper.stop();
  pass();
  await run.clock.advance(1_000);
  t.same([aborted, run.taken], [1, []]);
});

t.test(
  'what comes while a set is rehearsed is fetched after it: the newest is in force in the end',
  async (t) => {
    let serial = 'a';
    const passes: (() => void)[] = [];
    const run = keeping((clock) => set(clock, serial), {
      watched: true,
      rehearse: () =>
        new Promise((resolve) => {
          passes.push(resolve);
        }),
    });
    run.keeper.start();
    await run.clock.advance(10);
    for (const newer of ['b', 'c']) {
      serial = newer;
      run.change();
      await run.clock.advance(10);
    }
    t.same([run.attempts.length, passes.length], [1, 1], 'one thing at a time');
    passes[0]?.();
    await run.clock.advance(100);
    t.equal(passes.length, 2);
    passes[1]?.();
    await run.clock.advance(100);
    t.same(run.taken, ['a', 'c']);
    t.equal(run.keeper.current?.serial, 'c');
    run.keeper.stop();
  },
);

t.test('a CA that is away for a moment is no alarm, one that stays away is', async (t) => {
  let down = false;
  const run = keeping((clock, attempt) => (down ? new Error('no CA') : set(clock, `${attempt}`)), {
    seed: 2,
  });
  run.keeper.start();
  await run.clock.advance(1_000);
  const renewal = () => run.clock.advance((run.keeper.state.nextAttempt ?? 0) - run.clock.now() - 1);
  await renewal();
  down = true;
  await run.clock.advance(20_000);
  down = false;
  await run.clock.advance(10 * MINUTE);
  t.ok(run.failures.length >= 3, `${run.failures.length} failures in 20 s`);
  t.equal(run.taken.length, 2);
  t.same(run.alarms, []);
  await renewal();
  down = true;
  await run.clock.advance(HOUR);
  t.same(run.alarms, ['up renewal_failing']);
  const [alarm] = run.keeper.state.alarms;
  t.match(alarm?.message, /^no new credentials in \d+ attempts: no CA$/);
  t.ok(run.clock.now() - (alarm?.since ?? 0) > 0.9 * HOUR, 'it keeps the time it rose at');
  down = false;
  await run.clock.advance(2 * HOUR);
  t.same(run.alarms, ['up renewal_failing', 'over renewal_failing']);
  t.same(run.keeper.state.alarms, []);
  run.keeper.stop();
});

t.test('short lives leave less time for patience', async (t) => {
  const run = keeping((clock, attempt) =>
    attempt === 1 ? set(clock, '1', { lifeMs: 10_000 }) : new Error('no CA'),
  );
  run.keeper.start();
  await run.clock.advance(7_500);
  t.same(run.alarms, ['up renewal_failing']);
  run.keeper.stop();
});

t.test('a set that comes near its end is told of, also while an attempt hangs', async (t) => {
  const run = keeping((clock, attempt) => (attempt === 1 ? set(clock, '1', { lifeMs: 20_000 }) : 'hang'));
  run.keeper.start();
  await run.clock.advance(12_000);
  t.equal(run.keeper.state.phase, 'renewing');
  await run.clock.advance(3_900);
  t.equal(run.alarms.includes('up expiring'), false);
  await run.clock.advance(200);
  t.ok(run.alarms.includes('up expiring'));
  t.match(run.keeper.state.alarms[0]?.message, /^certificate 1 will expire at 2027-/);
  await run.clock.advance(10_000);
  t.match(
    run.keeper.state.alarms.find(({ kind }) => kind === 'expiring')?.message,
    /^certificate 1 expired at/,
  );
  t.equal(run.alarms.filter((line) => line === 'up expiring').length, 1);
  run.keeper.stop();
});

t.test('a set that is renewed in time is never told of', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`), { seed: 4 });
  run.keeper.start();
  await run.clock.advance(20 * DAY);
  t.same(run.alarms, []);
  t.match(run.keeper.state, { phase: 'valid', failures: 0, rotations: run.taken.length });
  run.keeper.stop();
});

t.test('clocks apart: the alarm rises over 30 s and is over under 25 s, either way', async (t) => {
  const skews = [0, 29_000, 31_000, 27_000, 24_000, -31_000, -20_000];
  const seen: string[] = [];
  const run = keeping((clock, attempt) => {
    const clockSkewMs = skews[attempt - 1] ?? 0;
    return set(clock, `${attempt}`, { clockSkewMs });
  });
  run.keeper.start();
  t.equal(run.keeper.state.clockSkewMs, null, 'not known before the first answer');
  await run.clock.advance(1);
  for (const skew of skews) {
    t.equal(run.keeper.state.clockSkewMs, skew);
    seen.push(run.keeper.state.alarms.map(({ message }) => message).join());
    await run.clock.advance(0.5 * DAY + 2);
  }
  t.match(seen, ['', '', /31 s ahead of that of ca 127/, /27 s ahead/, '', /31 s behind that of/, '']);
  t.same(run.alarms, ['up clock_skew', 'over clock_skew', 'up clock_skew', 'over clock_skew']);
  run.keeper.stop();
});

t.test('the skew is told of a set that is refused, too', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, { clockSkewMs: -90_000 }), {
    rehearse: async (_credentials: Credentials) => {
      throw new Error('not yet valid');
    },
  });
  run.keeper.start();
  await run.clock.advance(1_000);
  t.match(run.keeper.state, { clockSkewMs: -90_000, phase: 'waiting' });
  t.same(run.alarms.slice(0, 2), ['up clock_skew', 'up set_refused']);
  run.keeper.stop();
});

t.test('a source that refuses what its CA answered may tell the skew as well', async (t) => {
  const run = keeping(() => new RefusedSet('not valid before tomorrow', { clockSkewMs: -DAY }));
  run.keeper.start();
  await run.clock.advance(1_000);
  t.equal(run.keeper.state.clockSkewMs, -DAY);
  t.same(run.alarms.toSorted(), ['up clock_skew', 'up set_refused']);
  t.equal(run.failures[0]?.kind, 'refused');
  run.keeper.stop();
});
