/** Kubernetes' own objects: Service, Pod, EndpointSlice and Endpoints, understood as Istio's registry does. */
import t from 'tap';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { compile, errorsOf, linesOf, resource, snapshotOf } from './helper.ts';

const HOST = 'reviews.shop.svc.cluster.local';

function kube(kind: string, at: string, body: string, metadata = '', apiVersion = 'v1'): string {
  const [namespace, name] = at.split('/');
  return `---
apiVersion: ${apiVersion}
kind: ${kind}
metadata: {name: ${name}, namespace: ${namespace}${metadata}}
${body}
`;
}

function service(spec: string, at = 'shop/reviews', metadata = ''): string {
  return kube('Service', at, `spec: ${spec}`, metadata);
}

const PORTS =
  'ports: [{port: 80, name: http-web, targetPort: web}, {port: 81, name: n, targetPort: 8081}, {port: 82, name: m}]';
const SERVICE = service(`{selector: {app: reviews}, clusterIP: 10.96.0.1, ${PORTS}}`);
const CONTAINERS =
  'containers: [{name: a, image: i, ports: [{name: web, containerPort: 8080}, {name: web, containerPort: 9}]}]';
const MESH = ', security.istio.io/tlsMode: istio';

function pod(
  name: string,
  ip: string,
  labels = MESH,
  more: { spec?: string; status?: string; at?: string } = {},
): string {
  const { spec = CONTAINERS, status = '', at = 'shop' } = more;
  const body = `spec: {serviceAccountName: sa-${name}, ${spec}}
status: {${ip === '' ? '' : `podIP: ${ip}, `}phase: Running${status}}`;
  return kube('Pod', `${at}/${name}`, body, `, labels: {app: reviews${labels}}`);
}

function endpoints(snapshot: Snapshot, port: number, host = HOST): readonly string[] | null {
  const route = snapshot.route(host, port);
  return route?.endpoints.map((one) => `${one.address}:${one.port} ${one.tls}`) ?? null;
}

t.test('a Service reaches the pods its selector matches, at their own ports', async (t) => {
  const snapshot = snapshotOf(
    SERVICE +
      pod('b', '10.0.0.2') +
      pod('a', '10.0.0.1', '') +
      pod('other', '10.0.0.3', '').replace('app: reviews', 'app: other') +
      pod('elsewhere', '10.0.0.4', MESH, { at: 'bank' }) +
      pod('unplaced', '') +
      pod('nameless', '10.0.0.5', MESH, { spec: 'containers: [{name: a}]' }),
  );
  t.same(
    endpoints(snapshot, 80),
    ['10.0.0.1:8080 DISABLE', '10.0.0.2:8080 ISTIO_MUTUAL'],
    'a named port is the first container port of that name; without the tlsMode label a Pod has no sidecar',
  );
  t.same(
    endpoints(snapshot, 81),
    ['10.0.0.1:8081 DISABLE', '10.0.0.2:8081 ISTIO_MUTUAL', '10.0.0.5:8081 ISTIO_MUTUAL'],
    'a numbered one as it is',
  );
  t.match(endpoints(snapshot, 82)?.[0], '10.0.0.1:82', 'none: the service port');
  t.same(endpoints(snapshot, 83), null);
  const route = snapshot.route(HOST, 80);
  t.equal(route?.protocol, 'http');
  t.equal(route?.tls.sni, `outbound_.80_._.${HOST}`);
  t.same(
    route?.tls.expectedIdentities,
    ['sa-a', 'sa-b', 'sa-nameless'].map((sa) => `spiffe://cluster.local/ns/shop/sa/${sa}`),
    'the accounts of all endpoints of all ports',
  );
});

