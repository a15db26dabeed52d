/** Sidecar: which one a workload has, the listeners it makes, and what it lets the workload see. */
import t from 'tap';
import { errorsOf, resource, snapshotOf } from './helper.ts';

/** A Sidecar told apart by its ingress port. */
function sidecar(at: string, port: number, selector = '', created = ''): string {
  return resource('Sidecar', at, `ingress: [{port: {number: ${port}}}]\n${selector}`, created);
}

const forWeb = 'workloadSelector: {labels: {app: web}}';

interface Row {
  readonly why: string;
  readonly sidecars: string;
  readonly port: number | null;
}

const rows: readonly Row[] = [
  { why: 'none', sidecars: '', port: null },
  { why: 'namespace-wide', sidecars: sidecar('web/a', 1), port: 1 },
  { why: 'another namespace’s', sidecars: sidecar('other/a', 1), port: null },
  { why: 'the root namespace’s', sidecars: sidecar('istio-system/a', 1), port: 1 },
  {
    why: 'the root namespace’s with a selector does not reach other namespaces',
    sidecars: sidecar('istio-system/a', 1, forWeb),
    port: null,
  },
  {
    why: 'namespace-wide beats root',
    sidecars: sidecar('istio-system/a', 1) + sidecar('web/a', 2),
    port: 2,
  },
  {
    why: 'a matching selector beats namespace-wide, older or not',
    sidecars:
      sidecar('web/a', 1, '', '2020-01-01T00:00:00Z') + sidecar('web/b', 2, forWeb, '2026-01-01T00:00:00Z'),
    port: 2,
  },
  {
    why: 'a selector that does not match is passed over',
    sidecars: sidecar('web/a', 1, 'workloadSelector: {labels: {app: other}}') + sidecar('web/b', 2),
    port: 2,
  },
  {
    why: 'of two that match the oldest',
    sidecars:
      sidecar('web/a', 1, forWeb, '2026-01-02T00:00:00Z') +
      sidecar('web/b', 2, forWeb, '2026-01-01T00:00:00Z'),
    port: 2,
  },
  {
    why: 'of two namespace-wide ones the oldest',
    sidecars:
      sidecar('web/a', 1, '', '2026-01-02T00:00:00Z') + sidecar('web/b', 2, '', '2026-01-01T00:00:00Z'),
    port: 2,
  },
  { why: 'without times by name', sidecars: sidecar('web/b', 2) + sidecar('web/a', 1), port: 1 },
];

t.test('which Sidecar a workload has', async (t) => {
  for (const { why, sidecars, port } of rows) {
    const snapshot = snapshotOf(sidecars, { namespace: 'web', labels: { app: 'web' } });
    t.equal(snapshot.ingress[0]?.port ?? null, port, why);
  }
});

t.test('ingress listeners', async (t) => {
  const yaml = resource(
    'Sidecar',
    'web/a',
    `ingress:
- port: {number: 1, protocol: HTTP}
  defaultEndpoint: 127.0.0.1:8080
- port: {number: 2, name: tcp-db}
  bind: 10.1.1.1
  defaultEndpoint: "[::1]:8081"
- port: {number: 3}
  defaultEndpoint: unix:///run/app.sock
- port: {number: 4}
  defaultEndpoint: 0.0.0.0:8084
- port: {number: 5}
- port: {number: 6}
  captureMode: NONE
  defaultEndpoint: :8086
- port: {number: 7}
  captureMode: IPTABLES`,
  );
  const given = {
    workload: {
      namespace: 'web',
      name: 'client',
      labels: new Map<string, string>(),
      serviceAccount: 'client',
      addresses: ['10.1.1.1'],
    },
  };
  const snapshot = snapshotOf(yaml, undefined, given);
  t.same(snapshot.ingress, [
    { port: 1, protocol: 'http', bind: null, defaultEndpoint: { host: '127.0.0.1', port: 8080 } },
    { port: 2, protocol: 'tcp', bind: '10.1.1.1', defaultEndpoint: { host: '::1', port: 8081 } },
    { port: 3, protocol: 'auto', bind: null, defaultEndpoint: { path: '/run/app.sock' } },
    { port: 4, protocol: 'auto', bind: null, defaultEndpoint: { host: '10.1.1.1', port: 8084 } },
    { port: 5, protocol: 'auto', bind: null, defaultEndpoint: { host: '127.0.0.1', port: 5 } },
    { port: 6, protocol: 'auto', bind: null, defaultEndpoint: { host: '127.0.0.1', port: 8086 } },
  ]);
  t.match(snapshot.warnings, [/Sidecar ingress 5: bound where its defaultEndpoint is/]);
  t.equal(snapshot.protocolOf(1), 'http');
  t.equal(snapshot.protocolOf(2), 'tcp');
  t.equal(snapshot.protocolOf(99), 'auto', 'nobody declared it');
  t.same(
    snapshotOf(yaml, undefined, { ...given, intercept: 'redirect' }).ingress.map(({ port }) => port),
    [6],
    'with capture only what says NONE is bound',
  );
});

