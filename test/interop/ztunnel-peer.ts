/** A real ztunnel beside one workload, its apps and callers behind it; certificates come from the tests' CA. */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { CaProcess } from '../e2e/harness/ca-process.ts';
import { call } from '../e2e/harness/clients.ts';
import { Lines } from '../e2e/harness/processes.ts';
import { until, within } from '../e2e/harness/wait.ts';
import type { AppPorts } from './ztunnel-apps.ts';
import type { Ask, CallerName } from './ztunnel-callers.ts';
import type { Namespace } from './ztunnel-net.ts';

/** Where ztunnel tells that it is ready. */
export const READINESS_PORT = 15_021;

export interface ZtunnelOptions {
  readonly binary: string;
  readonly namespace: Namespace;
  readonly ca: CaProcess;
  /** Account and name of the workload it stands beside, in `shop`. */
  readonly account: string;
  /** Workloads, services and policies in YAML, as LOCAL_XDS takes them. */
  readonly config: string;
  /** More of its environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** A running ztunnel. */
export class Ztunnel {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  /** Its log, access log and errors included. */
  readonly log: Lines;

  constructor(child: ChildProcess) {
    if (child.stdout === null) throw new Error('no pipe');
    this.#child = child;
    this.log = new Lines(child.stdout);
    this.#exited = new Promise((resolve) => {
      child.once('close', () => resolve());
    });
  }

  /** Waits for a connection that its access log tells ended with this error. */
  async failed(error: RegExp, mark: number): Promise<void> {
    await this.log.next({ scope: 'access', error }, mark);
  }

  /** Lets it drain and end. */
  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await within('ztunnel to end', this.#exited);
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}

/** Starts ztunnel as its own user in the namespace and waits until it is ready; it is gone when the test is over. */
export async function startZtunnel(t: Test, options: ZtunnelOptions): Promise<Ztunnel> {
  const { binary, namespace, ca, account, config, env = {} } = options;
  await ca.flags(account);
  const [command = '', ...args] = [...namespace.asProxy, binary];
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      PATH: process.env.PATH,
      PROXY_MODE: 'dedicated',
      PROXY_WORKLOAD_INFO: `shop/${account}/${account}`,
      // It runs as another user: what it reads comes with its environment, not by files.
      LOCAL_XDS: config,
      CA_ADDRESS: `https://${ca.address}`,
      CA_ROOT_CA: readFileSync(ca.root, 'utf8'),
      AUTH_TOKEN: readFileSync(ca.tokenFile(account), 'utf8').trim(),
      XDS_ADDRESS: '',
      ISTIO_META_DNS_CAPTURE: 'false',
      // Longer than a test waits: a connection that does not leave a ztunnel that drains is seen.
      CONNECTION_TERMINATION_DEADLINE: '60s',
      LOG_FORMAT: 'json',
      RUST_LOG: 'info,ztunnel::proxy::inbound=debug',
      ...env,
    },
  });
  const ztunnel = new Ztunnel(child);
  t.teardown(() => ztunnel.kill());
  const gone = new Promise<never>((_, reject) => {
    child.once('close', (code) => reject(new Error(`ztunnel ended with ${code}:\n${ztunnel.log.text}`)));
  });
  gone.catch(() => {});
  await Promise.race([gone, until('ztunnel to be ready', () => isReady(namespace.ipv4.there))]);
  return ztunnel;
}

async function isReady(address: string): Promise<boolean> {
  const { status } = await call(READINESS_PORT, '/healthz/ready', { address });
  return status === 200;
}

export interface AppProcess {
  /** Of its apps, at the namespace's address. */
  readonly ports: AppPorts;
  readonly ask: Ask;
}

/** What ztunnel-agent.ts sends: its ports at first, then an answer to each order. */
interface Reply {
  readonly ports?: AppPorts;
  readonly id?: number;
  readonly result?: unknown;
  readonly error?: string;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Starts the apps and callers in the namespace. */
export async function startAppProcess(t: Test, namespace: Namespace): Promise<AppProcess> {
  const [command = '', ...args] = namespace.within;
  const child = fork(join(import.meta.dirname, 'ztunnel-agent.ts'), {
    execPath: command,
    execArgv: [...args, process.execPath],
  });
  t.teardown(() => child.kill('SIGKILL'));
  const waiting = new Map<number, Waiting>();
  const started = new Promise<AppPorts>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => {
      const error = new Error(`the app process ended with ${code}`);
      for (const order of [{ reject }, ...waiting.values()]) order.reject(error);
    });
    child.on('message', ({ id = 0, result, error, ports }: Reply) => {
      const order = waiting.get(id);
      waiting.delete(id);
      if (ports !== undefined) resolve(ports);
      else if (error === undefined) order?.resolve(result);
      else order?.reject(new Error(error));
    });
  });
  let orders = 0;
  const ask = (name: CallerName, ...args: readonly unknown[]): Promise<unknown> => {
    const id = ++orders;
    const answered = new Promise<unknown>((resolve, reject) => waiting.set(id, { resolve, reject }));
    child.send({ id, name, args });
    return within(`${name} in the namespace`, answered);
  };
  return { ports: await within('the apps in the namespace', started), ask: ask as Ask };
}
