/** RequestAuthentication: the resource as a typed record, and which rules hold for one workload. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { object, Reporter, selects } from '../mesh/schema.ts';
import { compareText } from '../mesh/text.ts';
import type { JwtRule, TokenRules } from '../mesh/tokens.ts';
import { jwtRule } from './jwt-rule.ts';
import {
  boundedList,
  checkAnnotations,
  checkOneTarget,
  hasErrors,
  selector,
  type TargetRef,
  targetRef,
  targetRefs,
  targetsOf,
} from './webhook.ts';

/** One valid RequestAuthentication. */
export interface RequestAuthentication {
  readonly namespace: string;
  readonly name: string;
  /** Milliseconds since the epoch; null where the document has none. */
  readonly creationTimestamp: number | null;
  /** `selector.matchLabels`; empty where the policy selects its whole scope. */
  readonly matchLabels: ReadonlyMap<string, string>;
  /** `targetRefs`: not empty, and the policy is for gateways, waypoints or services, and for no sidecar. */
  readonly targets: readonly TargetRef[];
  readonly rules: readonly JwtRule[];
}

/** Bound of Istio's schema. */
const MAX_RULES = 4096;

const spec = object({ selector, targetRef, targetRefs, jwtRules: boundedList(jwtRule, MAX_RULES) });

/**
 * Reads a RequestAuthentication by Istio's schema and webhook.
 * @returns null after reporting at least one Error; Warnings may accompany a valid one.
 */
export function decodeRequestAuthentication(
  resource: Resource,
  problems: Problem[],
): RequestAuthentication | null {
  const reporter = new Reporter(resource, problems);
  const before = problems.length;
  checkAnnotations(resource, reporter);
  const decoded = spec(resource.spec ?? {}, ['spec'], reporter);
  if (decoded !== undefined) checkOneTarget(decoded, reporter);
  if (decoded === undefined || hasErrors(reporter, before)) return null;
  return {
    namespace: resource.namespace,
    name: resource.name,
    creationTimestamp: resource.creationTimestamp,
    matchLabels: decoded.selector ?? new Map(),
    targets: targetsOf(decoded),
    rules: decoded.jwtRules ?? [],
  };
}

/**
 * The rules of every RequestAuthentication that selects a workload: those of its namespace and of the root
 * namespace, selectors honoured in both (Istio's `getConfigsForWorkload`, `newPolicyApplier`).
 * @param policies of all namespaces, in any order.
 */
export function compileTokenRules(
  policies: readonly RequestAuthentication[],
  workload: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> },
  rootNamespace: string,
): TokenRules {
  const selected = policies.filter(
    ({ namespace, matchLabels, targets }) =>
      (namespace === workload.namespace || namespace === rootNamespace) &&
      // "if targetRef is specified, ignore the policy altogether": they are for gateways.
      targets.length === 0 &&
      selects(matchLabels, workload.labels),
  );
  // The workload's own namespace goes first, older policies before younger ones; then "sort the jwt rules by the
  // issuer alphabetically". The order matters where rules share an issuer, or a request has several tokens.
  const inOrder = selected.toSorted(
    (a, b) =>
      Number(a.namespace !== workload.namespace) - Number(b.namespace !== workload.namespace) ||
      (a.creationTimestamp ?? 0) - (b.creationTimestamp ?? 0) ||
      compareText(a.name, b.name),
  );
  return {
    policies: selected.map(({ namespace, name }) => `${namespace}/${name}`).sort(),
    rules: inOrder.flatMap(({ rules }) => rules).sort((a, b) => compareText(a.issuer, b.issuer)),
  };
}
