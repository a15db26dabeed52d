/** Checks of the TLS that clients are told to speak, against what servers take. */
import { fewOf, finding, type Located } from '../../mesh/analysis.ts';
import type { FieldPath, Problem, Resource } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import type { EffectiveMode } from '../../mesh/snapshot.ts';
import type { Workload } from '../../mesh/workload.ts';
import type { DestinationRule } from '../destination-rule.ts';
import type { Service } from '../registry.ts';
import { tlsOnPort } from '../rule-lookup.ts';
import type { ClientTls, TrafficPolicy } from '../traffic-policy.ts';
import { TLS_MODE_LABEL } from '../workload-entry.ts';
import {
  allServices,
  endpointsOn,
  isTunnelled,
  mayHaveSidecar,
  namespaceMode,
  namespaceOfHost,
  portsOf,
  type RegistryCheck,
  type RegistrySet,
  rawAt,
  servicesOf,
} from './set.ts';

/** One `tls` of a DestinationRule. */
interface TlsSetting {
  readonly tls: ClientTls;
  readonly path: FieldPath;
  /** Null: every endpoint. */
  readonly subset: ReadonlyMap<string, string> | null;
  /** "Port-level settings replace, never merge." */
  holdsOn(port: number): boolean;
}

/** Every `tls` of a rule. */
export function settingsOf({ item, resource }: Located<DestinationRule>): readonly TlsSetting[] {
  const of = (
    policy: TrafficPolicy | null,
    path: FieldPath,
    subset: ReadonlyMap<string, string> | null,
  ): readonly TlsSetting[] => {
    if (policy === null) return [];
    const { ports } = policy;
    const settings: TlsSetting[] = [];
    if (policy.tls !== null) {
      settings.push({
        tls: policy.tls,
        path: [...path, 'tls'],
        subset,
        holdsOn: (port) => !ports.has(port),
      });
    }
    for (const [number, tls] of ports) {
      if (tls === null) continue;
      settings.push({
        tls,
        path: [...portSettingPath(resource, path, number), 'tls'],
        subset,
        holdsOn: (port) => port === number,
      });
    }
    return settings;
  };
  return [
    ...of(item.trafficPolicy, ['spec', 'trafficPolicy'], null),
    ...item.subsets.flatMap(({ labels, trafficPolicy }, i) =>
      of(trafficPolicy, ['spec', 'subsets', i, 'trafficPolicy'], labels),
    ),
  ];
}

/** Where the setting of a port stands in a traffic policy. */
export function portSettingPath(resource: Resource, policy: FieldPath, number: number): FieldPath {
  const path = [...policy, 'portLevelSettings'];
  const list = rawAt(resource, path);
  const index = Array.isArray(list)
    ? list.findIndex((item: { port?: { number?: unknown } } | null) => item?.port?.number === number)
    : -1;
  return index < 0 ? path : [...path, index];
}

/** A server that a setting speaks to. */
interface Server {
  readonly name: string;
  readonly mode: EffectiveMode;
}

/** The servers of the mesh behind a setting; where none is known, what the host's namespace says. */
function serversOf(set: RegistrySet, host: string, setting: TlsSetting): readonly Server[] {
  const services = servicesOf(set, host);
  const endpoints = endpointsOn(set, services).filter(({ port }) => setting.holdsOn(port));
  const servers = endpoints.flatMap(({ service, endpoint }): Server[] => {
    const { workload, port } = endpoint;
    if (workload === null || !mayHaveSidecar(workload)) return [];
    // A tunnel satisfies any mode.
    if (setting.tls.mode === 'ISTIO_MUTUAL' && isTunnelled(service, endpoint)) return [];
    if (setting.subset !== null && !selects(setting.subset, workload.labels)) return [];
    const name = `port ${port} of ${workload.namespace}/${workload.name}`;
    return [{ name, mode: set.modeOf(workload, port) }];
  });
  if (endpoints.length > 0 || services.some(isOutside)) return servers;
  const namespace = services[0]?.namespace ?? namespaceOfHost(host);
  if (namespace !== null) {
    return [{ name: `namespace ${namespace}`, mode: namespaceMode(set, namespace) }];
  }
  const everywhere = host === '*' || host === '*.local' || host.endsWith('.svc.cluster.local');
  return everywhere ? [{ name: 'the mesh', mode: namespaceMode(set, set.mesh.rootNamespace) }] : [];
}

function isOutside({ entries }: Service): boolean {
  return entries[0]?.location === 'MESH_EXTERNAL';
}

