/** The keeper's schedule on a clock of its own: renewal at half life, backoff, and the old set kept meanwhile. */
import t from 'tap';
import {
  attemptTime,
  keeperLimits,
  politeDelay,
  renewalShare,
  retryDelay,
} from '../../ca-client/schedule.ts';
import { CredentialsError } from '../../ca-client/source.ts';
import { identityOf } from '../../mesh/identity.ts';
import { DAY, HOUR, keeping, MINUTE, set } from './keeper-scene.ts';

t.test('renews at half life, a tenth of the life more or less, at a pace of its own', async (t) => {
  t.equal(renewalShare(0), 0.4);
  t.equal(renewalShare(0.5), 0.5);
  t.ok(renewalShare(0.999999) < 0.6);
  for (const chance of [0, 0.5, 0.999]) {
    const run = keeping((clock, attempt) => set(clock, `${attempt}`), { chance });
    run.keeper.start();
    await run.clock.advance(2 * DAY);
    t.ok(run.attempts.length >= 4);
    for (const [i, at] of run.attempts.slice(1).entries()) {
      const gap = at - (run.attempts[i] ?? 0);
      t.ok(Math.abs(gap - renewalShare(chance) * DAY) < 2, `after ${gap} ms`);
    }
    t.equal(run.taken.length, run.attempts.length);
    t.equal(run.keeper.state.rotations, run.taken.length);
    t.ok(run.clock.longestTimer <= keeperLimits.longestNapMs);
    run.keeper.stop();
    t.equal(run.clock.timers, 0);
  }
});

t.test('of a chain that ends before its leaf, half of the shortest counts', async (t) => {
  // what notBefore and notAfter are of a set: see checkCredentials
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, { lifeMs: HOUR, backdatedMs: 300 * DAY }));
  run.keeper.start();
  await run.clock.advance(31 * MINUTE);
  t.equal(run.attempts.length, 2);
  run.keeper.stop();
});

t.test('a life of years fits no timer, and is slept through in pieces', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, { lifeMs: 200 * DAY }));
  run.keeper.start();
  await run.clock.advance(99 * DAY);
  t.equal(run.attempts.length, 1);
  await run.clock.advance(2 * DAY);
  t.equal(run.attempts.length, 2);
  t.ok(run.clock.longestTimer < 2 ** 31);
  run.keeper.stop();
});

t.test('backs off with full jitter below a doubling ceiling', async (t) => {
  t.equal(retryDelay(1, 0, 1), 200);
  t.equal(retryDelay(2, 0, 1), 400);
  t.equal(retryDelay(8, 0, 1), 25_600);
  t.equal(retryDelay(9, 0, 1), 30_000, 'half a minute at most where nothing valid is in force');
  t.equal(retryDelay(5_000, 0, 1), 30_000);
  t.equal(retryDelay(9, 0, 0.25), 7_500);
  t.equal(retryDelay(9, 0, 0), keeperLimits.retryLeastMs, 'never a tight loop');
  t.equal(retryDelay(50, 2 * HOUR, 1), 12 * MINUTE, 'a tenth of what is left');
  t.equal(retryDelay(50, 30 * DAY, 1), HOUR, 'but an hour at most');
  t.equal(retryDelay(50, 2_000, 1), 1_000);
  const run = keeping(() => new Error('no CA'), { chance: 0.999 });
  run.keeper.start();
  await run.clock.advance(10 * MINUTE);
  t.same(run.failures.slice(0, 3), [
    { attempt: 1, nextRetryMs: 200, kind: 'unobtained', message: 'no CA' },
    { attempt: 2, nextRetryMs: 400, kind: 'unobtained', message: 'no CA' },
    { attempt: 3, nextRetryMs: 799, kind: 'unobtained', message: 'no CA' },
  ]);
  const { length } = run.attempts;
  t.ok(length > 20 && length < 40, `${length} attempts in ten minutes`);
  t.match(run.keeper.state, {
    source: 'ca 127.0.0.1:15012',
    phase: 'waiting',
    waitingFor: 'credentials of ca 127.0.0.1:15012: no CA',
    serial: null,
    lastError: 'no CA',
    expired: false,
  });
  t.equal(run.keeper.current, null);
  run.keeper.stop();
  t.equal(run.clock.timers, 0);
});

