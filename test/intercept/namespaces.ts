/** Two network namespaces with two wires between them, commands in them, and sockets that tell where they ended. */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';

/** `oarlock iptables`. */
export const oarlock = [process.execPath, join(import.meta.dirname, '../../cli/main.ts'), 'iptables'];
const sockets = join(import.meta.dirname, 'sockets.py');
/** Where the kernel's tools are: a user's PATH may lack it. */
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** On a machine with much else to do. */
const MOST_MS = 120_000;

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Why these tests cannot run here; null: they can. */
export function cannotRun(): string | null {
  if (process.platform !== 'linux') return 'this is not Linux';
  const tools = ['ip', 'iptables-nft-restore', 'iptables-legacy-restore', 'nft', 'setpriv', 'python3'];
  const missing = tools.filter(
    (tool) => !SYSTEM_PATH.split(':').some((folder) => existsSync(join(folder, tool))),
  );
  if (missing.length > 0) return `there is no ${missing.join(', ')}`;
  const { status } = spawnSync('unshare', ['--net', 'true']);
  return status === 0 ? null : 'network namespaces need root';
}

/** Says aloud that a file's tests are skipped, and why. */
export function skipped(t: Test): boolean {
  const why = cannotRun();
  if (why === null) return false;
  process.stderr.write(`\nSKIPPED: rules of capture in network namespaces: ${why}\n\n`);
  t.plan(0, why);
  return true;
}

let count = 0;
/** A test file that is ended from outside has no teardown: its namespaces must not outlive it all the same. */
const living = new Set<string>();
function removeAll(): void {
  for (const name of living) run(['ip', 'netns', 'delete', name]);
  living.clear();
}
process.on('exit', removeAll);
process.once('SIGTERM', () => {
  removeAll();
  process.kill(process.pid, 'SIGTERM');
});

/** A network namespace; it is gone after the test. */
export class Namespace {
  readonly name: string;

  constructor(t: Test) {
    this.name = `oarlock-rules-${process.pid}-${++count}`;
    must(run(['ip', 'netns', 'add', this.name]));
    living.add(this.name);
    t.teardown(() => {
      living.delete(this.name);
      run(['ip', 'netns', 'delete', this.name]);
    });
    this.must('ip link set lo up');
  }

  /** Runs to its end, by root of this namespace. */
  run(argv: readonly string[], input = ''): Ran {
    // The test runner has its own things put into the environment of every child.
    const clean = ['env', '-i', `PATH=${SYSTEM_PATH}`];
    return run(['ip', 'netns', 'exec', this.name, ...clean, ...argv], input);
  }

  /** A command without quotes, where anything but success is the test's own fault. */
  must(command: string): string {
    return must(this.run(command.split(' ')));
  }

  /** `oarlock iptables …`. */
  oarlock(flags: readonly string[], before: readonly string[] = []): Ran {
    return this.run([...before, ...oarlock, ...flags]);
  }

  /** The same beside others. @returns its exit status */
  oarlockBeside(flags: readonly string[]): Promise<number | null> {
    const child = this.start([...oarlock, ...flags]);
    child.stderr.pipe(process.stderr);
    return new Promise((resolve) => child.on('close', resolve));
  }

  start(argv: readonly string[]): ChildProcessWithoutNullStreams {
    const wrapped = [
      'netns',
      'exec',
      this.name,
      'env',
      '-i',
      `PATH=${SYSTEM_PATH}`,
      'setpriv',
      '--pdeathsig',
      'KILL',
      '--',
      ...argv,
    ];
    return spawn('ip', wrapped, { env: { PATH: SYSTEM_PATH } });
  }

  /** Listens on these ports, TCP and UDP, and answers each connection with what `Told` says. */
  async serve(t: Test, name: string, ports: readonly number[]): Promise<void> {
    const child = this.start(['python3', sockets, 'serve', name, ...ports.map(String)]);
    t.teardown(() => child.kill('SIGKILL'));
    child.stderr.pipe(process.stderr);
    for await (const line of createInterface({ input: child.stdout })) if (line === 'ready') return;
    throw new Error(`${name} does not listen`);
  }

