/** Captured connections of both sides on the data path, with a kernel that says what the test wants said. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import t, { type Test } from 'tap';
import { Capture } from '../../proxy/setup/capture.ts';
import { Listeners } from '../../proxy/setup/listeners.ts';
import { LocalAddresses } from '../../proxy/setup/local-addresses.ts';
import type { OriginalDestination } from '../../proxy/setup/original-destination.ts';
import { type App, echo, httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { call, keepAlive, open, Peer } from '../e2e/harness/clients.ts';
import { sumOf } from '../e2e/harness/mesh.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { ISTIO_HTTP, openTls } from '../e2e/harness/tls-client.ts';
import { until } from '../e2e/harness/wait.ts';
import {
  credentialsOf,
  type InboundSidecar,
  inboundSidecar,
  type SidecarOptions,
} from './inbound-sidecar.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const web = await ca.leaf(spiffe('shop', 'web'));
const VIP = '10.96.0.1';
const STRANGER = '127.0.0.77';

interface Scene extends InboundSidecar {
  readonly outbound: number;
  readonly inbound: number;
  readonly listeners: Listeners;
  /** What the kernel says of each connection from now on. */
  goingTo(said: OriginalDestination | null | Error): void;
  metric(name: string, labels: Readonly<Record<string, string>>): Promise<number>;
}

async function scene(t: Test, options: SidecarOptions = {}): Promise<Scene> {
  let said: OriginalDestination | null | Error = null;
  const sidecar = await inboundSidecar(t, 1, { leaf: orders, intercept: 'redirect', ...options });
  const ask = (): OriginalDestination | null => {
    if (said instanceof Error) throw said;
    return said;
  };
  const listeners = new Listeners(sidecar.path, { bind: '127.0.0.1', reusePort: false, ask });
  await listeners.listen({
    capture: { outbound: 0, inbound: 0, nonce: 'sesame' },
    hbone: null,
    hboneNeeded: false,
    others: [15_000],
  });
  t.teardown(() => listeners.close());
  const { outbound = 0, inbound = 0 } = listeners.ports();
  return {
    ...sidecar,
    outbound,
    inbound,
    listeners,
    goingTo: (next) => {
      said = next;
    },
    metric: async (name, labels) => sumOf((await sidecar.path.metrics.text()).toString(), name, labels),
  };
}

/** Connects without waiting for it: who is refused may be reset before it hears that it was accepted. */
function enter(t: Test, port: number): Peer {
  const socket = connect({ port, host: '127.0.0.1' });
  t.teardown(() => socket.destroy());
  return new Peer(socket);
}

const entry = (
  host: string,
  { addresses = [], port, protocol, to }: { addresses?: string[]; port: number; protocol: string; to: App },
): string => `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ${host.split('.')[0]}, namespace: shop}
spec:
  hosts: [${host}]
  addresses: [${addresses.join(', ')}]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: ${port}, name: p, protocol: ${protocol}}]
  endpoints: [{address: 127.0.0.1, ports: {p: ${to.port}}}]
---
`;
const REGISTRY_ONLY = 'kind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n---\n';

