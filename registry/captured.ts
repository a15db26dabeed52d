/** What original destinations of captured connections mean to one workload: VIPs, endpoints, names, its own ports. */
import { canonicalAddress } from '../mesh/cidr.ts';
import type { Route } from '../mesh/route.ts';
import type { Captured, IngressListener, MeshSettings } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import { type AddressIndex, indexAddresses, type Served } from './by-address.ts';
import { isWildcard } from './hosts.ts';
import { CLUSTER_DOMAIN } from './kube-schema.ts';
import { findMember } from './members.ts';
import { type Service, serviceAge } from './registry.ts';
import { PASSTHROUGH, type RouteContext, routeTo, routeToWorkload } from './route.ts';
import { indexVirtualAddresses, type VirtualAddresses } from './virtual-addresses.ts';
import { findService } from './visible.ts';

/** Routes to single addresses that are kept; the oldest makes room. Ports of known addresses only, but 65,535 each. */
const MAX_ROUTES = 4_096;

const NONE: readonly string[] = [];

/** What may be asked of a wildcard's service: letters, digits, dashes, dots, nothing else. */
const HOST_NAME = /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/;

export interface CapturedContext extends RouteContext {
  readonly mesh: RouteContext['mesh'] & Pick<MeshSettings, 'outboundTrafficPolicy'>;
}

/**
 * What original destinations mean to a workload. Its indexes are built when first asked for.
 * @param context with `imports` of what capture may reach
 * @param own the workload whose sidecar this is
 * @param ingress the Sidecar's entries for captured connections
 */
export function compileCaptured(
  context: CapturedContext,
  own: Workload,
  ingress: ReadonlyMap<number, IngressListener>,
): Captured {
  let index: { readonly virtual: VirtualAddresses; readonly addresses: AddressIndex } | null = null;
  const indexes = (): NonNullable<typeof index> => {
    index ??= {
      virtual: indexVirtualAddresses(context),
      addresses: indexAddresses(context.registry, own),
    };
    return index;
  };
  const routes = new Map<string, Route | null>();
  const routeAt = (address: string, port: number): Route | null => {
    const { addresses } = indexes();
    if (!addresses.has(address)) return null;
    const key = `${address} ${port}`;
    const known = routes.get(key);
    if (known !== undefined) return known;
    const route = routeToAddress({ context, addresses }, address, port);
    if (routes.size >= MAX_ROUTES) routes.delete(routes.keys().next().value ?? '');
    routes.set(key, route);
    return route;
  };
  return {
    hostsAt(address, port) {
      const { virtual } = indexes();
      const hosts = virtual.hostsAt(address, port);
      if (hosts.length > 0) return hosts;
      const around = virtual.hostsAround(address, port);
      // In the midst of a block an endpoint of a service is called by its own address.
      return around.length > 0 && isEndpoint(routeAt(address, port)) ? NONE : around;
    },
    routeAt,
    hostNamed: (name, port) => hostNamed(context, indexes().virtual, name, port),
    hostOfSni: (sni, port) => hostOfSni(context, indexes().virtual, sni, port),
    namesAt: (port) => indexes().virtual.namesAt(port),
    hostAnywhere: (port) => indexes().virtual.hostAnywhere(port),
    ingressAt: (port) => ingress.get(port) ?? null,
  };
}

/** Whether an address is of a service's endpoint, not only of a workload. */
function isEndpoint(route: Route | null): boolean {
  return route !== null && route.service.name !== PASSTHROUGH;
}

interface Addressed {
  readonly context: CapturedContext;
  readonly addresses: AddressIndex;
}

/**
 * The route to whoever is at an address: as the endpoint of a service that this client knows, else as the workload it is.
 * Under REGISTRY_ONLY a port that no such service declares stays closed, as in Istio, but for a call to ourselves.
 */
function routeToAddress({ context, addresses }: Addressed, address: string, port: number): Route | null {
  let best: { readonly service: Service; readonly served: Served } | null = null;
  for (const served of addresses.servedAt(address, port)) {
    const service = serviceOf(context, served);
    if (service !== null && (best === null || inOrder(served, best.served) < 0)) best = { service, served };
  }
  if (best !== null) {
    return routeTo(context, best.service, best.served.number, { only: best.served.endpoint });
  }
  const workload = addresses.workloadAt(address);
  if (workload === null) return null;
  const mayPass = context.mesh.outboundTrafficPolicy === 'ALLOW_ANY' || addresses.isOwn(address);
  return mayPass ? routeToWorkload(context, { workload, address, port }) : null;
}

/** The service by which the client knows an entry's port; null: it does not. */
function serviceOf(context: RouteContext, { entry, number }: Served): Service | null {
  for (const host of entry.hosts) {
    const service = findService(context, host, number);
    if (service?.entries.includes(entry)) return service;
  }
  return null;
}

/** Headless first: of all services theirs alone are called by their endpoints' addresses. Then as VIPs are. */
function inOrder({ entry: a }: Served, { entry: b }: Served): number {
  return (
    Number(a.resolution !== 'HEADLESS') - Number(b.resolution !== 'HEADLESS') ||
    Number(a.kubernetes === null) - Number(b.kubernetes === null) ||
    serviceAge(a, b)
  );
}

/**
 * The host that a Host header means: itself; the service of which it is a short form; the service whose address it is;
 * the wildcard that covers it (Istio: generateVirtualHostDomains). Exact ones go before short forms, and those before
 * wildcards.
 */
function hostNamed(
  context: RouteContext,
  virtual: VirtualAddresses,
  name: string,
  port: number,
): string | null {
  // Istio's ignore_port_in_host_matching.
  const bare = name.toLowerCase().replace(/:[0-9]+$/, '');
  const told = (host: string): Service | null => {
    const service = findService(context, host, port);
    return service !== null && virtual.isToldByHost(service, port) ? service : null;
  };
  const literal = canonicalAddress(bare.replace(/^\[(.*)\]$/, '$1'));
  if (literal !== null) {
    return virtual.hostsAt(literal, port).find((host) => told(host) !== null) ?? null;
  }
  // The absolute form of a name.
  const asked = bare.endsWith('.') ? bare.slice(0, -1) : bare;
  if (!HOST_NAME.test(asked)) return null;
  for (const host of fullForms(asked, context.client.namespace)) {
    const service = context.registry.services.has(host) ? told(host) : null;
    if (service !== null && !isWildcard(service.host)) return host;
    const member = findMember(context, host, port);
    if (member !== null && virtual.isToldByHost(member.service, port)) return host;
  }
  return told(asked)?.host.toLowerCase() ?? null;
}

/** The host that an SNI means: in full, or by a wildcard. */
function hostOfSni(
  context: RouteContext,
  virtual: VirtualAddresses,
  sni: string,
  port: number,
): string | null {
  const service = HOST_NAME.test(sni) ? findService(context, sni, port) : null;
  return service !== null && virtual.isToldBySni(service, port) ? service.host.toLowerCase() : null;
}

/** What a name may mean in full: itself, or `orders`, `orders.shop`, `orders.shop.svc`, `db-0.db` by our search domains. */
function fullForms(name: string, namespace: string): readonly string[] {
  const inCluster = `.svc.${CLUSTER_DOMAIN}`;
  if (name.endsWith('.svc')) return [name, `${name}.${CLUSTER_DOMAIN}`];
  const ours = `${name}.${namespace}${inCluster}`;
  return name.includes('.') ? [name, `${name}${inCluster}`, ours] : [name, ours];
}
