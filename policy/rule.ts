/** Compiles one rule of an AuthorizationPolicy: to one test for the hot path, and to conditions that explain it. */
import type { Action } from '../mesh/decision.ts';
import {
  type Actual,
  type Attribute,
  claim,
  destinationIp,
  header,
  hosts,
  methods,
  namespaces,
  type PolicyContext,
  paths,
  ports,
  principals,
  remoteIp,
  requestPrincipals,
  serviceAccounts,
  sni,
  sourceIp,
  type Test,
  trustDomains,
} from './attributes.ts';
import { asks, type Field, type Rule, twinOf } from './authorization-policy.ts';
import type { Offer } from './rule-index.ts';
import { claimPath, headerName } from './when-key.ts';

/** What is decided: one HTTP request, or a connection whose bytes are not understood. */
export type Layer = 'http' | 'tcp';

export interface RuleContext extends PolicyContext {
  readonly action: Action;
  readonly layer: Layer;
}

/** One list of values, as something that holds or does not. */
export interface Condition {
  /** `from.source.principals`, `to.operation.notPaths`, `when[request.headers[x]].values` */
  readonly field: string;
  readonly expected: readonly string[];
  readonly test: Test;
  readonly actual: Actual;
}

/** A rule that asks HTTP fields where there are none: an ALLOW rule on TCP, which matches nothing. */
export interface DroppedRule {
  /** The first such field. */
  readonly field: string;
  readonly expected: readonly string[];
}

export interface CompiledRule {
  readonly test: Test;
  /** One of each list's alternatives must hold, with all its conditions; an empty list asks nothing. */
  readonly alternatives: readonly (readonly (readonly Condition[])[])[];
  /** Where the rule may be looked up. */
  readonly offers: readonly Offer[];
}

/** A field as written, and what it asks of. */
interface Asked {
  readonly name: string;
  readonly notName: string;
  readonly field: Field;
  readonly attribute: Attribute;
}

/** Istio puts the fields of a source in this order. */
const SOURCE: readonly (readonly [name: keyof Rule['from'][number], attribute: Attribute])[] = [
  ['principals', principals],
  ['requestPrincipals', requestPrincipals],
  ['serviceAccounts', serviceAccounts],
  ['trustDomains', trustDomains],
  ['namespaces', namespaces],
  ['remoteIpBlocks', remoteIp],
  ['ipBlocks', sourceIp],
];

const OPERATION: readonly (readonly [name: keyof Rule['to'][number], attribute: Attribute])[] = [
  ['hosts', hosts],
  ['methods', methods],
  ['paths', paths],
  ['ports', ports],
];

const WHEN: ReadonlyMap<string, Attribute> = new Map([
  ['source.ip', sourceIp],
  ['remote.ip', remoteIp],
  ['source.namespace', namespaces],
  ['source.serviceAccount', serviceAccounts],
  ['source.trustDomain', trustDomains],
  ['source.principal', principals],
  ['request.auth.principal', requestPrincipals],
  ['request.auth.audiences', claim(['aud'])],
  ['request.auth.presenter', claim(['azp'])],
  ['destination.ip', destinationIp],
  ['destination.port', ports],
  ['connection.sni', sni],
]);

/** The attribute of a `when` key, which validation has checked. */
function attributeOf(key: string): Attribute {
  const fixed = WHEN.get(key);
  if (fixed !== undefined) return fixed;
  const name = headerName(key);
  if (name !== null) return header(name);
  const path = claimPath(key);
  if (path !== null) return claim(path);
  throw new TypeError(`not a key of when: ${key}`);
}

function askedOf<N extends string>(
  owner: string,
  [name, attribute]: readonly [name: N, attribute: Attribute],
  fields: Readonly<Record<N, Field>>,
): Asked {
  return {
    name: `${owner}.${name}`,
    notName: `${owner}.${twinOf(name)}`,
    field: fields[name],
    attribute,
  };
}

