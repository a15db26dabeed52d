/** HBONE: which endpoints get a tunnel, at which port and to whom, and what keeps an endpoint without one. */
import t from 'tap';
import type { Route } from '../../mesh/route.ts';
import { errorsOf, resource, snapshotOf } from './helper.ts';

const HOST = 'orders.shop.svc.cluster.local';
const TUNNEL = 'networking.istio.io/tunnel';
const HTTP = `${TUNNEL}: http`;
const ORDERS = 'spiffe://cluster.local/ns/shop/sa/orders';

function service(more = '', location = 'MESH_INTERNAL', resolution = 'STATIC'): string {
  return resource(
    'ServiceEntry',
    'shop/orders',
    `hosts: [${HOST}]
location: ${location}
resolution: ${resolution}
ports: [{number: 9080, name: http, targetPort: 8080}]
workloadSelector: {labels: {app: orders}}
${more}`,
  );
}

interface Entry {
  readonly name?: string;
  readonly address?: string;
  readonly labels?: string;
  readonly account?: string;
  readonly ports?: string;
}

function entry({
  name = 'a',
  address = '10.0.0.1',
  labels = HTTP,
  account = 'orders',
  ports,
}: Entry): string {
  return resource(
    'WorkloadEntry',
    `shop/${name}`,
    [
      `address: "${address}"`,
      `labels: {app: orders${labels === '' ? '' : `, ${labels}`}}`,
      ...(account === '' ? [] : [`serviceAccount: ${account}`]),
      ...(ports === undefined ? [] : [`ports: {${ports}}`]),
    ].join('\n'),
  );
}

const rule = (tls: string): string =>
  resource('DestinationRule', 'shop/orders', `host: ${HOST}\ntrafficPolicy: {tls: {${tls}}}`);
const peers = (at: string, spec: string): string => resource('PeerAuthentication', at, spec);
const mesh = (fields: string): string => `---\nkind: MeshConfig\n${fields}\n`;

/** `ADDRESS:PORT TLS` of each endpoint, then its tunnel's port and the names expected there, without `spiffe://`. */
function lines(route: Route | null): readonly string[] {
  return (route?.endpoints ?? []).map(({ address, port, tls, tunnel }) => {
    const names = (list: readonly string[]): string =>
      list.map((name) => name.replace('spiffe://', '')).join(' ');
    const by = tunnel === null ? '' : ` > ${tunnel.port} ${names(tunnel.expectedIdentities)}`;
    return `${address}:${port} ${tls}${by}`;
  });
}

const ACCOUNT = 'cluster.local/ns/shop/sa/orders';
const TUNNELLED = `10.0.0.1:8080 ISTIO_MUTUAL > 15008 ${ACCOUNT}`;
const DIRECT = '10.0.0.1:8080 ISTIO_MUTUAL';
const PLAINTEXT = '10.0.0.1:8080 DISABLE';

interface Row {
  readonly why: string;
  readonly yaml: string;
  readonly expected: readonly string[];
}