t.test('out of the app', async (t) => {
  t.test('HTTP to the address of a service', async (t) => {
    const app = await httpApp(t);
    const { outbound, goingTo, accessed, metric } = await scene(t, {
      resources: entry('a.test', { addresses: [VIP], port: 80, protocol: 'HTTP', to: app }),
    });
    goingTo({ address: VIP, port: 80 });
    const agent = keepAlive(t);
    for (const path of ['/one', '/two']) {
      t.equal((await call(outbound, path, { headers: { host: 'whatever' }, agent })).status, 200);
    }
    const lines = await accessed();
    t.match(lines, [{ path: '/one' }, { path: '/two' }]);
    t.match(lines[1], {
      direction: 'outbound',
      upstream_cluster: 'outbound|80||a.test',
      upstream_host: `127.0.0.1:${app.port}`,
      // Istio shows where it was going, not our port.
      downstream_local_address: `${VIP}:80`,
    });
    t.equal(await metric('istio_requests_total', { destination_service: 'a.test' }), 2);
  });

  t.test('each request of a connection by its Host where nobody has the address', async (t) => {
    const [a, b, far] = [await httpApp(t), await httpApp(t), await httpApp(t)];
    const { outbound, goingTo, accessed, metric } = await scene(t, {
      resources:
        entry('a.test', { port: far.port, protocol: 'HTTP', to: a }) +
        entry('b.test', { port: far.port, protocol: 'HTTP', to: b }),
    });
    goingTo({ address: STRANGER, port: far.port });
    const agent = keepAlive(t);
    const seen: number[][] = [];
    for (const host of ['a.test', 'b.test:80', 'B.test']) {
      t.equal((await call(outbound, '/', { headers: { host }, agent })).status, 200, host);
      seen.push([a.seen.count, b.seen.count, far.seen.count]);
    }
    t.same(seen, [
      [1, 0, 0],
      [1, 1, 0],
      [1, 2, 0],
    ]);
    t.match((await accessed()).at(-1), { upstream_cluster: `outbound|${far.port}||b.test` });
    goingTo({ address: '127.0.0.1', port: far.port });
    const unknown = await call(outbound, '/', { headers: { host: 'nobody.test' } });
    t.equal(unknown.status, 200, 'to where it was going');
    t.equal(far.seen.count, 1);
    t.match((await accessed()).at(-1), { upstream_cluster: 'PassthroughCluster', route_name: 'allow_any' });
    const through = { destination_service: 'nobody.test', destination_service_name: 'PassthroughCluster' };
    t.equal(await metric('istio_requests_total', { reporter: 'source', ...through }), 1);
  });

  t.test('REGISTRY_ONLY: requests are answered 502, bytes are refused, both are counted', async (t) => {
    const [app, known] = [await httpApp(t), await httpApp(t)];
    const { outbound, goingTo, accessed, lines, metric } = await scene(t, {
      resources: REGISTRY_ONLY + entry('a.test', { port: app.port, protocol: 'HTTP', to: known }),
    });
    goingTo({ address: '127.0.0.1', port: app.port });
    const { status } = await call(outbound, '/', { headers: { host: 'nobody.test' } });
    t.equal(status, 502, "Istio's block_all");
    t.match((await accessed()).at(-1), { reason: 'no_route', response_code: 502, response_flags: 'NR' });
    const hole = { reporter: 'source', destination_service_name: 'BlackHoleCluster' };
    t.equal(await metric('istio_requests_total', { ...hole, destination_service: 'nobody.test' }), 1);
    goingTo({ address: '127.0.0.1', port: app.port + 1 });
    const peer = enter(t, outbound);
    t.equal(await peer.ended(), 'ECONNRESET', 'without a byte of its own');
    t.match(lines.at(-1), { reason: 'no_route', detail: `127.0.0.1:${app.port + 1}` });
    t.match((await accessed()).at(-1), { upstream_cluster: 'BlackHoleCluster', response_flags: 'NR' });
    t.equal(await metric('oarlock_refusals_total', { reason: 'no_route', direction: 'outbound' }), 2);
    t.equal(app.seen.count, 0);
  });

  t.test('bytes where no name matters pass as they come, HTTP too', async (t) => {
    const app = await tcpApp(t, echo);
    const { outbound, goingTo, accessed } = await scene(t);
    goingTo({ address: '127.0.0.1', port: app.port });
    const peer = await open(t, outbound);
    const odd = 'CONNECT far.test:443 HTTP/1.1\r\nhost:  far.test:443 \r\n\r\n';
    peer.write(odd);
    t.equal(await peer.until('the same', (text) => text.length >= odd.length), odd);
    peer.end();
    t.equal(await peer.ended(), 'end');
    t.match((await accessed()).at(-1), {
      upstream_cluster: 'PassthroughCluster',
      downstream_local_address: `127.0.0.1:${app.port}`,
    });
  });

  t.test('a server that speaks first, where names matter and nobody is known', async (t) => {
    const app = await tcpApp(t, (socket) => void socket.end('220 hello\r\n'));
    const known = await httpApp(t);
    const { outbound, goingTo } = await scene(t, {
      resources: entry('a.test', { port: app.port, protocol: 'HTTP', to: known }),
      limits: { serverFirstHold: 20 },
    });
    goingTo({ address: '127.0.0.1', port: app.port });
    const peer = await open(t, outbound);
    t.equal(await peer.until('the greeting', (text) => text.endsWith('\n')), '220 hello\r\n');
  });

  t.test('a word that can be no request does not wait to become one', async (t) => {
    const app = await tcpApp(t, echo);
    const { outbound, goingTo } = await scene(t, {
      limits: { handshakeTimeout: 3_600_000 },
      resources: entry('a.test', { port: app.port, protocol: 'HTTP', to: await httpApp(t) }),
    });
    goingTo({ address: '127.0.0.1', port: app.port });
    for (const word of ['ruok', 'hello there', 'QUJD'.repeat(2_000)]) {
      const peer = await open(t, outbound);
      peer.write(word);
      await peer.until('the echo', (text) => text === word);
    }
  });

  t.test('TLS by its SNI, and to a name nobody knows as it came', async (t) => {
    const heard: string[] = [];
    const tcp = (name: string): Promise<App> =>
      tcpApp(t, (socket) => {
        socket.once('data', () => {
          heard.push(name);
          socket.resetAndDestroy();
        });
      });
    const [known, stranger] = [await tcp('known'), await tcp('stranger')];
    const { outbound, goingTo, accessed } = await scene(t, {
      resources: entry('a.test', { port: stranger.port, protocol: 'TLS', to: known }),
    });
    goingTo({ address: '127.0.0.1', port: stranger.port });
    for (const servername of ['a.test', 'nobody.test']) {
      const before = heard.length;
      openTls(t, outbound, { leaf: web, servername }).catch(() => {});
      await until('the ClientHello', () => heard.length > before);
    }
    t.same(heard, ['known', 'stranger']);
    await until('both lines', async () => (await accessed()).length === 2);
    t.match(await accessed(), [
      { requested_server_name: 'a.test', upstream_cluster: `outbound|${stranger.port}||a.test` },
      { requested_server_name: 'nobody.test', upstream_cluster: 'PassthroughCluster' },
    ]);
  });
});

