/** `oarlock route`: endpoints, TLS and its source for a host, what is unknown, short names, exit statuses. */
import t from 'tap';
import { folder, oarlock } from './helper.ts';

t.setTimeout(240_000);

const HOST = 'reviews.foo.svc.cluster.local';

const SET = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: foo}
spec:
  hosts: [${HOST}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9080, name: http}]
  workloadSelector: {labels: {app: reviews}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: v1, namespace: foo}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1}, serviceAccount: one, ports: {http: 19080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: v2, namespace: foo}
spec: {address: "fd00::2", labels: {app: reviews, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: foo}
spec:
  host: ${HOST}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {tls: {mode: DISABLE}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mine, namespace: bar}
spec:
  host: ${HOST}
  trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, sni: s.example, subjectAltNames: [a.example]}}
`;

const dir = folder(t, { 'mesh.yaml': SET });
const route = (...args: readonly string[]) => oarlock(['route', '--config', dir, ...args]);
const autoTls = {
  mode: 'ISTIO_MUTUAL',
  auto: true,
  sni: `outbound_.9080_._.${HOST}`,
  expectedIdentities: ['spiffe://cluster.local/ns/foo/sa/one'],
  source: null,
};
const v1 = { address: '10.0.0.1', port: 19080, tls: 'ISTIO_MUTUAL', tunnel: null };
const v2 = { address: 'fd00::2', port: 9080, tls: 'DISABLE', tunnel: null };
const nothing = { mode: 'DISABLE', auto: true, sni: null, expectedIdentities: [], source: null };

interface Row {
  readonly why: string;
  readonly args: readonly string[];
  readonly answer: Readonly<Record<string, unknown>>;
}

const rows: readonly Row[] = [
  {
    why: 'auto mTLS, endpoint by endpoint',
    args: ['--host', HOST, '--port', '9080'],
    answer: { host: HOST, port: 9080, tls: autoTls, endpoints: [v1, v2], passthrough: false, warnings: [] },
  },
  {
    why: 'a subset',
    args: ['--host', HOST, '--port', '9080', '--subset', 'v1'],
    answer: { tls: { ...autoTls, sni: `outbound_.9080_.v1_.${HOST}` }, endpoints: [v1] },
  },
  {
    why: 'a subset with its own TLS',
    args: ['--host', HOST, '--port', '9080', '--subset', 'v2'],
    answer: { tls: { ...nothing, auto: false, source: 'foo/reviews' }, endpoints: [v2] },
  },
  {
    why: 'another caller, another rule',
    args: ['--host', HOST, '--port', '9080', '--namespace', 'bar'],
    answer: {
      tls: {
        mode: 'MUTUAL',
        auto: false,
        sni: 's.example',
        expectedIdentities: ['a.example'],
        source: 'bar/mine',
      },
      endpoints: [
        { ...v1, tls: 'MUTUAL' },
        { ...v2, tls: 'MUTUAL' },
      ],
    },
  },
  {
    why: 'the name alone, from its namespace',
    args: ['--host', 'reviews', '--port', '9080', '--namespace', 'foo'],
    answer: { host: HOST, passthrough: false },
  },
  {
    why: 'with the namespace, from another, in capitals',
    args: ['--host', 'REVIEWS.foo', '--port', '9080'],
    answer: { host: HOST, passthrough: false },
  },
  {
    why: 'the name alone, from another namespace',
    args: ['--host', 'reviews', '--port', '9080'],
    answer: { host: 'reviews', port: 9080, tls: nothing, endpoints: [], passthrough: true, warnings: [] },
  },
  {
    why: 'a name that ends in a dot is complete',
    args: ['--host', 'reviews.foo.', '--port', '9080'],
    answer: { host: 'reviews.foo', passthrough: true },
  },
  {
    why: 'a known host, an unknown port',
    args: ['--host', HOST, '--port', '81'],
    answer: {
      host: HOST,
      port: 81,
      passthrough: true,
      endpoints: [],
      warnings: [`${HOST} has no port 81; it has 9080`],
    },
  },
  {
    why: 'another trust domain',
    args: ['--host', HOST, '--port', '9080', '--trust-domain', 'td', '--trust-domain-alias', 'old'],
    answer: { tls: { expectedIdentities: ['spiffe://old/ns/foo/sa/one', 'spiffe://td/ns/foo/sa/one'] } },
  },
];

t.test('answers', async (t) => {
  for (const { why, args, answer } of rows) {
    const { code, stdout, stderr } = await route(...args, '-o', 'json');
    t.equal(code, 0, `${why}: ${stderr}`);
    t.equal(stdout.trimEnd().split('\n').length, 1, 'one line');
    t.match(JSON.parse(stdout), answer, why);
  }
  const { stdout } = await route('--host', HOST, '--port', '9080', '-o', 'json');
  t.same(JSON.parse(stdout), rows[0]?.answer, 'nothing else is in the answer');
});

t.test('tunnels', async (t) => {
  const labelled = folder(t, {
    'mesh.yaml': SET.replaceAll(
      'labels: {app: reviews,',
      'labels: {app: reviews, networking.istio.io/tunnel: http,',
    ).replace('version: v2}}', 'version: v2}, ports: {hbone: 25008}}'),
  });
  const ask = ['route', '--config', labelled, '--host', HOST, '--port', '9080'];
  const { stdout } = await oarlock([...ask, '-o', 'json']);
  t.same(JSON.parse(stdout).endpoints, [
    { ...v1, tunnel: '10.0.0.1:15008' },
    { ...v2, tls: 'ISTIO_MUTUAL', tunnel: '[fd00::2]:25008' },
  ]);
  const table = await oarlock(ask);
  t.match(table.stdout, /^endpoint +10\.0\.0\.1:19080 ISTIO_MUTUAL by HBONE on 10\.0\.0\.1:15008$/m);
  t.match(table.stdout, /^endpoint +\[fd00::2\]:9080 ISTIO_MUTUAL by HBONE on \[fd00::2\]:25008$/m);
});

t.test('where capture takes a connection', async (t) => {
  const captured = folder(t, {
    'mesh.yaml': SET.replace('  resolution: STATIC', '  addresses: [240.0.0.1]\n  resolution: STATIC'),
    'more.yaml':
      'apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: db, namespace: foo}\n' +
      'spec: {hosts: [db.example], ports: [{number: 5432, name: tcp}], resolution: DNS}\n',
  });
  const ask = async (...args: readonly string[]): Promise<Record<string, unknown>> => {
    const { code, stdout, stderr } = await oarlock([
      ...['route', '--config', captured, '-o', 'json', ...args],
    ]);
    t.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };
  t.same(await ask('--address', '240.0.0.1', '--port', '9080'), {
    address: '240.0.0.1',
    port: 9080,
    by: 'address',
    host: HOST,
    protocol: 'http',
    tls: autoTls,
    endpoints: [v1, v2],
    passthrough: false,
    warnings: [],
  });
  const own = { ...autoTls, sni: null };
  for (const [args, answer] of [
    [['--address', '::ffff:10.0.0.1', '--port', '19080'], { by: 'endpoint', host: HOST, endpoints: [v1] }],
    [['--address', '10.0.0.1', '--port', '1'], { by: 'workload', host: null, tls: own, protocol: 'auto' }],
    [['--address', '8.8.8.8', '--port', '9080', '--host', 'reviews.foo'], { by: 'name', host: HOST }],
    [['--address', '8.8.8.8', '--port', '5432'], { by: 'port', host: 'db.example', protocol: 'tcp' }],
    [['--address', '8.8.8.8', '--port', '9080'], { by: 'nobody', host: null, passthrough: true }],
  ] as const) {
    t.match(await ask(...args), answer, args.join(' '));
  }
  const table = await oarlock(['route', '--config', captured, '--address', 'fd00::2', '--port', '9080']);
  t.match(table.stdout, /^meant by +endpoint$/m);
  t.match(table.stdout, /^endpoint +\[fd00::2\]:9080 DISABLE$/m);
});

t.test('REGISTRY_ONLY passes nothing through', async (t) => {
  const closed = folder(t, {
    'a.yaml': 'kind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n',
  });
  const { code, stdout } = await oarlock([
    ...['route', '--config', closed, '--host', 'x.example', '--port', '80', '-o', 'json'],
  ]);
  t.equal(code, 0);
  t.match(JSON.parse(stdout), { passthrough: false, endpoints: [], warnings: [/REGISTRY_ONLY/] });
  const address = await oarlock([
    ...['route', '--config', closed, '--address', '8.8.8.8', '--port', '80', '-o', 'json'],
  ]);
  t.match(JSON.parse(address.stdout), {
    by: 'nobody',
    passthrough: false,
    endpoints: [],
    warnings: [/REGISTRY_ONLY/],
  });
});

t.test('a table for people', async (t) => {
  const { code, stdout } = await route('--host', 'reviews.foo', '--port', '9080');
  t.equal(code, 0);
  t.match(stdout, /^host +reviews\.foo\.svc\.cluster\.local:9080$/m);
  t.match(stdout, /^tls +ISTIO_MUTUAL \(auto mTLS\)$/m);
  t.match(stdout, /^endpoint +\[fd00::2\]:9080 DISABLE$/m);
  const unknown = await route('--host', 'nobody', '--port', '80');
  t.match(unknown.stdout, /^passthrough /m);
});

t.test('bad usage and unreadable input exit 2 with one line', async (t) => {
  const bad = folder(t, { 'bad.yaml': SET.replace('resolution: STATIC', 'resolution: STATICK') });
  const cases: readonly (readonly [string, readonly string[], RegExp])[] = [
    ['no host', ['--config', dir, '--port', '80'], /--host/],
    ['no IP address', ['--config', dir, '--address', 'a', '--port', '80'], /--address/],
    [
      'an address and a subset',
      ['--config', dir, '--address', '1.1.1.1', '--port', '80', '--subset', 'v1'],
      /--subset/,
    ],
    ['no port', ['--config', dir, '--host', 'a'], /--port/],
    ['a bad port', ['--config', dir, '--host', 'a', '--port', '65536'], /port/],
    ['a host with port', ['--config', dir, '--host', 'a:80', '--port', '80'], /--host/],
    ['a wildcard', ['--config', dir, '--host', '*.a', '--port', '80'], /--host/],
    ['an unknown subset', ['--config', dir, '--host', HOST, '--port', '9080', '--subset', 'v3'], /v3/],
    ['no config', ['--host', 'a', '--port', '80'], /--config/],
    ['no such folder', ['--config', `${dir}/none`, '--host', 'a', '--port', '80'], /none/],
    ['an invalid set', ['--config', bad, '--host', 'a', '--port', '80'], /spec\.resolution/],
  ];
  for (const [why, args, message] of cases) {
    const { code, stdout, stderr } = await oarlock(['route', ...args]);
    t.equal(code, 2, why);
    t.equal(stdout, '', why);
    t.match(stderr, message, why);
  }
});
