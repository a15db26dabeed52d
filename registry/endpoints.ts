/** Who serves a service's port: inline endpoints, selected WorkloadEntries and Pods, slices, or the host by DNS. */
import { isIP } from 'node:net';
import type { Workload } from '../mesh/workload.ts';
import type { Pod } from './pod.ts';
import type { Registry, Service } from './registry.ts';
import { isSelected } from './registry.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';

/** Where a workload serves a service's port. */
export interface ServiceEndpoint {
  /** Null: nobody the registry knows, e.g. the host itself, by DNS. */
  readonly workload: Workload | null;
  /** IP address, host name, or `unix://` path (then `port` is 0). */
  readonly address: string;
  readonly port: number;
}

/** NONE and DYNAMIC_DNS: each connection goes where its caller means it to go. */
export function isOwnDestination({ resolution }: ServiceEntry): boolean {
  return resolution === 'NONE' || resolution === 'DYNAMIC_DNS';
}

/** Istio's isDNSTypeService. */
function isDns(entry: ServiceEntry): boolean {
  return entry.resolution === 'DNS' || entry.resolution === 'DNS_ROUND_ROBIN';
}

/** "priority level: unixAddress > we.ports > se.port.targetPort > se.port.number" (Istio's conversion.go). */
function portOfEntry(workload: Workload, port: ServicePort): number {
  if (workload.addresses[0]?.startsWith('unix://')) return 0;
  return workload.ports.get(port.name) ?? port.targetPort ?? port.number;
}

/**
 * The port at which a workload serves a service's port; null: it has no container port of the name asked for.
 * A Service's numbered `targetPort` is the Pod's whatever its containers name, but a WorkloadEntry's `ports` go
 * first (Istio: findServiceTargetPort, serviceInstanceFromWorkloadInstance).
 */
export function endpointPort(entry: ServiceEntry, workload: Workload, port: ServicePort): number | null {
  if (port.targetPortName !== null) return workload.ports.get(port.targetPortName) ?? null;
  if (entry.kubernetes !== null && workload.kind === 'Pod') return port.targetPort ?? port.number;
  return portOfEntry(workload, port);
}

/** The workloads of one entry: inline, or those of its namespace that its selector matches. */
function workloadsOf(registry: Registry, entry: ServiceEntry): readonly Workload[] {
  if (entry.kubernetes === null && entry.workloadSelector === null) return entry.endpoints;
  const entries = registry.workloads.filter(
    (workload) =>
      isSelected(entry, workload) &&
      // Istio's DNSServiceEntryOnly: a host name or socket path as address serves DNS resolution only.
      ((entry.kubernetes === null && isDns(entry)) || isIP(workload.addresses[0] ?? '') !== 0),
  );
  const pods = registry.pods.filter((pod) => serves(entry, pod)).map(({ workload }) => workload);
  // Istio's collectWorkloadInstanceEndpoints: of Kubernetes' Services only those with a cluster IP select entries.
  return entry.resolution === 'HEADLESS' ? pods : [...entries, ...pods];
}

function serves(entry: ServiceEntry, pod: Pod): boolean {
  const up = entry.kubernetes?.publishNotReady ? pod.published : pod.ready;
  return up && isSelected(entry, pod.workload);
}

/** The endpoints of a service's port; empty where its first entry's resolution has none. */
export function endpointsOf(
  registry: Registry,
  service: Service,
  number: number,
): readonly ServiceEndpoint[] {
  const [first] = service.entries;
  if (first === undefined || isOwnDestination(first)) return [];
  const all = allEndpoints(registry, service, number);
  // Istio's EDS: "filter out endpoint that has invalid ip address, mostly domain name".
  return isDns(first) ? all : all.filter(({ address, port }) => port === 0 || isIP(address) !== 0);
}

/** The same whatever the first entry's resolution leaves of them: those that Istio's index of endpoints has. */
export function allEndpoints(
  registry: Registry,
  service: Service,
  number: number,
): readonly ServiceEndpoint[] {
  const endpoints: ServiceEndpoint[] = [];
  for (const entry of service.all) {
    const port = entry.ports.find((item) => item.number === number);
    if (port === undefined || isOwnDestination(entry)) continue;
    // Istio: "Only one locality lb end point is allowed for DnsRoundRobinLB services."
    if (entry.resolution === 'DNS_ROUND_ROBIN' && endpoints.length > 0) continue;
    endpoints.push(...endpointsOfEntry(registry, service, entry, port));
  }
  return endpoints;
}

function endpointsOfEntry(
  registry: Registry,
  service: Service,
  entry: ServiceEntry,
  port: ServicePort,
): readonly ServiceEndpoint[] {
  if (isDns(entry) && entry.workloadSelector === null && entry.endpoints.length === 0) {
    // Istio's convertServiceEntryToInstances: the host is the endpoint, and outside the mesh.
    const address = entry.kubernetes?.externalName ?? service.host;
    return [{ workload: null, address, port: port.targetPort ?? port.number }];
  }
  const sliced = entry.kubernetes === null ? null : slicedEndpoints(registry, entry, port);
  const workloads = workloadsOf(registry, entry).filter(({ kind }) => sliced === null || kind !== 'Pod');
  const found = workloads.flatMap((workload): ServiceEndpoint[] => {
    const number = endpointPort(entry, workload, port);
    return number === null ? [] : [{ workload, address: workload.addresses[0] ?? '', port: number }];
  });
  return sliced === null ? found : [...sliced, ...found];
}

/**
 * What EndpointSlices say instead of a Service's selector; null where there are none. An endpoint that names a Pod
 * nobody knows is left out, as in Istio: what it speaks is unknown too.
 */
function slicedEndpoints(
  registry: Registry,
  entry: ServiceEntry,
  port: ServicePort,
): readonly ServiceEndpoint[] | null {
  const slices = registry.slices.get(`${entry.namespace}/${entry.name}`);
  if (slices === undefined) return null;
  const endpoints = new Map<string, ServiceEndpoint>();
  for (const slice of slices) {
    const number = slice.ports.get(port.name);
    if (number === undefined) continue;
    for (const { address, ready, pod: key } of slice.endpoints) {
      if (!ready && !entry.kubernetes?.publishNotReady) continue;
      const pod = key === null ? null : registry.pod(key);
      if (key !== null && pod === null) continue;
      const workload = pod?.workload ?? registry.workloadByAddress(address);
      endpoints.set(`${address} ${number}`, {
        workload: workload?.kind === 'Pod' ? workload : null,
        address,
        port: number,
      });
    }
  }
  return [...endpoints.values()];
}

/** Every workload behind any port of a service: the ones whose accounts secure naming expects. */
export function serviceWorkloads(registry: Registry, service: Service): ReadonlySet<Workload> {
  const workloads = new Set<Workload>();
  for (const port of new Set(service.all.flatMap(({ ports }) => ports.map(({ number }) => number)))) {
    for (const { workload } of allEndpoints(registry, service, port)) {
      if (workload !== null) workloads.add(workload);
    }
  }
  return workloads;
}
