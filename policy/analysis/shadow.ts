/** Finds ALLOW rules that can never let anybody in, because a DENY rule of the same workloads covers them. */
import { finding, type Located, resourceName } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { type AuthorizationPolicy, asks, type Field, type Rule } from '../authorization-policy.ts';
import { enforced, type PolicyCheck, subjectsOf } from './set.ts';

type Policy = Located<AuthorizationPolicy>;

interface DenyRule {
  readonly policy: Policy;
  readonly rule: Rule;
  readonly index: number;
}

export const shadowedRules: PolicyCheck = (set) => {
  const policies = enforced(set);
  const denies = new Map<string, DenyRule[]>();
  for (const policy of policies) {
    if (policy.item.action !== 'DENY') continue;
    const list = denies.get(policy.item.namespace) ?? [];
    denies.set(policy.item.namespace, list);
    policy.item.rules.forEach((rule, index) => {
      list.push({ policy, rule, index });
    });
  }
  if (denies.size === 0) return [];
  const problems: Problem[] = [];
  const { rootNamespace } = set.mesh;
  for (const { item, resource } of policies) {
    if (item.action !== 'ALLOW') continue;
    const own = denies.get(item.namespace) ?? [];
    const candidates =
      item.namespace === rootNamespace ? own : [...own, ...(denies.get(rootNamespace) ?? [])];
    item.rules.forEach((rule, i) => {
      const deny = candidates.find(
        ({ policy: { item: other }, rule: wide }) =>
          holdsWherever(other.matchLabels, item.matchLabels) &&
          coversRule(wide, rule, other.namespace === item.namespace),
      );
      if (deny === undefined || subjectsOf(set, item).length === 0) return;
      const by = `rule ${deny.index} of ${resourceName(deny.policy.resource)}`;
      const message = `lets nobody in: ${by} denies all that it matches, and DENY is asked before ALLOW`;
      problems.push(finding(resource, ['spec', 'rules', i], 'shadowed', message));
    });
  }
  return problems;
};

/** Whether every workload that `narrow` selects is selected by `wide` too: by what the selectors say alone. */
function holdsWherever(wide: ReadonlyMap<string, string>, narrow: ReadonlyMap<string, string>): boolean {
  return [...wide].every(([key, value]) => narrow.get(key) === value);
}

/**
 * Whether all that `narrow` matches is matched by `wide`; false where that cannot be told from the text.
 * @param sameNamespace of the two policies: short service accounts belong to their policy's
 */
function coversRule(wide: Rule, narrow: Rule, sameNamespace: boolean): boolean {
  return (
    coversAny(wide.from, narrow.from, sameNamespace) &&
    coversAny(wide.to, narrow.to, sameNamespace) &&
    wide.when.every(({ key, field }) =>
      narrow.when.some((other) => other.key === key && coversField(key, field, other.field, sameNamespace)),
    )
  );
}

/** An empty list matches everything. */
function coversAny<T extends object>(
  wide: readonly T[],
  narrow: readonly T[],
  sameNamespace: boolean,
): boolean {
  if (wide.length === 0) return true;
  if (narrow.length === 0) return false;
  return narrow.every((one) =>
    wide.some((other) =>
      (Object.entries(other) as [keyof T & string, Field][]).every(([name, field]) =>
        coversField(name, field, one[name] as Field, sameNamespace),
      ),
    ),
  );
}

/** Fields whose values are more than text: aliases expand them, or they are taken apart. A pattern of them covers itself. */
const NOT_PLAIN = new Set([
  'principals',
  'source.principal',
  'trustDomains',
  'source.trustDomain',
  'requestPrincipals',
  'request.auth.principal',
]);
const ACCOUNTS = new Set(['serviceAccounts', 'source.serviceAccount']);

/** What a field asks: its values, less those it excludes. */
function coversField(name: string, wide: Field, narrow: Field, sameNamespace: boolean): boolean {
  if (!asks(wide)) return true;
  const means = (value: string): boolean => sameNamespace || !ACCOUNTS.has(name) || value.includes('/');
  const covers = (a: string, b: string): boolean =>
    a === b ? means(a) : a === '*' || (!NOT_PLAIN.has(name) && coversValue(a, b));
  const values =
    wide.values.length === 0 ||
    (narrow.values.length > 0 &&
      narrow.values.every((value) => wide.values.some((other) => covers(other, value))));
  // What `wide` leaves out `narrow` must leave out as well.
  return values && wide.notValues.every((value) => narrow.notValues.includes(value) && means(value));
}

/** Whether a pattern matches all that a value, itself perhaps a pattern, does. */
function coversValue(wide: string, value: string): boolean {
  if (value === '*' || wide.includes('{')) return false;
  if (wide.startsWith('*')) return !value.endsWith('*') && value.endsWith(wide.slice(1));
  if (wide.endsWith('*')) return !value.startsWith('*') && value.startsWith(wide.slice(0, -1));
  return false;
}
