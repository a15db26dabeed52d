/** Which services claim an address and port for themselves, and which a port alone, as Istio's outbound listeners do. */
import { onlyAddress, parseCidr, prefixKey } from '../mesh/cidr.ts';
import { isHttp } from '../mesh/workload.ts';
import { type Service, serviceAge, servicePort } from './registry.ts';
import type { ServiceEntry, ServicePort } from './service-entry.ts';
import type { ClientView } from './visible.ts';
import { exportRank, findService } from './visible.ts';

/** Hosts are in lower case, addresses in canonical form. */
export interface VirtualAddresses {
  /** Hosts of services that claim this very address and port: Kubernetes' own first, then the oldest. */
  hostsAt(address: string, port: number): readonly string[];
  /** Hosts of services of plain TCP that claim the longest block that it is in, in the same order. */
  hostsAround(address: string, port: number): readonly string[];
  /**
   * The host of the first TCP service that claims no address: "listen on 0.0.0.0". None of Kubernetes', which all have
   * an address or Pods with theirs.
   */
  hostAnywhere(port: number): string | null;
  /** Whether a service of that port is told by a name. */
  namesAt(port: number): boolean;
  /** Whether a service's port is told by the Host header. */
  isToldByHost(service: Service, port: number): boolean;
  /** Whether a service's port is told by SNI: it is TLS, and no single address tells. */
  isToldBySni(service: Service, port: number): boolean;
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
  const lengths = new Set<number>();
  /** Ports at which requests to any address are told by the Host header, and those at which TLS is by its SNI. */
  const requests = new Set<number>();
  const handshakes = new Set<number>();
  const add = (index: Map<string, string[]>, key: string, host: string): void => {
    const hosts = index.get(key);
    if (hosts === undefined) index.set(key, [host]);
    else if (!hosts.includes(host)) hosts.push(host);
  };
  for (const { host, port, entry } of claims(context).sort((a, b) => inOrder(context, a, b))) {
    const { protocol, tls } = port;
    if (isHttp(protocol) || (protocol === 'auto' && isShared(entry))) requests.add(port.number);
    if (tls && isShared(entry)) handshakes.add(port.number);
    for (const cidr of entry.addresses) {
      const address = onlyAddress(cidr);
      if (address !== null) add(single, `${address} ${port.number}`, host);
      // Requests and handshakes say whom they mean: of them a block claims nothing.
      else if (isPlainTcp(port)) {
        lengths.add(cidr.bits);
        add(blocks, `${prefixKey(cidr.words, cidr.bits)} ${port.number}`, host);
      }
    }
    if (isUnbound(entry) && isPlainTcp(port) && !anywhere.has(port.number)) anywhere.set(port.number, host);
  }
  const longestFirst = [...lengths].sort((a, b) => b - a);
  return {
    hostsAt: (address, port) => single.get(`${address} ${port}`) ?? NONE,
    hostsAround(address, port) {
      if (longestFirst.length === 0) return NONE;
      const words = parseCidr(address)?.words ?? [];
      for (const bits of longestFirst) {
        const hosts = blocks.get(`${prefixKey(words, bits)} ${port}`);
        if (hosts !== undefined) return hosts;
      }
      return NONE;
    },
    hostAnywhere: (port) => anywhere.get(port) ?? null,
    namesAt: (port) => requests.has(port) || handshakes.has(port),
    isToldByHost(service, port) {
      const protocol = servicePort(service, port)?.protocol ?? 'tcp';
      return isHttp(protocol) || (protocol === 'auto' && requests.has(port));
    },
    isToldBySni(service, number) {
      const told = (port: ServicePort): boolean => port.number === number && port.tls;
      return service.entries.some((entry) => isShared(entry) && entry.ports.some(told));
    },
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

/**
 * Nobody takes a Kubernetes Service's address by claiming it earlier. Else those exported to this namespace by name go
 * before those exported to all, and the older before the younger (Istio: servicesExportedToNamespace).
 */
function inOrder({ client, defaultExportTo }: ClientView, { entry: a }: Claim, { entry: b }: Claim): number {
  const rankOf = (entry: ServiceEntry): number => exportRank(entry, client.namespace, defaultExportTo);
  return (
    Number(a.kubernetes === null) - Number(b.kubernetes === null) || rankOf(a) - rankOf(b) || serviceAge(a, b)
  );
}

/** Istio's 0.0.0.0: no address tells who is meant. Without resolution, whom a selector means has an address of his own. */
function isUnbound({ kubernetes, addresses, resolution, workloadSelector }: ServiceEntry): boolean {
  return (
    kubernetes === null && addresses.length === 0 && (resolution !== 'NONE' || workloadSelector === null)
  );
}

/** Where Istio listens on 0.0.0.0 for it: it has no address, or blocks of them. */
function isShared(entry: ServiceEntry): boolean {
  return isUnbound(entry) || entry.addresses.some((cidr) => onlyAddress(cidr) === null);
}

/** What is TLS is told by its SNI. */
function isPlainTcp({ protocol, tls }: ServicePort): boolean {
  return !isHttp(protocol) && !tls;
}
