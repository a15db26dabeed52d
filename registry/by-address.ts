/** Who is at an address: the workloads that have it, and the services whose ports are served there. */
import { isIP } from 'node:net';
import { canonicalAddress } from '../mesh/cidr.ts';
import type { Workload } from '../mesh/workload.ts';
import type { EndpointSlice } from './endpoint-slice.ts';
import type { ServiceEndpoint } from './endpoints.ts';
import { endpointPort, isOwnDestination } from './endpoints.ts';
import type { Registry } from './registry.ts';
import { isSelected } from './registry.ts';
import type { ServiceEntry } from './service-entry.ts';

/** What the registry says of one address. */
interface Known {
  /** Pods and WorkloadEntries that have it for themselves. */
  readonly workloads: Workload[];
  /** Pods with the address of their node. */
  readonly sharing: Workload[];
  /** Endpoints written into a ServiceEntry. */
  readonly inline: { readonly entry: ServiceEntry; readonly workload: Workload }[];
  /** Slices of a Service that list it. */
  readonly sliced: { readonly entry: ServiceEntry; readonly slice: EndpointSlice }[];
}

/** A service's port that is served at an address. */
export interface Served {
  readonly entry: ServiceEntry;
  /** The service's port. */
  readonly number: number;
  readonly endpoint: ServiceEndpoint;
}

export interface AddressIndex {
  /** Whether anybody known has the address. */
  has(address: string): boolean;
  /** Whether it is the workload's whose sidecar this is. */
  isOwn(address: string): boolean;
  /** The workload that has it for itself; the first of several; null: none. */
  workloadAt(address: string): Workload | null;
  /**
   * The services' ports served at an address and port. Whoever calls an address has chosen it, so it does not matter
   * whether a Pod there is ready, nor which of a Pod's addresses it is.
   */
  servedAt(address: string, port: number): readonly Served[];
}

/**
 * Indexes a registry by addresses, all in canonical form.
 * @param own the workload whose sidecar this is: it has its addresses whether or not the registry knows it
 */
export function indexAddresses(registry: Registry, own: Workload): AddressIndex {
  const index = new Map<string, Known>();
  const at = (text: string): Known | null => {
    const address = isIP(text) === 0 ? null : canonicalAddress(text);
    if (address === null) return null;
    let known = index.get(address);
    if (known === undefined) {
      known = { workloads: [], sharing: [], inline: [], sliced: [] };
      index.set(address, known);
    }
    return known;
  };
  for (const { workload, hostNetwork, finished } of registry.pods) {
    // A finished Pod's address may be another's by now.
    if (finished) continue;
    for (const address of workload.addresses)
      at(address)?.[hostNetwork ? 'sharing' : 'workloads'].push(workload);
  }
  for (const workload of registry.workloads) {
    for (const address of workload.addresses) at(address)?.workloads.push(workload);
  }
  const entries = new Set([...registry.services.values()].flat().flatMap((service) => service.entries));
  const byNamespace = Map.groupBy(entries, ({ namespace }) => namespace);
  for (const entry of entries) {
    for (const workload of entry.endpoints) at(workload.addresses[0] ?? '')?.inline.push({ entry, workload });
    if (entry.kubernetes === null) continue;
    for (const slice of registry.slices.get(`${entry.namespace}/${entry.name}`) ?? []) {
      for (const { address } of slice.endpoints) at(address)?.sliced.push({ entry, slice });
    }
  }
  const ownAddresses = new Set(own.addresses.map(canonicalAddress));
  for (const address of own.addresses) {
    const known = at(address);
    if (known?.workloads.length === 0) known.workloads.push(own);
  }

  return {
    has: (address) => index.has(address),
    isOwn: (address) => ownAddresses.has(address),
    workloadAt: (address) => index.get(address)?.workloads[0] ?? null,
    servedAt(address, number) {
      const known = index.get(address);
      if (known === undefined) return [];
      const { workloads, sharing, inline, sliced } = known;
      const served: Served[] = [];
      for (const { entry, slice } of sliced) {
        for (const port of entry.ports) {
          if (slice.ports.get(port.name) !== number) continue;
          const pod = [...workloads, ...sharing].find(({ kind }) => kind === 'Pod') ?? null;
          served.push({ entry, number: port.number, endpoint: { workload: pod, address, port: number } });
        }
      }
      const serve = (entry: ServiceEntry, workload: Workload): void => {
        for (const port of isOwnDestination(entry) ? [] : entry.ports) {
          if (endpointPort(entry, workload, port) !== number) continue;
          served.push({ entry, number: port.number, endpoint: { workload, address, port: number } });
        }
      };
      for (const { entry, workload } of inline) serve(entry, workload);
      for (const workload of [...workloads, ...sharing]) {
        for (const entry of byNamespace.get(workload.namespace) ?? []) {
          // As for its endpoints: a headless Service selects Pods alone.
          const counts = entry.resolution !== 'HEADLESS' || workload.kind === 'Pod';
          if (counts && isSelected(entry, workload)) serve(entry, workload);
        }
      }
      return served;
    },
  };
}
