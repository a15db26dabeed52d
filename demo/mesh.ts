/** The demo's mesh: CA, apps, sidecars and the client outside, started in order on a copy of the YAML. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Ports, withPorts } from './ports.ts';
import type { Child, Supervisor } from './supervisor.ts';

export const NAMESPACE = 'shop';
/** The workloads that have a sidecar, in the order of a request's way. */
export const workloads = ['web', 'orders', 'payments'] as const;
export type WorkloadName = (typeof workloads)[number];

/** What people and programs are told of a running sidecar. */
export interface SidecarView {
  readonly pid: number;
  readonly identity: string;
  /** As its ready line has them. */
  readonly ports: Readonly<Record<string, number>>;
  /** URLs. */
  readonly admin: string;
  readonly metrics: string;
  /** Files. */
  readonly log: string;
  readonly accessLog: string;
}

export interface ServiceView {
  readonly pid: number;
  /** Where it listens, `host:port`; null for a client. */
  readonly address: string | null;
  readonly log: string;
}

export interface Mesh {
  /** The demo's own folder. */
  readonly dir: string;
  /** The folder of the copied YAML. */
  readonly config: string;
  readonly ports: Ports;
  readonly services: Readonly<Record<WorkloadName | 'ca' | 'legacy', ServiceView>>;
  readonly sidecars: Readonly<Record<WorkloadName, SidecarView>>;
  /** Issues the sidecars' tokens anew. @throws ChildError */
  renewTokens(): Promise<void>;
}

export interface MeshOptions {
  readonly supervisor: Supervisor;
  /** The demo's own folder, empty. */
  readonly dir: string;
  readonly ports: Ports;
}

/** Beside this file's folder in the source, in the package and next to its bundle. */
const RESOURCES = new URL('../demo/resources/', import.meta.url);
const TOKEN_TTL = '12h';
/** Sidecars with nothing to finish end at once; nothing in the demo takes longer. */
const DRAIN = '2s';

/** Starts everything; resolves when the client outside was answered through all of it. */
export async function startMesh({ supervisor, dir, ports }: MeshOptions): Promise<Mesh> {
  const config = join(dir, 'config');
  const logs = join(dir, 'logs');
  const ca = join(dir, 'ca');
  const log = (name: string) => join(logs, `${name}.log`);
  const accessLog = (name: WorkloadName) => log(`${name}-sidecar-access`);
  const token = (name: WorkloadName) => join(dir, 'tokens', name);
  // As services.yaml has it: tunnels lead to payments alone.
  const hbonePort = (name: WorkloadName) => (name === 'payments' ? String(ports.paymentsHbone) : 'off');
  await Promise.all(
    [logs, ca, join(dir, 'tokens')].map((path) => mkdir(path, { recursive: true, mode: 0o700 })),
  );
  await copyResources(config, ports);

  const renewTokens = async () => {
    await Promise.all(
      workloads.map((name) =>
        supervisor.run({
          name: `the token of ${name}`,
          args: [
            'ca',
            'token',
            '--dir',
            ca,
            '--namespace',
            NAMESPACE,
            '--service-account',
            name,
            '--ttl',
            TOKEN_TTL,
            '--out',
            token(name),
          ],
          log: log('tokens'),
        }),
      ),
    );
  };
  const startApp = (name: WorkloadName, port: number, next: string[]) =>
    supervisor.start({
      name: `the app ${name}`,
      args: ['demo', 'app', name, String(port), ...next],
      log: log(name),
    });
  const startSidecar = (name: WorkloadName, caAddress: string) =>
    supervisor.start({
      name: `the sidecar of ${name}`,
      args: [
        ...[
          'run',
          '--config',
          config,
          '--workload',
          `${NAMESPACE}/${name}`,
          '--intercept',
          'none',
          '--bind',
          '127.0.0.1',
        ],
        ...['--ca-address', caAddress, '--ca-root', join(ca, 'root-cert.pem'), '--token', token(name)],
        // The metrics port answers /healthz/ready too.
        ...['--admin-port', '0', '--metrics-port', '0', '--health-port', 'off'],
        ...['--hbone-port', hbonePort(name), '--drain', DRAIN, '--access-log', accessLog(name)],
      ],
      log: log(`${name}-sidecar`),
    });

  const authority = supervisor.start({
    name: 'the CA',
    args: ['ca', 'serve', '--dir', ca, '--listen', '127.0.0.1:0'],
    log: log('ca'),
  });
  const tokens = renewTokens();
  const apps = {
    web: startApp('web', ports.webApp, ['--next', 'orders', String(ports.webToOrders), '/orders/7']),
    orders: startApp('orders', ports.ordersApp, [
      '--next',
      'payments',
      String(ports.ordersToPayments),
      '/payments/7',
    ]),
    payments: startApp('payments', ports.paymentsApp, []),
  };
  const [{ address: caAddress }] = await Promise.all([authority.ready, tokens]);

  supervisor.nextGroup();
  const sidecars = workloads.map((name) => startSidecar(name, String(caAddress)));
  const views = await Promise.all(
    sidecars.map((child, i) => sidecarView(child, accessLog(workloads[i] as WorkloadName))),
  );
  await Promise.all(Object.values(apps).map(({ ready }) => ready));

  supervisor.nextGroup();
  const legacy = supervisor.start({
    name: 'the client legacy',
    args: ['demo', 'legacy', String(ports.webFront)],
    log: log('legacy'),
  });
  await legacy.ready;

  const service = ({ pid, log: file }: Child, address: string | null): ServiceView => ({
    pid,
    address,
    log: file,
  });
  return {
    dir,
    config,
    ports,
    services: {
      ca: service(authority, String(caAddress)),
      web: service(apps.web, `127.0.0.1:${ports.webApp}`),
      orders: service(apps.orders, `127.0.0.1:${ports.ordersApp}`),
      payments: service(apps.payments, `127.0.0.1:${ports.paymentsApp}`),
      legacy: service(legacy, null),
    },
    sidecars: Object.fromEntries(workloads.map((name, i) => [name, views[i]])) as Mesh['sidecars'],
    renewTokens,
  };
}

/** The YAML as it was written, with the chosen ports in it. */
async function copyResources(config: string, ports: Ports): Promise<void> {
  await mkdir(config);
  for (const file of await readdir(RESOURCES)) {
    const text = await readFile(new URL(file, RESOURCES), 'utf8');
    await writeFile(join(config, file), withPorts(text, ports));
  }
}

async function sidecarView(child: Child, accessLog: string): Promise<SidecarView> {
  const { identity, ports } = await child.ready;
  const open = ports as Readonly<Record<string, number>>;
  return {
    pid: child.pid,
    identity: String(identity),
    ports: open,
    admin: `http://127.0.0.1:${open.admin}`,
    metrics: `http://127.0.0.1:${open.metrics}/metrics`,
    log: child.log,
    accessLog,
  };
}
