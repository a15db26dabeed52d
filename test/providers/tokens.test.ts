/** The token verifier: every case of the list, the clock, the cache, and keys that come, go and stay away. */
import t from 'tap';
import type { TokenVerdict } from '../../mesh/tokens.ts';
import { JwksStore } from '../../providers/jwks.ts';
import { createTokenVerifier } from '../../providers/tokens.ts';
import { good, H, NOW, named, oct, rsa, rsa2, ruleSets, tokenCases } from './token-cases.ts';
import { keySet, token } from './token-mint.ts';
import { applied, check, compile, request, rulesOf } from './token-run.ts';

const store = new JwksStore({ fetch: null });

t.test('every case, twice: the second time from the cache', async (t) => {
  const verifiers = new Map(
    Object.keys(ruleSets).map((name) => [name, createTokenVerifier(rulesOf(name), store)]),
  );
  for (const one of tokenCases) {
    for (const round of [1, 2]) {
      const verdict = await verifiers.get(one.rules)?.verify(request(one));
      if (verdict === undefined) throw new Error(`no rules named ${one.rules}`);
      check(t, { ...one, name: `${one.name} (${round})` }, applied(one, verdict));
    }
  }
});

function verdictOf(verdict: TokenVerdict): string {
  return verdict.kind === 'passed' ? 'passed' : `${verdict.status} ${verdict.message}`;
}

function bearer(text: string) {
  return request({ headers: [['authorization', `Bearer ${text}`]] });
}

t.test('the skew of the clock is 60 seconds, to the second', async (t) => {
  let seconds = 1_000_000;
  const verifier = createTokenVerifier(rulesOf('one'), store, () => seconds * 1_000 + 999);
  const timed = token(rsa, H, { iss: 'me', nbf: 1_000_000, exp: 1_000_100 });
  const at = async (second: number): Promise<string> => {
    seconds = second;
    return verdictOf(await verifier.verify(bearer(timed)));
  };
  t.equal(await at(999_939), '401 Jwt not yet valid');
  t.equal(await at(999_940), 'passed');
  t.equal(await at(1_000_160), 'passed');
  t.equal(await at(1_000_161), '401 Jwt is expired');
});

t.test('what needs no work is answered at once', async (t) => {
  const verifier = createTokenVerifier(rulesOf('one'), store);
  const first = verifier.verify(request({}));
  t.notOk(first instanceof Promise, 'no token');
  t.equal(verifier.verify(request({})), first, 'the same record each time');
  t.notOk(verifier.verify(bearer('junk')) instanceof Promise, 'no signature to compute');
  const unseen = verifier.verify(bearer(good));
  t.ok(unseen instanceof Promise, 'a token never seen');
  await unseen;
  t.notOk(verifier.verify(bearer(good)) instanceof Promise, 'a token just verified');
  t.same(createTokenVerifier({ policies: [], rules: [] }, store).verify(bearer('junk')), {
    kind: 'passed',
    claims: null,
    remove: [],
    set: [],
    path: null,
  });
});

t.test('a cached token expires', async (t) => {
  let now = NOW * 1_000;
  const verifier = createTokenVerifier(rulesOf('one'), store, () => now);
  await verifier.verify(bearer(good));
  t.equal(verdictOf(await verifier.verify(bearer(good))), 'passed');
  now += 661_000;
  t.equal(verdictOf(await verifier.verify(bearer(good))), '401 Jwt is expired');
});

t.test('the cache is bounded in number and in size', async (t) => {
  const verifier = createTokenVerifier(rulesOf('algorithms'), store);
  const cheap = { alg: 'HS256', kid: 'oct' };
  const tokens = Array.from({ length: 1_001 }, (_, n) => token(oct, cheap, { iss: 'me', n }));
  for (const one of tokens) await verifier.verify(bearer(one));
  t.ok(verifier.verify(bearer(tokens[0] ?? '')) instanceof Promise, 'the oldest is forgotten');
  t.notOk(verifier.verify(bearer(tokens[1_000] ?? '')) instanceof Promise, 'the newest is not');
  const huge = token(oct, cheap, { iss: 'me', filler: 'x'.repeat(40_000) });
  t.equal(verdictOf(await verifier.verify(bearer(huge))), 'passed');
  t.ok(verifier.verify(bearer(huge)) instanceof Promise, 'a huge one is verified each time');
});

