/** CUSTOM policies in a running sidecar: providers of mesh config are asked, in plaintext and through the mesh. */
import t from 'tap';
import { grpcProvider, httpProvider } from '../providers/check-server.ts';
import { echo, httpApp, type Told, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { ingress, service, sidecar, workload } from './harness/resources.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const [guardIngress = 0] = await freePorts(1);
const login = await httpProvider(t);
const guard = await grpcProvider(t);

const GRPC = { name: 'grpc', protocol: 'GRPC' };
/** `login` has no sidecar; `guard` has one, and takes nothing but mTLS. */
const providers = (more = ''): string => `
apiVersion: install.istio.io/v1alpha1
kind: MeshConfig
extensionProviders:
- name: login
  envoyExtAuthzHttp:
    service: login.shop.svc.cluster.local
    port: 80
    timeout: 20s
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-user]
    headersToUpstreamOnAllow: [x-role]
    headersToDownstreamOnAllow: [x-limit]
    headersToDownstreamOnDeny: [location]
    includeRequestBodyInCheck: {maxRequestBytes: 10}${more}
- name: guard
  envoyExtAuthzGrpc: {service: shop/guard.shop.svc.cluster.local, port: 9000, timeout: 20s${more.replace('\n   ', ',')}}
- name: nowhere
  envoyExtAuthzGrpc: {service: nowhere.shop.svc.cluster.local, port: 9000, failOpen: true}
---
${service('login', [{ number: 80, name: 'http', protocol: 'HTTP' }], `[{address: 127.0.0.1, ports: {http: ${login.port}}}]`)}---
${service('guard', [{ number: 9_000, ...GRPC }])}---
${workload('guard', { grpc: guardIngress })}---
${sidecar('guard', { ingress: [ingress({ number: guardIngress, ...GRPC }, guard.port)] })}---
`;

const custom = (provider: string, rules: string): string =>
  policy('ask', rules, `CUSTOM\n  provider: {name: ${provider}}`);

const mesh = await Mesh.create(t, shop(ports, { http: http.port, tcp: tcp.port }));
mesh.write('providers.yaml', providers());
mesh.write('policy.yaml', custom('login', '[{to: [{operation: {paths: ["/told*", "/echo"]}}]}]'));
const [orders, , guarding] = await Promise.all([
  mesh.sidecar('orders', '--access-log', 'stderr'),
  mesh.sidecar('web'),
  mesh.sidecar('guard', '--access-log', 'stderr'),
]);

t.test('over HTTP: what matches is asked about, and goes on as the provider says', async (t) => {
  login.answer = () => ({ status: 200, fields: ['x-role', 'admin', 'x-limit', '5', 'x-other', '1'] });
  const answer = await call(ports.http, '/told?a=b', {
    headers: { 'x-user': 'ann', 'x-role': 'none', 'x-secret': '1' },
  });
  t.equal(answer.status, 200);
  t.equal(answer.headers['x-limit'], '5');
  const { headers } = JSON.parse(answer.body.toString()) as Told;
  t.equal(headers['x-role'], 'admin');
  t.notOk('x-other' in headers);
  const [check] = login.seen;
  t.match(check, { method: 'GET', path: '/check/told?a=b' });
  const sent = new Map(check?.fields);
  t.equal(sent.get('x-user'), 'ann');
  t.notOk(sent.has('x-secret'));
  const before = login.seen.length;
  t.equal((await call(ports.http, '/status/204')).status, 204);
  t.equal(login.seen.length, before, 'what no CUSTOM rule matches is not asked about');
});

t.test("over HTTP: a denial is the provider's own answer", async (t) => {
  login.answer = () => ({
    status: 302,
    fields: ['location', 'https://login.example/', 'x-hidden', '1'],
    body: 'go',
  });
  const mark = orders.mark;
  const before = http.seen.count;
  const answer = await call(ports.http, '/told');
  t.equal(answer.status, 302);
  t.equal(answer.headers.location, 'https://login.example/');
  t.notOk('x-hidden' in answer.headers);
  t.equal(answer.body.toString(), 'go');
  t.equal(http.seen.count, before, 'the app saw nothing');
  t.match(await orders.logged({ reason: 'ext_authz_denied' }, mark), {
    policy: 'shop/ask',
    detail: 'login answered 302',
  });
  t.match(await orders.accessed({ response_code: 302 }, mark), {
    response_flags: 'UAEX',
    response_code_details: 'ext_authz_denied',
  });
});

t.test('over HTTP: the body is shown, and still arrives', async (t) => {
  login.answer = (request) => ({ status: request.body === '0123456789' ? 200 : 403 });
  for (const chunked of [false, true]) {
    const body = '0123456789';
    const answer = await call(ports.http, '/echo', { method: 'POST', body, chunked });
    t.same([answer.status, answer.body.toString()], [200, body], `chunked: ${chunked}`);
    t.equal((await call(ports.http, '/echo', { method: 'POST', body: `${body}a`, chunked })).status, 413);
    t.equal((await call(ports.http, '/echo', { method: 'POST', body: 'other', chunked })).status, 403);
  }
});

t.test('over gRPC, through the mesh: the provider has a sidecar that is STRICT', async (t) => {
  await mesh.change('policy.yaml', custom('guard', '[{to: [{operation: {paths: ["/told*"]}}]}]'), [orders]);
  guard.answer = () => ({
    message: { status: {}, ok_response: { headers: [{ header: { key: 'x-role', value: 'guarded' } }] } },
  });
  const mark = guarding.mark;
  const answer = await call(ports.http, '/told');
  t.equal(answer.status, 200);
  t.equal((JSON.parse(answer.body.toString()) as Told).headers['x-role'], 'guarded');
  t.equal(guard.seen.length, 1);
  const { message } = guard.seen[0] ?? {};
  t.match(JSON.stringify(message), /spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web/, 'it is told who calls');
  guard.answer = () => ({
    message: { status: { code: 7 }, denied_response: { status: { code: 429 }, body: 'slowly' } },
  });
  const denied = await call(ports.http, '/told');
  t.same([denied.status, denied.body.toString()], [429, 'slowly']);
  await guard.stop();
  t.match(await guarding.accessed({}, mark), {
    source_principal: 'spiffe://cluster.local/ns/shop/sa/orders',
    connection_security_policy: 'mutual_tls',
  });
});

t.test('a provider that is gone denies, unless it fails open', async (t) => {
  const mark = orders.mark;
  t.equal((await call(ports.http, '/told')).status, 403);
  t.match(await orders.logged({ reason: 'ext_authz_failed' }, mark), {
    policy: 'shop/ask',
    detail: /^guard: /,
  });
  await mesh.change('providers.yaml', providers('\n    failOpen: true'), [orders]);
  t.equal((await call(ports.http, '/told')).status, 200);
  await orders.logged({ reason: 'ext_authz_failed_open' }, mark);
});

t.test('a provider whose service nobody knows denies whatever failOpen says', async (t) => {
  await mesh.change('policy.yaml', custom('nowhere', '[{to: [{operation: {paths: ["/told*"]}}]}]'), [orders]);
  const answer = await call(ports.http, '/told');
  t.same([answer.status, answer.body.toString()], [403, 'RBAC: access denied']);
  t.equal((await call(ports.http, '/status/200')).status, 200, 'what its rules do not match passes');
});

t.test('TCP: a connection is checked before the app sees it', async (t) => {
  await mesh.change('providers.yaml', providers(), [orders]);
  await mesh.change(
    'policy.yaml',
    custom('guard', `[{to: [{operation: {ports: ["${ports.ordersTcp}"]}}]}]`),
    [orders],
  );
  const again = await grpcProvider(t, guard.port);
  // The way to the provider that just went away may take a moment to be found dead.
  const peer = await until('an echo', async () => {
    const one = await open(t, ports.tcp);
    one.write('hello');
    await one.until('the echo', (text) => text === 'hello');
    return one;
  });
  t.ok(again.seen.length >= 1);
  peer.end();
  again.answer = () => ({ message: { status: { code: 7 } } });
  const mark = orders.mark;
  const denied = await open(t, ports.tcp);
  denied.write('hello');
  await denied.ended();
  t.equal(denied.text, '');
  t.match(await orders.logged({ reason: 'ext_authz_denied' }, mark), {
    policy: 'shop/ask',
    port: ports.ordersTcp,
  });
  await until(
    'no connection to be left',
    async () => (await orders.metric('oarlock_connections_open')) === 0,
  );
});
