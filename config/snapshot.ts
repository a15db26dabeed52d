/** Compiles a set of resources into the Snapshot that one workload's data path runs on. */
import type { Identity } from '../mesh/identity.ts';
import { identityOf, parseIdentity } from '../mesh/identity.ts';
import type { Problem, Resource } from '../mesh/resource.ts';
import { problemLine } from '../mesh/resource.ts';
import { Reporter } from '../mesh/schema.ts';
import type { IngressListener, MeshSettings, Snapshot } from '../mesh/snapshot.ts';
import type { ServiceName, Workload } from '../mesh/workload.ts';
import type { AuthorizationPolicy } from '../policy/authorization-policy.ts';
import { decodeAuthorizationPolicy } from '../policy/authorization-policy.ts';
import { compileAuthorization } from '../policy/authorize.ts';
import type { PeerAuthentication } from '../policy/peer-authentication.ts';
import { compileModes, decodePeerAuthentication } from '../policy/peer-authentication.ts';
import type { RequestAuthentication } from '../policy/request-authentication.ts';
import { compileTokenRules, decodeRequestAuthentication } from '../policy/request-authentication.ts';
import { checkAnnotations } from '../policy/webhook.ts';
import { compileCaptured } from '../registry/captured.ts';
import type { DestinationRule } from '../registry/destination-rule.ts';
import { decodeDestinationRule } from '../registry/destination-rule.ts';
import type { EndpointSlice } from '../registry/endpoint-slice.ts';
import { decodeEndpointSlice, decodeEndpoints } from '../registry/endpoint-slice.ts';
import { usableProviders } from '../registry/extension-providers.ts';
import { HBONE_PORT, takesHbone } from '../registry/hbone.ts';
import { formsOf, inboundPorts } from '../registry/inbound.ts';
import { decodeService } from '../registry/kube-service.ts';
import type { Intercept } from '../registry/listeners.ts';
import {
  capturedIngress,
  compileCapturedImports,
  compileImports,
  egressListeners,
  ingressListeners,
  selectSidecar,
} from '../registry/listeners.ts';
import type { MeshConfig } from '../registry/mesh-config.ts';
import { decodeMeshConfig, emptyMeshConfig } from '../registry/mesh-config.ts';
import { defaultMeshTls } from '../registry/mesh-tls.ts';
import type { Pod } from '../registry/pod.ts';
import { decodePod } from '../registry/pod.ts';
import { buildRegistry } from '../registry/registry.ts';
import type { RouteContext } from '../registry/route.ts';
import { cachedRoutes, chooseRoute } from '../registry/route.ts';
import { compileRules } from '../registry/rule-lookup.ts';
import type { ServiceEntry } from '../registry/service-entry.ts';
import { decodeServiceEntry } from '../registry/service-entry.ts';
import type { Sidecar } from '../registry/sidecar.ts';
import { decodeSidecar } from '../registry/sidecar.ts';
import { knownPorts, visibleHosts } from '../registry/visible.ts';
import { decodeWorkloadEntry } from '../registry/workload-entry.ts';
import { problemOf } from './raw.ts';

/** Which workload the snapshot is for. */
export type WorkloadChoice =
  /** `--workload NS/NAME`: the WorkloadEntry of that name, or else the Pod. */
  | { readonly entry: string }
  /** Given directly, as in a pod. */
  | {
      readonly namespace: string;
      readonly name: string;
      readonly labels: ReadonlyMap<string, string>;
      readonly serviceAccount: string;
      readonly addresses?: readonly string[];
      /** Its named container ports, where somebody tells them. */
      readonly ports?: ReadonlyMap<string, number>;
    };

export interface SnapshotInput {
  readonly resources: readonly Resource[];
  /** What was wrong already while reading. */
  readonly problems: readonly Problem[];
  readonly workload: WorkloadChoice;
  /** What flags and environment say; they beat mesh config, which beats the default. */
  readonly overrides: {
    readonly rootNamespace?: string | undefined;
    readonly trustDomain?: string | undefined;
    readonly trustDomainAliases?: readonly string[] | undefined;
  };
  readonly intercept: Intercept;
  readonly generation: number;
}

export interface SnapshotResult {
  /** Null: there is an Error, or the workload is not known yet. The caller keeps the last good one. */
  readonly snapshot: Snapshot | null;
  /** `WorkloadEntry NS/NAME`, where only that is missing. */
  readonly waitingFor: string | null;
  readonly problems: readonly Problem[];
}

/** Every resource, understood. */
export interface Decoded {
  mesh: MeshConfig;
  readonly peerAuthentications: PeerAuthentication[];
  readonly authorizationPolicies: AuthorizationPolicy[];
  readonly requestAuthentications: RequestAuthentication[];
  readonly serviceEntries: ServiceEntry[];
  readonly workloadEntries: Workload[];
  readonly destinationRules: DestinationRule[];
  readonly sidecars: Sidecar[];
  readonly pods: Pod[];
  readonly slices: EndpointSlice[];
}

/**
 * Decodes and compiles `input`. Pure: no I/O, same input same answer.
 * @returns a snapshot only where no problem is an Error: a set is swapped whole or not at all
 */
