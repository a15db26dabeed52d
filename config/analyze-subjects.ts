/** Makes the workloads that policy checks look at: those of the set, and those that only a selector tells of. */
import { type Located, labelText } from '../mesh/analysis.ts';
import { selects } from '../mesh/schema.ts';
import type { Protocol, Workload } from '../mesh/workload.ts';
import type { PolicySet, Subject } from '../policy/analysis/set.ts';
import type { PeerAuthentication } from '../policy/peer-authentication.ts';
import { allServices, endpointsOn, type RegistrySet } from '../registry/analysis/set.ts';
import { inboundPorts } from '../registry/inbound.ts';
import { selectSidecar } from '../registry/listeners.ts';

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
  const servicePorts = servicePortsOf(set);
  const sidecars = Map.groupBy(
    set.sidecars.map(({ item }) => item),
    ({ namespace }) => namespace,
  );
  const { rootNamespace } = set.mesh;
  const modePorts = portsByNamespace(policies.peerAuthentications);
  for (const workload of set.workloads) {
    const { namespace } = workload;
    const own = sidecars.get(namespace) ?? [];
    const root = namespace === rootNamespace ? [] : (sidecars.get(rootNamespace) ?? []);
    const sidecar = selectSidecar([...own, ...root], workload, rootNamespace);
    const ports = new Map<number, Protocol>();
    for (const [port, { protocol }] of inboundPorts(set.registry, sidecar, workload))
      ports.set(port, protocol);
    for (const port of workload.ports.values()) if (!ports.has(port)) ports.set(port, 'auto');
    add({
      name: `${namespace}/${workload.name}`,
      known: true,
      namespace,
      labels: workload.labels,
      serviceAccount: workload.serviceAccount,
      ports,
      servicePorts: servicePorts.get(workload) ?? new Map(),
      mtlsPorts: modePorts(namespace, workload.labels),
      modeOf: (port) => set.modeOf(workload, port),
    });
  }
  const populated = new Set(subjects.keys());
  for (const { namespace, matchLabels } of assumed(policies)) {
    // Where workloads are known, a selector that matches none of them is a mistake, and told as such.
    if (populated.has(namespace) || (namespace === rootNamespace && populated.size > 0)) continue;
    const there = subjects.get(namespace) ?? [];
    if (there.some(({ labels }) => selects(matchLabels, labels))) continue;
    const text = labelText(matchLabels);
    add({
      name: `${text === '' ? 'workloads' : `workloads ${text}`} of namespace ${namespace}`,
      known: false,
      namespace,
      labels: matchLabels,
      serviceAccount: '',
      ports: new Map(),
      servicePorts: new Map(),
      mtlsPorts: modePorts(namespace, matchLabels),
      modeOf: (port) => set.modeOf({ namespace, labels: matchLabels }, port),
    });
  }
  return subjects;
}

/** What policies select, the most specific first, so that wider selectors find them there. */
function assumed({
  peerAuthentications,
  authorizationPolicies,
  requestAuthentications,
}: Policies): readonly Selecting[] {
  const all: readonly Selecting[] = [
    ...peerAuthentications,
    ...authorizationPolicies,
    ...requestAuthentications,
  ].map(({ item }) => item);
  return [...all].sort((a, b) => b.matchLabels.size - a.matchLabels.size);
}

/** For each workload: port of a service it stands behind → its own port. */
function servicePortsOf(set: RegistrySet): ReadonlyMap<Workload, ReadonlyMap<number, number>> {
  const ports = new Map<Workload, Map<number, number>>();
  for (const { port, endpoint } of endpointsOn(set, allServices(set))) {
    if (endpoint.workload === null) continue;
    const own = ports.get(endpoint.workload) ?? new Map<number, number>();
    ports.set(endpoint.workload, own);
    if (!own.has(port)) own.set(port, endpoint.port);
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
