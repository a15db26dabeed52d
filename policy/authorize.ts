/** Compiles the AuthorizationPolicies of one workload to closures, and decides with them. */
import type { Action, Ask, Authorization, Decision, Nearest, Observed } from '../mesh/decision.ts';
import type { ExtAuthzProvider } from '../mesh/ext-authz.ts';
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import { selects } from '../mesh/schema.ts';
import type { MeshSettings } from '../mesh/snapshot.ts';
import { compareText } from '../mesh/text.ts';
import type { AuthorizationPolicy } from './authorization-policy.ts';
import { matchedField, type NamedRule, nearestRule } from './explain.ts';
import { pathOfTarget } from './path.ts';
import { type CompiledRule, compileRule, type DroppedRule, type Layer } from './rule.ts';
import { type IndexedRule, RuleIndex } from './rule-index.ts';

/** A workload as a selector sees it. */
export interface Selected {
  readonly namespace: string;
  readonly labels: ReadonlyMap<string, string>;
}

/** Mesh config's providers; null: every name counts as one that is there, of either protocol. */
type Providers = ReadonlyMap<string, Pick<ExtAuthzProvider, 'protocol' | 'fault'>> | null;

/** A rule in its place, with what it answers: made once, shared by every request this rule decides. */
interface Placed<A> extends IndexedRule {
  readonly answer: A;
  readonly named: NamedRule;
}

/** The rules of one action on one layer. */
interface ActionRules<A> {
  readonly index: RuleIndex<Placed<A>>;
  /** Every rule in its order, dropped ones too, for `explain`. */
  readonly all: readonly NamedRule[];
}

/** The rules in force on one layer. */
interface LayerRules {
  /** Null: no CUSTOM policy counts here. */
  readonly custom: ActionRules<Ask | Decision> | null;
  readonly deny: ActionRules<Decision>;
  /** Null: no ALLOW policy selects the workload. */
  readonly allow: ActionRules<Decision> | null;
  readonly otherwise: Decision;
  /** The rules of each policy that is only watched. */
  readonly watched: readonly {
    readonly policy: AuthorizationPolicy;
    readonly rules: readonly CompiledRule[];
  }[];
}

const NONE: readonly string[] = Object.freeze([]);

/**
 * The policies that hold for a workload: those of its namespace and of the root namespace whose selector matches (a
 * selector in the root namespace selects in every namespace). One with `targetRefs` never does.
 * @param policies of all namespaces, in any order.
 */
export function selectPolicies(
  policies: readonly AuthorizationPolicy[],
  workload: Selected,
  rootNamespace: string,
): readonly AuthorizationPolicy[] {
  return policies.filter(
    ({ namespace, matchLabels, targets }) =>
      targets.length === 0 &&
      (namespace === workload.namespace || namespace === rootNamespace) &&
      selects(matchLabels, workload.labels),
  );
}

/**
 * Compiles the policies that hold for a workload.
 * @param policies of all namespaces, in any order.
 * @param providers mesh config's, for CUSTOM; null where there is no mesh config to look into: each counts.
 */
export function compileAuthorization(
  policies: readonly AuthorizationPolicy[],
  workload: Selected,
  mesh: MeshSettings,
  providers: Providers = null,
): Authorization {
  const selected = selectPolicies(policies, workload, mesh.rootNamespace);
  const http = compileLayer(selected, 'http', mesh, providers);
  const tcp = compileLayer(selected, 'tcp', mesh, providers);
  const layerOf = (request: RequestFacts | null): LayerRules => (request === null ? tcp : http);
  return {
    policies: selected.map(nameOf).sort(),
    byAction: {
      CUSTOM: namesOf(selected, 'CUSTOM'),
      DENY: namesOf(selected, 'DENY'),
      ALLOW: namesOf(selected, 'ALLOW'),
      AUDIT: namesOf(selected, 'AUDIT'),
    },
    ask(connection, request) {
      const { custom } = layerOf(request);
      return custom?.index.first(connection, request, pathOf(request))?.answer ?? null;
    },
    decideRequest: (connection, request) => decide(http, connection, request, pathOfTarget(request.path)),
    decideConnection: (connection) => decide(tcp, connection, null, ''),
    observe:
      http.watched.length === 0
        ? null
        : (connection, request) => observe(layerOf(request), connection, request),
    explain: (connection, request, denial) => explain(layerOf(request), connection, request, denial),
  };
}

