/** Checks a set of resources as a whole: joins what policies say with the workloads and services there are. */
import type { Located } from '../mesh/analysis.ts';
import type { Problem, Resource } from '../mesh/resource.ts';
import type { EffectiveMode, MeshSettings } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import { policyChecks } from '../policy/analysis/checks.ts';
import type { PolicySet } from '../policy/analysis/set.ts';
import { compileModes } from '../policy/peer-authentication.ts';
import { registryChecks } from '../registry/analysis/checks.ts';
import type { RegistrySet } from '../registry/analysis/set.ts';
import type { Pod } from '../registry/pod.ts';
import { buildRegistry } from '../registry/registry.ts';
import { compileRules } from '../registry/rule-lookup.ts';
import { subjectsOfSet } from './analyze-subjects.ts';
import type { ResourceSet } from './folder.ts';
import { type Decoded, decodeAll, type SnapshotInput, settingsOf } from './snapshot.ts';

type ModeOf = (workload: Pick<Workload, 'namespace' | 'labels'>, port: number) => EffectiveMode;

/**
 * Validates every resource by itself and then the set: pure, same set same answer.
 * @param set as read; its own problems are handed on
 * @param overrides what flags and environment say
 * @returns every problem, in the order of the files, each file's by line
 */
export function analyze(set: ResourceSet, overrides: SnapshotInput['overrides']): readonly Problem[] {
  const problems = [...set.problems];
  const decoded = decodeAll(set.resources, problems);
  const mesh = settingsOf(decoded.mesh, overrides);
  const registrySet = registrySetOf(set.resources, decoded, mesh);
  for (const check of registryChecks) problems.push(...check(registrySet));
  const policySet = policySetOf(set.resources, decoded, registrySet);
  for (const check of policyChecks) problems.push(...check(policySet));
  return inOrder(problems, set.resources);
}

/** Files as they were read (those of which nothing could be read last), lines, codes. */
function inOrder(problems: readonly Problem[], resources: readonly Resource[]): readonly Problem[] {
  const files = new Map<string, number>();
  for (const file of [
    ...resources.map(({ origin }) => origin.file),
    ...problems.map(({ file: name }) => name),
  ]) {
    if (!files.has(file)) files.set(file, files.size);
  }
  const place = ({ file }: Problem): number => files.get(file) ?? files.size;
  return [...problems].sort(
    (a, b) => place(a) - place(b) || a.line - b.line || (a.code < b.code ? -1 : Number(a.code > b.code)),
  );
}

/** Finds what a decoded item was made from: of two of one name the first, as the second is an Error already. */
export function locator(resources: readonly Resource[]) {
  const byName = new Map<string, Resource>();
  for (const resource of resources) {
    const key = `${resource.kind}/${resource.namespace}/${resource.name}`;
    if (!byName.has(key)) byName.set(key, resource);
  }
  return <T extends { readonly namespace: string; readonly name: string }>(
    items: readonly T[],
    kindOf: (item: T) => string,
  ): readonly Located<T>[] => {
    const taken = new Set<Resource>();
    return items.flatMap((item) => {
      const resource = byName.get(`${kindOf(item)}/${item.namespace}/${item.name}`);
      if (resource === undefined || taken.has(resource)) return [];
      taken.add(resource);
      return [{ item, resource }];
    });
  };
}

function registrySetOf(resources: readonly Resource[], decoded: Decoded, mesh: MeshSettings): RegistrySet {
  const locate = locator(resources);
  // What a Pod's status says is of the moment; a manifest has none yet.
  const pods = decoded.pods.map((pod): Pod => ({ ...pod, published: true, ready: true }));
  const registry = buildRegistry({
    services: decoded.serviceEntries,
    workloadEntries: decoded.workloadEntries,
    pods,
    slices: decoded.slices,
  });
  const peers = locate(decoded.peerAuthentications, () => 'PeerAuthentication');
  return {
    mesh,
    meshConfig: {
      resource: resources.find(({ kind }) => kind === 'MeshConfig') ?? null,
      enableAutoMtls: decoded.mesh.enableAutoMtls,
    },
    providers: decoded.mesh.extAuthz,
    registry,
    rules: compileRules(
      decoded.destinationRules,
      mesh.rootNamespace,
      decoded.mesh.defaultDestinationRuleExportTo,
    ),
    serviceEntries: locate(decoded.serviceEntries, ({ kubernetes }) =>
      kubernetes === null ? 'ServiceEntry' : 'Service',
    ),
    workloadEntries: locate(decoded.workloadEntries, () => 'WorkloadEntry'),
    pods: locate(
      decoded.pods.map(({ workload }) => workload),
      () => 'Pod',
    ),
    destinationRules: locate(decoded.destinationRules, () => 'DestinationRule'),
    sidecars: locate(decoded.sidecars, () => 'Sidecar'),
    workloads: [...registry.workloads, ...registry.pods.map(({ workload }) => workload)],
    peerAuthentications: new Map(
      peers.map(({ item, resource }) => [`${item.namespace}/${item.name}`, resource]),
    ),
    modeOf: rememberedModes(decoded, mesh.rootNamespace),
  };
}

/** Modes are merged once for each workload, or namespace and labels. */
function rememberedModes(decoded: Decoded, rootNamespace: string): ModeOf {
  const byLabels = new Map<ReadonlyMap<string, string>, Map<string, (port: number) => EffectiveMode>>();
  return ({ namespace, labels }, port) => {
    const byNamespace = byLabels.get(labels) ?? new Map<string, (port: number) => EffectiveMode>();
    byLabels.set(labels, byNamespace);
    const known =
      byNamespace.get(namespace) ??
      compileModes(decoded.peerAuthentications, namespace, labels, rootNamespace);
    byNamespace.set(namespace, known);
    return known(port);
  };
}

function policySetOf(resources: readonly Resource[], decoded: Decoded, registry: RegistrySet): PolicySet {
  const locate = locator(resources);
  const policies = {
    peerAuthentications: locate(decoded.peerAuthentications, () => 'PeerAuthentication'),
    authorizationPolicies: locate(decoded.authorizationPolicies, () => 'AuthorizationPolicy'),
    requestAuthentications: locate(decoded.requestAuthentications, () => 'RequestAuthentication'),
  };
  return {
    ...policies,
    mesh: registry.mesh,
    providers: registry.providers,
    subjects: subjectsOfSet(registry, policies),
    knowsWorkloads: registry.workloads.length > 0,
  };
}
