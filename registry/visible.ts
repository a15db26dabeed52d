/** Which services a client knows: those exported to its namespace that its Sidecar lets it see. */
import { compareText } from '../mesh/text.ts';
import type { KnownHost } from './listeners.ts';
import { type Registry, type Service, servicePort } from './registry.ts';
import type { ServiceEntry } from './service-entry.ts';

/** A client workload, as far as it matters for what it sees. */
export interface ClientView {
  readonly registry: Registry;
  readonly client: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> };
  /** MeshConfig `defaultServiceExportTo`; empty: everyone. */
  readonly defaultExportTo: readonly string[];
  /** What the client's Sidecar lets it see. */
  readonly imports: (namespace: string, host: string, port: number) => boolean;
}

/**
 * How far an entry is exported to the client's namespace (`exportTo`: `*`, `.`, `~`, names): 1 by name, 2 to everyone,
 * 0 not at all. Istio's initServiceRegistry: `*` beats all, then `~` hides from everyone.
 */
export function exportRank(
  entry: ServiceEntry,
  clientNamespace: string,
  defaults: readonly string[],
): 0 | 1 | 2 {
  const exportTo = entry.exportTo.length > 0 ? entry.exportTo : defaults;
  if (exportTo.length === 0 || exportTo.includes('*')) return 2;
  if (exportTo.includes('~')) return 0;
  return exportTo.some((scope) => (scope === '.' ? entry.namespace : scope) === clientNamespace) ? 1 : 0;
}

const views = new WeakMap<ClientView, Map<Service, Service | null>>();

/**
 * A service as this client sees it: defined by the entries exported to it, Kubernetes' own
 * first, then those exported by name (Istio: servicesExportedToNamespace); null: none is.
 */
function viewOf(context: ClientView, service: Service): Service | null {
  let known = views.get(context);
  if (known === undefined) {
    known = new Map();
    views.set(context, known);
  }
  let view = known.get(service);
  if (view === undefined) {
    const rankOf = (entry: ServiceEntry): number =>
      exportRank(entry, context.client.namespace, context.defaultExportTo);
    const seen = service.entries.filter((entry) => rankOf(entry) > 0);
    const order = (entry: ServiceEntry): number => (entry.kubernetes === null ? rankOf(entry) : 0);
    view = seen.length === 0 ? null : { ...service, entries: seen.sort((a, b) => order(a) - order(b)) };
    known.set(service, view);
  }
  return view;
}

/** How many ExternalName Services may stand one for another. */
const MAX_ALIASES = 8;

/**
 * The service that a host and port mean to this client; null where it knows none with that port: of a port that the exact
 * host lacks, a wildcard may speak. A Kubernetes ExternalName that stands for a known service is that service (Istio:
 * resolveServiceAliases).
 */
export function findService(context: ClientView, host: string, port: number): Service | null {
  return findBy(context, host, (service) => {
    const has = isAlias(service) || servicePort(service, port) !== null;
    return has && context.imports(service.namespace, service.host, port);
  });
}

/** The ports on which this client may reach a host, in the service's order; empty where it knows none. */
export function knownPorts(context: ClientView, host: string): readonly number[] {
  const portsOf = (service: Service): readonly number[] => [
    ...new Set(service.entries.flatMap(({ ports }) => ports.map(({ number }) => number))),
  ];
  const imported = (service: Service): readonly number[] =>
    portsOf(service).filter((port) => context.imports(service.namespace, service.host, port));
  const service = findBy(context, host, (candidate) => isAlias(candidate) || imported(candidate).length > 0);
  return service === null ? [] : imported(service);
}

function isAlias(service: Service): boolean {
  return (service.entries[0]?.kubernetes?.externalName ?? null) !== null;
}

function findBy(context: ClientView, host: string, imported: (service: Service) => boolean): Service | null {
  const find = (name: string): Service | null => {
    const found = context.registry.find(name, context.client.namespace, (service) => {
      const view = viewOf(context, service);
      return view !== null && imported(view);
    });
    return found === null ? null : viewOf(context, found);
  };
  let service = find(host);
  for (let i = 0; i < MAX_ALIASES; i++) {
    const alias = service?.entries[0]?.kubernetes?.externalName ?? null;
    const target = alias === null ? null : find(alias);
    if (target === null) return service;
    service = target;
  }
  // They stand for each other in a circle.
  return null;
}

/** The services this client knows, for wildcards of its egress listeners; sorted by host. */
export function visibleHosts(context: ClientView): readonly KnownHost[] {
  const known: KnownHost[] = [];
  for (const service of [...context.registry.services.values()].flat()) {
    if (viewOf(context, service) === null) continue;
    const ports = new Set(service.entries.flatMap((entry) => entry.ports.map(({ number }) => number)));
    known.push({ host: service.host, namespace: service.namespace, ports: [...ports] });
  }
  return known.sort((a, b) => compareText(a.host, b.host) || compareText(a.namespace, b.namespace));
}
