/** What original destinations mean: VIPs, endpoints, Pods and workloads by their own address, names, and our own ports. */
import t from 'tap';
import type { SnapshotInput } from '../../config/snapshot.ts';
import type { Route } from '../../mesh/route.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { resource, snapshotOf } from './helper.ts';

function service(at: string, spec: string): string {
  const [namespace, name] = at.split('/');
  return `---\napiVersion: v1\nkind: Service\nmetadata: {name: ${name}, namespace: ${namespace}}\nspec: ${spec}\n`;
}

/** In the mesh unless `more` labels say otherwise. */
function pod(at: string, app: string, ips: readonly string[], more = ''): string {
  const [namespace, name] = at.split('/');
  const list = ips.map((ip) => `{ip: "${ip}"}`).join(', ');
  return [
    '---',
    'apiVersion: v1',
    'kind: Pod',
    `metadata: {name: ${name}, namespace: ${namespace}, labels: {app: ${app}, sidecar.istio.io/inject: "true"${more}}}`,
    `spec: {serviceAccountName: ${app}, containers: [{name: app, ports: [{name: web, containerPort: 8080}]}]}`,
    `status: {phase: Running, podIP: "${ips[0]}", podIPs: [${list}]}`,
    '',
  ].join('\n');
}

const entry = (at: string, spec: string): string => resource('ServiceEntry', at, spec);

/** One line a route: service, port, protocol, mode, expected identities, endpoints. */
function line(route: Route | null): string {
  if (route === null) return 'none';
  const { service: to, port, protocol, tls, endpoints } = route;
  const at = endpoints.map(({ address, port: number, tls: mode, tunnel }) => {
    const by = tunnel === null ? mode : `hbone ${tunnel.port}`;
    return `${address} ${number} ${by}`;
  });
  const who = tls.expectedIdentities.map((uri) => uri.replace('spiffe://cluster.local/ns/', ''));
  return `${to.host} ${port} ${protocol} ${tls.mode} [${who.join(' ')}] ${at.join(', ')}`;
}

const ADDRESS = '10.0.0.99';
const captured = (yaml: string, namespace = 'web', more: Partial<SnapshotInput> = {}): Snapshot =>
  snapshotOf(
    yaml,
    { namespace },
    {
      intercept: 'redirect',
      workload: {
        namespace,
        name: 'client',
        labels: new Map([['app', 'client']]),
        serviceAccount: 'client',
        addresses: [ADDRESS],
      },
      ...more,
    },
  );