/** DISABLE or SIMPLE against STRICT, ISTIO_MUTUAL against DISABLE. */
export const modesAgainstServers: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const located of set.destinationRules) {
    const { item, resource } = located;
    for (const setting of settingsOf(located)) {
      const { mode } = setting.tls;
      if (mode === 'MUTUAL') continue;
      const refused = mode === 'ISTIO_MUTUAL' ? 'DISABLE' : 'STRICT';
      const servers = serversOf(set, item.host, setting).filter((server) => server.mode.mode === refused);
      const [first] = servers;
      if (first === undefined) continue;
      const where = fewOf(servers.map(({ name }) => name));
      const by = first.mode.source === null ? '' : ` by PeerAuthentication ${first.mode.source}`;
      const [check, what] =
        mode === 'ISTIO_MUTUAL'
          ? (['mutualToDisable', 'takes no mutual TLS'] as const)
          : (['notMutualToStrict', 'takes mutual TLS of the mesh only'] as const);
      const message = `${mode} to ${where}, which is ${refused}${by} and ${what}: connections fail; use ${
        mode === 'ISTIO_MUTUAL' ? 'DISABLE, or leave tls out' : 'ISTIO_MUTUAL, or leave tls out'
      }`;
      problems.push(finding(resource, [...setting.path, 'mode'], check, message));
    }
  }
  return problems;
};

/** SIMPLE and MUTUAL: who vouches for the server. */
export const verification: RegistryCheck = (set) =>
  set.destinationRules.flatMap((located) =>
    settingsOf(located).flatMap(({ tls, path }) => {
      if (tls.mode !== 'SIMPLE' && tls.mode !== 'MUTUAL') return [];
      if (tls.insecureSkipVerify) {
        const message = `the certificate of ${located.item.host} is not verified: anybody can answer in its place`;
        return [finding(located.resource, [...path, 'insecureSkipVerify'], 'notVerified', message)];
      }
      if (tls.caCertificates !== null || tls.credentialName !== null) return [];
      const message = `no caCertificates: any certificate authority the system trusts may vouch for ${located.item.host}`;
      return [finding(located.resource, [...path, 'mode'], 'systemRoots', message)];
    }),
  );

/** The app's TLS inside ours: the server sees a TLS handshake where it expects a request. */
export const doubleTls: RegistryCheck = (set) => {
  const tlsPorts = portsWithTls(set);
  return set.destinationRules.flatMap((located) =>
    settingsOf(located).flatMap((setting) => {
      if (setting.tls.mode !== 'SIMPLE' && setting.tls.mode !== 'MUTUAL') return [];
      const found = servicesOf(set, located.item.host).flatMap((service) =>
        portsOf(service)
          .filter((port) => setting.holdsOn(port) && tlsPorts.get(service)?.has(port))
          .map((port) => `${service.host}:${port} (${tlsPorts.get(service)?.get(port)})`),
      );
      if (found.length === 0) return [];
      const message =
        `the app speaks TLS itself on ${fewOf(found)}, and ${setting.tls.mode} wraps it once more, which the ` +
        'server does not expect: let the app send plaintext to a port of protocol HTTP, or remove tls here';
      return [finding(located.resource, [...setting.path, 'mode'], 'doubleTls', message)];
    }),
  );
};

/** The ports declared as HTTPS or TLS, with that word. */
function portsWithTls(set: RegistrySet): ReadonlyMap<Service, ReadonlyMap<number, string>> {
  const words = new Map<unknown, Map<number, string>>();
  for (const { item, resource } of set.serviceEntries) {
    const list = rawAt(resource, ['spec', 'ports']);
    const ports = new Map<number, string>();
    for (const port of Array.isArray(list) ? (list as (RawPort | null)[]) : []) {
      const number = port?.number ?? port?.port;
      const word = String(port?.appProtocol || declaredWord(port) || port?.name || '').split('-', 1)[0] ?? '';
      if (typeof number === 'number' && /^(?:https|tls)$/i.test(word)) ports.set(number, word.toUpperCase());
    }
    words.set(item, ports);
  }
  return new Map(
    allServices(set).map((service) => [
      service,
      new Map(service.entries.flatMap((entry) => [...(words.get(entry) ?? [])])),
    ]),
  );
}

interface RawPort {
  readonly number?: unknown;
  readonly port?: unknown;
  readonly name?: unknown;
  readonly protocol?: unknown;
  readonly appProtocol?: unknown;
}

/** A ServiceEntry's `protocol`; a Kubernetes Service's is TCP or UDP and tells nothing. */
function declaredWord(port: RawPort | null): unknown {
  return port?.port === undefined ? port?.protocol : undefined;
}