t.test('into the app', async (t) => {
  const mode = (mode: string): string => `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: ${mode}}}
---
`;
  t.test('a port that nobody declared: mutual TLS in, the app dialled from 127.0.0.6', async (t) => {
    const callers: (string | undefined)[] = [];
    const serve = (socket: Socket): void => {
      callers.push(socket.remoteAddress);
      socket.end('HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n');
    };
    const { inbound, goingTo, accessed } = await scene(t, { resources: mode('STRICT') });
    // Every address of the block is this machine's; the rules leave 127.0.0.1 alone, and what goes there is not marked.
    for (const [address, from] of [
      ['127.0.0.9', '127.0.0.6'],
      ['127.0.0.1', '127.0.0.1'],
    ] as const) {
      const app = createServer(serve);
      await new Promise<void>((resolve) => void app.listen(0, address, resolve));
      t.teardown(() => app.close());
      const { port } = app.address() as AddressInfo;
      goingTo({ address, port });
      const peer = await openTls(t, inbound, { leaf: web, ALPNProtocols: ISTIO_HTTP });
      t.equal(await peer.get(`/at-${address}`), 204);
      t.equal(callers.at(-1), from);
      const line = await until('its line', async () =>
        (await accessed()).find(({ path }) => path === `/at-${address}`),
      );
      t.match(line, {
        direction: 'inbound',
        upstream_cluster: `inbound|${port}||`,
        upstream_host: `${address}:${port}`,
        downstream_local_address: `${address}:${port}`,
        source_principal: spiffe('shop', 'web'),
      });
      t.match(line.upstream_local_address, new RegExp(`^${from}:`));
    }
  });

  t.test('STRICT and policy hold for it as for a declared one', async (t) => {
    const target = await httpApp(t);
    const { inbound, goingTo, lines, apply } = await scene(t, { resources: mode('STRICT') });
    goingTo({ address: '127.0.0.1', port: target.port });
    await t.rejects(call(inbound, '/'));
    t.match(lines.at(-1), { reason: 'plaintext_to_strict', port: target.port });
    const denies = (spec: string): string => `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {ports: ["${target.port}"]}}]${spec}}]}
---
`;
    apply({ intercept: 'redirect', resources: mode('PERMISSIVE') });
    t.equal((await call(inbound, '/')).status, 200);
    apply({ intercept: 'redirect', resources: mode('PERMISSIVE') + denies('') });
    t.equal((await call(inbound, '/')).status, 403);
    // The address it was going to is what policy knows as destination.ip.
    const when = (block: string): string => `, when: [{key: destination.ip, values: ["${block}"]}]`;
    apply({ intercept: 'redirect', resources: mode('PERMISSIVE') + denies(when('127.0.0.1')) });
    t.equal((await call(inbound, '/')).status, 403);
    apply({ intercept: 'redirect', resources: mode('PERMISSIVE') + denies(when('127.0.0.2')) });
    t.equal((await call(inbound, '/')).status, 200);
  });

  t.test('what the Sidecar says of a port', async (t) => {
    const target = await httpApp(t);
    const { inbound, goingTo } = await scene(t, {
      resources: `${mode('PERMISSIVE')}
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  ingress: [{port: {number: 9999, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:${target.port}"}]
`,
    });
    goingTo({ address: '127.0.0.1', port: 9999 });
    t.equal((await call(inbound, '/')).status, 200);
    t.equal(target.seen.count, 1);
  });
});

