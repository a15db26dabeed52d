/** DestinationRules: which one holds for a client, and what its TLS settings become. */
import t from 'tap';
import { resource, routeLine, snapshotOf } from './helper.ts';

const HOST = 'orders.shop.svc.cluster.local';

const SERVICE = resource(
  'ServiceEntry',
  'shop/orders',
  `hosts: [${HOST}]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: http}, {number: 443, name: tls}]
endpoints: [{address: 10.0.0.1, serviceAccount: orders}]`,
);

function rule(at: string, host: string, mode: string, more = '', created = ''): string {
  return resource(
    'DestinationRule',
    at,
    `host: "${host}"\ntrafficPolicy: {tls: {mode: ${mode}}}\n${more}`,
    created,
  );
}

interface Row {
  readonly why: string;
  readonly rules: string;
  readonly client?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly expected: string;
}

const AUTO = 'ISTIO_MUTUAL auto';

const rows: readonly Row[] = [
  { why: 'none: auto mTLS', rules: '', expected: AUTO },
  { why: 'the client’s namespace', rules: rule('web/a', HOST, 'DISABLE'), expected: 'DISABLE web/a' },
  { why: 'the service’s namespace', rules: rule('shop/a', HOST, 'DISABLE'), expected: 'DISABLE shop/a' },
  {
    why: 'the root namespace',
    rules: rule('istio-system/a', HOST, 'DISABLE'),
    expected: 'DISABLE istio-system/a',
  },
  { why: 'any other namespace: not looked at', rules: rule('other/a', HOST, 'DISABLE'), expected: AUTO },
  {
    why: 'client before service before root',
    rules:
      rule('istio-system/a', HOST, 'SIMPLE') +
      rule('shop/a', HOST, 'ISTIO_MUTUAL') +
      rule('web/a', HOST, 'DISABLE'),
    expected: 'DISABLE web/a',
  },
  {
    why: 'service before root',
    rules: rule('istio-system/a', HOST, 'SIMPLE') + rule('shop/a', HOST, 'DISABLE'),
    expected: 'DISABLE shop/a',
  },
  {
    why: 'a wildcard in the client’s namespace beats an exact host in the service’s',
    rules: rule('web/a', '*.cluster.local', 'DISABLE') + rule('shop/a', HOST, 'ISTIO_MUTUAL'),
    expected: 'DISABLE web/a',
  },
  {
    why: 'in one namespace exact beats wildcard',
    rules: rule('web/a', '*.cluster.local', 'SIMPLE') + rule('web/b', HOST, 'DISABLE'),
    expected: 'DISABLE web/b',
  },
  {
    why: 'the longer wildcard beats the shorter',
    rules: rule('web/a', '*.local', 'SIMPLE') + rule('web/b', '*.shop.svc.cluster.local', 'DISABLE'),
    expected: 'DISABLE web/b',
  },
  { why: 'a lone * covers all', rules: rule('web/a', '*', 'DISABLE'), expected: 'DISABLE web/a' },
  {
    why: 'a short host belongs to the rule’s namespace',
    rules: rule('shop/a', 'orders', 'DISABLE'),
    expected: 'DISABLE shop/a',
  },
  {
    why: '… so in another namespace it is another host',
    rules: rule('web/a', 'orders', 'DISABLE'),
    expected: AUTO,
  },
  {
    why: 'exportTo . keeps the service’s rule from others',
    rules: rule('shop/a', HOST, 'DISABLE', 'exportTo: ["."]'),
    expected: AUTO,
  },
  {
    why: 'exportTo naming the client’s namespace',
    rules: rule('shop/a', HOST, 'DISABLE', 'exportTo: [web]'),
    expected: 'DISABLE shop/a',
  },
  {
    why: 'exportTo naming some other namespace',
    rules: rule('shop/a', HOST, 'DISABLE', 'exportTo: [other]'),
    expected: AUTO,
  },
  {
    why: 'exportTo . serves the own namespace',
    rules: rule('web/a', HOST, 'DISABLE', 'exportTo: ["."]'),
    expected: 'DISABLE web/a',
  },
  {
    why: 'a rule exported elsewhere only is not for the own namespace',
    rules: rule('web/a', HOST, 'DISABLE', 'exportTo: [other]'),
    expected: AUTO,
  },
  {
    why: 'mesh config’s default export is private',
    rules: `${rule('shop/a', HOST, 'DISABLE')}---\nkind: MeshConfig\ndefaultDestinationRuleExportTo: ["."]\n`,
    expected: AUTO,
  },
  {
    why: 'a client in the root namespace looks at the service’s first',
    client: 'istio-system',
    rules: rule('istio-system/a', '*', 'SIMPLE') + rule('shop/a', HOST, 'DISABLE'),
    expected: 'DISABLE shop/a',
  },
  {
    why: '… but at a private rule of the root namespace before that',
    client: 'istio-system',
    rules: rule('istio-system/a', HOST, 'DISABLE', 'exportTo: ["."]') + rule('shop/a', HOST, 'SIMPLE'),
    expected: 'DISABLE istio-system/a',
  },
  {
    why: 'two of one host: the older one’s policy',
    rules:
      rule('web/a', HOST, 'SIMPLE', '', '2026-02-01T00:00:00Z') +
      rule('web/b', HOST, 'DISABLE', '', '2026-01-01T00:00:00Z'),
    expected: 'DISABLE web/b',
  },
  {
    why: 'two of one host without time: by name',
    rules: rule('web/b', HOST, 'SIMPLE') + rule('web/a', HOST, 'DISABLE'),
    expected: 'DISABLE web/a',
  },
  {
    why: 'the first that has a policy at all',
    rules: resource('DestinationRule', 'web/a', `host: ${HOST}`) + rule('web/b', HOST, 'DISABLE'),
    expected: 'DISABLE web/b',
  },
  {
    why: 'a rule without policy in the client’s namespace still hides the service’s',
    rules: resource('DestinationRule', 'web/a', `host: ${HOST}`) + rule('shop/a', HOST, 'DISABLE'),
    expected: AUTO,
  },
  {
    why: 'a workloadSelector that matches the client beats the rule without',
    labels: { app: 'web' },
    rules:
      rule('web/a', HOST, 'SIMPLE') +
      rule('web/b', HOST, 'DISABLE', 'workloadSelector: {matchLabels: {app: web}}'),
    expected: 'DISABLE web/b',
  },
  {
    why: 'a workloadSelector that does not match leaves the rule without',
    labels: { app: 'other' },
    rules:
      rule('web/a', HOST, 'DISABLE') +
      rule('web/b', HOST, 'SIMPLE', 'workloadSelector: {matchLabels: {app: web}}'),
    expected: 'DISABLE web/a',
  },
  {
    why: 'a rule with a workloadSelector does not leave its namespace',
    labels: { app: 'web' },
    rules: rule('shop/b', HOST, 'DISABLE', 'workloadSelector: {matchLabels: {app: web}}'),
    expected: AUTO,
  },
  {
    why: 'a policy without tls leaves it to auto mTLS',
    rules: resource(
      'DestinationRule',
      'web/a',
      `host: ${HOST}\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}`,
    ),
    expected: AUTO,
  },
];