const rows: readonly Row[] = [
  { why: 'the label alone decides', yaml: service() + entry({}), expected: [TUNNELLED] },
  { why: 'without it none', yaml: service() + entry({ labels: '' }), expected: [DIRECT] },
  {
    why: 'another value: none (Istio: SupportsTunnel)',
    yaml: service() + entry({ labels: `${TUNNEL}: http3` }),
    expected: [DIRECT],
  },
  {
    why: 'case counts',
    yaml: service() + entry({ labels: `${TUNNEL}: HTTP` }),
    expected: [DIRECT],
  },
  {
    why: 'a waypoint of Istio takes nothing else (Istio: supportTunnel)',
    yaml: service() + entry({ labels: 'gateway.istio.io/managed: istio.io-mesh-controller' }),
    expected: [TUNNELLED],
  },
  {
    why: 'another gateway: none',
    yaml: service() + entry({ labels: 'gateway.istio.io/managed: istio.io-gateway-controller' }),
    expected: [DIRECT],
  },
  {
    why: 'the port named hbone',
    yaml: service() + entry({ ports: 'hbone: 25008' }),
    expected: [`10.0.0.1:8080 ISTIO_MUTUAL > 25008 ${ACCOUNT}`],
  },
  {
    why: 'the port named hbone without the label: none',
    yaml: service() + entry({ labels: '', ports: 'hbone: 25008' }),
    expected: [DIRECT],
  },
  {
    why: 'IPv6',
    yaml: service() + entry({ address: 'fd00::1' }),
    expected: [`fd00::1:8080 ISTIO_MUTUAL > 15008 ${ACCOUNT}`],
  },
  {
    why: 'without account it is Kubernetes’ default one',
    yaml: service() + entry({ account: '' }),
    expected: ['10.0.0.1:8080 ISTIO_MUTUAL > 15008 cluster.local/ns/shop/sa/default'],
  },
  {
    why: 'each endpoint for itself, and for its own account',
    yaml:
      service() +
      entry({}) +
      entry({ name: 'b', address: '10.0.0.2', account: 'canary' }) +
      entry({ name: 'c', address: '10.0.0.3', labels: '', account: '' }),
    expected: [
      TUNNELLED,
      '10.0.0.2:8080 ISTIO_MUTUAL > 15008 cluster.local/ns/shop/sa/canary',
      '10.0.0.3:8080 DISABLE',
    ],
  },
  {
    why: 'in every alias of the trust domain',
    yaml: service() + entry({}) + mesh('trustDomain: td\ntrustDomainAliases: [old]'),
    expected: ['10.0.0.1:8080 ISTIO_MUTUAL > 15008 old/ns/shop/sa/orders td/ns/shop/sa/orders'],
  },
  {
    why: 'whom the service names may answer, too (ztunnel: workload_and_services_san)',
    yaml: service('subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/proxy"]') + entry({}),
    expected: [`${TUNNELLED} cluster.local/ns/shop/sa/proxy`],
  },
  {
    why: 'a rule’s subjectAltNames replace all',
    yaml: service() + entry({}) + rule('mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://x/ns/y/sa/z"]'),
    expected: ['10.0.0.1:8080 ISTIO_MUTUAL > 15008 x/ns/y/sa/z'],
  },
  {
    why: 'ISTIO_MUTUAL by a rule is what a tunnel gives',
    yaml: service() + entry({}) + rule('mode: ISTIO_MUTUAL'),
    expected: [TUNNELLED],
  },
  {
    why: 'DISABLE by a rule is honoured',
    yaml: service() + entry({}) + rule('mode: DISABLE'),
    expected: [PLAINTEXT],
  },
  {
    why: 'so is SIMPLE',
    yaml: service() + entry({}) + rule('mode: SIMPLE, caCertificates: /ca'),
    expected: ['10.0.0.1:8080 SIMPLE'],
  },
  {
    why: 'and MUTUAL',
    yaml: service() + entry({}) + rule('mode: MUTUAL, clientCertificate: /c, privateKey: /k'),
    expected: ['10.0.0.1:8080 MUTUAL'],
  },
  {
    why: 'a rule for another port',
    yaml:
      service() +
      entry({}) +
      resource(
        'DestinationRule',
        'shop/orders',
        `host: ${HOST}\ntrafficPolicy: {portLevelSettings: [{port: {number: 1}, tls: {mode: DISABLE}}]}`,
      ),
    expected: [TUNNELLED],
  },
  {
    why: 'a rule for this port',
    yaml:
      service() +
      entry({}) +
      resource(
        'DestinationRule',
        'shop/orders',
        `host: ${HOST}\ntrafficPolicy: {portLevelSettings: [{port: {number: 9080}, tls: {mode: DISABLE}}]}`,
      ),
    expected: [PLAINTEXT],
  },
  {
    why: 'mode DISABLE of the port: a tunnel satisfies any',
    yaml: service() + entry({}) + peers('shop/default', 'mtls: {mode: DISABLE}'),
    expected: [TUNNELLED],
  },
  {
    why: 'mode STRICT',
    yaml: service() + entry({}) + peers('shop/default', 'mtls: {mode: STRICT}'),
    expected: [TUNNELLED],
  },
  {
    why: 'auto mTLS is off: nothing keeps from a tunnel',
    yaml: service() + entry({}) + mesh('enableAutoMtls: false'),
    expected: [TUNNELLED],
  },
  {
    why: 'MESH_EXTERNAL, for which there is no auto mTLS',
    yaml: service('', 'MESH_EXTERNAL') + entry({}),
    expected: [TUNNELLED],
  },
  {
    why: 'tlsMode disabled is about mTLS without tunnel',
    yaml: service() + entry({ labels: `${HTTP}, security.istio.io/tlsMode: disabled` }),
    expected: [TUNNELLED],
  },
  {
    why: 'a host name is resolved before anyone is asked to connect there',
    yaml: service('', 'MESH_INTERNAL', 'DNS') + entry({ address: 'orders.example' }),
    expected: [`orders.example:8080 ISTIO_MUTUAL > 15008 ${ACCOUNT}`],
  },
  {
    why: 'a socket path has no place in a CONNECT',
    yaml: service('', 'MESH_INTERNAL', 'DNS') + entry({ address: 'unix:///run/orders' }),
    expected: ['unix:///run/orders:0 ISTIO_MUTUAL'],
  },
  {
    why: 'the caller’s own destination is nobody known',
    yaml: service('', 'MESH_INTERNAL', 'NONE').replace(/\n *workloadSelector.*/, '') + entry({}),
    expected: [],
  },
  {
    why: 'an endpoint written into its service, in its namespace',
    yaml: resource(
      'ServiceEntry',
      'shop/orders',
      `hosts: [${HOST}]
resolution: STATIC
ports: [{number: 8080, name: http}]
endpoints: [{address: 10.0.0.1, labels: {${HTTP}}, serviceAccount: orders}]`,
    ).replace('8080', '9080'),
    expected: [`10.0.0.1:9080 ISTIO_MUTUAL > 15008 ${ACCOUNT}`],
  },
];

