/** DNS for endpoints: asked once, kept, asked anew in the background, the last good answer kept when that fails. */
import t from 'tap';
import type { Ask } from '../../providers/dns.ts';
import { DnsCache } from '../../providers/dns.ts';

/** A resolver that answers when told to. */
class Upstream {
  readonly asked: string[] = [];
  readonly #waiting: Parameters<Ask>[1][] = [];
  readonly ask: Ask = (host, done) => {
    this.asked.push(host);
    this.#waiting.push(done);
  };

  answer(...addresses: string[]): void {
    this.#waiting.shift()?.(null, addresses);
  }

  fail(code: string): void {
    this.#waiting.shift()?.(code, []);
  }
}

function setup(maxNames = 10, timeout = 60_000) {
  const upstream = new Upstream();
  const clock = { now: 1_000_000 };
  const cache = new DnsCache({
    refresh: 5_000,
    maxNames,
    timeout,
    ask: upstream.ask,
    now: () => clock.now,
  });
  const answers: (readonly string[] | string)[] = [];
  const resolve = (host: string): void =>
    cache.resolve(host, {
      resolved: (addresses) => answers.push(addresses),
      unresolved: (code) => answers.push(code),
    });
  return { upstream, clock, cache, answers, resolve };
}

t.test('the first use waits, many waiters ask once', async (t) => {
  const { upstream, cache, answers, resolve } = setup();
  t.equal(cache.known('a'), null);
  t.same(upstream.asked, [], 'nothing is asked for by looking');
  resolve('a');
  resolve('a');
  t.same(upstream.asked, ['a']);
  upstream.answer('10.0.0.2', '10.0.0.1');
  t.same(answers, [
    ['10.0.0.1', '10.0.0.2'],
    ['10.0.0.1', '10.0.0.2'],
  ]);
  t.same(cache.known('a'), ['10.0.0.1', '10.0.0.2']);
});

t.test('an answer in use is refreshed behind the back of who uses it', async (t) => {
  const { upstream, clock, cache, resolve } = setup();
  resolve('a');
  upstream.answer('10.0.0.1');
  const { version } = cache;
  clock.now += 5_000;
  t.same(cache.known('a'), ['10.0.0.1'], 'the old answer serves');
  t.same(cache.known('a'), ['10.0.0.1']);
  t.same(upstream.asked, ['a', 'a'], 'one question however many look');
  upstream.answer('10.0.0.1');
  t.equal(cache.version, version, 'the same answer is no news');
  clock.now += 5_000;
  cache.known('a');
  upstream.answer('10.0.0.9');
  t.same(cache.known('a'), ['10.0.0.9']);
  t.equal(cache.version, version + 1);
});

t.test('a refresh that fails keeps the last good answer', async (t) => {
  const { upstream, clock, cache, answers, resolve } = setup();
  resolve('a');
  upstream.answer('10.0.0.1');
  clock.now += 5_000;
  cache.known('a');
  upstream.fail('ESERVFAIL');
  t.same(cache.known('a'), ['10.0.0.1']);
  t.equal(upstream.asked.length, 2, 'and is not repeated at once');
  clock.now += 1_000;
  cache.known('a');
  t.equal(upstream.asked.length, 3, 'but after a second');
  upstream.fail('ESERVFAIL');
  clock.now += 600_000;
  t.equal(cache.known('a'), null, 'so old an answer is asked for first');
  resolve('a');
  upstream.fail('ESERVFAIL');
  t.same(answers.at(-1), ['10.0.0.1'], 'and still serves where nothing newer comes');
});

t.test('a name without an answer', async (t) => {
  const { upstream, clock, cache, answers, resolve } = setup();
  resolve('a');
  upstream.fail('ENOTFOUND');
  t.same(answers, ['ENOTFOUND']);
  resolve('a');
  t.same(answers, ['ENOTFOUND', 'ENOTFOUND'], 'told again');
  t.equal(upstream.asked.length, 1, 'without asking again');
  clock.now += 1_000;
  resolve('a');
  t.equal(upstream.asked.length, 2);
  upstream.answer('10.0.0.1');
  t.same(answers.at(-1), ['10.0.0.1']);
  t.same(cache.known('a'), ['10.0.0.1']);
});

t.test('nobody waits longer than the time-out, and a late answer still counts', async (t) => {
  const { upstream, cache, answers } = setup(10, 5);
  await new Promise<void>((told) => {
    cache.resolve('slow', {
      resolved: () => told(),
      unresolved: (code) => {
        answers.push(code);
        told();
      },
    });
    // Keeps the process alive for the cache's own timer, which would not.
    setTimeout(() => {}, 1_000).unref();
    setTimeout(() => {}, 50);
  });
  t.same(answers, ['ETIMEOUT']);
  cache.resolve('slow', { resolved: () => {}, unresolved: (code) => answers.push(code) });
  t.equal(upstream.asked.length, 1, 'no second question while the first is on its way');
  upstream.answer('10.0.0.1');
  t.same(cache.known('slow'), ['10.0.0.1']);
});

t.test('names are bounded: the one asked longest ago goes first', async (t) => {
  const { upstream, cache, resolve } = setup(2);
  for (const host of ['a', 'b', 'c']) {
    resolve(host);
    upstream.answer('10.0.0.1');
  }
  t.equal(cache.size, 2);
  t.equal(cache.known('a'), null);
  t.same(cache.known('b'), ['10.0.0.1']);
});

t.test("the system's resolver knows localhost", async (t) => {
  const cache = new DnsCache({ refresh: 5_000, maxNames: 10, timeout: 10_000 });
  const addresses = await new Promise<readonly string[]>((resolve, reject) => {
    cache.resolve('localhost', { resolved: resolve, unresolved: (code) => reject(new Error(code)) });
  });
  t.ok(addresses.includes('127.0.0.1') || addresses.includes('::1'), addresses.join(' '));
});
