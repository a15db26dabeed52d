/** Goes through the lists of values in a rule, each with what it asks of and where it stands. */
import type { FieldPath } from '../../mesh/resource.ts';
import { asks, type Field, type Rule, twinOf } from '../authorization-policy.ts';
import { claimPath, headerName } from '../when-key.ts';

/** What a list of values is about, whether a source, an operation or a condition asks it. */
export type Topic =
  | 'principals'
  | 'namespaces'
  | 'serviceAccounts'
  | 'trustDomains'
  | 'requestPrincipals'
  | 'claims'
  | 'headers'
  | 'hosts'
  | 'methods'
  | 'paths'
  | 'ports'
  | 'addresses'
  | 'sni';

/** One list of values. */
export interface ValueList {
  readonly topic: Topic;
  /** True for the `not…` twin. */
  readonly negated: boolean;
  readonly values: readonly string[];
  /** From the document's root to the list. */
  readonly path: FieldPath;
  /** As written: `from.source.principals`, `when[source.principal].values`. */
  readonly name: string;
}

/** What only a workload's certificate can tell. */
const IDENTITY: ReadonlySet<Topic> = new Set(['principals', 'namespaces', 'serviceAccounts', 'trustDomains']);
/** What only a token can tell. */
const TOKEN: ReadonlySet<Topic> = new Set(['requestPrincipals', 'claims']);
/** What only a request can tell. */
const HTTP: ReadonlySet<Topic> = new Set([...TOKEN, 'headers', 'hosts', 'methods', 'paths']);

export const isIdentity = ({ topic }: ValueList): boolean => IDENTITY.has(topic);
export const isToken = ({ topic }: ValueList): boolean => TOKEN.has(topic);
export const isHttp = ({ topic }: ValueList): boolean => HTTP.has(topic);

const SOURCE = {
  principals: 'principals',
  requestPrincipals: 'requestPrincipals',
  namespaces: 'namespaces',
  serviceAccounts: 'serviceAccounts',
  trustDomains: 'trustDomains',
  ipBlocks: 'addresses',
  remoteIpBlocks: 'addresses',
} as const satisfies Record<keyof Rule['from'][number], Topic>;

const OPERATION = {
  hosts: 'hosts',
  ports: 'ports',
  methods: 'methods',
  paths: 'paths',
} as const satisfies Record<keyof Rule['to'][number], Topic>;

const WHEN: ReadonlyMap<string, Topic> = new Map([
  ['source.ip', 'addresses'],
  ['remote.ip', 'addresses'],
  ['source.namespace', 'namespaces'],
  ['source.serviceAccount', 'serviceAccounts'],
  ['source.trustDomain', 'trustDomains'],
  ['source.principal', 'principals'],
  ['request.auth.principal', 'requestPrincipals'],
  ['request.auth.audiences', 'claims'],
  ['request.auth.presenter', 'claims'],
  ['destination.ip', 'addresses'],
  ['destination.port', 'ports'],
  ['connection.sni', 'sni'],
]);

/** `request.headers` can name what has a field of its own. */
function topicOfKey(key: string): Topic {
  const known = WHEN.get(key);
  if (known !== undefined) return known;
  return claimPath(key) === null && headerName(key) !== null ? 'headers' : 'claims';
}

/** The alternatives of a rule's `from`, of its `to`, and its conditions: in each group one entry must hold. */
export function groupsOf(rule: Rule, index: number): readonly (readonly (readonly ValueList[])[])[] {
  const at: FieldPath = ['spec', 'rules', index];
  return [
    rule.from.map((source, i) =>
      Object.entries(SOURCE).flatMap(([name, topic]) =>
        twins(topic, source[name as keyof typeof SOURCE], [...at, 'from', i, 'source'], name),
      ),
    ),
    rule.to.map((operation, i) =>
      Object.entries(OPERATION).flatMap(([name, topic]) =>
        twins(topic, operation[name as keyof typeof OPERATION], [...at, 'to', i, 'operation'], name),
      ),
    ),
    ...rule.when.map(({ key, field }, i) => [conditionOf(key, field, [...at, 'when', i])]),
  ];
}

/** Every list of values of a rule. */
export function listsOf(rule: Rule, index: number): readonly ValueList[] {
  return groupsOf(rule, index).flat(2);
}

function twins(topic: Topic, field: Field, at: FieldPath, name: string): ValueList[] {
  if (!asks(field)) return [];
  const { values, notValues } = field;
  const twin = twinOf(name);
  const prefix = `${String(at.at(-3))}.${String(at.at(-1))}`;
  const lists: ValueList[] = [];
  if (values.length > 0) {
    lists.push({ topic, negated: false, values, path: [...at, name], name: `${prefix}.${name}` });
  }
  if (notValues.length > 0) {
    lists.push({ topic, negated: true, values: notValues, path: [...at, twin], name: `${prefix}.${twin}` });
  }
  return lists;
}

function conditionOf(key: string, { values, notValues }: Field, at: FieldPath): ValueList[] {
  const topic = topicOfKey(key);
  const lists: ValueList[] = [];
  const name = `when[${key}]`;
  if (values.length > 0) lists.push({ topic, negated: false, values, path: [...at, 'values'], name });
  if (notValues.length > 0) {
    lists.push({ topic, negated: true, values: notValues, path: [...at, 'notValues'], name });
  }
  return lists;
}

/** The first list of a rule that asks what only a token can tell. */
export function findTokenList(rule: Rule, index: number): ValueList | null {
  return listsOf(rule, index).find(isToken) ?? null;
}
