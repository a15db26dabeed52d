/** A network namespace for a workload behind ztunnel: a wire to this one, and Istio's rule that captures what its apps dial. */
import { execFileSync } from 'node:child_process';
import type { Test } from 'tap';

/** ztunnel runs as this user and group, as Istio's own rules have it: what it dials itself is not captured. */
const PROXY_UID = 1337;
/** Where ztunnel takes the connections of its own apps. */
const OUTBOUND_PORT = 15_001;

export interface Namespace {
  readonly name: string;
  /** This end of the wire. */
  readonly here: string;
  /** The workload's end. */
  readonly there: string;
  /** The wire's device at this end. */
  readonly device: string;
  /** The command line that runs another one inside. */
  readonly within: readonly string[];
  /** The same as ztunnel's user. */
  readonly asProxy: readonly string[];
}

/** What a test needs that this machine has not; empty where all is there. */
export function missing(): string[] {
  const tools = ['ip', 'iptables', 'setpriv'].filter((tool) => !works(tool, ['--help']));
  return [...(process.getuid?.() === 0 ? [] : ['root']), ...tools];
}

/** True where the tool can be run. */
export function works(tool: string, args: readonly string[]): boolean {
  try {
    execFileSync(tool, args, { stdio: 'ignore' });
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ENOENT';
  }
}

/** Makes a namespace that is gone when the test is over. */
export function createNamespace(t: Test): Namespace {
  const id = process.pid;
  const name = `oarlock-${id}`;
  const [device, inside] = [`oar${id}a`, `oar${id}b`];
  // RFC 2544's addresses for tests between networks: nobody routes them. Four for each process.
  const [here, there] = [1, 2].map((host) => `198.18.${(id >> 6) & 255}.${((id & 63) << 2) | host}`);
  if (here === undefined || there === undefined) throw new Error('no address');
  ip('netns', 'add', name);
  const remove = (): void => {
    try {
      // Both ends of the wire go with it.
      ip('netns', 'delete', name);
    } catch {
      // It is gone.
    }
  };
  t.teardown(remove);
  process.once('exit', remove);
  ip('link', 'add', device, 'type', 'veth', 'peer', 'name', inside, 'netns', name);
  ip('address', 'add', `${here}/30`, 'dev', device);
  ip('link', 'set', device, 'up');
  ip('-n', name, 'address', 'add', `${there}/30`, 'dev', inside);
  ip('-n', name, 'link', 'set', 'lo', 'up');
  ip('-n', name, 'link', 'set', inside, 'up');
  ip('-n', name, 'route', 'add', 'default', 'via', here);
  const within = ['ip', 'netns', 'exec', name];
  const capture = [...within, 'iptables', '-t', 'nat', '-A', 'OUTPUT', '-p', 'tcp'];
  run([...capture, '-m', 'owner', '--uid-owner', String(PROXY_UID), '-j', 'RETURN']);
  run([...capture, '!', '-o', 'lo', '-j', 'REDIRECT', '--to-ports', String(OUTBOUND_PORT)]);
  const user = ['setpriv', '--reuid', String(PROXY_UID), '--regid', String(PROXY_UID), '--clear-groups'];
  return { name, here, there, device, within, asProxy: [...within, ...user] };
}

function ip(...args: readonly string[]): void {
  run(['ip', ...args]);
}

function run([command = '', ...args]: readonly string[]): void {
  execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
