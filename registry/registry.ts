/** The registry: who defines a host, which workloads stand behind it, and who has an address or an identity. */
import { isIP } from 'node:net';
import { selects } from '../mesh/schema.ts';
import type { Workload } from '../mesh/workload.ts';
import { byAge, compareText, isCoveredBy, isWildcard } from './hosts.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';

/** One host of a ServiceEntry. Several entries of one namespace and host count as one service. */
export interface Service {
  readonly host: string;
  readonly namespace: string;
  /** Oldest first; the first one's location and resolution hold. */
  readonly entries: readonly ServiceEntry[];
}

/** Where a workload serves a service's port. */
export interface ServiceEndpoint {
  /** Null: the host itself, by DNS. */
  readonly workload: Workload | null;
  /** IP address, host name, or `unix://` path (then `port` is 0). */
  readonly address: string;
  readonly port: number;
}

export interface Registry {
  /** Host in lower case → its services, the oldest first. */
  readonly services: ReadonlyMap<string, readonly Service[]>;
  /** The WorkloadEntries, sorted by namespace and name, as Istio orders the endpoints it selects. */
  readonly workloads: readonly Workload[];
  /** The service of the most specific host that covers `host` and passes `sees`; null: none does. */
  find(host: string, sees: (service: Service) => boolean): Service | null;
  /** The WorkloadEntry (or else inline endpoint) at an address where exactly one has it. */
  workloadByAddress(address: string): Workload | null;
  /** The same by `NS/SERVICE-ACCOUNT`. */
  workloadByAccount(namespace: string, serviceAccount: string): Workload | null;
}

/** Indexes ServiceEntries and WorkloadEntries; nothing is resolved or dialled. */
export function buildRegistry(
  serviceEntries: readonly ServiceEntry[],
  workloadEntries: readonly Workload[],
): Registry {
  const services = indexServices([...serviceEntries].sort(byAge));
  const entries = [...workloadEntries].sort(
    (a, b) => compareText(a.namespace, b.namespace) || compareText(a.name, b.name),
  );
  // Longest first: the most specific of those that cover a host (Istio: MostSpecificHostMatch).
  const wildcards = [...services.keys()].filter(isWildcard).sort((a, b) => b.length - a.length);
  const inline = serviceEntries.flatMap(({ endpoints }) => endpoints);
  const addressOf = ({ addresses }: Workload): readonly string[] => addresses;
  const accountOf = ({ namespace, serviceAccount }: Workload): readonly string[] =>
    serviceAccount === '' ? [] : [`${namespace}/${serviceAccount}`];
  const byAddress = uniqueBy(addressOf, entries, inline);
  const byAccount = uniqueBy(accountOf, entries, inline);

  return {
    services,
    workloads: entries,
    find(host, sees) {
      const name = host.toLowerCase();
      const exact = services.get(name)?.find(sees);
      if (exact !== undefined) return exact;
      for (const wildcard of wildcards) {
        if (!isCoveredBy(name, wildcard)) continue;
        const service = services.get(wildcard)?.find(sees);
        if (service !== undefined) return service;
      }
      return null;
    },
    workloadByAddress: (address) => byAddress(address),
    workloadByAccount: (namespace, serviceAccount) => byAccount(`${namespace}/${serviceAccount}`),
  };
}

function indexServices(sorted: readonly ServiceEntry[]): ReadonlyMap<string, readonly Service[]> {
  const services = new Map<string, { host: string; namespace: string; entries: ServiceEntry[] }[]>();
  for (const entry of sorted) {
    for (const host of entry.hosts) {
      const key = host.toLowerCase();
      const list = services.get(key) ?? [];
      services.set(key, list);
      const same = list.find(({ namespace }) => namespace === entry.namespace);
      if (same === undefined) list.push({ host, namespace: entry.namespace, entries: [entry] });
      else if (!same.entries.includes(entry)) same.entries.push(entry);
    }
  }
  return services;
}

/** A look-up that answers only where exactly one has the key, among the entries or else among the inline ones. */
function uniqueBy(
  keysOf: (workload: Workload) => readonly string[],
  entries: readonly Workload[],
  inline: readonly Workload[],
): (key: string) => Workload | null {
  const index = (workloads: readonly Workload[]): Map<string, Workload | null> => {
    const map = new Map<string, Workload | null>();
    for (const workload of workloads) {
      for (const key of keysOf(workload)) map.set(key, map.has(key) ? null : workload);
    }
    return map;
  };
  const first = index(entries);
  const second = index(inline);
  return (key) => (first.has(key) ? first.get(key) : second.get(key)) ?? null;
}

/** The port of that number in the oldest entry that has it. */
export function servicePort(service: Service, number: number): ServicePort | null {
  for (const entry of service.entries) {
    const port = entry.ports.find((item) => item.number === number);
    if (port !== undefined) return port;
  }
  return null;
}

/** Istio's isDNSTypeService. */
function isDns(entry: ServiceEntry): boolean {
  return entry.resolution === 'DNS' || entry.resolution === 'DNS_ROUND_ROBIN';
}

/** The workloads of one entry: inline, or those of its namespace that its selector matches. */
function workloadsOf(registry: Registry, entry: ServiceEntry): readonly Workload[] {
  if (entry.workloadSelector === null) return entry.endpoints;
  const selector = entry.workloadSelector;
  return registry.workloads.filter(
    (workload) =>
      workload.namespace === entry.namespace &&
      selects(selector, workload.labels) &&
      // Istio's DNSServiceEntryOnly: a host name or socket path as address serves DNS resolution only.
      (isDns(entry) || isIP(workload.addresses[0] ?? '') !== 0),
  );
}

/** "priority level: unixAddress > we.ports > se.port.targetPort > se.port.number" (Istio's conversion.go). */
export function endpointPort(workload: Workload, port: ServicePort): number {
  if (workload.addresses[0]?.startsWith('unix://')) return 0;
  return workload.ports.get(port.name) ?? port.targetPort ?? port.number;
}

/** The endpoints of a service's port; empty for resolution NONE. */
export function endpointsOf(
  registry: Registry,
  service: Service,
  number: number,
): readonly ServiceEndpoint[] {
  const endpoints: ServiceEndpoint[] = [];
  for (const entry of service.entries) {
    const port = entry.ports.find((item) => item.number === number);
    if (port === undefined || entry.resolution === 'NONE') continue;
    // Istio: "Only one locality lb end point is allowed for DnsRoundRobinLB services."
    if (entry.resolution === 'DNS_ROUND_ROBIN' && endpoints.length > 0) continue;
    if (isDns(entry) && entry.workloadSelector === null && entry.endpoints.length === 0) {
      // Istio's convertServiceEntryToInstances: the host is the endpoint, and outside the mesh.
      endpoints.push({ workload: null, address: service.host, port: port.targetPort ?? port.number });
      continue;
    }
    for (const workload of workloadsOf(registry, entry)) {
      const address = workload.addresses[0] ?? '';
      endpoints.push({ workload, address, port: endpointPort(workload, port) });
    }
  }
  return endpoints;
}

/** Every workload behind any port of a service: the ones whose accounts secure naming expects. */
export function serviceWorkloads(registry: Registry, service: Service): readonly Workload[] {
  return service.entries
    .filter(({ resolution }) => resolution !== 'NONE')
    .flatMap((entry) => workloadsOf(registry, entry));
}
