/** Clocks that are set, machines that sleep, and sets that begin tomorrow: no storm, and nothing runs out. */
import t from 'tap';
import { CredentialKeeper } from '../../ca-client/keeper.ts';
import { keeperLimits } from '../../ca-client/schedule.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { FakeClock } from './fake-clock.ts';
import { DAY, HOUR, keeping, MINUTE, type SceneOptions, set } from './keeper-scene.ts';

/** A CA whose own clock is right, on a machine whose clock is not. */
function fromTrueTime(clock: FakeClock, serial: string, wish: { lifeMs?: number } = {}): Credentials {
  const trueNow = 1_800_000_000_000 + clock.tick();
  const { lifeMs = DAY } = wish;
  return {
    ...set(clock, serial),
    notBefore: trueNow - MINUTE,
    notAfter: trueNow + lifeMs,
    clockSkewMs: clock.now() - trueNow,
  };
}

t.test('a step of an hour, forward or back, hurries nobody and delays nobody', async (t) => {
  for (const step of [-HOUR, HOUR]) {
    const clock = new FakeClock(21);
    const attempts: number[] = [];
    const keepers = Array.from({ length: 200 }, () => {
      const keeper = new CredentialKeeper({
        source: {
          origin: 'ca',
          async obtain() {
            attempts.push(clock.tick());
            return set(clock, `${attempts.length}`);
          },
        },
        clock,
        onCredentials: () => {},
        onFailure: (error) => t.fail(error.message),
      });
      keeper.start();
      return keeper;
    });
    // before the first of them is due, when some are within the hour of it, and when half of them have renewed
    for (const hours of [9, 3.5]) {
      await clock.advance(hours * HOUR);
      const before = attempts.length;
      clock.jump(step);
      await clock.advance(5 * MINUTE);
      t.ok(attempts.length - before < 15, `${attempts.length - before} of 200 asked within five minutes`);
    }
    await clock.advance(2 * HOUR);
    t.equal(attempts.length, 400, 'each has renewed once, at its time by the clock that is never set');
    t.ok(keepers.every((keeper) => !keeper.expired));
    for (const keeper of keepers) keeper.stop();
  }
});

t.test('a machine that slept renews within a minute of waking where much of the life is gone', async (t) => {
  for (const hours of [20, 23.9, 50]) {
    const run = keeping((clock, attempt) => set(clock, `${attempt}`));
    run.keeper.start();
    await run.clock.advance(1_000);
    run.clock.jump(hours * HOUR);
    await run.clock.advance(keeperLimits.longestNapMs);
    t.equal(run.attempts.length, 2, `after ${hours} h`);
    t.equal(run.keeper.expired, false);
    await run.clock.advance(11 * HOUR);
    t.equal(run.attempts.length, 2, 'once');
    run.keeper.stop();
  }
});

t.test('one that slept between two attempts does not wait as if it had not', async (t) => {
  let down = false;
  const run = keeping((clock, attempt) => (down ? new Error('away') : set(clock, `${attempt}`)), {
    chance: 0.999,
  });
  run.keeper.start();
  await run.clock.advance(1_000);
  down = true;
  await run.clock.advance(18 * HOUR);
  const wait = (run.keeper.state.nextAttempt ?? 0) - run.clock.now();
  t.ok(wait > 0);
  down = false;
  run.clock.jump(5 * HOUR);
  await run.clock.advance(keeperLimits.longestNapMs);
  t.equal(run.taken.length, 2, 'renewed at once, half an hour before the end');
  run.keeper.stop();
});

t.test('a clock set back by days makes no certificate younger', async (t) => {
  const run = keeping((clock, attempt) => (attempt === 1 ? set(clock, '1') : new Error('away')));
  run.keeper.start();
  await run.clock.advance(1_000);
  run.clock.jump(-3 * DAY);
  await run.clock.advance(0.51 * DAY);
  t.ok(run.attempts.length > 1, 'renewal begins at half life all the same');
  await run.clock.advance(0.3 * DAY);
  t.match(run.keeper.state.alarms, [{ kind: 'renewal_failing' }, { kind: 'expiring' }]);
  run.keeper.stop();
});

t.test(
  'a clock set forward past the end asks again and again, and calms down when it is put right',
  async (t) => {
    const run = keeping(
      (clock, attempt) => {
        const made = fromTrueTime(clock, `${attempt}`);
        return made.notAfter <= clock.now() ? new Error('it expired; check the clock') : made;
      },
      { seed: 9 },
    );
    run.keeper.start();
    await run.clock.advance(1_000);
    run.clock.jump(3 * DAY);
    await run.clock.advance(10 * MINUTE);
    t.match(run.keeper.state, { phase: 'expired', lastError: 'it expired; check the clock' });
    t.ok(run.attempts.length < 60, `${run.attempts.length} attempts in ten minutes`);
    run.clock.jump(-3 * DAY);
    await run.clock.advance(MINUTE);
    t.match(run.keeper.state, { phase: 'valid', failures: 0, alarms: [] });
    const calm = run.attempts.length;
    await run.clock.advance(9 * HOUR);
    t.equal(run.attempts.length, calm);
    run.keeper.stop();
  },
);

