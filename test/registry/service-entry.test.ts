/** ServiceEntry and WorkloadEntry: hosts to endpoints, who sees them, and what Istio's webhook refuses. */
import t from 'tap';
import { compile, errorsOf, linesOf, resource, snapshotOf } from './helper.ts';

/** The route's endpoints as `address:port`, or why there is none. */
function endpoints(yaml: string, host: string, port: number, namespace = 'web'): readonly string[] | null {
  const route = snapshotOf(yaml, { namespace }).route(host, port);
  return route === null ? null : route.endpoints.map(({ address, port }) => `${address}:${port}`);
}

const service = (spec: string, at = 'shop/s', created = ''): string =>
  resource('ServiceEntry', at, spec, created);
const HOST = 's.shop.svc.cluster.local';

t.test('endpoints by resolution and port', async (t) => {
  const ports = 'ports: [{number: 80, name: http, targetPort: 8080}, {number: 443, name: tls}]';
  const inline = `hosts: [${HOST}]\nresolution: STATIC\n${ports}
endpoints: [{address: 10.0.0.1, ports: {tls: 8443}}, {address: "fd00::1"}]`;
  t.same(
    endpoints(service(inline), HOST, 80),
    ['10.0.0.1:8080', 'fd00::1:8080'],
    'targetPort where none is named',
  );
  t.same(
    endpoints(service(inline), HOST, 443),
    ['10.0.0.1:8443', 'fd00::1:443'],
    'the endpoint’s own port first',
  );
  t.same(endpoints(service(inline), HOST, 81), null, 'a port the service does not have');
  t.same(endpoints(service(inline), 'other.host', 80), null, 'an unknown host');
  t.same(
    endpoints(service(inline), HOST.toUpperCase(), 80),
    ['10.0.0.1:8080', 'fd00::1:8080'],
    'of any case',
  );

  const dns = `hosts: [api.example.com]\nresolution: DNS\n${ports}`;
  t.same(endpoints(service(dns), 'api.example.com', 443), ['api.example.com:443'], 'DNS: the host itself');
  t.same(endpoints(service(dns), 'api.example.com', 80), ['api.example.com:8080'], '… at the target port');
  const roundRobin = dns.replace('DNS', 'DNS_ROUND_ROBIN');
  t.same(endpoints(service(roundRobin), 'api.example.com', 443), ['api.example.com:443']);
  t.same(
    endpoints(service(`${dns}\nendpoints: [{address: eu.example.com}]`), 'api.example.com', 443),
    ['eu.example.com:443'],
    'DNS with endpoints',
  );

  const none = service(`hosts: ["*.example.com"]\n${ports}`);
  t.same(endpoints(none, 'a.example.com', 443), [], 'NONE: nothing to dial by ourselves');
  t.match(snapshotOf(none).route('a.example.com', 443)?.warnings, [/resolution NONE/]);
  t.equal(snapshotOf(none).route('a.example.com', 443)?.ownPort, 443, 'but the caller’s own destination');
  t.equal(snapshotOf(none).route('a.example.com', 80)?.ownPort, 8080, '… on the target port');
  const dynamic = service(
    'hosts: ["*.example.com"]\nresolution: DYNAMIC_DNS\nports: [{number: 443, name: a, protocol: TLS}]',
  );
  t.equal(snapshotOf(dynamic).route('a.example.com', 443)?.ownPort, 443, 'DYNAMIC_DNS likewise');
  t.same(endpoints(none, 'example.com', 443), null, '*.x does not cover x');

  const unix = `hosts: [${HOST}]\nresolution: STATIC\nports: [{number: 80, name: http}]
endpoints: [{address: "unix:///run/s.sock"}]`;
  t.same(endpoints(service(unix), HOST, 80), ['unix:///run/s.sock:0']);
});

