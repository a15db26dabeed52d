/** AuthorizationPolicy: the resource as a typed record, read and checked by the rules of Istio's webhook. */
import type { Action } from '../mesh/decision.ts';
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import { type Decoder, enumOf, listOf, object, Reporter, string } from '../mesh/schema.ts';
import {
  accountValues,
  blockValues,
  pathValues,
  plainValues,
  portValues,
  trustDomainValues,
  valuesOfKey,
} from './authorization-values.ts';
import {
  annotationPath,
  boundedList,
  checkAnnotations,
  checkOneTarget,
  DRY_RUN,
  hasErrors,
  selector,
  type TargetRef,
  targetRef,
  targetRefs,
  targetsOf,
} from './webhook.ts';

/** A field and its `not` twin. Both empty: the field asks nothing. */
export interface Field {
  readonly values: readonly string[];
  readonly notValues: readonly string[];
}

/** `from[].source`: all its fields must hold. */
export interface Source {
  readonly principals: Field;
  readonly requestPrincipals: Field;
  readonly namespaces: Field;
  readonly serviceAccounts: Field;
  readonly trustDomains: Field;
  readonly ipBlocks: Field;
  readonly remoteIpBlocks: Field;
}

/** `to[].operation`: all its fields must hold. */
export interface Operation {
  readonly hosts: Field;
  readonly ports: Field;
  readonly methods: Field;
  readonly paths: Field;
}

/** `when[]`: a key and its values. */
export interface When {
  readonly key: string;
  readonly field: Field;
}

/** Holds where any source, any operation and every condition does; an empty list holds always. */
export interface Rule {
  readonly from: readonly Source[];
  readonly to: readonly Operation[];
  readonly when: readonly When[];
}

/** One valid AuthorizationPolicy. */
export interface AuthorizationPolicy {
  readonly namespace: string;
  readonly name: string;
  /** `selector.matchLabels`; empty where the policy selects its whole scope. */
  readonly matchLabels: ReadonlyMap<string, string>;
  /** `targetRefs`: not empty, and the policy is for gateways, waypoints or services, and for no sidecar. */
  readonly targets: readonly TargetRef[];
  readonly action: Action;
  /** CUSTOM only, else empty: a name of mesh config's `extensionProviders`. */
  readonly provider: string;
  /** The annotation `istio.io/dry-run`: decided and reported, never enforced. */
  readonly dryRun: boolean;
  readonly rules: readonly Rule[];
}

/** Bound of `rules` and of `from` in Istio's schema. */
const MAX_ITEMS = 512;

const NOTHING: readonly string[] = [];

function field(positive: readonly string[] | undefined, negative: readonly string[] | undefined): Field {
  return { values: positive ?? NOTHING, notValues: negative ?? NOTHING };
}

/** `principals` → `notPrincipals` */
export function twinOf(name: string): string {
  return `not${name.charAt(0).toUpperCase()}${name.slice(1)}`;
}

/** True where a field asks something. */
export function asks({ values, notValues }: Field): boolean {
  return values.length + notValues.length > 0;
}

const sourceFields = object({
  principals: plainValues,
  notPrincipals: plainValues,
  requestPrincipals: plainValues,
  notRequestPrincipals: plainValues,
  namespaces: plainValues,
  notNamespaces: plainValues,
  serviceAccounts: accountValues,
  notServiceAccounts: accountValues,
  trustDomains: trustDomainValues,
  notTrustDomains: trustDomainValues,
  ipBlocks: blockValues,
  notIpBlocks: blockValues,
  remoteIpBlocks: blockValues,
  notRemoteIpBlocks: blockValues,
});

