/** Which services claim an address and port for themselves, and which a port alone, as Istio's outbound listeners do. */
import { onlyAddress, parseCidr, prefixKey } from '../mesh/cidr.ts';
import { serviceAge } from './registry.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';
import type { ClientView } from './visible.ts';
import { findService } from './visible.ts';

export interface VirtualAddresses {
  /**
   * Hosts, in lower case, by address, in canonical form, and port: those of services that claim this very address, else those of the
   * longest block it is in. Kubernetes' own first, then the oldest.
   */
  hostsAt(address: string, port: number): readonly string[];
  /** The same where a service claims this very address. */
  hostsAtAddress(address: string, port: number): readonly string[];
  /**
   * The host of the first TCP service that claims no address: "listen on 0.0.0.0". None of Kubernetes', which all have
   * an address or Pods with theirs.
   */
  hostAnywhere(port: number): string | null;
  /** Whether a service of that port is told by a name. */
  namesAt(port: number): boolean;
}

const NONE: readonly string[] = [];

interface Claim {
  readonly host: string;
  readonly port: ServicePort;
  readonly entry: ServiceEntry;
}

/** Indexes what this client knows. */
export function indexVirtualAddresses(context: ClientView): VirtualAddresses {
  const single = new Map<string, string[]>();
  const blocks = new Map<string, string[]>();
  const anywhere = new Map<number, string>();
  const named = new Set<number>();
  const lengths = new Set<number>();
  const add = (index: Map<string, string[]>, key: string, host: string): void => {
    const hosts = index.get(key);
    if (hosts === undefined) index.set(key, [host]);
    else if (!hosts.includes(host)) hosts.push(host);
  };
  for (const { host, port, entry } of claims(context).sort(inOrder)) {
    if (isNamed(port)) named.add(port.number);
    for (const cidr of entry.addresses) {
      const address = onlyAddress(cidr);
      if (address !== null) add(single, `${address} ${port.number}`, host);
      else {
        lengths.add(cidr.bits);
        add(blocks, `${prefixKey(cidr.words, cidr.bits)} ${port.number}`, host);
      }
    }
    if (isAnywhere(entry, port) && !anywhere.has(port.number)) anywhere.set(port.number, host);
  }
  const longestFirst = [...lengths].sort((a, b) => b - a);
  const hostsAtAddress = (address: string, port: number): readonly string[] =>
    single.get(`${address} ${port}`) ?? NONE;
  return {
    hostsAtAddress,
    hostsAt(address, port) {
      const claimed = hostsAtAddress(address, port);
      if (claimed.length > 0 || longestFirst.length === 0) return claimed;
      const words = parseCidr(address)?.words ?? [];
      for (const bits of longestFirst) {
        const hosts = blocks.get(`${prefixKey(words, bits)} ${port}`);
        if (hosts !== undefined) return hosts;
      }
      return NONE;
    },
    namesAt: (port) => named.has(port),
    hostAnywhere: (port) => anywhere.get(port) ?? null,
  };
}

/** Each port of each entry that the client knows, under the host by which it does. */
function claims(context: ClientView): Claim[] {
  const found: Claim[] = [];
  for (const [name, services] of context.registry.services) {
    const entries = services.flatMap((service) => service.entries);
    for (const number of new Set(entries.flatMap(({ ports }) => ports.map((port) => port.number)))) {
      const service = findService(context, name, number);
      // Of another host: an alias, or a wildcard that covers one it does not know.
      if (service === null || service.host.toLowerCase() !== name) continue;
      for (const entry of service.entries) {
        const port = entry.ports.find((item) => item.number === number);
        if (port !== undefined) found.push({ host: name, port, entry });
      }
    }
  }
  return found;
}

/** Nobody takes a Kubernetes Service's address by claiming it earlier. */
function inOrder(a: Claim, b: Claim): number {
  return (
    Number(a.entry.kubernetes === null) - Number(b.entry.kubernetes === null) || serviceAge(a.entry, b.entry)
  );
}

/** HTTP and what may be HTTP by the Host header, TLS by its SNI. */
export function isNamed({ protocol, tls }: ServicePort): boolean {
  return protocol !== 'tcp' || tls;
}

/**
 * Only plain TCP: what is TLS is told by its SNI, HTTP by its Host header. Without resolution, who is selected has an
 * address of his own.
 */
function isAnywhere(
  { kubernetes, addresses, resolution, workloadSelector }: ServiceEntry,
  port: ServicePort,
): boolean {
  if (kubernetes !== null || addresses.length > 0 || port.tls) return false;
  if (resolution === 'NONE' && workloadSelector !== null) return false;
  return port.protocol === 'tcp' || port.protocol === 'auto';
}
