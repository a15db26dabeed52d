/** What the checks of security policies look at: the policies, and the workloads they hold for. */
import type { Located } from '../../mesh/analysis.ts';
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { Problem } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import type { EffectiveMode, MeshSettings } from '../../mesh/snapshot.ts';
import type { Protocol } from '../../mesh/workload.ts';
import type { AuthorizationPolicy, Operation, Rule } from '../authorization-policy.ts';
import type { PeerAuthentication } from '../peer-authentication.ts';
import type { RequestAuthentication } from '../request-authentication.ts';

/** A workload as a check sees it: one of the set, or one that a selector says there must be. */
export interface Subject {
  /** How messages name it: `shop/orders`. */
  readonly name: string;
  /** False: only a selector or a namespace tells of it. */
  readonly known: boolean;
  readonly namespace: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly serviceAccount: string;
  /** Its declared ports, by its own number. */
  readonly ports: ReadonlyMap<number, Protocol>;
  /** Port of a service it stands behind → its own port. */
  readonly servicePorts: ReadonlyMap<number, number>;
  /** Ports that a PeerAuthentication of its own names. */
  readonly mtlsPorts: readonly number[];
  modeOf(port: number): EffectiveMode;
}

export interface PolicySet {
  readonly mesh: MeshSettings;
  /** Null: no mesh config was given, and every provider counts as defined. */
  readonly providers: ReadonlyMap<string, ExtAuthzProvider> | null;
  readonly peerAuthentications: readonly Located<PeerAuthentication>[];
  readonly authorizationPolicies: readonly Located<AuthorizationPolicy>[];
  readonly requestAuthentications: readonly Located<RequestAuthentication>[];
  /** By namespace. */
  readonly subjects: ReadonlyMap<string, readonly Subject[]>;
  /** Whether the set names any workload at all. */
  readonly knowsWorkloads: boolean;
}

export type PolicyCheck = (set: PolicySet) => readonly Problem[];

/** What all three kinds of policy share. */
interface Selecting {
  readonly namespace: string;
  readonly matchLabels: ReadonlyMap<string, string>;
}

/**
 * The workloads an AuthorizationPolicy or RequestAuthentication holds for: of its namespace, or of all where it is
 * in the root namespace.
 */
export function subjectsOf(set: PolicySet, policy: Selecting): readonly Subject[] {
  const root = policy.namespace === set.mesh.rootNamespace;
  const candidates = root ? [...set.subjects.values()].flat() : (set.subjects.get(policy.namespace) ?? []);
  if (policy.matchLabels.size === 0) return candidates;
  return candidates.filter(({ labels }) => selects(policy.matchLabels, labels));
}

/** The AuthorizationPolicies in force at sidecars: targetRefs and dry-run left out. */
export function enforced(set: PolicySet): readonly Located<AuthorizationPolicy>[] {
  return set.authorizationPolicies.filter(({ item }) => item.targets.length === 0 && !item.dryRun);
}

/** A port of a workload; null: any port that nobody declared. */
export type PortOrOther = number | null;

/**
 * The ports of a workload that a rule can apply to, as far as they are known: declared, or named by a
 * PeerAuthentication; where none is declared, those the rule names and all others too.
 */
export function portsFor(subject: Subject, rule: Rule): readonly PortOrOther[] {
  const ports = new Set<PortOrOther>([...subject.ports.keys(), ...subject.mtlsPorts]);
  if (subject.ports.size === 0) {
    for (const { ports: asked } of rule.to) for (const value of asked.values) ports.add(Number(value));
    ports.add(null);
  }
  return [...ports].filter((port) => appliesTo(rule, port));
}

/** Whether a rule can match on a port, judged by its `ports`, `notPorts` and `destination.port` alone. */
export function appliesTo(rule: Rule, port: PortOrOther): boolean {
  if (rule.to.length > 0 && !rule.to.some((operation) => holdsOn(operation.ports, port))) return false;
  return rule.when.every(({ key, field }) => key !== 'destination.port' || holdsOn(field, port));
}

function holdsOn({ values, notValues }: Operation['ports'], port: PortOrOther): boolean {
  const number = (value: string): boolean => Number(value) === port;
  return (values.length === 0 || values.some(number)) && !notValues.some(number);
}

/** The mode of a port; of a port nobody named, the workload's own. */
export function modeAt(subject: Subject, port: PortOrOther): EffectiveMode {
  // Port 0 is nobody's, so it has the workload's mode.
  return subject.modeOf(port ?? 0);
}

export function portName(port: PortOrOther): string {
  return port === null ? 'every port' : `port ${port}`;
}
