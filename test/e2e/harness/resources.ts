/** Istio's resources of the test meshes, in YAML: each a document, to be joined by `---` lines. */

import { hbonePorts, overHbone } from './hbone.ts';

/** A port as services and Sidecars name it. */
export interface PortYaml {
  readonly number: number;
  readonly name: string;
  /** Absent: nobody declares it. */
  readonly protocol?: string;
}

export const hostOf = (name: string): string => `${name}.shop.svc.cluster.local`;

/**
 * The ServiceEntry of a service in the mesh, with fixed endpoints.
 * @param endpoints in flow style; absent: the workloads labelled `app: NAME`
 */
export function service(
  name: string,
  ports: readonly PortYaml[],
  endpoints: string | null = null,
  app = name,
): string {
  return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ${name}, namespace: shop}
spec:
  hosts: [${hostOf(name)}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
${ports.map((port) => `  - ${portYaml(port)}\n`).join('')}\
  ${endpoints === null ? `workloadSelector: {labels: {app: ${app}}}` : `endpoints: ${endpoints}`}
`;
}

/** A workload on this machine: label `app` and account are its name. */
export function workload(name: string, ports: Readonly<Record<string, number>> = {}): string {
  const named = Object.entries(ports).map(([port, number]) => `${port}: ${number}`);
  if (overHbone) named.push(`hbone: ${hbonePorts().of(name)}`);
  const labels = `app: ${name}${overHbone ? ', networking.istio.io/tunnel: http' : ''}`;
  return `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: ${name}, namespace: shop}
spec:
  address: 127.0.0.1
  labels: {${labels}}
  serviceAccount: ${name}
  ports: {${named.join(', ')}}
`;
}

/** The Sidecar of the workload of that name, with listeners by `ingress` and `egress`. */
export function sidecar(
  name: string,
  listeners: { readonly ingress?: readonly string[]; readonly egress?: readonly string[] },
): string {
  const { ingress, egress } = listeners;
  const list = (kind: string, entries: readonly string[] | undefined): string =>
    entries === undefined ? '' : `  ${kind}:\n${entries.map((entry) => `  - ${entry}\n`).join('')}`;
  return `apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: ${name}, namespace: shop}
spec:
  workloadSelector: {labels: {app: ${name}}}
${list('ingress', ingress)}${list('egress', egress)}`;
}

/** Takes connections of the mesh for the app on that port. */
export function ingress(port: PortYaml, app: number): string {
  return `{port: ${portYaml(port)}, bind: 127.0.0.1, defaultEndpoint: "127.0.0.1:${app}"}`;
}

/** Where the app dials to reach a host. */
export function egress(port: PortYaml, host: string): string {
  return `{port: ${portYaml(port)}, captureMode: NONE, hosts: ["./${host}"]}`;
}

function portYaml({ number, name, protocol }: PortYaml): string {
  return `{number: ${number}, name: ${name}${protocol === undefined ? '' : `, protocol: ${protocol}`}}`;
}