t.test('workloads selected by label', async (t) => {
  const selecting = service(`hosts: [${HOST}]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: http, targetPort: 8080}]
workloadSelector: {labels: {app: s}}`);
  const entry = (at: string, spec: string) => resource('WorkloadEntry', at, spec);
  const yaml =
    selecting +
    entry('shop/b', 'address: 10.0.0.2\nlabels: {app: s}\nports: {http: 18080}\nweight: 3') +
    entry('shop/a', 'address: 10.0.0.1\nlabels: {app: s, more: x}\nweight: 0') +
    entry('shop/c', 'address: 10.0.0.3\nlabels: {app: other}') +
    entry('shop/d', 'address: host.name\nlabels: {app: s}') +
    entry('bank/e', 'address: 10.0.0.5\nlabels: {app: s}');
  t.same(
    endpoints(yaml, HOST, 80),
    ['10.0.0.1:8080', '10.0.0.2:18080'],
    'of its namespace, with all labels, with an IP address where resolution is STATIC; by name',
  );
  t.same(
    snapshotOf(yaml)
      .route(HOST, 80)
      ?.endpoints.map(({ weight }) => weight),
    [1, 3],
    'an unset weight, or 0, is 1',
  );
  t.same(endpoints(yaml.replace('STATIC', 'DNS'), HOST, 80), [
    '10.0.0.1:8080',
    '10.0.0.2:18080',
    'host.name:8080',
  ]);
  const metadata = `---
apiVersion: networking.istio.io/v1alpha3
kind: WorkloadEntry
metadata: {name: m, namespace: shop, labels: {app: s}}
spec: {address: 10.0.0.9, labels: {app: other}}
`;
  t.same(endpoints(selecting + metadata, HOST, 80), ['10.0.0.9:8080'], 'labels of metadata go first');
});

t.test('who a host means', async (t) => {
  const at = (address: string, host: string, more = '') =>
    `hosts: ["${host}"]\nresolution: STATIC\nports: [{number: 80, name: http}]\nendpoints: [{address: ${address}}]\n${more}`;
  const a = 'a.example.com';
  t.same(
    endpoints(service(at('10.0.0.1', '*.example.com'), 'x/w') + service(at('10.0.0.2', a), 'x/e'), a, 80),
    ['10.0.0.2:80'],
    'exact before wildcard',
  );
  t.same(
    endpoints(
      service(at('10.0.0.1', '*.com'), 'x/w') + service(at('10.0.0.2', '*.example.com'), 'x/e'),
      a,
      80,
    ),
    ['10.0.0.2:80'],
    'the longer wildcard',
  );
  t.same(
    endpoints(
      service(at('10.0.0.1', a), 'x/a', '2026-01-02T00:00:00Z') +
        service(at('10.0.0.2', a), 'y/b', '2026-01-01T00:00:00Z'),
      a,
      80,
    ),
    ['10.0.0.2:80'],
    'of two namespaces the oldest',
  );
  t.same(
    endpoints(service(at('10.0.0.1', a), 'x/a') + service(at('10.0.0.2', a), 'x/b'), a, 80),
    ['10.0.0.1:80', '10.0.0.2:80'],
    'of one namespace: one service with the endpoints of both',
  );
  const exports: readonly (readonly [string, string, boolean])[] = [
    ['exportTo: ["*"]', 'web', true],
    ['exportTo: ["."]', 'web', false],
    ['exportTo: ["."]', 'x', true],
    ['exportTo: [web, other]', 'web', true],
    ['exportTo: [other]', 'web', false],
    ['exportTo: ["~"]', 'x', false],
  ];
  for (const [exportTo, namespace, seen] of exports) {
    const found = endpoints(service(at('10.0.0.1', a, exportTo), 'x/a'), a, 80, namespace);
    t.equal(found !== null, seen, `${exportTo} from ${namespace}`);
  }
  const closed = '---\nkind: MeshConfig\ndefaultServiceExportTo: ["."]\n';
  t.same(endpoints(service(at('10.0.0.1', a), 'x/a') + closed, a, 80), null, 'mesh config’s default');
});

