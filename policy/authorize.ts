/** Compiles the AuthorizationPolicies of one workload to closures, and decides with them. */
import type { Authorization, Decision } from '../mesh/decision.ts';
import type { ExtAuthzProvider } from '../mesh/ext-authz.ts';
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import { selects } from '../mesh/schema.ts';
import type { MeshSettings } from '../mesh/snapshot.ts';
import type { Action, AuthorizationPolicy } from './authorization-policy.ts';
import { pathOfTarget } from './path.ts';
import { compileRule, type Layer, type Test } from './rule.ts';

/** A workload as a selector sees it. */
export interface Selected {
  readonly namespace: string;
  readonly labels: ReadonlyMap<string, string>;
}

interface CompiledRule {
  readonly test: Test;
  /** Made once, shared by every request this rule decides. */
  readonly decision: Decision;
}

/** The rules in force on one layer. */
interface CompiledRules {
  readonly deny: readonly CompiledRule[];
  /** Null: no ALLOW policy selects the workload. */
  readonly allow: readonly CompiledRule[] | null;
  readonly otherwise: Decision;
}

const NONE: readonly string[] = Object.freeze([]);

/**
 * Compiles the policies that apply to a workload: those of its namespace and of the root namespace whose selector
 * matches (a selector in the root namespace selects in every namespace).
 * @param policies of all namespaces, in any order.
 */
export function compileAuthorization(
  policies: readonly AuthorizationPolicy[],
  workload: Selected,
  mesh: MeshSettings,
  _providers: ReadonlyMap<string, ExtAuthzProvider> | null = null,
): Authorization {
  const selected = policies.filter(
    ({ namespace, matchLabels }) =>
      (namespace === workload.namespace || namespace === mesh.rootNamespace) &&
      selects(matchLabels, workload.labels),
  );
  const http = compileLayer(selected, 'http', mesh);
  const tcp = compileLayer(selected, 'tcp', mesh);
  return {
    policies: selected.map(nameOf).sort(),
    byAction: { CUSTOM: [], DENY: [], ALLOW: [], AUDIT: [] },
    ask: () => null,
    observe: null,
    explain: () => null,
    decideRequest: (connection, request) => decide(http, connection, request, pathOfTarget(request.path)),
    decideConnection: (connection) => decide(tcp, connection, null, ''),
  };
}

/**
 * "Order: DENY, then ALLOW. No ALLOW policy selecting the workload: allow. One that exists and does not match:
 * deny."
 */
function decide(
  rules: CompiledRules,
  connection: ConnectionFacts,
  request: RequestFacts | null,
  path: string,
): Decision {
  for (const rule of rules.deny) if (rule.test(connection, request, path)) return rule.decision;
  if (rules.allow !== null) {
    for (const rule of rules.allow) if (rule.test(connection, request, path)) return rule.decision;
  }
  return rules.otherwise;
}

function compileLayer(
  policies: readonly AuthorizationPolicy[],
  layer: Layer,
  mesh: MeshSettings,
): CompiledRules {
  const allowing = policies.filter(({ action }) => action === 'ALLOW');
  const missed = Object.freeze(allowing.map(nameOf).sort());
  return {
    deny: compileAction(policies, 'DENY', layer, mesh),
    allow: allowing.length === 0 ? null : compileAction(policies, 'ALLOW', layer, mesh),
    otherwise: allowing.length === 0 ? allowedByDefault : deniedByDefault(missed),
  };
}

function compileAction(
  policies: readonly AuthorizationPolicy[],
  action: Action,
  layer: Layer,
  mesh: MeshSettings,
): CompiledRule[] {
  const trustDomains = [mesh.trustDomain, ...mesh.trustDomainAliases];
  const compiled: { readonly order: string; readonly rule: CompiledRule }[] = [];
  for (const policy of policies) {
    if (policy.action !== action) continue;
    for (const [index, rule] of policy.rules.entries()) {
      const test = compileRule(rule, { action, layer, trustDomains });
      if (test === null) continue;
      // Envoy keeps rules sorted by this name and answers with the first that matches; so do we, that both
      // name the same one.
      const order = `ns[${policy.namespace}]-policy[${policy.name}]-rule[${index}]`;
      compiled.push({ order, rule: { test, decision: decisionOf(action, policy, index) } });
    }
  }
  compiled.sort((a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0));
  return compiled.map(({ rule }) => rule);
}

function nameOf(policy: AuthorizationPolicy): string {
  return `${policy.namespace}/${policy.name}`;
}

function decisionOf(action: Action, policy: AuthorizationPolicy, index: number): Decision {
  const name = nameOf(policy);
  const allowed = action === 'ALLOW';
  const prefix = allowed ? 'allowed-policy' : 'rbac_access_denied_matched_policy';
  const detail = `${prefix}[${name}]-rule[${index}]`;
  return Object.freeze({ allowed, policy: name, rule: index, detail, missed: NONE });
}

const allowedByDefault: Decision = Object.freeze({
  allowed: true,
  policy: null,
  rule: null,
  detail: 'allowed-policy[none]',
  missed: NONE,
});

function deniedByDefault(missed: readonly string[]): Decision {
  const detail = 'rbac_access_denied_matched_policy[none]';
  return Object.freeze({ allowed: false, policy: null, rule: null, detail, missed });
}
