/** A mesh of pods: resources as kubectl prints them, credentials of `oarlock ca issue`, and sidecars as injection starts them. */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { chmodSync, chownSync, cpSync, createWriteStream, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { sumOf, tempDir } from './mesh.ts';
import { BARE, BRIDGE, type Pod, type PodNetwork, PROXY_UID } from './pods.ts';
import type { Image } from './pods-image.ts';
import { type Line, Lines, type Match } from './processes.ts';
import { replace } from './test-ca.ts';
import { until, within } from './wait.ts';

/** Where the CA of the network is. */
const CA_ADDRESS = `${BRIDGE.ipv4}:15012`;

/** A sidecar in a pod, as uid 1337 and without a capability. */
export class PodSidecar {
  readonly pod: Pod;
  readonly child: ChildProcess;
  readonly stdout: Lines;
  readonly stderr: Lines;
  readonly exited: Promise<void>;

  constructor(pod: Pod, child: ChildProcess) {
    this.pod = pod;
    this.child = child;
    const { stdout, stderr } = child;
    if (stdout === null || stderr === null) throw new Error('no pipes');
    this.stdout = new Lines(stdout);
    this.stderr = new Lines(stderr);
    this.exited = new Promise((resolve) => {
      child.once('close', () => resolve());
    });
    // For whoever wants to know why a test fails.
    const logs = process.env.OARLOCK_TEST_LOGS;
    if (logs !== undefined) stderr.pipe(createWriteStream(join(logs, `${pod.name}.log`), { flags: 'a' }));
  }

  /** Lines of log and access log so far: pass it to `logged`. */
  get mark(): number {
    return this.stderr.mark;
  }

  /** Waits for the ready line. */
  async ready(): Promise<this> {
    const dead = (): never => {
      throw new Error(`the sidecar of ${this.pod.name} ended before it was ready:\n${this.stderr.text}`);
    };
    await within(
      `the sidecar of ${this.pod.name} to be ready`,
      this.stdout.next({ ready: true }).catch(dead),
    );
    return this;
  }

  logged(match: Match, mark = 0): Promise<Line> {
    return this.stderr.next({ type: undefined, ...match }, mark);
  }

  accessed(match: Match, mark = 0): Promise<Line> {
    return this.stderr.next({ type: 'access', ...match }, mark);
  }

  /** Sum of the samples whose labels are all as given. */
  async metric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    return sumOf(await this.get('http://127.0.0.1:15020/metrics'), name, labels);
  }

  /** Asks one of its servers, as root of the pod. */
  get(url: string): Promise<string> {
    return this.pod.must(['curl', '--silent', '--fail-with-body', url]);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.child.kill(signal);
    await within(`the sidecar of ${this.pod.name} to end`, this.exited);
  }
}

export interface SidecarOptions {
  /** The pod's labels, besides `app: NAME`. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Absent: the pod's name. */
  readonly account?: string;
  /** Credentials by other flags than those of files. */
  readonly credentials?: readonly string[];
  readonly flags?: readonly string[];
}

export class PodMesh {
  readonly t: Test;
  readonly image: Image;
  readonly network: PodNetwork;
  readonly dir: string;
  readonly config: string;

  constructor(t: Test, image: Image, network: PodNetwork, resources: string) {
    this.t = t;
    this.image = image;
    this.network = network;
    this.dir = tempDir(t);
    chmodSync(this.dir, 0o755);
    this.config = join(this.dir, 'config');
    mkdirSync(this.config);
    this.write('mesh.yaml', resources);
  }

