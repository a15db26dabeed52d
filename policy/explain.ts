/** Explains a denial: the rule that came nearest to allowing, or the one that denied, and the field that made it so. */
import type { Nearest } from '../mesh/decision.ts';
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import type { CompiledRule, Condition, DroppedRule } from './rule.ts';

/** A rule with its name. */
export interface NamedRule {
  /** `NS/NAME` */
  readonly policy: string;
  /** Counted from 0. */
  readonly index: number;
  readonly rule: CompiledRule | DroppedRule;
}

/** What is decided about. */
interface Facts {
  readonly connection: ConnectionFacts;
  readonly request: RequestFacts | null;
  readonly path: string;
}

/**
 * The rule that fewest fields keep from matching, the first of several, and the first of those fields. A rule
 * dropped on TCP can match nothing, so it is named only where there is no other.
 */
export function nearestRule(rules: readonly NamedRule[], facts: Facts): Nearest | null {
  let nearest: { readonly named: NamedRule; readonly missed: Condition } | null = null;
  let fewest = Number.POSITIVE_INFINITY;
  for (const named of rules) {
    if ('field' in named.rule) continue;
    const missed = missedBy(named.rule, facts);
    const [first] = missed;
    if (first !== undefined && missed.length < fewest) {
      fewest = missed.length;
      nearest = { named, missed: first };
    }
  }
  if (nearest !== null) return shown(nearest.named, nearest.missed, facts);
  for (const { policy, index, rule } of rules) {
    if ('field' in rule) return { policy, rule: index, ...rule, actual: null };
  }
  return null;
}

/** The field of a matching rule that asks most narrowly, the first it names; null where it asks nothing. */
export function matchedField(named: NamedRule, facts: Facts): Nearest | null {
  if ('field' in named.rule) return null;
  for (const list of named.rule.alternatives) {
    const matching = list.find((conditions) => missedIn(conditions, facts).length === 0);
    const [first] = matching ?? [];
    if (first !== undefined) return shown(named, first, facts);
  }
  return null;
}

function shown({ policy, index }: NamedRule, condition: Condition, facts: Facts): Nearest {
  const { field, expected, actual } = condition;
  const { connection, request, path } = facts;
  return { policy, rule: index, field, expected, actual: actual(connection, request, path) };
}

/** The conditions that keep a rule from matching: of each list those of its nearest alternative. */
function missedBy(rule: CompiledRule, facts: Facts): Condition[] {
  return rule.alternatives.flatMap((list) => {
    let fewest: readonly Condition[] | null = null;
    for (const conditions of list) {
      const missed = missedIn(conditions, facts);
      if (fewest === null || missed.length < fewest.length) fewest = missed;
    }
    return fewest ?? [];
  });
}

function missedIn(conditions: readonly Condition[], { connection, request, path }: Facts): Condition[] {
  return conditions.filter(({ test }) => !test(connection, request, path));
}