t.test('which pods serve', async (t) => {
  const rows: readonly (readonly [string, string, boolean])[] = [
    ['ready', ', conditions: [{type: Ready, status: "True"}]', true],
    ['no word of it', '', true],
    ['not ready', ', conditions: [{type: Ready, status: "False"}]', false],
    ['no Ready among the conditions', ', conditions: [{type: Initialized, status: "True"}]', false],
  ];
  for (const [why, status, serves] of rows) {
    const found = endpoints(snapshotOf(SERVICE + pod('a', '10.0.0.1', MESH, { status })), 80);
    t.same(found, serves ? ['10.0.0.1:8080 ISTIO_MUTUAL'] : [], why);
  }
  const finished = (phase: string): string => pod('a', '10.0.0.1').replace('Running', phase);
  for (const phase of ['Succeeded', 'Failed', 'Pending']) {
    t.same(endpoints(snapshotOf(SERVICE + finished(phase)), 80), [], phase);
  }
  const leaving = pod('a', '10.0.0.1').replace(
    'name: a,',
    'name: a, deletionTimestamp: "2026-01-01T00:00:00Z",',
  );
  t.same(endpoints(snapshotOf(SERVICE + leaving), 80), [], 'being deleted');
  const early = service(`{selector: {app: reviews}, publishNotReadyAddresses: true, ${PORTS}}`);
  const notReady = pod('a', '10.0.0.1', MESH, { status: ', conditions: [{type: Ready, status: "False"}]' });
  t.same(
    endpoints(snapshotOf(early + notReady), 80),
    ['10.0.0.1:8080 ISTIO_MUTUAL'],
    'publishNotReadyAddresses',
  );
});

t.test('who has a sidecar', async (t) => {
  const rows: readonly (readonly [string, string, string])[] = [
    [', security.istio.io/tlsMode: istio', 'ISTIO_MUTUAL', 'the label'],
    [', security.istio.io/tlsMode: disabled', 'DISABLE', 'the label says no'],
    ['', 'DISABLE', 'an account alone is nothing: every Pod has one'],
    [', sidecar.istio.io/inject: "true"', 'ISTIO_MUTUAL', 'it asks for one'],
    [
      ', sidecar.istio.io/inject: "true", security.istio.io/tlsMode: disabled',
      'DISABLE',
      'the label goes first',
    ],
  ];
  for (const [labels, mode, why] of rows) {
    t.same(endpoints(snapshotOf(SERVICE + pod('a', '10.0.0.1', labels)), 80), [`10.0.0.1:8080 ${mode}`], why);
  }
});

t.test('headless: TLS for all pods or for none', async (t) => {
  const headless = service(`{selector: {app: reviews}, clusterIP: None, ${PORTS}}`);
  const both = pod('a', '10.0.0.1') + pod('b', '10.0.0.2');
  t.same(endpoints(snapshotOf(headless + both), 80), [
    '10.0.0.1:8080 ISTIO_MUTUAL',
    '10.0.0.2:8080 ISTIO_MUTUAL',
  ]);
  const mixed = pod('a', '10.0.0.1') + pod('b', '10.0.0.2', '');
  t.same(endpoints(snapshotOf(headless + mixed), 80), ['10.0.0.1:8080 DISABLE', '10.0.0.2:8080 DISABLE']);
  const entry = resource(
    'WorkloadEntry',
    'shop/vm',
    'address: 10.0.0.9\nlabels: {app: reviews}\nserviceAccount: vm',
  );
  t.same(endpoints(snapshotOf(headless + pod('a', '10.0.0.1') + entry), 81), ['10.0.0.1:8081 ISTIO_MUTUAL']);
});

t.test('Services select WorkloadEntries, ServiceEntries select Pods', async (t) => {
  const entry = (ports: string): string =>
    resource(
      'WorkloadEntry',
      'shop/vm',
      `address: 10.0.0.9\nlabels: {app: reviews}\nserviceAccount: vm\n${ports}`,
    );
  t.same(endpoints(snapshotOf(SERVICE + entry('ports: {web: 18080}')), 80), ['10.0.0.9:18080 ISTIO_MUTUAL']);
  t.same(endpoints(snapshotOf(SERVICE + entry('')), 80), [], 'the name asked for is not among its ports');
  t.same(endpoints(snapshotOf(SERVICE + entry('ports: {n: 18081}')), 81), ['10.0.0.9:18081 ISTIO_MUTUAL']);
  t.same(endpoints(snapshotOf(SERVICE + entry('')), 81), ['10.0.0.9:8081 ISTIO_MUTUAL']);
  const serviceEntry = resource(
    'ServiceEntry',
    'shop/s',
    `hosts: [s.example.com]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 80, name: web, targetPort: 70}, {number: 81, name: x}]
workloadSelector: {labels: {app: reviews}}`,
  );
  const snapshot = snapshotOf(
    serviceEntry + pod('a', '10.0.0.1') + pod('b', '10.0.0.2', '', { status: ', conditions: []' }),
  );
  t.same(
    endpoints(snapshot, 80, 's.example.com'),
    ['10.0.0.1:8080 ISTIO_MUTUAL'],
    'a container port of the name first',
  );
  t.same(endpoints(snapshot, 81, 's.example.com'), ['10.0.0.1:81 ISTIO_MUTUAL']);
});

