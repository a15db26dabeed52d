/** What the HBONE port carries, for a peer that is node:http2's: TCP, HTTP and whatever else apps say, each stream as a connection of its own. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type ClientHttp2Session, connect } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import t from 'tap';
import { echo, httpApp, type Told, tcpApp } from '../e2e/harness/apps.ts';
import { peerAuthentication, policy } from '../e2e/harness/shop.ts';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { hboneClient } from './hbone-client.ts';
import { AUTO, HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { ask, http2App, readAll } from './http2-app.ts';

const WEB = spiffe('shop', 'web');

function get(path: string, more = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: orders\r\n${more}\r\n`;
}

function statusOf(answer: string): number {
  return Number(answer.slice(9, 12));
}

function told(answer: string): Told {
  return JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4)) as Told;
}

t.test('bytes of a TCP port, both ways, whatever the mode', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { tcp: app.port });
  const client = await hboneClient(t, sidecar);
  const text = 'x'.repeat(300_000);
  for (const mode of ['STRICT', 'PERMISSIVE', 'DISABLE']) {
    await sidecar.apply(peerAuthentication(mode));
    const stream = await client.open(TCP);
    stream.write(text);
    await stream.until('the echo', (all) => all.length === text.length);
    t.equal(stream.text, text, mode);
    stream.end();
    t.equal(await stream.ended(), 'end');
    t.equal(await stream.reset, 0);
  }
  t.equal(app.seen.count, 3);
  t.equal(await sidecar.metric('istio_tcp_connections_opened_total', { reporter: 'destination' }), 3);
  t.equal(
    await sidecar.metric('istio_tcp_received_bytes_total', {
      source_principal: WEB,
      connection_security_policy: 'mutual_tls',
    }),
    3 * text.length,
  );
  const lines = await sidecar.accessed(3);
  t.strictSame(
    lines.map((line) => [line.bytes_received, line.bytes_sent, line.source_principal]),
    Array.from({ length: 3 }, () => [text.length, text.length, WEB]),
  );
});

t.test('requests in one stream, each decided, counted and logged by itself', async (t) => {
  const app = await httpApp(t);
  const sidecar = await hboneSidecar(t, {
    http: app.port,
    policies: policy('closed', '[{to: [{operation: {paths: ["/closed*"]}}]}]', 'DENY'),
  });
  const client = await hboneClient(t, sidecar);
  const stream = await client.open(HTTP);
  const first = await stream.exchange(get('/a'));
  t.equal(statusOf(first), 200);
  const { headers } = told(first);
  t.equal(headers['x-forwarded-client-cert']?.includes(`URI=${WEB}`), true, 'XFCC names the peer');
  t.match(headers['x-forwarded-client-cert'], new RegExp(`By=${spiffe('shop', 'orders')}`));
  t.equal(statusOf(await stream.exchange(get('/closed'))), 403);
  const posted = await stream.exchange('POST /b HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\nhello');
  t.equal(told(posted).bodyBytes, 5);
  t.equal(statusOf(await stream.exchange(get('/status/404'))), 404);
  t.equal(app.seen.count, 3, 'what is denied does not reach the app');
  const count = (code: string): Promise<number> =>
    sidecar.metric('istio_requests_total', {
      reporter: 'destination',
      response_code: code,
      source_principal: WEB,
      connection_security_policy: 'mutual_tls',
      destination_service: 'orders.shop.svc.cluster.local',
    });
  t.strictSame([await count('200'), await count('403'), await count('404')], [2, 1, 1]);
  t.equal(await sidecar.refusals('policy_denied'), 1);
  const lines = await sidecar.accessed(4);
  t.strictSame(
    lines.map((line) => [line.method, line.path, line.response_code]),
    [
      ['GET', '/a', 200],
      ['GET', '/closed', 403],
      ['POST', '/b', 200],
      ['GET', '/status/404', 404],
    ],
  );
});

t.test('a policy of the peer, request by request', async (t) => {
  const app = await httpApp(t);
  const sidecar = await hboneSidecar(t, {
    http: app.port,
    policies: policy('web-only', '[{from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}]}]'),
  });
  for (const [account, status] of [
    ['web', 200],
    ['other', 403],
  ] as const) {
    const stream = await (await hboneClient(t, sidecar, account)).open(HTTP);
    t.equal(statusOf(await stream.exchange(get('/'))), status, account);
  }
});

t.test('requests that are pipelined, and streams side by side', async (t) => {
  const app = await httpApp(t);
  const sidecar = await hboneSidecar(t, { http: app.port });
  const client = await hboneClient(t, sidecar);
  const streams = await Promise.all(Array.from({ length: 20 }, () => client.open(HTTP)));
  for (const [i, stream] of streams.entries())
    stream.write(get(`/status/2${i + 10}`) + get('/bytes/3000', 'Connection: close\r\n'));
  for (const [i, stream] of streams.entries()) {
    t.equal(await stream.ended(), 'end');
    t.match(stream.text, new RegExp(`^HTTP/1.1 2${i + 10} `));
    t.ok(stream.text.endsWith('b'.repeat(3000)));
  }
});

t.test('a port that nobody declared', async (t) => {
  await t.test('HTTP is told by its first bytes', async (t) => {
    const app = await httpApp(t);
    const sidecar = await hboneSidecar(t, { auto: app.port });
    const stream = await (await hboneClient(t, sidecar)).open(AUTO);
    t.equal(statusOf(await stream.exchange(get('/a'))), 200);
    t.equal(await sidecar.metric('istio_requests_total', { response_code: '200' }), 1);
  });
  await t.test('TCP by a client that speaks first', async (t) => {
    const app = await tcpApp(t, echo);
    const sidecar = await hboneSidecar(t, { auto: app.port });
    const stream = await (await hboneClient(t, sidecar)).open(AUTO);
    stream.write('\x00\x01\x02');
    await stream.until('the echo', (all) => all === '\x00\x01\x02');
  });
  await t.test('TCP by an app that speaks first', async (t) => {
    const app = await tcpApp(t, (socket) => {
      socket.write('220 hello\r\n');
      socket.pipe(socket);
    });
    const sidecar = await hboneSidecar(t, { auto: app.port });
    const stream = await (await hboneClient(t, sidecar)).open(AUTO);
    await stream.until('the greeting', (all) => all === '220 hello\r\n');
    stream.write('QUIT\r\n');
    await stream.until('the echo', (all) => all.endsWith('QUIT\r\n'));
    stream.end();
    t.equal(await stream.ended(), 'end');
  });
  await t.test('a client that only ends its side', async (t) => {
    const app = await tcpApp(t, (socket) => {
      socket.resume();
      socket.on('end', () => socket.end('bye'));
    });
    const sidecar = await hboneSidecar(t, { auto: app.port });
    const stream = await (await hboneClient(t, sidecar)).open(AUTO);
    stream.end();
    await stream.ended();
    t.equal(stream.text, 'bye');
  });
});

t.test('HTTP/2 by prior knowledge', async (t) => {
  const app = await http2App(t, async (stream) => {
    const { body } = await readAll(stream);
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(body.toUpperCase());
  });
  const plain = await httpApp(t);
  const sidecar = await hboneSidecar(t, {
    http: plain.port,
    auto: app.port,
    policies: policy('closed', '[{to: [{operation: {paths: ["/closed"]}}]}]', 'DENY'),
  });
  const client = await hboneClient(t, sidecar);
  const sessionTo = async (port: number): Promise<ClientHttp2Session> => {
    const { stream } = await client.open(port);
    const session = connect('http://orders', { createConnection: () => stream });
    t.teardown(() => session.destroy());
    return session;
  };
  const call = (session: ClientHttp2Session, path: string): ReturnType<typeof ask> =>
    ask(session, { ':method': 'POST', ':path': path, ':authority': 'orders', te: 'trailers' }, 'hello');
  const session = await sessionTo(AUTO);
  const [good, bad] = await Promise.all([call(session, '/a.B/C'), call(session, '/closed')]);
  t.match(good, { status: 200, body: 'HELLO', trailers: { 'grpc-status': '0' }, whole: true });
  t.equal(bad.status, 403);
  const http1 = await call(await sessionTo(HTTP), '/a');
  t.match(
    JSON.parse(http1.body),
    { url: '/a', bodyBytes: 5 },
    'a port declared HTTP is spoken to in HTTP/1.1',
  );
  t.equal(await sidecar.metric('istio_requests_total', { source_principal: WEB }), 3);
});

t.test('a WebSocket', async (t) => {
  const app = await tcpApp(t, (socket) => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
      socket.pipe(socket);
    });
  });
  const sidecar = await hboneSidecar(t, { http: app.port });
  const stream = await (await hboneClient(t, sidecar)).open(HTTP);
  stream.write(get('/ws', 'Connection: Upgrade\r\nUpgrade: websocket\r\n'));
  const head = await stream.until('101', (all) => all.endsWith('\r\n\r\n'));
  t.equal(statusOf(head), 101);
  stream.write('\x81\x02hi');
  await stream.until('the echo', (all) => all.endsWith('\x81\x02hi'));
  stream.end();
  t.equal(await stream.ended(), 'end');
});

t.test("a port of the app that no ingress entry leads to, at the workload's own address", async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { named: { misc: app.port } });
  const stream = await (await hboneClient(t, sidecar)).open(app.port);
  stream.write('\x00hi');
  await stream.until('the echo', (all) => all === '\x00hi');
});

const own = Object.values(networkInterfaces())
  .flatMap((all) => all ?? [])
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

t.test(
  'a port that nothing names, at an address that is the workload alone',
  { skip: own === undefined && 'this machine has no address but loopback' },
  async (t) => {
    const address = own ?? '';
    const app = createServer((_request, response) => void response.end('hello'));
    app.listen(0, address);
    await once(app, 'listening');
    t.teardown(() => app.close());
    const { port } = app.address() as AddressInfo;
    const sidecar = await hboneSidecar(t, { address });
    const stream = await (await hboneClient(t, sidecar)).open(`${address}:${port}`);
    t.equal(statusOf(await stream.exchange(get('/a'))), 200);
  },
);
