/** Two replicas are replaced one after the other under load, then their caller: sidecar and app each time, and no request fails. */
import { Agent, createServer } from 'node:http';
import { status } from '@grpc/grpc-js';
import t from 'tap';
import { listen } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { grpcApp, grpcClient, unary } from './harness/grpc-app.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { start } from './harness/processes.ts';
import { egress, hostOf, ingress, service, sidecar, workload } from './harness/resources.ts';
import { peerAuthentication } from './harness/shop.ts';
import { pause, until } from './harness/wait.ts';

t.setTimeout(180_000);

/** How long an app serves on, and calls on, after SIGTERM (ms): one that closed its port at once would lose calls by itself. */
const APP_GOES_ON = 2_500;
/** How soon after SIGTERM callers learn that an endpoint has gone (ms). */
const NEWS_COMES = 800;
const HTTP = { name: 'http', protocol: 'HTTP' };
const GRPC = { name: 'grpc', protocol: 'GRPC' };

interface PortPair {
  readonly http: number;
  readonly grpc: number;
}

/** A replica as the resources have it. */
interface Replica {
  readonly ports: PortPair;
  readonly apps: PortPair;
  /** It is an endpoint of the service. */
  serving: boolean;
}

const [http = 0, grpc = 0, httpNext = 0, grpcNext = 0] = await freePorts(4);
const callers = new Map<string, PortPair>([
  ['web', { http, grpc }],
  // The pod that takes its place. On one machine it has to dial other ports.
  ['web-next', { http: httpNext, grpc: grpcNext }],
]);
const replicas = new Map<string, Replica>();

function resources(): string {
  const ports = [...callers].flatMap(([name, { http, grpc }]) => [
    { ...HTTP, number: http, name: `http-${name}` },
    { ...GRPC, number: grpc, name: `grpc-${name}` },
  ]);
  const endpoints = '{app: orders, serving: "yes"}';
  const all = [service('orders', ports).replace('{app: orders}', endpoints), peerAuthentication('STRICT')];
  for (const [name, { ports, apps, serving }] of replicas) {
    const labels = `app: orders, replica: ${name}${serving ? ', serving: "yes"' : ''}`;
    const named = [...callers.keys()].flatMap((caller) => [
      [`http-${caller}`, ports.http],
      [`grpc-${caller}`, ports.grpc],
    ]);
    const ingresses = [
      ingress({ ...HTTP, number: ports.http }, apps.http),
      ingress({ ...GRPC, number: ports.grpc }, apps.grpc),
    ];
    all.push(
      workload(name, Object.fromEntries(named))
        .replace(`app: ${name}`, labels)
        .replace(`serviceAccount: ${name}`, 'serviceAccount: orders'),
      sidecar(name, { ingress: ingresses }).replace(`app: ${name}`, `replica: ${name}`),
    );
  }
  for (const [name, { http, grpc }] of callers) {
    const egresses = [
      egress({ ...HTTP, number: http }, hostOf('orders')),
      egress({ ...GRPC, number: grpc }, hostOf('orders')),
    ];
    all.push(workload(name), sidecar(name, { egress: egresses }));
  }
  return all.join('---\n');
}

const mesh = await Mesh.create(t, resources());
const tell = (): void => mesh.write('mesh.yaml', resources());

interface Pod {
  readonly sidecar: Sidecar;
  stopApp(): Promise<void>;
}

/** A new replica, ready, and an endpoint of the service. */
async function startReplica(name: string, ...flags: string[]): Promise<Pod> {
  const web = createServer((request, response) => {
    request.resume();
    request.on('end', () => setTimeout(() => response.end('done'), 10));
  });
  const { port } = await listen(t, web);
  const rpc = await grpcApp(t);
  const [http = 0, grpc = 0] = await freePorts(2);
  const replica = { ports: { http, grpc }, apps: { http: port, grpc: rpc.port }, serving: false };
  replicas.set(name, replica);
  tell();
  const { dir } = await mesh.certDir('orders');
  const running = start(t, mesh.flags(`shop/${name}`, '--cert-dir', dir, '--access-log', 'off', ...flags));
  const sidecar = await ready(running, dir);
  replica.serving = true;
  tell();
  return {
    sidecar,
    stopApp: async () => {
      await pause(APP_GOES_ON);
      web.close();
      await new Promise((resolve) => rpc.server.tryShutdown(resolve));
    },
  };
}