t.test('EndpointSlices say who it is instead of the selector', async (t) => {
  const slice = (body: string, more = ''): string =>
    kube(
      'EndpointSlice',
      `shop/reviews-${more}x`,
      `addressType: IPv4\n${body}`,
      ', labels: {kubernetes.io/service-name: reviews}',
      'discovery.k8s.io/v1',
    );
  const ports = 'ports: [{name: http-web, port: 8888}]';
  const yaml =
    SERVICE +
    pod('a', '10.0.0.1') +
    pod('b', '10.0.0.2') +
    slice(`${ports}
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: a, namespace: shop}}
- {addresses: [10.0.0.3], targetRef: {kind: Pod, name: gone, namespace: shop}}
- {addresses: [10.0.0.2], conditions: {ready: false}}
- {addresses: [192.0.2.1], conditions: {ready: true}}`);
  t.same(
    endpoints(snapshotOf(yaml), 80),
    ['10.0.0.1:8888 ISTIO_MUTUAL', '192.0.2.1:8888 DISABLE'],
    'without a Pod that is known nobody has a sidecar; one that names an unknown Pod is left out',
  );
  t.same(endpoints(snapshotOf(yaml), 81), [], 'a port the slices do not have');
  const old = kube(
    'Endpoints',
    'shop/reviews',
    'subsets: [{addresses: [{ip: 192.0.2.7}], notReadyAddresses: [{ip: 192.0.2.8}], ports: [{name: http-web, port: 7}]}]',
  );
  t.same(endpoints(snapshotOf(service(`{${PORTS}}`) + old), 80), ['192.0.2.7:7 DISABLE'], 'Endpoints');
  t.same(endpoints(snapshotOf(yaml + old), 80), ['10.0.0.1:8888 ISTIO_MUTUAL', '192.0.2.1:8888 DISABLE']);
  t.same(endpoints(snapshotOf(service(`{${PORTS}}`)), 80), [], 'neither selector nor slice');
});

t.test('ExternalName', async (t) => {
  const alias = (to: string, more = ''): string =>
    service(`{type: ExternalName, externalName: ${to}${more}}`, 'web/alias');
  const at = 'alias.web.svc.cluster.local';
  const snapshot = snapshotOf(SERVICE + pod('a', '10.0.0.1') + alias(HOST));
  t.same(endpoints(snapshot, 80, at), ['10.0.0.1:8080 ISTIO_MUTUAL'], 'stands for the service it names');
  t.equal(snapshot.route(at, 80)?.tls.sni, `outbound_.80_._.${HOST}`);
  t.same(snapshot.portsOf(at), [80, 81, 82]);
  const outside = snapshotOf(alias('api.example.com', ', ports: [{port: 443}]'));
  t.same(
    endpoints(outside, 443, at),
    ['api.example.com:443 DISABLE'],
    'outside the mesh: by DNS, in plaintext',
  );
  const circle =
    alias('b.web.svc.cluster.local') + service(`{type: ExternalName, externalName: ${at}}`, 'web/b');
  t.equal(snapshotOf(circle).route(at, 80), null, 'a circle');
});

