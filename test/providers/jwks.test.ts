/** The store of key sets: what it fetches and when, what it keeps while fetches fail, what it tells of itself. */
import t from 'tap';
import type { JwtRule } from '../../mesh/tokens.ts';
import type { Got } from '../../providers/http-get.ts';
import { JwksStore, jwksLimits, type KeySourceStatus } from '../../providers/jwks.ts';
import type { KeyPlace } from '../../providers/jwks-fetch.ts';
import { FakeClock } from '../ca-client/fake-clock.ts';
import { named, rsa, rsa2 } from './token-cases.ts';
import { keySet } from './token-mint.ts';
import { compile } from './token-run.ts';

const A = keySet(named(rsa, 'a'));
const B = keySet(named(rsa, 'a'), named(rsa2, 'b'));
const URI = 'https://keys.example/jwks?secret=1';
const SHOWN = 'https://keys.example/jwks';

function rule(fields: Readonly<Record<string, unknown>>): JwtRule {
  const [one] = compile([{ jwtRules: [{ issuer: 'https://idp.example', ...fields }] }]).rules;
  if (one === undefined) throw new Error('no rule');
  return one;
}

const remote = rule({ jwksUri: URI });

/** A server in memory: `serve` is what it answers, `fail` why it does not. */
function scene() {
  const clock = new FakeClock();
  const state = {
    serve: A,
    fail: null as string | null,
    fetches: [] as KeyPlace[],
    told: [] as KeySourceStatus[],
  };
  const store = new JwksStore({
    fetch: async (place): Promise<Got> => {
      state.fetches.push(place);
      if (state.fail !== null) throw new Error(state.fail);
      return { text: state.serve, uri: place.uri ?? 'https://idp.example/found' };
    },
    now: () => clock.now(),
    random: () => clock.random(),
    schedule: (task, ms) => clock.setTimeout(task, ms),
    onChange: (status) => state.told.push(status),
  });
  return { clock, state, store };
}

t.test('inline sets are read once', async (t) => {
  const { store, state } = scene();
  const source = store.source(rule({ jwks: A }));
  t.equal(source.current?.keys.length, 1);
  t.equal(store.source(rule({ jwks: A })), source);
  t.equal(store.source(rule({ jwks: '{"keys":[]}' })).current, null);
  t.same([state.fetches, store.status()], [[], []]);
});

t.test('a place is fetched when first seen, and once for all its rules', async (t) => {
  const { store, state, clock } = scene();
  const source = store.source(remote);
  t.equal(store.source(rule({ jwksUri: URI, issuer: 'https://other' })), source);
  t.equal(source.current, null);
  await source.waiting();
  t.equal(source.current?.keys.length, 1);
  t.same(state.fetches, [{ uri: URI, issuer: 'https://idp.example' }]);
  t.same(store.status(), [
    {
      place: SHOWN,
      uri: SHOWN,
      keys: 1,
      fetchedAt: clock.now(),
      nextFetch: clock.now() + jwksLimits.refreshMs,
      failures: 0,
      lastError: null,
    },
  ]);
});

t.test('keys are discovered at the issuer where the rule gives none', async (t) => {
  const { store, state } = scene();
  const source = store.source(rule({}));
  await source.waiting();
  t.same(state.fetches, [{ uri: null, issuer: 'https://idp.example' }]);
  t.match(store.status(), [{ place: 'https://idp.example/', uri: 'https://idp.example/found', keys: 1 }]);
});

t.test('refreshed every five minutes, give or take a tenth; the same text keeps the same set', async (t) => {
  const { store, state, clock } = scene();
  clock.chance = 0;
  const source = store.source(remote);
  await source.waiting();
  const first = source.current;
  await clock.advance(269_999);
  t.equal(state.fetches.length, 1);
  await clock.advance(1);
  t.equal(state.fetches.length, 2);
  t.equal(source.current, first);
  state.serve = B;
  await clock.advance(270_000);
  t.equal(source.current?.keys.length, 2);
  t.same(
    state.told.map(({ keys }) => keys),
    [1, 2],
    'told of changes alone',
  );
});

t.test('a fetch that fails keeps the last good keys, for seven days', async (t) => {
  const { store, state, clock } = scene();
  const source = store.source(remote);
  await source.waiting();
  state.fail = 'down';
  await clock.advance(7 * 24 * 3_600_000);
  t.equal(source.current?.keys.length, 1);
  t.match(store.status(), [{ keys: 1, lastError: 'down' }]);
  await clock.advance(2 * jwksLimits.retryMostMs);
  t.equal(source.current, null);
  t.equal(source.fault, 'fetchFailed');
  state.fail = null;
  await clock.advance(jwksLimits.retryMostMs);
  t.match(store.status(), [{ keys: 1, failures: 0, lastError: null }]);
});