export function compileSnapshot(input: SnapshotInput): SnapshotResult {
  const problems = [...input.problems];
  const decoded = decodeAll(input.resources, problems);
  const mesh = settingsOf(decoded.mesh, input.overrides);
  const workload = findWorkload(input.workload, decoded);
  const identity = workload === null ? null : checkedIdentity(mesh.trustDomain, workload, problems);
  if (problems.some(({ severity }) => severity === 'Error'))
    return { snapshot: null, waitingFor: null, problems };
  if (workload === null || identity === null) {
    const name = 'entry' in input.workload ? input.workload.entry : '';
    return { snapshot: null, waitingFor: `WorkloadEntry ${name}`, problems };
  }
  const snapshot = assemble({ input, decoded, mesh, workload, identity, problems });
  return { snapshot, waitingFor: null, problems };
}

/** Decodes every resource by its kind; what is wrong goes to `problems`. */
export function decodeAll(resources: readonly Resource[], problems: Problem[]): Decoded {
  const decoded: Decoded = {
    mesh: emptyMeshConfig,
    peerAuthentications: [],
    authorizationPolicies: [],
    requestAuthentications: [],
    serviceEntries: [],
    workloadEntries: [],
    destinationRules: [],
    sidecars: [],
    pods: [],
    slices: [],
  };
  const keep = <T>(list: T[], item: T | null): void => {
    if (item !== null) list.push(item);
  };
  const readers: Readonly<Record<string, (resource: Resource) => void>> = {
    MeshConfig: (r) => {
      decoded.mesh = decodeMeshConfig(r, problems);
    },
    PeerAuthentication: (r) => keep(decoded.peerAuthentications, decodePeerAuthentication(r, problems)),
    AuthorizationPolicy: (r) => keep(decoded.authorizationPolicies, decodeAuthorizationPolicy(r, problems)),
    RequestAuthentication: (r) =>
      keep(decoded.requestAuthentications, decodeRequestAuthentication(r, problems)),
    ServiceEntry: (r) => keep(decoded.serviceEntries, decodeServiceEntry(r, problems)),
    WorkloadEntry: (r) => keep(decoded.workloadEntries, decodeWorkloadEntry(r, problems)),
    DestinationRule: (r) => keep(decoded.destinationRules, decodeDestinationRule(r, problems)),
    Sidecar: (r) => keep(decoded.sidecars, decodeSidecar(r, problems)),
    Service: (r) => keep(decoded.serviceEntries, decodeService(r, problems)),
    Pod: (r) => keep(decoded.pods, decodePod(r, problems)),
    EndpointSlice: (r) => keep(decoded.slices, decodeEndpointSlice(r, problems)),
    Endpoints: (r) => decoded.slices.push(...decodeEndpoints(r, problems)),
  };
  for (const resource of resources) {
    readers[resource.kind]?.(resource);
    // The kinds of security look at their annotations themselves: one of them may be tried out.
    if (resource.apiVersion.startsWith('networking.istio.io/')) {
      checkAnnotations(resource, new Reporter(resource, problems));
    }
  }
  return decoded;
}

export function settingsOf(config: MeshConfig, overrides: SnapshotInput['overrides']): MeshSettings {
  return {
    rootNamespace: overrides.rootNamespace ?? config.rootNamespace ?? 'istio-system',
    trustDomain: overrides.trustDomain ?? config.trustDomain ?? 'cluster.local',
    trustDomainAliases: overrides.trustDomainAliases ?? config.trustDomainAliases ?? [],
    outboundTrafficPolicy: config.outboundTrafficPolicy ?? 'ALLOW_ANY',
    pathNormalization: config.pathNormalization ?? 'BASE',
    // Istio's sidecars append by default; ours tell the app only what they have verified themselves.
    forwardedClientCert: config.forwardedClientCert ?? 'SANITIZE_SET',
    meshTls: config.meshTls ?? defaultMeshTls,
    caCertificates: config.caCertificates,
  };
}

/** The WorkloadEntry of that name, else the Pod. */
function findWorkload(choice: WorkloadChoice, { workloadEntries, pods }: Decoded): Workload | null {
  if ('entry' in choice) {
    const all = [...workloadEntries, ...pods.map(({ workload }) => workload)];
    return all.find(({ namespace, name }) => `${namespace}/${name}` === choice.entry) ?? null;
  }
  const { namespace, name, labels, serviceAccount } = choice;
  return {
    name,
    namespace,
    labels,
    serviceAccount,
    addresses: choice.addresses ?? [],
    ports: choice.ports ?? new Map(),
    weight: 1,
  };
}

/** Our identity; a workload without an account has Kubernetes' `default`. Null after a report. */
function checkedIdentity(trustDomain: string, workload: Workload, problems: Problem[]): Identity | null {
  const account = workload.serviceAccount === '' ? 'default' : workload.serviceAccount;
  const { uri } = identityOf(trustDomain, workload.namespace, account);
  const identity = parseIdentity(uri);
  if (identity === null) {
    const message = `${uri} is no SPIFFE identity: check trust domain, namespace and service account`;
    problems.push(problemOf({ file: '', line: 0, code: 'badValue', message }));
  }
  return identity;
}