t.test('the workload behind an address or identity, where exactly one is', async (t) => {
  const entry = (at: string, address: string, account: string) =>
    resource('WorkloadEntry', at, `address: ${address}\nserviceAccount: ${account}`);
  const yaml =
    entry('shop/a', '10.0.0.1', 'one') +
    entry('shop/b', '10.0.0.2', 'two') +
    entry('shop/c', '10.0.0.2', 'two') +
    service(`hosts: [x.y]\nresolution: STATIC\nports: [{number: 1, name: p}]
endpoints: [{address: 10.0.0.9, serviceAccount: nine}]`);
  const snapshot = snapshotOf(yaml);
  const identity = (namespace: string, account: string, trustDomain = 'cluster.local') => ({
    uri: '',
    principal: '',
    trustDomain,
    namespace,
    serviceAccount: account,
  });
  t.equal(snapshot.workloadByAddress('10.0.0.1')?.name, 'a');
  t.equal(snapshot.workloadByAddress('10.0.0.2'), null, 'two share it');
  t.equal(snapshot.workloadByAddress('10.0.0.3'), null);
  t.equal(snapshot.workloadByAddress('10.0.0.9')?.name, 's-0', 'an inline endpoint');
  t.equal(snapshot.workloadByIdentity(identity('shop', 'one'))?.name, 'a');
  t.equal(snapshot.workloadByIdentity(identity('shop', 'two')), null, 'two share it');
  t.equal(snapshot.workloadByIdentity(identity('bank', 'one')), null);
  t.equal(snapshot.workloadByIdentity(identity('shop', 'one', 'elsewhere')), null, 'of another trust domain');
});

t.test('what our own ports are', async (t) => {
  const yaml =
    service(`hosts: [${HOST}]
resolution: STATIC
location: MESH_INTERNAL
ports: [{number: 80, name: http}, {number: 81, name: db, protocol: TCP, targetPort: 8081}]
workloadSelector: {labels: {app: s}}`) +
    resource(
      'WorkloadEntry',
      'shop/s',
      'address: 10.0.0.1\nlabels: {app: s}\nports: {http: 18080}\nserviceAccount: s',
    );
  const snapshot = snapshotOf(yaml, undefined, { workload: { entry: 'shop/s' } });
  t.same(snapshot.serviceOf(18080), { host: HOST, name: 's', namespace: 'shop' });
  t.equal(snapshot.protocolOf(18080), 'http');
  t.equal(snapshot.protocolOf(8081), 'tcp');
  t.equal(snapshot.serviceOf(80), null, 'the service’s number is not the workload’s');
  t.equal(snapshot.protocolOf(80), 'auto');
});