function listsOf({ from, to, when }: Rule): readonly (readonly (readonly Asked[])[])[] {
  return [
    from.map((source) => SOURCE.map((row) => askedOf('from.source', row, source))),
    to.map((operation) => OPERATION.map((row) => askedOf('to.operation', row, operation))),
    ...when.map(({ key, field }) => [
      [
        {
          name: `when[${key}].values`,
          notName: `when[${key}].notValues`,
          field,
          attribute: attributeOf(key),
        },
      ],
    ]),
  ];
}

/**
 * Compiles a rule: any source, any operation and every condition, each with all its fields.
 *
 * "An HTTP-only field anywhere in an ALLOW rule drops the whole rule, even where another `to` or `from` entry of
 * it is L4-only. In DENY and AUDIT only that condition is dropped, so the rule widens." CUSTOM is as DENY.
 */
export function compileRule(rule: Rule, context: RuleContext): CompiledRule | DroppedRule {
  const lists = listsOf(rule).map((list) =>
    list.map((alternative) => alternative.filter(({ field }) => asks(field))),
  );
  if (context.layer === 'tcp' && context.action === 'ALLOW') {
    const http = lists.flat(2).find(({ attribute }) => attribute.httpOnly);
    if (http !== undefined) {
      const { name, notName: twin, field } = http;
      const positive = field.values.length > 0;
      return { field: positive ? name : twin, expected: positive ? field.values : field.notValues };
    }
  }
  const kept = lists.map((list) =>
    list.map((alternative) =>
      alternative.filter(({ attribute }) => context.layer === 'http' || !attribute.httpOnly),
    ),
  );
  const alternatives = kept.map((list) =>
    list.map((alternative) => alternative.flatMap((asked) => conditions(asked, context))),
  );
  return {
    test: and(alternatives.map((list) => anyOf(list.map((all) => and(all.map(({ test }) => test)))))),
    alternatives,
    offers: kept.flatMap((list) => offersOf(list, context)),
  };
}

function conditions({ name, notName: twin, field, attribute }: Asked, context: RuleContext): Condition[] {
  const { values, notValues } = field;
  const { actual } = attribute;
  const list: Condition[] = [];
  if (values.length > 0) {
    list.push({ field: name, expected: values, test: attribute.compile(values, context), actual });
  }
  if (notValues.length > 0) {
    // "Plaintext matches no positive identity field, not even `*`; it matches every `not…` one."
    const refused = attribute.compile(notValues, context);
    const test: Test = (connection, request, path) => !refused(connection, request, path);
    list.push({ field: twin, expected: notValues, test, actual });
  }
  return list;
}

/** The dimensions by which a list of alternatives may be looked up: those that each of them asks exact values of. */
function offersOf(list: readonly (readonly Asked[])[], context: RuleContext): Offer[] {
  const [first, ...others] = list;
  if (first === undefined) return [];
  const offers: Offer[] = [];
  for (const { attribute } of first) {
    const { dimension } = attribute;
    if (dimension === null) continue;
    const keys = new Set<string>();
    const all = [first, ...others].every((alternative) => {
      const found = alternative.find(
        (asked) => asked.attribute === attribute && asked.field.values.length > 0,
      );
      const own = found === undefined ? null : attribute.keys(found.field.values, context);
      for (const key of own ?? []) keys.add(key);
      return own !== null;
    });
    if (all) offers.push({ dimension, keys: [...keys] });
  }
  return offers;
}

const always: Test = () => true;

function and(tests: readonly Test[]): Test {
  const [first, second, ...more] = tests.filter((test) => test !== always);
  if (first === undefined) return always;
  if (second === undefined) return first;
  const both: Test = (connection, request, path) =>
    first(connection, request, path) && second(connection, request, path);
  return more.length === 0 ? both : and([both, ...more]);
}

/** An empty list asks nothing. */
function anyOf(tests: readonly Test[]): Test {
  const [first, ...more] = tests;
  if (first === undefined || tests.includes(always)) return always;
  if (more.length === 0) return first;
  return (connection, request, path) => {
    for (const test of tests) if (test(connection, request, path)) return true;
    return false;
  };
}
