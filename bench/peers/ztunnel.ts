/** ztunnel as a peer: HBONE of Istio's ambient mesh, one worker a side, each side in a network namespace, as its ports are fixed. */
import { closeSync, mkdirSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Child, nodeScript } from '../children.ts';
import { isExecutable } from './find-program.ts';
import {
  CALLEE_ADDRESS,
  type CallerNamespace,
  inNamespace,
  missingNamespaces,
  Namespaces,
} from './namespaces.ts';
import { type Address, CALLER_URI, type Pair, type Peer, SERVICE, type Wanted } from './peer.ts';
import { SERVED_MS, serves, until } from './until.ts';

/** Not to be changed: they are constants of ztunnel's. */
const OUTBOUND = 15_001;
const HBONE = 15_008;
/** A caller that must not be served; this long it may try. */
const REFUSED_MS = 1_500;

export const ztunnel: Peer = {
  name: 'ztunnel',
  judges: true,
  groups: [],
  carriesBytes: true,
  note: 'no proxy of HTTP: ALLOW by principal and SPIFFE URIs, judged once a connection of the app; its metrics, a JSON line a connection; one worker; over links of network namespaces',
  missing: () => {
    const { OARLOCK_ZTUNNEL: told } = process.env;
    if (told === undefined)
      return 'no ztunnel (OARLOCK_ZTUNNEL=/path/to/ztunnel; bench/peers.md says how to build it)';
    return isExecutable(told) ? missingNamespaces() : `OARLOCK_ZTUNNEL=${told} is no program`;
  },
  startPair,
};

interface Process {
  readonly child: Child;
  readonly dir: string;
}

class ZtunnelPair implements Pair {
  readonly egress = OUTBOUND;
  readonly ingress = HBONE;
  readonly tunnelled = null;
  readonly #start: Start;
  readonly #app: Child;
  readonly #callee: Process;
  readonly #caller: Process;

  constructor(start: Start, app: Child, callee: Process, caller: Process) {
    this.#start = start;
    this.#app = app;
    this.#callee = callee;
    this.#caller = caller;
  }

  get host(): string {
    return this.#start.caller.address;
  }

  get app(): Address {
    return { host: this.host, port: OUTBOUND };
  }

  get callerPid(): number {
    return this.#caller.child.pid;
  }

  get calleePid(): number {
    return this.#callee.child.pid;
  }

  get pids(): readonly number[] {
    return [this.callerPid, this.calleePid];
  }

  async timedStart(): Promise<number> {
    const began = performance.now();
    const { child } = await this.#start.startCaller(this.#start.spare, {});
    const ms = performance.now() - began;
    await child.stop();
    return ms;
  }