t.test('keeps the old set while the CA fails, to its end and past it, then takes the new one', async (t) => {
  let down = false;
  const run = keeping((clock, attempt) => (down ? new Error('401') : set(clock, `${attempt}`)), { seed: 1 });
  run.keeper.start();
  await run.clock.advance(1_000);
  t.match(run.keeper.state, { phase: 'valid', waitingFor: null, failures: 0 });
  down = true;
  await run.clock.advance(20 * HOUR);
  t.equal(run.keeper.current?.serial, '1');
  t.match(run.keeper.state, { phase: 'failing', lastError: '401', serial: '1', expired: false });
  const before = run.attempts.length;
  t.ok(before > 10, `${before} attempts`);
  await run.clock.advance(3.9 * HOUR);
  t.ok(run.attempts.length - before > 50, `more as the end comes near: ${run.attempts.length - before}`);
  await run.clock.advance(2 * DAY);
  t.match(run.keeper.state, { phase: 'expired', expired: true, serial: '1' });
  down = false;
  await run.clock.advance(keeperLimits.retryMostMs);
  t.equal(run.taken.length, 2, 'asked at least twice a minute after the end');
  t.match(run.keeper.state, { phase: 'valid', failures: 0, lastError: null, expired: false });
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

t.test('an attempt that hangs leaves time for another, however short the life', async (t) => {
  t.equal(attemptTime(0), 30_000, 'nothing is in force: nothing to lose');
  t.equal(attemptTime(HOUR), 30_000);
  t.equal(attemptTime(20_000), 10_000);
  t.equal(attemptTime(1_000), 3_000, 'a slow CA needs some time, too');
  const run = keeping(
    (clock, attempt) => (attempt % 2 === 0 ? 'hang' : set(clock, `${attempt}`, { lifeMs: 20_000 })),
    { seed: 7 },
  );
  run.keeper.start();
  for (let second = 0; second < 600; second++) {
    await run.clock.advance(1_000);
    if (run.keeper.expired) t.fail(`expired after ${second} s`);
  }
  t.ok(run.taken.length > 30, `${run.taken.length} sets`);
  run.keeper.stop();
});

t.test('another identity is refused', async (t) => {
  const who = identityOf('cluster.local', 'shop', 'payments');
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, attempt === 2 ? { who } : {}));
  run.keeper.start();
  await run.clock.advance(0.51 * DAY);
  t.same(run.taken, ['1', '3']);
  t.match(run.failures, [{ message: /identity .*payments, but this sidecar is .*orders/, kind: 'refused' }]);
  run.keeper.stop();
});

t.test('a watched source decides itself', async (t) => {
  let serial = 'a';
  const run = keeping((clock) => ({ ...set(clock, serial), notAfter: 1_900_000_000_000 }), { watched: true });
  run.keeper.start();
  await run.clock.advance(10 * DAY);
  t.equal(run.attempts.length, 1, 'the clock renews nothing');
  run.change();
  await run.clock.advance(1);
  t.same(run.taken, ['a'], 'the same set again is none');
  serial = 'b';
  run.change();
  run.change();
  await run.clock.advance(100);
  t.same(run.taken, ['a', 'b']);
  t.equal(run.attempts.length, 4, 'a change during an attempt leads to another');
  run.keeper.stop();
  t.equal(run.isWatched(), false);
});

t.test(
  'a watched source that is silent is asked when a fifth of the life is left, and on to the end',
  async (t) => {
    let offered = 'old';
    const made = keeping(() => held, { watched: true, seed: 3 });
    const old = set(made.clock, 'old', { lifeMs: DAY, backdatedMs: 0 });
    let held: ReturnType<typeof set> | Error = old;
    made.keeper.start();
    await made.clock.advance(0.79 * DAY);
    t.equal(made.attempts.length, 1);
    await made.clock.advance(0.02 * DAY);
    t.ok(made.attempts.length >= 2);
    await made.clock.advance(0.18 * DAY);
    t.ok(made.attempts.length < 25, `no storm: ${made.attempts.length} attempts`);
    held = new Error('the certificate expired');
    await made.clock.advance(0.1 * DAY);
    t.match(made.keeper.state, { phase: 'expired', lastError: 'the certificate expired' });
    offered = 'new';
    held = set(made.clock, offered);
    await made.clock.advance(keeperLimits.retryMostMs);
    t.same(made.taken, ['old', 'new']);
    made.keeper.stop();
  },
);