t.test('who has an address and port for himself', async (t) => {
  const tcp = (name: string, addresses: string, more = 'resolution: NONE'): string =>
    entry(
      `web/${name}`,
      `hosts: [${name}.somedomain]\naddresses: ${addresses}\nports: [{number: 9999, name: tcp, protocol: TCP}]\n${more}`,
    );
  const rows: readonly (readonly [string, string, string, readonly string[]])[] = [
    // Istio's TestServiceEntry: "identical CIDR (ignoring insignificant bits)".
    ['v6 block', tcp('a', '["1234:1f1:123:123:f816:3eff:feb8:2287/32"]'), '1234:1f1:1:1:1:1:1:1', ['a']],
    // "overlapping CIDR: match the more precise one", "match the more less one".
    ...(
      [
        ['1234:1f1:123:123:f816:3eff:febf:57ce', ['b']],
        ['1234::1', ['a']],
        ['1235::1', []],
      ] as const
    ).map(
      ([address, hosts]) =>
        [
          'overlapping blocks',
          tcp('a', '["1234:1f1:123:123:f816:3eff:feb8:2287/16"]') +
            tcp('b', '["1234:1f1:123:123:f816:3eff:febf:57ce/32"]'),
          address,
          hosts,
        ] as const,
    ),
    // "partial overlap of IP": the shared one goes to both here, the older first.
    ['unique', tcp('a', '[1.1.1.1]') + tcp('b', '[2.2.2.2, 1.1.1.1]'), '2.2.2.2', ['b']],
    ['shared', tcp('a', '[1.1.1.1]') + tcp('b', '[2.2.2.2, 1.1.1.1]'), '1.1.1.1', ['a', 'b']],
    ['an address before a block', tcp('a', '[10.0.0.0/8]') + tcp('b', '[10.1.1.1]'), '10.1.1.1', ['b']],
    [
      'a block of one is an address',
      tcp('a', '[10.1.1.1/32]') + tcp('b', '[10.1.1.1/31]'),
      '10.1.1.1',
      ['a'],
    ],
    ['written at length', tcp('a', '["2001:DB8:0:0:0:0:0:1"]'), '2001:db8::1', ['a']],
    ['IPv4-mapped', tcp('a', '["::ffff:10.1.1.1"]'), '10.1.1.1', ['a']],
    ['a block of mapped ones', tcp('a', '["::ffff:10.0.0.0/104"]'), '10.1.1.1', ['a']],
    ['0.0.0.0 claims nothing', tcp('a', '[0.0.0.0]'), '0.0.0.0', []],
    ['all of IPv4', tcp('a', '[0.0.0.0/0]'), '8.8.8.8', ['a']],
    ['is not all of IPv6', tcp('a', '[0.0.0.0/0]'), '::1', []],
    ['not exported', tcp('a', '[1.1.1.1]', 'resolution: NONE\nexportTo: ["~"]'), '1.1.1.1', []],
  ];
  for (const [name, yaml, address, hosts] of rows) {
    const { captured: meant } = captured(yaml);
    t.same(
      meant.hostsAt(address, 9999),
      hosts.map((host) => `${host}.somedomain`),
      `${name}: ${address}`,
    );
    t.same(meant.hostsAt(address, 9998), [], 'another port');
  }
});

const CLUSTER =
  service(
    'shop/orders',
    '{clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, "fd00:96:0:0::7"], selector: {app: orders}, ports: [{name: http, port: 80, targetPort: web}]}',
  ) +
  service(
    'shop/db',
    '{clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}, {name: http, port: 81, targetPort: 8081}]}',
  ) +
  pod('shop/orders-1', 'orders', ['10.0.0.1', 'fd00::0:1']) +
  pod('shop/db-0', 'db', ['10.0.0.2']) +
  pod('shop/db-1', 'db', ['10.0.0.3'], ', security.istio.io/tlsMode: disabled') +
  pod('bank/vault', 'vault', ['10.0.0.4'], ', networking.istio.io/tunnel: http') +
  resource(
    'WorkloadEntry',
    'shop/vm',
    'address: 10.0.0.5\nserviceAccount: vm\nlabels: {app: orders}\nports: {web: 9090}',
  );

t.test('cluster IPs of both families', async (t) => {
  const { captured: meant } = captured(CLUSTER);
  for (const address of ['10.96.0.7', 'fd00:96::7']) {
    t.same(meant.hostsAt(address, 80), ['orders.shop.svc.cluster.local'], address);
    t.same(meant.hostsAt(address, 8080), [], 'its own ports alone');
  }
  t.equal(meant.routeAt('10.96.0.7', 80), null, 'nobody is at a VIP himself');
});

