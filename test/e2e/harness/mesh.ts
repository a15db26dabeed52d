/** A mesh on this machine: a folder of resources, credentials, and sidecar processes that know both. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { parseExposition } from '../../telemetry/exposition.ts';
import { call } from './clients.ts';
import { type HbonePorts, hboneFlags, hbonePorts, overHbone } from './hbone.ts';
import { type Line, type Match, type Oarlock, start } from './processes.ts';
import { type Leaf, type LeafOptions, replace, spiffe, TestCa, writeCertDir } from './test-ca.ts';
import { until, within } from './wait.ts';

/** A fresh folder that is gone after the test. */
export function tempDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'oarlock-e2e-'));
  const remove = (): void => rmSync(dir, { recursive: true, force: true });
  t.teardown(remove);
  // Where an error at the file's top level leaves no teardown.
  process.once('exit', remove);
  return dir;
}

/** A running sidecar. */
export class Sidecar {
  readonly process: Oarlock;
  readonly ports: Readonly<Record<string, number>>;
  readonly identity: string;
  readonly certDir: string;

  constructor(process: Oarlock, ready: Line, certDir: string) {
    this.process = process;
    this.ports = ready.ports as Record<string, number>;
    this.identity = String(ready.identity);
    this.certDir = certDir;
  }

  /** Lines of log and access log so far: pass it to `logged`. */
  get mark(): number {
    return this.process.stderr.mark;
  }

  /** Waits for a line of the log that was written after `mark`; the access log is another, see `accessed`. */
  logged(match: Match, mark = 0): Promise<Line> {
    return this.process.stderr.next({ type: undefined, ...match }, mark);
  }

  /** The access log's line of a request or connection. */
  accessed(match: Match, mark = 0): Promise<Line> {
    return this.logged({ type: 'access', ...match }, mark);
  }

  /** Sum of the samples whose labels are all as given. */
  async metric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const { body } = await call(this.ports.metrics ?? 0, '/metrics');
    return sumOf(body.toString(), name, labels);
  }

  refusals(reason: string, direction: 'inbound' | 'outbound' = 'inbound'): Promise<number> {
    return this.metric('oarlock_refusals_total', { reason, direction });
  }

  /** Waits until the metric has that value. */
  async metricIs(name: string, labels: Readonly<Record<string, string>>, value: number): Promise<void> {
    let last = Number.NaN;
    await until(`${name} ${JSON.stringify(labels)} to be ${value}`, async () => {
      last = await this.metric(name, labels);
      return last === value;
    }).catch((error: Error) => {
      throw new Error(`${error.message}; it is ${last}`);
    });
  }

  /** `GET` of the admin API. */
  async admin(path: string): Promise<Record<string, unknown>> {
    const { body } = await call(this.ports.admin ?? 0, path, { headers: { host: 'localhost' } });
    return JSON.parse(body.toString()) as Record<string, unknown>;
  }

  /** Status and JSON of `/healthz/ready`. */
  async health(): Promise<{ status: number; body: Record<string, unknown> }> {
    return health(this.ports.health ?? 0);
  }
}

export async function health(port: number): Promise<{ status: number; body: Record<string, unknown> }> {
  const { status, body } = await call(port, '/healthz/ready');
  return { status, body: JSON.parse(body.toString()) as Record<string, unknown> };
}

/** Sum of the samples of an exposition whose labels are all as given. */
export function sumOf(text: string, name: string, labels: Readonly<Record<string, string>>): number {
  let sum = 0;
  for (const line of parseExposition(text)) {
    const chosen = Object.entries(labels).every(([key, value]) => line.labels[key] === value);
    if (line.name === name && chosen) sum += line.value;
  }
  return sum;
}

export class Mesh {
  readonly t: Test;
  readonly dir: string;
  readonly config: string;
  readonly ca: TestCa;
  readonly #hbonePorts: HbonePorts;

