/** The mesh of the ztunnel tests: `orders` beside Oarlock in this namespace, `legacy` beside ztunnel in one of its own. */
import { join } from 'node:path';
import type { Test } from 'tap';
import { CaProcess } from '../e2e/harness/ca-process.ts';
import { Mesh, type Sidecar } from '../e2e/harness/mesh.ts';
import { freePorts } from '../e2e/harness/ports.ts';
import { egress, hostOf, ingress, type PortYaml, service, sidecar } from '../e2e/harness/resources.ts';
import { peerAuthentication, policy } from '../e2e/harness/shop.ts';
import { within } from '../e2e/harness/wait.ts';
import { type AppPorts, startApps } from './ztunnel-apps.ts';
import { type Ask, callers, type Target } from './ztunnel-callers.ts';
import { createNamespace, enterOwnNetwork, missing, type Namespace, type Wire } from './ztunnel-net.ts';
import { type AppProcess, startAppProcess, startZtunnel, type Ztunnel } from './ztunnel-peer.ts';

/** Both always dial HBONE here. */
export const HBONE_PORT = 15_008;
/** Of Istio's label that makes an endpoint's peers dial HBONE. */
const TUNNEL_LABEL = 'networking.istio.io/tunnel: http';
/** Addresses of services; nobody routes them. */
const VIPS = {
  ipv4: ['198.19.0.1', '198.19.0.2'],
  ipv6: ['fd00:198:19::1', 'fd00:198:19::2'],
} as const;
/** Nothing listens on it, on either side. */
const DOWN = 9;

export type PortName = keyof AppPorts | 'down' | 'httpDown' | 'denied';

/** What each port carries; `denied` is the one ztunnel's policy refuses. */
const PROTOCOLS: Readonly<Record<PortName, string>> = {
  http: 'HTTP',
  http2: 'HTTP2',
  digest: 'TCP',
  farewell: 'TCP',
  greet: 'TCP',
  reset: 'TCP',
  down: 'TCP',
  httpDown: 'HTTP',
  denied: 'HTTP',
};
const NAMES = Object.keys(PROTOCOLS) as PortName[];

type Numbers = Readonly<Record<PortName, number>>;

export interface World {
  readonly mesh: Mesh;
  readonly namespace: Namespace;
  /** The addresses that workloads have. */
  readonly wire: Wire;
  /** The address of `orders` as a service in ztunnel's registry, with HTTP at port 80. */
  readonly vip: Target;
  /** A service of ztunnel's registry with the sidecar as its waypoint, which it is not. */
  readonly stray: Target;
  readonly ca: CaProcess;
  /** Starts Oarlock; the one before must be gone. */
  readonly startOarlock: () => Promise<Sidecar>;
  /** The apps and callers beside ztunnel. */
  readonly theirs: AppProcess;
  /** The apps beside Oarlock, and where this process dials them. */
  readonly ours: AppPorts;
  /** Where ztunnel's callers reach the apps beside Oarlock. */
  readonly toOrders: (name: PortName) => Target;
  /** Where Oarlock's callers reach the apps beside ztunnel. */
  readonly toLegacy: (name: PortName) => Target;
  /** The same apps under a name whose account is not ztunnel's. */
  readonly toImpostor: (name: PortName) => Target;
  /** Starts ztunnel, with more of its environment where given; the one before must be gone. */
  readonly startZtunnel: (env?: Readonly<Record<string, string>>) => Promise<Ztunnel>;
}

/** Has the test's own process be the caller, or tell of its apps. */
export const here: Ask = (name, ...args) => {
  const caller = callers[name] as (...args: readonly unknown[]) => Promise<never>;
  return within(name, caller(...args));
};

/** From one side to the other. */
export interface Way {
  readonly title: string;
  /** The caller's side. */
  readonly ask: Ask;
  readonly to: (name: PortName) => Target;
  /** The app's side. */
  readonly app: Ask;
}

export const ztunnelCalls = ({ theirs, toOrders }: World): Way => ({
  title: 'ztunnel calls Oarlock',
  ask: theirs.ask,
  to: toOrders,
  app: here,
});

export const oarlockCalls = ({ theirs, toLegacy }: World): Way => ({
  title: 'Oarlock calls ztunnel',
  ask: here,
  to: toLegacy,
  app: theirs.ask,
});

/** Path of the ztunnel that OARLOCK_ZTUNNEL names; a test file ends here, and says why, where it cannot run. */
function needZtunnel(t: Test): string {
  const binary = process.env.OARLOCK_ZTUNNEL ?? '';
  const lacking = [...(binary === '' ? ['OARLOCK_ZTUNNEL, the path of a ztunnel'] : []), ...missing()];
  if (lacking.length === 0) {
    enterOwnNetwork();
    return binary;
  }
  t.plan(0, `SKIPPED: it needs ${lacking.join(', ')}`);
  process.exit(0);
}

