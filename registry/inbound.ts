/** What a workload's own ports are: the service each serves and the protocol declared for it. */
import type { Protocol, ServiceName, Workload } from '../mesh/workload.ts';
import { endpointPort, isOwnDestination } from './endpoints.ts';
import { shortName } from './hosts.ts';
import type { Registry } from './registry.ts';
import { isSelected } from './registry.ts';
import type { ServiceEntry } from './service-entry.ts';
import type { Sidecar } from './sidecar.ts';

export interface InboundPort {
  readonly service: ServiceName | null;
  readonly protocol: Protocol;
}

/**
 * The declared ports of `workload`, by its own port number: those of services it stands behind (the oldest wins),
 * and those of its Sidecar's ingress entries, whose protocol goes first.
 */
export function inboundPorts(
  registry: Registry,
  sidecar: Sidecar | null,
  workload: Workload,
): ReadonlyMap<number, InboundPort> {
  const ports = new Map<number, InboundPort>();
  for (const service of [...registry.services.values()].flat()) {
    for (const entry of service.entries) {
      const self = selfIn(entry, workload);
      if (self === null) continue;
      for (const port of entry.ports) {
        const number = endpointPort(entry, self, port);
        if (number === null || ports.has(number)) continue;
        const { host, namespace } = service;
        ports.set(number, {
          service: { host, name: shortName(host), namespace },
          protocol: port.protocol,
        });
      }
    }
  }
  for (const entry of sidecar?.ingress ?? []) {
    const known = ports.get(entry.port);
    const declared = entry.protocol === 'auto' ? (known?.protocol ?? 'auto') : entry.protocol;
    ports.set(entry.port, { service: known?.service ?? null, protocol: declared });
  }
  return ports;
}

/** The workload as this entry's endpoint: selected by label, or an inline endpoint at one of its addresses. */
function selfIn(entry: ServiceEntry, workload: Workload): Workload | null {
  if (isOwnDestination(entry)) return null;
  if (entry.workloadSelector !== null) return isSelected(entry, workload) ? workload : null;
  return entry.endpoints.find(({ addresses }) => workload.addresses.includes(addresses[0] ?? '')) ?? null;
}
