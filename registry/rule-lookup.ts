/** Which DestinationRule holds for a client and a service: Istio's PushContext.destinationRule and its merging. */
import { selects } from '../mesh/schema.ts';
import type { DestinationRule } from './destination-rule.ts';
import { byAge, mostSpecific } from './hosts.ts';
import type { ClientTls, TrafficPolicy } from './traffic-policy.ts';

export interface RuleQuery {
  /** The service's host in lower case. */
  readonly host: string;
  readonly serviceNamespace: string;
  readonly client: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> };
}

/** A traffic policy, and the rule that brought it. */
export interface SourcedPolicy {
  /** `NS/NAME`. */
  readonly source: string;
  readonly policy: TrafficPolicy;
}

export interface MergedSubset {
  readonly labels: ReadonlyMap<string, string>;
  readonly policy: SourcedPolicy | null;
}

/** The rules in force for one host, as one. */
export interface RuleMatch {
  /** Null: none of them has a traffic policy. */
  readonly policy: SourcedPolicy | null;
  readonly subsets: ReadonlyMap<string, MergedSubset>;
}

export type RuleLookup = (query: RuleQuery) => RuleMatch | null;

/** Rules of one host in one namespace that count as one. */
interface MergedRule {
  readonly exportTo: ReadonlySet<string>;
  readonly workloadSelector: ReadonlyMap<string, string> | null;
  policy: SourcedPolicy | null;
  readonly subsets: Map<string, MergedSubset>;
}

/** Host in lower case → its merged rules, in Istio's order. */
type RulesByHost = Map<string, MergedRule[]>;

/**
 * Indexes the rules once; the closure it returns finds the one for a query.
 * @param defaultExportTo MeshConfig `defaultDestinationRuleExportTo`; empty: everyone
 */
export function compileRules(
  rules: readonly DestinationRule[],
  rootNamespace: string,
  defaultExportTo: readonly string[],
): RuleLookup {
  const local = new Map<string, RulesByHost>();
  const exported = new Map<string, RulesByHost>();
  const rootPrivate = new Map<string, RulesByHost>();
  // Istio's sortConfigBySelectorAndCreationTime.
  const sorted = [...rules].sort(
    (a, b) => Number(a.workloadSelector === null) - Number(b.workloadSelector === null) || byAge(a, b),
  );
  for (const rule of sorted) {
    const { exportTo, namespace } = rule;
    const own = exportTo.includes('.') || exportTo.includes(namespace);
    if (exportTo.length === 0 || exportTo.includes('*') || own) add(local, rule);
    const isPrivate = exportTo.length === 0 ? defaultExportTo.includes('.') : exportTo.length === 1 && own;
    if (!isPrivate) add(exported, rule);
    else if (namespace === rootNamespace) add(rootPrivate, rule);
  }

  return ({ host, serviceNamespace, client }) => {
    // "1. select destination rule from proxy config namespace"; for a client in the root namespace only its
    // private ones, since the others there are the mesh's catch-alls.
    const mine = (client.namespace === rootNamespace ? rootPrivate : local).get(client.namespace);
    const first = matching(mine, host);
    if (first.length > 0) return choose(first, client.labels);
    // "check the target service's namespace for exported rules", then the root namespace's.
    for (const namespace of [serviceNamespace, rootNamespace]) {
      const found = matching(exported.get(namespace), host).filter(
        ({ exportTo }) => exportTo.size === 0 || exportTo.has('*') || exportTo.has(client.namespace),
      );
      if (found.length > 0) return choose(found, namespace === client.namespace ? client.labels : null);
    }
    return null;
  };
}

function matching(rules: RulesByHost | undefined, host: string): readonly MergedRule[] {
  if (rules === undefined) return [];
  const pattern = mostSpecific(host, rules.keys());
  return pattern === null ? [] : (rules.get(pattern) ?? []);
}

/**
 * "return destination rule if workload selector matches", else the last without a selector
 * (Istio: SidecarScope.DestinationRule).
 * @param labels the client's; null where the rules are of another namespace, whose selectors do not count
 */