t.test('what may not pass', async (t) => {
  type Ports = Pick<Scene, 'outbound' | 'inbound'>;
  type Said = OriginalDestination | null | Error;
  const at = (address: string, port: number): OriginalDestination => ({ address, port });
  const cases: readonly (readonly [string, 'outbound' | 'inbound', (ports: Ports) => Said, RegExp])[] = [
    ['the kernel redirected nothing', 'outbound', () => null, /redirected nothing/],
    ['the kernel redirected nothing', 'inbound', () => null, /redirected nothing/],
    ['its own address', 'outbound', ({ outbound }) => at('127.0.0.1', outbound), /redirected nothing/],
    ['its own address', 'inbound', ({ inbound }) => at('127.0.0.1', inbound), /redirected nothing/],
    ['the other port', 'outbound', ({ inbound }) => at('127.0.0.1', inbound), /port of capture/],
    ['the other port', 'inbound', ({ outbound }) => at('127.0.0.1', outbound), /port of capture/],
    ["a stranger's", 'outbound', ({ outbound }) => at('203.0.113.7', outbound), /port of capture/],
    ['the admin port', 'inbound', () => at('127.0.0.1', 15_000), /a port of the sidecar/],
    ['the admin port', 'outbound', () => at('127.0.0.1', 15_000), /a port of the sidecar/],
    ['no address of ours', 'inbound', () => at('203.0.113.7', 80), /no address of this machine/],
    ['the kernel fails', 'inbound', () => new Error('original destination: EBADF'), /EBADF/],
  ];
  for (const [title, direction, said, detail] of cases) {
    await t.test(`${direction}: ${title}`, async (t) => {
      const { goingTo, lines, metric, path, ...ports } = await scene(t);
      goingTo(said(ports));
      t.equal(await enter(t, ports[direction]).ended(), 'ECONNRESET');
      t.equal(await metric('oarlock_refusals_total', { reason: 'not_redirected', direction }), 1);
      t.match(lines, [{ reason: 'not_redirected', direction, detail, hint: /oarlock iptables --check/ }]);
      t.equal(path.connections.size, 0);
    });
  }

  await t.test('and what may', async (t) => {
    const { inbound, outbound, goingTo, lines } = await scene(t, { resources: REGISTRY_ONLY });
    goingTo({ address: '203.0.113.7', port: 15_000 });
    await enter(t, outbound).ended();
    t.match(lines.at(-1), { reason: 'no_route' }, "another machine's port 15000 is its own affair");
    const interfaces = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
    const own = interfaces.find(({ internal, family }) => !internal && family === 'IPv4')?.address;
    if (own === undefined) return;
    goingTo({ address: own, port: 1 });
    const peer = enter(t, inbound);
    peer.write('x\r\n\r\n');
    await peer.ended();
    t.match(lines.at(-1), { reason: 'app_unreachable' }, 'an address of an interface of ours');
  });
});

