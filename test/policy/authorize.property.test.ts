/**
 * A plain interpreter of the policies as written, against the compiled form, over random policies and facts.
 *
 * The interpreter follows the filters Istio generates for Envoy (regular expressions over the SPIFFE URI and all),
 * and shares no code with the compiler but the validation that both policies pass.
 */
import t from 'tap';
import { stringify } from 'yaml';
import { compileAuthorization } from '../../policy/authorize.ts';
import { connection, type Facts, mesh, policy, request } from './helper.ts';

type Lists = Readonly<Record<string, readonly string[]>>;

interface RawRule {
  readonly from?: readonly { readonly source: Lists }[];
  readonly to?: readonly { readonly operation: Lists }[];
}

interface RawPolicy {
  readonly namespace: string;
  readonly name: string;
  readonly selector?: { readonly matchLabels: Readonly<Record<string, string>> };
  readonly action?: 'ALLOW' | 'DENY';
  readonly rules?: readonly RawRule[];
}

const workload = { namespace: 'foo', labels: new Map([['app', 'web']]) };
const settings = { ...mesh, trustDomain: 'td1', trustDomainAliases: ['td2'] };

// === The interpreter ===

const quote = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
const full = (pattern: string, text: string, flags = ''): boolean =>
  new RegExp(`^(?:${pattern})$`, flags).test(text);

/** Envoy's string matcher for a value as Istio writes one, in front of which `prefix` is put. */
function stringPattern(value: string, prefix: string): string {
  if (value === '*') return '.+';
  if (value.startsWith('*')) return `${quote(prefix)}.*${quote(value.slice(1))}`;
  if (value.endsWith('*')) return `${quote(prefix + value.slice(0, -1))}.*`;
  return quote(prefix + value);
}

/** Istio's trust domains `td1` and `td2`: a five-part principal of either, or of `cluster.local`, means both. */
function expand(value: string): string[] {
  const parts = value.split('/');
  const [first = '', ...rest] = parts;
  if (parts.length !== 5 || first === '*') return [value];
  const covers = (ours: string): boolean =>
    /^[^*]*\*$|^\*[^*]*$/.test(first) && full(quote(first).replace('\\*', '.*'), ours);
  const local = first === 'cluster.local' || ['td1', 'td2'].some((ours) => ours === first || covers(ours));
  if (!local) return [value];
  return ['td1', 'td2'].map((ours) =>
    first.startsWith('*') && covers(ours) ? value : [ours, ...rest].join('/'),
  );
}

function inBlock(address: string, block: string): boolean {
  const [net = '', bits = '32'] = block.split('/');
  const binary = (ip: string): string =>
    ip
      .split('.')
      .map((byte) => Number(byte).toString(2).padStart(8, '0'))
      .join('');
  return (
    !address.includes(':') && binary(address).slice(0, Number(bits)) === binary(net).slice(0, Number(bits))
  );
}

const HTTP_ONLY = ['methods', 'paths', 'hosts'];

function holds(field: string, value: string, facts: Facts): boolean {
  const uri = facts.principal == null ? null : `spiffe://${facts.principal}`;
  switch (field) {
    case 'principals':
      return uri !== null && expand(value).some((one) => full(stringPattern(one, 'spiffe://'), uri));
    case 'namespaces':
      return uri !== null && full(`.*/ns/${value.split('*').map(quote).join('.*')}/.*`, uri);
    case 'ipBlocks':
      return inBlock(facts.sourceIp ?? '', value);
    case 'ports':
      return Number(value) === facts.port;
    case 'methods':
      return full(stringPattern(value, ''), facts.method ?? '');
    case 'paths':
      return full(stringPattern(value, ''), (facts.path ?? '').replace(/\?.*$/, ''));
    case 'hosts':
      return value === '*' || full(stringPattern(value, ''), facts.host ?? '', 'i');
    default:
      throw new Error(field);
  }
}

/** One source or operation; null where Istio cannot write it down for this layer. */
function entryHolds(lists: Lists, facts: Facts, action: string, tcp: boolean): boolean | null {
  let all = true;
  for (const [key, values] of Object.entries(lists)) {
    if (values.length === 0) continue;
    const negated = key.startsWith('not');
    const field = negated ? `${key.charAt(3).toLowerCase()}${key.slice(4)}` : key;
    if (tcp && HTTP_ONLY.includes(field)) {
      if (action === 'ALLOW') return null;
      continue;
    }
    if (values.some((value) => holds(field, value, facts)) === negated) all = false;
  }
  return all;
}

function ruleHolds(rule: RawRule, facts: Facts, action: string, tcp: boolean): boolean {
  const sources = (rule.from ?? []).map(({ source }) => entryHolds(source, facts, action, tcp));
  const operations = (rule.to ?? []).map(({ operation }) => entryHolds(operation, facts, action, tcp));
  if (sources.includes(null) || operations.includes(null)) return false;
  return (
    (sources.length === 0 || sources.includes(true)) && (operations.length === 0 || operations.includes(true))
  );
}

interface Answer {
  readonly allowed: boolean;
  readonly matches: readonly string[];
}

function interpret(policies: readonly RawPolicy[], facts: Facts, tcp: boolean): Answer {
  const selected = policies.filter(
    ({ namespace, selector }) =>
      ['foo', 'istio-system'].includes(namespace) &&
      Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => workload.labels.get(key) === value),
  );
  const matching = (action: string): string[] =>
    selected
      .filter((one) => (one.action ?? 'ALLOW') === action)
      .flatMap((one) =>
        (one.rules ?? []).flatMap((rule, i) =>
          ruleHolds(rule, facts, action, tcp) ? [`${one.namespace}/${one.name} ${i}`] : [],
        ),
      );
  const denied = matching('DENY');
  if (denied.length > 0) return { allowed: false, matches: denied };
  const allowing = selected.some((one) => (one.action ?? 'ALLOW') === 'ALLOW');
  const matches = matching('ALLOW');
  return { allowed: !allowing || matches.length > 0, matches };
}