t.test('whoever is at an address, by himself', async (t) => {
  const policy = (spec: string): string => resource('PeerAuthentication', 'shop/p', spec);
  const rule = (spec: string): string => resource('DestinationRule', 'web/r', spec);
  const orders = 'orders.shop.svc.cluster.local 80 http';
  const rows: readonly (readonly [string, string, string, number, string])[] = [
    [
      'a Pod of a service',
      '',
      '10.0.0.1',
      8080,
      `${orders} ISTIO_MUTUAL [shop/sa/orders] 10.0.0.1 8080 ISTIO_MUTUAL`,
    ],
    [
      'by its other address',
      '',
      'fd00::1',
      8080,
      `${orders} ISTIO_MUTUAL [shop/sa/orders] fd00::1 8080 ISTIO_MUTUAL`,
    ],
    [
      'a WorkloadEntry of it, at its own port',
      '',
      '10.0.0.5',
      9090,
      `${orders} ISTIO_MUTUAL [shop/sa/vm] 10.0.0.5 9090 ISTIO_MUTUAL`,
    ],
    // Istio would send plaintext to both, since one of them is outside.
    [
      'one of a headless service',
      '',
      '10.0.0.2',
      5432,
      'db.shop.svc.cluster.local 5432 tcp ISTIO_MUTUAL [shop/sa/db] 10.0.0.2 5432 ISTIO_MUTUAL',
    ],
    [
      'another of it, without sidecar',
      '',
      '10.0.0.3',
      5432,
      'db.shop.svc.cluster.local 5432 tcp DISABLE [] 10.0.0.3 5432 DISABLE',
    ],
    [
      'at its target port',
      '',
      '10.0.0.2',
      8081,
      'db.shop.svc.cluster.local 81 http ISTIO_MUTUAL [shop/sa/db] 10.0.0.2 8081 ISTIO_MUTUAL',
    ],
    [
      'at a port that nobody declares',
      '',
      '10.0.0.2',
      81,
      '10.0.0.2 81 auto ISTIO_MUTUAL [shop/sa/db] 10.0.0.2 81 ISTIO_MUTUAL',
    ],
    [
      'by a tunnel',
      '',
      '10.0.0.4',
      7000,
      '10.0.0.4 7000 auto ISTIO_MUTUAL [bank/sa/vault] 10.0.0.4 7000 hbone 15008',
    ],
    ['nobody known', '', '10.9.9.9', 80, 'none'],
    [
      'DISABLE there',
      policy('mtls: {mode: DISABLE}'),
      '10.0.0.2',
      81,
      '10.0.0.2 81 auto DISABLE [] 10.0.0.2 81 DISABLE',
    ],
    [
      'DISABLE at that port',
      policy('selector: {matchLabels: {app: db}}\nportLevelMtls: {5432: {mode: DISABLE}}'),
      '10.0.0.2',
      5432,
      'db.shop.svc.cluster.local 5432 tcp DISABLE [] 10.0.0.2 5432 DISABLE',
    ],
    [
      'a rule’s names',
      rule(
        'host: db.shop.svc.cluster.local\ntrafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["spiffe://cluster.local/ns/x/sa/y"]}}',
      ),
      '10.0.0.2',
      5432,
      'db.shop.svc.cluster.local 5432 tcp ISTIO_MUTUAL [x/sa/y] 10.0.0.2 5432 ISTIO_MUTUAL',
    ],
    [
      'a rule’s DISABLE',
      rule('host: "*.shop.svc.cluster.local"\ntrafficPolicy: {tls: {mode: DISABLE}}'),
      '10.0.0.1',
      8080,
      `${orders} DISABLE [] 10.0.0.1 8080 DISABLE`,
    ],
    [
      'without auto mTLS',
      '---\nkind: MeshConfig\nenableAutoMtls: false\n',
      '10.0.0.2',
      81,
      '10.0.0.2 81 auto DISABLE [] 10.0.0.2 81 DISABLE',
    ],
    [
      'aliases of the trust domain',
      '---\nkind: MeshConfig\ntrustDomainAliases: [old]\n',
      '10.0.0.2',
      5432,
      'db.shop.svc.cluster.local 5432 tcp ISTIO_MUTUAL [shop/sa/db spiffe://old/ns/shop/sa/db] 10.0.0.2 5432 ISTIO_MUTUAL',
    ],
    [
      'ourselves',
      '',
      ADDRESS,
      8080,
      `${ADDRESS} 8080 auto ISTIO_MUTUAL [web/sa/client] ${ADDRESS} 8080 ISTIO_MUTUAL`,
    ],
    [
      'ourselves under REGISTRY_ONLY',
      '---\nkind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n',
      ADDRESS,
      8080,
      `${ADDRESS} 8080 auto ISTIO_MUTUAL [web/sa/client] ${ADDRESS} 8080 ISTIO_MUTUAL`,
    ],
    [
      'an undeclared port under REGISTRY_ONLY',
      '---\nkind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n',
      '10.0.0.2',
      81,
      'none',
    ],
    [
      'a service that the Sidecar hides',
      resource(
        'Sidecar',
        'web/s',
        'egress: [{hosts: ["./*"]}]\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}',
      ),
      '10.0.0.2',
      5432,
      'none',
    ],
    [
      'an endpoint in the midst of a block',
      entry('web/all', 'hosts: [all.example]\naddresses: [10.0.0.0/8]\nports: [{number: 5432, name: tcp}]'),
      '10.0.0.2',
      5432,
      'db.shop.svc.cluster.local 5432 tcp ISTIO_MUTUAL [shop/sa/db] 10.0.0.2 5432 ISTIO_MUTUAL',
    ],
    [
      'an endpoint written into a ServiceEntry',
      entry(
        'web/ext',
        'hosts: [ext.example]\nresolution: STATIC\nports: [{number: 443, name: tls, targetPort: 8443}]\nendpoints: [{address: "2001:DB8::0:1"}]',
      ),
      '2001:db8::1',
      8443,
      'ext.example 443 tcp DISABLE [] 2001:db8::1 8443 DISABLE',
    ],
  ];
  for (const [name, more, address, port, expected] of rows) {
    const { captured: meant } = captured(CLUSTER + more);
    const route = meant.routeAt(address, port);
    t.equal(line(route), expected, name);
    t.equal(meant.routeAt(address, port), route, 'the same object the next time');
    if (name.endsWith('block')) t.same(meant.hostsAt(address, port), [], 'goes before the block');
  }
});