  /** Its CA is its own, so that nobody else can call: what is proved is that it refuses a caller, and a callee, of another identity. */
  async verify(): Promise<void> {
    for (const identities of [{ caller: 'stranger' }, { callee: 'stranger' }]) {
      const served = await this.#start
        .startCaller(this.#start.spare, identities, REFUSED_MS)
        .catch(() => null);
      if (served === null) continue;
      await served.child.stop();
      throw new Error(`ztunnel: served with another identity: ${JSON.stringify(identities)}`);
    }
  }

  emptyLogs(): void {
    for (const { dir } of [this.#callee, this.#caller]) truncateSync(join(dir, 'output.log'));
  }

  async stop(): Promise<void> {
    await Promise.all([this.#app, this.#callee.child, this.#caller.child].map((child) => child.stop()));
    this.#start.namespaces.remove();
  }
}

async function startPair(wanted: Wanted): Promise<Pair> {
  const start = new Start(wanted);
  const started: Child[] = [];
  try {
    const app = new Child(
      inNamespace(start.namespaces.callee, nodeScript('bench/app.ts', [CALLEE_ADDRESS])),
      'line',
    );
    started.push(app);
    const { ports } = (await app.firstLine(SERVED_MS)) as { readonly ports: { readonly http1: number } };
    start.appPort = ports.http1;
    const callee = start.startCallee();
    started.push(callee.child);
    const caller = await start.startCaller(start.caller, {});
    return new ZtunnelPair(start, app, callee, caller);
  } catch (error) {
    await Promise.all(started.map((child) => child.stop()));
    start.namespaces.remove();
    throw error;
  }
}

interface Identities {
  /** Service account that the caller's side runs with. */
  readonly caller?: string;
  /** Service account that it takes the callee to have. */
  readonly callee?: string;
}

/** What is needed to start one side more. */
class Start {
  readonly #wanted: Wanted;
  #sides = 0;
  readonly namespaces = new Namespaces();
  appPort = 0;

  constructor(wanted: Wanted) {
    this.#wanted = wanted;
  }

  get caller(): CallerNamespace {
    return this.#callerNamespace(0);
  }

  /** For one more, beside the one that is measured. */
  get spare(): CallerNamespace {
    return this.#callerNamespace(1);
  }

  #callerNamespace(index: number): CallerNamespace {
    const found = this.namespaces.callers[index];
    if (found === undefined) throw new Error(`no namespace ${index}`);
    return found;
  }

  startCallee(): Process {
    return this.#startSide(this.namespaces.callee, 'orders', {});
  }

  /** @returns when a request was answered through it; @throws where none is in time */
  async startCaller(
    { name, address }: CallerNamespace,
    identities: Identities,
    withinMs = SERVED_MS,
  ): Promise<Process> {
    const side = this.#startSide(name, 'web', identities);
    const why = await until(side.child, withinMs, () => serves(OUTBOUND, address));
    if (why === null) return side;
    await side.child.stop();
    throw new Error(`ztunnel, caller: ${why}`);
  }

  #startSide(namespace: string, workload: 'web' | 'orders', identities: Identities): Process {
    const dir = join(this.#wanted.dir, `${workload}-${this.#sides++}`);
    mkdirSync(dir, { recursive: true });
    const file = join(dir, 'mesh.yaml');
    writeFileSync(file, meshOf(this, identities));
    const account = workload === 'orders' ? 'orders' : (identities.caller ?? 'web');
    const env = {
      FAKE_CA: 'true',
      XDS_ADDRESS: '',
      LOCAL_XDS_PATH: file,
      PROXY_MODE: 'dedicated',
      PROXY_WORKLOAD_INFO: `bench/${workload}/${account}`,
      ISTIO_META_DNS_CAPTURE: 'false',
      // Else the app would be dialled from the caller's address, which has no way back but through the callee's side.
      ENABLE_ORIG_SRC: 'false',
      ZTUNNEL_WORKER_THREADS: '1',
      LOG_FORMAT: 'json',
      // It warns of each connection that was not redirected to it, as none is here.
      RUST_LOG: `${this.#wanted.accessLog ? 'info' : 'warn'},ztunnel::socket=error`,
    };
    const output = openSync(join(dir, 'output.log'), 'a');
    const program = process.env.OARLOCK_ZTUNNEL ?? 'ztunnel';
    const child = new Child(inNamespace(namespace, { program, args: ['proxy'], env }), output);
    closeSync(output);
    return { child, dir };
  }
}

/** The callers' own address and outbound port stand for the service, so that nothing need be redirected. */
function meshOf({ namespaces, appPort }: Start, { caller = 'web', callee = 'orders' }: Identities): string {
  return `
workloads:
- {uid: bench/web, name: web, namespace: bench, trustDomain: cluster.local, serviceAccount: ${caller}, workloadIps: [198.18.7.200], protocol: HBONE, network: "", services: {}}
- {uid: bench/orders, name: orders, namespace: bench, trustDomain: cluster.local, serviceAccount: ${callee}, workloadIps: [${CALLEE_ADDRESS}], protocol: HBONE, network: "", services: {bench/${SERVICE}: {${OUTBOUND}: ${appPort}}}}
services:
- name: orders
  namespace: bench
  hostname: ${SERVICE}
  vips: [${namespaces.callers.map(({ address }) => `/${address}`).join(', ')}]
  ports: {${OUTBOUND}: ${appPort}}
policies:
- name: web-only
  namespace: bench
  scope: Namespace
  action: Allow
  rules: [[[{principals: [!Exact ${CALLER_URI.replace('spiffe://', '')}]}]]]
  dryRun: false
`;
}
