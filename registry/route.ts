/** Chooses the route to a service: its endpoints, and by DestinationRule or auto mTLS the TLS spoken to each. */
import { identityOf } from '../mesh/identity.ts';
import type { Endpoint, Route, RouteTls, TlsMode } from '../mesh/route.ts';
import type { Mode } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import { compareText, isWildcard, shortName, withAliases } from './hosts.ts';
import type { KnownHost } from './listeners.ts';
import type { Registry, Service, ServiceEndpoint } from './registry.ts';
import { endpointsOf, servicePort, serviceWorkloads } from './registry.ts';
import type { RuleLookup } from './rule-lookup.ts';
import type { ClientTls } from './traffic-policy.ts';
import { TLS_MODE_LABEL } from './workload-entry.ts';

/** What a route depends on, for one client workload. */
export interface RouteContext {
  readonly registry: Registry;
  readonly rules: RuleLookup;
  readonly client: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> };
  readonly mesh: { readonly trustDomain: string; readonly trustDomainAliases: readonly string[] };
  /** MeshConfig `enableAutoMtls`. */
  readonly autoMtls: boolean;
  /** MeshConfig `defaultServiceExportTo`; empty: everyone. */
  readonly defaultExportTo: readonly string[];
  /** What the client's Sidecar lets it see. */
  readonly imports: (namespace: string, host: string, port: number) => boolean;
  /** Effective PeerAuthentication mode of a workload's port; without labels that of its namespace. */
  readonly modeOf: (namespace: string, labels: ReadonlyMap<string, string>, port: number) => Mode;
}

interface Chosen {
  readonly tls: ClientTls | null;
  readonly source: string | null;
}

const NO_LABELS: ReadonlyMap<string, string> = new Map();

/**
 * Whether a service is exported to the client's namespace (`exportTo`: `*`, `.`, `~`, names).
 * Istio's initServiceRegistry: `*` beats all, then `~` hides from everyone.
 */
export function isExported(service: Service, clientNamespace: string, defaults: readonly string[]): boolean {
  const given = service.entries[0]?.exportTo ?? [];
  const exportTo = given.length > 0 ? given : defaults;
  if (exportTo.length === 0 || exportTo.includes('*')) return true;
  if (exportTo.includes('~')) return false;
  return exportTo.some((scope) => (scope === '.' ? service.namespace : scope) === clientNamespace);
}

/** The service that a host and port mean to this client; null where it knows none. */
export function findService(context: RouteContext, host: string, port: number): Service | null {
  return context.registry.find(
    host,
    (service) =>
      isExported(service, context.client.namespace, context.defaultExportTo) &&
      context.imports(service.namespace, service.host, port),
  );
}

/**
 * The route to `host` (of any case, no port in it) and service port `port`.
 * @returns null: no service of that host is known to this client, or it has no such port
 */
export function chooseRoute(context: RouteContext, host: string, port: number): Route | null {
  const service = findService(context, host, port);
  return service === null ? null : routeTo(context, service, port);
}

/** The route to a service found before; null: it has no such port. */
export function routeTo(context: RouteContext, service: Service, port: number): Route | null {
  const declared = servicePort(service, port);
  const entry = service.entries[0];
  if (declared === null || entry === undefined) return null;
  const { tls: set, source } = chosenTls(context, service, port);
  const auto = set === null;
  const mayAuto =
    auto && context.autoMtls && entry.location === 'MESH_INTERNAL' && !isNamespaceOpen(context, service);
  const found = endpointsOf(context.registry, service, port);
  const endpoints = found.map((endpoint): Endpoint => {
    const autoMode: TlsMode = mayAuto && speaksMtls(context, endpoint) ? 'ISTIO_MUTUAL' : 'DISABLE';
    return {
      address: endpoint.address,
      port: endpoint.port,
      tls: set?.mode ?? autoMode,
      weight: endpoint.workload?.weight ?? 1,
      workload: endpoint.workload,
    };
  });
  const mode =
    set?.mode ?? (endpoints.some(({ tls }) => tls === 'ISTIO_MUTUAL') ? 'ISTIO_MUTUAL' : 'DISABLE');
  const tls: RouteTls = {
    mode,
    auto,
    sni: sniOf(service, port, mode, set),
    expectedIdentities: expectedIdentities(context, service, mode, set),
    source,
    clientCertificate: mode === 'MUTUAL' ? (set?.clientCertificate ?? null) : null,
    privateKey: mode === 'MUTUAL' ? (set?.privateKey ?? null) : null,
    caCertificates: isOriginated(mode) ? (set?.caCertificates ?? null) : null,
    insecureSkipVerify: isOriginated(mode) && (set?.insecureSkipVerify ?? false),
  };
  return {
    service: { host: service.host, name: shortName(service.host), namespace: service.namespace },
    port,
    protocol: declared.protocol,
    tls,
    endpoints,
    warnings: warningsOf(service, tls, endpoints.length),
  };
}

/** The DestinationRule's word: "port-level settings replace, never merge", so one without `tls` means auto. */
function chosenTls(context: RouteContext, service: Service, port: number): Chosen {
  const match = context.rules({
    host: service.host.toLowerCase(),
    serviceNamespace: service.namespace,
    client: context.client,
  });
  if (match === null) return { tls: null, source: null };
  const { trafficPolicy, rule } = match;
  const tls = trafficPolicy.ports.has(port) ? (trafficPolicy.ports.get(port) ?? null) : trafficPolicy.tls;
  return { tls, source: tls === null ? null : `${rule.namespace}/${rule.name}` };
}

/**
 * A DISABLE of the service's namespace, or of the mesh, switches clients to plaintext for every endpoint, despite a
 * workload's own STRICT (Istio: BestEffortInferServiceMTLSMode sees namespace and mesh policies only).
 */