t.test('ourselves, however our address is written', async (t) => {
  const closed = '---\nkind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n';
  const workload = { namespace: 'web', name: 'c', labels: new Map(), serviceAccount: 'c' };
  const snapshot = captured(closed, 'web', { workload: { ...workload, addresses: ['FD00:0::99'] } });
  t.match(line(snapshot.captured.routeAt('fd00::99', 80)), /^fd00::99 80 auto ISTIO_MUTUAL \[web\/sa\/c\]/);
  const entries = resource('WorkloadEntry', 'web/w', 'address: "2001:DB8:0::7"\nserviceAccount: w');
  t.equal(captured(entries).workloadByAddress('2001:db8::7')?.name, 'w', 'and any other, for metrics');
});

t.test('who is no longer, or not alone, at an address', async (t) => {
  const gone = pod('shop/old', 'old', ['10.0.1.1']).replace('Running', 'Succeeded');
  const node = pod('shop/agent', 'agent', ['10.0.1.2']).replace('spec: {', 'spec: {hostNetwork: true, ');
  const { captured: meant } = captured(
    gone +
      node +
      service('shop/agent', '{clusterIP: None, selector: {app: agent}, ports: [{name: tcp, port: 9100}]}'),
  );
  t.equal(meant.routeAt('10.0.1.1', 80), null, 'a finished Pod’s address may be another’s');
  t.equal(meant.routeAt('10.0.1.2', 80), null, 'an address of the node is nobody’s');
  t.match(
    line(meant.routeAt('10.0.1.2', 9100)),
    /^agent\.shop\.svc\.cluster\.local 9100/,
    'but services are known',
  );
});

t.test('endpoints that slices tell', async (t) => {
  const slice = [
    '---',
    'apiVersion: discovery.k8s.io/v1',
    'kind: EndpointSlice',
    'metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: db}}',
    'addressType: IPv4',
    'ports: [{name: tcp, port: 5432}]',
    'endpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: db-0}}, {addresses: [10.0.7.7]}]',
    '',
  ].join('\n');
  const { captured: meant } = captured(CLUSTER + slice);
  const db = 'db.shop.svc.cluster.local 5432 tcp';
  t.equal(
    line(meant.routeAt('10.0.0.2', 5432)),
    `${db} ISTIO_MUTUAL [shop/sa/db] 10.0.0.2 5432 ISTIO_MUTUAL`,
  );
  t.equal(line(meant.routeAt('10.0.7.7', 5432)), `${db} DISABLE [] 10.0.7.7 5432 DISABLE`, 'without Pod');
  t.equal(meant.routeAt('10.0.7.7', 5433), null);
});