/** Where nobody set `tls`: what keeps auto mTLS from speaking to servers that are STRICT. */
export const autoMtls: RegistryCheck = (set) => {
  const found = new Map<
    Resource,
    { readonly path: FieldPath; readonly why: string; readonly names: Set<string> }
  >();
  const locate = new Map(set.serviceEntries.map(({ item, resource }) => [item, resource]));
  for (const { service, port, endpoint } of endpointsOn(set, allServices(set))) {
    const { workload } = endpoint;
    if (workload === null || !mayHaveSidecar(workload) || isTunnelled(service, endpoint)) continue;
    if (set.modeOf(workload, endpoint.port).mode !== 'STRICT' || isTold(set, service, port)) continue;
    const entry = service.entries[0];
    const cause = causeOf(set, service, entry === undefined ? null : (locate.get(entry) ?? null));
    if (cause === null) continue;
    const known = found.get(cause.resource) ?? { ...cause, names: new Set<string>() };
    found.set(cause.resource, known);
    known.names.add(`${workload.namespace}/${workload.name}`);
  }
  if (set.workloads.length === 0) return autoMtlsOff(set);
  return [...found].map(([resource, { path, why, names }]) => {
    const message = `${why}, so clients speak plaintext to ${fewOf([...names])}, which is STRICT and refuses it`;
    return finding(resource, path, 'plaintextToStrict', message);
  });
};

/**
 * Workloads that say of themselves that they are outside the mesh, or have no account, while a policy of their own
 * or of their namespace makes them STRICT. The mesh's own default is no such word.
 */
export const outsiders: RegistryCheck = (set) => {
  const strict = new Map<Workload, string>();
  for (const { service, port, endpoint } of endpointsOn(set, allServices(set))) {
    const { workload } = endpoint;
    if (workload === null || mayHaveSidecar(workload) || isTold(set, service, port)) continue;
    const { mode, source } = set.modeOf(workload, endpoint.port);
    if (mode !== 'STRICT' || source === null || source.startsWith(`${set.mesh.rootNamespace}/`)) continue;
    strict.set(workload, source);
  }
  return set.workloadEntries.flatMap(({ item, resource }) => {
    const source = strict.get(item);
    if (source === undefined) return [];
    const label = item.labels.get(TLS_MODE_LABEL);
    const why = label === undefined ? 'it has no serviceAccount' : `its label ${TLS_MODE_LABEL} is ${label}`;
    const message =
      `${why}, so clients speak plaintext to ${item.namespace}/${item.name}, which PeerAuthentication ${source} ` +
      'makes STRICT: if it has a sidecar it refuses them';
    return [finding(resource, ['spec'], 'plaintextToStrict', message)];
  });
};

/** Without any workload: whether the mesh is STRICT, and nobody tells clients to speak mutual TLS. */
function autoMtlsOff(set: RegistrySet): readonly Problem[] {
  const { resource, enableAutoMtls } = set.meshConfig;
  if (resource === null || enableAutoMtls) return [];
  if (namespaceMode(set, set.mesh.rootNamespace).mode !== 'STRICT') return [];
  const told = set.destinationRules.some((rule) =>
    settingsOf(rule).some(({ tls }) => tls.mode === 'ISTIO_MUTUAL'),
  );
  if (told) return [];
  const message =
    'auto mTLS is off and no DestinationRule says ISTIO_MUTUAL, so clients speak plaintext to a mesh that is STRICT';
  return [finding(resource, ['enableAutoMtls'], 'plaintextToStrict', message)];
}

/** Whether a DestinationRule sets `tls` for a client of the service's namespace. */
function isTold({ rules }: RegistrySet, service: Service, port: number): boolean {
  const { host, namespace } = service;
  const client = { namespace, labels: new Map<string, string>() };
  const match = rules({ host: host.toLowerCase(), serviceNamespace: namespace, client });
  return match !== null && tlsOnPort(match, null, port).tls !== null;
}

function causeOf(
  set: RegistrySet,
  service: Service,
  entry: Resource | null,
): { readonly resource: Resource; readonly path: FieldPath; readonly why: string } | null {
  if (!set.meshConfig.enableAutoMtls) {
    const { resource } = set.meshConfig;
    return resource === null ? null : { resource, path: ['enableAutoMtls'], why: 'auto mTLS is off' };
  }
  if (isOutside(service)) {
    const why = `${service.host} is MESH_EXTERNAL (the default of location), for which there is no auto mTLS`;
    return entry === null ? null : { resource: entry, path: ['spec', 'location'], why };
  }
  const open = namespaceMode(set, service.namespace);
  const policy = open.mode === 'DISABLE' ? set.peerAuthentications.get(open.source ?? '') : undefined;
  if (policy === undefined) return null;
  const why = `DISABLE for namespace ${service.namespace} is what clients go by, whatever a workload's own policy says`;
  return { resource: policy, path: ['spec', 'mtls', 'mode'], why };
}
