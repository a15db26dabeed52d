/** The sidecars of the corpus, in this process: an inbound one, an outbound one, and the two behind each other. */
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { pino } from 'pino';
import { checkCredentials } from '../../ca-client/check.ts';
import { splitCertificates } from '../../ca-client/pem.ts';
import { parseDocuments } from '../../config/documents.ts';
import { compileSnapshot } from '../../config/snapshot.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { type LimitName, limitsWith } from '../../mesh/limits.ts';
import { problemLine } from '../../mesh/resource.ts';
import type { Route } from '../../mesh/route.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { DataPath } from '../../proxy/data-path.ts';
import { serveInbound } from '../../proxy/inbound.ts';
import { serveOutbound } from '../../proxy/outbound.ts';
import { EgressRoutes } from '../../proxy/outbound-listener.ts';
import type { AccessLog } from '../../telemetry/access-log.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import type { Setup } from './case.ts';
import { type Enter, type Entrance, LOOPBACK } from './play.ts';

/** Denied: by path, by method, by a header, by host; everything else passes. */
const RESOURCES = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app, namespace: shop}
spec:
  hosts: [app.test]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, serviceAccount: orders}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: denied, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules:
  - to: [{operation: {paths: ["/admin*"]}}]
  - to: [{operation: {methods: ["PURGE"]}}]
  - to: [{operation: {hosts: ["denied.test", "denied.test:*"]}}]
  - when: [{key: "request.headers[x-denied]", values: ["yes"]}]
`;

/** What they end with: a test. */
export interface Owner {
  teardown(end: () => void): unknown;
}

export interface Sidecars {
  readonly enter: Readonly<Record<Setup, Enter>>;
  /** Faults of the data path's own, logged as errors. */
  readonly errors: readonly string[];
}

export interface SidecarOptions {
  /** Of the inbound one. */
  readonly accessLog?: AccessLog;
  readonly limits?: Partial<Record<LimitName, number>>;
}

/** Starts them; they end with their owner. */
export async function sidecars(t: Owner, { accessLog, limits = {} }: SidecarOptions = {}): Promise<Sidecars> {
  const errors: string[] = [];
  const ca = await TestCa.create();
  const inbound = dataPath(t, await credentials(ca, 'orders'), {
    errors,
    accessLog: accessLog ?? null,
    limits,
  });
  inbound.applySnapshot(snapshotOf('orders'));
  const outbound = dataPath(t, await credentials(ca, 'web'), { errors, accessLog: null, limits });
  const ports = new Map<string, { port: number; tls: boolean }>();
  const snapshot = snapshotOf('web');
  const known = snapshot.route('app.test', 80);
  if (known === null) throw new Error('no route');
  outbound.applySnapshot({ ...snapshot, route: (host) => routed(known, ports.get(host) ?? null) });

  const enterInbound: Enter = (appPort) =>
    entrance((socket) =>
      serveInbound(inbound, { port: 8080, protocol: 'http', app: { host: LOOPBACK, port: appPort } }, socket),
    );
  let hosts = 0;
  const enterOutbound = async (port: number, tls: boolean): Promise<Entrance> => {
    const host = `h${hosts++}.test`;
    ports.set(host, { port, tls });
    const routes = new EgressRoutes({ bind: '127.0.0.1', port: 80, protocol: 'http', hosts: [host] });
    const opened = await entrance((socket) => serveOutbound(outbound, routes, socket));
    return {
      port: opened.port,
      close: () => {
        opened.close();
        ports.delete(host);
      },
    };
  };
  return {
    errors,
    enter: {
      inbound: enterInbound,
      outbound: (appPort) => enterOutbound(appPort, false),
      pair: async (appPort) => {
        const behind = await enterInbound(appPort);
        const before = await enterOutbound(behind.port, true);
        return {
          port: before.port,
          close: () => {
            before.close();
            behind.close();
          },
        };
      },
    },
  };
}

/** The known route, with its endpoint at that port. */
function routed(route: Route, to: { port: number; tls: boolean } | null): Route | null {
  if (to === null) return null;
  const mode = to.tls ? 'ISTIO_MUTUAL' : 'DISABLE';
  const tls = {
    ...route.tls,
    mode,
    sni: 'outbound_.80_._.app.test',
    expectedIdentities: [spiffe('shop', 'orders')],
  } as const;
  const endpoints = [
    { address: LOOPBACK, port: to.port, tls: mode, weight: 1, workload: null, tunnel: null },
  ] as const;
  return { ...route, tls, endpoints };
}

async function entrance(serve: (socket: Socket) => void): Promise<Entrance> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, serve);
  await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve));
  return { port: (server.address() as AddressInfo).port, close: () => server.close() };
}

async function credentials(ca: TestCa, account: string): Promise<Credentials> {
  const { cert, key, ca: root } = await ca.leaf(spiffe('shop', account));
  return checkCredentials({
    chain: splitCertificates(cert, 'chain'),
    keyPem: key,
    roots: splitCertificates(root, 'root'),
    origin: 'test',
    expected: null,
    now: Date.now(),
  });
}

interface Told {
  readonly errors: string[];
  readonly accessLog: AccessLog | null;
  readonly limits: Partial<Record<LimitName, number>>;
}

function dataPath(t: Owner, own: Credentials, { errors, accessLog, limits }: Told): DataPath {
  const log = pino(
    { level: 'error' },
    { write: (line: string) => void errors.push(String((JSON.parse(line) as { error: unknown }).error)) },
  );
  const path = new DataPath({
    limits: limitsWith({ idleTimeout: 20_000, ...limits }),
    log,
    metrics: new MeshMetrics({ ...defaultSeriesBounds, now: () => performance.now(), cluster: 'test' }),
    accessLog,
    readTlsFiles: () => {
      throw new Error('no files here');
    },
    names: { version: 0, known: () => null, resolve: (_name, done) => done.unresolved('ENOTFOUND') },
    verifierOf: () => ({ verify: () => Promise.reject(new Error('nobody asks')) }),
    extAuthz: { check: () => Promise.reject(new Error('nobody asks')) },
  });
  path.applyCredentials(own);
  t.teardown(() => path.stop());
  return path;
}

function snapshotOf(app: string): Snapshot {
  const { resources, problems } = parseDocuments(RESOURCES, 'corpus.yaml');
  const { snapshot, problems: all } = compileSnapshot({
    resources,
    problems,
    workload: { namespace: 'shop', name: app, labels: new Map([['app', app]]), serviceAccount: app },
    overrides: {},
    intercept: 'none',
    generation: 1,
  });
  if (snapshot === null) throw new Error(all.map(problemLine).join('\n'));
  return snapshot;
}