t.test(
  'a CA whose own certificate runs out cannot give more: it is asked, not pestered, and told of',
  async (t) => {
    let count = 0;
    const run = keeping((clock) => ({ ...set(clock, `${++count}`), notAfter: 1_800_000_000_000 + HOUR }), {
      seed: 5,
    });
    run.keeper.start();
    await run.clock.advance(0.79 * HOUR);
    t.same(run.alarms, []);
    await run.clock.advance(0.02 * HOUR);
    t.same(run.alarms, ['up expiring'], 'a fifth is left, however new the last set is');
    await run.clock.advance(0.19 * HOUR);
    const { length } = run.attempts;
    t.ok(length > 5 && length < 60, `${length} attempts in its last hour`);
    run.keeper.stop();
  },
);

t.test('a CA that begins to give less gives enough', async (t) => {
  const run = keeping((clock, attempt) => set(clock, `${attempt}`, { lifeMs: attempt < 3 ? DAY : HOUR }), {
    seed: 6,
  });
  run.keeper.start();
  await run.clock.advance(3 * DAY);
  t.same(run.alarms, []);
  t.ok(run.attempts.length > 70 && run.attempts.length < 120, `${run.attempts.length} attempts`);
  run.keeper.stop();
});

t.test('a CA that asks to be left alone is, but not until the certificate expires', async (t) => {
  t.equal(politeDelay(60_000, DAY, 0), 60_000);
  t.equal(politeDelay(60_000, DAY, 1), 90_000, 'those sent away together do not come back together');
  t.equal(politeDelay(DAY, 8 * HOUR, 1), 2 * HOUR, 'a quarter of what is left at most');
  t.equal(politeDelay(DAY, 0, 1), keeperLimits.retryAfterMostMs, 'minutes where nothing valid is in force');
  t.ok(politeDelay(DAY, 0, 0) < keeperLimits.retryAfterMostMs, 'spread there as well');
  let busy = false;
  const run = keeping(
    (clock, attempt) =>
      busy ? new CredentialsError('busy', { retryAfterMs: 10 * MINUTE }) : set(clock, `${attempt}`),
    { seed: 11 },
  );
  run.keeper.start();
  await run.clock.advance(1_000);
  busy = true;
  await run.clock.advance(20 * HOUR);
  const waits = run.failures.map(({ nextRetryMs }) => nextRetryMs);
  t.ok(waits.length > 0);
  t.ok(Math.min(...waits) >= 10 * MINUTE, `${waits}`);
  await run.clock.advance(4 * HOUR);
  t.ok(run.failures.length > 40, `${run.failures.length} attempts until the end all the same`);
  run.keeper.stop();
});

t.test('a watched source that has something new is asked at once, whatever it said before', async (t) => {
  const run = keeping(
    (clock, attempt) =>
      attempt === 1 ? new CredentialsError('no', { retryAfterMs: 5 * MINUTE }) : set(clock, 'new'),
    { watched: true },
  );
  run.keeper.start();
  await run.clock.advance(MINUTE);
  t.equal(run.attempts.length, 1);
  run.change();
  await run.clock.advance(1);
  t.same(run.taken, ['new']);
  run.keeper.stop();
});

t.test(
  'a watched source is near: where it fails it is asked twice a minute, however much is left',
  async (t) => {
    const run = keeping((clock, attempt) => (attempt === 1 ? set(clock, '1') : new Error('no agent')), {
      watched: true,
      seed: 12,
    });
    run.keeper.start();
    await run.clock.advance(HOUR);
    run.change();
    await run.clock.advance(3 * HOUR);
    t.ok(Math.max(...run.failures.map(({ nextRetryMs }) => nextRetryMs)) <= keeperLimits.retryMostMs);
    run.keeper.stop();
  },
);

t.test('the same certificate with other bundles is a new set', async (t) => {
  const made = keeping(() => held, { watched: true });
  let held = set(made.clock, 'same');
  made.keeper.start();
  await made.clock.advance(1);
  held = { ...held, federated: [{ trustDomain: 'td2', rootsPem: ['another root'] }] };
  made.change();
  await made.clock.advance(1);
  t.same(made.taken, ['same', 'same']);
  t.equal(made.keeper.current, held);
  held = { ...held };
  made.change();
  await made.clock.advance(1);
  t.equal(made.taken.length, 2);
  made.keeper.stop();
});

t.test('stop ends an attempt under way, and its answer counts no more', async (t) => {
  const run = keeping((clock) => set(clock, 'late'));
  run.keeper.start();
  run.keeper.stop();
  await run.clock.advance(DAY);
  t.same(run.taken, []);
  t.equal(run.aborts(), 1);
});
