/** What one inbound request is judged by, in which order, and what is said of it afterwards. */
import t from 'tap';
import type { TokenVerdict } from '../../mesh/tokens.ts';
import { httpApp, type Told } from '../e2e/harness/apps.ts';
import { type Answer, call, open } from '../e2e/harness/clients.ts';
import { until } from '../e2e/harness/wait.ts';
import { parseExposition } from '../telemetry/exposition.ts';
import { type InboundSidecar, inboundSidecar, passed, provider } from './inbound-sidecar.ts';

t.setTimeout(180_000);

const app = await httpApp(t);

const policy = (name: string, spec: string, annotations = ''): string => `
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: shop, annotations: {${annotations}}}
spec: ${spec}
`;

function verdict(changes: Partial<TokenVerdict & { kind: 'passed' }> = {}): TokenVerdict {
  return { kind: 'passed', claims: null, remove: [], set: [], path: null, ...changes };
}

async function metric(
  sidecar: InboundSidecar,
  name: string,
  labels: Record<string, string>,
): Promise<number> {
  const text = (await sidecar.path.metrics.text()).toString();
  const found = parseExposition(text).find(
    (line) =>
      line.name === name && Object.entries(labels).every(([key, value]) => line.labels[key] === value),
  );
  return found?.value ?? 0;
}

t.test('claims of a verified token decide, at once or after a wait', async (t) => {
  const resources = policy(
    'claims',
    '{rules: [{when: [{key: "request.auth.claims[role]", values: [admin]}]}]}',
  );
  for (const late of [false, true]) {
    const sidecar = await inboundSidecar(t, app.port, {
      resources,
      verify: (request) => {
        const [token] = request.headerValues('authorization');
        const found = verdict(token === undefined ? {} : { claims: { role: token.split(' ')[1] ?? '' } });
        return late ? Promise.resolve(found) : found;
      },
    });
    const asked = async (headers: Record<string, string>): Promise<number> =>
      (await call(sidecar.port, '/status/200', { headers })).status;
    t.equal(await asked({ authorization: 'Bearer admin' }), 200, `late: ${late}`);
    t.equal(await asked({ authorization: 'Bearer user' }), 403, `late: ${late}`);
    t.equal(await asked({}), 403, `late: ${late}`);
  }
});

t.test('a refused token is answered as Envoy answers it', async (t) => {
  const challenge = 'Bearer realm="http://a/", error="invalid_token"';
  const before = app.seen.count;
  for (const status of [401, 403] as const) {
    const sidecar = await inboundSidecar(t, app.port, {
      verify: () => ({
        kind: 'refused',
        status,
        message: 'Jwt is expired',
        challenge: status === 401 ? challenge : null,
      }),
    });
    const answer = await call(sidecar.port, '/x?access_token=secret&a=b&access_token');
    t.equal(answer.status, status);
    t.equal(answer.body.toString(), 'Jwt is expired');
    t.equal(answer.headers['www-authenticate'], status === 401 ? challenge : undefined);
    t.equal(answer.headers['content-type'], 'text/plain');
    const line = (await sidecar.accessed()).at(-1);
    t.match(line, {
      response_code: status,
      response_code_details: 'jwt_authn_access_denied{Jwt_is_expired}',
      response_flags: '-',
      reason: 'token_invalid',
      policy: 'shop/tokens',
      path: '/x?access_token=[redacted]&a=b&access_token',
    });
    const [refusal] = sidecar.lines;
    t.match(refusal, { reason: 'token_invalid', policy: 'shop/tokens', detail: 'Jwt is expired' });
    t.notMatch(JSON.stringify(sidecar.lines), 'secret');
  }
  t.equal(app.seen.count, before);
});

