/** The registry: who defines a host, which workloads stand behind it, and who has an address or an identity. */
import { canonicalAddress } from '../mesh/cidr.ts';
import { selects } from '../mesh/schema.ts';
import { compareText } from '../mesh/text.ts';
import type { Workload } from '../mesh/workload.ts';
import type { EndpointSlice } from './endpoint-slice.ts';
import { isCoveredBy, isWildcard } from './hosts.ts';
import type { Pod } from './pod.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';

/** One host of a ServiceEntry, or a Kubernetes Service. Several of one namespace and host count as one service. */
export interface Service {
  readonly host: string;
  readonly namespace: string;
  /** Kubernetes' own first, then the oldest; the first one's location and resolution hold. */
  readonly entries: readonly ServiceEntry[];
  /** Those whose endpoints count: the same, and as one client sees it also those that are not exported to it. */
  readonly all: readonly ServiceEntry[];
}

export interface Registry {
  /** Host in lower case → its services, Kubernetes' own first, then the oldest. */
  readonly services: ReadonlyMap<string, readonly Service[]>;
  /** The WorkloadEntries, sorted by namespace and name, as Istio orders the endpoints it selects. */
  readonly workloads: readonly Workload[];
  /** Sorted in the same way. */
  readonly pods: readonly Pod[];
  /** By `NS/SERVICE`. */
  readonly slices: ReadonlyMap<string, readonly EndpointSlice[]>;
  /** The service of the most specific host that covers `host` and passes `sees`; null: none does. */
  find(host: string, clientNamespace: string, sees: (service: Service) => boolean): Service | null;
  /** The Pod of `NS/NAME`. */
  pod(key: string): Pod | null;
  /** The Pod or WorkloadEntry (or else inline endpoint) at an address where exactly one has it. */
  workloadByAddress(address: string): Workload | null;
  /** The same by `NS/SERVICE-ACCOUNT`. */
  workloadByAccount(namespace: string, serviceAccount: string): Workload | null;
}

/** An IP address as it is looked up; a host name or socket path as it is. */
function oneForm(address: string): string {
  return canonicalAddress(address) ?? address;
}

/** What a registry is made of. */
export interface RegistryInput {
  /** Kubernetes Services among them. */
  readonly services: readonly ServiceEntry[];
  readonly workloadEntries: readonly Workload[];
  readonly pods: readonly Pod[];
  readonly slices: readonly EndpointSlice[];
}

/** Indexes services and workloads; nothing is resolved or dialled. */
export function buildRegistry(input: RegistryInput): Registry {
  const services = indexServices([...input.services].sort(kubernetesFirst));
  const workloads = [...input.workloadEntries].sort(byName);
  const pods = [...input.pods].sort((a, b) => byName(a.workload, b.workload));
  // Longest first: the most specific of those that cover a host (Istio: MostSpecificHostMatch).
  const wildcards = [...services.keys()].filter(isWildcard).sort((a, b) => b.length - a.length);
  const podsByName = new Map(pods.map((pod) => [`${pod.workload.namespace}/${pod.workload.name}`, pod]));
  const inline = input.services.flatMap(({ endpoints }) => endpoints);
  const known = [...workloads, ...pods.map(({ workload }) => workload)];
  // An address of the node tells nothing of the pod.
  const shared = new Set(pods.filter(({ hostNetwork }) => hostNetwork).map(({ workload }) => workload));
  const addressOf = (workload: Workload): readonly string[] =>
    shared.has(workload) ? [] : workload.addresses.map(oneForm);
  const accountOf = ({ namespace, serviceAccount }: Workload): readonly string[] =>
    serviceAccount === '' ? [] : [`${namespace}/${serviceAccount}`];
  const byAddress = uniqueBy(addressOf, known, inline);
  const byAccount = uniqueBy(accountOf, known, inline);

  return {
    services,
    workloads,
    pods,
    slices: indexSlices(input.slices),
    find(host, clientNamespace, sees) {
      const name = host.toLowerCase();
      const exact = choose(services.get(name) ?? [], clientNamespace, sees);
      if (exact !== undefined) return exact;
      for (const wildcard of wildcards) {
        if (!isCoveredBy(name, wildcard)) continue;
        const service = choose(services.get(wildcard) ?? [], clientNamespace, sees);
        if (service !== undefined) return service;
      }
      return null;
    },
    pod: (key) => podsByName.get(key) ?? null,
    workloadByAddress: (address) => byAddress(oneForm(address)),
    workloadByAccount: (namespace, serviceAccount) => byAccount(`${namespace}/${serviceAccount}`),
  };
}

