/** Subsets of a DestinationRule, and how several rules of one host count as one: Istio's mergeDestinationRule. */
import t from 'tap';
import type { Route } from '../../mesh/route.ts';
import { resource, snapshotOf } from './helper.ts';

const HOST = 'orders.shop.svc.cluster.local';

const SERVICE = resource(
  'ServiceEntry',
  'shop/orders',
  `hosts: [${HOST}]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: http}, {number: 81, name: tcp}]
endpoints:
- {address: 10.0.0.1, serviceAccount: one, labels: {version: v1}}
- {address: 10.0.0.2, serviceAccount: two, labels: {version: v2}}
- {address: 10.0.0.3, labels: {version: v2, canary: "yes"}}`,
);

function rule(at: string, spec: string, created = ''): string {
  return resource('DestinationRule', at, `host: ${HOST}\n${spec}`, created);
}

function shown(route: Route | null): string {
  if (route === null) return 'none';
  const ends = route.endpoints.map(({ address, tls }) => `${address.slice(-1)}:${tls}`).join(' ');
  const { mode, auto, source } = route.tls;
  return `${mode} ${auto ? 'auto' : source} | ${ends}`;
}

t.test('labels choose endpoints, the subset stands in the server name', async (t) => {
  const snapshot = snapshotOf(
    SERVICE +
      rule(
        'shop/orders',
        'subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: none, labels: {version: v9}}, {name: all}]',
      ),
  );
  t.equal(shown(snapshot.route(HOST, 80, 'v1')), 'ISTIO_MUTUAL auto | 1:ISTIO_MUTUAL');
  t.equal(shown(snapshot.route(HOST, 80, 'v2')), 'ISTIO_MUTUAL auto | 2:ISTIO_MUTUAL 3:DISABLE');
  t.equal(shown(snapshot.route(HOST, 80, 'none')), 'DISABLE auto | ');
  t.equal(snapshot.route(HOST, 80, 'all')?.endpoints.length, 3, 'no labels: all');
  t.equal(snapshot.route(HOST, 80, 'v3'), null);
  t.equal(snapshot.route(HOST, 80, 'v1')?.tls.sni, `outbound_.80_.v1_.${HOST}`);
  t.same(
    snapshot.route(HOST, 80, 'v1')?.tls.expectedIdentities,
    ['spiffe://cluster.local/ns/shop/sa/one', 'spiffe://cluster.local/ns/shop/sa/two'],
    'the accounts of the whole service',
  );
  t.equal(snapshot.route(HOST, 80)?.endpoints.length, 3);
});

interface Row {
  readonly why: string;
  readonly policy: string;
  readonly subset: string;
  readonly expected: string;
  readonly port?: number;
}

/** Istio's MergeSubsetTrafficPolicy, case by case. */
const rows: readonly Row[] = [
  {
    why: 'the rule’s where the subset has none',
    policy: 'tls: {mode: DISABLE}',
    subset: '',
    expected: 'DISABLE',
  },
  {
    why: 'the subset’s over the rule’s',
    policy: 'tls: {mode: DISABLE}',
    subset: 'tls: {mode: SIMPLE}',
    expected: 'SIMPLE',
  },
  {
    why: 'a subset’s policy without tls keeps the rule’s',
    policy: 'tls: {mode: DISABLE}',
    subset: 'loadBalancer: {simple: RANDOM}',
    expected: 'DISABLE',
  },
  {
    why: 'a port-level entry of the subset replaces all of the rule’s',
    policy: 'tls: {mode: DISABLE}',
    subset: 'portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]',
    expected: 'auto',
  },
  {
    why: '… on its port only',
    policy: 'tls: {mode: DISABLE}',
    subset: 'portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]',
    port: 81,
    expected: 'DISABLE',
  },
  {
    why: 'a port-level tls of the subset',
    policy: 'tls: {mode: DISABLE}',
    subset: 'portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]',
    expected: 'ISTIO_MUTUAL',
  },
  {
    why: 'the rule’s port-level tls where the subset says nothing of tls',
    policy: 'tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]',
    subset: 'loadBalancer: {simple: RANDOM}',
    expected: 'DISABLE',
  },
  {
    why: 'the subset’s tls over the rule’s port-level one',
    policy: 'portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]',
    subset: 'tls: {mode: ISTIO_MUTUAL}',
    expected: 'ISTIO_MUTUAL',
  },
  { why: 'no policy but the subset’s', policy: '', subset: 'tls: {mode: DISABLE}', expected: 'DISABLE' },
];

t.test('a subset’s traffic policy and the rule’s', async (t) => {
  for (const { why, policy, subset, expected, port = 80 } of rows) {
    const top = policy === '' ? '' : `trafficPolicy: {${policy}}\n`;
    const own = subset === '' ? '' : `, trafficPolicy: {${subset}}`;
    const yaml = SERVICE + rule('web/r', `${top}subsets: [{name: v1, labels: {version: v1}${own}}]`);
    const tls = snapshotOf(yaml).route(HOST, port, 'v1')?.tls;
    t.equal(tls?.auto ? 'auto' : tls?.mode, expected, why);
  }
});