  /** Makes connections, one after the other, and says in a line where each ended. */
  dial(calls: readonly Call[]): readonly string[] {
    if (calls.length === 0) return [];
    const { stdout } = this.run(['python3', sockets, 'dial'], JSON.stringify(calls));
    return stdout.trimEnd().split('\n').map(ending);
  }

  /** One connection that stays: what it ended at, and what each line comes back as. */
  hold(t: Test, uid: number, to: string, port: number): Held {
    const child = this.start(['python3', sockets, 'hold', String(uid), to, String(port)]);
    t.teardown(() => child.kill('SIGKILL'));
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async () => String((await lines.next()).value);
    return {
      end: async () => ending(await next()),
      echo: async (text) => {
        child.stdin.write(`${text}\n`);
        return next();
      },
    };
  }
}

export interface Call {
  readonly uid: number;
  readonly gid: number;
  readonly to: string;
  readonly port: number;
  readonly source?: string;
  readonly udp?: true;
}

export interface Held {
  end(): Promise<string>;
  echo(text: string): Promise<string>;
}

/** What sockets.py tells of a connection. */
interface Told {
  readonly name?: string;
  readonly port?: number;
  readonly original?: string | null;
  readonly peer?: string;
  readonly error?: string;
}

/** `pod 15001 for 10.1.0.2 8080`: it was redirected; `other 8080 from 10.1.0.1`: it was not. */
function ending(line: string): string {
  const { name, port = 0, original, peer, error } = (JSON.parse(line) ?? { error: 'closed' }) as Told;
  if (error !== undefined) return error;
  if (peer === undefined) return `${name} ${port}`;
  return [15001, 15006].includes(port) ? `${name} ${port} for ${original}` : `${name} ${port} from ${peer}`;
}

function run(argv: readonly string[], input = ''): Ran {
  const [command = '', ...args] = argv;
  const { status, stdout, stderr } = spawnSync(command, args, {
    input,
    encoding: 'utf8',
    env: { PATH: SYSTEM_PATH },
    timeout: MOST_MS,
  });
  return { status, stdout, stderr };
}

function must({ status, stdout, stderr }: Ran): string {
  if (status === 0) return stdout;
  throw new Error(stderr || stdout);
}

/** Addresses of one wire's ends. */
export interface Wire {
  readonly pod: { readonly ipv4: string; readonly ipv6: string };
  readonly other: { readonly ipv4: string; readonly ipv6: string };
}

/** The pod whose rules are tested, and another one that is its router too; `eth0` and `net1` of both are wired. */
export async function wiredPods(
  t: Test,
): Promise<{ pod: Namespace; other: Namespace; wires: readonly Wire[] }> {
  const pod = new Namespace(t);
  const other = new Namespace(t);
  const wires = ['eth0', 'net1'].map((name, i) => {
    pod.must(`ip link add ${name} type veth peer name ${name} netns ${other.name}`);
    const [net, net6] = [`10.8${i}.0`, `fd00:8${i}:`];
    for (const [end, namespace] of [pod, other].entries()) {
      namespace.must(`ip address add ${net}.${end + 1}/24 dev ${name}`);
      namespace.must(`ip -6 address add ${net6}:${end + 1}/64 dev ${name} nodad`);
      namespace.must(`ip link set ${name} up`);
    }
    return {
      pod: { ipv4: `${net}.1`, ipv6: `${net6}:1` },
      other: { ipv4: `${net}.2`, ipv6: `${net6}:2` },
    };
  });
  pod.must(`ip route add default via ${wires[0]?.other.ipv4}`);
  pod.must(`ip -6 route add default via ${wires[0]?.other.ipv6}`);
  await pod.serve(t, 'pod', [15001, 15006, 15008, 15020, 15021, 15090, 22, 8080, 8081]);
  await other.serve(t, 'other', [53, 3306, 8080, 8081]);
  return { pod, other, wires };
}
