/** Which service an egress listener's connection is for, and which endpoint gets it. */
import t from 'tap';
import type { Endpoint, Route } from '../../mesh/route.ts';
import type { EgressListener, Snapshot } from '../../mesh/snapshot.ts';
import { chooseRoute, clusterName, pickEndpoint, reachEndpoint } from '../../proxy/choose-route.ts';
import type { DataPath } from '../../proxy/data-path.ts';

const ORDERS = 'orders.shop.svc.cluster.local';
const CART = 'cart.shop.svc.cluster.local';
const EXTERNAL = 'api.example.com';
const known = new Set([ORDERS, CART, EXTERNAL]);

/** A snapshot that knows these hosts on port 9080. */
const snapshot = {
  mesh: { outboundTrafficPolicy: 'REGISTRY_ONLY' },
  route: (host: string, port: number) => (known.has(host) && port === 9080 ? routeTo(host, port) : null),
} as unknown as Snapshot;

function routeTo(host: string, port: number, more: Partial<Route> = {}): Route {
  const tls = { mode: 'ISTIO_MUTUAL', sni: null, expectedIdentities: [], insecureSkipVerify: false };
  return { service: { host }, port, tls, endpoints: [], ownPort: null, ...more } as unknown as Route;
}

const listener = (...hosts: string[]): EgressListener => ({
  bind: '127.0.0.1',
  port: 9080,
  protocol: 'http',
  hosts,
});
const one = listener(ORDERS);
const several = listener(ORDERS, CART, EXTERNAL);

t.test('by listener and by the name asked for', async (t) => {
  const rows = [
    { title: 'one host, whatever is asked', listener: one, asked: 'anything.example:81', host: ORDERS },
    { title: 'one host, nothing asked', listener: one, asked: null, host: ORDERS },
    {
      title: 'one host nobody knows',
      listener: listener('gone.shop.svc.cluster.local'),
      asked: null,
      host: null,
    },
    { title: 'several, nothing asked', listener: several, asked: null, host: null },
    { title: 'the full name', listener: several, asked: CART, host: CART },
    { title: 'with a port', listener: several, asked: `${CART}:9080`, host: CART },
    { title: 'in upper case', listener: several, asked: CART.toUpperCase(), host: CART },
    { title: 'service', listener: several, asked: 'orders', host: ORDERS },
    { title: 'service.namespace', listener: several, asked: 'orders.shop', host: ORDERS },
    { title: 'service.namespace.svc', listener: several, asked: 'orders.shop.svc:80', host: ORDERS },
    { title: 'half a label', listener: several, asked: 'ord', host: null },
    { title: 'half a namespace', listener: several, asked: 'orders.sh', host: null },
    { title: 'a short form of what is no service', listener: several, asked: 'api', host: null },
    { title: 'a longer name', listener: several, asked: `x.${ORDERS}`, host: null },
    { title: 'an unknown one', listener: several, asked: 'other.example', host: null },
    { title: 'an empty one', listener: several, asked: '', host: null },
    { title: 'no hosts at all', listener: listener(), asked: ORDERS, host: null },
  ];
  for (const { title, listener, asked, host } of rows) {
    t.equal(chooseRoute(snapshot, listener, asked)?.service.host ?? null, host, title);
  }
  t.equal(chooseRoute(null, one, null), null, 'no snapshot, no route');
});

t.test(
  'ALLOW_ANY passes a listed host that nobody defines through, untouched, and nothing else',
  async (t) => {
    const open = { ...snapshot, mesh: { outboundTrafficPolicy: 'ALLOW_ANY' } } as unknown as Snapshot;
    const gone = 'gone.example';
    const route = chooseRoute(open, listener(gone), 'anything');
    t.match(route, {
      service: { host: gone, name: 'PassthroughCluster' },
      tls: { mode: 'DISABLE' },
      endpoints: [{ address: gone, port: 9080, tls: 'DISABLE' }],
    });
    t.equal(route === null ? '' : clusterName(route), 'PassthroughCluster');
    t.equal(chooseRoute(open, listener('*.example'), 'x.example'), null, 'a wildcard is no address');
    t.equal(chooseRoute(open, several, 'other.example'), null, 'a host the listener does not list');
    t.equal(chooseRoute(open, one, null)?.service.host, ORDERS, 'a known host has its route');
  },
);

