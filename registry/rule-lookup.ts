/** Which DestinationRule holds for a client and a service: Istio's PushContext.destinationRule and its merging. */
import { selects } from '../mesh/schema.ts';
import type { DestinationRule } from './destination-rule.ts';
import { byAge, mostSpecific } from './hosts.ts';
import type { TrafficPolicy } from './traffic-policy.ts';

export interface RuleQuery {
  /** The service's host in lower case. */
  readonly host: string;
  readonly serviceNamespace: string;
  readonly client: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> };
}

/** The traffic policy in force, and the rule that brought it. */
export interface RuleMatch {
  readonly rule: DestinationRule;
  readonly trafficPolicy: TrafficPolicy;
}

export type RuleLookup = (query: RuleQuery) => RuleMatch | null;

/** Rules of one host in one namespace that count as one. */
interface MergedRule {
  readonly exportTo: ReadonlySet<string>;
  readonly workloadSelector: ReadonlyMap<string, string> | null;
  /** The first rule with a traffic policy; null while none had one. */
  policy: DestinationRule | null;
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
    else if (labels !== null && selects(merged.workloadSelector, labels)) {
      chosen = merged;
      break;
    }
  }
  const rule = chosen?.policy ?? null;
  return rule === null || rule.trafficPolicy === null ? null : { rule, trafficPolicy: rule.trafficPolicy };
}

/**
 * Istio's mergeDestinationRule: rules of one host, namespace, selector and exportTo count as one, whose traffic
 * policy is the first that there is.
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
  const policy = rule.trafficPolicy === null ? null : rule;
  let separate = true;
  for (const merged of list) {
    const equal = exportTo.size === merged.exportTo.size && exportTo.isSupersetOf(merged.exportTo);
    const wider = merged.exportTo.size > 0 && exportTo.isSupersetOf(merged.exportTo);
    if (!equal && !wider) continue;
    if (!sameSelector(rule.workloadSelector, merged.workloadSelector)) continue;
    separate = false;
    merged.policy ??= policy;
  }
  if (separate) list.push({ exportTo, workloadSelector: rule.workloadSelector, policy });
}

function sameSelector(a: ReadonlyMap<string, string> | null, b: ReadonlyMap<string, string> | null): boolean {
  if (a === null || b === null) return a === b;
  return a.size === b.size && selects(a, b);
}