const source: Decoder<Source> = (value, path, reporter) => {
  const before = reporter.problems.length;
  const decoded = sourceFields(value, path, reporter);
  if (decoded === undefined) return undefined;
  const asked: Source = {
    principals: field(decoded.principals, decoded.notPrincipals),
    requestPrincipals: field(decoded.requestPrincipals, decoded.notRequestPrincipals),
    namespaces: field(decoded.namespaces, decoded.notNamespaces),
    serviceAccounts: field(decoded.serviceAccounts, decoded.notServiceAccounts),
    trustDomains: field(decoded.trustDomains, decoded.notTrustDomains),
    ipBlocks: field(decoded.ipBlocks, decoded.notIpBlocks),
    remoteIpBlocks: field(decoded.remoteIpBlocks, decoded.notRemoteIpBlocks),
  };
  reportEmpty(Object.values(asked), before, path, reporter);
  // The schema's own rule asks for the fields' presence, not for values in them.
  const given = (name: keyof typeof decoded): boolean => decoded[name] !== undefined;
  const accounts = given('serviceAccounts') || given('notServiceAccounts');
  const others = ['principals', 'notPrincipals', 'namespaces', 'notNamespaces'] as const;
  if (accounts && others.some(given)) {
    const message = 'serviceAccounts cannot stand beside principals or namespaces; use two sources';
    reporter.report(path, 'badValue', message);
  }
  return asked;
};

