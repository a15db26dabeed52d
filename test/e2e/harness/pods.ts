/** Pods as the kernel knows them: network namespaces on one bridge, with addresses of both families and nothing shared. */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Ran } from './clients.ts';
import { PATIENCE, within } from './wait.ts';

/** Istio's user and group of sidecars. */
export const PROXY_UID = 1337;
/** Whom the apps and their callers run as. */
export const APP_UID = 1000;

/** First part of every namespace's name, then the test's process: what a killed test left can be told from what is in use. */
const PREFIX = 'oarlock-pods-';
/** The system's own tools: what a user of this machine has in his path may be in a folder of his own. */
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/**
 * Before a command line: what a test runner wants every Node of its children to load lies in the checkout, which other
 * users may not read.
 */
export const BARE = ['/usr/bin/env', '--unset=NODE_OPTIONS'] as const;
/** Where `ip netns exec` finds the files a namespace has in the place of /etc's. */
const NETNS_ETC = '/etc/netns';
/** The bridge, whom all pods' default routes name: what nobody has, ends there. */
export const BRIDGE = { ipv4: '10.77.0.1', ipv6: 'fd00:77::1' } as const;

/** Further addresses of the bridge: a host outside the cluster. */
export const OUTSIDE = { ipv4: '10.77.0.2', ipv6: 'fd00:77::2' } as const;

/** How a command in a pod ended; `output`: stdout, then stderr. */
export interface PodRan extends Ran {
  readonly stdout: string;
  readonly stderr: string;
}

/** A process in a pod, and whom it runs as. */
export interface PodCommand {
  /** Absent: root of this namespace, who may set rules. */
  readonly uid?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  readonly ms?: number;
}

const TOOLS = [
  'ip',
  'iptables',
  'ip6tables',
  'setpriv',
  'tcpdump',
  'tshark',
  'curl',
  'python3',
  'nginx',
  'redis-server',
];

function hasSystemTool(name: string): boolean {
  const env = { PATH: SYSTEM_PATH };
  return spawnSync('/bin/sh', ['-c', `command -v ${name}`], { env, stdio: 'ignore' }).status === 0;
}

/** What the tests of pods need that this machine has not; empty where all is there. */
export function missingForPods(): string[] {
  if (process.platform !== 'linux') return ['Linux'];
  const lacking = TOOLS.filter((tool) => !hasSystemTool(tool));
  if (!existsSync('/proc/net/if_inet6')) lacking.push('IPv6');
  if (spawnSync('unshare', ['--net', 'true']).status !== 0) lacking.push('root, who may make networks');
  return lacking;
}

/** A test file ends here, and says so aloud, where it cannot run. */
export function needPods(t: Test): void {
  const lacking = missingForPods();
  if (lacking.length === 0) return;
  const why = `SKIPPED: real pods need ${lacking.join(', ')}`;
  process.stderr.write(`\n${why}\n\n`);
  t.plan(0, why);
  process.exit(0);
}

/** One network namespace with a wire to the bridge. */
export class Pod {
  readonly name: string;
  readonly namespace: string;
  readonly ipv4: string;
  readonly ipv6: string;

  constructor(name: string, namespace: string, ipv4: string, ipv6: string) {
    this.name = name;
    this.namespace = namespace;
    this.ipv4 = ipv4;
    this.ipv6 = ipv6;
  }

  /** Both addresses as URLs have them. */
  get hosts(): readonly [string, string] {
    return [this.ipv4, `[${this.ipv6}]`];
  }

  /** Starts a process; it ends with ours, however we end. */
  spawn(argv: readonly string[], { uid, env }: PodCommand = {}, stdio?: SpawnOptions['stdio']): ChildProcess {
    const user =
      uid === undefined
        ? []
        : [
            `--reuid=${uid}`,
            `--regid=${uid}`,
            '--clear-groups',
            '--inh-caps=-all',
            '--bounding-set=-all',
            '--nnp',
          ];
    const command = [
      'netns',
      'exec',
      this.namespace,
      'setpriv',
      '--pdeathsig',
      'KILL',
      ...user,
      '--',
      ...BARE,
      ...argv,
    ];
    const everywhere = { PATH: SYSTEM_PATH, HOME: '/nonexistent' };
    return spawn('ip', command, { env: { ...everywhere, ...env }, cwd: '/', stdio: stdio ?? 'pipe' });
  }

