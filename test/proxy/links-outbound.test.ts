/** Connections of ours to peers whose certificates live for seconds: HTTP/1 and HTTP/2 move over in time, TCP and what runs end with them. */
import { X509Certificate } from 'node:crypto';
import { createSecureServer, type SecureServerOptions, type ServerHttp2Stream } from 'node:http2';
import { createServer as createHttps } from 'node:https';
import type { Server } from 'node:net';
import { createServer as createTls, type Server as TlsServer } from 'node:tls';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { LocalPlane } from '../../cli/data-plane.ts';
import { parseDocuments } from '../../config/documents.ts';
import { compileSnapshot } from '../../config/snapshot.ts';
import { limitsWith } from '../../mesh/limits.ts';
import { problemLine } from '../../mesh/resource.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { listen } from '../e2e/harness/apps.ts';
import { call, keepAlive, open } from '../e2e/harness/clients.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { egress, hostOf, sidecar, workload } from '../e2e/harness/resources.ts';
import { type Leaf, spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { pause, until } from '../e2e/harness/wait.ts';
import { ask, http2Client } from './http2-app.ts';
import { credentialsOf } from './inbound-sidecar.ts';
import { leavePlane } from './leave-plane.ts';

t.setTimeout(180_000);

const LIFE = 5_000;
/** Between the end of a certificate and what a busy machine shows of it. */
const SLACK = 3_000;
const ca = await TestCa.create();
const long = await ca.leaf(spiffe('shop', 'orders'));

type Line = Readonly<Record<string, unknown>>;

interface Scene {
  /** Where the app dials. */
  readonly port: number;
  readonly lines: readonly Line[];
  readonly notAfter: number;
  readonly plane: LocalPlane;
  /** The peer shows a new certificate from now on. */
  renew(): void;
}

/** The sidecar of `web`, and a peer in TLS that `make` makes: its certificate ends soon. */
async function scene(
  t: Test,
  protocol: 'HTTP' | 'HTTP2' | 'TCP',
  make: (tls: Leaf) => TlsServer,
  life = LIFE,
): Promise<Scene> {
  const leaf = await ca.leaf(spiffe('shop', 'orders'), { to: life });
  const server = make(leaf);
  const peer = await listen(t, server as Server);
  const [port = 0] = await freePorts(1);
  const lines: Line[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => performance.now(), cluster: 'test' });
  const plane = new LocalPlane(
    {
      limits: limitsWith({ drain: 20 }),
      bind: '127.0.0.1',
      accessLog: { accessLog: `${tempDir(t)}/access.log`, accessLogEncoding: 'json' },
      reusePort: false,
    },
    log,
    metrics,
  );
  const named = { number: port, name: protocol.toLowerCase(), protocol };
  const yaml = [
    `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: shop}
spec:
  hosts: [${hostOf('orders')}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: ${port}, name: ${named.name}, protocol: ${protocol}}]
  endpoints: [{address: 127.0.0.1, serviceAccount: orders, ports: {${named.name}: ${peer.port}}}]
`,
    `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: ${hostOf('orders')}
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}
`,
    workload('web'),
    sidecar('web', { egress: [egress(named, hostOf('orders'))] }),
  ].join('---\n');
  const { resources, problems } = parseDocuments(yaml, 'test.yaml');
  const { snapshot, problems: all } = compileSnapshot({
    resources,
    problems,
    workload: { entry: 'shop/web' },
    overrides: {},
    intercept: 'none',
    generation: 1,
  });
  if (snapshot === null) throw new Error(all.map(problemLine).join('\n'));
  await plane.apply(snapshot, { capture: null, hbone: null, hboneNeeded: false, others: [] });
  plane.useCredentials(credentialsOf(await ca.leaf(spiffe('shop', 'web'))));
  t.teardown(() => leavePlane(plane, log, 20));
  return {
    port,
    lines,
    plane,
    notAfter: new X509Certificate(leaf.cert).validToDate.getTime(),
    renew: () => server.setSecureContext({ cert: long.cert, key: long.key, ca: long.ca }),
  };
}

function tlsOf({ cert, key, ca }: Leaf): SecureServerOptions {
  return { cert, key, ca, requestCert: true, minVersion: 'TLSv1.3' };
}