function choose(found: readonly MergedRule[], labels: ReadonlyMap<string, string> | null): RuleMatch | null {
  let chosen: MergedRule | null = null;
  for (const merged of found) {
    if (merged.workloadSelector === null) chosen = merged;
    else if (labels !== null && selects(merged.workloadSelector, labels)) return merged;
  }
  return chosen;
}

/**
 * Istio's mergeDestinationRule, branch by branch: a rule is merged into those of its host and namespace with the same
 * `exportTo`, or one that it covers; it stands by itself too unless the last of them took it in. Of rules of one
 * `exportTo`, one with a workloadSelector also takes in one without, which then is lost to other workloads.
 */
function add(index: Map<string, RulesByHost>, rule: DestinationRule): void {
  let byHost = index.get(rule.namespace);
  if (byHost === undefined) {
    byHost = new Map();
    index.set(rule.namespace, byHost);
  }
  const list = byHost.get(rule.host) ?? [];
  byHost.set(rule.host, list);
  const exportTo = new Set(rule.exportTo);
  const { workloadSelector } = rule;
  let separate = true;
  for (const merged of list) {
    const equal = exportTo.size === merged.exportTo.size && exportTo.isSupersetOf(merged.exportTo);
    const wider = merged.exportTo.size > 0 && exportTo.isSupersetOf(merged.exportTo);
    separate = !equal;
    if (!equal && !wider) continue;
    const both = workloadSelector !== null && merged.workloadSelector !== null;
    const neither = workloadSelector === null && merged.workloadSelector === null;
    if (both && !sameLabels(workloadSelector, merged.workloadSelector)) {
      separate = true;
      continue;
    }
    if (both || neither) separate = false;
    merged.policy ??= policyOf(rule, rule.trafficPolicy);
    addSubsets(merged.subsets, rule);
  }
  if (!separate) return;
  const subsets = new Map<string, MergedSubset>();
  addSubsets(subsets, rule);
  list.push({ exportTo, workloadSelector, policy: policyOf(rule, rule.trafficPolicy), subsets });
}

function addSubsets(subsets: Map<string, MergedSubset>, rule: DestinationRule): void {
  for (const { name, labels, trafficPolicy } of rule.subsets) {
    // "Note: we only add the subsets and do not overwrite".
    if (!subsets.has(name)) subsets.set(name, { labels, policy: policyOf(rule, trafficPolicy) });
  }
}

function policyOf({ namespace, name }: DestinationRule, policy: TrafficPolicy | null): SourcedPolicy | null {
  return policy === null ? null : { source: `${namespace}/${name}`, policy };
}

function sameLabels(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && selects(a, b);
}

/** The TLS settings in force on a port; null `tls`: auto mTLS decides. */
export interface ChosenTls {
  readonly tls: ClientTls | null;
  readonly source: string | null;
}

/** A policy's word on one port: "port level policies do not inherit and instead to defaults if not provided". */
function onPort(sourced: SourcedPolicy | null, port: number): { chosen: ChosenTls; portLevel: boolean } {
  if (sourced === null) return { chosen: { tls: null, source: null }, portLevel: false };
  const { policy, source } = sourced;
  const portLevel = policy.ports.has(port);
  const tls = portLevel ? (policy.ports.get(port) ?? null) : policy.tls;
  return { chosen: { tls, source: tls === null ? null : source }, portLevel };
}

/**
 * The TLS settings of a port, and of a subset: its own over the rule's, and a port-level entry of its own replaces
 * the rule's even where it says nothing of TLS (Istio: MergeSubsetTrafficPolicy).
 */
export function tlsOnPort(match: RuleMatch, subset: MergedSubset | null, port: number): ChosenTls {
  const rule = onPort(match.policy, port).chosen;
  if (subset === null || subset.policy === null) return rule;
  const own = onPort(subset.policy, port);
  return own.chosen.tls !== null || own.portLevel ? own.chosen : rule;
}
