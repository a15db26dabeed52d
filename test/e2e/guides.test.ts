/** The resources of two public Istio guides, as they stand: every arrow they draw as allowed or denied is tried. */
import { cpSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { httpApp } from './harness/apps.ts';
import { call, hasTool, run } from './harness/clients.ts';
import { Mesh, type Sidecar } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { spiffe } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP } from './harness/tls-client.ts';

t.setTimeout(180_000);

const workloads = [
  { name: 'frontend', namespace: 'production' },
  { name: 'cart', namespace: 'production' },
  { name: 'payment-service', namespace: 'production' },
  { name: 'product-catalog', namespace: 'production' },
  { name: 'orders', namespace: 'production' },
  { name: 'outsider', namespace: 'development' },
  { name: 'old-app', namespace: 'legacy' },
] as const;
type Name = (typeof workloads)[number]['name'];

const app = await httpApp(t);
const free = await freePorts(workloads.length * 2);
const at = (name: Name): number => workloads.findIndex((one) => one.name === name);
/** Where a workload's app dials whomever the Host header names. */
const egressPort = (name: Name): number => free[at(name)] ?? 0;
const ingressPort = (name: Name): number => free[workloads.length + at(name)] ?? 0;
const hostOf = (name: Name): string => `${name}.${workloads[at(name)]?.namespace}.svc.cluster.local`;

/** The guides' metrics port is 9090 and no other: on an address of this process alone, where the system has such. */
const METRICS_PORT = 9090;
const METRICS_ADDRESS = `127.${1 + (process.pid % 250)}.${(process.pid >> 8) % 250}.90`;
const hasMetrics = await canBind(METRICS_ADDRESS, METRICS_PORT);

const mesh = await Mesh.create(t, workloads.map(registryOf).join('---\n'));
cpSync(join(import.meta.dirname, '../fixtures/guides'), join(mesh.config, 'guides'), { recursive: true });
const sidecars = new Map<Name, Sidecar>();
await Promise.all(
  workloads.map(async ({ name, namespace }) => {
    sidecars.set(name, await mesh.sidecarOf(namespace, name));
  }),
);

const paths: Partial<Record<Name, string>> = {
  cart: '/api/v1/cart',
  'payment-service': '/api/v1/payments',
  'product-catalog': '/api/v1/products',
  orders: '/api/v1/orders/1',
};

async function tried(from: Name, to: Name, path = paths[to] ?? '/', method = 'GET'): Promise<number> {
  const { status } = await call(egressPort(from), path, { method, headers: { host: hostOf(to) } });
  return status;
}

t.test('the arrows of the picture, and all it does not draw', async (t) => {
  const allowed = new Set([
    'frontend → product-catalog',
    'frontend → cart',
    'cart → payment-service',
    'payment-service → orders',
  ]);
  const callers: readonly Name[] = ['frontend', 'cart', 'payment-service', 'product-catalog', 'outsider'];
  const callees: readonly Name[] = ['product-catalog', 'cart', 'payment-service', 'orders'];
  for (const from of callers) {
    for (const to of callees) {
      const arrow = `${from} → ${to}`;
      t.equal(await tried(from, to), allowed.has(arrow) ? 200 : 403, arrow);
    }
  }
});

t.test('methods and paths of the ALLOW policies', async (t) => {
  const rows: { from: Name; to: Name; method: string; path: string; status: number }[] = [
    { from: 'frontend', to: 'product-catalog', method: 'GET', path: '/api/v1/products/42', status: 200 },
    { from: 'frontend', to: 'product-catalog', method: 'GET', path: '/api/v1/products?page=2', status: 200 },
    { from: 'frontend', to: 'product-catalog', method: 'POST', path: '/api/v1/products', status: 403 },
    { from: 'frontend', to: 'product-catalog', method: 'GET', path: '/api/v1/productsx', status: 403 },
    {
      from: 'frontend',
      to: 'product-catalog',
      method: 'GET',
      path: '/api/v1/products/../admin',
      status: 403,
    },
    { from: 'payment-service', to: 'orders', method: 'PUT', path: '/api/v1/orders/7', status: 200 },
    { from: 'payment-service', to: 'orders', method: 'POST', path: '/api/v1/orders/', status: 200 },
    { from: 'payment-service', to: 'orders', method: 'GET', path: '/api/v1/orders', status: 403 },
    { from: 'payment-service', to: 'orders', method: 'DELETE', path: '/api/v1/orders/7', status: 403 },
  ];
  for (const { from, to, method, path, status } of rows) {
    t.equal(await tried(from, to, path, method), status, `${from} → ${to}: ${method} ${path}`);
  }
});

