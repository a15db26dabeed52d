/** AuthorizationPolicy: the resource as a typed record, read and checked by the rules of Istio's webhook. */
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import { type Decoder, enumOf, listOf, object, Reporter, string, unsupported } from '../mesh/schema.ts';
import { parseCidr } from './cidr.ts';
import { annotationPath, checkAnnotations, DRY_RUN, hasErrors, selector } from './webhook.ts';

export type Action = 'ALLOW' | 'DENY';

/** A field and its `not` twin. Both empty: the field asks nothing. */
export interface Field {
  readonly values: readonly string[];
  readonly notValues: readonly string[];
}

/** `from[].source`: all its fields must hold. */
export interface Source {
  readonly principals: Field;
  readonly namespaces: Field;
  readonly ipBlocks: Field;
}

/** `to[].operation`: all its fields must hold. */
export interface Operation {
  readonly hosts: Field;
  readonly ports: Field;
  readonly methods: Field;
  readonly paths: Field;
}

/** Holds where any source and any operation does; an empty list holds always. */
export interface Rule {
  readonly from: readonly Source[];
  readonly to: readonly Operation[];
}

/** One valid AuthorizationPolicy. */
export interface AuthorizationPolicy {
  readonly namespace: string;
  readonly name: string;
  /** `selector.matchLabels`; empty where the policy selects its whole scope. */
  readonly matchLabels: ReadonlyMap<string, string>;
  readonly action: Action;
  readonly rules: readonly Rule[];
}

/** Bound of `rules` and of `from` in Istio's schema. */
const MAX_ITEMS = 512;

/** One value of a field: not empty, and as `check` asks (its answer is what is wrong, or null). */
function text(check: (value: string) => string | null = () => null): Decoder<string> {
  return (value, path, reporter) => {
    const decoded = string(value, path, reporter);
    if (decoded === undefined) return undefined;
    const wrong = decoded === '' ? 'an empty value is not allowed' : check(decoded);
    if (wrong !== null) reporter.report(path, 'badValue', wrong);
    return decoded;
  };
}

/** A list of at most `MAX_ITEMS`. */
function boundedList<T>(member: Decoder<T>): Decoder<readonly T[]> {
  const decode = listOf(member);
  return (value, path, reporter) => {
    if (Array.isArray(value) && value.length > MAX_ITEMS) {
      reporter.report(path, 'badValue', `has ${value.length} entries; Istio takes at most ${MAX_ITEMS}`);
      return undefined;
    }
    return decode(value, path, reporter);
  };
}

/** Istio's `ValidatePorts`: a decimal number up to 65535, 0 included. */
function wrongPort(value: string): string | null {
  return /^[0-9]+$/.test(value) && Number(value) <= 65535
    ? null
    : `must be a port number from 0 to 65535, not ${JSON.stringify(value)}`;
}

/** Istio's `ValidateIPs`. */
function wrongBlock(value: string): string | null {
  return parseCidr(value) === null
    ? `must be an IP address or CIDR block, not ${JSON.stringify(value)}`
    : null;
}

const pathValue: Decoder<string> = (value, path, reporter) => {
  const decoded = text(wrongBraces)(value, path, reporter);
  return decoded !== undefined && isTemplate(decoded)
    ? unsupported('a path template')(decoded, path, reporter)
    : decoded;
};

function isTemplate(value: string): boolean {
  return value.includes('{*}') || value.includes('{**}');
}

/** Istio's `CheckValidPathTemplate`: braces belong to templates alone. */
function wrongBraces(value: string): string | null {
  return /[{}]/.test(value) && !isTemplate(value)
    ? '{ and } are allowed only as the path templates {*} and {**}'
    : null;
}

/** The lists of values that fields have. */
const values = listOf(text());
const ports = listOf(text(wrongPort));
const blocks = listOf(text(wrongBlock));
const paths = listOf(pathValue);

const NOTHING: readonly string[] = [];

function field(positive: readonly string[] | undefined, negative: readonly string[] | undefined): Field {
  return { values: positive ?? NOTHING, notValues: negative ?? NOTHING };
}

const sourceFields = object({
  principals: values,
  notPrincipals: values,
  namespaces: values,
  notNamespaces: values,
  ipBlocks: blocks,
  notIpBlocks: blocks,
  requestPrincipals: unsupported('requestPrincipals'),
  notRequestPrincipals: unsupported('notRequestPrincipals'),
  remoteIpBlocks: unsupported('remoteIpBlocks'),
  notRemoteIpBlocks: unsupported('notRemoteIpBlocks'),
  serviceAccounts: unsupported('serviceAccounts'),
  notServiceAccounts: unsupported('notServiceAccounts'),
  trustDomains: unsupported('trustDomains'),
  notTrustDomains: unsupported('notTrustDomains'),
});

const source: Decoder<Source> = (value, path, reporter) => {
  const before = reporter.problems.length;
  const decoded = sourceFields(value, path, reporter);
  if (decoded === undefined) return undefined;
  const asked: Source = {
    principals: field(decoded.principals, decoded.notPrincipals),
    namespaces: field(decoded.namespaces, decoded.notNamespaces),
    ipBlocks: field(decoded.ipBlocks, decoded.notIpBlocks),
  };
  reportEmpty(Object.values(asked), before, path, reporter);
  return asked;
};

