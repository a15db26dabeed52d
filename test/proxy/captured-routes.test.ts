/** Which way a captured connection goes: by its address, by names where that does not tell, by its port, or through. */
import t from 'tap';
import type { Route } from '../../mesh/route.ts';
import type { Captured, Snapshot } from '../../mesh/snapshot.ts';
import { CapturedRoutes } from '../../proxy/captured-outbound.ts';
import { clusterName } from '../../proxy/choose-route.ts';

const VIP = '10.96.0.1';
const SHARED = '10.96.0.9';
const POD = '10.77.0.12';
const STRANGER = '203.0.113.7';

const PROTOCOLS: Readonly<Record<string, string>> = {
  'orders.test': 'http',
  'blue.test': 'http',
  'green.test': 'http',
  'redis.test': 'tcp',
  'kafka.test': 'tcp',
  'mongo.test': 'auto',
  '*.wild.test': 'auto',
};

function routeTo(host: string, port: number, more: Partial<Route> = {}): Route {
  const tls = { mode: 'ISTIO_MUTUAL', sni: null, expectedIdentities: [], insecureSkipVerify: false };
  const protocol = PROTOCOLS[host] ?? 'http';
  const service = { host, name: host.split('.')[0] ?? '', namespace: 'shop' };
  return { service, port, protocol, tls, endpoints: [], ownPort: null, ...more } as unknown as Route;
}

interface World {
  readonly policy?: 'ALLOW_ANY' | 'REGISTRY_ONLY';
  readonly hosts?: readonly string[];
  readonly at?: Route | null;
  readonly names?: readonly string[];
  readonly anywhere?: string | null;
  readonly more?: Partial<Route>;
}

function snapshotOf(world: World): Snapshot {
  const { policy = 'ALLOW_ANY', hosts = [], at = null, names = [], anywhere = null, more = {} } = world;
  const known = (name: string): string | null =>
    names.find((host) => host === name || (host.startsWith('*') && name.endsWith(host.slice(1)))) ?? null;
  const captured: Captured = {
    hostsAt: () => hosts,
    routeAt: () => at,
    hostNamed: known,
    // Of those without an address of their own.
    hostOfSni: (name) => (hosts.length > 0 ? null : known(name)),
    namesAt: () => names.length > 0,
    hostAnywhere: () => anywhere,
    ingressAt: () => null,
  };
  const route = (host: string, port: number): Route | null => {
    const service = host in PROTOCOLS ? host : known(host);
    return service === null ? null : routeTo(service, port, more);
  };
  return { mesh: { outboundTrafficPolicy: policy }, captured, route } as unknown as Snapshot;
}

interface Row {
  readonly title: string;
  readonly world: World;
  /** Default: TCP without a name. */
  readonly host?: string | null;
  readonly sni?: string;
  /** The service's host; null: none. */
  readonly to: string | null;
  readonly protocol: string;
  readonly certain: boolean;
}

const HTTP_NAMES = ['orders.test', 'blue.test', '*.wild.test'];
const rows: readonly Row[] = [
  {
    title: 'one service has the address',
    world: { hosts: ['orders.test'], names: HTTP_NAMES },
    host: 'blue.test',
    to: 'orders.test',
    protocol: 'http',
    certain: true,
  },
  {
    title: 'one TCP service has it',
    world: { hosts: ['redis.test'] },
    to: 'redis.test',
    protocol: 'tcp',
    certain: true,
  },
  ...(['blue.test', 'green.test:80', 'GREEN.test'] as const).map((host) => ({
    title: `several have it: ${host}`,
    world: { hosts: ['blue.test', 'green.test'], names: ['blue.test', 'green.test'] },
    host,
    to: host.toLowerCase().replace(':80', ''),
    protocol: 'http',
    certain: false,
  })),
  {
    title: 'several have it, and another is asked for: the oldest',
    world: { hosts: ['green.test', 'blue.test'], names: ['green.test', 'blue.test', 'orders.test'] },
    host: 'orders.test',
    to: 'green.test',
    protocol: 'http',
    certain: false,
  },
  {
    title: 'several of other protocols have it, and nobody is asked for',
    world: { hosts: ['redis.test', 'blue.test'] },
    to: 'redis.test',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'several TCP services have it: SNI tells, and nothing is read as HTTP',
    world: { hosts: ['kafka.test', 'redis.test'] },
    sni: 'redis.test',
    to: 'redis.test',
    protocol: 'tcp',
    certain: false,
  },
  {
    title: 'whoever is at the address comes before names',
    world: { at: routeTo('orders.test', 8080), names: HTTP_NAMES },
    host: 'blue.test',
    to: 'orders.test',
    protocol: 'http',
    certain: true,
  },
  {
    title: 'nobody has the address: Host tells',
    world: { names: HTTP_NAMES, anywhere: 'redis.test' },
    host: 'blue.test:8080',
    to: 'blue.test',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'a wildcard covers the Host',
    world: { names: HTTP_NAMES },
    host: 'a.wild.test',
    to: '*.wild.test',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'SNI tells',
    world: { names: HTTP_NAMES },
    sni: 'orders.test',
    to: 'orders.test',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'an unknown Host passes through, whoever has the port',
    world: { names: HTTP_NAMES, anywhere: 'mongo.test' },
    host: 'other.test',
    to: 'other.test',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'bytes that name nobody go by the port',
    world: { names: HTTP_NAMES, anywhere: 'mongo.test' },
    to: 'mongo.test',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'nothing is looked at where no name matters',
    world: {},
    to: 'unknown',
    protocol: 'tcp',
    certain: true,
  },
  {
    title: 'an unknown SNI passes through, and is no label',
    world: { names: HTTP_NAMES },
    sni: 'other.test',
    to: 'unknown',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'nor is a Host that is no name',
    world: { names: HTTP_NAMES },
    host: 'a b"c',
    to: 'unknown',
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'REGISTRY_ONLY refuses an unknown Host',
    world: { names: HTTP_NAMES, policy: 'REGISTRY_ONLY' },
    host: 'other.test',
    to: null,
    protocol: 'auto',
    certain: false,
  },
  {
    title: 'and bytes to nobody known',
    world: { policy: 'REGISTRY_ONLY' },
    to: null,
    protocol: 'tcp',
    certain: true,
  },
];