  /** Runs a command to its end. */
  run(argv: readonly string[], command: PodCommand = {}): Promise<PodRan> {
    const child = this.spawn(argv, command);
    const said = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name]?.on('data', (chunk: Buffer) => {
        said[name] += chunk.toString('latin1');
      });
    }
    child.stdin?.on('error', () => {});
    child.stdin?.end(command.input ?? '');
    const ended = new Promise<PodRan>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status) => resolve({ status, ...said, output: said.stdout + said.stderr }));
    });
    const what = `${argv.slice(0, 3).join(' ')} in ${this.name}`;
    return within(what, ended, command.ms ?? PATIENCE).finally(() => child.kill('SIGKILL'));
  }

  /** What the same says on stdout, where anything but success is the test's own fault. */
  async must(argv: readonly string[], command: PodCommand = {}): Promise<string> {
    const { status, stdout, output } = await this.run(argv, command);
    if (status !== 0) throw new Error(`${argv.join(' ')} in ${this.name} ended with ${status}: ${output}`);
    return stdout;
  }

  /** Files in the place of /etc's, as a kubelet writes them. */
  etc(name: 'hosts' | 'resolv.conf', text: string): void {
    mkdirSync(join(NETNS_ETC, this.namespace), { recursive: true });
    writeFileSync(join(NETNS_ETC, this.namespace, name), text);
  }
}

export class PodNetwork {
  /** Where the bridge is: what goes between pods can be seen there. */
  readonly bridge: Pod;
  readonly #pods: ReadonlyMap<string, Pod>;

  private constructor(bridge: Pod, pods: ReadonlyMap<string, Pod>) {
    this.bridge = bridge;
    this.#pods = pods;
  }

  /** Makes a namespace a pod, all gone when the test is over. */
  static create(t: Test, names: readonly string[]): PodNetwork {
    removeLeftovers();
    const namespaceOf = (name: string): string => `${PREFIX}${process.pid}-${name}`;
    const bridge = new Pod('bridge', namespaceOf('bridge'), BRIDGE.ipv4, BRIDGE.ipv6);
    const pods = names.map(
      (name, i) => new Pod(name, namespaceOf(name), `10.77.0.${11 + i}`, `fd00:77::${11 + i}`),
    );
    const remove = (): void => {
      for (const { namespace } of [...pods, bridge]) removeNamespace(namespace);
    };
    t.teardown(remove);
    // Where an error at the file's top level leaves no teardown.
    process.once('exit', remove);
    // A test runner's patience ends by this; who else listens to it decides what comes then.
    process.once('SIGTERM', () => {
      remove();
      if (process.listenerCount('SIGTERM') === 0) process.kill(process.pid, 'SIGTERM');
    });
    for (const { namespace } of [bridge, ...pods]) ip([`netns add ${namespace}`]);
    ip(
      [
        'link set lo up',
        'link add br0 type bridge',
        'link set br0 up',
        ...addresses(bridge, 'br0'),
        ...addresses(OUTSIDE, 'br0'),
      ],
      bridge,
    );
    for (const [i, pod] of pods.entries()) {
      const port = `pod${i}`;
      ip(
        [
          'link set lo up',
          `link add eth0 type veth peer name ${port} netns ${bridge.namespace}`,
          'link set eth0 up',
          ...addresses(pod, 'eth0'),
          `route add default via ${BRIDGE.ipv4}`,
          `-6 route add default via ${BRIDGE.ipv6}`,
        ],
        pod,
      );
      ip([`link set ${port} master br0 up`], bridge);
    }
    return new PodNetwork(bridge, new Map(pods.map((pod) => [pod.name, pod])));
  }

  pod(name: string): Pod {
    const pod = this.#pods.get(name);
    if (pod === undefined) throw new Error(`no pod ${name}`);
    return pod;
  }
}

/** Without the second or two in which IPv6 looks for a double. */
function addresses({ ipv4, ipv6 }: Pick<Pod, 'ipv4' | 'ipv6'>, device: string): string[] {
  return [`address add ${ipv4}/16 dev ${device}`, `address add ${ipv6}/64 dev ${device} nodad`];
}

/** Several commands of ip(8), one after the other, in a pod or here. */
function ip(lines: readonly string[], pod?: Pod): void {
  for (const line of lines) {
    const within = pod === undefined ? [] : ['-n', pod.namespace];
    execFileSync('ip', [...within, ...line.split(' ')], { stdio: ['ignore', 'ignore', 'pipe'] });
  }
}

/** What tests left that were killed. */
function removeLeftovers(): void {
  const dir = '/run/netns';
  const names = existsSync(dir) ? readdirSync(dir) : [];
  for (const name of names.filter((name) => name.startsWith(PREFIX))) {
    const [pid = ''] = name.slice(PREFIX.length).split('-');
    if (!existsSync(`/proc/${pid}`)) removeNamespace(name);
  }
}

/** With all processes in it; wires and rules go with it. */
function removeNamespace(name: string): void {
  if (!existsSync(`/run/netns/${name}`)) return;
  const { stdout } = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' });
  for (const pid of stdout.split('\n').filter((line) => line !== '')) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
  spawnSync('ip', ['netns', 'delete', name]);
  rmSync(join(NETNS_ETC, name), { recursive: true, force: true });
}