const operationFields = object({
  hosts: plainValues,
  notHosts: plainValues,
  ports: portValues,
  notPorts: portValues,
  methods: plainValues,
  notMethods: plainValues,
  paths: pathValues,
  notPaths: pathValues,
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
  if (!fields.some(asks) && !hasErrors(reporter, before)) {
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

const whenShape = object({ key: string, values: listOf(string), notValues: listOf(string) });

const when: Decoder<When> = (value, path, reporter) => {
  const shape = whenShape(value, path, reporter);
  if (shape === undefined) return undefined;
  const { key = '' } = shape;
  if (key === '') {
    reporter.report([...path, 'key'], 'missing', 'a condition needs a key');
    return undefined;
  }
  const decode = valuesOfKey(key);
  if (typeof decode !== 'function') {
    reporter.report(
      [...path, 'key'],
      decode.unsupported ? 'unsupported' : 'badValue',
      `${key} ${decode.wrong}`,
    );
    return undefined;
  }
  const asked = field(
    decode(shape.values ?? [], [...path, 'values'], reporter),
    decode(shape.notValues ?? [], [...path, 'notValues'], reporter),
  );
  if (!asks(asked)) reporter.report(path, 'missing', `${key} needs values or notValues`);
  return { key, field: asked };
};

const rule = object({
  from: boundedList(wrapped('source', source), MAX_ITEMS),
  to: listOf(wrapped('operation', operation)),
  when: listOf(when),
});

const spec = object({
  selector,
  targetRef,
  targetRefs,
  action: enumOf('ALLOW', 'DENY', 'AUDIT', 'CUSTOM'),
  rules: boundedList(rule, MAX_ITEMS),
  provider: object({ name: string }),
});

/**
 * Reads an AuthorizationPolicy by Istio's schema and webhook.
 * @returns null after reporting at least one Error; Warnings may accompany a valid one.
 */
export function decodeAuthorizationPolicy(
  resource: Resource,
  problems: Problem[],
): AuthorizationPolicy | null {
  const reporter = new Reporter(resource, problems);
  const before = problems.length;
  checkAnnotations(resource, reporter);
  const decoded = spec(resource.spec ?? {}, ['spec'], reporter);
  const action = decoded?.action ?? 'ALLOW';
  const dryRun = readDryRun(resource, action, reporter);
  if (decoded !== undefined) checkOneTarget(decoded, reporter);
  if (decoded === undefined || hasErrors(reporter, before)) return null;
  const rules: Rule[] = (decoded.rules ?? []).map((one) => ({
    from: one.from ?? [],
    to: one.to ?? [],
    when: one.when ?? [],
  }));
  const policy: AuthorizationPolicy = {
    namespace: resource.namespace,
    name: resource.name,
    matchLabels: decoded.selector ?? new Map(),
    targets: targetsOf(decoded),
    action,
    provider: decoded.provider?.name ?? '',
    dryRun,
    rules,
  };
  checkAction(policy, decoded.provider !== undefined, reporter);
  return hasErrors(reporter, before) ? null : policy;
}

/** Go's `strconv.ParseBool`, which reads the annotation. */
const TRUE = new Set(['1', 't', 'T', 'TRUE', 'true', 'True']);
const FALSE = new Set(['0', 'f', 'F', 'FALSE', 'false', 'False']);

function readDryRun(resource: Resource, action: Action, reporter: Reporter): boolean {
  const value = resource.annotations.get(DRY_RUN);
  if (value === undefined) return false;
  const path = annotationPath(DRY_RUN);
  if (action !== 'ALLOW' && action !== 'DENY') {
    reporter.report(path, 'badValue', `only ALLOW and DENY may be tried dry, not ${action}; remove it`);
  } else if (!TRUE.has(value) && !FALSE.has(value)) {
    reporter.report(path, 'badValue', `must be true or false, not ${JSON.stringify(value)}`);
  }
  return TRUE.has(value);
}

/** What an action asks of the rest. */
function checkAction(policy: AuthorizationPolicy, providerGiven: boolean, reporter: Reporter): void {
  const { action, rules, provider } = policy;
  if (action !== 'CUSTOM' && providerGiven) {
    reporter.report(
      ['spec', 'provider'],
      'badValue',
      `only CUSTOM asks a provider, not ${action}; remove it`,
    );
  }
  if ((action === 'DENY' || action === 'CUSTOM') && rules.length === 0) {
    // Istio: "without `rules` is meaningless as it will never be triggered, add an empty rule `{}` if you want it
    // be triggered for every request".
    reporter.report(
      ['spec', 'rules'],
      'missing',
      `${action} needs rules; an empty rule {} matches everything`,
    );
  } else if (action === 'CUSTOM' && provider === '') {
    reporter.report(['spec', 'provider', 'name'], 'missing', 'CUSTOM needs the name of a provider');
  }
  for (const [i, one] of rules.entries()) {
    if (action === 'CUSTOM') checkCustomRule(one, i, reporter);
    if (action === 'DENY') warnOfTcp(one, i, reporter);
  }
}

/** The source fields that a CUSTOM rule may have. */
const CUSTOM_SOURCE: ReadonlySet<string> = new Set(['ipBlocks', 'remoteIpBlocks']);
const IDENTITY_KEYS = /^(?:source\.(?:namespace|serviceAccount|trustDomain|principal)$|request\.auth\.)/;

/** "CUSTOM forbids identity and JWT fields." */
function checkCustomRule(one: Rule, i: number, reporter: Reporter): void {
  const message =
    'is not supported with CUSTOM by Istio: ask for identity in a DENY or ALLOW policy beside it';
  for (const [j, asked] of one.from.entries()) {
    for (const [name, { values, notValues }] of Object.entries(asked) as [string, Field][]) {
      if (CUSTOM_SOURCE.has(name)) continue;
      const path = ['spec', 'rules', i, 'from', j, 'source'];
      if (values.length > 0) reporter.report([...path, name], 'badValue', `${name} ${message}`);
      if (notValues.length > 0) {
        const twin = twinOf(name);
        reporter.report([...path, twin], 'badValue', `${twin} ${message}`);
      }
    }
  }
  for (const [j, { key }] of one.when.entries()) {
    if (IDENTITY_KEYS.test(key)) {
      reporter.report(['spec', 'rules', i, 'when', j, 'key'], 'badValue', `${key} ${message}`);
    }
  }
}

/** Istio's webhook warns of DENY rules that ask HTTP fields alone: on TCP those are dropped, and the rest denies. */
function warnOfTcp({ from, to }: Rule, i: number, reporter: Reporter): void {
  const l4From = from.some(({ requestPrincipals: _, trustDomains: __, ...l4 }) =>
    Object.values(l4).some(asks),
  );
  const l4To = to.some(({ ports }) => asks(ports));
  if ((from.length > 0 && to.length === 0 && !l4From) || (to.length > 0 && !l4To)) {
    const message =
      'only HTTP fields: on a TCP port this rule denies everything else it asks; name the ports';
    reporter.report(['spec', 'rules', i, to.length > 0 ? 'to' : 'from'], 'badValue', message, 'Warning');
  }
}