/** A keeper whose attempts from `from` on are answered with sets that begin in 40 s. */
function early(from: number, options: SceneOptions = {}) {
  return keeping(
    (clock, attempt) => set(clock, `${attempt}`, attempt < from ? {} : { backdatedMs: -40_000 }),
    options,
  );
}

t.test('a first set that is not yet valid is held, and in force when its time comes', async (t) => {
  const run = early(1);
  run.keeper.start();
  await run.clock.advance(39_900);
  t.equal(run.keeper.current, null);
  t.match(run.keeper.state, { phase: 'held', failures: 0, nextAttempt: null });
  t.match(run.keeper.state.waitingFor, /certificate 1 of ca 127.0.0.1:15012, not valid before 2027-/);
  await run.clock.advance(100);
  t.same(run.taken, ['1']);
  t.match(run.keeper.state, { phase: 'valid', waitingFor: null });
  t.equal(run.attempts.length, 1, 'asked for once');
  await run.clock.advance(0.55 * DAY);
  t.equal(run.attempts.length, 2, 'and renewed at half life');
  run.keeper.stop();
  t.equal(run.clock.timers, 0);
});

t.test('the old set stays until the held one is valid', async (t) => {
  const rehearsed: number[] = [];
  const run = early(2, {
    rehearse: async () => {
      rehearsed.push(run.clock.now());
    },
  });
  run.keeper.start();
  await run.clock.advance(0.5 * DAY + 20_000);
  t.match(run.keeper.state, { phase: 'held', serial: '1' });
  const { notBefore } = set(run.clock, '', { backdatedMs: -20_000 });
  await run.clock.advance(20_000);
  t.same(run.taken, ['1', '2']);
  t.ok((rehearsed[1] ?? 0) >= notBefore - 2, 'rehearsed when it is valid, not before');
  run.keeper.stop();
});

t.test('a clock that is put right makes a held set valid at once', async (t) => {
  const run = early(1);
  run.keeper.start();
  await run.clock.advance(5_000);
  run.clock.jump(36_000);
  await run.clock.advance(keeperLimits.heldNapMs);
  t.same(run.taken, ['1']);
  run.keeper.stop();
});

t.test('a clock set back while a set is held: the wait is bounded, and another is asked for', async (t) => {
  const run = keeping((clock, attempt) =>
    set(clock, `${attempt}`, attempt === 1 ? { backdatedMs: -40_000, lifeMs: 2 * DAY } : {}),
  );
  run.keeper.start();
  await run.clock.advance(1_000);
  run.clock.jump(-HOUR);
  await run.clock.advance(40_000 + keeperLimits.heldPatienceMs);
  t.match(run.failures, [{ kind: 'refused', message: /still not valid: the clock here was set back/ }]);
  t.same(run.taken, ['2']);
  run.keeper.stop();
});

t.test('of two held sets the newest comes in force, and the one before it never', async (t) => {
  const run = early(1, { watched: true });
  run.keeper.start();
  await run.clock.advance(20_000);
  run.change();
  await run.clock.advance(25_000);
  t.same(run.taken, [], 'the first would be valid by now');
  await run.clock.advance(16_000);
  t.same(run.taken, ['2']);
  run.keeper.stop();
});

t.test('a set that is valid at once makes one that is held superfluous', async (t) => {
  const run = keeping(
    (clock, attempt) => set(clock, `${attempt}`, attempt === 1 ? { backdatedMs: -40_000 } : {}),
    { watched: true },
  );
  run.keeper.start();
  await run.clock.advance(20_000);
  run.change();
  await run.clock.advance(MINUTE);
  t.same(run.taken, ['2']);
  t.match(run.keeper.state, { phase: 'valid', serial: '2' });
  run.keeper.stop();
});

t.test('told that the clock was set, it does not wait for its next look', async (t) => {
  let attempts = 0;
  const run = keeping((clock, attempt) => {
    attempts = attempt;
    return set(clock, `${attempt}`);
  });
  run.keeper.start();
  await run.clock.advance(1_000);
  run.clock.jump(2 * DAY);
  t.ok(run.keeper.expired);
  run.keeper.wake();
  await run.clock.advance(1);
  t.equal(attempts, 2, 'asked at once');
  t.notOk(run.keeper.expired);
  run.keeper.wake();
  await run.clock.advance(1);
  t.equal(attempts, 2, 'and not where nothing is due');
  run.keeper.stop();
  run.keeper.wake();
  await run.clock.advance(DAY);
  t.equal(attempts, 2, 'nor once it was stopped');
});
