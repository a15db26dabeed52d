/**
 * A pod under STRICT, whose probes injection rewrote: the kubelet, which has no certificate, asks the sidecar and hears
 * from the app, over HTTP, HTTPS, TCP and gRPC and on both families; what it would ask the app itself is refused.
 */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { rewriteProbes } from '../../../inject/rewrite-probes.ts';
import { tempDir } from '../harness/mesh.ts';
import { APP_UID, needPods, type Pod, PodNetwork, PROXY_UID } from '../harness/pods.ts';
import { nginx, pythonApps, redis, type Told } from '../harness/pods-apps.ts';
import { curl } from '../harness/pods-calls.ts';
import { stageImage } from '../harness/pods-image.ts';
import { PodMesh, type PodSidecar } from '../harness/pods-mesh.ts';
import { modeYaml, podYaml } from '../harness/pods-resources.ts';
import { Lines } from '../harness/processes.ts';
import { TestCa } from '../harness/test-ca.ts';
import { within } from '../harness/wait.ts';

t.setTimeout(120_000);
needPods(t);

const PORT = { http: 8080, web: 8083, https: 8443, redis: 6379, grpc: 9090, nobody: 9999 } as const;

/** Without it a probe has a second, which a busy machine may need. */
const PATIENT = { timeoutSeconds: 10 } as const;

/** As a user writes it, before injection. */
const SPEC = {
  initContainers: [
    {
      name: 'cache',
      restartPolicy: 'Always',
      readinessProbe: { tcpSocket: { port: PORT.redis }, ...PATIENT },
    },
  ],
  containers: [
    {
      name: 'app',
      ports: [
        { name: 'http', containerPort: PORT.http },
        { name: 'https', containerPort: PORT.https },
      ],
      readinessProbe: {
        httpGet: { path: '/ready?deep=1', port: 'http', httpHeaders: [{ name: 'X-Probe', value: 'ready' }] },
        ...PATIENT,
      },
      livenessProbe: { httpGet: { path: '/live', port: 'https', scheme: 'HTTPS' }, ...PATIENT },
      startupProbe: { tcpSocket: { port: PORT.nobody }, ...PATIENT },
      lifecycle: { preStop: { httpGet: { path: '/bye', port: 'http' } } },
    },
    {
      name: 'web',
      readinessProbe: { httpGet: { path: '/there', port: PORT.web }, ...PATIENT },
      livenessProbe: { httpGet: { path: '/gone', port: PORT.web }, ...PATIENT },
      startupProbe: { httpGet: { path: '/away', port: PORT.web }, ...PATIENT },
    },
    {
      name: 'cart',
      readinessProbe: { grpc: { port: PORT.grpc, service: 'shop.Cart' }, ...PATIENT },
      livenessProbe: { grpc: { port: PORT.grpc }, ...PATIENT },
    },
  ],
};

const { spec: injected, probers } = rewriteProbes(SPEC, {
  annotations: {},
  statusPort: 15020,
  probers: null,
});
if (probers === null) throw new Error('injection found no probes');

/** grpc.health.v1 on node:http2: `shop.Cart` serves, the server as a whole does not. */
const GRPC = `
const { createServer } = require('node:http2');
const server = createServer();
server.on('stream', (stream) => {
  let asked = '';
  stream.on('data', (bytes) => { asked += bytes.toString('latin1'); });
  stream.on('end', () => {
    stream.respond({ 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(Buffer.from([0, 0, 0, 0, 2, 8, asked.includes('shop.Cart') ? 1 : 2]));
  });
});
server.listen(${PORT.grpc}, '::', () => console.log(JSON.stringify({ listening: true })));
`;

const network = PodNetwork.create(t, ['orders']);
const orders = network.pod('orders');
/** The kubelet is on the node, and so is the other end of the pod's wire. */
const node = network.bridge;
const image = stageImage(t);
await Promise.all([
  pythonApps(t, orders, [`http:${PORT.http}`]),
  redis(t, orders, PORT.redis),
  nginx(t, orders, await webServer()),
  grpcServer(orders),
]);
const mesh = new PodMesh(
  t,
  image,
  network,
  [modeYaml('STRICT'), podYaml(orders, { ports: { http: PORT.http } })].join('---\n'),
);
await mesh.rules(orders);

/** On the pod's own addresses alone, one port with TLS and HTTP/2 by a certificate that nobody knows. */
async function webServer(): Promise<string> {
  const dir = tempDir(t);
  chmodSync(dir, 0o755);
  const { cert, key } = await (await TestCa.create()).leaf(null, { dns: ['orders'] });
  writeFileSync(join(dir, 'cert.pem'), cert);
  writeFileSync(join(dir, 'key.pem'), key, { mode: 0o644 });
  const listen = orders.hosts.flatMap((host) => [
    `listen ${host}:${PORT.web};`,
    `listen ${host}:${PORT.https} ssl http2;`,
  ]);
  return `${listen.join(' ')} ssl_certificate ${dir}/cert.pem; ssl_certificate_key ${dir}/key.pem;
    location /live { return 200 "$server_protocol for $remote_addr"; }
    location /there { return 301 $scheme://$http_host/arrived; }
    location /arrived { return 200 "arrived"; }
    location /gone { return 503 "not now"; }
    location /away { return 302 http://elsewhere.example/; }`;
}