t.test('a Service goes before a ServiceEntry of its host, and the own namespace before both', async (t) => {
  const squatter = (at: string): string =>
    resource(
      'ServiceEntry',
      at,
      `hosts: [${HOST}]\nresolution: STATIC\nports: [{number: 80, name: http}]\nendpoints: [{address: 192.0.2.9}]`,
      '2020-01-01T00:00:00Z',
    );
  const mine = SERVICE + pod('a', '10.0.0.1');
  t.same(endpoints(snapshotOf(mine + squatter('evil/s')), 80), ['10.0.0.1:8080 ISTIO_MUTUAL']);
  t.same(endpoints(snapshotOf(mine + squatter('web/s')), 80), ['192.0.2.9:80 DISABLE'], 'the client’s own');
});

t.test('several entries of one host and namespace', async (t) => {
  const host = 'x.example.com';
  const entry = (name: string, day: number, spec: string): string =>
    resource(
      'ServiceEntry',
      `shop/${name}`,
      `hosts: [${host}]\nlocation: MESH_INTERNAL\nports: [{number: 80, name: http}]\n${spec}`,
      `2026-01-0${day}T00:00:00Z`,
    );
  const inline = (address: string): string =>
    `resolution: STATIC\nendpoints: [{address: ${address}, serviceAccount: s${address.slice(-1)}}]`;
  const old = entry('old', 1, `${inline('10.0.0.1')}\nsubjectAltNames: [old.example]`);
  const young = entry('young', 2, `${inline('10.0.0.2')}\nsubjectAltNames: [young.example]`);
  const both = snapshotOf(old + young);
  t.same(endpoints(both, 80, host), ['10.0.0.1:80 ISTIO_MUTUAL', '10.0.0.2:80 ISTIO_MUTUAL']);
  t.same(
    both.route(host, 80)?.tls.expectedIdentities,
    ['spiffe://cluster.local/ns/shop/sa/s1', 'spiffe://cluster.local/ns/shop/sa/s2', 'young.example'],
    'all accounts, the names of the newest',
  );
  const byName = entry('dns', 3, 'resolution: DNS\nendpoints: [{address: e.example.org}]\nexportTo: [web]');
  t.same(
    endpoints(snapshotOf(old + byName), 80, host),
    ['10.0.0.1:80 ISTIO_MUTUAL', 'e.example.org:80 DISABLE'],
    'what is exported by name goes before what is for all, and is DNS here',
  );
  const forAll = byName.replace('exportTo: [web]', '');
  t.same(
    endpoints(snapshotOf(old + forAll), 80, host),
    ['10.0.0.1:80 ISTIO_MUTUAL'],
    'STATIC takes addresses only',
  );
  const hidden = entry('hidden', 1, `${inline('10.0.0.9')}\nexportTo: [other]`);
  t.same(
    endpoints(snapshotOf(hidden + young), 80, host),
    ['10.0.0.9:80 ISTIO_MUTUAL', '10.0.0.2:80 ISTIO_MUTUAL'],
    'one that is not exported defines nothing, but its endpoints are the host’s',
  );
  t.equal(snapshotOf(hidden).route(host, 80), null);
});

t.test('annotations of a Service', async (t) => {
  const annotated = (text: string): string =>
    service(`{selector: {app: reviews}, ${PORTS}}`, 'shop/reviews', `, annotations: {${text}}`) +
    pod('a', '10.0.0.1');
  t.equal(snapshotOf(annotated('networking.istio.io/exportTo: "."')).route(HOST, 80), null);
  t.ok(snapshotOf(annotated('networking.istio.io/exportTo: "other, web"')).route(HOST, 80));
  const accounts =
    'alpha.istio.io/kubernetes-serviceaccounts: "x,y", alpha.istio.io/canonical-serviceaccounts: "spiffe://td/z"';
  t.same(snapshotOf(annotated(accounts)).route(HOST, 80)?.tls.expectedIdentities, [
    'spiffe://cluster.local/ns/shop/sa/sa-a',
    'spiffe://cluster.local/ns/shop/sa/x',
    'spiffe://cluster.local/ns/shop/sa/y',
    'spiffe://td/z',
  ]);
});