/** Starts all but the two proxies. */
export async function createWorld(t: Test, family: 'ipv4' | 'ipv6' = 'ipv4'): Promise<World> {
  const binary = needZtunnel(t);
  const namespace = createNamespace(t);
  const wire = namespace[family];
  const { here, there } = wire;
  const [vip, stray] = VIPS[family].map((host) => ({ host, port: 80 }));
  if (vip === undefined || stray === undefined) throw new Error('no addresses');
  const side = await startApps();
  t.teardown(() => side.close());
  const theirs = await startAppProcess(t, namespace);
  const ingressPorts = await numbers();
  const legacyPorts = await numbers();
  const impostorPorts = await numbers();
  const listening: Numbers = { ...theirs.ports, down: DOWN, httpDown: DOWN + 2, denied: DOWN + 4 };
  const apps: Numbers = { ...side.ports, down: DOWN, httpDown: DOWN, denied: DOWN };
  const mesh = await Mesh.create(
    t,
    [
      peerAuthentication('STRICT'),
      service('orders', portsOf(ingressPorts)),
      workloadAt(here, 'orders', 'orders', ingressPorts),
      service('legacy', portsOf(legacyPorts)),
      workloadAt(there, 'legacy', 'legacy', listening),
      service('impostor', portsOf(impostorPorts)),
      workloadAt(there, 'impostor', 'somebody', listening),
      sidecar('orders', {
        ingress: portsOf(ingressPorts).map((port, i) => ingress(port, apps[NAMES[i] ?? 'down'])),
        egress: [
          ...portsOf(legacyPorts, 'legacy-').map((port) => egress(port, hostOf('legacy'))),
          ...portsOf(impostorPorts, 'impostor-').map((port) => egress(port, hostOf('impostor'))),
        ],
      }),
    ].join('---\n'),
  );
  mesh.write('policy.yaml', allow('legacy'));
  const ca = await CaProcess.start(t, join(mesh.dir, 'ca'), '1h', { host: namespace.ipv4.here });
  const flags = [
    ...(await ca.flags('orders')),
    ...['--bind', here, '--hbone-port', String(HBONE_PORT), '--access-log', 'stderr'],
    // An idle HTTP/2 session keeps its stream: a test that counts what is left does not wait an hour.
    ...['--session-idle-timeout', '2s'],
  ];
  const target =
    (host: string, ports: Numbers) =>
    (name: PortName): Target => ({ host, port: ports[name] });
  return {
    mesh,
    namespace,
    wire,
    vip,
    stray,
    ca,
    theirs,
    ours: side.ports,
    toOrders: target(here, ingressPorts),
    toLegacy: target('127.0.0.1', legacyPorts),
    toImpostor: target('127.0.0.1', impostorPorts),
    startOarlock: () => mesh.ready('shop/orders', ...flags),
    startZtunnel: (env = {}) =>
      startZtunnel(t, {
        binary,
        namespace,
        ca,
        account: 'legacy',
        env,
        config: ztunnelConfig({ wire, vip, stray, denied: listening.denied, vipPort: ingressPorts.http }),
      }),
  };
}

async function numbers(): Promise<Numbers> {
  const free = await freePorts(NAMES.length);
  return Object.fromEntries(NAMES.map((name, i) => [name, free[i] ?? 0])) as Numbers;
}

/** Ports of these numbers as resources name them: in lower case. */
function portsOf(ports: Numbers, prefix = ''): PortYaml[] {
  return NAMES.map((name) => ({
    number: ports[name],
    name: prefix + name.toLowerCase(),
    protocol: PROTOCOLS[name],
  }));
}

/** The policy in `policy.yaml`: only this account may call `orders`. */
export function allow(account: string): string {
  return policy('callers', `[{from: [{source: {principals: [cluster.local/ns/shop/sa/${account}]}}]}]`);
}

function workloadAt(address: string, name: string, account: string, ports: Numbers): string {
  const named = NAMES.map((port) => `${port.toLowerCase()}: ${ports[port]}`).join(', ');
  return `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: ${name}, namespace: shop}
spec:
  address: "${address}"
  labels: {app: ${name}, ${TUNNEL_LABEL}}
  serviceAccount: ${account}
  ports: {${named}}
`;
}

/** What ztunnel would be told of the same mesh. */
function ztunnelConfig(about: {
  readonly wire: Wire;
  readonly vip: Target;
  readonly stray: Target;
  readonly vipPort: number;
  /** The port that its policy refuses. */
  readonly denied: number;
}): string {
  const { wire, vip, stray, vipPort, denied } = about;
  const { here, there } = wire;
  const ports = `{${vip.port}: ${vipPort}}`;
  return `workloads:
${ztunnelWorkload('legacy', there, '{}')}
${ztunnelWorkload('orders', here, `{shop/${hostOf('orders')}: ${ports}}`)}
services:
${ztunnelService('orders', vip, ports)}
${ztunnelService('stray', stray, `{${stray.port}: ${stray.port}}`)}
  waypoint: {destination: "/${here}", hboneMtlsPort: ${HBONE_PORT}}
policies:
- name: closed
  namespace: shop
  scope: Namespace
  action: Deny
  dryRun: false
  rules: [[[{destinationPorts: [${denied}]}]]]
`;
}

function ztunnelService(name: string, { host }: Target, ports: string): string {
  return `- name: ${name}
  namespace: shop
  hostname: ${hostOf(name)}
  vips: ["/${host}"]
  ports: ${ports}`;
}

function ztunnelWorkload(name: string, address: string, services: string): string {
  return `- uid: test//v1/Pod/shop/${name}
  name: ${name}
  namespace: shop
  trustDomain: cluster.local
  serviceAccount: ${name}
  workloadIps: ["${address}"]
  workloadName: ${name}
  workloadType: pod
  canonicalName: ${name}
  canonicalRevision: latest
  clusterId: Kubernetes
  protocol: HBONE
  services: ${services}`;
}
