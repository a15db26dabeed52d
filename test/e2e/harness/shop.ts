/** The mesh most tests run on: `web` calls `orders`, over HTTP and over TCP. */
import { freePorts } from './ports.ts';
import { egress, hostOf, ingress, service, sidecar, workload } from './resources.ts';

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

export const HOST = hostOf('orders');

/** Registry and listeners; no policy but mesh-wide STRICT unless `mode` says another. */
export function shop(ports: ShopPorts, apps: ShopApps, mode = 'STRICT'): string {
  const http = { name: 'http', protocol: 'HTTP' };
  const tcp = { name: 'tcp', protocol: 'TCP' };
  return [
    service('orders', [
      { number: ports.http, ...http },
      { number: ports.tcp, ...tcp, name: 'tcp-echo' },
    ]),
    workload('orders', { http: ports.ordersHttp, 'tcp-echo': ports.ordersTcp }),
    workload('web'),
    sidecar('web', {
      egress: [egress({ number: ports.http, ...http }, HOST), egress({ number: ports.tcp, ...tcp }, HOST)],
    }),
    sidecar('orders', {
      ingress: [
        ingress({ number: ports.ordersHttp, ...http }, apps.http),
        ingress({ number: ports.ordersTcp, ...tcp }, apps.tcp),
      ],
    }),
    peerAuthentication(mode),
  ].join('---\n');
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
