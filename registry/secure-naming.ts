/** Secure naming: whom a client expects at the other end of TLS, by the service or by the endpoint of a tunnel. */
import { identityOf } from '../mesh/identity.ts';
import type { TlsMode } from '../mesh/route.ts';
import type { Workload } from '../mesh/workload.ts';
import { serviceWorkloads } from './endpoints.ts';
import { isWildcard, withAliases } from './hosts.ts';
import type { Registry, Service } from './registry.ts';
import { serviceAge } from './registry.ts';
import type { ClientTls } from './traffic-policy.ts';

/** What names are made of. */
export interface NamingContext {
  readonly registry: Registry;
  readonly mesh: { readonly trustDomain: string; readonly trustDomainAliases: readonly string[] };
}

/** The SPIFFE URI of a workload; one without an account has Kubernetes' `default`. */
export function workloadIdentity(trustDomain: string, { namespace, serviceAccount }: Workload): string {
  return identityOf(trustDomain, namespace, serviceAccount || 'default').uri;
}

/** TLS to a server outside the mesh's own identities. */
export function isOriginated(mode: TlsMode): boolean {
  return mode === 'SIMPLE' || mode === 'MUTUAL';
}

/**
 * Whom the server's certificate must name. ISTIO_MUTUAL: the rule's subjectAltNames, else the accounts of all
 * endpoints and the ServiceEntry's subjectAltNames, with aliases. SIMPLE and MUTUAL: the rule's, else the
 * ServiceEntry's in the same way ("Use subject alt names specified in service entry", which a Kubernetes Service is
 * not), else (Istio's auto_san_validation, where no `sni` is set) the host itself.
 */
export function expectedIdentities(
  context: NamingContext,
  service: Service,
  mode: TlsMode,
  set: ClientTls | null,
): readonly string[] {
  if (mode === 'DISABLE' || (isOriginated(mode) && set?.insecureSkipVerify)) return [];
  if (set !== null && set.subjectAltNames.length > 0) return set.subjectAltNames;
  const { trustDomain, trustDomainAliases } = context.mesh;
  const names = new Set(ownNames(context, service));
  for (const { namespace, serviceAccount } of serviceWorkloads(context.registry, service)) {
    if (serviceAccount !== '') names.add(identityOf(trustDomain, namespace, serviceAccount).uri);
  }
  const counts = !isOriginated(mode) || service.entries[0]?.kubernetes === null;
  if (counts && names.size > 0) return withAliases(names, trustDomainAliases);
  const asked = isOriginated(mode) && set?.sni === null && !isWildcard(service.host);
  return asked ? [service.host] : [];
}

/**
 * Whom the peer of a tunnel, or of a call to one workload's own address, must be: the rule's subjectAltNames, else the one workload that is meant, not any of the
 * service's, or whom the service itself names (ztunnel: workload_and_services_san); with aliases.
 * @returns by the workload's identity; one list for all endpoints of an identity
 */
export function identitiesOfOne(
  context: NamingContext,
  service: Service,
  set: ClientTls | null,
): (identity: string) => readonly string[] {
  if (set !== null && set.subjectAltNames.length > 0) return () => set.subjectAltNames;
  const own = ownNames(context, service);
  const lists = new Map<string, readonly string[]>();
  return (identity) => {
    const known = lists.get(identity);
    if (known !== undefined) return known;
    const list = withAliases([identity, ...own], context.mesh.trustDomainAliases);
    lists.set(identity, list);
    return list;
  };
}

/** Whom the service itself names, whoever stands behind it. Istio's addServiceAccounts: of several entries the newest. */
function ownNames({ mesh }: NamingContext, service: Service): readonly string[] {
  const newest = [...service.all].sort(serviceAge).at(-1);
  const accounts = newest?.kubernetes?.serviceAccounts ?? [];
  return [
    ...(newest?.subjectAltNames ?? []),
    ...accounts.map((account) => identityOf(mesh.trustDomain, service.namespace, account).uri),
  ];
}
