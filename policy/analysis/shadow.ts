/** Finds ALLOW rules that can never let anybody in, because a DENY rule of the same workloads covers them. */
import { finding, type Located, resourceName } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { type AuthorizationPolicy, asks, type Field, type Rule, type When } from '../authorization-policy.ts';
import { enforced, type PolicyCheck, subjectsOf } from './set.ts';

type Policy = Located<AuthorizationPolicy>;

/** A rule that is told from others by what it asks, and nothing else. */
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
        (one) => holdsWherever(one.policy.item.matchLabels, item.matchLabels) && coversRule(one.rule, rule),
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

/** Whether all that `narrow` matches is matched by `wide`; false where that cannot be told from the text. */
function coversRule(wide: Rule, narrow: Rule): boolean {
  return (
    coversAny(wide.from, narrow.from) &&
    coversAny(wide.to, narrow.to) &&
    wide.when.every((one) => narrow.when.some((other) => coversWhen(one, other)))
  );
}

/** An empty list matches everything. */
function coversAny<T extends object>(wide: readonly T[], narrow: readonly T[]): boolean {
  if (wide.length === 0) return true;
  if (narrow.length === 0) return false;
  return narrow.every((one) => wide.some((other) => coversEntry(other, one)));
}

function coversEntry<T extends object>(wide: T, narrow: T): boolean {
  const fields = Object.entries(wide) as [keyof T, Field][];
  return fields.every(([name, field]) => coversField(field, narrow[name] as Field));
}

function coversWhen(wide: When, narrow: When): boolean {
  return wide.key === narrow.key && coversField(wide.field, narrow.field);
}

/** What a field asks: its values, less those it excludes. */
function coversField(wide: Field, narrow: Field): boolean {
  if (!asks(wide)) return true;
  const values =
    wide.values.length === 0 ||
    (narrow.values.length > 0 &&
      narrow.values.every((value) => wide.values.some((w) => coversValue(w, value))));
  // What `wide` leaves out `narrow` must leave out as well.
  return values && wide.notValues.every((value) => narrow.notValues.includes(value));
}

/** Whether a value, itself perhaps a pattern, matches only what `wide` matches. */
function coversValue(wide: string, value: string): boolean {
  if (wide === value || wide === '*') return true;
  if (value === '*' || wide.includes('{')) return false;
  if (wide.startsWith('*')) return !value.endsWith('*') && value.endsWith(wide.slice(1));
  if (wide.endsWith('*')) return !value.startsWith('*') && value.startsWith(wide.slice(0, -1));
  return false;
}