t.test('what Istio’s webhook refuses in a ServiceEntry', async (t) => {
  const ok = 'hosts: [a.b]\nports: [{number: 80, name: http, protocol: HTTP}]';
  const cases: readonly (readonly [string, string, string])[] = [
    ['no hosts', 'ports: [{number: 80, name: http}]', '5 spec.hosts OLK0106'],
    ['empty hosts', 'hosts: []', '6 spec.hosts OLK0106'],
    ['a lone wildcard', 'hosts: ["*"]', '6 spec.hosts[0] OLK0108'],
    ['a bad host', 'hosts:\n- a_b.c', '7 spec.hosts[0] OLK0108'],
    ['a numeric top level', 'hosts:\n- a.123', '7 spec.hosts[0] OLK0108'],
    [
      'a port twice',
      `hosts: [a.b]\nports:\n- {number: 80, name: a}\n- {number: 80, name: b}`,
      '9 spec.ports[1].number OLK0109',
    ],
    [
      'a port name twice',
      `hosts: [a.b]\nports:\n- {number: 80, name: a}\n- {number: 81, name: a}`,
      '9 spec.ports[1].name OLK0109',
    ],
    ['a port without number', 'hosts: [a.b]\nports:\n- {name: a}', '8 spec.ports[0].number OLK0106'],
    ['a port without name', 'hosts: [a.b]\nports:\n- {number: 80}', '8 spec.ports[0].name OLK0106'],
    [
      'a port out of range',
      'hosts: [a.b]\nports:\n- {number: 70000, name: a}',
      '8 spec.ports[0].number OLK0108',
    ],
    ['a port in quotes', 'hosts: [a.b]\nports:\n- {number: "80", name: a}', '8 spec.ports[0].number OLK0104'],
    [
      'an unknown protocol',
      'hosts: [a.b]\nports:\n- {number: 80, name: a, protocol: X}',
      '8 spec.ports[0].protocol OLK0108',
    ],
    ['a bad address', `${ok}\naddresses:\n- 1.2.3`, '9 spec.addresses[0] OLK0108'],
    ['a CIDR block with DNS', `${ok}\nresolution: DNS\naddresses: [10.0.0.0/8]`, '9 spec.addresses OLK0108'],
    ['endpoints with NONE', `${ok}\nendpoints: [{address: 10.0.0.1}]`, '8 spec.endpoints OLK0108'],
    [
      'both ways',
      `${ok}\nresolution: STATIC\nworkloadSelector: {labels: {a: b}}\nendpoints: [{address: 10.0.0.1}]`,
      '9 spec.workloadSelector OLK0108',
    ],
    [
      'STATIC with a host name',
      `${ok}\nresolution: STATIC\nendpoints:\n- address: a.host`,
      '10 spec.endpoints[0].address OLK0108',
    ],
    [
      'an endpoint’s unknown port',
      `${ok}\nresolution: STATIC\nendpoints:\n- address: 10.0.0.1\n  ports: {x: 1}`,
      '11 spec.endpoints[0].ports.x OLK0108',
    ],
    [
      'an endpoint without address',
      `${ok}\nresolution: STATIC\nendpoints:\n- weight: 1`,
      '10 spec.endpoints[0].address OLK0106',
    ],
    ['DNS of a wildcard', 'hosts: ["*.a.b"]\nresolution: DNS', '6 spec.hosts OLK0108'],
    [
      'round robin over two',
      `${ok}\nresolution: DNS_ROUND_ROBIN\nendpoints: [{address: a.c}, {address: b.c}]`,
      '9 spec.endpoints OLK0108',
    ],
    [
      'two hosts on TCP',
      'hosts: [a.b, c.d]\nresolution: DNS\nports: [{number: 1, name: tcp, protocol: TCP}]',
      '6 spec.hosts OLK0108',
    ],
    ['* beside a name', `${ok}\nexportTo: ["*", x]`, '8 spec.exportTo OLK0108'],
    ['a name twice', `${ok}\nexportTo: [x, x]`, '8 spec.exportTo[1] OLK0109'],
    ['. beside its own name', `${ok}\nexportTo: [".", shop]`, '8 spec.exportTo[1] OLK0109'],
    ['a wrong location', `${ok}\nlocation: INTERNAL`, '8 spec.location OLK0105'],
    ['DYNAMIC_DNS of a full name', `${ok}\nresolution: DYNAMIC_DNS`, '6 spec.hosts[0] OLK0108'],
    [
      'DYNAMIC_DNS of no protocol with names',
      'hosts: ["*.b"]\nresolution: DYNAMIC_DNS\nports: [{number: 1, name: a, protocol: TCP}]',
      '8 spec.ports[0].protocol OLK0108',
    ],
    [
      'DYNAMIC_DNS with endpoints',
      `${ok}\nresolution: DYNAMIC_DNS\nendpoints: [{address: 10.0.0.1}]`,
      '9 spec.endpoints OLK0108',
    ],
    [
      'DYNAMIC_DNS with addresses',
      `${ok}\nresolution: DYNAMIC_DNS\naddresses: [10.0.0.1]`,
      '9 spec.addresses OLK0108',
    ],
    ['endpoints that are none, beside NONE', `${ok}\nendpoints: []`, '8 spec.endpoints OLK0108'],
    [
      'a tunnel protocol of others',
      'hosts: [a.b]\nports: [{number: 1, name: a, protocol: HBONE}]',
      '7 spec.ports[0].protocol OLK0108',
    ],
    [
      'a bad label of an endpoint',
      `${ok}\nresolution: STATIC\nendpoints: [{address: 10.0.0.1, labels: {a/b/c: x}}]`,
      '9 spec.endpoints[0].labels.a/b/c OLK0108',
    ],
    [
      'a wildcard in a selector',
      `${ok}\nworkloadSelector: {labels: {app: "a*"}}`,
      '8 spec.workloadSelector.labels.app OLK0108',
    ],
    [
      'too many hosts',
      `hosts: [${Array.from({ length: 257 }, (_, i) => `h${i}.b`).join(', ')}]`,
      '6 spec.hosts OLK0108',
    ],
    ['an unknown field', `${ok}\nresolutions: DNS`, '8 spec.resolutions OLK0103'],
    ['a list that is none', 'hosts: a.b', '6 spec.hosts OLK0104'],
  ];
  for (const [why, spec, expected] of cases) {
    const found = errorsOf(service(spec));
    t.ok(found.includes(expected), why, { found, expected });
  }
  t.same(errorsOf(service(ok)), [], 'the row they vary is fine');
});

