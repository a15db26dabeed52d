/** A sidecar of `shop/orders` in this process with its HBONE port open: the daemon's data path and listeners. */
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import root, { type Test } from 'tap';
import { LocalPlane } from '../../cli/data-plane.ts';
import { parseDocuments } from '../../config/documents.ts';
import { compileSnapshot, type SnapshotInput } from '../../config/snapshot.ts';
import { type LimitName, limitsWith } from '../../mesh/limits.ts';
import { problemLine } from '../../mesh/resource.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { sumOf, tempDir } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { ingress, type PortYaml, service, sidecar, workload } from '../e2e/harness/resources.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { credentialsOf } from './inbound-sidecar.ts';
import { leavePlane } from './leave-plane.ts';

/** Ports of the Sidecar's ingress entries: declared HTTP, declared TCP, and not declared. */
export const [HTTP = 0, TCP = 0, AUTO = 0] = await freePorts(3);

export interface HboneOptions {
  /** The app behind the ports HTTP, TCP and AUTO; absent: nobody answers there. */
  readonly http?: number;
  readonly tcp?: number;
  readonly auto?: number;
  /** Ports the workload names beside them. */
  readonly named?: Readonly<Record<string, number>>;
  readonly address?: string;
  /** More YAML. */
  readonly policies?: string;
  readonly limits?: Partial<Record<LimitName, number>>;
}

type Line = Readonly<Record<string, unknown>>;

export interface HboneSidecar {
  readonly ca: TestCa;
  readonly port: number;
  /** Lines of the log. */
  readonly lines: readonly Line[];
  /** Puts other policies in force. */
  apply(policies: string): Promise<void>;
  /** Puts credentials in force, of that validity from now (ms) or the usual one, of its CA or another one. */
  rotate(to?: number, issuer?: TestCa): Promise<void>;
  drain(): Promise<void>;
  /** The access log's lines, once there are so many. */
  accessed(count: number): Promise<readonly Line[]>;
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
  metricIs(name: string, labels: Readonly<Record<string, string>>, value: number): Promise<void>;
  refusals(reason: string): Promise<number>;
  /** The next line of the log with that reason, waiting for it. */
  refused(reason: string): Promise<Line>;
}

/** Nobody's: a tunnel that is led there finds nobody. */
const NOBODY = 9;
/** A port of the process besides HBONE's. */
export const ADMIN = 15_000;
/** Of all sidecars of a file. */
const logs = tempDir(root);
let count = 0;

export async function hboneSidecar(t: Test, options: HboneOptions = {}): Promise<HboneSidecar> {
  const ca = await TestCa.create();
  const lines: Line[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => performance.now(), cluster: 'test' });
  const logFile = `${logs}/${++count}.log`;
  const limits = limitsWith({ drain: 200, ...options.limits });
  const plane = new LocalPlane(
    {
      limits,
      bind: '',
      accessLog: { accessLog: logFile, accessLogEncoding: 'json' },
      reusePort: false,
    },
    log,
    metrics,
  );
  const apply = async (policies: string): Promise<void> => {
    const input = inputOf(options, policies);
    await plane.apply(snapshotOf(input), { capture: null, hbone: 0, hboneNeeded: true, others: [ADMIN] });
  };
  await apply(options.policies ?? '');
  const rotate = async (to?: number, issuer = ca): Promise<void> =>
    plane.useCredentials(
      credentialsOf(await issuer.leaf(spiffe('shop', 'orders'), to === undefined ? {} : { to })),
    );
  await rotate();
  let drained: Promise<void> | null = null;
  const drain = (): Promise<void> => {
    drained ??= leavePlane(plane, log, limits.drain);
    return drained;
  };
  t.teardown(drain);
  const metric = async (name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> =>
    sumOf((await metrics.text()).toString(), name, labels);
  return {
    ca,
    port: plane.ports().hbone ?? 0,
    lines,
    apply,
    rotate,
    drain,
    accessed: (count) =>
      until(`${count} lines of access log`, () => {
        const all = readFileSync(logFile, 'utf8').split('\n').filter(Boolean);
        return all.length >= count ? all.map((line) => JSON.parse(line) as Line) : null;
      }),
    metric,
    metricIs: async (name, labels, value) => {
      let last = Number.NaN;
      await until(`${name} to be ${value}`, async () => {
        last = await metric(name, labels);
        return last === value;
      }).catch((error: Error) => {
        throw new Error(`${error.message}; it is ${last}`);
      });
    },
    refusals: (reason) => metric('oarlock_refusals_total', { reason, direction: 'inbound' }),
    refused: (reason) => until(reason, () => lines.find((line) => line.reason === reason)),
  };
}

/** The service's ports are the workload's, and the Sidecar leads each to its app. */
function inputOf({ http, tcp, auto, named = {}, address }: HboneOptions, policies: string): SnapshotInput {
  const apps: readonly (readonly [PortYaml, number | undefined])[] = [
    [{ number: HTTP, name: 'http', protocol: 'HTTP' }, http],
    [{ number: TCP, name: 'tcp', protocol: 'TCP' }, tcp],
    [{ number: AUTO, name: 'any' }, auto],
  ];
  const entry = workload('orders', named);
  const yaml = [
    service(
      'orders',
      apps.map(([port]) => port),
    ),
    address === undefined ? entry : entry.replace('address: 127.0.0.1', `address: ${address}`),
    sidecar('orders', { ingress: apps.map(([port, app]) => ingress(port, app ?? NOBODY)) }),
    ...(policies === '' ? [] : [policies]),
  ].join('---\n');
  const { resources, problems } = parseDocuments(yaml, 'test.yaml');
  return {
    resources,
    problems,
    workload: { entry: 'shop/orders' },
    overrides: {},
    intercept: 'none',
    generation: 1,
  };
}

function snapshotOf(input: SnapshotInput): Snapshot {
  const { snapshot, problems } = compileSnapshot(input);
  if (snapshot === null) throw new Error(problems.map(problemLine).join('\n'));
  return snapshot;
}