const named = (name: string, mode: string, selector = '', exportTo = ''): string =>
  rule(
    `web/${name}`,
    [
      mode === '' ? '' : `trafficPolicy: {tls: {mode: ${mode}}}`,
      `subsets: [{name: ${name}, labels: {version: v1}}]`,
      selector === '' ? '' : `workloadSelector: {matchLabels: {app: ${selector}}}`,
      exportTo === '' ? '' : `exportTo: [${exportTo}]`,
    ]
      .filter((line) => line !== '')
      .join('\n'),
  );

t.test('rules of one host are merged', async (t) => {
  const tlsOf = (yaml: string, app: string, subset?: string): string => {
    const route = snapshotOf(SERVICE + yaml, { namespace: 'web', labels: { app } }).route(HOST, 80, subset);
    return route === null ? 'none' : route.tls.auto ? 'auto' : `${route.tls.mode} ${route.tls.source}`;
  };
  const two = named('a', 'DISABLE') + named('b', 'SIMPLE');
  t.equal(tlsOf(two, 'x'), 'DISABLE web/a', 'the first policy');
  t.equal(tlsOf(two, 'x', 'a'), 'DISABLE web/a');
  t.equal(tlsOf(two, 'x', 'b'), 'DISABLE web/a', 'subsets of both, under that policy');

  const twice =
    rule('web/a', 'subsets: [{name: s, labels: {version: v1}}]') +
    rule('web/b', 'subsets: [{name: s, labels: {version: v2}, trafficPolicy: {tls: {mode: SIMPLE}}}]');
  t.equal(tlsOf(twice, 'x', 's'), 'auto', 'of two subsets of one name the first');

  const selected = named('sel', 'SIMPLE', 'x') + named('all', 'DISABLE');
  t.equal(tlsOf(selected, 'x'), 'SIMPLE web/sel');
  t.equal(tlsOf(selected, 'y'), 'DISABLE web/all');
  t.equal(tlsOf(selected, 'x', 'all'), 'none', 'a rule for all is not merged into one for some …');
  const confined = named('sel', '', 'x') + named('all', 'DISABLE', '', '"."');
  t.equal(
    tlsOf(confined, 'x'),
    'DISABLE web/all',
    '… unless both stay in the namespace: then it is taken in',
  );
  t.equal(tlsOf(confined, 'x', 'all'), 'DISABLE web/all');
  t.equal(tlsOf(confined, 'y'), 'auto', 'and lost to all others');
  const selectors = named('sel', 'SIMPLE', 'x') + named('tel', 'DISABLE', 'y');
  t.equal(tlsOf(selectors, 'y'), 'DISABLE web/tel', 'other labels: apart');
  t.equal(
    tlsOf(named('sel', '', 'x') + named('tel', 'SIMPLE', 'x'), 'x'),
    'SIMPLE web/tel',
    'the same labels: merged',
  );

  const wider = named('a', '', '', 'web') + named('b', 'SIMPLE', '', 'web, other');
  t.equal(tlsOf(wider, 'x'), 'SIMPLE web/b', 'one exported to more is merged into one exported to fewer');
  const apart = named('a', 'DISABLE', '', 'web') + named('b', 'SIMPLE', '', '".", other');
  t.equal(tlsOf(apart, 'x'), 'SIMPLE web/b', 'else they stand apart and the last holds');
  const between = named('a', '') + named('b', '', '', 'web') + named('c', 'SIMPLE');
  t.equal(
    tlsOf(between, 'x'),
    'SIMPLE web/c',
    'merged into the first, yet apart too, since the last is another’s',
  );
  t.equal(tlsOf(between, 'x', 'a'), 'none');
});

t.test('where each setting of TLS comes from', async (t) => {
  const external = resource(
    'ServiceEntry',
    'web/api',
    `hosts: [api.example.com]
ports: [{number: 443, name: tls}]
resolution: STATIC
endpoints: [{address: 10.0.0.9, serviceAccount: x}]
subjectAltNames: [san.example.com]`,
  );
  const tls = (settings: string) =>
    snapshotOf(
      external +
        resource('DestinationRule', 'web/api', `host: api.example.com\ntrafficPolicy: {tls: {${settings}}}`),
    ).route('api.example.com', 443);
  t.same(
    tls('mode: SIMPLE')?.tls.expectedIdentities,
    ['san.example.com', 'spiffe://cluster.local/ns/web/sa/x'],
    'SIMPLE: the ServiceEntry’s names and accounts',
  );
  t.equal(tls('mode: SIMPLE, caCrl: /crl.pem')?.tls.caCrl, '/crl.pem');
  const secret = tls('mode: MUTUAL, credentialName: kept-elsewhere');
  t.equal(secret?.tls.credentialName, 'kept-elsewhere');
  t.match(secret?.warnings, [/credentialName kept-elsewhere .* every connection is refused/]);
  const plain = tls('mode: DISABLE, sni: x, caCertificates: /ca, credentialName: s')?.tls;
  t.match(plain, {
    mode: 'DISABLE',
    sni: null,
    caCertificates: null,
    credentialName: null,
    expectedIdentities: [],
  });
  const cluster = `---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{port: 443, name: tls}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: orders}}
status: {podIP: 10.0.0.1}
${rule('web/r', 'trafficPolicy: {tls: {mode: SIMPLE}}')}`;
  t.same(
    snapshotOf(cluster).route(HOST, 443)?.tls.expectedIdentities,
    [HOST],
    'of a Kubernetes Service its host alone',
  );
});