function isNamespaceOpen(context: RouteContext, service: Service): boolean {
  return context.modeOf(service.namespace, NO_LABELS, 0) === 'DISABLE';
}

/** Istio's getTLSModeFromWorkloadEntry ("Use security.istio.io/tlsMode if its present. If not, set TLS mode if
 * ServiceAccount is specified") and checkMtlsEnabled (not where the endpoint's port has mode DISABLE). */
function speaksMtls(context: RouteContext, { workload, port }: ServiceEndpoint): boolean {
  if (workload === null || !inMesh(workload)) return false;
  return context.modeOf(workload.namespace, workload.labels, port) !== 'DISABLE';
}

function inMesh({ labels, serviceAccount }: Workload): boolean {
  const label = labels.get(TLS_MODE_LABEL);
  return label === undefined ? serviceAccount !== '' : label === 'istio';
}

/** TLS to a server outside the mesh's own identities. */
function isOriginated(mode: TlsMode): boolean {
  return mode === 'SIMPLE' || mode === 'MUTUAL';
}

function sniOf(service: Service, port: number, mode: TlsMode, set: ClientTls | null): string | null {
  if (mode === 'DISABLE') return null;
  if (set !== null && set.sni !== null) return set.sni;
  // Istio's BuildDNSSrvSubsetKey.
  if (mode === 'ISTIO_MUTUAL') return `outbound_.${port}_._.${service.host}`;
  // Istio's auto_sni: the host asked for.
  return isWildcard(service.host) ? null : service.host;
}

/**
 * Whom the server's certificate must name. ISTIO_MUTUAL: the rule's subjectAltNames, else the accounts of all
 * endpoints and the ServiceEntry's subjectAltNames, with aliases. SIMPLE and MUTUAL: the rule's, else the
 * ServiceEntry's, else (Istio's auto_san_validation, where no `sni` is set) the host itself.
 */
function expectedIdentities(
  context: RouteContext,
  service: Service,
  mode: TlsMode,
  set: ClientTls | null,
): readonly string[] {
  if (mode === 'DISABLE' || (isOriginated(mode) && set?.insecureSkipVerify)) return [];
  if (set !== null && set.subjectAltNames.length > 0) return set.subjectAltNames;
  const { trustDomain, trustDomainAliases } = context.mesh;
  const names = new Set(service.entries.flatMap(({ subjectAltNames }) => subjectAltNames));
  for (const { namespace, serviceAccount } of serviceWorkloads(context.registry, service)) {
    if (serviceAccount !== '') names.add(identityOf(trustDomain, namespace, serviceAccount).uri);
  }
  if (names.size > 0) return withAliases(names, trustDomainAliases);
  const asked = isOriginated(mode) && set?.sni === null && !isWildcard(service.host);
  return asked ? [service.host] : [];
}

function warningsOf(service: Service, tls: RouteTls, endpoints: number): readonly string[] {
  const warnings: string[] = [];
  const verified = tls.mode !== 'DISABLE' && !tls.insecureSkipVerify;
  if (verified && tls.expectedIdentities.length === 0) {
    const any = tls.mode === 'ISTIO_MUTUAL' ? 'any identity of the mesh' : 'any certificate of a trusted CA';
    warnings.push(
      `${service.host}: no endpoint has a service account and no subjectAltNames are given, so ${any} is accepted`,
    );
  }
  if (tls.insecureSkipVerify) {
    warnings.push(`${service.host}: insecureSkipVerify: the server's certificate is not verified`);
  }
  if (endpoints === 0) {
    const none = service.entries.every(({ resolution }) => resolution === 'NONE');
    warnings.push(
      none
        ? `${service.host}: resolution NONE reaches a captured connection's own destination only`
        : `${service.host}: the service has no endpoint`,
    );
  }
  return warnings;
}

/** The services this client knows, for wildcards of its egress listeners; sorted by host. */
export function visibleHosts(context: RouteContext): readonly KnownHost[] {
  const known: KnownHost[] = [];
  for (const service of [...context.registry.services.values()].flat()) {
    if (!isExported(service, context.client.namespace, context.defaultExportTo)) continue;
    const ports = new Set(service.entries.flatMap((entry) => entry.ports.map(({ number }) => number)));
    known.push({ host: service.host, namespace: service.namespace, ports: [...ports] });
  }
  return known.sort((a, b) => compareText(a.host, b.host) || compareText(a.namespace, b.namespace));
}

/**
 * `chooseRoute` with a memory: constant time for a host that a ServiceEntry names, one comparison a wildcard for
 * the others. It holds what exists, so a client that asks for names at random cannot make it grow.
 */
export function cachedRoutes(context: RouteContext): (host: string, port: number) => Route | null {
  const exact = new Map<string, Map<number, Route | null>>();
  const byService = new Map<Service, Map<number, Route | null>>();
  const routeOf = (service: Service, port: number): Route | null => {
    if (servicePort(service, port) === null) return null;
    return remember(byService, service, port, () => routeTo(context, service, port));
  };
  return (host, port) => {
    const name = host.toLowerCase();
    const known = exact.get(name)?.get(port);
    if (known !== undefined) return known;
    const service = findService(context, name, port);
    const route = service === null ? null : routeOf(service, port);
    if (route !== null && context.registry.services.has(name)) remember(exact, name, port, () => route);
    return route;
  };
}

function remember<K>(
  cache: Map<K, Map<number, Route | null>>,
  key: K,
  port: number,
  make: () => Route | null,
): Route | null {
  let ports = cache.get(key);
  if (ports === undefined) {
    ports = new Map();
    cache.set(key, ports);
  }
  let route = ports.get(port);
  if (route === undefined) {
    route = make();
    ports.set(port, route);
  }
  return route;
}