t.test('HTTP/1: kept connections are given up in time, and no request fails', async (t) => {
  const shown = new Set<string>();
  const { port, notAfter, renew } = await scene(
    t,
    'HTTP',
    (leaf) =>
      createHttps({ ...tlsOf(leaf), ALPNProtocols: ['istio-http/1.1', 'http/1.1'] }, (request, response) => {
        shown.add(String(request.socket.remotePort));
        response.end('ok');
      }) as unknown as TlsServer,
  );
  const agent = keepAlive(t);
  const statuses = new Set<number>();
  t.equal((await call(port, '/', { agent, method: 'POST', body: 'x' })).status, 200);
  t.equal((await call(port, '/', { agent, method: 'POST', body: 'x' })).status, 200);
  t.equal(shown.size, 1, 'one connection serves many');
  renew();
  const moved = await until('another connection', async () => {
    statuses.add((await call(port, '/', { agent, method: 'POST', body: 'x' })).status);
    return shown.size > 1 ? Date.now() : null;
  });
  t.ok(moved < notAfter, `${notAfter - moved} ms before the end`);
  while (Date.now() < notAfter + 300) {
    statuses.add((await call(port, '/', { agent, method: 'POST', body: 'x' })).status);
    await pause(10);
  }
  t.same([...statuses], [200]);
});

t.test('HTTP/2: the session takes nothing new in time; a stream that runs is cut at the end', async (t) => {
  const sessions: unknown[] = [];
  const { port, lines, notAfter, renew } = await scene(t, 'HTTP2', (leaf) => {
    const server = createSecureServer({ ...tlsOf(leaf), ALPNProtocols: ['istio-h2', 'h2'] });
    server.on('session', (session) => {
      sessions.push(session);
      session.on('error', () => {});
    });
    server.on('stream', (stream: ServerHttp2Stream, headers) => {
      stream.on('error', () => {});
      stream.respond({ ':status': 200 });
      if (headers[':path'] === '/endless') stream.write('begun');
      else stream.end('ok');
    });
    return server as unknown as TlsServer;
  });
  const session = http2Client(t, port);
  const endless = session.request({ ':path': '/endless', ':authority': hostOf('orders') });
  endless.on('error', () => {});
  await new Promise((resolve) => endless.once('data', resolve));
  const cut = new Promise<number>((resolve) => endless.on('close', () => resolve(Date.now())));
  renew();
  await until('another session', async () => {
    t.equal((await ask(session, { ':path': '/', ':authority': hostOf('orders') })).status, 200);
    return sessions.length > 1;
  });
  t.ok(Date.now() < notAfter);
  t.notOk(endless.closed, 'what runs goes on');
  endless.resume();
  const late = (await cut) - notAfter;
  t.ok(late >= -50 && late < SLACK, `cut ${late} ms after the end`);
  t.not(endless.rstCode, 0);
  const line = await until('the log line', () => lines.find(({ reason }) => reason === 'peer_expired'));
  t.match(line, {
    direction: 'outbound',
    detail: new RegExp(`^${spiffe('shop', 'orders')} was valid until`),
  });
  t.equal((await ask(session, { ':path': '/', ':authority': hostOf('orders') })).status, 200);
});

function echoes(leaf: Leaf): TlsServer {
  return createTls({ ...tlsOf(leaf), ALPNProtocols: ['istio'] }, (socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
}

t.test('TCP: bytes intact until the end, and then a reset', async (t) => {
  const { port, lines, notAfter } = await scene(t, 'TCP', echoes);
  const peer = await open(t, port);
  let sent = '';
  const writing = setInterval(() => {
    const word = `${sent.length},`;
    sent += word;
    peer.write(word);
  }, 20);
  t.teardown(() => clearInterval(writing));
  t.equal(await peer.ended(), 'ECONNRESET');
  const late = Date.now() - notAfter;
  t.ok(late >= -50 && late < SLACK, `${late} ms after the end`);
  t.ok(sent.startsWith(peer.text) && peer.text.length > 200, `${peer.text.length} bytes, intact`);
  const line = await until('the log line', () => lines.find(({ reason }) => reason === 'peer_expired'));
  t.match(line, { direction: 'outbound', detail: /was valid until/ });
});

t.test('of a peer that is refused now our connections are closed at once', async (t) => {
  const { port, lines, plane } = await scene(t, 'TCP', echoes, 3_600_000);
  const peer = await open(t, port);
  peer.write('here');
  await peer.until('the echo', (text) => text === 'here');
  const listed = async () => (await plane.report()).peers;
  t.match(await listed(), [{ identity: spiffe('shop', 'orders'), direction: 'outbound', connections: 1 }]);
  const others = await TestCa.create('O=another');
  plane.useCredentials(credentialsOf(await others.leaf(spiffe('shop', 'web'))));
  t.equal(await peer.ended(), 'ECONNRESET');
  await until('the log line', () => lines.find(({ reason }) => reason === 'untrusted_issuer'));
  t.same(await listed(), []);
});