for (const { title, world, host, sni, to, protocol, certain } of rows) {
  t.test(title, async (t) => {
    const snapshot = snapshotOf(world);
    const address = world.hosts?.length === 1 ? VIP : world.hosts ? SHARED : world.at ? POD : STRANGER;
    const routes = new CapturedRoutes(snapshot, { address, port: 8080 });
    const route =
      host === undefined ? routes.tcpRoute(snapshot, sni ?? null) : routes.requestRoute(snapshot, host);
    t.equal(route?.service.host ?? null, to);
    t.equal(routes.protocol, protocol, 'protocol');
    t.equal(routes.certain, certain, 'certain');
  });
}

t.test('passthrough goes where the connection was going, in plaintext, under its name', async (t) => {
  const snapshot = snapshotOf({ names: HTTP_NAMES });
  const routes = new CapturedRoutes(snapshot, { address: 'fd00::7', port: 8080 });
  const route = routes.requestRoute(snapshot, 'other.test');
  t.match(route, {
    service: { host: 'other.test', name: 'PassthroughCluster', namespace: 'unknown' },
    tls: { mode: 'DISABLE' },
    endpoints: [{ address: 'fd00::7', port: 8080, tls: 'DISABLE' }],
  });
  t.equal(route === null ? '' : clusterName(route), 'PassthroughCluster');
  t.equal(routes.requestRoute(snapshot, 'other.test'), route, 'one route for all requests to one host');
});

t.test('resolution NONE dials the address that the connection was going to', async (t) => {
  const own = {
    mode: 'ISTIO_MUTUAL',
    sni: 'x',
    expectedIdentities: ['spiffe://a'],
  } as unknown as Route['tls'];
  const snapshot = snapshotOf({ hosts: ['orders.test'], more: { ownPort: 9000, tls: own } });
  const routes = new CapturedRoutes(snapshot, { address: VIP, port: 8080 });
  t.match(routes.tcpRoute(snapshot, null)?.endpoints, [
    { address: VIP, port: 9000, tls: 'ISTIO_MUTUAL', tunnel: null },
  ]);
});

t.test('TLS to a wildcard expects the name that was asked for, and goes nowhere without one', async (t) => {
  const simple = { mode: 'SIMPLE', sni: null, expectedIdentities: [], insecureSkipVerify: false };
  const more = { ownPort: 443, tls: simple as unknown as Route['tls'] };
  const wild = snapshotOf({ hosts: ['*.wild.test'], names: ['*.wild.test'], more });
  const routes = new CapturedRoutes(wild, { address: VIP, port: 80 });
  t.match(routes.requestRoute(wild, 'A.wild.test'), {
    tls: { sni: 'a.wild.test', expectedIdentities: ['a.wild.test'] },
    endpoints: [{ address: VIP, port: 443 }],
  });
  t.equal(routes.requestRoute(wild, 'other.test'), null);
  t.equal(routes.tcpRoute(wild, null), null);
  t.equal(routes.certain, false);
});

t.test('a new snapshot counts for the next request', async (t) => {
  const before = snapshotOf({ names: HTTP_NAMES });
  const routes = new CapturedRoutes(before, { address: VIP, port: 80 });
  t.equal(routes.requestRoute(before, 'orders.test')?.service.host, 'orders.test');
  const after = snapshotOf({ hosts: ['blue.test'], names: HTTP_NAMES });
  t.equal(routes.requestRoute(after, 'orders.test')?.service.host, 'blue.test');
  t.equal(routes.requestRoute(null, 'orders.test'), null, 'none: no way');
  const closed = snapshotOf({ names: HTTP_NAMES, policy: 'REGISTRY_ONLY' });
  t.equal(routes.requestRoute(closed, null), null, 'a request without a Host');
  t.equal(routes.describe('x.test'), `x.test at ${VIP}:80`);
  t.equal(routes.describe(null), `${VIP}:80`);
});