t.test('a verifier that breaks lets nothing pass', async (t) => {
  const before = app.seen.count;
  const broken = await inboundSidecar(t, app.port, { verify: () => Promise.reject(new Error('oops')) });
  t.equal((await call(broken.port, '/')).status, 401);
  const throwing = await inboundSidecar(t, app.port, {
    verify: () => {
      throw new Error('oops');
    },
  });
  await t.rejects(call(throwing.port, '/'), 'the connection ends');
  t.equal(app.seen.count, before);
});

t.test('what a verified token changes is what policy and app see', async (t) => {
  const resources = policy(
    'changed',
    '{rules: [{to: [{operation: {paths: ["/told"]}}], when: [{key: "request.headers[x-sub]", values: [me]}]}]}',
  );
  const sidecar = await inboundSidecar(t, app.port, {
    resources,
    verify: () =>
      verdict({
        remove: ['authorization', 'x-sub'],
        set: [{ name: 'x-sub', value: 'me', append: false }],
        path: '/told?left=1',
      }),
  });
  const answer = await call(sidecar.port, '/told?access_token=secret&left=1', {
    headers: { authorization: 'Bearer x', 'x-sub': 'root' },
  });
  const told = JSON.parse(answer.body.toString()) as Told;
  t.equal(told.url, '/told?left=1');
  t.equal(told.headers['x-sub'], 'me');
  t.notOk('authorization' in told.headers);
  t.match((await sidecar.accessed()).at(-1), { path: '/told?left=1' });
  const split = await inboundSidecar(t, app.port, {
    verify: () => verdict({ set: [{ name: 'x-sub', value: 'a\r\nx-admin: 1', append: false }] }),
  });
  t.equal((await call(split.port, '/')).status, 401, 'an output that splits the head');
});

t.test("the order is Istio's: CUSTOM, tokens, DENY and ALLOW", async (t) => {
  const order: string[] = [];
  const sidecar = await inboundSidecar(t, app.port, {
    provider,
    resources: policy('deny', '{action: DENY, rules: [{to: [{operation: {paths: ["/status/200"]}}]}]}'),
    verify: (request) => {
      order.push(`token of ${request.headerValues('authorization').join()}`);
      return verdict();
    },
  });
  const answer = call(sidecar.port, '/status/200', { headers: { authorization: 'Bearer first' } });
  const check = await sidecar.nextCheck();
  t.same(order, [], 'the authorizer comes first');
  const field = check.request.request?.fields.find(({ name }) => name === 'authorization');
  t.equal(field?.value, 'Bearer first');
  check.answer({
    ...passed,
    set: [{ name: 'authorization', value: 'Bearer second', append: false }],
    answerFields: [{ name: 'x-checked', value: 'yes', append: false, only: null }],
  });
  const { status, headers } = await answer;
  t.same(order, ['token of Bearer second'], 'tokens are read as the authorizer left them');
  t.equal(status, 403, 'and policy decides last');
  t.equal(headers['x-checked'], 'yes', "the authorizer's fields are in any answer");
});

t.test('the authorizer is told who calls', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const answer = call(sidecar.port, '/status/200?q=1', { headers: { 'X-Two': ['a', 'b'] } });
  const check = await sidecar.nextCheck();
  check.answer(passed);
  await answer;
  const { connection, ownIdentity, sourcePort, request } = check.request;
  t.match(connection, { peer: null, sourceIp: '127.0.0.1', destinationPort: 8080 });
  t.equal(ownIdentity, null, 'plaintext');
  t.ok(sourcePort > 0);
  t.match(request, {
    method: 'GET',
    path: '/status/200?q=1',
    scheme: 'http',
    protocol: 'HTTP/1.1',
    host: 'orders.shop.svc.cluster.local',
    body: null,
    bodySize: -1,
  });
  t.same(
    request?.fields.filter(({ name }) => name === 'x-two').map(({ value }) => value),
    ['a', 'b'],
  );
});