t.test('which endpoints get a tunnel', async (t) => {
  for (const { why, yaml, expected } of rows)
    t.same(lines(snapshotOf(yaml).route(HOST, 9080)), expected, why);
});

t.test('what a route says of its tunnels', async (t) => {
  const route = snapshotOf(service('', 'MESH_EXTERNAL') + entry({})).route(HOST, 9080);
  t.equal(route?.endpoints[0]?.tunnel?.identity, ORDERS);
  t.equal(
    route?.tls.mode,
    'ISTIO_MUTUAL',
    'an endpoint that is reached by mutual TLS makes the route one of it',
  );
  t.same(route?.tls.expectedIdentities, [ORDERS]);
  t.same(route?.warnings, []);
  const nameless = snapshotOf(service() + entry({ account: '' })).route(HOST, 9080);
  t.same(nameless?.warnings, [], 'no account, but nobody else is accepted in a tunnel');
  const mixed = entry({ account: '' }) + entry({ name: 'b', address: '10.0.0.2', labels: '', account: '' });
  t.same(
    snapshotOf(service() + mixed).route(HOST, 9080)?.warnings,
    [],
    'nor of who is spoken to in plaintext',
  );
  const open = mixed.replace(
    'labels: {app: orders}',
    'labels: {app: orders, security.istio.io/tlsMode: istio}',
  );
  t.match(
    snapshotOf(service() + open).route(HOST, 9080)?.warnings,
    [/any identity of the mesh is accepted/],
    'but of one without tunnel',
  );
  const socket = service('', 'MESH_INTERNAL', 'DNS') + entry({ address: 'unix:///run/orders' });
  t.match(snapshotOf(socket).route(HOST, 9080)?.warnings, [/unix:\/\/\/run\/orders is a socket path/]);
  t.same(snapshotOf(socket + rule('mode: DISABLE')).route(HOST, 9080)?.warnings, [], 'a rule asks for none');
});

t.test('subsets', async (t) => {
  const yaml =
    service() +
    entry({}) +
    entry({ name: 'b', address: '10.0.0.2', labels: 'version: v2', account: 'orders' }) +
    resource(
      'DestinationRule',
      'shop/orders',
      `host: ${HOST}
subsets:
- {name: tunnelled, labels: {${HTTP}}}
- {name: open, labels: {${HTTP}}, trafficPolicy: {tls: {mode: DISABLE}}}
- {name: v2, labels: {version: v2}}`,
    );
  const snapshot = snapshotOf(yaml);
  t.same(lines(snapshot.route(HOST, 9080, 'tunnelled')), [TUNNELLED]);
  t.same(lines(snapshot.route(HOST, 9080, 'open')), [PLAINTEXT]);
  t.same(lines(snapshot.route(HOST, 9080, 'v2')), ['10.0.0.2:8080 ISTIO_MUTUAL']);
});

const KUBE = 'reviews.shop.svc.cluster.local';
const kubeService = (spec: string): string => `---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {ports: [{name: http, port: 9080, targetPort: 8080}], selector: {app: reviews}${spec}}
`;
const pod = (name: string, ip: string, labels: string): string => `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {app: reviews, ${labels}}}
spec: {serviceAccountName: ${name}, containers: [{ports: [{name: hbone, containerPort: 9999}]}]}
status: {podIP: ${ip}}
`;