/** As the kubelet and the endpoint controllers do it: the signal to all at once, the news of it later. */
async function replace(name: string, pod: Pod): Promise<void> {
  const appStopped = pod.stopApp();
  pod.sidecar.process.signal('SIGTERM');
  await pause(NEWS_COMES);
  const replica = replicas.get(name);
  if (replica !== undefined) replica.serving = false;
  tell();
  const exit = await pod.sidecar.process.end();
  t.same(exit, { code: 0, signal: null }, `${name} left in order`);
  await appStopped;
  replicas.delete(name);
  tell();
}

/** The calls of an app, of all kinds, until it is told to stop; every failure is kept. */
class Load {
  readonly served = { kept: 0, fresh: 0, grpc: 0 };
  readonly failures: string[] = [];
  #stopping = false;
  readonly #over: Promise<unknown>;

  constructor(caller: string) {
    const { http, grpc } = callers.get(caller) ?? { http: 0, grpc: 0 };
    const kept = new Agent({ keepAlive: true, maxSockets: 1 });
    const fresh = new Agent({ keepAlive: false });
    const client = grpcClient(t, grpc, hostOf('orders'));
    // What may not be sent twice, and so not hide a lost race behind a second try.
    const post = async (agent: Agent): Promise<string> => {
      const { status, body } = await call(http, '/', { method: 'POST', body: 'x', agent });
      return status === 200 ? '' : `${status} ${body}`;
    };
    const rpc = async (): Promise<string> => {
      const { code, details } = await unary(client, 'x');
      return code === status.OK ? '' : `grpc ${code} ${details}`;
    };
    this.#over = Promise.all([
      ...[kept, new Agent({ keepAlive: true, maxSockets: 1 })].map((agent) =>
        this.#loop('kept', () => post(agent)),
      ),
      this.#loop('fresh', () => post(fresh)),
      this.#loop('grpc', rpc),
      this.#loop('grpc', rpc),
    ]);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#over;
  }

  /** Waits until more of each kind has been served. */
  async goesOn(): Promise<void> {
    const before = { ...this.served };
    await until(`all kinds to go on (failures: ${this.failures})`, () =>
      Object.entries(this.served).every(([kind, count]) => count > before[kind as keyof typeof before] + 5),
    );
  }

  async #loop(kind: 'kept' | 'fresh' | 'grpc', once: () => Promise<string>): Promise<void> {
    while (!this.#stopping) {
      const failure = await once().catch((error: Error) => error.message);
      if (failure === '') this.served[kind]++;
      else this.failures.push(`${kind}: ${failure} at ${new Date().toISOString()}`);
      await pause(10);
    }
  }
}

/** It serves on until callers have the news. */
const a = await startReplica('orders-a', '--drain-delay', '1200ms');
/** It does not: callers meet a closed port, and go elsewhere. */
const b = await startReplica('orders-b', '--concurrency', '2');
const web = await mesh.sidecar('web', '--access-log', 'off');
const load = new Load('web');
await load.goesOn();

t.test('a replica that serves on for a while is replaced', async (t) => {
  await startReplica('orders-c');
  await load.goesOn();
  await replace('orders-a', a);
  await load.goesOn();
  t.same(load.failures, []);
});

t.test('a replica that closes its door at once is replaced', async (t) => {
  await startReplica('orders-d');
  await load.goesOn();
  await replace('orders-b', b);
  await load.goesOn();
  t.same(load.failures, []);
});

t.test('their caller is replaced: its app calls on until it ends, over its own sidecar', async (t) => {
  await mesh.sidecar('web-next', '--access-log', 'off');
  const next = new Load('web-next');
  await next.goesOn();
  const { mark } = web;
  web.process.signal('SIGTERM');
  await web.logged({ msg: /^drain begins/ }, mark);
  await pause(APP_GOES_ON);
  await load.goesOn();
  await load.stop();
  t.same(await web.process.end(), { code: 0, signal: null });
  t.same(load.failures, []);
  await next.goesOn();
  await next.stop();
  t.same(next.failures, []);
});
