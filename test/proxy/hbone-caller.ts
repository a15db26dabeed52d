/** The sidecar of `shop/web` in this process, whose services are reached by tunnels to peers that a test plays. */
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import type { Test } from 'tap';
import { LocalPlane } from '../../cli/data-plane.ts';
import { parseDocuments } from '../../config/documents.ts';
import { compileSnapshot } from '../../config/snapshot.ts';
import { type LimitName, limitsWith } from '../../mesh/limits.ts';
import { problemLine } from '../../mesh/resource.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { open, type Peer } from '../e2e/harness/clients.ts';
import { sumOf, tempDir } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { egress, hostOf, service, sidecar, workload } from '../e2e/harness/resources.ts';
import { type Leaf, spiffe, type TestCa } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { credentialsOf } from './inbound-sidecar.ts';
import { leavePlane } from './leave-plane.ts';

/** An endpoint of `orders`: nobody listens at its own ports, its peer takes tunnels. */
export interface Place {
  /** Where its peer takes them. */
  readonly hbone: number;
  /** Its port of the service, as CONNECT names it. */
  readonly port: number;
  readonly address?: string;
}

export interface CallerOptions {
  readonly places: readonly Place[];
  readonly limits?: Partial<Record<LimitName, number>>;
  /** Of the service `orders`; absent: STATIC. */
  readonly resolution?: 'DNS';
  /** More YAML, of services that have the port `tcp` and of rules. */
  readonly resources?: string;
  /** Further services, reached by a listener for TCP each. */
  readonly services?: readonly string[];
}

type Line = Readonly<Record<string, unknown>>;

export interface Caller {
  /** Where `web`'s app dials. */
  readonly http: number;
  readonly tcp: number;
  /** Of a port whose protocol nobody declares. */
  readonly auto: number;
  /** Of the further services, in their order. */
  readonly more: readonly number[];
  /** Lines of the log. */
  readonly lines: readonly Line[];
  /** The next line of the log with that reason, waiting for it. */
  refused(reason: string): Promise<Line>;
  /** The access log's line of that request or connection, waiting for it. */
  accessed(match: Line): Promise<Line>;
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
  useCredentials(leaf: Leaf): void;
  /** Puts these resources in force in the place of `CallerOptions.resources`. */
  apply(resources: string): Promise<void>;
  drain(): Promise<void>;
}

/** The ports of `orders` have one number at a place. */
export async function hboneCaller(t: Test, ca: TestCa, options: CallerOptions): Promise<Caller> {
  const { places, services = [] } = options;
  const [http = 0, tcp = 0, auto = 0, ...more] = await freePorts(3 + services.length);
  const lines: Line[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => performance.now(), cluster: 'test' });
  const logFile = `${tempDir(t)}/access.log`;
  const limits = limitsWith({ drain: 20, ...options.limits });
  const plane = new LocalPlane(
    {
      limits,
      bind: '127.0.0.1',
      accessLog: { accessLog: logFile, accessLogEncoding: 'json' },
      reusePort: false,
    },
    log,
    metrics,
  );
  const ports = [
    { number: http, name: 'http', protocol: 'HTTP' },
    { number: tcp, name: 'tcp', protocol: 'TCP' },
    { number: auto, name: 'any' },
  ];
  const listeners = more.map((number, i) => ({ number, name: `tcp-${i}`, protocol: 'TCP' }));
  const common = [
    service('orders', ports).replace('STATIC', options.resolution ?? 'STATIC'),
    ...listeners.map((port, i) => service(services[i] ?? '', [{ ...port, name: 'tcp' }], null, 'orders')),
    ...places.map(placeYaml),
    workload('web'),
    sidecar('web', {
      egress: [
        ...ports.map((port) => egress(port, hostOf('orders'))),
        ...listeners.map((port, i) => egress(port, hostOf(services[i] ?? ''))),
      ],
    }),
  ];
  const apply = async (more: string): Promise<void> => {
    const snapshot = snapshotOf([...common, ...(more === '' ? [] : [more])].join('---\n'));
    await plane.apply(snapshot, { capture: null, hbone: null, hboneNeeded: false, others: [] });
  };
  await apply(options.resources ?? '');
  plane.useCredentials(credentialsOf(await ca.leaf(spiffe('shop', 'web'))));
  let drained: Promise<void> | null = null;
  const drain = (): Promise<void> => {
    drained ??= leavePlane(plane, log, limits.drain);
    return drained;
  };
  t.teardown(drain);
  const accessLines = (): Line[] =>
    readFileSync(logFile, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Line);
  const has = (match: Line) => (line: Line) =>
    Object.entries(match).every(([key, value]) => line[key] === value);
  return {
    http,
    tcp,
    auto,
    more,
    lines,
    refused: (reason) => until(reason, () => lines.find(has({ reason }))),
    accessed: (match) => until(JSON.stringify(match), () => accessLines().find(has(match))),
    metric: async (name, labels = {}) => sumOf((await metrics.text()).toString(), name, labels),
    useCredentials: (leaf) => plane.useCredentials(credentialsOf(leaf)),
    apply,
    drain,
  };
}

function snapshotOf(yaml: string): Snapshot {
  const { resources, problems } = parseDocuments(yaml, 'test.yaml');
  const { snapshot, problems: all } = compileSnapshot({
    resources,
    problems,
    workload: { entry: 'shop/web' },
    overrides: {},
    intercept: 'none',
    generation: 1,
  });
  if (snapshot === null) throw new Error(all.map(problemLine).join('\n'));
  return snapshot;
}

function placeYaml({ hbone, port, address = '127.0.0.1' }: Place, i: number): string {
  return `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders-${i}, namespace: shop}
spec:
  address: "${address}"
  labels: {app: orders, networking.istio.io/tunnel: http}
  serviceAccount: orders
  ports: {http: ${port}, tcp: ${port}, any: ${port}, hbone: ${hbone}}
`;
}

/** Opens a connection and sees that it is carried to a peer that echoes. */
export async function carried(t: Test, port: number): Promise<Peer> {
  const peer = await open(t, port);
  await lives(peer);
  return peer;
}

/** Sees that it still is. */
export async function lives(peer: Peer): Promise<void> {
  const said = peer.received.length;
  peer.write('hello');
  await peer.until('the echo', (text) => text.length === said + 5 && text.endsWith('hello'));
}