const remote = compile([{ jwtRules: [{ issuer: 'me', jwksUri: 'https://keys.example/jwks' }] }]);

t.test('keys rotate: a new kid is fetched, a token of a withdrawn key passes no more', async (t) => {
  let now = NOW * 1_000;
  let served = keySet(named(rsa, 'a'));
  let fetches = 0;
  const keys = new JwksStore({
    now: () => now,
    fetch: async () => {
      fetches++;
      return { text: served, uri: 'https://keys.example/jwks' };
    },
    schedule: () => () => {},
  });
  const verifier = createTokenVerifier(remote, keys, () => now);
  t.equal(verdictOf(await verifier.verify(bearer(good))), 'passed', 'waits for the first fetch');
  t.equal(fetches, 1);

  served = keySet(named(rsa2, 'b'));
  const rotated = token(rsa2, { alg: 'RS256', kid: 'b' }, { iss: 'me' });
  t.equal(
    verdictOf(await verifier.verify(bearer(rotated))),
    "401 Jwks doesn't have key to match kid or alg from Jwt",
    'not again so soon',
  );
  t.equal(fetches, 1);
  now += 10_000;
  const both = await Promise.all([verifier.verify(bearer(rotated)), verifier.verify(bearer(rotated))]);
  t.same(both.map(verdictOf), ['passed', 'passed']);
  t.equal(fetches, 2, 'one fetch for both');
  t.match(verdictOf(await verifier.verify(bearer(good))), /^401 /, 'the old key is gone, the cache with it');
});

t.test('keys rotate: tokens without kid', async (t) => {
  let now = NOW * 1_000;
  let served = keySet(rsa.jwk);
  const keys = new JwksStore({
    now: () => now,
    fetch: async () => ({ text: served, uri: 'https://keys.example/jwks' }),
    schedule: () => () => {},
  });
  const verifier = createTokenVerifier(remote, keys, () => now);
  await verifier.verify(bearer(good));
  served = keySet(rsa2.jwk);
  now += 10_000;
  t.equal(verdictOf(await verifier.verify(bearer(token(rsa2, { alg: 'RS256' }, { iss: 'me' })))), 'passed');
});

t.test('without keys nothing passes, and a missing token still does', async (t) => {
  let now = NOW * 1_000;
  let isDown = true;
  const failing = new JwksStore({
    now: () => now,
    fetch: async () => {
      if (isDown) throw new Error('down');
      return { text: keySet(named(rsa, 'a')), uri: 'https://keys.example/jwks' };
    },
    schedule: () => () => {},
  });
  const verifier = createTokenVerifier(remote, failing, () => now);
  t.equal(verdictOf(await verifier.verify(bearer(good))), '401 Jwks remote fetch is failed');
  isDown = false;
  t.equal(
    verdictOf(await verifier.verify(bearer(good))),
    '401 Jwks remote fetch is failed',
    'not again so soon',
  );
  t.equal(verdictOf(await verifier.verify(request({}))), 'passed');
  now += 10_000;
  t.equal(
    verdictOf(await verifier.verify(bearer(good))),
    'passed',
    'a token that asks for them brings them back',
  );
  const empty = compile([{ jwtRules: [{ issuer: 'me', jwks: '{"keys":[]}' }] }]);
  const verdict = await createTokenVerifier(empty, failing).verify(bearer(good));
  t.equal(verdictOf(verdict), "401 Jwks doesn't have any valid public key");
});