const operationFields = object({
  hosts: values,
  notHosts: values,
  ports: ports,
  notPorts: ports,
  methods: values,
  notMethods: values,
  paths,
  notPaths: paths,
});

const operation: Decoder<Operation> = (value, path, reporter) => {
  const before = reporter.problems.length;
  const decoded = operationFields(value, path, reporter);
  if (decoded === undefined) return undefined;
  const asked: Operation = {
    hosts: field(decoded.hosts, decoded.notHosts),
    ports: field(decoded.ports, decoded.notPorts),
    methods: field(decoded.methods, decoded.notMethods),
    paths: field(decoded.paths, decoded.notPaths),
  };
  reportEmpty(Object.values(asked), before, path, reporter);
  return asked;
};

/** "`from.source` must not be empty": an empty list is as good as none. Silent where something else was wrong. */
function reportEmpty(fields: readonly Field[], before: number, path: FieldPath, reporter: Reporter): void {
  const empty = fields.every((asked) => asked.values.length === 0 && asked.notValues.length === 0);
  if (empty && !hasErrors(reporter, before)) {
    reporter.report(path, 'missing', 'must ask for something; leave the list above out to match everything');
  }
}

/** An entry of `from` or `to`, whose one field Istio wants to be there. */
function wrapped<T>(name: 'source' | 'operation', member: Decoder<T>): Decoder<T> {
  const decode = object({ [name]: member });
  return (value, path, reporter) => {
    const before = reporter.problems.length;
    const inner = decode(value, path, reporter)?.[name];
    if (inner === undefined && !hasErrors(reporter, before)) {
      reporter.report([...path, name], 'missing', 'must be given');
    }
    return inner;
  };
}

const rule = object({
  from: boundedList(wrapped('source', source)),
  to: listOf(wrapped('operation', operation)),
  when: unsupported('when'),
});

const action: Decoder<Action> = (value, path, reporter) => {
  const name = enumOf('ALLOW', 'DENY', 'AUDIT', 'CUSTOM')(value, path, reporter);
  if (name === 'AUDIT' || name === 'CUSTOM') {
    return unsupported(`action ${name}`)(name, path, reporter);
  }
  return name;
};

const spec = object({
  selector,
  action,
  rules: boundedList(rule),
  provider: unsupported('provider'),
  targetRef: unsupported('targetRef'),
  targetRefs: unsupported('targetRefs'),
});

/**
 * Reads an AuthorizationPolicy by Istio's schema and webhook. Whatever of the language is not supported yet is an
 * Error `unsupported`, never ignored.
 * @returns null after reporting at least one Error; Warnings may accompany a valid one.
 */
export function decodeAuthorizationPolicy(
  resource: Resource,
  problems: Problem[],
): AuthorizationPolicy | null {
  const reporter = new Reporter(resource, problems);
  const before = problems.length;
  checkAnnotations(resource, reporter);
  checkDryRun(resource, reporter);
  const decoded = spec(resource.spec ?? {}, ['spec'], reporter);
  if (decoded === undefined || hasErrors(reporter, before)) return null;
  const rules: Rule[] = (decoded.rules ?? []).map((one) => ({ from: one.from ?? [], to: one.to ?? [] }));
  const policy: AuthorizationPolicy = {
    namespace: resource.namespace,
    name: resource.name,
    matchLabels: decoded.selector ?? new Map(),
    action: decoded.action ?? 'ALLOW',
    rules,
  };
  if (policy.action === 'DENY') checkDeny(policy, reporter);
  return hasErrors(reporter, before) ? null : policy;
}

/** Go's `strconv.ParseBool`, which reads the annotation. */
const TRUE = new Set(['1', 't', 'T', 'TRUE', 'true', 'True']);
const FALSE = new Set(['0', 'f', 'F', 'FALSE', 'false', 'False']);

function checkDryRun(resource: Resource, reporter: Reporter): void {
  const value = resource.annotations.get(DRY_RUN);
  if (value === undefined || FALSE.has(value)) return;
  const path = annotationPath(DRY_RUN);
  if (TRUE.has(value)) unsupported(DRY_RUN)(value, path, reporter);
  else reporter.report(path, 'badValue', `must be true or false, not ${JSON.stringify(value)}`);
}

function checkDeny(policy: AuthorizationPolicy, reporter: Reporter): void {
  if (policy.rules.length === 0) {
    // Istio: "DENY action without `rules` is meaningless as it will never be triggered, add an empty rule `{}`
    // if you want it be triggered for every request".
    reporter.report(['spec', 'rules'], 'missing', 'DENY needs rules; an empty rule {} denies everything');
    return;
  }
  for (const [i, one] of policy.rules.entries()) {
    if (
      one.to.length > 0 &&
      !one.to.some(({ ports: asked }) => asked.values.length + asked.notValues.length > 0)
    ) {
      // Istio's webhook warns: on TCP the HTTP fields are dropped, and what is left of the rule matches more.
      const message =
        'only HTTP fields: on a TCP port this rule denies everything else it asks; name the ports';
      reporter.report(['spec', 'rules', i, 'to'], 'badValue', message, 'Warning');
    }
  }
}