t.test('what it refuses in a WorkloadEntry', async (t) => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['no address', 'weight: 1', '5 spec.address OLK0106'],
    ['a bad address', 'address: a_b', '6 spec.address OLK0108'],
    ['a relative socket', 'address: unix://a', '6 spec.address OLK0108'],
    ['ports of a socket', 'address: unix:///a\nports: {http: 1}', '7 spec.ports OLK0108'],
    ['a port of 0', 'address: 10.0.0.1\nports: {http: 0}', '7 spec.ports.http OLK0108'],
    ['a port name', 'address: 10.0.0.1\nports: {a_b: 1}', '7 spec.ports.a_b OLK0108'],
    ['a negative weight', 'address: 10.0.0.1\nweight: -1', '7 spec.weight OLK0108'],
    [
      'an account too long',
      `address: 10.0.0.1\nserviceAccount: ${'a'.repeat(254)}`,
      '7 spec.serviceAccount OLK0108',
    ],
    ['a network that is a number', 'address: 10.0.0.1\nnetwork: 1', '7 spec.network OLK0108'],
    ['a label key', 'address: 10.0.0.1\nlabels: {-1: x}', '7 spec.labels.-1 OLK0108'],
    ['a label value', 'address: 10.0.0.1\nlabels: {a: "b c"}', '7 spec.labels.a OLK0108'],
    ['an empty address', 'address: ""', '6 spec.address OLK0106'],
    ['ports that are none on a socket', 'address: unix:///a\nports: {}', '7 spec.ports OLK0108'],
    ['a label that is a number', 'address: 10.0.0.1\nlabels: {a: 1}', '7 spec.labels.a OLK0104'],
    ['an unknown field', 'address: 10.0.0.1\nserviceaccount: a', '7 spec.serviceaccount OLK0103'],
  ];
  for (const [why, spec, expected] of cases) {
    const found = errorsOf(resource('WorkloadEntry', 'shop/w', spec));
    t.ok(found.includes(expected), why, { found, expected });
  }
  const { problems } = compile(
    resource('WorkloadEntry', 'shop/w', 'address: 10.0.0.1\nlocality: a/b\nnetwork: n'),
  );
  t.same(linesOf(problems, 'Warning'), ['7 spec.locality OLK0110', '8 spec.network OLK0110']);
});
