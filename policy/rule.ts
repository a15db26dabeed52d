/** Compiles one rule of an AuthorizationPolicy to one test of a connection and a request. */
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import type { Action, Field, Operation, Rule, Source } from './authorization-policy.ts';
import { compileCidrs } from './cidr.ts';
import {
  compileHosts,
  compileNamespaces,
  compilePorts,
  compilePrincipals,
  compileStrings,
} from './matchers.ts';
import { expandPrincipals } from './trust-domain.ts';

/** What is decided: one HTTP request, or a connection whose bytes are not understood. */
export type Layer = 'http' | 'tcp';

export interface RuleContext {
  readonly action: Action;
  readonly layer: Layer;
  /** The local trust domain first, then its aliases. */
  readonly trustDomains: readonly string[];
}

/**
 * True where the rule matches. `request` is null and `path` empty for the TCP layer, where no test that reads
 * them is ever compiled in; `path` is the request's without its query, taken once for all rules.
 */
export type Test = (connection: ConnectionFacts, request: RequestFacts | null, path: string) => boolean;

/** A field's two lists, as something to ask of the facts. */
interface Condition {
  readonly httpOnly: boolean;
  readonly field: Field;
  /** Compiles one of the two lists to a test that holds where any of its values matches. */
  compile(values: readonly string[]): Test;
}

/** An HTTP-only field: for ALLOW on TCP it takes the whole rule with it. */
class NotOnTcp extends Error {}

const always: Test = () => true;

/**
 * Compiles a rule: any source and any operation, each with all its fields.
 *
 * "An HTTP-only field anywhere in an ALLOW rule drops the whole rule, even where another `to` or `from` entry of
 * it is L4-only. In DENY only that condition is dropped, so the rule widens."
 * @returns null for a rule dropped, which matches nothing.
 */
export function compileRule(rule: Rule, context: RuleContext): Test | null {
  try {
    const from = rule.from.map((source) => allOf(sourceConditions(source, context), context));
    const to = rule.to.map((operation) => allOf(operationConditions(operation), context));
    return and([anyOf(from), anyOf(to)]);
  } catch (error) {
    if (error instanceof NotOnTcp) return null;
    throw error;
  }
}

function sourceConditions(source: Source, context: RuleContext): Condition[] {
  return [
    {
      httpOnly: false,
      field: source.principals,
      compile(values) {
        const test = compilePrincipals(expandPrincipals(values, context.trustDomains));
        return (connection) => test(connection.peer);
      },
    },
    {
      httpOnly: false,
      field: source.namespaces,
      compile(values) {
        const test = compileNamespaces(values);
        return (connection) => test(connection.peer);
      },
    },
    {
      httpOnly: false,
      field: source.ipBlocks,
      compile(values) {
        const test = compileCidrs(values);
        // "`ipBlocks` is the connection's address."
        return (connection) => test(connection.sourceIp);
      },
    },
  ];
}

function operationConditions(operation: Operation): Condition[] {
  return [
    {
      httpOnly: false,
      field: operation.ports,
      compile(values) {
        const test = compilePorts(values);
        return (connection) => test(connection.destinationPort);
      },
    },
    {
      httpOnly: true,
      field: operation.methods,
      compile(values) {
        const test = compileStrings(values, 'present');
        return (_connection, request) => request !== null && test(request.method);
      },
    },
    {
      httpOnly: true,
      field: operation.paths,
      compile(values) {
        // "Paths: the query takes no part."
        const test = compileStrings(values, 'nonEmpty');
        return (_connection, _request, path) => test(path);
      },
    },
    {
      httpOnly: true,
      field: operation.hosts,
      compile(values) {
        // "Hosts without regard to case, the port is not stripped."
        const test = compileHosts(values);
        return (_connection, request) => request !== null && test(request.host);
      },
    },
  ];
}

/** One source or operation: every field that asks something, its values matching and its notValues not. */
function allOf(conditions: readonly Condition[], context: RuleContext): Test {
  const tests: Test[] = [];
  for (const { field, httpOnly, compile } of conditions) {
    if (field.values.length === 0 && field.notValues.length === 0) continue;
    if (httpOnly && context.layer === 'tcp') {
      if (context.action === 'ALLOW') throw new NotOnTcp();
      continue;
    }
    if (field.values.length > 0) tests.push(compile(field.values));
    if (field.notValues.length > 0) {
      // "Plaintext matches no positive identity field, not even `*`; it matches every `not…` one."
      const refused = compile(field.notValues);
      tests.push((connection, request, path) => !refused(connection, request, path));
    }
  }
  return and(tests);
}

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
