/**
 * A thousand sidecars and one CA: what the CA sees of their renewals, by the real keeper on a fake clock.
 *
 * They are rolled out within ten seconds, so their first certificates are one burst, by nature. What the scheduler
 * answers for is what follows: nowhere may the CA see three times its mean. In tenths of the half life, where chance
 * plays a small part, that holds for every renewal, the first included. In hundredths, where ten sidecars are due
 * on average and chance alone makes twenty of them somewhere, it holds from the end of the first lifetime on.
 */
import t from 'tap';
import { CredentialKeeper } from '../../ca-client/keeper.ts';
import { CredentialsError } from '../../ca-client/source.ts';
import { FakeClock } from './fake-clock.ts';
import { DAY, HOUR, MINUTE, set } from './keeper-scene.ts';

const SIDECARS = 1_000;

interface RollOut {
  readonly seed: number;
  readonly lifeMs: number;
  /** How many lives to watch. */
  readonly lives: number;
  /** The CA: a refusal, or null to issue; called for each request with the time since the roll-out began. */
  readonly answer?: (at: number) => Error | null;
}

/** @returns when the CA was asked, since the roll-out began; and how many sidecars were ever found without valid credentials */
async function rollOut({ seed, lifeMs, lives, answer = () => null }: RollOut) {
  const clock = new FakeClock(seed);
  clock.settleAlways = false;
  const requests: number[] = [];
  const source = {
    origin: 'ca',
    async obtain() {
      clock.stir();
      requests.push(clock.tick());
      const refusal = answer(clock.tick());
      if (refusal !== null) throw refusal;
      return set(clock, `${requests.length}`, { lifeMs });
    },
  };
  const keepers = Array.from({ length: SIDECARS }, () => {
    const keeper = new CredentialKeeper({ source, clock, onCredentials: () => {}, onFailure: () => {} });
    clock.setTimeout(() => {
      clock.stir();
      keeper.start();
    }, 10_000 * clock.random());
    return keeper;
  });
  let bare = 0;
  for (let look = 0; look < lives * 50; look++) {
    await clock.advance(lifeMs / 50);
    bare += keepers.filter((keeper) => keeper.expired || keeper.current === null).length;
  }
  for (const keeper of keepers) keeper.stop();
  return { requests, bare };
}

/** The fullest bucket of a span, in means. */
function peak(requests: readonly number[], from: number, to: number, bucketMs: number): number {
  const counts = new Array<number>(Math.round((to - from) / bucketMs)).fill(0);
  for (const at of requests) {
    const bucket = Math.floor((at - from) / bucketMs);
    if (counts[bucket] !== undefined) counts[bucket]++;
  }
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  return Math.round((Math.max(...counts) / mean) * 100) / 100;
}

t.test('renewals stay under three times their mean, from the first on', async (t) => {
  const lifeMs = HOUR;
  const lives = 5;
  for (const seed of [1, 2, 3]) {
    const { requests, bare } = await rollOut({ seed, lifeMs, lives });
    const all = peak(requests, MINUTE, lives * lifeMs, lifeMs / 20);
    const fine = peak(requests, lifeMs, lives * lifeMs, lifeMs / 200);
    t.ok(all < 3, `seed ${seed}: ${all} times the mean in tenths of the half life, every renewal counted`);
    t.ok(fine < 3, `seed ${seed}: ${fine} times in hundredths, after the first lifetime`);
    t.equal(bare, 0);
    t.equal(Math.round(requests.length / SIDECARS), 1 + 2 * lives, 'the first, and two a lifetime');
  }
});

t.test('a CA that was away for an hour is not trampled when it is back', async (t) => {
  const away = { from: 26 * HOUR, to: 27 * HOUR };
  const down = (at: number) => at >= away.from && at < away.to;
  const answer = (at: number) => (down(at) ? new Error('connection refused') : null);
  const { requests, bare } = await rollOut({ seed: 6, lifeMs: DAY, lives: 2, answer });
  const served = requests.filter((at) => !down(at));
  const height = peak(served, DAY, 2 * DAY, DAY / 20);
  t.ok(height < 3, `${height} times the mean, what was put off included`);
  const firstMinute = served.filter((at) => at >= away.to && at < away.to + MINUTE).length;
  t.ok(firstMinute <= SIDECARS / 50, `${firstMinute} of ${SIDECARS} in its first minute`);
  const knocks = requests.length - served.length;
  t.ok(knocks < 2 * SIDECARS, `${knocks} requests in vain in the hour`);
  t.equal(bare, 0);
});

t.test('a CA that sends away what is too much for it, and says for how long', async (t) => {
  const lifeMs = HOUR;
  const lives = 3;
  /** It issues 20 a second, as a token bucket. */
  let tokens = 20;
  let last = 0;
  let refused = 0;
  const answer = (at: number) => {
    tokens = Math.min(20, tokens + ((at - last) / 1000) * 20);
    last = at;
    if (tokens < 1) {
      refused++;
      return new CredentialsError('RESOURCE_EXHAUSTED', { retryAfterMs: 30_000 });
    }
    tokens--;
    return null;
  };
  const { requests } = await rollOut({ seed: 7, lifeMs, lives, answer });
  t.ok(refused > 500, `${refused} sent away in the roll-out`);
  t.ok(refused < 2_000, 'each once or twice');
  const late = requests.filter((at) => at > 5 * MINUTE && at < 0.4 * lifeMs);
  t.equal(late.length, 0, 'all are served within five minutes');
  const fine = peak(requests, lifeMs, lives * lifeMs, lifeMs / 200);
  t.ok(fine < 3, `${fine} times the mean`);
});