t.test('Kubernetes', async (t) => {
  const pods = pod('a', '10.1.0.1', HTTP) + pod('b', '10.1.0.2', 'sidecar.istio.io/inject: "true"');
  const [first, second] = [
    '10.1.0.1:8080 ISTIO_MUTUAL > 15008 cluster.local/ns/shop/sa/a',
    '10.1.0.2:8080 ISTIO_MUTUAL',
  ];
  t.same(
    lines(snapshotOf(kubeService('') + pods).route(KUBE, 9080)),
    [first, second],
    'a Pod’s label; the name of a container’s port says nothing of tunnels',
  );
  const slice = `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.1], targetRef: {kind: Pod, name: a}}
- {addresses: [10.1.0.9]}
`;
  t.same(
    lines(snapshotOf(kubeService('') + pods + slice).route(KUBE, 9080)),
    [first, '10.1.0.9:8080 DISABLE'],
    'by the Pod that a slice names',
  );
  const ambient = (state: string): string =>
    pod('c', '10.1.0.3', 'version: v1').replace(
      'labels:',
      `annotations: {ambient.istio.io/redirection: ${state}}, labels:`,
    );
  t.same(
    lines(snapshotOf(kubeService('') + ambient('enabled')).route(KUBE, 9080)),
    ['10.1.0.3:8080 ISTIO_MUTUAL > 15008 cluster.local/ns/shop/sa/c'],
    'a ztunnel stands before it',
  );
  t.same(
    lines(snapshotOf(kubeService('') + ambient('pending')).route(KUBE, 9080)),
    ['10.1.0.3:8080 DISABLE'],
    'not yet',
  );
  const headless = snapshotOf(kubeService(', clusterIP: None') + pods).route(KUBE, 9080);
  t.same(
    headless?.endpoints.map(({ tunnel }) => tunnel),
    [null, null],
    'headless: none, as in Istio',
  );
  t.match(headless?.warnings, [/10\.1\.0\.1 is an endpoint of a headless service/]);
});

t.test('the port named hbone is nobody’s app', async (t) => {
  const yaml =
    resource(
      'ServiceEntry',
      'shop/orders',
      `hosts: [${HOST}]
location: MESH_INTERNAL
resolution: STATIC
ports: [{number: 9080, name: http}, {number: 7, name: hbone}]
workloadSelector: {labels: {app: orders}}`,
    ) +
    entry({ ports: 'http: 19080, admin: 19090, hbone: 25008' }) +
    resource(
      'Sidecar',
      'shop/orders',
      'ingress:\n- {port: {number: 18080, name: http}, defaultEndpoint: "127.0.0.1:80"}',
    );
  const snapshot = snapshotOf(yaml, undefined, { workload: { entry: 'shop/a' } });
  t.equal(snapshot.hbonePort, 25_008);
  t.same(
    [19_080, 19_090, 18_080, 7, 25_008, 9080, 15_008].filter((port) => snapshot.declaresPort(port)),
    [19_080, 19_090, 18_080, 7],
    'service ports as the workload has them, named ports, ingress entries; not the tunnel’s',
  );
  t.same([...snapshot.workload.ports.keys()], ['http', 'admin']);
  t.match(
    lines(snapshot.route(HOST, 7)),
    [/^10\.0\.0\.1:7 /],
    'a service’s port of that name is not the tunnel’s',
  );
});

t.test('in other places the name is a name like any other', async (t) => {
  const inline = (names: string): string =>
    resource(
      'ServiceEntry',
      'shop/orders',
      `hosts: [${HOST}]
resolution: STATIC
ports: [{number: 9080, name: ${names}}]
endpoints: [{address: 10.0.0.1, labels: {${HTTP}}, serviceAccount: orders, ports: {hbone: 25008}}]`,
    );
  t.match(
    lines(snapshotOf(inline('hbone')).route(HOST, 9080)),
    [`10.0.0.1:25008 ISTIO_MUTUAL > 15008 ${ACCOUNT}`],
    'a service’s port at an endpoint written into it',
  );
  t.match(
    errorsOf(inline('http')),
    [/endpoints\[0\]\.ports/],
    'which names no port its service has not (Istio: validateServiceEntry)',
  );
  const byName = kubeService('').replace('targetPort: 8080', 'targetPort: hbone');
  const machine = entry({ ports: 'hbone: 25008' }).replace('app: orders', 'app: reviews');
  t.same(
    lines(snapshotOf(byName + machine).route(KUBE, 9080)),
    [],
    'a Service cannot be served on the port of tunnels',
  );
});

t.test('our own HBONE port, and the ports of a Pod', async (t) => {
  t.equal(snapshotOf(entry({}), undefined, { workload: { entry: 'shop/a' } }).hbonePort, 15_008);
  const own = { namespace: 'shop', name: 'a', labels: new Map<string, string>(), serviceAccount: 'a' };
  const given = snapshotOf(pod('a', '10.1.0.1', HTTP), undefined, { workload: own });
  t.equal(given.hbonePort, 15_008);
  t.ok(given.declaresPort(9999), 'the Pod of that name says which ports its containers have');
  t.notOk(given.declaresPort(9998));
});
