/** `oarlock authz check` with tokens: verified with inline keys, refused with Envoy's words, never fetched for. */
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import t from 'tap';
import { authz, folder, jsonLines, oarlock } from './helper.ts';

t.setTimeout(240_000);

const ISSUER = 'https://issuer.example';
const { privateKey, publicKey } = await generateKeyPair('ES256');
const stranger = await generateKeyPair('ES256');
const jwks = JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: 'one' }] });
const now = Math.floor(Date.now() / 1000);

interface TokenParts {
  readonly issuer?: string;
  readonly kid?: string;
  readonly expires?: number;
  readonly claims?: Record<string, unknown>;
  readonly key?: Parameters<SignJWT['sign']>[0];
}

function token({
  issuer = ISSUER,
  kid = 'one',
  expires = now + 600,
  claims = {},
  key,
}: TokenParts = {}): Promise<string> {
  return new SignJWT({ sub: 'alice', aud: 'shop', ...claims })
    .setProtectedHeader({ alg: 'ES256', kid })
    .setIssuer(issuer)
    .setExpirationTime(expires)
    .sign(key ?? privateKey);
}

function requestAuthentication(rules: string): string {
  return `---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: foo}
spec: {selector: {matchLabels: {app: httpbin}}, jwtRules: ${rules}}
`;
}

async function ask(policies: string, requests: readonly object[]): Promise<Record<string, unknown>[]> {
  const dir = folder(t, { 'set.yaml': policies });
  const workload = ['--namespace', 'foo', '--labels', 'app=httpbin'];
  const base = { method: 'GET', host: 'httpbin', path: '/' };
  const { code, stdout, stderr } = await oarlock(
    ['authz', 'check', '--config', dir, ...workload, '--requests', '-'],
    requests.map((request) => JSON.stringify({ ...base, ...request })).join('\n'),
  );
  t.equal(code, 0, stderr);
  t.notMatch(stderr, /eyJ/, 'no token is logged');
  return jsonLines(stdout);
}

const rule = `{issuer: "${ISSUER}", jwks: '${jwks}', audiences: [shop]}`;
const demanded =
  authz('user', '{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}') +
  authz('seen', '{action: AUDIT, rules: [{}]}');

t.test('verdicts', async (t) => {
  const good = await token();
  const rows = [
    {
      title: 'good',
      request: { token: good },
      answer: { decision: 'ALLOW', policy: 'foo/user', rule: 0, audit: ['foo/seen'] },
    },
    {
      title: 'in its header',
      request: { headers: { Authorization: `Bearer ${good}` } },
      answer: { decision: 'ALLOW' },
    },
    { title: 'none', request: {}, answer: { decision: 'DENY', policy: null } },
    {
      title: 'expired',
      request: { token: await token({ expires: now - 3_600 }) },
      status: 401,
      reason: 'Jwt is expired',
    },
    {
      title: 'another issuer',
      request: { token: await token({ issuer: 'https://other.example' }) },
      status: 401,
      reason: 'Jwt issuer is not configured',
    },
    {
      title: 'another audience',
      request: { token: await token({ claims: { aud: 'bank' } }) },
      status: 403,
      reason: 'Audiences in Jwt are not allowed',
    },
    {
      title: 'an unknown key',
      request: { token: await token({ kid: 'two' }) },
      status: 401,
      reason: "Jwks doesn't have key to match kid or alg from Jwt",
    },
    {
      title: 'signed by another',
      request: { token: await token({ key: stranger.privateKey }) },
      status: 401,
      reason: 'Jwt verification fails',
    },
    {
      title: 'no token at all',
      request: { token: 'nonsense' },
      status: 401,
      reason: 'Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections',
    },
    {
      title: 'claims instead',
      request: { claims: { iss: ISSUER, sub: 'alice' } },
      answer: { decision: 'ALLOW' },
    },
    {
      title: 'and the header',
      request: { token: good, headers: { authorization: 'Bearer x' } },
      answer: { error: 'give token or the header authorization, not both' },
    },
    {
      title: 'on TCP nobody looks',
      request: { protocol: 'tcp', port: 80, token: 'x' },
      answer: { decision: 'DENY' },
    },
    { title: 'good again', request: { token: good }, answer: { decision: 'ALLOW' } },
  ];
  const answers = await ask(
    requestAuthentication(`[${rule}]`) + demanded,
    rows.map(({ title, request }) => ({ id: title, ...request })),
  );
  t.equal(answers.length, rows.length);
  for (const [i, { title, answer, status, reason }] of rows.entries()) {
    if (answer !== undefined) t.match(answers[i], { id: title, ...answer }, title);
    else {
      t.same(
        answers[i],
        {
          id: title,
          decision: 'UNAUTHENTICATED',
          status,
          policy: null,
          rule: null,
          reason,
          audit: [],
          dryRun: [],
        },
        title,
      );
    }
  }
});

