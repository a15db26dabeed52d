/** Auto mTLS: which endpoints get ISTIO_MUTUAL without being told, with Istio's own rules as the table. */
import t from 'tap';
import { resource, routeLine, snapshotOf } from './helper.ts';

const HOST = 'orders.shop.svc.cluster.local';

function service(location: string): string {
  return resource(
    'ServiceEntry',
    'shop/orders',
    `hosts: [${HOST}]
${location === '' ? '' : `location: ${location}`}
resolution: STATIC
ports: [{number: 9080, name: http, targetPort: 8080}]
workloadSelector: {labels: {app: orders}}`,
  );
}

function entry(name: string, labels: string, account: string): string {
  const serviceAccount = account === '' ? '' : `serviceAccount: ${account}`;
  return resource(
    'WorkloadEntry',
    `shop/${name}`,
    `address: 10.0.0.${name.length}
labels: {app: orders${labels}}
${serviceAccount}`,
  );
}

function peerAuthentication(at: string, spec: string): string {
  return resource('PeerAuthentication', at, spec);
}

const LABELLED = ', security.istio.io/tlsMode: istio';
const DISABLED = ', security.istio.io/tlsMode: disabled';
const DISABLE = 'mtls: {mode: DISABLE}';
const onApp = (spec: string): string => `selector: {matchLabels: {app: orders}}\n${spec}`;

interface Row {
  readonly why: string;
  readonly location?: string;
  readonly labels?: string;
  readonly account?: string;
  readonly policies?: string;
  readonly expected: string;
}

const rows: readonly Row[] = [
  { why: 'a service account alone puts it in the mesh', account: 'orders', expected: 'ISTIO_MUTUAL auto' },
  { why: 'the label alone puts it in the mesh', labels: LABELLED, expected: 'ISTIO_MUTUAL auto' },
  { why: 'neither: plaintext', expected: 'DISABLE auto' },
  {
    why: 'the label is asked first: disabled beats an account',
    labels: DISABLED,
    account: 'orders',
    expected: 'DISABLE auto',
  },
  { why: 'MESH_EXTERNAL: never', location: 'MESH_EXTERNAL', account: 'orders', expected: 'DISABLE auto' },
  { why: 'MESH_EXTERNAL is the default', location: '', account: 'orders', expected: 'DISABLE auto' },
  {
    why: 'the mesh says DISABLE',
    account: 'orders',
    policies: peerAuthentication('istio-system/default', DISABLE),
    expected: 'DISABLE auto',
  },
  {
    why: 'the namespace says DISABLE, despite the workload saying STRICT',
    account: 'orders',
    policies:
      peerAuthentication('shop/default', DISABLE) +
      peerAuthentication('shop/orders', onApp('mtls: {mode: STRICT}')),
    expected: 'DISABLE auto',
  },
  {
    why: 'the workload says DISABLE',
    account: 'orders',
    policies: peerAuthentication('shop/orders', onApp(DISABLE)),
    expected: 'DISABLE auto',
  },
  {
    why: 'the workload says DISABLE for the port it serves on, its own number',
    account: 'orders',
    policies: peerAuthentication('shop/orders', onApp('portLevelMtls: {8080: {mode: DISABLE}}')),
    expected: 'DISABLE auto',
  },
  {
    why: 'DISABLE for the service port number is some other port of the workload',
    account: 'orders',
    policies: peerAuthentication('shop/orders', onApp('portLevelMtls: {9080: {mode: DISABLE}}')),
    expected: 'ISTIO_MUTUAL auto',
  },
  {
    why: 'the client’s own namespace says DISABLE: that is about what it takes in, not what it sends',
    account: 'orders',
    policies: peerAuthentication('web/default', DISABLE),
    expected: 'ISTIO_MUTUAL auto',
  },
  {
    why: 'PERMISSIVE and STRICT alike',
    account: 'orders',
    policies: peerAuthentication('istio-system/default', 'mtls: {mode: STRICT}'),
    expected: 'ISTIO_MUTUAL auto',
  },
  {
    why: 'a DestinationRule’s ISTIO_MUTUAL ignores a PeerAuthentication’s DISABLE',
    account: 'orders',
    policies:
      peerAuthentication('shop/default', DISABLE) +
      resource('DestinationRule', 'shop/orders', `host: ${HOST}\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL}}`),
    expected: 'ISTIO_MUTUAL shop/orders',
  },
  {
    why: 'mesh config turns it off',
    account: 'orders',
    policies: '---\nkind: MeshConfig\nenableAutoMtls: false\n',
    expected: 'DISABLE auto',
  },
];