async function grpcServer(pod: Pod): Promise<void> {
  const [binary = ''] = image.oarlock;
  const child = pod.spawn([binary, '-e', GRPC], { uid: APP_UID });
  t.teardown(() => child.kill('SIGKILL'));
  if (child.stdout === null) throw new Error('no pipe');
  await within('the gRPC server to listen', new Lines(child.stdout).next({ listening: true }));
}

/** What a kubelet would send for a probe or handler of the injected pod. */
interface Probe {
  readonly path: string;
  readonly port: number;
  readonly httpHeaders?: readonly { readonly name: string; readonly value: string }[];
}

function probeOf(list: 'containers' | 'initContainers', name: string, field: string): Probe {
  const found = (injected[list] as readonly Record<string, unknown>[]).find(
    (container) => container.name === name,
  );
  const at = (found?.lifecycle as Record<string, unknown> | undefined)?.[field] ?? found?.[field];
  return (at as { readonly httpGet: Probe }).httpGet;
}

const askKubelet = (host: string, { path, port, httpHeaders = [] }: Probe) =>
  curl(node, `http://${host}:${port}${path}`, {
    headers: Object.fromEntries([
      ['User-Agent', 'kube-probe/1.34'],
      ...httpHeaders.map(({ name, value }) => [name, value]),
    ]),
  });

let sidecar: PodSidecar | null = null;

for (const [family, address, host] of [
  ['IPv4', orders.ipv4, orders.hosts[0]],
  ['IPv6', orders.ipv6, orders.hosts[1]],
] as const) {
  await t.test(`${family}: what the kubelet is told`, async (t) => {
    await sidecar?.kill('SIGTERM');
    sidecar = await mesh
      .start(orders, { flags: ['--app-probers', probers, '--address', address, '--drain', '1s'] })
      .ready();
    const source = family === 'IPv4' ? '127.0.0.6' : '::6';
    const rows: readonly (readonly [string, string, number, RegExp])[] = [
      ['app', 'readinessProbe', 200, /"path": "\/ready\?deep=1"/],
      ['app', 'livenessProbe', 200, new RegExp(`HTTP/2.0 for ${source.replaceAll('.', '\\.')}`)],
      ['app', 'startupProbe', 500, /ECONNREFUSED/],
      ['app', 'preStop', 200, /"path": "\/bye"/],
      ['web', 'readinessProbe', 200, /^arrived$/],
      ['web', 'livenessProbe', 503, /not now/],
      ['web', 'startupProbe', 200, /^$/],
      ['cart', 'readinessProbe', 200, /^$/],
      ['cart', 'livenessProbe', 500, /NOT_SERVING/],
    ];
    for (const [container, field, status, body] of rows) {
      const got = await askKubelet(host, probeOf('containers', container, field));
      t.match(got, { exit: 0, status, body }, `${container} ${field}`);
    }
    t.match(await askKubelet(host, probeOf('initContainers', 'cache', 'readinessProbe')), {
      exit: 0,
      status: 200,
    });
    const told = JSON.parse(
      (await askKubelet(host, probeOf('containers', 'app', 'readinessProbe'))).body,
    ) as Told;
    t.match(told, { peer: source, at: address, method: 'GET' });
    t.match(told.headers, {
      'user-agent': 'kube-probe/1.34',
      'x-probe': 'ready',
      host: `${host}:${PORT.http}`,
      'x-forwarded-client-cert': undefined,
    });
  });

  await t.test(`${family}: what it would ask the app itself is refused`, async (t) => {
    for (const port of [PORT.http, PORT.web, PORT.redis, PORT.grpc]) {
      const got = await curl(node, `http://${host}:${port}/ready`);
      t.equal(got.status, 0, `${port}`);
      t.match(got.error, /reset by peer/, `${port}`);
    }
    const { status } = await curl(node, `http://${host}:15020/app-health/app/other`);
    t.equal(status, 404);
  });
}

t.test('probes are no traffic of the mesh', async (t) => {
  if (sidecar === null) throw new Error('no sidecar');
  t.equal(await sidecar.metric('istio_requests_total', { response_code: '200' }), 0);
  t.equal(
    await sidecar.metric('istio_tcp_connections_opened_total', { connection_security_policy: 'mutual_tls' }),
    0,
  );
  // The refused ones are: they came to the app's ports.
  t.ok((await sidecar.metric('oarlock_refusals_total', { reason: 'plaintext_to_strict' })) >= 4);
  t.notMatch(sidecar.stderr.text, /"path":"\/ready/, 'no access log line has one');
  t.match(
    sidecar.stderr.text,
    /"path":"\/app-health\/web\/livez","failure":"answered 503"/,
    'the log has the failing one',
  );
});

t.test('oarlock probe asks in the pod, as whoever', async (t) => {
  for (const uid of [PROXY_UID, APP_UID]) {
    const got = await orders.run([...image.oarlock, 'probe', 'http://127.0.0.1:15021/healthz/ready'], {
      uid,
    });
    t.match(got, { status: 0, output: /"ready":true/ });
  }
  const got = await orders.run([...image.oarlock, 'probe', `grpc://127.0.0.1:${PORT.grpc}`], {
    uid: APP_UID,
  });
  t.match(got, { status: 1, output: /NOT_SERVING/ });
});
