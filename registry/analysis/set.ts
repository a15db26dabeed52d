/** What the checks of services, endpoints and client settings look at. */
import type { Located } from '../../mesh/analysis.ts';
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { FieldPath, Problem, Resource } from '../../mesh/resource.ts';
import type { EffectiveMode, MeshSettings } from '../../mesh/snapshot.ts';
import type { Workload } from '../../mesh/workload.ts';
import type { DestinationRule } from '../destination-rule.ts';
import { endpointsOf, type ServiceEndpoint } from '../endpoints.ts';
import { canTunnel, takesHbone } from '../hbone.ts';
import { isCoveredBy, isWildcard } from '../hosts.ts';
import type { Registry, Service } from '../registry.ts';
import type { RuleLookup } from '../rule-lookup.ts';
import type { ServiceEntry } from '../service-entry.ts';
import type { Sidecar } from '../sidecar.ts';
import { TLS_MODE_LABEL } from '../workload-entry.ts';

export interface RegistrySet {
  readonly mesh: MeshSettings;
  readonly meshConfig: { readonly resource: Resource | null; readonly enableAutoMtls: boolean };
  /** Mesh config's `extensionProviders`; null: there is no mesh config. */
  readonly providers: ReadonlyMap<string, ExtAuthzProvider> | null;
  readonly registry: Registry;
  readonly rules: RuleLookup;
  /** Kubernetes Services among them. */
  readonly serviceEntries: readonly Located<ServiceEntry>[];
  readonly workloadEntries: readonly Located<Workload>[];
  readonly pods: readonly Located<Workload>[];
  readonly destinationRules: readonly Located<DestinationRule>[];
  readonly sidecars: readonly Located<Sidecar>[];
  /** WorkloadEntries and Pods, ready or not. */
  readonly workloads: readonly Workload[];
  /** By `NS/NAME`: what a mode's source names. */
  readonly peerAuthentications: ReadonlyMap<string, Resource>;
  modeOf(workload: Pick<Workload, 'namespace' | 'labels'>, port: number): EffectiveMode;
}

export type RegistryCheck = (set: RegistrySet) => readonly Problem[];

const NO_LABELS: ReadonlyMap<string, string> = new Map();

/** The mode of a whole namespace. */
export function namespaceMode(set: RegistrySet, namespace: string): EffectiveMode {
  return set.modeOf({ namespace, labels: NO_LABELS }, 0);
}

/** Every service of the set. */
export function allServices(set: RegistrySet): readonly Service[] {
  return [...set.registry.services.values()].flat();
}

/** The services that a host means, itself perhaps a wildcard; in lower case. */
export function servicesOf(set: RegistrySet, host: string): readonly Service[] {
  const exact = set.registry.services.get(host);
  if (exact !== undefined) return exact;
  if (isWildcard(host)) {
    return allServices(set).filter((service) => isCoveredBy(service.host.toLowerCase(), host));
  }
  const covering = set.registry.find(host, '', () => true);
  return covering === null ? [] : [covering];
}

/** The endpoints of every port of some services. */
export function endpointsOn(
  set: RegistrySet,
  services: readonly Service[],
): readonly { readonly service: Service; readonly port: number; readonly endpoint: ServiceEndpoint }[] {
  return services.flatMap((service) =>
    portsOf(service).flatMap((port) =>
      endpointsOf(set.registry, service, port).map((endpoint) => ({ service, port, endpoint })),
    ),
  );
}

/** The ports of a service, each once. */
export function portsOf(service: Service): readonly number[] {
  return [...new Set(service.entries.flatMap(({ ports }) => ports.map(({ number }) => number)))];
}

/**
 * Whether a workload may have a sidecar that PeerAuthentication speaks to. A Pod that does not say otherwise is
 * taken to: its namespace's label is not among the files.
 */
export function mayHaveSidecar(workload: Workload): boolean {
  if (takesHbone(workload)) return true;
  const { kind, labels, serviceAccount } = workload;
  const label = labels.get(TLS_MODE_LABEL);
  if (label !== undefined) return label === 'istio';
  return kind === 'Pod' ? labels.get('sidecar.istio.io/inject') !== 'false' : serviceAccount !== '';
}

/** Whether clients reach an endpoint by HBONE where no rule tells them otherwise. */
export function isTunnelled({ entries }: Service, endpoint: ServiceEndpoint): boolean {
  return entries[0]?.resolution !== 'HEADLESS' && canTunnel(endpoint);
}

/** `shop` of `orders.shop.svc.cluster.local` and of `*.shop.svc.cluster.local`; null for another host. */
export function namespaceOfHost(host: string): string | null {
  return /^[^.]+\.([^.]+)\.svc(?:\.|$)/.exec(host)?.[1] ?? null;
}

/** The value of a resource at a path as it was written; undefined where there is none. */
export function rawAt(resource: Resource, path: FieldPath): unknown {
  // A Kubernetes object's `spec` is the whole document, Istio's is the field alone.
  const whole = resource.apiVersion.includes('istio.io/') ? { spec: resource.spec } : resource.spec;
  return path.reduce<unknown>(
    (value, part) =>
      typeof value === 'object' && value !== null
        ? (value as Record<string, unknown>)[String(part)]
        : undefined,
    whole,
  );
}
