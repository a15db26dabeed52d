/** A network namespace for a workload behind ztunnel: a wire to this one, and Istio's rule that captures what its apps dial. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { Test } from 'tap';

/** ztunnel runs as this user and group, as Istio's own rules have it: what it dials itself is not captured. */
const PROXY_UID = 1337;
/** Where ztunnel takes the connections of its own apps. */
const OUTBOUND_PORT = 15_001;

/** Addresses of one family. */
export interface Wire {
  /** This end. */
  readonly here: string;
  /** The workload's end. */
  readonly there: string;
}

export interface Namespace {
  readonly name: string;
  readonly ipv4: Wire;
  readonly ipv6: Wire;
  /** The wire's device at this end. */
  readonly device: string;
  /** The command line that runs another one inside. */
  readonly within: readonly string[];
  /** The same as ztunnel's user. */
  readonly asProxy: readonly string[];
}

/** What a test needs that this machine has not; empty where all is there. */
export function missing(): string[] {
  const tools = ['ip', 'iptables', 'ip6tables', 'setpriv', 'unshare'].filter(
    (tool) => !works(tool, ['--help']),
  );
  const ipv6 = existsSync('/proc/net/if_inet6') ? [] : ['IPv6'];
  const right = spawnSync('unshare', ['--net', 'true']).status === 0 ? [] : ['root, who may make networks'];
  return [...tools, ...ipv6, ...right];
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

/** Set for a process that `enterOwnNetwork` has moved. */
const OWN_NETWORK = 'OARLOCK_TEST_OWN_NETWORK';

/**
 * Starts this process anew in a network of its own, once: whoever else has the HBONE port on this machine is not met
 * there. Call it before anything was done.
 */
export function enterOwnNetwork(): void {
  if (process.env[OWN_NETWORK] !== undefined) {
    ip('link', 'set', 'lo', 'up');
    return;
  }
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const env = { ...process.env, [OWN_NETWORK]: 'yes' };
  process.execve?.('/usr/bin/env', ['env', 'unshare', '--net', '--', ...again], env);
}

/** Makes a namespace that is gone when the test is over. */
export function createNamespace(t: Test): Namespace {
  // Its name is known on the whole machine; devices and addresses are not, in a network of our own.
  const name = `oarlock-${process.pid}`;
  const [device, inside] = ['here', 'there'];
  // RFC 2544's addresses for tests between networks, and RFC 4193's.
  const ipv4: Wire = { here: '198.18.0.1', there: '198.18.0.2' };
  const ipv6: Wire = { here: 'fd00:198:18::1', there: 'fd00:198:18::2' };
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
  ip('link', 'set', device, 'up');
  ip('-n', name, 'link', 'set', 'lo', 'up');
  ip('-n', name, 'link', 'set', inside, 'up');
  const within = ['ip', 'netns', 'exec', name];
  for (const [{ here, there }, bits, tool] of [
    [ipv4, 30, 'iptables'],
    [ipv6, 64, 'ip6tables'],
  ] as const) {
    // Without the second or two in which IPv6 looks for a double.
    const nodad = tool === 'ip6tables' ? ['nodad'] : [];
    ip('address', 'add', `${here}/${bits}`, 'dev', device, ...nodad);
    ip('-n', name, 'address', 'add', `${there}/${bits}`, 'dev', inside, ...nodad);
    ip('-n', name, 'route', 'add', 'default', 'via', here);
    const capture = [...within, tool, '-t', 'nat', '-A', 'OUTPUT', '-p', 'tcp'];
    run([...capture, '-m', 'owner', '--uid-owner', String(PROXY_UID), '-j', 'RETURN']);
    run([...capture, '!', '-o', 'lo', '-j', 'REDIRECT', '--to-ports', String(OUTBOUND_PORT)]);
  }
  const user = ['setpriv', '--reuid', String(PROXY_UID), '--regid', String(PROXY_UID), '--clear-groups'];
  return { name, ipv4, ipv6, device, within, asProxy: [...within, ...user] };
}

function ip(...args: readonly string[]): void {
  run(['ip', ...args]);
}

function run([command = '', ...args]: readonly string[]): void {
  execFileSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