t.test('names in a Host header', async (t) => {
  const http = (host: string, addresses = ''): string =>
    entry(
      `default/x${host.replaceAll(/[.*]/g, '-')}`,
      `hosts: ["${host}"]\n${addresses}ports: [{number: 80, name: http}]\nresolution: NONE`,
    );
  const echo = service(
    'default/echo',
    '{clusterIP: 1.2.3.4, clusterIPs: [1.2.3.4, "2001:2::f0f0:239"], ports: [{name: http, port: 80}]}',
  );
  const headless =
    service('default/headless', '{clusterIP: None, selector: {app: h}, ports: [{name: http, port: 80}]}') +
    pod('default/headless-0', 'h', ['10.3.0.1']);
  const ECHO = 'echo.default.svc.cluster.local';
  const HEADLESS = 'headless.default.svc.cluster.local';
  // Istio's TestGenerateVirtualHostDomains: the service, the client's namespace, the domains that mean it, others.
  const rows: readonly (readonly [string, string, string, readonly string[], readonly string[]])[] = [
    [
      ECHO,
      echo,
      'default',
      [
        ECHO,
        `${ECHO}.`,
        'echo',
        'echo.default.svc',
        'echo.default',
        '1.2.3.4',
        '[2001:2::f0f0:239]',
        'ECHO:80',
        'echo:8080',
      ],
      ['echo.svc', 'default.echo', 'echo.default.svc.cluster', 'x.echo', '4.3.2.1', ''],
    ],
    [ECHO, echo, 'mesh', [ECHO, `${ECHO}.`, 'echo.default', 'echo.default.svc'], ['echo']],
    [
      'foo.default.svc.bar.baz',
      http('foo.default.svc.bar.baz'),
      'default',
      ['foo.default.svc.bar.baz', 'foo.default.svc.bar.baz.'],
      ['foo', 'foo.default'],
    ],
    [
      'aaa.example.local',
      http('aaa.example.local'),
      'tests',
      ['aaa.example.local', 'aaa.example.local.'],
      ['aaa', 'aaa.example'],
    ],
    [
      '*.example.com',
      http('*.example.com'),
      'web',
      ['a.example.com', 'b.a.example.com'],
      ['example.com', '*.example.com', 'a b.example.com'],
    ],
    [
      HEADLESS,
      headless,
      'default',
      [HEADLESS, `${HEADLESS}.`, 'headless', 'headless.default.svc', 'headless.default'],
      ['headless-1.headless'],
    ],
    // Its `*.headless`: that very Pod, and nobody else.
    [
      `headless-0.${HEADLESS}`,
      headless,
      'default',
      [
        `headless-0.${HEADLESS}`,
        'headless-0.headless',
        'headless-0.headless.default',
        'headless-0.headless.default.svc',
      ],
      [`headless-1.${HEADLESS}`],
    ],
  ];
  for (const [host, yaml, namespace, names, others] of rows) {
    const { captured: meant } = captured(yaml, namespace);
    for (const name of names) t.equal(meant.hostNamed(name, 80), host, `${name} in ${namespace}`);
    for (const name of others) t.equal(meant.hostNamed(name, 80), null, `${name} in ${namespace}`);
    t.equal(meant.hostNamed(names[0] ?? '', 81), null, 'another port');
    t.equal(meant.namesAt(80), true);
    t.equal(meant.namesAt(81), false);
  }
  const snapshot = captured(headless, 'default');
  t.equal(
    line(snapshot.route(`headless-0.${HEADLESS}`, 80)),
    `${HEADLESS} 80 http ISTIO_MUTUAL [default/sa/h] 10.3.0.1 80 ISTIO_MUTUAL`,
  );
});

