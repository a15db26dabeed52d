/** What a workload's own ports are: the service each serves and the protocol declared for it. */
import { isIP } from 'node:net';
import { canonicalAddress } from '../mesh/cidr.ts';
import { selects } from '../mesh/schema.ts';
import type { Protocol, ServiceName, Workload } from '../mesh/workload.ts';
import { endpointPort, isOwnDestination } from './endpoints.ts';
import { shortName } from './hosts.ts';
import type { Intercept } from './listeners.ts';
import type { Registry } from './registry.ts';
import { isSelected } from './registry.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';
import type { Sidecar } from './sidecar.ts';

export interface InboundPort {
  readonly service: ServiceName | null;
  readonly protocol: Protocol;
}

/**
 * The declared ports of a workload, by its own port number: those of services it stands behind (the oldest wins),
 * and those of its Sidecar's ingress entries, whose protocol goes first.
 * @param forms what the registry may know it by: itself first
 */
export function inboundPorts(
  registry: Registry,
  sidecar: Sidecar | null,
  forms: readonly Workload[],
): ReadonlyMap<number, InboundPort> {
  const ports = new Map<number, InboundPort>();
  for (const service of [...registry.services.values()].flat()) {
    for (const entry of service.entries) {
      const { host, namespace } = service;
      for (const { number, protocol } of forms.flatMap((form) => portsIn(registry, entry, form))) {
        if (ports.has(number)) continue;
        ports.set(number, { service: { host, name: shortName(host), namespace }, protocol });
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

/**
 * All that a workload may be known by. Where connections are captured, `chosen` gives labels and account only, so a
 * WorkloadEntry that has the same ones may be this very workload at its other address.
 * @param pod the Pod that flags mean, or what they tell of it; null: nothing is known
 */
export function formsOf(
  registry: Registry,
  chosen: Workload,
  pod: Workload | null,
  intercept: Intercept,
): readonly Workload[] {
  if (pod !== null) {
    // A Service's `targetPort` is told from a Pod's container ports.
    return [{ ...chosen, kind: 'Pod', ports: pod.ports, addresses: [...chosen.addresses, ...pod.addresses] }];
  }
  if (intercept === 'none') return [chosen];
  const others = registry.workloads.filter((other) => other.name !== chosen.name && isAlike(other, chosen));
  return [chosen, ...others];
}

function isAlike(a: Workload, b: Workload): boolean {
  const accountOf = ({ serviceAccount }: Workload): string => serviceAccount || 'default';
  const same = a.namespace === b.namespace && accountOf(a) === accountOf(b);
  return same && a.labels.size === b.labels.size && selects(a.labels, b.labels);
}

interface DeclaredPort {
  readonly number: number;
  readonly protocol: Protocol;
}

/** The workload's ports that an entry has services on: as one it selects, or as an endpoint written there or in a slice. */
function portsIn(registry: Registry, entry: ServiceEntry, form: Workload): readonly DeclaredPort[] {
  if (isOwnDestination(entry)) return [];
  const declared: DeclaredPort[] = [];
  const declare = ({ protocol }: ServicePort, number: number | null): void => {
    if (number !== null) declared.push({ number, protocol });
  };
  const isOurs = (address: string): boolean => form.addresses.some((own) => sameAddress(own, address));
  const self = isSelected(entry, form)
    ? form
    : entry.endpoints.find(({ addresses }) => isOurs(addresses[0] ?? ''));
  if (self !== undefined) for (const port of entry.ports) declare(port, endpointPort(entry, self, port));
  if (entry.kubernetes === null) return declared;
  for (const slice of registry.slices.get(`${entry.namespace}/${entry.name}`) ?? []) {
    if (!slice.endpoints.some(({ address }) => isOurs(address))) continue;
    for (const port of entry.ports) declare(port, slice.ports.get(port.name) ?? null);
  }
  return declared;
}

function sameAddress(a: string, b: string): boolean {
  return a === b || (isIP(a) !== 0 && isIP(b) !== 0 && canonicalAddress(a) === canonicalAddress(b));
}