  private constructor(t: Test, dir: string, ca: TestCa, ports: HbonePorts) {
    this.#hbonePorts = ports;
    this.t = t;
    this.dir = dir;
    this.config = join(dir, 'config');
    mkdirSync(this.config);
    this.ca = ca;
  }

  /** A folder with these resources, and a CA. */
  static async create(t: Test, resources: string): Promise<Mesh> {
    // Before anything is awaited: another mesh may begin meanwhile.
    const ports = hbonePorts();
    const mesh = new Mesh(t, tempDir(t), await TestCa.create(), ports);
    mesh.write('mesh.yaml', resources);
    return mesh;
  }

  /** Puts a file of resources in place, by rename. */
  write(name: string, text: string): void {
    replace(join(this.config, name), text);
  }

  read(name: string): string {
    return readFileSync(join(this.config, name), 'utf8');
  }

  remove(name: string): void {
    rmSync(join(this.config, name));
  }

  /** Puts a file in place and waits until these sidecars have it in force. */
  async change(name: string, text: string, sidecars: readonly Sidecar[]): Promise<void> {
    const generation = (sidecar: Sidecar): Promise<number> => sidecar.metric('oarlock_snapshot_generation');
    const before = await Promise.all(sidecars.map(generation));
    this.write(name, text);
    // Not by the log: its line for the change before this one may come late.
    const inForce = async (sidecar: Sidecar, i: number): Promise<unknown> =>
      until(`${name} to be in force`, async () => (await generation(sidecar)) > (before[i] ?? 0));
    await Promise.all(sidecars.map(inForce));
  }

  /** Credentials of the mesh's CA for an account, in a folder of their own. */
  async certDir(
    account: string,
    options: LeafOptions = {},
    namespace = 'shop',
  ): Promise<{ dir: string; leaf: Leaf }> {
    const leaf = await this.ca.leaf(spiffe(namespace, account), options);
    const dir = join(this.dir, `certs-${namespace}-${account}`);
    writeCertDir(dir, leaf);
    return { dir, leaf };
  }

  /** Flags for the workload `NS/NAME` on this machine, kernel's ports for health, metrics and admin. */
  flags(workload: string, ...more: readonly string[]): string[] {
    const ports = ['--health-port', '0', '--metrics-port', '0', '--admin-port', '0'];
    const hbone = overHbone
      ? hboneFlags(this.#hbonePorts.of(workload.split('/')[1] ?? ''))
      : ['--hbone-port', 'off'];
    const asked = ['run', '--config', this.config, '--workload', workload, '--intercept', 'none'];
    return [...asked, ...ports, ...hbone, ...more];
  }

  /** Starts the sidecar of `shop/NAME` with files as credentials, and waits until it is ready. */
  sidecar(name: string, ...more: readonly string[]): Promise<Sidecar> {
    return this.sidecarOf('shop', name, ...more);
  }

  async sidecarOf(namespace: string, name: string, ...more: readonly string[]): Promise<Sidecar> {
    const { dir } = await this.certDir(name, {}, namespace);
    const flags = this.flags(`${namespace}/${name}`, '--cert-dir', dir, ...more);
    return ready(start(this.t, flags), dir);
  }

  /** Starts a sidecar with these flags, and waits until it is ready. */
  ready(workload: string, ...more: readonly string[]): Promise<Sidecar> {
    return ready(start(this.t, this.flags(workload, ...more)));
  }
}

/** Waits for the ready line. */
export async function ready(running: Oarlock, certDir = ''): Promise<Sidecar> {
  // One that ends before has said why on stderr, not here.
  const line = await within(
    'the ready line',
    running.stdout.next({ ready: true }).catch(() => gone(running)),
  );
  return new Sidecar(running, line, certDir);
}

async function gone(running: Oarlock): Promise<never> {
  const { code } = await running.exited;
  throw new Error(`it ended with ${code} before it was ready:\n${running.stderr.text}`);
}