const SERVICES = ['shop/orders', 'shop/stock', 'bank/payments']
  .map((at) => {
    const [namespace, name] = at.split('/');
    return resource(
      'ServiceEntry',
      at,
      `hosts: [${name}.${namespace}.svc.cluster.local]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: http}, {number: ${name === 'stock' ? 9000 : 9080}, name: http-alt}]`,
    );
  })
  .join('');

t.test('egress listeners', async (t) => {
  const egress = (entries: string) =>
    snapshotOf(SERVICES + resource('Sidecar', 'shop/a', `egress:\n${entries}`), {
      namespace: 'shop',
    });
  t.same(
    egress(`- port: {number: 9080, protocol: HTTP, name: http}
  hosts: ["bank/payments.bank.svc.cluster.local", "./orders.shop.svc.cluster.local"]
- port: {number: 80, protocol: TCP}
  bind: 127.0.0.2
  hosts: ["*/stock.shop.svc.cluster.local"]
- hosts: ["./*"]`).egress,
    [
      {
        bind: '127.0.0.1',
        port: 9080,
        protocol: 'http',
        hosts: ['payments.bank.svc.cluster.local', 'orders.shop.svc.cluster.local'],
      },
      { bind: '127.0.0.2', port: 80, protocol: 'tcp', hosts: ['stock.shop.svc.cluster.local'] },
    ],
    'in the Sidecar’s order; an entry without port is no listener',
  );
  const hostsOf = (hosts: string) => egress(`- port: {number: 9080}\n  hosts: ${hosts}`).egress[0]?.hosts;
  t.same(
    hostsOf('["*/*"]'),
    ['orders.shop.svc.cluster.local', 'payments.bank.svc.cluster.local'],
    'port 9080',
  );
  t.same(hostsOf('["./*"]'), ['orders.shop.svc.cluster.local']);
  t.same(hostsOf('["*/*.bank.svc.cluster.local"]'), ['payments.bank.svc.cluster.local']);
  t.same(hostsOf('["*/*", "~bank/*"]'), ['orders.shop.svc.cluster.local'], '~ leaves out');
  t.same(hostsOf('["~/*"]'), [], 'nothing');
  t.same(hostsOf('["./new.shop.svc.cluster.local"]'), ['new.shop.svc.cluster.local'], 'not defined yet');
});

t.test('what a Sidecar lets its workload see', async (t) => {
  const seen = (entries: string): readonly string[] => {
    const spec = entries === '' ? 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}' : `egress:\n${entries}`;
    const snapshot = snapshotOf(SERVICES + resource('Sidecar', 'shop/a', spec), { namespace: 'shop' });
    return ['orders.shop', 'stock.shop', 'payments.bank'].filter(
      (name) => snapshot.route(`${name}.svc.cluster.local`, 80) !== null,
    );
  };
  t.same(seen(''), ['orders.shop', 'stock.shop', 'payments.bank'], 'without egress: all');
  t.same(seen('- hosts: ["./*"]'), ['orders.shop', 'stock.shop']);
  t.same(seen('- hosts: ["bank/*"]'), ['payments.bank']);
  t.same(seen('- hosts: ["~/*"]'), []);
  t.same(seen('- hosts: ["*/*", "~./stock.shop.svc.cluster.local"]'), ['orders.shop', 'payments.bank']);
  t.same(
    seen(
      '- port: {number: 80}\n  hosts: ["./orders.shop.svc.cluster.local"]\n- port: {number: 9080}\n  hosts: ["*/*"]',
    ),
    ['orders.shop'],
    'an entry with a port shows that port only',
  );
});

