/** Checks of PeerAuthentication against the set: policies that never hold, and ports nobody has. */
import { fewOf, finding, type Located, resourceName } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import { compileModes, older, type PeerAuthentication } from '../peer-authentication.ts';
import type { PolicyCheck, PolicySet, Subject } from './set.ts';

type Policy = Located<PeerAuthentication>;

/** "A PeerAuthentication with a selector in the root namespace never holds, not even for workloads there." */
export const rootSelectors: PolicyCheck = (set) =>
  set.peerAuthentications
    .filter(({ item }) => item.namespace === set.mesh.rootNamespace && item.matchLabels.size > 0)
    .map(({ resource }) =>
      finding(
        resource,
        ['spec', 'selector'],
        'rootSelector',
        "a PeerAuthentication with a selector in the root namespace never holds; move it to the workload's " +
          'namespace, or remove the selector to make it the default of the mesh',
      ),
    );

/** "In one scope the oldest creationTimestamp wins, even when its mode is UNSET; ties go by name." */
export const peerConflicts: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  const wide = new Map<string, Policy[]>();
  for (const policy of set.peerAuthentications) {
    if (policy.item.matchLabels.size > 0) continue;
    const { namespace } = policy.item;
    wide.set(namespace, [...(wide.get(namespace) ?? []), policy]);
  }
  for (const [namespace, policies] of wide) {
    const winner = winnerOf(policies);
    const scope = namespace === set.mesh.rootNamespace ? 'the mesh' : `namespace ${namespace}`;
    for (const policy of policies) {
      if (winner === null || policy === winner) continue;
      problems.push(
        finding(policy.resource, ['metadata', 'name'], 'scopeConflict', loses(policy, winner, scope)),
      );
    }
  }
  return [...problems, ...workloadConflicts(set)];
};

/** Two with selectors on one workload: told once for each policy that loses, naming the workloads where it does. */
function workloadConflicts(set: PolicySet): readonly Problem[] {
  const lost = new Map<Policy, { readonly winner: Policy; readonly names: string[] }>();
  const selecting = withSelector(set);
  for (const [namespace, subjects] of set.subjects) {
    const candidates = selecting.get(namespace) ?? [];
    if (candidates.length < 2) continue;
    for (const subject of subjects) {
      const policies = candidates.filter(({ item }) => selects(item.matchLabels, subject.labels));
      const winner = policies.length < 2 ? null : winnerOf(policies);
      for (const policy of policies) {
        if (winner === null || policy === winner) continue;
        const known = lost.get(policy);
        if (known === undefined) lost.set(policy, { winner, names: [subject.name] });
        else known.names.push(subject.name);
      }
    }
  }
  return [...lost].map(([policy, { winner, names }]) =>
    finding(policy.resource, ['spec', 'selector'], 'workloadConflict', loses(policy, winner, fewOf(names))),
  );
}

/** Those with a selector that can hold, by namespace. */
function withSelector(set: PolicySet): ReadonlyMap<string, readonly Policy[]> {
  const byNamespace = new Map<string, Policy[]>();
  for (const policy of set.peerAuthentications) {
    const { namespace, matchLabels } = policy.item;
    if (matchLabels.size === 0 || namespace === set.mesh.rootNamespace) continue;
    const list = byNamespace.get(namespace) ?? [];
    byNamespace.set(namespace, list);
    list.push(policy);
  }
  return byNamespace;
}

function winnerOf(policies: readonly Policy[]): Policy | null {
  const winner = policies.reduce<PeerAuthentication | null>((held, { item }) => older(held, item), null);
  return policies.find(({ item }) => item === winner) ?? null;
}

function loses(policy: Policy, winner: Policy, where: string): string {
  const why =
    policy.item.creationTimestamp === winner.item.creationTimestamp
      ? 'its name comes first'
      : 'it is the older one';
  const unset = winner.item.mode === 'UNSET' ? ', although its mode is UNSET,' : '';
  const { origin } = winner.resource;
  const place = `${origin.file}:${origin.lineOf(['metadata', 'name'])}`;
  return `has no effect on ${where}: ${resourceName(winner.resource)} (${place}) holds there${unset} because ${why}; keep one`;
}

/**
 * "A namespace-level DISABLE switches the client to plaintext despite a workload's STRICT": for workloads that only a
 * selector tells of. Of known ones the check of services knows what clients are told.
 */
export const openNamespaces: PolicyCheck = (set) => {
  const policies = set.peerAuthentications.map(({ item }) => item);
  const problems: Problem[] = [];
  for (const [namespace, subjects] of set.subjects) {
    const { mode, source } = compileModes(policies, namespace, new Map(), set.mesh.rootNamespace)(0);
    const open = set.peerAuthentications.find(({ item }) => `${item.namespace}/${item.name}` === source);
    if (mode !== 'DISABLE' || open === undefined) continue;
    const strict = subjects.filter(
      (subject) =>
        !subject.known && [0, ...subject.mtlsPorts].some((port) => subject.modeOf(port).mode === 'STRICT'),
    );
    if (strict.length === 0) continue;
    const names = fewOf(strict.map(({ name }) => name));
    const message = `clients go by the DISABLE of a whole namespace and speak plaintext to ${names}, which is STRICT and refuses it`;
    problems.push(finding(open.resource, ['spec', 'mtls', 'mode'], 'plaintextToStrict', message));
  }
  return problems;
};

/** `portLevelMtls` "is keyed by the workload's port, not the service's". */
export const mtlsPorts: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  for (const [namespace, policies] of withSelector(set)) {
    const subjects = (set.subjects.get(namespace) ?? []).filter(({ ports }) => ports.size > 0);
    for (const { item, resource } of policies) {
      const selected = subjects.filter(({ labels }) => selects(item.matchLabels, labels));
      for (const port of item.portModes.keys()) {
        const wrong = wrongPort(selected, port);
        if (wrong === null) continue;
        problems.push(finding(resource, ['spec', 'portLevelMtls', String(port)], ...wrong));
      }
    }
  }
  return problems;
};

/**
 * What is odd about a port that a policy names, where none of its workloads declares it.
 * @param subjects those that declare ports
 */
export function wrongPort(
  subjects: readonly Subject[],
  port: number,
): ['servicePort' | 'unknownPort', string] | null {
  const [first] = subjects;
  if (first === undefined || subjects.some(({ ports }) => ports.has(port))) return null;
  for (const { name, servicePorts } of subjects) {
    const own = servicePorts.get(port);
    if (own === undefined) continue;
    return ['servicePort', `${port} is a port of the service; what counts is the port of ${name}: ${own}`];
  }
  const names = fewOf(subjects.map(({ name }) => name));
  const declared = fewOf([...first.ports.keys()].map(String), 8);
  return ['unknownPort', `nothing declares port ${port} for ${names} (${first.name} has ${declared})`];
}