// === Random policies and facts ===

let seed = 20_260_822;
function next(n: number): number {
  seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
  return (seed >>> 8) % n;
}
function pick<T>(list: readonly T[]): T {
  const item = list[next(list.length)];
  if (item === undefined) throw new Error('empty list');
  return item;
}
function some<T>(most: number, make: () => T): T[] {
  return Array.from({ length: 1 + next(most) }, make);
}

const trustDomains = ['td1', 'td2', 'td3', 'cluster.local'];
const namespaces = ['foo', 'bar', 'fo', 'ns', 'sa'];
const accounts = ['a', 'b', 'ab'];
const principal = (): string => `${pick(trustDomains)}/ns/${pick(namespaces)}/sa/${pick(accounts)}`;
const principals = (): string | null =>
  pick([
    principal,
    principal,
    principal,
    () => null,
    () => `${principal()}/x/y`,
    () => 'td1/path',
    () => 'ns/ns/foo/sa/a',
  ])();

/** A value and the patterns around it, so that hits are as likely as misses. */
function pattern(value: string): string {
  const at = next(value.length + 1);
  return pick([
    value,
    value,
    `${value.slice(0, at)}*`,
    `*${value.slice(at)}`,
    '*',
    `${value.slice(0, at)}*${value.slice(at)}`,
  ]);
}

const values: Readonly<Record<string, readonly (() => string)[]>> = {
  principals: [() => pattern(principal()), principal],
  namespaces: [() => pick(namespaces), () => pattern(pick(namespaces)), () => 'foo/sa/a'],
  ipBlocks: [() => pick(['10.0.0.0/8', '10.0.0.1', '192.168.0.0/17', '0.0.0.0/0', '10.0.0.0/31'])],
  ports: [() => pick(['80', '8080', '0443'])],
  methods: [() => pattern(pick(['GET', 'PUT', 'POST']))],
  paths: [() => pattern(pick(['/', '/a', '/a/b', '/admin/x']))],
  hosts: [() => pattern(pick(['a.com', 'A.com:80', 'b.org']))],
};

function lists(fields: readonly string[]): Lists {
  const asked: Record<string, string[]> = {};
  for (const field of some(2, () => pick(fields))) {
    const name = next(3) === 0 ? `not${field.charAt(0).toUpperCase()}${field.slice(1)}` : field;
    asked[name] = some(3, () => pick(values[field] ?? [])());
  }
  return asked;
}

function rawPolicy(name: string): RawPolicy {
  const action = pick(['ALLOW', 'ALLOW', 'DENY'] as const);
  const rule = (): RawRule => ({
    ...(next(3) > 0 && {
      from: some(2, () => ({ source: lists(['principals', 'namespaces', 'ipBlocks']) })),
    }),
    ...(next(3) > 0 && { to: some(2, () => ({ operation: lists(['ports', 'methods', 'paths', 'hosts']) })) }),
  });
  return {
    name,
    namespace: pick(['foo', 'foo', 'istio-system', 'bar']),
    action,
    ...(next(4) === 0 && { selector: { matchLabels: { app: pick(['web', 'db']) } } }),
    ...((action === 'DENY' || next(8) > 0) && { rules: some(2, rule) }),
  };
}

function randomFacts(): Facts {
  return {
    principal: principals(),
    sourceIp: pick(['10.0.0.1', '10.0.0.2', '192.168.127.1', '192.168.128.1', '::1']),
    port: pick([80, 8080, 443]),
    method: pick(['GET', 'PUT', 'POST']),
    path: pick(['/', '/a', '/a?/admin', '/a/b', '/admin/x', '/b?x']),
    host: pick(['a.com', 'A.COM', 'a.com:80', 'b.org', '']),
  };
}

t.test('the compiled form answers as the interpreter does', async (t) => {
  const wrong: string[] = [];
  const seen = { allowed: 0, denied: 0, byRule: 0 };
  for (let round = 0; round < 500; round++) {
    const raw = some(4, () => '').map((_, i) => rawPolicy(`p${i}`));
    const policies = raw.map(({ namespace, name, ...spec }) => policy(stringify(spec), { namespace, name }));
    const authorization = compileAuthorization(policies, workload, settings);
    for (let n = 0; n < 40; n++) {
      const facts = randomFacts();
      const tcp = next(4) === 0;
      const expected = interpret(raw, facts, tcp);
      const got = tcp
        ? authorization.decideConnection(connection(facts))
        : authorization.decideRequest(connection(facts), request(facts));
      // Of several rules that match, any may be named; where none does, none may.
      const named =
        got.policy === null
          ? expected.matches.length === 0
          : expected.matches.includes(`${got.policy} ${got.rule}`);
      if (got.allowed !== expected.allowed || !named) {
        wrong.push(JSON.stringify({ raw, facts, tcp, expected, got }));
      }
      seen[got.allowed ? 'allowed' : 'denied']++;
      if (got.policy !== null) seen.byRule++;
    }
  }
  t.same(wrong.slice(0, 3), []);
  t.ok(Math.min(seen.allowed, seen.denied, seen.byRule) > 4_000, `a fair mix: ${JSON.stringify(seen)}`);
});
