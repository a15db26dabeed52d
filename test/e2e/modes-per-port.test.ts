/** STRICT, PERMISSIVE and DISABLE stand side by side on one workload's ports, and change while connections live. */
import { createServer as createTlsServer } from 'node:tls';
import t from 'tap';
import { echo, httpApp, listen, tcpApp } from './harness/apps.ts';
import { call, keepAlive, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { ingress, sidecar, workload } from './harness/resources.ts';
import { spiffe, TestCa } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP, openTls } from './harness/tls-client.ts';
import { pause } from './harness/wait.ts';

t.setTimeout(180_000);

const http = await httpApp(t);
const echoes = await tcpApp(t, echo);
const greeter = await tcpApp(t, (socket) => socket.write('220 ready\r\n'));

/** An app with TLS of its own, of a CA the mesh does not know. */
const appLeaf = await (await TestCa.create('O=the app')).leaf(null, { dns: ['app.example'] });
const tlsApp = await listen(
  t,
  createTlsServer({ cert: appLeaf.cert, key: appLeaf.key, ALPNProtocols: ['istio', 'h2'] }, (socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.end("the app's own TLS"));
  }),
);

const names = [
  'strictHttp',
  'strictUndeclared',
  'permissiveHttp',
  'permissiveTcp',
  'permissiveTls',
  'permissiveUndeclared',
  'permissiveUndeclaredTls',
  'permissiveUndeclaredTcp',
  'disableHttp',
  'disableTls',
  'disableGreeter',
  'changing',
  'changingHttp',
] as const;
const free = await freePorts(names.length);
const port = Object.fromEntries(names.map((name, i) => [name, free[i] ?? 0])) as Record<
  (typeof names)[number],
  number
>;

const ports = [
  { port: port.strictHttp, name: 'http-strict', app: http },
  { port: port.strictUndeclared, name: 'nothing', app: echoes },
  { port: port.permissiveHttp, name: 'http-permissive', app: http },
  { port: port.permissiveTcp, name: 'tcp-permissive', app: echoes },
  { port: port.permissiveTls, name: 'tcp-tls', app: tlsApp },
  { port: port.permissiveUndeclared, name: 'anything', app: http },
  { port: port.permissiveUndeclaredTls, name: 'whatever', app: tlsApp },
  { port: port.permissiveUndeclaredTcp, name: 'something', app: echoes },
  { port: port.disableHttp, name: 'http-disable', app: http },
  { port: port.disableTls, name: 'tcp-disable', app: tlsApp },
  { port: port.disableGreeter, name: 'tcp-greeter', app: greeter },
  { port: port.changing, name: 'tcp-changing', app: echoes },
  { port: port.changingHttp, name: 'http-changing', app: http },
];

function modes(changing: string): string {
  return `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  mtls: {mode: PERMISSIVE}
  portLevelMtls:
    ${port.strictHttp}: {mode: STRICT}
    ${port.strictUndeclared}: {mode: STRICT}
    ${port.disableHttp}: {mode: DISABLE}
    ${port.disableTls}: {mode: DISABLE}
    ${port.disableGreeter}: {mode: DISABLE}
    ${port.changing}: {mode: ${changing}}
    ${port.changingHttp}: {mode: ${changing}}
`;
}

const mesh = await Mesh.create(
  t,
  [
    workload('orders'),
    sidecar('orders', {
      ingress: ports.map(({ port, name, app }) => ingress({ number: port, name }, app.port)),
    }),
  ].join('---\n'),
);
mesh.write('modes.yaml', modes('PERMISSIVE'));
// What a switch refuses is refused at once here; that nobody notices it otherwise: mode-flips.test.ts.
const orders = await mesh.sidecar('orders', '--mode-grace', '1ms');
const leaf = await mesh.ca.leaf(spiffe('shop', 'web'));
const istio = { leaf, ALPNProtocols: ISTIO_HTTP };

t.test('plaintext HTTP', async (t) => {
  const rows = [
    { name: 'strictHttp', answer: 'reset' },
    { name: 'permissiveHttp', answer: 200 },
    { name: 'permissiveUndeclared', answer: 200 },
    { name: 'disableHttp', answer: 200 },
  ] as const;
  for (const { name, answer } of rows) {
    const got = await call(port[name], '/tell').then(
      ({ status }) => status,
      (error: NodeJS.ErrnoException) => (error.code === 'ECONNRESET' ? 'reset' : String(error)),
    );
    t.equal(got, answer, name);
  }
});

t.test("a mesh peer's mTLS is terminated", async (t) => {
  const rows = [
    { name: 'strictHttp', alpn: ISTIO_HTTP },
    { name: 'strictHttp', alpn: undefined },
    { name: 'permissiveHttp', alpn: ISTIO_HTTP },
    { name: 'permissiveHttp', alpn: ['istio'] },
    { name: 'permissiveUndeclared', alpn: ISTIO_HTTP },
  ] as const;
  for (const { name, alpn } of rows) {
    const call = alpn === undefined ? { leaf } : { leaf, ALPNProtocols: [...alpn] };
    t.equal(await attempt(t, port[name], call), 200, `${name} with ${alpn ?? 'no ALPN'}`);
  }
  const tcp = await openTls(t, port.permissiveTcp, { leaf, ALPNProtocols: ['istio'] });
  tcp.write('over mTLS');
  t.equal(await tcp.until('the echo', (text) => text.length === 9), 'over mTLS');
  t.equal(tcp.tls.getPeerX509Certificate()?.subjectAltName, 'URI:spiffe://cluster.local/ns/shop/sa/orders');
});