t.test('which endpoints get ISTIO_MUTUAL', async (t) => {
  for (const {
    why,
    location = 'MESH_INTERNAL',
    labels = '',
    account = '',
    policies = '',
    expected,
  } of rows) {
    const yaml = service(location) + entry('a', labels, account) + policies;
    const route = snapshotOf(yaml).route(HOST, 9080);
    t.equal(routeLine(route), expected, why);
    t.same(
      route?.endpoints.map((endpoint) => endpoint.tls),
      [expected.split(' ')[0]],
      `${why}: the endpoint`,
    );
  }
});

t.test('endpoints differ, each is spoken to as it can', async (t) => {
  const yaml = service('MESH_INTERNAL') + entry('a', '', 'orders') + entry('bb', '', '');
  const route = snapshotOf(yaml).route(HOST, 9080);
  t.same(
    route?.endpoints.map(({ address, port, tls }) => `${address}:${port} ${tls}`),
    ['10.0.0.1:8080 ISTIO_MUTUAL', '10.0.0.2:8080 DISABLE'],
  );
  t.equal(route?.tls.mode, 'ISTIO_MUTUAL', 'any in the mesh makes the route one of the mesh');
});

t.test('an explicit mode holds for every endpoint', async (t) => {
  const rule = resource(
    'DestinationRule',
    'shop/orders',
    `host: ${HOST}\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL}}`,
  );
  const yaml = service('MESH_INTERNAL') + entry('a', '', 'orders') + entry('bb', '', '') + rule;
  const route = snapshotOf(yaml).route(HOST, 9080);
  t.same(
    route?.endpoints.map(({ tls }) => tls),
    ['ISTIO_MUTUAL', 'ISTIO_MUTUAL'],
  );
});

t.test('expected identities', async (t) => {
  const two = service('MESH_INTERNAL') + entry('a', '', 'orders') + entry('bb', '', 'orders-canary');
  const mesh = '---\nkind: MeshConfig\ntrustDomain: td1\ntrustDomainAliases: [old-td]\n';
  t.same(
    snapshotOf(two).route(HOST, 9080)?.tls.expectedIdentities,
    ['spiffe://cluster.local/ns/shop/sa/orders', 'spiffe://cluster.local/ns/shop/sa/orders-canary'],
    'the accounts of all endpoints',
  );
  t.same(
    snapshotOf(service('MESH_INTERNAL') + entry('a', '', 'orders') + mesh).route(HOST, 9080)?.tls
      .expectedIdentities,
    ['spiffe://old-td/ns/shop/sa/orders', 'spiffe://td1/ns/shop/sa/orders'],
    'also in each alias of the trust domain',
  );
  const rule = resource(
    'DestinationRule',
    'web/orders',
    `host: ${HOST}
trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: other.name, subjectAltNames: ["spiffe://td1/ns/x/sa/y"]}}`,
  );
  const tls = snapshotOf(two + rule + mesh).route(HOST, 9080)?.tls;
  t.same(
    tls?.expectedIdentities,
    ['spiffe://td1/ns/x/sa/y'],
    'a DestinationRule replaces them, as they stand',
  );
  t.equal(tls?.sni, 'other.name', 'and the server name');
  t.equal(
    snapshotOf(two).route(HOST, 9080)?.tls.sni,
    'outbound_.9080_._.orders.shop.svc.cluster.local',
    'the server name is Istio’s, with the service port',
  );
  const labelled = snapshotOf(service('MESH_INTERNAL') + entry('a', LABELLED, '')).route(HOST, 9080);
  t.same(labelled?.tls.expectedIdentities, []);
  t.match(labelled?.warnings, [/any identity of the mesh is accepted/], 'none known: said aloud');
});

t.test('the ServiceEntry’s subjectAltNames count, with aliases', async (t) => {
  const yaml = `${resource(
    'ServiceEntry',
    'shop/orders',
    `hosts: [${HOST}]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 9080, name: http}]
endpoints: [{address: 10.0.0.1, serviceAccount: orders}]
subjectAltNames: ["spiffe://cluster.local/ns/other/sa/proxy", "dns.name"]`,
  )}---\nkind: MeshConfig\ntrustDomainAliases: [td2]\n`;
  t.same(snapshotOf(yaml).route(HOST, 9080)?.tls.expectedIdentities, [
    'dns.name',
    'spiffe://cluster.local/ns/other/sa/proxy',
    'spiffe://cluster.local/ns/shop/sa/orders',
    'spiffe://td2/ns/other/sa/proxy',
    'spiffe://td2/ns/shop/sa/orders',
  ]);
});
