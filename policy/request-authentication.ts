/** RequestAuthentication: the resource as a typed record, and which rules hold for one workload. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { Reporter, selects } from '../mesh/schema.ts';
import type { JwtRule, TokenRules } from '../mesh/tokens.ts';

/** One valid RequestAuthentication. */
export interface RequestAuthentication {
  readonly namespace: string;
  readonly name: string;
  /** Milliseconds since the epoch; null where the document has none. */
  readonly creationTimestamp: number | null;
  /** `selector.matchLabels`; empty where the policy selects its whole scope. */
  readonly matchLabels: ReadonlyMap<string, string>;
  readonly rules: readonly JwtRule[];
}

/**
 * Reads a RequestAuthentication by Istio's schema and webhook.
 * @returns null after reporting at least one Error; Warnings may accompany a valid one.
 */
export function decodeRequestAuthentication(
  resource: Resource,
  problems: Problem[],
): RequestAuthentication | null {
  new Reporter(resource, problems).report(['kind'], 'unsupported', 'not supported yet; remove it');
  return null;
}

/**
 * The rules of every RequestAuthentication that selects a workload.
 * @param policies of all namespaces, in any order.
 */
export function compileTokenRules(
  policies: readonly RequestAuthentication[],
  workload: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> },
  rootNamespace: string,
): TokenRules {
  const selected = policies.filter(
    ({ namespace, matchLabels }) =>
      (namespace === workload.namespace || namespace === rootNamespace) &&
      selects(matchLabels, workload.labels),
  );
  return {
    policies: selected.map(({ namespace, name }) => `${namespace}/${name}`).sort(),
    rules: selected.flatMap(({ rules }) => rules),
  };
}