t.test('which rule holds', async (t) => {
  for (const { why, rules, client = 'web', labels = {}, expected } of rows) {
    const snapshot = snapshotOf(SERVICE + rules, { namespace: client, labels });
    t.equal(routeLine(snapshot.route(HOST, 80)), expected, why);
  }
});

t.test('port-level settings replace, never merge', async (t) => {
  const yaml =
    SERVICE +
    resource(
      'DestinationRule',
      'web/a',
      `host: ${HOST}
trafficPolicy:
  tls: {mode: SIMPLE, sni: top.level}
  portLevelSettings:
  - port: {number: 443}
    tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k}
  - port: {number: 80}
    loadBalancer: {simple: ROUND_ROBIN}`,
    );
  const snapshot = snapshotOf(yaml);
  t.match(snapshot.route(HOST, 443)?.tls, {
    mode: 'MUTUAL',
    sni: HOST,
    clientCertificate: '/c',
    privateKey: '/k',
    caCertificates: null,
    source: 'web/a',
  });
  t.equal(routeLine(snapshot.route(HOST, 80)), AUTO, 'a port policy without tls inherits none');
});

t.test('TLS to a server outside the mesh', async (t) => {
  const external = resource(
    'ServiceEntry',
    'web/api',
    `hosts: [api.example.com]
ports: [{number: 443, name: tls}]
resolution: DNS`,
  );
  const simple = (tls: string): string =>
    external + resource('DestinationRule', 'web/api', `host: api.example.com\ntrafficPolicy: {tls: ${tls}}`);
  const tlsOf = (yaml: string) => snapshotOf(yaml).route('api.example.com', 443);

  t.match(tlsOf(simple('{mode: SIMPLE, caCertificates: /ca.pem}'))?.tls, {
    mode: 'SIMPLE',
    auto: false,
    sni: 'api.example.com',
    expectedIdentities: ['api.example.com'],
    caCertificates: '/ca.pem',
    clientCertificate: null,
  });
  t.same(
    tlsOf(simple('{mode: SIMPLE, subjectAltNames: [one, two]}'))?.tls.expectedIdentities,
    ['one', 'two'],
    'the rule’s names',
  );
  const named = tlsOf(simple('{mode: SIMPLE, sni: other.example.com}'));
  t.equal(named?.tls.sni, 'other.example.com');
  t.same(
    named?.tls.expectedIdentities,
    [],
    'Istio checks names by itself only where it chooses the server name',
  );
  t.match(named?.warnings, [/any certificate of a trusted CA is accepted/]);
  const open = tlsOf(simple('{mode: SIMPLE, insecureSkipVerify: true}'));
  t.equal(open?.tls.insecureSkipVerify, true);
  t.match(open?.warnings, [/is not verified/]);
  const mesh = tlsOf(simple('{mode: ISTIO_MUTUAL, insecureSkipVerify: true}'));
  t.equal(mesh?.tls.insecureSkipVerify, false, 'in the mesh it never holds');
});