/**
 * "If the same hostname is imported from multiple namespaces, pick the one in the configNamespace", else "preferring
 * Kubernetes services over ServiceEntry", else the oldest (Istio: IstioEgressListenerWrapper.selectServices).
 */
function choose(
  services: readonly Service[],
  clientNamespace: string,
  sees: (service: Service) => boolean,
): Service | undefined {
  const seen = services.filter(sees);
  return seen.find(({ namespace }) => namespace === clientNamespace) ?? seen[0];
}

/** So that nobody takes a Kubernetes Service's host by defining it earlier (Istio: initServiceRegistry). */
function kubernetesFirst(a: ServiceEntry, b: ServiceEntry): number {
  return Number(a.kubernetes === null) - Number(b.kubernetes === null) || serviceAge(a, b);
}

/** Services of one host: the oldest first, ties by namespace (Istio: SortServicesByCreationTime). */
export function serviceAge(a: ServiceEntry, b: ServiceEntry): number {
  const time = (entry: ServiceEntry): number => entry.createdAt ?? Number.NEGATIVE_INFINITY;
  return time(a) === time(b) ? byName(a, b) : time(a) - time(b);
}

interface Named {
  readonly namespace: string;
  readonly name: string;
}

function byName(a: Named, b: Named): number {
  return compareText(a.namespace, b.namespace) || compareText(a.name, b.name);
}

function indexServices(sorted: readonly ServiceEntry[]): ReadonlyMap<string, readonly Service[]> {
  interface Growing extends Service {
    readonly entries: ServiceEntry[];
  }
  const services = new Map<string, Growing[]>();
  for (const entry of sorted) {
    for (const host of entry.hosts) {
      const key = host.toLowerCase();
      const list = services.get(key) ?? [];
      services.set(key, list);
      const same = list.find(({ namespace }) => namespace === entry.namespace);
      if (same === undefined) {
        const entries = [entry];
        list.push({ host, namespace: entry.namespace, entries, all: entries });
      } else if (!same.entries.includes(entry)) same.entries.push(entry);
    }
  }
  return services;
}

/** The older kind counts only where there is no slice: Kubernetes mirrors the one into the other. */
function indexSlices(slices: readonly EndpointSlice[]): ReadonlyMap<string, readonly EndpointSlice[]> {
  const index = new Map<string, EndpointSlice[]>();
  for (const slice of slices) {
    const key = `${slice.namespace}/${slice.service}`;
    const list = index.get(key);
    if (list === undefined) index.set(key, [slice]);
    else list.push(slice);
  }
  for (const [key, list] of index) {
    if (list.some(({ old }) => !old))
      index.set(
        key,
        list.filter(({ old }) => !old),
      );
  }
  return index;
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

/** The port of that number in the first entry that has it. */
export function servicePort(service: Service, number: number): ServicePort | null {
  for (const entry of service.entries) {
    const port = entry.ports.find((item) => item.number === number);
    if (port !== undefined) return port;
  }
  return null;
}

/** Whether the entry's selector, if it has one, matches; selectors stay in their namespace. */
export function isSelected(entry: ServiceEntry, workload: Workload): boolean {
  return (
    entry.workloadSelector !== null &&
    entry.namespace === workload.namespace &&
    selects(entry.workloadSelector, workload.labels)
  );
}