t.test('exact names go before short ones, and those before wildcards', async (t) => {
  const http = (at: string, host: string): string =>
    entry(at, `hosts: ["${host}"]\nports: [{number: 80, name: http}]\nresolution: NONE`);
  const { captured: meant } = captured(
    http('web/a', 'orders.shop') +
      http('web/b', 'orders.shop.svc.cluster.local') +
      http('web/c', '*.shop') +
      http('web/d', '*.svc.cluster.local'),
  );
  t.equal(meant.hostNamed('orders.shop', 80), 'orders.shop');
  t.equal(meant.hostNamed('orders.shop.svc', 80), 'orders.shop.svc.cluster.local');
  t.equal(meant.hostNamed('stock.shop', 80), '*.shop');
  const other = entry('web/e', 'hosts: [stock.shop]\nports: [{number: 81, name: http}]\nresolution: NONE');
  const wild = captured(http('web/c', '*.shop') + other);
  t.equal(wild.captured.hostNamed('stock.shop', 80), '*.shop', 'a port that the exact host lacks');
  t.equal(wild.route('stock.shop', 80)?.service.host, '*.shop');
  t.equal(meant.hostNamed('stock.shop.svc.cluster.local', 80), '*.svc.cluster.local');
});

t.test('SNIs, and services of a port alone', async (t) => {
  const { captured: meant } = captured(
    entry(
      'web/t',
      'hosts: [a.example, "*.b.example"]\nports: [{number: 443, name: x, protocol: TLS}]\nresolution: NONE',
    ) +
      entry(
        'web/v',
        'hosts: [vip.example]\naddresses: [1.1.1.1]\nports: [{number: 443, name: x, protocol: HTTPS}]',
      ) +
      entry('web/m', 'hosts: [mongo.example]\nports: [{number: 27017, name: mongo}]\nresolution: DNS') +
      entry('web/n', 'hosts: [later.example]\nports: [{number: 27017, name: tcp}]\nresolution: DNS') +
      entry('web/h', 'hosts: [web.example]\nports: [{number: 80, name: http}]\nresolution: DNS') +
      service('web/k', '{selector: {app: k}, ports: [{name: tcp, port: 6379}]}'),
  );
  t.equal(meant.hostOfSni('a.example', 443), 'a.example');
  t.equal(meant.hostOfSni('x.b.example', 443), '*.b.example');
  t.equal(meant.hostOfSni('vip.example', 443), null, 'its address tells');
  t.equal(meant.hostOfSni('web.example', 80), null, 'no TLS was declared');
  t.equal(meant.hostNamed('a.example', 443), null, 'a Host header is not its SNI');
  t.equal(meant.namesAt(443), true);
  t.equal(meant.hostAnywhere(443), null, 'TLS is told by its SNI');
  t.equal(meant.hostAnywhere(27017), 'mongo.example', 'of one age: by name of the resource');
  t.equal(meant.namesAt(27017), false);
  t.equal(meant.hostAnywhere(80), null, 'HTTP is told by its Host header');
  t.equal(meant.hostAnywhere(6379), null, 'a Kubernetes Service has an address, here or not');
});