t.test('outboundTrafficPolicy', async (t) => {
  const policyOf = (yaml: string) => snapshotOf(yaml).mesh.outboundTrafficPolicy;
  const mesh = '---\nkind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n';
  t.equal(policyOf(''), 'ALLOW_ANY', 'Istio’s default');
  t.equal(policyOf(mesh), 'REGISTRY_ONLY');
  const sidecar = (policy: string) => resource('Sidecar', 'web/a', `outboundTrafficPolicy: ${policy}`);
  t.equal(policyOf(mesh + sidecar('{mode: ALLOW_ANY}')), 'ALLOW_ANY', 'the Sidecar’s goes first');
  t.equal(policyOf(sidecar('{}')), 'REGISTRY_ONLY', 'protobuf’s zero');
});

t.test('what Istio’s webhook refuses', async (t) => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['an empty one', '{}', '5 spec OLK0106'],
    ['ingress without port', 'ingress: [{bind: 1.2.3.4}]', '6 spec.ingress[0].port.number OLK0106'],
    [
      'a port twice',
      'ingress:\n- port: {number: 1}\n- port: {number: 1}',
      '8 spec.ingress[1].port.number OLK0109',
    ],
    ['a foreign bind', 'ingress:\n- port: {number: 1}\n  bind: host', '8 spec.ingress[0].bind OLK0108'],
    [
      'a foreign defaultEndpoint',
      'ingress:\n- port: {number: 1}\n  defaultEndpoint: 10.0.0.1:80',
      '8 spec.ingress[0].defaultEndpoint OLK0108',
    ],
    ['its TLS', 'ingress:\n- port: {number: 1}\n  tls: {}', '8 spec.ingress[0].tls OLK0107'],
    ['a port name', 'ingress:\n- port: {number: 1, name: a_b}', '7 spec.ingress[0].port.name OLK0108'],
    ['a protocol', 'ingress:\n- port: {number: 1, protocol: x}', '7 spec.ingress[0].port.protocol OLK0108'],
    [
      'a target port',
      'ingress:\n- port: {number: 1, targetPort: 2}',
      '7 spec.ingress[0].port.targetPort OLK0108',
    ],
    ['egress without hosts', 'egress:\n- port: {number: 1}', '7 spec.egress[0].hosts OLK0106'],
    ['a host without namespace', 'egress:\n- hosts: [a.b]', '7 spec.egress[0].hosts[0] OLK0108'],
    ['a short host', 'egress:\n- hosts: [a/b]', '7 spec.egress[0].hosts[0] OLK0108'],
    ['a partial wildcard', 'egress:\n- hosts: [a/*b.c]', '7 spec.egress[0].hosts[0] OLK0108'],
    ['an odd namespace', 'egress:\n- hosts: [a_b/c.d]', '7 spec.egress[0].hosts[0] OLK0108'],
    [
      'a catch-all before the last',
      'egress:\n- hosts: ["*/*"]\n- port: {number: 1}\n  hosts: ["*/*"]',
      '7 spec.egress[0] OLK0108',
    ],
    [
      'a unix socket',
      'egress:\n- port: {number: 0, protocol: TCP}\n  bind: unix:///a\n  hosts: ["*/*"]',
      '8 spec.egress[0].bind OLK0107',
    ],
    [
      'a wildcard label',
      'workloadSelector: {labels: {a: "*"}}\ningress: []',
      '6 spec.workloadSelector.labels.a OLK0108',
    ],
    ['an unknown field', 'egres: []\ningress: [{port: {number: 1}}]', '6 spec.egres OLK0103'],
    [
      'an unknown mode',
      'ingress:\n- port: {number: 1}\n  captureMode: X',
      '8 spec.ingress[0].captureMode OLK0105',
    ],
  ];
  for (const [why, spec, expected] of cases) {
    t.ok(errorsOf(resource('Sidecar', 'web/a', spec)).includes(expected), why, {
      found: errorsOf(resource('Sidecar', 'web/a', spec)),
      expected,
    });
  }
});
