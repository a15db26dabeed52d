/** Told to stop, a sidecar finishes what runs, takes nothing new, and is gone in time. */
import { request } from 'node:http';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, keepAlive, open } from './harness/clients.ts';
import { health, Mesh, type Sidecar } from './harness/mesh.ts';
import { peerAuthentication, shop, shopPorts } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
mesh.write('modes.yaml', peerAuthentication('PERMISSIVE').replace('istio-system', 'shop'));
const leaf = await mesh.ca.leaf(spiffe('shop', 'web'));

/** An echo that has echoed once, so that it is surely carried. */
async function carried(t: Test) {
  const peer = await openTls(t, ports.ordersTcp, { leaf, ALPNProtocols: ['istio'] });
  peer.write('a');
  await peer.until('the echo', (text) => text === 'a');
  return peer;
}

async function refused(t: Test, port: number): Promise<boolean> {
  return open(t, port).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED',
  );
}

t.test('SIGTERM: a slow request finishes, idle connections close, new ones are refused', async (t) => {
  const orders = await mesh.sidecar('orders', '--drain', '15s');
  const web = await mesh.sidecar('web');
  const agent = keepAlive(t);
  t.equal((await call(ports.ordersHttp, '/tell', { agent })).status, 200);
  const idle = await open(t, ports.ordersHttp);
  idle.write('GET /tell HTTP/1.1\r\nHost: a\r\n\r\n');
  await idle.until('an answer', (text) => text.includes('}'));
  const silent = await open(t, ports.ordersHttp);
  const before = app.seen.count;
  const { mark } = orders;
  // One over the pair, one in plaintext straight to the sidecar that stops.
  const slow = [call(ports.http, '/slow/4000'), call(ports.ordersHttp, '/slow/4000')];
  await until('both requests to be at the app', () => app.seen.count === before + 2);

  const inUse = await open(t, ports.ordersHttp);
  const began = performance.now();
  orders.process.signal('SIGTERM');
  await orders.logged({ msg: /^drain begins/ }, mark);
  inUse.write('GET /tell HTTP/1.1\r\nHost: a\r\n\r\n');
  t.match(
    await inUse.until('an answer', (text) => text.includes('}')),
    /connection: close/,
    'one that is used again is answered, and told that it ends',
  );
  t.equal(await inUse.ended(), 'end');
  t.match(await idle.ended(), /end|ECONNRESET|closed/, 'an idle kept connection is closed');
  t.match(await silent.ended(), /end|ECONNRESET|closed/, 'so is one that has not spoken');
  const waited = performance.now() - began;
  // Before the slow ones were answered, which take four.
  t.ok(waited > 900 && waited < 3_900, `after the second that a request on its way may take: ${waited} ms`);
  await until('the port to be closed', () => refused(t, ports.ordersHttp));
  t.ok(await refused(t, ports.ordersTcp), 'new connections are refused');
  const checked = await health(orders.ports.health ?? 0);
  t.equal(checked.status, 503, 'not ready while it drains');
  for (const { status } of await Promise.all(slow)) t.equal(status, 200, 'the slow request is answered');
  t.same(await orders.process.end(), { code: 0, signal: null });
  t.ok(performance.now() - began < 15_000, 'within --drain');
  t.equal(
    orders.process.stderr.matching({ type: 'access', path: '/slow/4000' }).length,
    2,
    'both are in its log',
  );

  const { status } = await call(ports.http, '/tell');
  t.equal(status, 503, "the caller's sidecar says so while the callee is gone");
  await web.process.kill();
});

t.test(
  "SIGTERM to the caller's sidecar: the answer still comes, and says that the connection ends",
  async (t) => {
    const orders = await mesh.sidecar('orders');
    const web = await mesh.sidecar('web');
    const before = app.seen.count;
    const slow = call(ports.http, '/slow/1000', { agent: keepAlive(t) });
    await until('the request to be at the app', () => app.seen.count === before + 1);
    web.process.signal('SIGTERM');
    const { status, headers } = await slow;
    t.equal(status, 200);
    t.equal(headers.connection, 'close');
    t.same(await web.process.end(), { code: 0, signal: null });
    await orders.process.kill();
  },
);

t.test('a TCP connection that will not end is cut when --drain is over', async (t) => {
  const orders = await mesh.sidecar('orders', '--drain', '1s');
  const peer = await carried(t);
  const began = performance.now();
  orders.process.signal('SIGTERM');
  peer.write('b');
  await peer.until('the echo', (text) => text === 'ab');
  await peer.ended();
  t.ok(performance.now() - began >= 900, 'it had its second');
  t.same(await orders.process.end(), { code: 0, signal: null });
  t.ok(performance.now() - began < 10_000, 'and not for ever');
});

t.test('a second SIGTERM ends it at once', async (t) => {
  const orders = await mesh.sidecar('orders', '--drain', '300s');
  const peer = await carried(t);
  const { mark } = orders;
  orders.process.signal('SIGTERM');
  await orders.logged({ msg: 'stopping' }, mark);
  orders.process.signal('SIGTERM');
  // Long before the drain would be over.
  await orders.process.end();
  t.not(await peer.ended(), null);
});

t.test('POST /quitquitquit on the metrics port', async (t) => {
  const orders = await mesh.sidecar('orders');
  const rows = [
    { title: 'GET is no order to stop', method: 'GET', headers: {}, status: 405 },
    { title: 'nor is a web page', method: 'POST', headers: { origin: 'http://evil.example' }, status: 403 },
    { title: 'POST is', method: 'POST', headers: {}, status: 200 },
  ];
  for (const { title, status, ...options } of rows) t.equal(await quit(orders, options), status, title);
  t.same(await orders.process.end(), { code: 0, signal: null });
});

function quit(
  sidecar: Sidecar,
  options: { method: string; headers: Record<string, string> },
): Promise<number> {
  const { metrics: port = 0 } = sidecar.ports;
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: '127.0.0.1', port, path: '/quitquitquit', ...options }, (answer) => {
      answer.resume();
      resolve(answer.statusCode ?? 0);
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}