// Each row was asked of Envoy 1.40 with `use_remote_address: false` and no trusted hops.
const FORWARDED: readonly [fields: readonly string[], remote: string | null][] = [
  [[], null],
  [['1.2.3.4'], '1.2.3.4'],
  [['1.2.3.4, 5.6.7.8'], '5.6.7.8'],
  [['1.2.3.4,5.6.7.8 '], '5.6.7.8'],
  [['1.2.3.4, '], null],
  [['1.2.3.4:99'], null],
  [['5.5.5.5, 1.2.3.4:99'], null],
  [['2001:db8::1'], '2001:db8::1'],
  [['[2001:db8::1]'], null],
  [['[2001:db8::1]:80'], null],
  [['junk'], null],
  [['1.2.3.4, junk'], null],
  [['1.2.3.4, unknown'], null],
  [['01.2.3.4'], null],
  [['1.2.3'], null],
  [['"1.2.3.4"'], null],
  [['2001:DB8:0:0::1'], '2001:db8::1'],
  [['1.1.1.1', '2.2.2.2'], '2.2.2.2'],
  [['1.1.1.1', ''], '1.1.1.1'],
  [['', '1.1.1.1'], '1.1.1.1'],
  [['fe80::1%eth0'], 'fe80::1'],
];

t.test('remote.ip is the last entry of X-Forwarded-For where that is an address', async (t) => {
  for (const [fields, remote] of FORWARDED) {
    const expected = remote ?? '127.0.0.1';
    const sidecar = await inboundSidecar(t, app.port, {
      resources: policy('remote', `{rules: [{from: [{source: {remoteIpBlocks: ["${expected}"]}}]}]}`),
    });
    const headers = { 'x-forwarded-for': [...fields] };
    t.equal((await call(sidecar.port, '/status/200', { headers })).status, 200, fields.join(' | '));
    sidecar.apply({
      resources: policy('source', '{rules: [{from: [{source: {ipBlocks: ["127.0.0.1"]}}]}]}'),
    });
    t.equal(
      (await call(sidecar.port, '/status/200', { headers })).status,
      200,
      "source.ip stays the connection's",
    );
  }
});

t.test('X-Forwarded-Client-Cert as mesh config asks', async (t) => {
  const rows: readonly [mode: string, plaintext: string | null][] = [
    ['UNDEFINED', null],
    ['SANITIZE', null],
    ['FORWARD_ONLY', null],
    ['APPEND_FORWARD', null],
    ['SANITIZE_SET', null],
    ['ALWAYS_FORWARD_ONLY', 'By=one,By=two'],
  ];
  for (const [mode, expected] of rows) {
    const sidecar = await inboundSidecar(t, app.port, {
      resources: `
apiVersion: install.istio.io/v1alpha1
kind: MeshConfig
defaultConfig: {proxyHeaders: {forwardedClientCert: ${mode}}}
`,
    });
    const answer = await call(sidecar.port, '/', {
      headers: { 'X-Forwarded-Client-Cert': ['By=one', 'By=two'], x_forwarded_client_cert: 'By=three' },
    });
    const { headers } = JSON.parse(answer.body.toString()) as Told;
    t.equal(headers['x-forwarded-client-cert'] ?? null, expected, mode);
    t.notOk('x_forwarded_client_cert' in headers, 'never its twin');
  }
});

t.test('AUDIT and dry-run policies are counted and change nothing', async (t) => {
  const dryRun = '"istio.io/dry-run": "true"';
  const sidecar = await inboundSidecar(t, app.port, {
    resources:
      policy('watch', '{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}') +
      policy('try', '{action: DENY, rules: [{to: [{operation: {paths: ["/status/*"]}}]}]}', dryRun),
  });
  for (let i = 0; i < 20; i++) t.equal((await call(sidecar.port, '/status/200')).status, 200);
  t.equal((await call(sidecar.port, '/', { method: 'POST' })).status, 200);
  t.equal(await metric(sidecar, 'oarlock_audit_matches_total', { policy: 'shop/watch' }), 20);
  t.equal(
    await metric(sidecar, 'oarlock_dry_run_decisions_total', { policy: 'shop/try', decision: 'DENY' }),
    20,
  );
  const lines = sidecar.lines.filter(({ reason }) => reason === 'dry_run_denied');
  t.match(lines[0], { policy: 'shop/try', request: 'GET /status/200', remote: /^127\.0\.0\.1:/ });
  t.ok(lines.length <= 10, `a flood gets few lines: ${lines.length}`);
});