function pathOf(request: RequestFacts | null): string {
  return request === null ? '' : pathOfTarget(request.path);
}

/**
 * "Order: CUSTOM, then DENY, then ALLOW. No ALLOW policy selecting the workload: allow. One that exists and does
 * not match: deny." CUSTOM is asked apart: its answer comes from elsewhere.
 */
function decide(
  rules: LayerRules,
  connection: ConnectionFacts,
  request: RequestFacts | null,
  path: string,
): Decision {
  const denied = rules.deny.index.first(connection, request, path);
  if (denied !== null) return denied.answer;
  if (rules.allow === null) return rules.otherwise;
  return rules.allow.index.first(connection, request, path)?.answer ?? rules.otherwise;
}

/** "AUDIT and dry-run never change the answer." */
function observe(
  { watched }: LayerRules,
  connection: ConnectionFacts,
  request: RequestFacts | null,
): Observed {
  const path = pathOf(request);
  const audit: string[] = [];
  const dryRun: { readonly policy: string; readonly decision: 'ALLOW' | 'DENY' }[] = [];
  for (const { policy, rules } of watched) {
    if (!rules.some(({ test }) => test(connection, request, path))) continue;
    if (policy.action === 'AUDIT') audit.push(nameOf(policy));
    else dryRun.push({ policy: nameOf(policy), decision: policy.action === 'DENY' ? 'DENY' : 'ALLOW' });
  }
  return { audit, dryRun };
}

function explain(
  rules: LayerRules,
  connection: ConnectionFacts,
  request: RequestFacts | null,
  denial: Decision,
): Nearest | null {
  const facts = { connection, request, path: pathOf(request) };
  if (denial.policy === null) return nearestRule(rules.allow?.all ?? [], facts);
  const denying = [...rules.deny.all, ...(rules.custom?.all ?? [])];
  const named = denying.find(({ policy, index }) => policy === denial.policy && index === denial.rule);
  return named === undefined ? null : matchedField(named, facts);
}

function compileLayer(
  policies: readonly AuthorizationPolicy[],
  layer: Layer,
  mesh: MeshSettings,
  providers: Providers,
): LayerRules {
  const compile = <A>(action: Action, answer: (policy: AuthorizationPolicy, rule: number) => A) =>
    compileAction(
      policies.filter((policy) => policy.action === action && !policy.dryRun),
      layer,
      mesh,
      answer,
    );
  // "ALLOW policies that are all dry-run do not close."
  const allowing = policies.filter(({ action, dryRun }) => action === 'ALLOW' && !dryRun);
  const asking = policies.filter(({ action }) => action === 'CUSTOM');
  const watched = policies.filter(({ action, dryRun }) => action === 'AUDIT' || dryRun);
  return {
    custom: customCounts(asking, layer, providers)
      ? compile('CUSTOM', customAnswer(asking, providers))
      : null,
    deny: compile('DENY', decisionOf),
    allow: allowing.length === 0 ? null : compile('ALLOW', decisionOf),
    otherwise: allowing.length === 0 ? allowedByDefault : deniedByDefault(allowing.map(nameOf).sort()),
    watched: [...watched]
      .sort((a, b) => compareText(nameOf(a), nameOf(b)))
      .map((policy) => ({
        policy,
        rules: compileRules(policy, layer, mesh).filter((rule) => 'test' in rule),
      })),
  };
}

function compileRules(
  { action, namespace, rules }: AuthorizationPolicy,
  layer: Layer,
  { trustDomain, trustDomainAliases }: MeshSettings,
): readonly (CompiledRule | DroppedRule)[] {
  const context = { action, layer, trustDomains: [trustDomain, ...trustDomainAliases], namespace };
  return rules.map((rule) => compileRule(rule, context));
}