t.test('what the Sidecar says of capture', async (t) => {
  const tcp = (name: string): string =>
    entry(
      `shop/${name}`,
      `hosts: [${name}.example]\naddresses: [1.1.1.${name.length}]\nports: [{number: 5432, name: tcp}, {number: 80, name: http}]`,
    );
  const set = tcp('a') + tcp('bb');
  const sidecar = (spec: string): Snapshot => captured(set + resource('Sidecar', 'web/s', spec));
  const seen = ({ captured: meant }: Snapshot, port: number): string =>
    ['1.1.1.1', '1.1.1.2'].flatMap((address) => meant.hostsAt(address, port)).join(' ');
  const rows: readonly (readonly [string, string, string, number])[] = [
    ['egress: [{hosts: ["shop/*"]}]', 'a.example bb.example', 'a.example bb.example', 0],
    ['egress: [{hosts: ["shop/a.example"]}]', 'a.example', 'a.example', 0],
    // A port narrows what capture reaches there.
    [
      'egress: [{port: {number: 5432}, hosts: ["shop/a.example"]}, {hosts: ["shop/*"]}]',
      'a.example',
      'a.example bb.example',
      0,
    ],
    [
      'egress: [{port: {number: 5432}, captureMode: IPTABLES, hosts: ["shop/a.example"]}]',
      'a.example',
      '',
      0,
    ],
    // With an address, or not captured, it is a socket and no word on capture.
    ['egress: [{port: {number: 5432}, captureMode: NONE, hosts: ["shop/a.example"]}]', '', '', 1],
    [
      'egress: [{port: {number: 5432}, bind: 127.0.0.1, hosts: ["shop/a.example"]}, {hosts: ["shop/bb.example"]}]',
      'bb.example',
      'bb.example',
      1,
    ],
  ];
  for (const [spec, at5432, at80, sockets] of rows) {
    const snapshot = sidecar(spec);
    t.equal(seen(snapshot, 5432), at5432, spec);
    t.equal(seen(snapshot, 80), at80, spec);
    t.equal(snapshot.egress.length, sockets, spec);
  }
  const { captured: meant, ingress } = sidecar(
    'ingress: [{port: {number: 8080, name: http}, defaultEndpoint: "127.0.0.1:9090"}, ' +
      '{port: {number: 8081}, captureMode: IPTABLES, defaultEndpoint: "0.0.0.0:9091"}, ' +
      '{port: {number: 8082}, captureMode: NONE, bind: 127.0.0.1}, {port: {number: 8084}}, ' +
      '{port: {number: 8085}, defaultEndpoint: "[::]:9095"}]',
  );
  t.same(meant.ingressAt(8080), {
    bind: null,
    port: 8080,
    protocol: 'http',
    defaultEndpoint: { host: '127.0.0.1', port: 9090 },
  });
  t.same(meant.ingressAt(8081)?.defaultEndpoint, { host: ADDRESS, port: 9091 });
  t.equal(meant.ingressAt(8082), null, 'a port of ours');
  t.equal(meant.ingressAt(8083), null);
  t.equal(meant.ingressAt(8084), null, 'Istio: ORIGINAL_DST, where it was going');
  t.same(meant.ingressAt(8085)?.defaultEndpoint, { host: '::1', port: 9095 }, 'no IPv6 address of ours');
  t.same(
    ingress.map(({ port }) => port),
    [8082],
  );
});

t.test('our own ports, by whatever tells them', async (t) => {
  const named = service(
    'web/client',
    '{clusterIP: 10.96.0.1, selector: {app: client}, ports: [{name: http, port: 80, targetPort: web}]}',
  );
  t.equal(
    captured(named + pod('web/client', 'client', [ADDRESS])).protocolOf(8080),
    'http',
    'by the Pod known',
  );
  const workload = {
    namespace: 'web',
    name: 'c',
    labels: new Map([['app', 'client']]),
    serviceAccount: 'client',
  };
  const told = captured(named, 'web', { workload: { ...workload, ports: new Map([['web', 8080]]) } });
  t.equal(told.protocolOf(8080), 'http', 'by the ports told');
  const numbered = captured(named.replace('targetPort: web', 'targetPort: 9090'), 'web', {
    workload: { ...workload, ports: new Map([['http', 8080]]) },
  });
  t.same([8080, 9090].map(numbered.protocolOf), ['auto', 'http'], 'a number is the Pod’s, whatever it names');
  t.equal(captured(named, 'web', { workload }).protocolOf(8080), 'auto', 'nobody knows what `web` is');
  const inline = entry(
    'shop/e',
    `hosts: [e.example]\nresolution: STATIC\nports: [{number: 80, name: http, targetPort: 7070}]\nendpoints: [{address: "${ADDRESS}"}]`,
  );
  t.equal(captured(inline).protocolOf(7070), 'http', 'an endpoint at our address');
  const slice = `---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: web, labels: {kubernetes.io/service-name: bare}}\naddressType: IPv4\nports: [{name: http, port: 6060}]\nendpoints: [{addresses: ["${ADDRESS}"]}]\n`;
  const bare = service('web/bare', '{clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}');
  t.equal(captured(bare + slice).protocolOf(6060), 'http', 'a slice with our address');

  const at = (name: string, address: string, port: number): string =>
    resource(
      'WorkloadEntry',
      `web/${name}`,
      `address: "${address}"\nserviceAccount: c\nlabels: {app: c}\nports: {http: ${port}}`,
    );
  const both =
    at('four', '10.0.0.8', 8080) +
    at('six', 'fd00::8', 8081) +
    entry(
      'web/c',
      'hosts: [c.example]\nlocation: MESH_INTERNAL\nresolution: STATIC\nports: [{number: 80, name: http}]\nworkloadSelector: {labels: {app: c}}',
    );
  const chosen = captured(both, 'web', { workload: { entry: 'web/four' } });
  t.same([8080, 8081].map(chosen.protocolOf), ['http', 'http'], 'the entry of the other family may be ours');
  const open = captured(both, 'web', { workload: { entry: 'web/four' }, intercept: 'none' });
  t.same([8080, 8081].map(open.protocolOf), ['http', 'auto'], 'without capture the chosen one is');
});

