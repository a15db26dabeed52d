/** Makes the workloads that policy checks look at: those of the set, and those that only a selector tells of. */
import { type Located, labelText } from '../mesh/analysis.ts';
import { selects } from '../mesh/schema.ts';
import { type Protocol, protocolOf, type Workload } from '../mesh/workload.ts';
import type { PolicySet, Subject } from '../policy/analysis/set.ts';
import type { PeerAuthentication } from '../policy/peer-authentication.ts';
import type { RegistrySet } from '../registry/analysis/set.ts';
import { endpointPort } from '../registry/endpoints.ts';
import { inboundPorts } from '../registry/inbound.ts';
import { selectSidecar } from '../registry/listeners.ts';
import { isSelected } from '../registry/registry.ts';
import type { ServiceEntry } from '../registry/service-entry.ts';

type Policies = Pick<PolicySet, 'peerAuthentications' | 'authorizationPolicies' | 'requestAuthentications'>;

interface Selecting {
  readonly namespace: string;
  readonly matchLabels: ReadonlyMap<string, string>;
}

/** By namespace. */
export function subjectsOfSet(set: RegistrySet, policies: Policies): ReadonlyMap<string, readonly Subject[]> {
  const subjects = new Map<string, Subject[]>();
  const add = (subject: Subject): void => {
    const list = subjects.get(subject.namespace);
    if (list === undefined) subjects.set(subject.namespace, [subject]);
    else list.push(subject);
  };
  const subjectOf = subjectMaker(set, policies.peerAuthentications);
  for (const workload of set.workloads) {
    add(subjectOf(workload, `${workload.namespace}/${workload.name}`, true));
  }
  const populated = new Set(subjects.keys());
  for (const { namespace, matchLabels } of assumed(set, policies)) {
    // Where workloads are known, a selector that matches none of them is a mistake, and told as such.
    if (populated.has(namespace) || (namespace === set.mesh.rootNamespace && populated.size > 0)) continue;
    const there = subjects.get(namespace) ?? [];
    if (there.some(({ labels }) => selects(matchLabels, labels))) continue;
    const text = labelText(matchLabels);
    const workload: Workload = {
      name: '',
      namespace,
      labels: matchLabels,
      serviceAccount: '',
      addresses: [],
      ports: new Map(),
      weight: 1,
    };
    add(
      subjectOf(
        workload,
        `${text === '' ? 'workloads' : `workloads ${text}`} of namespace ${namespace}`,
        false,
      ),
    );
  }
  for (const subject of inlineSubjects(set, subjectOf)) add(subject);
  return subjects;
}

/** Endpoints written into a ServiceEntry: what its ports declare holds for them too. */
function inlineSubjects(
  set: RegistrySet,
  subjectOf: (workload: Workload, name: string, known: boolean) => Subject,
): readonly Subject[] {
  return set.serviceEntries.flatMap(({ item }) => {
    if (item.location !== 'MESH_INTERNAL') return [];
    return item.endpoints.map((endpoint) => {
      const name = `endpoint ${endpoint.addresses[0] ?? ''} of ServiceEntry ${item.namespace}/${item.name}`;
      const subject = subjectOf({ ...endpoint, namespace: item.namespace }, name, endpoint.labels.size > 0);
      const ports = new Map(subject.ports);
      for (const port of item.ports) {
        const own = endpointPort(item, endpoint, port);
        if (own !== null) ports.set(own, port.protocol);
      }
      return { ...subject, ports };
    });
  });
}

function subjectMaker(
  set: RegistrySet,
  peerAuthentications: Policies['peerAuthentications'],
): (workload: Workload, name: string, known: boolean) => Subject {
  const sidecars = Map.groupBy(
    set.sidecars.map(({ item }) => item),
    ({ namespace }) => namespace,
  );
  const entries = Map.groupBy(
    set.serviceEntries.map(({ item }) => item),
    ({ namespace }) => namespace,
  );
  const modePorts = portsByNamespace(peerAuthentications);
  const { rootNamespace } = set.mesh;
  return (workload, name, known) => {
    const { namespace, labels, serviceAccount } = workload;
    const root = namespace === rootNamespace ? [] : (sidecars.get(rootNamespace) ?? []);
    const sidecar = selectSidecar([...(sidecars.get(namespace) ?? []), ...root], workload, rootNamespace);
    const ports = new Map<number, Protocol>();
    for (const [port, { protocol }] of inboundPorts(set.registry, sidecar, [workload]))
      ports.set(port, protocol);
    // Nobody serves it, but its name may tell: `tcp-db`, `mysql`.
    for (const [portName, port] of workload.ports) {
      if (!ports.has(port)) ports.set(port, protocolOf(undefined, portName));
    }
    return {
      name,
      known,
      namespace,
      labels,
      serviceAccount,
      ports,
      servicePorts: servicePortsOf(entries.get(namespace) ?? [], workload),
      mtlsPorts: modePorts(namespace, labels),
      modeOf: (port) => set.modeOf(workload, port),
    };
  };
}

/** What policies and services select, the most specific first, so that wider selectors find them there. */
function assumed(
  set: RegistrySet,
  { peerAuthentications, authorizationPolicies, requestAuthentications }: Policies,
): readonly Selecting[] {
  const policies: readonly Located<Selecting>[] = [
    ...peerAuthentications,
    ...authorizationPolicies,
    ...requestAuthentications,
  ];
  const services = set.serviceEntries.flatMap(({ item: { namespace, workloadSelector } }): Selecting[] =>
    workloadSelector === null ? [] : [{ namespace, matchLabels: workloadSelector }],
  );
  return [...policies.map(({ item }) => item), ...services].sort(
    (a, b) => b.matchLabels.size - a.matchLabels.size,
  );
}

/** Port of a service that selects the workload → the workload's own port. */
function servicePortsOf(entries: readonly ServiceEntry[], workload: Workload): ReadonlyMap<number, number> {
  const ports = new Map<number, number>();
  for (const entry of entries) {
    if (!isSelected(entry, workload)) continue;
    for (const port of entry.ports) {
      const own = endpointPort(entry, workload, port);
      if (own !== null && !ports.has(port.number)) ports.set(port.number, own);
    }
  }
  return ports;
}

/** The ports that PeerAuthentications of a workload name. */
function portsByNamespace(
  policies: readonly Located<PeerAuthentication>[],
): (namespace: string, labels: ReadonlyMap<string, string>) => readonly number[] {
  const named = Map.groupBy(
    policies.map(({ item }) => item).filter(({ portModes }) => portModes.size > 0),
    ({ namespace }) => namespace,
  );
  return (namespace, labels) => {
    const selecting = (named.get(namespace) ?? []).filter(({ matchLabels }) => selects(matchLabels, labels));
    return [...new Set(selecting.flatMap(({ portModes }) => [...portModes.keys()]))];
  };
}