t.test('loopback is for this machine alone: where the rules redirected to tells who sent it', async (t) => {
  let accepted = (_socket: Socket): void => {};
  const arrived = new Promise<Socket>((resolve) => {
    accepted = resolve;
  });
  const app = await tcpApp(t, (socket) => accepted(socket));
  await open(t, app.port);
  const peer = await arrived;
  /** The same connection, redirected to this address. */
  const redirectedTo = (address: string): Socket =>
    Object.create(peer, { localAddress: { value: address } }) as Socket;
  const interfaces = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
  const own =
    interfaces.find(({ internal, family }) => !internal && family === 'IPv4')?.address ?? '127.0.0.1';
  const refused = /^not_redirected: .* another machine sent it$/;
  const cases: readonly (readonly ['inbound' | 'outbound', string, string, RegExp | null])[] = [
    // By OUTPUT: the kernel redirects to 127.0.0.1 or ::1.
    ['inbound', '127.0.0.9', '127.0.0.1', null],
    ['inbound', '127.0.0.9', '::ffff:127.0.0.1', null],
    ['inbound', own, '127.0.0.1', null],
    ['outbound', '127.0.0.9', '::ffff:127.0.0.1', null],
    ['outbound', '::6', '::1', null],
    // By PREROUTING: to the interface's own address.
    ['inbound', '127.0.0.1', '10.1.0.7', refused],
    ['inbound', '127.8.8.8', '::ffff:10.1.0.7', refused],
    ['inbound', '::ffff:127.0.0.1', 'fd00::7', refused],
    ['inbound', '::1', 'fd00::7', refused],
    ['inbound', '::6', 'fd00::7', refused],
    ['inbound', '::6', 'fe80::7%eth0', refused],
    ['outbound', '127.0.0.1', '10.1.0.7', refused],
    ['outbound', '::1', 'fd00::7', refused],
    ['inbound', own, own, null],
    ['outbound', '203.0.113.7', '10.1.0.7', null],
  ];
  for (const [direction, address, to, detail] of cases) {
    let why: string | null = null;
    const capture = new Capture({
      path: {
        turnAway: (_socket, _direction, _port, reason, said) => {
          why = `${reason}: ${said}`;
        },
      },
      ask: () => ({ address, port: 8_080 }),
      addresses: new LocalAddresses(),
      isOurs: () => false,
      isCapture: () => false,
      nonce: () => '',
    });
    const title = `${direction} to ${address}, redirected to ${to}`;
    const admitted = capture.admit(direction, 15_006, redirectedTo(to));
    if (detail === null) t.same(admitted, { address, port: 8_080 }, title);
    else {
      t.equal(admitted, null, title);
      t.match(why, detail, title);
    }
  }
});

t.test('held until there are credentials and a set, asked at once where it was going', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await inboundSidecar(t, 1, { intercept: 'redirect' });
  let asked = 0;
  const ask = (): OriginalDestination => {
    asked++;
    return { address: '127.0.0.1', port: app.port };
  };
  const listeners = new Listeners(sidecar.path, { bind: '127.0.0.1', reusePort: false, ask });
  t.teardown(() => listeners.close());
  const own = {
    capture: { outbound: 0, inbound: null, nonce: '' },
    hbone: null,
    hboneNeeded: false,
    others: [],
  };
  await listeners.listen(own);
  const { outbound = 0 } = listeners.ports();
  const peer = await open(t, outbound);
  peer.write('hello');
  await until('it to be asked', () => asked === 1);
  listeners.release();
  t.equal(app.seen.count, 0, 'no credentials yet');
  sidecar.path.applyCredentials(credentialsOf(orders));
  const { snapshot } = sidecar.path;
  sidecar.path.snapshot = null;
  listeners.release();
  t.equal(app.seen.count, 0, 'no set yet');
  sidecar.path.snapshot = snapshot;
  listeners.release();
  t.equal(await peer.until('the echo', (text) => text === 'hello'), 'hello');
  t.equal(asked, 1);
  await listeners.listen(own);
  t.same(listeners.ports(), { outbound }, 'opened once');
});

t.test('a port of capture that is taken is named', async (t) => {
  const taken = await tcpApp(t, echo);
  const { path } = await inboundSidecar(t, 1, { intercept: 'redirect' });
  const listeners = new Listeners(path, { bind: '127.0.0.1', reusePort: false, ask: () => null });
  const capture = { outbound: null, inbound: taken.port, nonce: '' };
  await t.rejects(listeners.listen({ capture, hbone: null, hboneNeeded: false, others: [] }), {
    message: `127.0.0.1:${taken.port} is in use by another process; inbound capture (--inbound-port, --bind) asks for it`,
  });
});