t.test(
  'a wildcard host: the one asked for is the destination, the server name and whom to expect',
  async (t) => {
    const wild = '*.example.com';
    const simple = { mode: 'SIMPLE', sni: null, expectedIdentities: [], insecureSkipVerify: false };
    const knowing = (more: object): Snapshot =>
      ({
        mesh: { outboundTrafficPolicy: 'ALLOW_ANY' },
        route: (host: string, port: number) =>
          host.endsWith('.example.com') ? routeTo(wild, port, more as Partial<Route>) : null,
      }) as unknown as Snapshot;
    const own = { ownPort: 8443, tls: simple };
    t.match(chooseRoute(knowing(own), listener(wild), 'A.example.com:9080'), {
      service: { host: wild },
      tls: { mode: 'SIMPLE', sni: 'a.example.com', expectedIdentities: ['a.example.com'] },
      endpoints: [{ address: 'a.example.com', port: 8443, tls: 'SIMPLE' }],
    });
    const named = chooseRoute(
      knowing({ ...own, tls: { ...simple, sni: 'fixed', expectedIdentities: ['x'] } }),
      listener(wild, ORDERS),
      'a.example.com',
    );
    t.match(named?.tls, { sni: 'fixed', expectedIdentities: ['x'] }, 'what the rule names stays');
    const open = chooseRoute(
      knowing({ ...own, tls: { ...simple, insecureSkipVerify: true } }),
      listener(wild),
      'a.example.com',
    );
    t.same(open?.tls.expectedIdentities, [], 'nobody is expected where nobody is verified');
    for (const asked of ['example.com', 'a.example.org', 'a/b.example.com', 'a b.example.com', '', null]) {
      t.equal(chooseRoute(knowing(own), listener(wild), asked), null, `not for ${asked}`);
    }
    t.match(
      chooseRoute(knowing(own), listener('b.example.com'), 'other.host'),
      { endpoints: [{ address: 'b.example.com', port: 8443 }] },
      'one full name listed: that, whatever is asked',
    );
  },
);

t.test("Istio's name of a route", async (t) => {
  t.equal(clusterName({ service: { host: ORDERS }, port: 9080 } as Route), `outbound|9080||${ORDERS}`);
});

t.test('endpoints', async (t) => {
  const endpoint = (port: number, weight = 1): Endpoint => ({
    address: '10.0.0.1',
    port,
    tls: 'ISTIO_MUTUAL',
    weight,
    workload: null,
    tunnel: null,
  });
  const loads = new Map<string, number>();
  const path = { loadOf: (address: string) => loads.get(address) ?? 0 } as unknown as DataPath;
  const [a, b, c] = [endpoint(1), endpoint(2), endpoint(3)] as const;
  t.equal(pickEndpoint(path, [a], []), a, 'the only one');
  const picks = (list: readonly Endpoint[], tried: readonly Endpoint[]): Set<Endpoint> =>
    new Set(Array.from({ length: 200 }, () => pickEndpoint(path, list, tried)));
  t.same(picks([a, b, c], [b]), new Set([a, c]), 'none that was tried');
  loads.set('10.0.0.1:1', 5);
  t.same(picks([a, b], []), new Set([b]), 'the one with fewer requests of two');
  // Six times the weight carries five requests as easily as one carries one.
  loads.set('10.0.0.1:2', 1);
  t.same(picks([endpoint(1, 6), b], []).size, 1, 'load counts by weight');
  t.equal([...picks([endpoint(1, 6), b], [])][0]?.port, 1);
});

t.test('the next endpoint is asked where nothing was said to the one before', (t) => {
  const endpoints = [1, 2].map(
    (port): Endpoint => ({
      address: '10.0.0.1',
      port,
      tls: 'ISTIO_MUTUAL',
      weight: 1,
      workload: null,
      tunnel: null,
    }),
  );
  const route = routeTo(ORDERS, 9080, { endpoints });
  for (const [reason, asked] of [
    ['connect_failed', 2],
    ['shunned', 2],
    ['untrusted_issuer', 1],
    ['tls_handshake_failed', 1],
  ] as const) {
    let enters = 0;
    let outcome = '';
    const path = {
      names: {},
      loadOf: () => 0,
      endpointFailed: () => {},
      sessions: {
        enter: (_target: unknown, _told: unknown, done: { failed(reason: string, detail: string): void }) => {
          enters++;
          done.failed(reason, '');
        },
      },
    } as unknown as DataPath;
    reachEndpoint(
      path,
      { route, protocol: 'http2', fresh: false, lost: null } as unknown as Parameters<
        typeof reachEndpoint
      >[1],
      {
        connected: t.fail,
        failed: (why: string) => {
          outcome = why;
        },
      } as unknown as Parameters<typeof reachEndpoint>[2],
    );
    t.equal(enters, asked, reason);
    t.equal(outcome, reason);
  }
  t.end();
});