t.test('a denial names its policy', async (t) => {
  const rows: { from: Name; to: Name; policy: RegExp }[] = [
    { from: 'outsider', to: 'product-catalog', policy: /production\/deny-from-untrusted/ },
    { from: 'frontend', to: 'orders', policy: /production\/(deny-all|allow-payment-to-orders)/ },
  ];
  for (const { from, to, policy } of rows) {
    const callee = sidecars.get(to);
    const mark = callee?.mark ?? 0;
    await tried(from, to, '/named');
    // The access log has every refusal; the other log only the first few of a second.
    const line = await callee?.accessed({ reason: 'policy_denied', path: '/named' }, mark);
    t.match(line?.policy, policy, `${from} → ${to}`);
    t.equal(line?.source_principal, spiffe(workloads[at(from)]?.namespace ?? '', from));
  }
});

t.test(
  'plaintext to STRICT is reset',
  { skip: hasTool('curl') ? false : 'there is no curl here' },
  async (t) => {
    for (const name of ['cart', 'payment-service', 'product-catalog', 'orders'] as const) {
      const { status, output } = await run('curl', [
        '-sS',
        `http://127.0.0.1:${ingressPort(name)}${paths[name]}`,
      ]);
      t.equal(status, 56, `${name}: ${output}`);
    }
  },
);

t.test('the legacy namespace is PERMISSIVE', async (t) => {
  const legacy = { headers: { host: hostOf('old-app') } };
  t.equal((await call(ingressPort('old-app'), '/', legacy)).status, 200, 'plaintext');
  t.equal(await tried('frontend', 'old-app'), 200, 'mTLS');
  const line = await sidecars
    .get('old-app')
    ?.accessed({ source_principal: spiffe('production', 'frontend') });
  t.equal(line?.connection_security_policy, 'mutual_tls', 'which it was');
});

const skip = hasMetrics ? false : `${METRICS_ADDRESS} cannot be bound on this system`;
t.test('the metrics port is PERMISSIVE, and deny-all closes it all the same', { skip }, async (t) => {
  const leaf = await mesh.ca.leaf(spiffe('production', 'frontend'));
  const untrusted = await mesh.ca.leaf(spiffe('development', 'outsider'));
  const scrape = (): Promise<number> =>
    call(METRICS_PORT, '/metrics', { address: METRICS_ADDRESS }).then(({ status }) => status);
  const over = (who: typeof leaf): Promise<number | string> =>
    attempt(t, METRICS_PORT, { leaf: who, ALPNProtocols: ISTIO_HTTP, address: METRICS_ADDRESS }, '/metrics');
  t.equal(await scrape(), 403, 'plaintext is heard, not reset, and denied');
  t.equal(await over(leaf), 403, 'over mTLS too');
  const payment = sidecars.get('payment-service');
  if (payment === undefined) return;
  await mesh.change(
    'allow-metrics.yaml',
    `apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: allow-metrics, namespace: production}
spec:
  selector: {matchLabels: {app: payment-service}}
  action: ALLOW
  rules: [{to: [{operation: {ports: ["9090"]}}]}]
`,
    [payment],
  );
  t.equal(await scrape(), 200, 'an ALLOW for the port opens it, to plaintext');
  t.equal(await over(leaf), 200, 'and to mTLS');
  t.equal(await over(untrusted), 403, 'but not to the untrusted namespaces, whose DENY needs an identity');
});

function registryOf({ name, namespace }: (typeof workloads)[number]): string {
  const metadata = `metadata: {name: ${name}, namespace: ${namespace}}`;
  const portName = (caller: string): string => `http-${caller}`;
  const hosts = workloads.filter((one) => one.name !== 'outsider').map((one) => `"*/${hostOf(one.name)}"`);
  const metrics = `
  - port: {number: ${METRICS_PORT}, name: http-metrics, protocol: HTTP}
    bind: ${METRICS_ADDRESS}
    defaultEndpoint: 127.0.0.1:${app.port}`;
  return `apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
${metadata}
spec:
  hosts: [${hostOf(name)}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [${workloads.map((one) => `{number: ${egressPort(one.name)}, name: ${portName(one.name)}, protocol: HTTP}`).join(', ')}]
  workloadSelector: {labels: {app: ${name}}}
---
apiVersion: networking.istio.io/v1beta1
kind: WorkloadEntry
${metadata}
spec:
  address: 127.0.0.1
  labels: {app: ${name}}
  serviceAccount: ${name}
  ports: {${workloads.map((one) => `${portName(one.name)}: ${ingressPort(name)}`).join(', ')}}
---
apiVersion: networking.istio.io/v1beta1
kind: Sidecar
${metadata}
spec:
  workloadSelector: {labels: {app: ${name}}}
  ingress:
  - port: {number: ${ingressPort(name)}, name: http, protocol: HTTP}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:${app.port}${name === 'payment-service' && hasMetrics ? metrics : ''}
  egress:
  - port: {number: ${egressPort(name)}, name: http, protocol: HTTP}
    captureMode: NONE
    hosts: [${hosts.join(', ')}]
`;
}

function canBind(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, address, () => server.close(() => resolve(true)));
  });
}