interface Parts {
  readonly input: SnapshotInput;
  readonly decoded: Decoded;
  readonly mesh: MeshSettings;
  readonly workload: Workload;
  readonly identity: Identity;
  readonly problems: readonly Problem[];
}

function assemble({ input, decoded, mesh: defaults, workload, identity, problems }: Parts): Snapshot {
  const { rootNamespace } = defaults;
  const sidecar = selectSidecar(decoded.sidecars, workload, rootNamespace);
  const mesh: MeshSettings = {
    ...defaults,
    outboundTrafficPolicy: sidecar?.outboundTrafficPolicy ?? defaults.outboundTrafficPolicy,
  };
  const registry = buildRegistry({
    services: decoded.serviceEntries,
    workloadEntries: decoded.workloadEntries,
    pods: decoded.pods,
    slices: decoded.slices,
  });
  const context: RouteContext = {
    registry,
    rules: compileRules(decoded.destinationRules, rootNamespace, decoded.mesh.defaultDestinationRuleExportTo),
    client: workload,
    mesh,
    autoMtls: decoded.mesh.enableAutoMtls,
    defaultExportTo: decoded.mesh.defaultServiceExportTo,
    imports: compileImports(sidecar, workload.namespace),
    modeOf: (namespace, labels, port) =>
      compileModes(decoded.peerAuthentications, namespace, labels, rootNamespace)(port).mode,
  };
  const routes = cachedRoutes(context);
  const own: Workload = { ...workload, serviceAccount: identity.serviceAccount ?? workload.serviceAccount };
  // Flags say little, but the Pod they mean may be known, or its ports be told by injection.
  const known = 'entry' in input.workload ? null : registry.pod(`${own.namespace}/${own.name}`);
  const told = 'entry' in input.workload || own.ports.size === 0 ? null : own;
  const forms = formsOf(registry, own, known?.workload ?? told, input.intercept);
  const inbound = inboundPorts(registry, sidecar, forms);
  const named = new Set(forms.flatMap(({ ports }) => [...ports.values()]));
  const ingress = ingressListeners(sidecar, own, input.intercept);
  const extAuthz = usableProviders(decoded.mesh.extAuthz ?? new Map(), routes);
  const trusted = new Set([mesh.trustDomain, ...mesh.trustDomainAliases]);
  return {
    generation: input.generation,
    mesh,
    accessLog: decoded.mesh.accessLog,
    workload: own,
    identity,
    ingress,
    egress: egressListeners(sidecar, own.namespace, visibleHosts(context), input.intercept),
    authorization: compileAuthorization(decoded.authorizationPolicies, own, mesh, extAuthz),
    tokens: compileTokenRules(decoded.requestAuthentications, own, rootNamespace),
    extAuthz,
    modeOf: compileModes(decoded.peerAuthentications, own.namespace, own.labels, rootNamespace),
    serviceOf: (port): ServiceName | null => inbound.get(port)?.service ?? null,
    declaresPort: (port) => inbound.has(port) || named.has(port),
    hbonePort: own.hbonePort ?? HBONE_PORT,
    protocolOf: (port) => inbound.get(port)?.protocol ?? 'auto',
    route: (host, port, subset) =>
      subset === undefined ? routes(host, port) : chooseRoute(context, host, port, subset),
    portsOf: (host) => knownPorts(context, host),
    captured: compileCaptured(
      { ...context, mesh, imports: compileCapturedImports(sidecar, own.namespace) },
      own,
      capturedIngress(sidecar, own),
    ),
    workloadByIdentity({ trustDomain, namespace, serviceAccount }) {
      if (namespace === null || serviceAccount === null || !trusted.has(trustDomain)) return null;
      return registry.workloadByAccount(namespace, serviceAccount);
    },
    workloadByAddress: registry.workloadByAddress,
    warnings: [
      ...problems.filter(({ severity }) => severity === 'Warning').map(problemLine),
      ...ownWarnings(workload, own, ingress),
    ],
  };
}

/** What is odd about the workload's own part of the set. */
function ownWarnings(given: Workload, own: Workload, ingress: readonly IngressListener[]): readonly string[] {
  const warnings: string[] = [];
  if (given.serviceAccount === '') {
    const plaintext = takesHbone(given)
      ? ''
      : ', and peers without an explicit DestinationRule or tlsMode label reach it in plaintext';
    warnings.push(
      `WorkloadEntry ${given.namespace}/${given.name} has no serviceAccount: its identity is ${own.serviceAccount}${plaintext}`,
    );
  }
  for (const { bind, port, defaultEndpoint } of ingress) {
    const same = 'port' in defaultEndpoint && defaultEndpoint.port === port;
    if (same && (bind === null || bind === defaultEndpoint.host)) {
      warnings.push(
        `Sidecar ingress ${port}: bound where its defaultEndpoint is; name another port or address of the app there`,
      );
    }
  }
  return warnings;
}
