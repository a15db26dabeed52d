/** Chooses the route to a service: its endpoints, and by DestinationRule or auto mTLS the TLS spoken to each. */
import type { Endpoint, Route, RouteTls, TlsMode } from '../mesh/route.ts';
import { selects } from '../mesh/schema.ts';
import type { Workload } from '../mesh/workload.ts';
import { type AutoMtlsContext, autoMtls, speaksMtls } from './auto-mtls.ts';
import type { ServiceEndpoint } from './endpoints.ts';
import { allEndpoints, endpointsOf, isOwnDestination } from './endpoints.ts';
import { allowsTunnel, TUNNEL_LABEL, takesHbone, tunnelTo } from './hbone.ts';
import { isWildcard, shortName, withAliases } from './hosts.ts';
import { findMember, type Member } from './members.ts';
import type { Service } from './registry.ts';
import { servicePort } from './registry.ts';
import type { RuleLookup } from './rule-lookup.ts';
import { tlsOnPort } from './rule-lookup.ts';
import {
  expectedIdentities,
  identitiesOfOne,
  isOriginated,
  type NamingContext,
  workloadIdentity,
} from './secure-naming.ts';
import type { ClientTls } from './traffic-policy.ts';
import { isUncaptured } from './uncaptured.ts';
import type { ClientView } from './visible.ts';
import { findService } from './visible.ts';

/** What a route depends on, for one client workload. */
export interface RouteContext extends ClientView, NamingContext, AutoMtlsContext {
  readonly rules: RuleLookup;
}

const NO_LABELS: ReadonlyMap<string, string> = new Map();

/**
 * The route to `host` (of any case, no port in it) and service port `port`.
 * @param subset a subset of the DestinationRule; null: all endpoints
 * @returns null: no service of that host is known to this client, or it has no such port or subset
 */
export function chooseRoute(
  context: RouteContext,
  host: string,
  port: number,
  subset: string | null = null,
): Route | null {
  const member = memberOf(context, host.toLowerCase(), port);
  if (member !== null) return routeTo(context, member.service, port, { subset, only: member.endpoint });
  const service = findService(context, host, port);
  return service === null ? null : routeTo(context, service, port, { subset });
}

/** The Pod that a name means, unless a service has that very name. */
function memberOf(context: RouteContext, name: string, port: number): Member | null {
  return context.registry.services.has(name) ? null : findMember(context, name, port);
}

/** What of a service is meant. */
export interface Part {
  /** A subset of its DestinationRule. */
  readonly subset?: string | null;
  /** The one endpoint called, by its own address: it is judged alone, and nobody else may answer there. */
  readonly only?: ServiceEndpoint | null;
}

/** The route to a service found before, or to a part of it; null: it has no such port or subset. */
export function routeTo(
  context: RouteContext,
  service: Service,
  port: number,
  { subset: subsetName = null, only = null }: Part = {},
): Route | null {
  const declared = servicePort(service, port);
  const entry = service.entries[0];
  if (declared === null || entry === undefined) return null;
  const { client } = context;
  const rules = context.rules({
    host: service.host.toLowerCase(),
    serviceNamespace: service.namespace,
    client,
  });
  const subset = subsetName === null ? null : (rules?.subsets.get(subsetName) ?? null);
  if (subsetName !== null && subset === null) return null;
  const { tls: set, source } = rules === null ? { tls: null, source: null } : tlsOnPort(rules, subset, port);
  const all = only === null ? endpointsOf(context.registry, service, port) : [only];
  const passedThrough = only === null && (isOwnDestination(entry) || entry.resolution === 'HEADLESS');
  const instances = passedThrough ? allEndpoints(context.registry, service, port) : [];
  const autoModeOf = autoMtls(context, service, entry, passedThrough ? instances : null);
  // As in Istio, whose ORIGINAL_DST clusters know nothing of the endpoints behind them.
  const tunnelled = !passedThrough && allowsTunnel(set);
  const expectedOf = identitiesOfOne(context, service, set);
  const endpoints = all
    .filter(({ workload }) => subset === null || selects(subset.labels, workload?.labels ?? NO_LABELS))
    .map((endpoint): Endpoint => {
      const tunnel = tunnelled ? tunnelTo(endpoint, context.mesh.trustDomain, expectedOf) : null;
      return {
        address: endpoint.address,
        port: endpoint.port,
        tls: tunnel === null ? (set?.mode ?? autoModeOf(endpoint)) : 'ISTIO_MUTUAL',
        weight: endpoint.workload?.weight ?? 1,
        workload: endpoint.workload,
        tunnel,
      };
    });
  const modes = passedThrough ? instances.map(autoModeOf) : endpoints.map(({ tls }) => tls);
  const mode = set?.mode ?? (modes.includes('ISTIO_MUTUAL') ? 'ISTIO_MUTUAL' : 'DISABLE');
  const tls: RouteTls = {
    mode,
    auto: set === null,
    sni: sniOf({ service, port, subset: subsetName ?? '', mode, set }),
    expectedIdentities:
      only?.workload && mode === 'ISTIO_MUTUAL'
        ? expectedOf(workloadIdentity(context.mesh.trustDomain, only.workload))
        : expectedIdentities(context, service, mode, set),
    source,
    ...filesOf(mode, set),
  };
  const ownDestination = isOwnDestination(entry);
  return {
    service: { host: service.host, name: shortName(service.host), namespace: service.namespace },
    port,
    protocol: declared.protocol,
    tls,
    endpoints,
    // Istio's PassthroughTargetPorts.
    ownPort: ownDestination ? (declared.targetPort ?? port) : null,
    warnings: [
      ...warningsOf(service, tls, endpoints, ownDestination),
      ...untunnelled(service, endpoints, allowsTunnel(set)),
    ],
  };
}

