/** The mesh most tests run on: `web` calls `orders`, over HTTP and over TCP. */
import { freePorts } from './ports.ts';

export interface ShopPorts {
  /** Where `web`'s app dials: egress listeners of its sidecar. */
  readonly http: number;
  readonly tcp: number;
  /** Where `orders`'s sidecar listens: ingress entries. */
  readonly ordersHttp: number;
  readonly ordersTcp: number;
}

export async function shopPorts(): Promise<ShopPorts> {
  const [http = 0, tcp = 0, ordersHttp = 0, ordersTcp = 0] = await freePorts(4);
  return { http, tcp, ordersHttp, ordersTcp };
}

export interface ShopApps {
  readonly http: number;
  readonly tcp: number;
}

export const HOST = 'orders.shop.svc.cluster.local';

/** Registry and listeners; no policy but mesh-wide STRICT unless `mode` says another. */
export function shop(ports: ShopPorts, apps: ShopApps, mode = 'STRICT'): string {
  return `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: shop}
spec:
  hosts: [${HOST}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: ${ports.http}, name: http, protocol: HTTP}
  - {number: ${ports.tcp}, name: tcp-echo, protocol: TCP}
  workloadSelector: {labels: {app: orders}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders, namespace: shop}
spec:
  address: 127.0.0.1
  labels: {app: orders}
  serviceAccount: orders
  ports: {http: ${ports.ordersHttp}, tcp-echo: ${ports.ordersTcp}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: 127.0.0.1, labels: {app: web}, serviceAccount: web}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {labels: {app: web}}
  egress:
  - {port: {number: ${ports.http}, name: http, protocol: HTTP}, captureMode: NONE, hosts: [./${HOST}]}
  - {port: {number: ${ports.tcp}, name: tcp, protocol: TCP}, captureMode: NONE, hosts: [./${HOST}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: orders, namespace: shop}
spec:
  workloadSelector: {labels: {app: orders}}
  ingress:
  - port: {number: ${ports.ordersHttp}, name: http, protocol: HTTP}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:${apps.http}
  - port: {number: ${ports.ordersTcp}, name: tcp, protocol: TCP}
    bind: 127.0.0.1
    defaultEndpoint: 127.0.0.1:${apps.tcp}
---
${peerAuthentication(mode)}`;
}

/** Mesh-wide mode. */
export function peerAuthentication(mode: string): string {
  return `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: ${mode}}}
`;
}

/** An AuthorizationPolicy in `shop` that selects `orders`; `rules` and `action` in flow style. */
export function policy(name: string, rules: string, action = 'ALLOW'): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: ${action}
  rules: ${rules}
`;
}
