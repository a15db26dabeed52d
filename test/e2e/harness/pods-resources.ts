/** Kubernetes' objects of a mesh of pods, as the API server has them. */
import type { Pod } from './pods.ts';

/** Addresses of services, that no interface has. */
export const VIPS = { ipv4: '10.96.0.', ipv6: 'fd00:96::' } as const;

export interface PodYaml {
  /** Besides `app: NAME` and, in the mesh, Istio's own. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Absent: its name. */
  readonly account?: string;
  /** False: it has no sidecar. */
  readonly inMesh?: boolean;
  /** Name and number. */
  readonly ports?: Readonly<Record<string, number>>;
}

/** A running pod of the namespace `shop`. */
export function podYaml(
  pod: Pod,
  { labels = {}, account = pod.name, inMesh = true, ports = {} }: PodYaml = {},
): string {
  const all = { app: pod.name, ...(inMesh ? { 'security.istio.io/tlsMode': 'istio' } : {}), ...labels };
  const containerPorts = Object.entries(ports).map(([name, containerPort]) => ({ name, containerPort }));
  return document('v1', 'Pod', pod.name, {
    labels: all,
    spec: {
      serviceAccountName: account,
      containers: [{ name: 'app', image: 'app', ports: containerPorts }],
    },
    status: {
      phase: 'Running',
      podIP: pod.ipv4,
      podIPs: [{ ip: pod.ipv4 }, { ip: pod.ipv6 }],
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  });
}

export interface ServicePort {
  readonly name: string;
  readonly port: number;
  readonly targetPort: number;
}

/** A service of both families. @param vip last part of its addresses; null: headless */
export function serviceYaml(
  name: string,
  vip: number | null,
  ports: readonly ServicePort[],
  selector: Readonly<Record<string, string>> = { app: name },
): string {
  const clusterIPs = vip === null ? ['None'] : [`${VIPS.ipv4}${vip}`, `${VIPS.ipv6}${vip}`];
  return document('v1', 'Service', name, {
    spec: {
      selector,
      clusterIP: clusterIPs[0],
      clusterIPs,
      ipFamilies: ['IPv4', 'IPv6'],
      ipFamilyPolicy: 'RequireDualStack',
      ports,
    },
  });
}

/** Any resource of `shop`, or of another namespace; JSON is YAML too. */
export function document(
  apiVersion: string,
  kind: string,
  name: string,
  { labels, annotations, ...rest }: Readonly<Record<string, unknown>>,
  namespace = 'shop',
): string {
  return `${JSON.stringify({ apiVersion, kind, metadata: { name, namespace, labels, annotations }, ...rest })}\n`;
}

/** PeerAuthentication of all, or of one app with its ports. */
export function modeYaml(mode: string, app?: string, ports: Readonly<Record<number, string>> = {}): string {
  const spec = {
    mtls: { mode },
    ...(app === undefined ? {} : { selector: { matchLabels: { app } } }),
    ...(Object.keys(ports).length === 0
      ? {}
      : {
          portLevelMtls: Object.fromEntries(Object.entries(ports).map(([port, of]) => [port, { mode: of }])),
        }),
  };
  const [name, namespace] = app === undefined ? ['default', 'istio-system'] : [app, 'shop'];
  return document('security.istio.io/v1', 'PeerAuthentication', name, { spec }, namespace);
}