t.test('a denial tells how near it was, and no secret', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, {
    resources: policy('keyed', '{rules: [{when: [{key: "request.headers[x-api-key]", values: [right]}]}]}'),
  });
  const refused = async (): Promise<Answer> => call(sidecar.port, '/', { headers: { 'x-api-key': 'wrong' } });
  t.equal((await refused()).status, 403);
  t.match(sidecar.lines[0], {
    reason: 'policy_denied',
    policy: 'shop/keyed',
    nearest: {
      policy: 'shop/keyed',
      rule: 0,
      field: 'when[request.headers[x-api-key]]',
      expected: ['[redacted]'],
      actual: '[redacted]',
    },
  });
  sidecar.apply({ resources: policy('get', '{rules: [{to: [{operation: {methods: [PUT]}}]}]}') });
  await refused();
  t.match(sidecar.lines[1], {
    nearest: { policy: 'shop/get', rule: 0, field: 'to.operation.methods', expected: ['PUT'], actual: 'GET' },
  });
});

t.test('a TCP connection is checked before the app is dialled', async (t) => {
  const seen = app.sockets.size;
  const sidecar = await inboundSidecar(t, app.port, { provider, protocol: 'tcp' });
  const peer = await open(t, sidecar.port);
  peer.write('GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n');
  const check = await sidecar.nextCheck();
  t.equal(check.request.request, null);
  t.equal(app.sockets.size, seen, 'not dialled');
  check.answer(passed);
  await peer.until('the answer', (text) => text.endsWith('bbb'));
  peer.abort();

  const denied = await open(t, sidecar.port);
  denied.write('x');
  (await sidecar.nextCheck()).answer({ kind: 'denied', status: 403, fields: [], body: Buffer.alloc(0) });
  t.match(await denied.ended(), /RESET/);
  t.match((await sidecar.accessed()).at(-1), {
    reason: 'ext_authz_denied',
    policy: 'shop/ask',
    response_flags: 'UAEX',
  });

  for (const failOpen of [false, true]) {
    sidecar.apply({ provider: { ...provider, failOpen } });
    const failed = await open(t, sidecar.port);
    failed.write('GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n');
    (await sidecar.nextCheck()).answer({ kind: 'failed', reason: 'out of time' });
    if (failOpen) await failed.until('the answer', (text) => text.endsWith('bbb'));
    else t.match(await failed.ended(), /RESET/);
    failed.abort();
  }
  // pilot's `buildTCP`: an HTTP provider is passed over on TCP.
  sidecar.apply({ provider: { ...provider, protocol: 'http' } });
  const unasked = await open(t, sidecar.port);
  unasked.write('GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n');
  await unasked.until('the answer', (text) => text.endsWith('bbb'));
  unasked.abort();
});

t.test('checks are counted by their results', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { provider });
  const results = ['allowed', 'denied', 'failed'];
  for (const result of results) {
    const answer = call(sidecar.port, '/status/200');
    const check = await sidecar.nextCheck();
    if (result === 'allowed') check.answer(passed);
    else if (result === 'denied')
      check.answer({ kind: 'denied', status: 403, fields: [], body: Buffer.alloc(0) });
    else check.answer({ kind: 'failed', reason: 'out of time' });
    await answer;
  }
  for (const result of results) {
    t.equal(await metric(sidecar, 'oarlock_ext_authz_checks_total', { result }), 1, result);
  }
  await until('no connection to be left open', () => sidecar.path.connections.size === 0);
});