t.test('what is asked for at random makes nothing grow', async (t) => {
  const { captured: meant } = captured(CLUSTER);
  const first = meant.routeAt('10.0.0.2', 1);
  for (let port = 2; port <= 5_000; port++) meant.routeAt('10.0.0.2', port);
  t.not(meant.routeAt('10.0.0.2', 1), first, 'the oldest made room');
  t.equal(line(meant.routeAt('10.0.0.2', 1)), line(first));
});

t.test('ports that the rules of capture leave alone are called in plaintext, by address', async (t) => {
  const annotated = (annotations: string, labels = ''): string =>
    pod('shop/db-0', 'db', ['10.0.0.2'], labels).replace('labels:', `annotations: {${annotations}}, labels:`);
  const exclude = (ports: string): string => `traffic.sidecar.istio.io/excludeInboundPorts: "${ports}"`;
  const include = (ports: string): string => `traffic.sidecar.istio.io/includeInboundPorts: "${ports}"`;
  const always = [15_020, 15_021, 15_090, 15_008, 22];
  /** Annotations, ports called in plaintext, ports that take mutual TLS. */
  const rows: readonly (readonly [string, readonly number[], readonly number[]])[] = [
    ['', always, [8080, 81, 15_000]],
    [exclude('8080, 9000'), [...always, 8080, 9000], [81]],
    [exclude(''), always, [8080]],
    [include('*'), always, [8080]],
    [include('8080,22'), [81, 15_020, 15_008], [8080, 22]],
    [include(''), [8080, 15_020], []],
    [`${include('8080')}, ${exclude('8080')}`, [81], [8080]],
    [`${include('*')}, ${exclude('8080')}`, [...always, 8080], [81]],
  ];
  for (const labels of ['', ', networking.istio.io/tunnel: http']) {
    for (const [annotations, open, mutual] of rows) {
      const { captured: meant } = captured(annotated(annotations, labels));
      for (const port of open) {
        t.equal(
          line(meant.routeAt('10.0.0.2', port)),
          `10.0.0.2 ${port} auto DISABLE [] 10.0.0.2 ${port} DISABLE`,
          `${annotations} ${port}${labels}`,
        );
      }
      for (const port of mutual) {
        t.equal(meant.routeAt('10.0.0.2', port)?.tls.mode, 'ISTIO_MUTUAL', `${annotations} ${port}${labels}`);
      }
    }
  }
  const declared = service('shop/db', '{selector: {app: db}, ports: [{name: http, port: 15020}]}');
  t.equal(
    captured(annotated('') + declared).captured.routeAt('10.0.0.2', 15_020)?.tls.mode,
    'ISTIO_MUTUAL',
    'a service that declares it keeps its route',
  );
});
