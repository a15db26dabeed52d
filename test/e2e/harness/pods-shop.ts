/** The mesh of the tests in pods: `web` calls `orders`, both beside sidecars; `legacy` has none. */
import type { Test } from 'tap';
import { BRIDGE, needPods, type Pod, PodNetwork } from './pods.ts';
import { nginx, pythonApps, redis } from './pods-apps.ts';
import { stageImage } from './pods-image.ts';
import { PodMesh } from './pods-mesh.ts';
import { modeYaml, podYaml, type ServicePort, serviceYaml, VIPS } from './pods-resources.ts';

/** Where the apps of `orders` listen. */
export const APP = {
  http: 8080,
  /** PERMISSIVE. */
  open: 8081,
  /** DISABLE. */
  plain: 8082,
  /** nginx, on the pod's own addresses alone. */
  nginx: 8083,
  /** Nobody declared it. */
  stray: 8084,
  smtp: 2525,
  /** Speaks first, and nobody declared it; PERMISSIVE. */
  straySmtp: 2526,
  redis: 6379,
  echo: 7000,
  /** The same, for much. */
  bulk: 7001,
} as const;

/** Ports of the service `orders`. */
const SERVED: readonly ServicePort[] = [
  { name: 'http', port: 80, targetPort: APP.http },
  { name: 'http-open', port: 81, targetPort: APP.open },
  { name: 'http-plain', port: 82, targetPort: APP.plain },
  { name: 'http-nginx', port: 83, targetPort: APP.nginx },
  { name: 'smtp', port: 25, targetPort: APP.smtp },
  { name: 'tcp-redis', port: 6379, targetPort: APP.redis },
  { name: 'tcp-echo', port: 7000, targetPort: APP.echo },
  { name: 'tcp-bulk', port: 7001, targetPort: APP.bulk },
];

/** Label of the pods of a headless service, which find each other by address, as those of a StatefulSet do. */
export const GOSSIP = { set: 'gossip' } as const;

/** Where injected sidecars look for their CA. */
export const CA_NAME = 'oarlock-ca.oarlock-system.svc';

/** Last part of the services' addresses. */
export const VIP = { orders: 1, web: 2, legacy: 3 } as const;

export interface Shop {
  readonly network: PodNetwork;
  readonly mesh: PodMesh;
  readonly web: Pod;
  readonly orders: Pod;
  readonly legacy: Pod;
}

/** Namespaces, image, apps and resources; neither rules nor sidecars. @param more further resources, of these pods */
export async function shopOfPods(
  t: Test,
  more: (network: PodNetwork) => readonly string[] = () => [],
): Promise<Shop> {
  needPods(t);
  const network = PodNetwork.create(t, ['web', 'orders', 'legacy']);
  const [web, orders, legacy] = [network.pod('web'), network.pod('orders'), network.pod('legacy')];
  const names = { orders: VIP.orders, web: VIP.web, legacy: VIP.legacy };
  for (const pod of [web, orders, legacy]) {
    // As a kubelet writes it; only the server is not behind a VIP.
    pod.etc(
      'resolv.conf',
      `search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver ${BRIDGE.ipv4}\noptions ndots:5\n`,
    );
  }
  const { http, open, plain, stray, smtp, straySmtp, echo, bulk } = APP;
  const image = stageImage(t);
  await Promise.all([
    pythonApps(t, orders, [
      ...[http, open, plain, stray].map((port) => `http:${port}`),
      ...[smtp, straySmtp].map((port) => `smtp:${port}`),
      ...[echo, bulk].map((port) => `echo:${port}`),
    ]),
    pythonApps(t, web, [`http:${http}`]),
    pythonApps(t, legacy, [`http:${http}`]),
    nginx(
      t,
      orders,
      `${orders.hosts.map((host) => `listen ${host}:${APP.nginx};`).join(' ')} location / { return 200 "nginx for $remote_addr: $request_uri"; }`,
    ),
    redis(t, orders, APP.redis),
    pythonApps(t, network.bridge, [
      // Each address a socket of its own: UDP's answers come from where the question went.
      `dns:53@${BRIDGE.ipv4}`,
      `dns:53@${BRIDGE.ipv6}`,
      `${CA_NAME}.cluster.local=${BRIDGE.ipv4}`,
      ...Object.entries(names).flatMap(([name, vip]) =>
        [`${VIPS.ipv4}${vip}`, `${VIPS.ipv6}${vip}`].map(
          (address) => `${name}.shop.svc.cluster.local=${address}`,
        ),
      ),
    ]),
  ]);
  const resources = [
    serviceYaml('orders', VIP.orders, SERVED),
    serviceYaml('web', VIP.web, [{ name: 'http', port: 80, targetPort: http }]),
    serviceYaml('legacy', VIP.legacy, [{ name: 'http', port: 80, targetPort: http }]),
    serviceYaml('gossip', null, [{ name: 'http', port: http, targetPort: http }], GOSSIP),
    modeYaml('STRICT'),
    modeYaml('STRICT', 'orders', { [open]: 'PERMISSIVE', [plain]: 'DISABLE', [straySmtp]: 'PERMISSIVE' }),
    ...more(network),
  ];
  const mesh = new PodMesh(t, image, network, resources.join('---\n'));
  const shop = { network, mesh, web, orders, legacy };
  mesh.write('pods.yaml', podsOf(shop));
  return shop;
}

/** The file `pods.yaml`. @param labels more of those of `orders` */
export function podsOf({ web, orders, legacy }: Shop, labels: Readonly<Record<string, string>> = {}): string {
  return [
    podYaml(web, { labels: GOSSIP }),
    podYaml(orders, { labels: { ...GOSSIP, ...labels }, ports: { http: APP.http } }),
    podYaml(legacy, { inMesh: false }),
  ].join('---\n');
}
