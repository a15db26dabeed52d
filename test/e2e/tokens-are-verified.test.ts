/** RequestAuthentication in a running sidecar: a bad token is refused, a good one decides, and neither is logged. */
import { createServer } from 'node:http';
import t from 'tap';
import { keySet, rsaKey, token } from '../providers/token-mint.ts';
import { httpApp, listen, type Told, tcpApp } from './harness/apps.ts';
import { type Answer, call } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const ISSUER = 'https://issuer.example';
const key = rsaKey();
const other = rsaKey();
const jwk = { ...key.jwk, kid: 'one' };

const http = await httpApp(t);
const tcp = await tcpApp(t, (socket) => socket.end());
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: http.port, tcp: tcp.port }));

function authentication(rule: string): string {
  return `apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  jwtRules: [{issuer: "${ISSUER}", ${rule}}]
`;
}

const inline = `jwks: '${keySet(jwk)}', audiences: [orders], outputClaimToHeaders: [{header: x-sub, claim: sub}]`;
mesh.write('tokens.yaml', authentication(inline));
const orders = await mesh.sidecar('orders', '--access-log', 'stderr');
await mesh.sidecar('web');

interface Payload {
  readonly [name: string]: unknown;
}

function tokenOf(payload: Payload = {}, signer = key, kid = 'one'): string {
  const exp = Math.floor(Date.now() / 1000) + 600;
  return token(signer, { alg: 'RS256', kid }, { iss: ISSUER, sub: 'ann', aud: 'orders', exp, ...payload });
}

function ask(bearer: string | null, path = '/told', headers: Record<string, string> = {}): Promise<Answer> {
  const authorization = bearer === null ? {} : { authorization: `Bearer ${bearer}` };
  return call(ports.http, path, { headers: { ...authorization, ...headers } });
}

t.test('no token passes, and cannot claim what a token would say', async (t) => {
  const answer = await ask(null, '/told', { 'x-sub': 'root' });
  t.equal(answer.status, 200);
  t.notOk('x-sub' in (JSON.parse(answer.body.toString()) as Told).headers);
});

t.test('a good token passes with its claims, itself left behind', async (t) => {
  const answer = await ask(tokenOf());
  t.equal(answer.status, 200);
  const { headers } = JSON.parse(answer.body.toString()) as Told;
  t.equal(headers['x-sub'], 'ann');
  t.notOk('authorization' in headers);
});

t.test('a bad one is refused as Envoy refuses it', async (t) => {
  const rows: readonly [name: string, bearer: string, status: number, body: RegExp, challenge: RegExp][] = [
    [
      'expired',
      tokenOf({ exp: 1_000 }),
      401,
      /^Jwt is expired$/,
      /^Bearer realm="[^"]+", error="invalid_token"$/,
    ],
    ['of another key', tokenOf({}, other), 401, /^Jwt verification fails$/, /invalid_token/],
    [
      'of another issuer',
      tokenOf({ iss: 'https://evil.example' }),
      401,
      /^Jwt issuer is not configured$/,
      /invalid_token/,
    ],
    [
      'for another audience',
      tokenOf({ aud: 'billing' }),
      403,
      /^Audiences in Jwt are not allowed$/,
      /invalid_token/,
    ],
  ];
  for (const [name, bearer, status, body, challenge] of rows) {
    const mark = orders.mark;
    const answer = await ask(bearer);
    t.equal(answer.status, status, name);
    t.match(answer.body.toString(), body, name);
    t.match(String(answer.headers['www-authenticate']), challenge, name);
    const line = await orders.logged({ reason: 'token_invalid' }, mark);
    t.match(line, { policy: 'shop/tokens', peer: 'spiffe://cluster.local/ns/shop/sa/web' }, name);
    t.match(await orders.accessed({ reason: 'token_invalid' }, mark), {
      response_code: status,
      response_code_details: /^jwt_authn_access_denied\{[A-Z]\w+\}$/,
    });
  }
  await orders.metricIs('oarlock_refusals_total', { reason: 'token_invalid' }, rows.length);
});

t.test('a token in the query is taken out of it, and out of the log', async (t) => {
  const bearer = tokenOf();
  const mark = orders.mark;
  const answer = await ask(null, `/told?a=1&access_token=${bearer}&b=2`);
  t.equal((JSON.parse(answer.body.toString()) as Told).url, '/told?a=1&b=2');
  await orders.accessed({ path: /^\/told\?a=1&b=2$/ }, mark);
  t.equal((await ask(null, `/told?access_token=${tokenOf({ exp: 1 })}`)).status, 401);
  await orders.accessed({ path: '/told?access_token=[redacted]' }, mark);
  t.notMatch(orders.process.stderr.text, bearer, 'no token in any line');
  t.notMatch(orders.process.stderr.text, /eyJ/);
});

t.test('policy decides by the token', async (t) => {
  const rules = `[{from: [{source: {requestPrincipals: ["${ISSUER}/ann"]}}]}]`;
  await mesh.change('policy.yaml', policy('ann', rules), [orders]);
  t.equal((await ask(tokenOf())).status, 200);
  t.equal((await ask(tokenOf({ sub: 'bob' }))).status, 403, 'RBAC, after the token was good');
  t.equal((await ask(null)).status, 403, 'no token, no principal');
  await mesh.change('policy.yaml', policy('all', '[{}]'), [orders]);
});

t.test('keys are fetched, and a change of keys is found', async (t) => {
  let served = keySet(jwk);
  let broken = false;
  const server = createServer((_request, response) => {
    response.writeHead(broken ? 500 : 200, { 'content-type': 'application/json' }).end(served);
  });
  const { port } = await listen(t, server);
  const uri = `http://127.0.0.1:${port}/keys`;
  broken = true;
  await mesh.change('tokens.yaml', authentication(`jwksUri: "${uri}"`), [orders]);
  t.equal((await ask(null)).status, 200, 'no token needs no key');
  t.equal((await ask(tokenOf())).status, 401, 'no keys: nothing is opened');
  await orders.metricIs('oarlock_key_sets', { state: 'missing' }, 1);
  broken = false;
  await until('the keys to be fetched', async () => (await ask(tokenOf())).status === 200);
  await orders.metricIs('oarlock_key_sets', { state: 'fresh' }, 1);
  served = keySet({ ...other.jwk, kid: 'two' });
  // A key that is not known is looked for, though not at once again.
  await until('the new keys to be found', async () => (await ask(tokenOf({}, other, 'two'))).status === 200);
  t.equal((await ask(tokenOf())).status, 401, 'the old key verifies no more');
  await mesh.change('tokens.yaml', authentication(inline), [orders]);
});

t.test('tokens on several threads', async (t) => {
  const [more] = [await shopPorts()];
  const threads = await Mesh.create(t, shop(more, { http: http.port, tcp: tcp.port }, 'PERMISSIVE'));
  threads.write('tokens.yaml', authentication(inline));
  await threads.sidecar('orders', '--concurrency', '2');
  for (let i = 0; i < 10; i++) {
    const headers = { authorization: `Bearer ${i % 2 === 0 ? tokenOf() : tokenOf({ exp: 1 })}` };
    t.equal((await call(more.ordersHttp, '/told', { headers })).status, i % 2 === 0 ? 200 : 401);
  }
});