t.test('failures: backoff doubles to a minute, half of it jitter', async (t) => {
  const { store, state, clock } = scene();
  state.fail = 'down';
  const waits: number[] = [];
  clock.chance = 1;
  const source = store.source(remote);
  await source.waiting();
  for (let i = 0; i < 8; i++) {
    const wait = (store.status()[0]?.nextFetch ?? 0) - clock.now();
    waits.push(wait);
    await clock.advance(wait);
  }
  t.same(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
  t.equal(state.fetches.length, 9);
  clock.chance = 0;
  await clock.advance(60_000);
  t.equal((store.status()[0]?.nextFetch ?? 0) - clock.now(), 30_000);
});

for (const garbage of [
  '',
  'no JSON',
  '[]',
  'null',
  '{}',
  '{"keys":5}',
  '{"keys":[]}',
  '{"keys":[{"kty":"X"}]}',
]) {
  t.test(`garbage is a failure: ${garbage}`, async (t) => {
    const { store, state, clock } = scene();
    const source = store.source(remote);
    await source.waiting();
    state.serve = garbage;
    await clock.advance(2 * jwksLimits.refreshMs);
    t.equal(source.current?.keys.length, 1, 'the good set stays');
    t.match(store.status(), [{ lastError: String }]);
  });
}

t.test('a set of too many keys is a failure', async (t) => {
  const { store, state } = scene();
  state.serve = keySet(...Array(101).fill(rsa.jwk));
  const source = store.source(remote);
  await source.waiting();
  t.equal(source.current, null);
  t.match(store.status(), [{ lastError: /101 keys/ }]);
});

t.test('a broken key among good ones is left out', async (t) => {
  const { store, state } = scene();
  state.serve = keySet(
    { kty: 'RSA', n: '!!', e: 'AQAB' },
    { kty: 'AKP' },
    named(rsa, 'a', { alg: 'RSA-OAEP' }),
    named(rsa, 'a'),
  );
  const source = store.source(remote);
  await source.waiting();
  t.equal(source.current?.keys.length, 1);
});

t.test('an unknown key fetches again, but not often', async (t) => {
  const { store, state, clock } = scene();
  const source = store.source(remote);
  t.equal(source.refetch(), source.waiting(), 'the fetch under way serves');
  await source.waiting();
  t.equal(source.refetch(), null);
  await clock.advance(jwksLimits.refetchLeastMs - 1);
  t.equal(source.refetch(), null);
  await clock.advance(1);
  await source.refetch();
  t.equal(state.fetches.length, 2);
  t.equal(source.refetch(), null);
  t.equal(clock.timers, 1, 'one timer a place, however often it is fetched');
});

t.test('a new snapshot keeps what it still needs and drops the rest', async (t) => {
  const { store, state, clock } = scene();
  const dropped = rule({ jwksUri: 'https://dropped.example/jwks' });
  store.retain([remote, dropped, rule({ jwks: A })]);
  const source = store.source(remote);
  await source.waiting();
  const { current } = source;
  store.retain([rule({ jwksUri: URI, audiences: ['x'], timeout: '1s' }), rule({})]);
  t.equal(store.source(remote), source);
  t.equal(source.current, current);
  t.same(
    store.status().map(({ place }) => place),
    ['https://idp.example/', SHOWN],
  );
  await clock.advance(2 * jwksLimits.refreshMs);
  t.equal(state.fetches.filter(({ uri }) => uri === 'https://dropped.example/jwks').length, 1);
});

t.test('closing ends timers and fetches', async (t) => {
  const { store, state, clock } = scene();
  const source = store.source(remote);
  await source.waiting();
  store.close();
  t.equal(clock.timers, 0);
  await clock.advance(jwksLimits.refreshMs * 2);
  t.equal(source.refetch(), null);
  t.equal(state.fetches.length, 1);
  t.not(source.current, null, 'requests under way still have their keys');
});

t.test('a fetch that ends after closing changes nothing', async (t) => {
  const { promise, resolve } = Promise.withResolvers<Got>();
  const told: KeySourceStatus[] = [];
  const store = new JwksStore({
    fetch: () => promise,
    schedule: () => {
      t.fail('no timer');
      return () => {};
    },
    onChange: (status) => told.push(status),
  });
  const source = store.source(remote);
  store.close();
  resolve({ text: A, uri: URI });
  await source.waiting();
  t.equal(source.current, null);
  t.same(told, []);
});
