/** A month of certificates of a day, with a CA that does everything wrong now and then: nothing ever runs out. */
import t from 'tap';
import { CredentialsError } from '../../ca-client/source.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { identityOf } from '../../mesh/identity.ts';
import type { FakeClock } from './fake-clock.ts';
import { type Answer, DAY, HOUR, keeping, MINUTE, set } from './keeper-scene.ts';

const payments = identityOf('cluster.local', 'shop', 'payments');

/** What a CA did wrong, as its client words it; the sets are those that only a rehearsal or the keeper finds out. */
const faults: Record<string, (clock: FakeClock, serial: string) => Answer> = {
  down: () => new CredentialsError('UNAVAILABLE: connection refused'),
  'a token out of date': () => new CredentialsError('UNAUTHENTICATED'),
  'too busy': () => new CredentialsError('RESOURCE_EXHAUSTED', { retryAfterMs: 2 * HOUR }),
  garbage: () => new CredentialsError('its answer is refused: a certificate of the chain cannot be read'),
  'an expired certificate': () => new CredentialsError('its answer is refused: the certificate expired'),
  'hangs mid-answer': () => 'hang',
  slow: (clock, serial) =>
    new Promise((resolve) => {
      clock.setTimeout(() => resolve(set(clock, serial)), 20_000);
    }),
  'another identity': (clock, serial) => set(clock, serial, { who: payments }),
  'a set that fails its handshake': (clock) => set(clock, 'unfit'),
  'a clock that is ahead': (clock, serial) =>
    set(clock, serial, { backdatedMs: -50_000, clockSkewMs: -50_000 }),
};

t.test('a month of faults', async (t) => {
  for (const seed of [1, 2, 3, 4]) {
    /** The fault of the moment, and when it is over. */
    let fault: string | null = null;
    let over = 0;
    const names = Object.keys(faults);
    const met = new Set<string>();
    const run = keeping(
      (clock, attempt) => {
        if (fault === null) return set(clock, `${attempt}`);
        met.add(fault);
        return faults[fault]?.(clock, `${attempt}`) ?? 'hang';
      },
      {
        seed,
        rehearse: async ({ serial }: Credentials) => {
          if (serial === 'unfit') throw new Error('the handshake failed');
        },
      },
    );
    run.keeper.start();
    await run.clock.advance(MINUTE);
    let bare = 0;
    for (let minute = 0; minute < 30 * 24 * 60; minute += 10) {
      if (run.clock.tick() >= over) {
        // well, then not for up to seven hours: less than the least that is left when a renewal begins
        fault = fault === null ? (names[Math.floor(run.clock.random() * names.length)] ?? null) : null;
        over = run.clock.tick() + (fault === null ? 2 : 7) * HOUR * run.clock.random();
      }
      await run.clock.advance(10 * MINUTE);
      if (run.keeper.expired || run.keeper.current === null) bare++;
    }
    t.equal(bare, 0, 'always valid');
    t.ok(met.size >= 8, `met: ${[...met].join(', ')}`);
    t.notOk(run.taken.includes('unfit'));
    t.equal(run.keeper.current?.identity.uri, 'spiffe://cluster.local/ns/shop/sa/orders');
    t.ok(run.taken.length >= 40 && run.taken.length < 90, `${run.taken.length} sets in thirty days`);
    t.ok(run.attempts.length < 40 * run.taken.length, `${run.attempts.length} attempts`);
    t.ok(run.clock.timers < 10, 'no timer is left behind');
    run.keeper.stop();
  }
});

t.test('a CA that comes back before the end is never too late', async (t) => {
  // back for the last n minutes of the life: the time in which the set in force must be replaced
  for (const minutes of [60, 20, 5]) {
    for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
      let down = false;
      const run = keeping((clock, attempt) => (down ? new Error('away') : set(clock, `${attempt}`)), {
        seed,
      });
      run.keeper.start();
      await run.clock.advance(1_000);
      down = true;
      const { notAfter } = run.keeper.state;
      await run.clock.advance((notAfter ?? 0) - run.clock.now() - minutes * MINUTE);
      down = false;
      await run.clock.advance(minutes * MINUTE - 1);
      t.equal(run.taken.length, 2, `back ${minutes} minutes before the end`);
      run.keeper.stop();
    }
  }
});

t.test('away for three days: still asked, and asked for as soon as it is back', async (t) => {
  for (const watched of [false, true]) {
    let down = false;
    const run = keeping((clock, attempt) => (down ? new Error('away') : set(clock, `${attempt}`)), {
      seed: 8,
      watched,
    });
    run.keeper.start();
    await run.clock.advance(1_000);
    down = true;
    await run.clock.advance(3 * DAY);
    t.equal(run.keeper.state.phase, 'expired');
    t.same(run.alarms.toSorted(), ['up expiring', 'up renewal_failing']);
    const before = run.attempts.length;
    await run.clock.advance(HOUR);
    const rate = run.attempts.length - before;
    t.ok(rate > 120 && rate < 400, `${rate} attempts an hour`);
    down = false;
    await run.clock.advance(30_000);
    t.match(run.keeper.state, { phase: 'valid', alarms: [] });
    run.keeper.stop();
  }
});
