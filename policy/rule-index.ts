/** Finds the first rule that matches without trying every one: rules that ask for exact values are looked up by them. */
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import type { Dimension, Test } from './attributes.ts';

/** A dimension by which a rule may be looked up: wherever the rule matches, the facts have one of these keys. */
export interface Offer {
  readonly dimension: Dimension;
  readonly keys: readonly string[];
}

export interface IndexedRule {
  /** Its place: of several that match, the lowest is the answer. */
  readonly order: number;
  readonly test: Test;
  readonly offers: readonly Offer[];
}

/** Rules found under the keys of one dimension. */
interface Lookup<R> {
  readonly dimension: Dimension;
  readonly buckets: Map<string, R[]>;
  /** All of them, for facts whose key cannot be told. */
  readonly all: R[];
}

/** So few are tried faster than they are looked up. */
const FEW = 4;

export class RuleIndex<R extends IndexedRule> {
  readonly #lookups: readonly Lookup<R>[];
  /** Rules without a key. */
  readonly #rest: readonly R[];

  /** @param rules in their order */
  constructor(rules: readonly R[]) {
    const lookups = new Map<string, Lookup<R>>();
    const rest: R[] = [];
    const crowd = crowds(rules);
    for (const rule of rules) {
      const offer = rules.length <= FEW ? null : best(rule, crowd);
      if (offer === null) rest.push(rule);
      else add(rule, offer, lookups);
    }
    this.#lookups = [...lookups.values()];
    this.#rest = rest;
  }

  /** The first rule, by order, that matches; null where none does. */
  first(connection: ConnectionFacts, request: RequestFacts | null, path: string): R | null {
    let found: R | null = null;
    for (const { dimension, buckets, all } of this.#lookups) {
      const keys = dimension.keysOf(connection, request, path);
      if (keys === null) continue;
      if (keys === undefined) found = earlier(found, all, connection, request, path);
      else if (typeof keys === 'string') {
        const bucket = buckets.get(keys);
        if (bucket !== undefined) found = earlier(found, bucket, connection, request, path);
      } else {
        for (const key of keys) {
          const bucket = buckets.get(key);
          if (bucket !== undefined) found = earlier(found, bucket, connection, request, path);
        }
      }
    }
    return earlier(found, this.#rest, connection, request, path);
  }
}

/** The first of `rules` that matches and comes before `found`; else `found`. */
function earlier<R extends IndexedRule>(
  found: R | null,
  rules: readonly R[],
  connection: ConnectionFacts,
  request: RequestFacts | null,
  path: string,
): R | null {
  for (const rule of rules) {
    if (found !== null && rule.order >= found.order) return found;
    if (rule.test(connection, request, path)) return rule;
  }
  return found;
}

function crowdKey(dimension: Dimension, key: string): string {
  return `${dimension.name}\n${key}`;
}

/** How many rules would share each key. */
function crowds(rules: readonly IndexedRule[]): ReadonlyMap<string, number> {
  const crowd = new Map<string, number>();
  for (const { offers } of rules) {
    for (const { dimension, keys } of offers) {
      for (const key of keys) {
        const name = crowdKey(dimension, key);
        crowd.set(name, (crowd.get(name) ?? 0) + 1);
      }
    }
  }
  return crowd;
}

/** The offer whose fullest key is the emptiest; null where a rule has none. */
function best(rule: IndexedRule, crowd: ReadonlyMap<string, number>): Offer | null {
  let chosen: Offer | null = null;
  let fewest = Number.POSITIVE_INFINITY;
  for (const offer of rule.offers) {
    let most = 0;
    for (const key of offer.keys) most = Math.max(most, crowd.get(crowdKey(offer.dimension, key)) ?? 0);
    if (most < fewest) {
      fewest = most;
      chosen = offer;
    }
  }
  return chosen;
}

function add<R extends IndexedRule>(rule: R, offer: Offer, lookups: Map<string, Lookup<R>>): void {
  const { dimension, keys } = offer;
  let lookup = lookups.get(dimension.name);
  if (lookup === undefined) {
    lookup = { dimension, buckets: new Map(), all: [] };
    lookups.set(dimension.name, lookup);
  }
  lookup.all.push(rule);
  for (const key of keys) {
    const bucket = lookup.buckets.get(key);
    if (bucket === undefined) lookup.buckets.set(key, [rule]);
    else bucket.push(rule);
  }
}