t.test('claims, verified or given, are matched alike', async (t) => {
  const claims = {
    groups: ['a', 'admin'],
    scope: 'read write',
    nested: { team: 'x' },
    number: 1,
    listed: 'p q',
  };
  const policies: readonly (readonly [string, string])[] = [
    ['groups', '"request.auth.claims[groups]", values: [admin]'],
    ['scope', '"request.auth.claims[scope]", values: [write]'],
    ['nested', '"request.auth.claims[nested][team]", values: [x]'],
    ['number', '"request.auth.claims[number]", values: ["1"]'],
    ['listed', '"request.auth.claims[listed]", values: [q]'],
  ];
  const matches = ['groups', 'scope', 'nested', 'listed'];
  for (const [name, condition] of policies) {
    const set =
      requestAuthentication(`[{issuer: "${ISSUER}", jwks: '${jwks}', spaceDelimitedClaims: [listed]}]`) +
      authz('p', `{rules: [{when: [{key: ${condition}}]}]}`);
    const answers = await ask(set, [
      { token: await token({ claims }) },
      { claims: { iss: ISSUER, sub: 'alice', ...claims } },
    ]);
    const expected = matches.includes(name) ? 'ALLOW' : 'DENY';
    t.same(
      answers.map(({ decision }) => decision),
      [expected, expected],
      name,
    );
  }
});

t.test('headers that only a verified token may set, and where tokens are', async (t) => {
  const rules = `[{issuer: "${ISSUER}", jwks: '${jwks}', outputClaimToHeaders: [{header: x-sub, claim: sub}], fromParams: [jwt], fromHeaders: [{name: x-jwt}]}]`;
  const policies =
    requestAuthentication(rules) +
    authz('sub', '{rules: [{when: [{key: "request.headers[x-sub]", values: [alice]}]}]}') +
    authz('clean', '{action: DENY, rules: [{when: [{key: "request.headers[:path]", values: ["*jwt=*"]}]}]}');
  const good = await token();
  const [forged, header, param, ignored] = await ask(policies, [
    { headers: { 'x-sub': 'alice' } },
    { headers: { 'x-jwt': good } },
    { path: `/x?jwt=${good}` },
    { token: good },
  ]);
  t.match(forged, { decision: 'DENY', policy: null }, 'what the downstream says of itself is dropped');
  t.match(header, { decision: 'ALLOW', policy: 'foo/sub' });
  t.match(param, { decision: 'ALLOW', policy: 'foo/sub' }, 'the token is taken out of the target');
  t.match(ignored, { decision: 'DENY' }, 'a rule with places of its own does not look at authorization');
});

t.test('keys that would have to be fetched', async (t) => {
  const rules = `[{issuer: "${ISSUER}", jwksUri: "http://127.0.0.1:9/keys"}]`;
  const [answer, none] = await ask(requestAuthentication(rules) + demanded, [{ token: await token() }, {}]);
  t.match(answer, { decision: 'UNAUTHENTICATED', status: 401, reason: /fetch.*inline/ });
  t.match(none, { decision: 'DENY' });
});

t.test('a bad token is refused though a provider would be asked', async (t) => {
  const set =
    requestAuthentication(`[${rule}]`) + authz('ask', '{action: CUSTOM, provider: {name: opa}, rules: [{}]}');
  const [bad, good] = await ask(set, [{ token: 'nonsense' }, { token: await token() }]);
  t.match(bad, { decision: 'UNAUTHENTICATED', status: 401 });
  t.match(good, { decision: 'CUSTOM', provider: 'opa' });
});

t.test('a RequestAuthentication of another workload does not count', async (t) => {
  const set = requestAuthentication(`[${rule}]`).replace('app: httpbin', 'app: other');
  const [answer] = await ask(set, [{ token: 'nonsense' }]);
  t.match(answer, { decision: 'ALLOW' });
});