  get #ca(): string {
    return join(this.dir, 'ca');
  }

  /** Puts a file of resources in place, by rename. */
  write(name: string, text: string): void {
    replace(join(this.config, name), text);
  }

  /** The same, and waits until these sidecars have it in force. */
  async change(name: string, text: string, sidecars: readonly PodSidecar[]): Promise<void> {
    const generation = (sidecar: PodSidecar): Promise<number> =>
      sidecar.metric('oarlock_snapshot_generation');
    const before = await Promise.all(sidecars.map(generation));
    this.write(name, text);
    const inForce = async (sidecar: PodSidecar, i: number): Promise<unknown> =>
      until(`${name} to be in force`, async () => (await generation(sidecar)) > (before[i] ?? 0));
    await Promise.all(sidecars.map(inForce));
  }

  /** Runs `oarlock ARGS` here, in no pod. */
  oarlock(...args: readonly string[]): void {
    const [env, ...rest] = [...BARE, ...this.image.oarlock];
    execFileSync(env, [...rest, ...args], { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' });
  }

  /** The flags of credentials in files for `shop/ACCOUNT`, which the sidecars' user may read. */
  issue(account: string): string[] {
    const out = join(this.dir, `certs-${account}`);
    const whose = ['--namespace', 'shop', '--service-account', account];
    this.oarlock('ca', 'issue', '--dir', this.#ca, ...whose, '--out', out);
    for (const file of ['', ...readdirSync(out)]) chownSync(join(out, file), PROXY_UID, PROXY_UID);
    return ['--cert-dir', out];
  }

  /** The flags of a workload that asks the CA of the network, which need not run yet. */
  token(account: string): string[] {
    return ['--ca-address', CA_ADDRESS, '--ca-root', this.caRoot(), '--token', this.tokenFile(account)];
  }

  /** A token of `shop/ACCOUNT`, which the sidecars' user may read. */
  tokenFile(account: string): string {
    const file = join(this.dir, `${account}.token`);
    if (existsSync(file)) return file;
    const whose = ['--namespace', 'shop', '--service-account', account];
    this.oarlock('ca', 'token', '--dir', this.#ca, ...whose, '--out', file);
    chownSync(file, PROXY_UID, PROXY_UID);
    return file;
  }

  /** The CA's root, as a config map hands it out. */
  caRoot(): string {
    const file = join(this.dir, 'root-cert.pem');
    if (existsSync(file)) return file;
    // Makes the CA, whose folder is nobody else's to read.
    const [, certs = ''] = this.issue('nobody');
    cpSync(join(certs, 'root-cert.pem'), file);
    return file;
  }

  /** Starts that CA, outside all pods. @param names more names it is dialled by */
  async serveCa(names: readonly string[] = []): Promise<void> {
    const flags = [
      '--dir',
      this.#ca,
      '--listen',
      CA_ADDRESS,
      ...names.flatMap((name) => ['--server-name', name]),
    ];
    const child = this.network.bridge.spawn([...this.image.oarlock, 'ca', 'serve', ...flags]);
    this.t.teardown(() => child.kill('SIGKILL'));
    if (child.stdout === null) throw new Error('no pipe');
    await within('the CA to be ready', new Lines(child.stdout).next({ ready: true }));
  }

  /** Has `oarlock iptables` set the rules of a pod, as its init container does. */
  async rules(pod: Pod, ...flags: readonly string[]): Promise<string> {
    return pod.must([...this.image.oarlock, 'iptables', ...flags]);
  }

  /** Starts the sidecar of a pod by the environment that injection gives it. */
  start(
    pod: Pod,
    { labels = {}, account = pod.name, credentials, flags = [] }: SidecarOptions = {},
  ): PodSidecar {
    const env = {
      OARLOCK_CONFIG: this.config,
      POD_NAME: pod.name,
      POD_NAMESPACE: 'shop',
      SERVICE_ACCOUNT: account,
      INSTANCE_IP: pod.ipv4,
      ISTIO_META_LABELS: JSON.stringify({ app: pod.name, ...labels }),
    };
    const argv = [...this.image.oarlock, 'run', ...(credentials ?? this.issue(account)), ...flags];
    const sidecar = new PodSidecar(pod, pod.spawn(argv, { uid: PROXY_UID, env }));
    this.t.teardown(() => sidecar.kill());
    return sidecar;
  }

  /** Rules and sidecar of each of these pods, ready. */
  async inject(pods: readonly Pod[], options: SidecarOptions = {}): Promise<PodSidecar[]> {
    return Promise.all(
      pods.map(async (pod) => {
        await this.rules(pod);
        return this.start(pod, options).ready();
      }),
    );
  }
}