function compileAction<A>(
  policies: readonly AuthorizationPolicy[],
  layer: Layer,
  mesh: MeshSettings,
  answer: (policy: AuthorizationPolicy, rule: number) => A,
): ActionRules<A> {
  const rules = policies.flatMap((policy) =>
    compileRules(policy, layer, mesh).map((rule, index) => ({
      policy,
      index,
      // Envoy keeps rules sorted by this name and answers with the first that matches; so do we, that both
      // name the same one. Each provider of CUSTOM has its own filter, in the order of their names.
      order: `${policy.provider}\nns[${policy.namespace}]-policy[${policy.name}]-rule[${index}]`,
      rule,
    })),
  );
  rules.sort((a, b) => compareText(a.order, b.order));
  const all = rules.map(({ policy, index, rule }) => ({ policy: nameOf(policy), index, rule }));
  const placed = rules.flatMap(({ policy, index, rule }, order): Placed<A>[] => {
    const named = all[order];
    if (!('test' in rule) || named === undefined) return [];
    return [{ order, test: rule.test, offers: rule.offers, answer: answer(policy, index), named }];
  });
  return { index: new RuleIndex(placed), all };
}

function nameOf(policy: AuthorizationPolicy): string {
  return `${policy.namespace}/${policy.name}`;
}

function namesOf(policies: readonly AuthorizationPolicy[], action: Action): readonly string[] {
  return policies
    .filter((policy) => policy.action === action && !policy.dryRun)
    .map(nameOf)
    .sort();
}

function providerNames(policies: readonly AuthorizationPolicy[]): readonly string[] {
  return [...new Set(policies.map(({ provider }) => provider))].sort();
}

/** "On TCP only `envoyExtAuthzGrpc` providers count": one that speaks HTTP is passed over, one that is not there is not. */
function customCounts(policies: readonly AuthorizationPolicy[], layer: Layer, providers: Providers): boolean {
  const names = providerNames(policies);
  const [name = ''] = names;
  if (names.length !== 1 || layer === 'http') return names.length > 0;
  const provider = providers?.get(name);
  return provider === undefined || provider.fault !== null || provider.protocol === 'grpc';
}

/**
 * What a CUSTOM rule answers: ask its provider, or, where Istio finds no single usable one, deny what it matches.
 * Istio takes one provider a workload: with two, each policy denies.
 */
function customAnswer(
  policies: readonly AuthorizationPolicy[],
  providers: Providers,
): (policy: AuthorizationPolicy, rule: number) => Ask | Decision {
  const names = providerNames(policies);
  return (policy, rule) => {
    const { provider: name } = policy;
    const why =
      names.length > 1
        ? `one workload has one provider, not ${names.join(' and ')}`
        : faultOf(name, providers);
    if (why === null) return Object.freeze({ provider: name, policy: nameOf(policy), rule });
    const denial = decisionOf(policy, rule);
    return Object.freeze({ ...denial, detail: `${denial.detail}-deny-due-to-bad-CUSTOM-action: ${why}` });
  };
}

function faultOf(name: string, providers: Providers): string | null {
  if (providers === null) return null;
  const provider = providers.get(name);
  return provider === undefined
    ? `provider ${name} is not among mesh config's extensionProviders`
    : provider.fault;
}

/** What a rule of `policy` that matches decides; all but ALLOW deny. */
function decisionOf(policy: AuthorizationPolicy, index: number): Decision {
  const name = nameOf(policy);
  const allowed = policy.action === 'ALLOW';
  const detail = allowed
    ? `allowed-policy[${name}]-rule[${index}]`
    : `rbac_access_denied_matched_policy[ns[${policy.namespace}]-policy[${policy.name}]-rule[${index}]]`;
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
  return Object.freeze({ allowed: false, policy: null, rule: null, detail, missed: Object.freeze(missed) });
}