t.test("an app's own TLS reaches it untouched where the port is TCP or undeclared, or DISABLE", async (t) => {
  const rows = [
    { name: 'permissiveTls', alpn: undefined },
    { name: 'permissiveTls', alpn: ['h2'] },
    { name: 'permissiveUndeclaredTls', alpn: undefined },
    { name: 'disableTls', alpn: undefined },
    { name: 'disableTls', alpn: ['istio'] },
  ] as const;
  for (const { name, alpn } of rows) {
    const title = `${name} with ${alpn ?? 'no ALPN'}`;
    const peer = await openTls(t, port[name], {
      leaf,
      ...(alpn === undefined ? {} : { ALPNProtocols: [...alpn] }),
    });
    t.equal(
      peer.tls.getPeerX509Certificate()?.subjectAltName,
      'DNS:app.example',
      `${title}: the app's certificate`,
    );
    peer.write('hello');
    await peer.ended();
    t.equal(peer.text, "the app's own TLS", title);
  }
});

t.test("TLS that is not the mesh's is refused on a PERMISSIVE port declared HTTP", async (t) => {
  const { mark } = orders;
  const before = await orders.refusals('tls_not_istio');
  await t.rejects(openTls(t, port.permissiveHttp, { leaf: null }));
  await t.rejects(openTls(t, port.permissiveHttp, { leaf, ALPNProtocols: ['h2', 'http/1.1'] }));
  t.match((await orders.logged({ reason: 'tls_not_istio' }, mark)).msg, /TLS/);
  await orders.metricIs(
    'oarlock_refusals_total',
    { reason: 'tls_not_istio', direction: 'inbound' },
    before + 2,
  );
});

t.test('a server that speaks first is heard on a DISABLE port declared TCP', async (t) => {
  const peer = await open(t, port.disableGreeter);
  t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), '220 ready\r\n');
});

t.test('an undeclared port carries TCP of any first word, half-close included', async (t) => {
  const rows = ['HELLO', 'HELLO\r\n', 'hello there', '\0\x01\x02', 'G', 'GET'];
  for (const text of rows) {
    const plain = await open(t, port.permissiveUndeclaredTcp);
    const secure = await openTls(t, port.permissiveUndeclaredTcp, { leaf, ALPNProtocols: ['istio'] });
    for (const peer of [plain, secure]) {
      peer.write(text);
      peer.end();
      t.equal(await peer.ended(), 'end', JSON.stringify(text));
      t.equal(peer.text, text, peer === plain ? 'in plaintext' : 'over mTLS');
    }
  }
});

t.test('an undeclared port carries no request as TCP, in plaintext or over mTLS without ALPN', async (t) => {
  const both = async () => [
    await open(t, port.permissiveUndeclaredTcp),
    await openTls(t, port.strictUndeclared, { leaf }),
  ];
  for (const text of ['GET HTTP://x/admin HTTP/1.1\r\n\r\n', '\r\nGET  /admin HTTP/1.1\r\n\r\n']) {
    for (const peer of await both()) {
      peer.write(text);
      await peer.ended();
      t.match(peer.text, /^HTTP\/1\.1 400 /, JSON.stringify(text));
    }
  }
  const { mark } = orders;
  const slow = await both();
  for (const peer of slow) peer.write('GE');
  for (const peer of slow) {
    t.equal(await peer.ended(), 'ECONNRESET', 'not carried for having waited');
    t.equal(peer.text, '');
  }
  await orders.logged({ reason: 'request_timeout', detail: '2 bytes of what may be a request line' }, mark);
});

t.test('PERMISSIVE to STRICT ends live plaintext connections, and those alone', async (t) => {
  const plain = await open(t, port.changing);
  const secure = await openTls(t, port.changing, { leaf, ALPNProtocols: ['istio'] });
  const elsewhere = await open(t, port.permissiveTcp);
  const agent = keepAlive(t);
  for (const peer of [plain, secure, elsewhere]) {
    peer.write('before');
    await peer.until('the echo', (text) => text === 'before');
  }
  const idle = await call(port.changingHttp, '/tell', { agent });
  t.equal(idle.status, 200);
  const plainHttp = await open(t, port.changingHttp);
  plainHttp.write('GET /tell HTTP/1.1\r\nHost: a\r\n\r\n');
  await plainHttp.until('an answer', (text) => text.includes('}'));
  const secureHttp = await openTls(t, port.changingHttp, istio);
  t.equal(await secureHttp.get('/tell'), 200);

  const { mark } = orders;
  await mesh.change('modes.yaml', modes('STRICT'), [orders]);
  t.equal(await plain.ended(), 'ECONNRESET', 'plaintext TCP');
  t.not(await plainHttp.ended(), null, 'plaintext HTTP, though idle');
  const line = await orders.logged({ reason: 'plaintext_to_strict' }, mark);
  t.match(line.policy, 'shop/orders', 'the log names the resource that did it');
  for (const peer of [secure, elsewhere]) {
    peer.write(' and after');
    t.equal(await peer.until('the echo', (text) => text.length === 16), 'before and after');
  }
  t.equal(await secureHttp.get('/tell'), 200, 'mTLS HTTP goes on');
  await t.rejects(call(port.changingHttp, '/tell'), 'no new plaintext');

  await mesh.change('modes.yaml', modes('PERMISSIVE'), [orders]);
  t.equal((await call(port.changingHttp, '/tell')).status, 200, 'back again');
  await pause(50);
  t.equal(secure.over, null, 'and the mTLS connection has outlived it all');
});

t.test('PERMISSIVE to DISABLE: new TLS is no longer terminated', async (t) => {
  await mesh.change('modes.yaml', modes('DISABLE'), [orders]);
  t.equal((await call(port.changingHttp, '/tell')).status, 200);
  await t.rejects(openTls(t, port.changing, { leaf, ALPNProtocols: ['istio'] }), 'the echo is no TLS server');
});
