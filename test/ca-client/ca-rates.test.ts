/** How often the embedded CA answers: buckets by a table, and what the refused are told over gRPC. */
import t from 'tap';
import { RateError, RateLimit } from '../../ca-client/ca-rates.ts';

const all = { count: 1_000, periodMs: 1_000 };

function outcome(limit: RateLimit, identity: string, now: number): number | null {
  try {
    limit.take(identity, now);
    return null;
  } catch (error) {
    if (error instanceof RateError) return error.retryAfterMs;
    throw error;
  }
}

t.test('a burst, then one each tenth of the period', (t) => {
  const limit = new RateLimit({ count: 10, periodMs: 60_000 }, all, () => 0);
  for (let i = 0; i < 10; i++) t.equal(outcome(limit, 'a', 0), null);
  const rows: readonly (readonly [number, number | null])[] = [
    [0, 6_000],
    [1_000, 5_000],
    [5_999, 1],
    [6_000, null],
    [6_001, 5_999],
    [18_000, null],
    [18_000, null],
    [18_000, 6_000],
  ];
  for (const [now, wait] of rows) t.equal(outcome(limit, 'a', now), wait, `after ${now} ms`);
  t.equal(outcome(limit, 'b', 18_000), null, 'another identity has its own');
  t.equal(outcome(limit, 'a', 10_000), 6_000, 'a clock that goes back gives nothing');
  for (let i = 0; i < 10; i++) t.equal(outcome(limit, 'a', 10_000_000), null);
  t.equal(outcome(limit, 'a', 10_000_000), 6_000, 'never more than the burst');
  t.end();
});

t.test('the refused are spread over a period, at least over a second', (t) => {
  const slow = new RateLimit({ count: 1, periodMs: 10_000 }, all, () => 0.5);
  outcome(slow, 'a', 0);
  t.equal(outcome(slow, 'a', 0), 15_000);
  const quick = new RateLimit({ count: 100, periodMs: 1_000 }, all, () => 0.5);
  for (let i = 0; i < 100; i++) outcome(quick, 'a', 0);
  t.equal(outcome(quick, 'a', 0), 510);
  t.end();
});

t.test('all together have a bound, which costs the identity nothing', (t) => {
  const limit = new RateLimit({ count: 2, periodMs: 60_000 }, { count: 3, periodMs: 1_000 }, () => 0);
  for (const identity of ['a', 'b', 'c']) t.equal(outcome(limit, identity, 0), null);
  t.equal(outcome(limit, 'a', 0), 334);
  t.equal(outcome(limit, 'a', 334), null, 'its second is still there');
  t.end();
});

t.test('the table is bounded, the least recently used go', (t) => {
  const limit = new RateLimit({ count: 1, periodMs: 1e9 }, { count: 1e9, periodMs: 1_000 }, () => 0);
  outcome(limit, 'first', 0);
  for (let i = 0; i < 9_999; i++) outcome(limit, `i${i}`, 0);
  t.equal(limit.size, 10_000);
  t.not(outcome(limit, 'first', 0), null, 'used again');
  outcome(limit, 'one more', 0);
  t.equal(limit.size, 10_000);
  t.not(outcome(limit, 'first', 0), null, 'still known');
  t.equal(outcome(limit, 'i0', 0), null, 'forgotten');
  t.end();
});
