/** The pair under test: an app, credentials, and one sidecar process at each end, on ports the kernel chose. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child, runOarlock, startFollowing } from './children.ts';

const READY_MS = 15_000;
/** A chosen port is free for a moment, and somebody may take it before its sidecar does. */
const ATTEMPTS = 3;

interface Ports {
  readonly app: number;
  /** Where the caller's app dials: the egress listener of `web`. */
  readonly egress: number;
  /** Where the peer dials: the ingress entry of `orders`. */
  readonly ingress: number;
}

/** A folder for all that a bench writes; gone when the process ends. */
export function benchDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'oarlock-bench-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** ALLOW by principal, STRICT mutual TLS, explicit listeners. */
function resources({ app, egress, ingress }: Ports): string {
  return `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: bench}
spec:
  hosts: [orders.bench.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: ${egress}, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: orders}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders, namespace: bench}
spec: {address: 127.0.0.1, labels: {app: orders}, serviceAccount: orders, ports: {http: ${ingress}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: bench}
spec: {address: 127.0.0.1, labels: {app: web}, serviceAccount: web}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: bench}
spec:
  workloadSelector: {labels: {app: web}}
  egress:
  - port: {number: ${egress}, name: http, protocol: HTTP}
    captureMode: NONE
    hosts: [./orders.bench.svc.cluster.local]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: orders, namespace: bench}
spec:
  workloadSelector: {labels: {app: orders}}
  ingress:
  - port: {number: ${ingress}, name: http, protocol: HTTP}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:${app}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: bench}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/bench/sa/web]}}]}]
`;
}

export interface PairOptions {
  readonly dir: string;
  /** Flags of Node for both sidecars. */
  readonly nodeFlags?: readonly string[];
  /** How often the callee's sidecar is started and stopped beforehand, to time its start. */
  readonly timedStarts?: number;
}

export interface Pair {
  readonly ports: Ports;
  readonly caller: Child;
  readonly callee: Child;
  readonly pids: readonly number[];
  /** The caller's credentials. */
  readonly certDir: string;
  /** Milliseconds from starting a process to its ready line. */
  readonly startMs: readonly number[];
  /** Empties the access logs: they grow by megabytes a second. */
  emptyLogs(): void;
  /** Requests that the callee's sidecar counted as answered 200 over mutual TLS. */
  counted(): Promise<number>;
  stop(): Promise<void>;
}

/** Starts it all; resolves when both sidecars are ready. */
export async function startPair(options: PairOptions): Promise<Pair> {
  const { dir } = options;
  // One after the other: both would make the CA's root.
  for (const account of ['orders', 'web']) {
    const names = ['--namespace', 'bench', '--service-account', account, '--out', join(dir, account)];
    await runOarlock(['ca', 'issue', '--dir', join(dir, 'ca'), ...names]);
  }
  const app = new Child(['bench/app.ts'], { withinMs: READY_MS });
  const { address } = (await app.line) as { readonly address: { readonly port: number } };
  for (let attempt = 1; ; attempt++) {
    const [egress = 0, ingress = 0] = await freePorts(2);
    try {
      return await startSidecars(options, app, { app: address.port, egress, ingress });
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
    }
  }
}

async function startSidecars(options: PairOptions, app: Child, ports: Ports): Promise<Pair> {
  const { dir, nodeFlags = [], timedStarts = 0 } = options;
  writeFileSync(join(dir, 'mesh.yaml'), resources(ports));
  const log = (name: string): string => join(dir, `${name}-access.log`);
  const flags = (name: string): string[] => [
    ...['cli/main.ts', 'run', '--config', join(dir, 'mesh.yaml'), '--workload', `bench/${name}`],
    ...['--intercept', 'none', '--bind', '127.0.0.1', '--cert-dir', join(dir, name)],
    ...['--admin-port', 'off', '--health-port', 'off', '--hbone-port', 'off', '--metrics-port', '0'],
    ...['--log-level', 'warn', '--access-log', log(name), '--drain', '1s'],
  ];
  const startMs: number[] = [];
  for (let i = 0; i < timedStarts; i++) {
    const timed = new Child(flags('orders'), { withinMs: READY_MS });
    await timed.line;
    startMs.push(timed.lineMs);
    await timed.stop();
  }
  const [callee, caller] = ['orders', 'web'].map((name) =>
    startFollowing(flags(name), { withinMs: READY_MS, nodeFlags }),
  ) as [Child, Child];
  const both = [callee, caller];
  try {
    const [{ ports: calleePorts }] = (await Promise.all(both.map(({ line }) => line))) as [
      { readonly ports: { readonly metrics: number } },
    ];
    return {
      ports,
      caller,
      callee,
      pids: both.map(({ pid }) => pid),
      certDir: join(dir, 'web'),
      startMs,
      emptyLogs: () => {
        for (const name of ['orders', 'web']) truncateSync(log(name));
      },
      counted: () => countedBy(calleePorts.metrics),
      stop: async () => {
        await Promise.all(both.map((child) => child.stop()));
        await app.stop();
      },
    };
  } catch (error) {
    await Promise.all(both.map((child) => child.stop()));
    throw error;
  }
}

async function countedBy(metricsPort: number): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
  let sum = 0;
  for (const line of (await response.text()).split('\n')) {
    if (!line.startsWith('istio_requests_total{') || !line.includes('response_code="200"')) continue;
    if (line.includes('connection_security_policy="mutual_tls"')) sum += Number(line.split('} ')[1]);
  }
  return sum;
}

/** Ports of the loopback interface that are free now, all different. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, () => {
      const server = createServer();
      return new Promise<Server>((resolve, reject) => {
        server.once('error', reject);
        server.listen(0, '127.0.0.1', () => resolve(server));
      });
    }),
  );
  const ports = servers.map((server) => (server.address() as { readonly port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