/**
 * The route to a workload that is called by its own address, at a port that no service declares. A caller of the mesh
 * speaks mutual TLS to one that takes it, and to nobody but it; Istio's sidecars pass such bytes through. So it does with
 * ports that the other's rules of capture leave alone: there is nobody to speak it to.
 */
export function routeToWorkload(
  context: RouteContext,
  endpoint: ServiceEndpoint & { readonly workload: Workload },
): Route {
  const { workload, address, port } = endpoint;
  const { mesh } = context;
  const identity = workloadIdentity(mesh.trustDomain, workload);
  const expected = withAliases([identity], mesh.trustDomainAliases);
  const open = isUncaptured(workload, port);
  const tunnel = open ? null : tunnelTo(endpoint, mesh.trustDomain, () => expected);
  const mutual = tunnel !== null || (!open && context.autoMtls && speaksMtls(context, endpoint));
  const mode = mutual ? 'ISTIO_MUTUAL' : 'DISABLE';
  return {
    service: { host: address, name: PASSTHROUGH, namespace: workload.namespace },
    port,
    protocol: 'auto',
    tls: {
      mode,
      auto: true,
      sni: null,
      expectedIdentities: mutual ? expected : [],
      source: null,
      ...filesOf(mode, null),
    },
    endpoints: [{ address, port, tls: mode, weight: 1, workload, tunnel }],
    ownPort: null,
    warnings: [],
  };
}

/** Istio's cluster of what is at no service's address. */
export const PASSTHROUGH = 'PassthroughCluster';

/** The files of a TLS origination; none where the mode uses none. */
function filesOf(
  mode: TlsMode,
  set: ClientTls | null,
): Pick<
  RouteTls,
  'clientCertificate' | 'privateKey' | 'caCertificates' | 'caCrl' | 'credentialName' | 'insecureSkipVerify'
> {
  const originated = isOriginated(mode);
  return {
    clientCertificate: mode === 'MUTUAL' ? (set?.clientCertificate ?? null) : null,
    privateKey: mode === 'MUTUAL' ? (set?.privateKey ?? null) : null,
    caCertificates: originated ? (set?.caCertificates ?? null) : null,
    caCrl: originated ? (set?.caCrl ?? null) : null,
    credentialName: originated ? (set?.credentialName ?? null) : null,
    insecureSkipVerify: originated && (set?.insecureSkipVerify ?? false),
  };
}

function sniOf(of: {
  readonly service: Service;
  readonly port: number;
  /** `''` for none. */
  readonly subset: string;
  readonly mode: TlsMode;
  readonly set: ClientTls | null;
}): string | null {
  const { service, port, subset, mode, set } = of;
  if (mode === 'DISABLE') return null;
  if (set !== null && set.sni !== null) return set.sni;
  // Istio's BuildDNSSrvSubsetKey.
  if (mode === 'ISTIO_MUTUAL') return `outbound_.${port}_.${subset}_.${service.host}`;
  // Istio's auto_sni: the host asked for.
  return isWildcard(service.host) ? null : service.host;
}

function warningsOf(
  service: Service,
  tls: RouteTls,
  endpoints: readonly Endpoint[],
  ownDestination: boolean,
): readonly string[] {
  const { host } = service;
  const warnings: string[] = [];
  const verified = tls.mode !== 'DISABLE' && !tls.insecureSkipVerify;
  // Behind a wildcard the name that was asked for is expected.
  const byName = ownDestination && isOriginated(tls.mode) && tls.sni === null;
  // A tunnel's peer is always somebody in particular.
  const named =
    endpoints.length > 0 &&
    endpoints.every((endpoint) => endpoint.tunnel !== null || endpoint.tls === 'DISABLE');
  if (verified && tls.expectedIdentities.length === 0 && !byName && !named) {
    const any = tls.mode === 'ISTIO_MUTUAL' ? 'any identity of the mesh' : 'any certificate of a trusted CA';
    warnings.push(
      `${host}: no endpoint has a service account and no subjectAltNames are given, so ${any} is accepted`,
    );
  }
  if (tls.insecureSkipVerify) {
    warnings.push(`${host}: insecureSkipVerify: the server's certificate is not verified`);
  }
  if (tls.credentialName !== null) {
    warnings.push(
      `${host}: credentialName ${tls.credentialName} is a Kubernetes secret, which cannot be read here: ` +
        'every connection is refused; name files instead',
    );
  }
  if (ownDestination) {
    warnings.push(
      `${host}: a connection goes where its caller means it to go (resolution NONE or DYNAMIC_DNS)`,
    );
  } else if (endpoints.length === 0) {
    warnings.push(`${host}: the service has no endpoint`);
  }
  return warnings;
}

/** Says of whom a tunnel is asked for in vain: a rule that turns tunnels off has its reasons, and is told by `analyze`. */
function untunnelled(service: Service, endpoints: readonly Endpoint[], allowed: boolean): readonly string[] {
  if (!allowed) return [];
  const labelled = endpoints.filter(
    ({ tunnel, workload }) => tunnel === null && workload !== null && takesHbone(workload),
  );
  const [first] = labelled;
  if (first === undefined) return [];
  const why = first.address.startsWith('unix:') ? 'a socket path' : 'an endpoint of a headless service';
  return [
    `${service.host}: ${first.address} is ${why} and reached without HBONE, whatever its label ${TUNNEL_LABEL} says`,
  ];
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
    const member = memberOf(context, name, port);
    if (member !== null) {
      const { service, endpoint } = member;
      return remember(exact, name, port, () => routeTo(context, service, port, { only: endpoint }));
    }
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