t.test('protocols of ports, as Istio’s ConvertProtocol reads them', async (t) => {
  const rows: readonly (readonly [string, string | undefined])[] = [
    ['{port: 80, name: http-x}', 'http'],
    ['{port: 80, name: tcp, appProtocol: http}', 'http'],
    ['{port: 80, name: x, appProtocol: kubernetes.io/ws}', 'http'],
    ['{port: 80, name: http, appProtocol: kubernetes.io/h2c}', 'http2'],
    ['{port: 80, name: http, appProtocol: kubernetes.io/wss}', 'tcp'],
    ['{port: 80, name: kubernetes-h2c}', 'auto'],
    ['{port: 80, name: grpc-web}', 'http2'],
    ['{port: 80, name: grpc}', 'http2'],
    ['{port: 80, name: x, appProtocol: GRPC-x}', 'http2'],
    ['{port: 80, name: http, appProtocol: own.example/thing}', 'auto'],
    ['{port: 80}', 'auto'],
    ['{port: 3306}', 'tcp'],
    ['{port: 3306, name: http}', 'http'],
    ['{port: 80, protocol: UDP}', undefined],
  ];
  for (const [port, protocol] of rows) {
    const snapshot = snapshotOf(service(`{selector: {app: reviews}, ports: [${port}]}`));
    t.equal(snapshot.route(HOST, port.includes('3306') ? 3306 : 80)?.protocol, protocol, port);
  }
});

t.test('a Pod is a workload', async (t) => {
  const yaml = SERVICE + pod('a', '10.0.0.1');
  const { snapshot, waitingFor } = compile(yaml, undefined, { workload: { entry: 'shop/a' } });
  t.equal(waitingFor, null);
  t.equal(snapshot?.identity.uri, 'spiffe://cluster.local/ns/shop/sa/sa-a');
  t.match(snapshot?.serviceOf(8080), { host: HOST, name: 'reviews' });
  t.equal(snapshot?.protocolOf(8080), 'http');
  t.equal(snapshot?.workloadByAddress('10.0.0.1')?.name, 'a');
  const shared = pod('a', '10.0.0.1', MESH, { spec: 'hostNetwork: true, containers: []' });
  t.equal(snapshotOf(shared).workloadByAddress('10.0.0.1'), null, 'an address of the node is not the pod’s');
  const both = resource('WorkloadEntry', 'shop/a', 'address: 10.0.0.7\nserviceAccount: vm') + yaml;
  const entry = compile(both, undefined, { workload: { entry: 'shop/a' } });
  t.equal(entry.snapshot?.workload.serviceAccount, 'vm', 'a WorkloadEntry of the name goes first');
});

t.test('typos in what is read are told, what else Kubernetes has is let be', async (t) => {
  const typo = service(
    '{selector: {app: a}, selecter: {app: b}, sessionAffinity: None, ports: [{port: 80, nam: x, nodePort: 3}]}',
  );
  t.same(linesOf(compile(typo).problems, 'Warning'), [
    '5 spec.selecter OLK0103',
    '5 spec.ports[0].nam OLK0103',
  ]);
  const rows: readonly (readonly [string, string, string])[] = [
    ['a wrong type', service('{type: Cluster}'), '5 spec.type OLK0105'],
    ['a port out of range', service('{ports: [{port: 70000}]}'), '5 spec.ports[0].port OLK0108'],
    ['a port without number', service('{ports: [{name: x}]}'), '5 spec.ports[0].port OLK0106'],
    ['two ports without name', service('{ports: [{port: 1}, {port: 2}]}'), '5 spec.ports[1].name OLK0106'],
    [
      'one name twice',
      service('{ports: [{port: 1, name: a}, {port: 2, name: a}]}'),
      '5 spec.ports[1].name OLK0109',
    ],
    ['a bad target', service('{ports: [{port: 1, targetPort: "80"}]}'), '5 spec.ports[0].targetPort OLK0108'],
    ['ExternalName without name', service('{type: ExternalName}'), '5 spec.externalName OLK0106'],
    [
      'a Pod’s port',
      pod('a', '10.0.0.1', '', { spec: 'containers: [{ports: [{containerPort: 0}]}]' }),
      '5 spec.containers[0].ports[0].containerPort OLK0108',
    ],
    ['a Pod’s address', pod('a', 'nowhere'), '6 status.podIP OLK0108'],
  ];
  for (const [why, yaml, expected] of rows) t.same(errorsOf(yaml), [expected], why);
});
