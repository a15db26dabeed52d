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

interface RawWhen {
  readonly key: string;
  readonly values?: readonly string[];
  readonly notValues?: readonly string[];
}

interface RawRule {
  readonly from?: readonly { readonly source: Lists }[];
  readonly to?: readonly { readonly operation: Lists }[];
  readonly when?: readonly RawWhen[];
}

interface RawPolicy {
  readonly namespace: string;
  readonly name: string;
  readonly selector?: { readonly matchLabels: Readonly<Record<string, string>> };
  readonly action?: 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM';
  readonly provider?: { readonly name: string };
  readonly dryRun?: boolean;
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

const HTTP_ONLY = /^(methods|paths|hosts|requestPrincipals|request\..*)$/;

/** Every string a claim holds, where `request.auth.claims` finds it. */
function claimStrings(facts: Facts, path: readonly string[]): string[] {
  let value: unknown = facts.claims;
  for (const name of path) value = (value as Record<string, unknown> | null | undefined)?.[name];
  const list = Array.isArray(value) ? value : [value];
  return list.filter((item): item is string => typeof item === 'string');
}

/** Envoy's matcher of the claim `name` alone. */
function claimHolds(facts: Facts, name: string, pattern: string): boolean {
  const value = facts.claims?.[name];
  return typeof value === 'string' && full(pattern, value);
}

function requestPrincipalHolds(value: string, facts: Facts): boolean {
  const both = (iss: string, sub: string): boolean =>
    claimHolds(facts, 'iss', iss) && claimHolds(facts, 'sub', sub);
  const parts = value.split('/');
  const sub = parts.length > 1 ? (parts.pop() ?? '') : null;
  const iss = parts.join('/');
  if (value === '*') return both('.+', '.+');
  if (value.startsWith('*')) {
    return sub === null
      ? both('.+', `.*${quote(value.slice(1))}`)
      : both(iss === '*' ? '.+' : `.*${quote(iss.slice(1))}`, quote(sub));
  }
  if (value.endsWith('*')) {
    return sub === null
      ? both(`${quote(value.slice(0, -1))}.*`, '.+')
      : both(quote(iss), sub === '*' ? '.+' : `${quote(sub.slice(0, -1))}.*`);
  }
  return both(quote(iss), quote(sub ?? ''));
}

/** Envoy's URI template as a regular expression. */
function templatePattern(value: string): string {
  const letters = "a-zA-Z0-9\\-._~%!$&'()*+,;:@=";
  return value
    .split(/(\{\*\*?\})/)
    .map((part) => (part === '{*}' ? `[${letters}]+` : part === '{**}' ? `[${letters}/]*` : quote(part)))
    .join('');
}

function trustDomainHolds(value: string, uri: string): boolean {
  const values = ['td1', 'td2'].includes(value) ? ['td1', 'td2'] : [value];
  return values.some((one) =>
    one === '*' ? true : full(`spiffe://${quote(one).replace('\\*', '[^/]*')}/.*`, uri),
  );
}

function accountHolds(value: string, namespace: string, uri: string): boolean {
  const [ns = '', sa = ''] = value.includes('/') ? value.split('/') : [namespace, value];
  return full(`spiffe://.+/ns/${quote(ns)}/(.+/|)sa/${quote(sa)}(/.+)?`, uri);
}

function holds(field: string, value: string, facts: Facts, namespace: string): boolean {
  const uri = facts.principal == null ? null : `spiffe://${facts.principal}`;
  const header = /^request\.headers\[(.*)\]$/.exec(field)?.[1]?.toLowerCase();
  if (header !== undefined) {
    const values =
      header === ':path'
        ? [facts.path ?? '']
        : header === 'host'
          ? [facts.host ?? '']
          : facts.headers?.[header];
    return (values ?? []).some((one) => value === '*' || full(stringPattern(value, ''), one));
  }
  if (field.startsWith('request.auth.claims')) {
    const path = [...field.matchAll(/\[([^\]]*)\]/g)].map(([, name = '']) => name);
    return claimStrings(facts, path).some((one) => full(stringPattern(value, ''), one));
  }
  switch (field) {
    case 'principals':
    case 'source.principal':
      return uri !== null && expand(value).some((one) => full(stringPattern(one, 'spiffe://'), uri));
    case 'namespaces':
    case 'source.namespace':
      return uri !== null && full(`.*/ns/${value.split('*').map(quote).join('.*')}/.*`, uri);
    case 'serviceAccounts':
    case 'source.serviceAccount':
      return uri !== null && accountHolds(value, namespace, uri);
    case 'trustDomains':
    case 'source.trustDomain':
      return uri !== null && trustDomainHolds(value, uri);
    case 'requestPrincipals':
    case 'request.auth.principal':
      return requestPrincipalHolds(value, facts);
    case 'request.auth.audiences':
      return claimStrings(facts, ['aud']).some((one) => full(stringPattern(value, ''), one));
    case 'request.auth.presenter':
      return claimStrings(facts, ['azp']).some((one) => full(stringPattern(value, ''), one));
    case 'ipBlocks':
    case 'source.ip':
      return inBlock(facts.sourceIp ?? '', value);
    case 'remoteIpBlocks':
    case 'remote.ip':
      return inBlock(facts.remoteIp ?? facts.sourceIp ?? '', value);
    case 'destination.ip':
      return inBlock(facts.destinationIp ?? '', value);
    case 'ports':
    case 'destination.port':
      return Number(value) === facts.port;
    case 'connection.sni':
      return full(stringPattern(value, ''), facts.sni ?? '');
    case 'methods':
      return full(stringPattern(value, ''), facts.method ?? '');
    case 'paths': {
      const pattern = /\{\*\*?\}/.test(value) ? templatePattern(value) : stringPattern(value, '');
      return full(pattern, (facts.path ?? '').replace(/\?.*$/, ''));
    }
    case 'hosts':
      return value === '*' || full(stringPattern(value, ''), facts.host ?? '', 'i');
    default:
      throw new Error(field);
  }
}

interface Scope {
  readonly action: string;
  readonly tcp: boolean;
  readonly namespace: string;
}

/** One source, operation or condition; null where Istio cannot write it down for this layer. */
function entryHolds(lists: Lists, facts: Facts, scope: Scope): boolean | null {
  const { action, tcp, namespace } = scope;
  let all = true;
  for (const [key, values] of Object.entries(lists)) {
    if (values.length === 0) continue;
    const negated = key.startsWith('not');
    const field = negated ? `${key.charAt(3).toLowerCase()}${key.slice(4)}` : key;
    if (tcp && HTTP_ONLY.test(field)) {
      if (action === 'ALLOW') return null;
      continue;
    }
    if (values.some((value) => holds(field, value, facts, namespace)) === negated) all = false;
  }
  return all;
}

function ruleHolds(rule: RawRule, facts: Facts, scope: Scope): boolean {
  const sources = (rule.from ?? []).map(({ source }) => entryHolds(source, facts, scope));
  const operations = (rule.to ?? []).map(({ operation }) => entryHolds(operation, facts, scope));
  const whens = (rule.when ?? []).map(({ key, values = [], notValues = [] }) => {
    const positive = entryHolds({ [key]: values }, facts, scope);
    // `not` cannot be written in front of a key with brackets.
    const negative = notValues.length === 0 ? false : entryHolds({ [key]: notValues }, facts, scope);
    if (positive === null || negative === null) return null;
    return positive && (notValues.length === 0 || !negative || (scope.tcp && HTTP_ONLY.test(key)));
  });
  if ([sources, operations, whens].some((list) => list.includes(null))) return false;
  return (
    (sources.length === 0 || sources.includes(true)) &&
    (operations.length === 0 || operations.includes(true)) &&
    !whens.includes(false)
  );
}

interface Answer {
  readonly allowed: boolean;
  readonly matches: readonly string[];
  /** Rules that ask the one provider; `deny` in front of them where there are two. */
  readonly asks: readonly string[];
  readonly audit: readonly string[];
  readonly dryRun: readonly string[];
}

function interpret(policies: readonly RawPolicy[], facts: Facts, tcp: boolean): Answer {
  const selected = policies.filter(
    ({ namespace, selector }) =>
      ['foo', 'istio-system'].includes(namespace) &&
      Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => workload.labels.get(key) === value),
  );
  const rulesOf = (one: RawPolicy): string[] =>
    (one.rules ?? []).flatMap((rule, i) =>
      ruleHolds(rule, facts, { action: one.action ?? 'ALLOW', tcp, namespace: one.namespace })
        ? [`${one.namespace}/${one.name} ${i}`]
        : [],
    );
  const enforced = (action: string): RawPolicy[] =>
    selected.filter((one) => (one.action ?? 'ALLOW') === action && !one.dryRun);
  const matching = (action: string): string[] => enforced(action).flatMap(rulesOf);
  const named = (list: readonly RawPolicy[], text: (one: RawPolicy) => string): string[] =>
    list
      .filter((one) => rulesOf(one).length > 0)
      .map(text)
      .sort();
  const custom = enforced('CUSTOM');
  const two = new Set(custom.map(({ provider }) => provider?.name)).size > 1;
  const watched = {
    asks: matching('CUSTOM').map((name) => (two ? `deny ${name}` : name)),
    audit: named(enforced('AUDIT'), (one) => `${one.namespace}/${one.name}`),
    dryRun: named(
      selected.filter(({ dryRun }) => dryRun),
      (one) => `${one.namespace}/${one.name} ${one.action}`,
    ),
  };
  const denied = matching('DENY');
  if (denied.length > 0) return { allowed: false, matches: denied, ...watched };
  const matches = matching('ALLOW');
  return { allowed: enforced('ALLOW').length === 0 || matches.length > 0, matches, ...watched };
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

const blocks = (): string => pick(['10.0.0.0/8', '10.0.0.1', '192.168.0.0/17', '0.0.0.0/0', '10.0.0.0/31']);
const claimValues = ['a', 'b', 'ab', 'https://i.example/x', ''];
const requestPrincipal = (): string =>
  pick([
    () => pattern(`${pick(claimValues)}/${pick(claimValues)}`),
    () => pattern(pick(claimValues) || 'a'),
  ])();

const values: Readonly<Record<string, readonly (() => string)[]>> = {
  principals: [() => pattern(principal()), principal],
  requestPrincipals: [requestPrincipal],
  namespaces: [() => pick(namespaces), () => pattern(pick(namespaces)), () => 'foo/sa/a'],
  serviceAccounts: [() => pick(accounts), () => `${pick(namespaces)}/${pick(accounts)}`],
  trustDomains: [() => pattern(pick(trustDomains)).replace(/(.)\*(.)/, '$1$2'), () => pick(trustDomains)],
  ipBlocks: [blocks],
  remoteIpBlocks: [blocks],
  ports: [() => pick(['80', '8080', '0443'])],
  methods: [() => pattern(pick(['GET', 'PUT', 'POST']))],
  paths: [
    () => pattern(pick(['/', '/a', '/a/b', '/admin/x'])),
    () => pick(['/{*}', '/a/{*}', '/{**}', '/a/{**}', '/{*}/b', '/{**}/x', '/{*}/{**}', '/a/{*}/{**}/c']),
  ],
  hosts: [() => pattern(pick(['a.com', 'A.com:80', 'b.org']))],
};

const keys: Readonly<Record<string, readonly (() => string)[]>> = {
  'source.principal': values.principals ?? [],
  'source.namespace': values.namespaces ?? [],
  'source.serviceAccount': values.serviceAccounts ?? [],
  'source.trustDomain': values.trustDomains ?? [],
  'source.ip': [blocks],
  'remote.ip': [blocks],
  'destination.ip': [blocks],
  'destination.port': values.ports ?? [],
  'connection.sni': [() => pattern(pick(['a.com', 'outbound_.80_._.a']))],
  'request.auth.principal': [requestPrincipal],
  'request.auth.audiences': [() => pattern(pick(['a', 'ab']))],
  'request.auth.presenter': [() => pattern(pick(['a', 'ab']))],
  'request.auth.claims[role]': [() => pattern(pick(['a', 'ab']))],
  'request.auth.claims[x][y]': [() => pattern(pick(['a', 'ab']))],
  'request.headers[X-A]': [() => pattern(pick(['a', 'ab', 'a,b']))],
  'request.headers[x-b]': [() => pattern(pick(['a', 'ab']))],
  'request.headers[:path]': [() => pattern(pick(['/a', '/a?/admin']))],
  'request.headers[Host]': [() => pattern(pick(['a.com', 'A.COM']))],
};

/** Never empty: validation refuses that. */
function someValue(makers: readonly (() => string)[]): string {
  return pick(makers)() || '*';
}

function lists(fields: readonly string[]): Lists {
  const asked: Record<string, string[]> = {};
  for (const field of some(2, () => pick(fields))) {
    // Validation lets no serviceAccounts stand beside principals or namespaces.
    const account = field === 'serviceAccounts';
    const names = Object.keys(asked).join(' ').toLowerCase();
    if (account ? /principals|namespaces/.test(names) : names.includes('accounts')) continue;
    const name = next(3) === 0 ? `not${field.charAt(0).toUpperCase()}${field.slice(1)}` : field;
    asked[name] = some(3, () => someValue(values[field] ?? []));
  }
  return asked;
}

function rawWhen(custom: boolean): RawWhen {
  const allowed = Object.keys(keys).filter(
    (key) => !custom || !/^(source\.[npst]|request\.auth)/.test(key) || key === 'source.ip',
  );
  const key = pick(allowed);
  const list = (): string[] => some(2, () => someValue(keys[key] ?? []));
  return pick([
    () => ({ key, values: list() }),
    () => ({ key, notValues: list() }),
    () => ({ key, values: list(), notValues: list() }),
  ])();
}

const SOURCE = [
  'principals',
  'namespaces',
  'ipBlocks',
  'requestPrincipals',
  'serviceAccounts',
  'trustDomains',
  'remoteIpBlocks',
];

function rawPolicy(name: string): RawPolicy {
  const action = pick(['ALLOW', 'ALLOW', 'ALLOW', 'DENY', 'DENY', 'AUDIT', 'CUSTOM'] as const);
  const custom = action === 'CUSTOM';
  const rule = (): RawRule => ({
    ...(next(3) > 0 && {
      from: some(2, () => ({ source: lists(custom ? ['ipBlocks', 'remoteIpBlocks'] : SOURCE) })),
    }),
    ...(next(3) > 0 && { to: some(2, () => ({ operation: lists(['ports', 'methods', 'paths', 'hosts']) })) }),
    ...(next(3) === 0 && { when: some(2, () => rawWhen(custom)) }),
  });
  return {
    name,
    namespace: pick(['foo', 'foo', 'istio-system', 'bar']),
    action,
    ...(custom && { provider: { name: pick(['one', 'one', 'one', 'two']) } }),
    ...((action === 'ALLOW' || action === 'DENY') && next(6) === 0 && { dryRun: true }),
    ...(next(4) === 0 && { selector: { matchLabels: { app: pick(['web', 'db']) } } }),
    ...((action === 'DENY' || custom || next(8) > 0) && { rules: some(2, rule) }),
  };
}

function randomClaims(): Facts['claims'] {
  if (next(3) === 0) return null;
  const text = (): string => pick(claimValues);
  return {
    ...(next(5) > 0 && { iss: text() }),
    ...(next(5) > 0 && { sub: text() }),
    ...(next(2) > 0 && { aud: pick(['a', 'ab', ['a', 'b'], ['b', 1], 7]) }),
    ...(next(2) > 0 && { azp: pick(['a', 'ab', true]) }),
    ...(next(2) > 0 && { role: pick(['a', ['ab', 'x'], '', [], { a: 'a' }]) }),
    ...(next(2) > 0 && { x: pick([{ y: 'a' }, { y: ['ab'] }, { y: 3 }, 'a', ['a']]) }),
  };
}

function randomFacts(): Facts {
  const headers: Record<string, readonly string[]> = {};
  if (next(2) > 0) headers['x-a'] = pick([['a'], ['a', 'b'], ['a,b'], ['']]);
  if (next(2) > 0) headers['x-b'] = pick([['ab'], ['b', 'a']]);
  return {
    principal: principals(),
    sourceIp: pick(['10.0.0.1', '10.0.0.2', '192.168.127.1', '192.168.128.1', '::1']),
    destinationIp: pick(['10.0.0.1', '192.168.127.1']),
    port: pick([80, 8080, 443]),
    method: pick(['GET', 'PUT', 'POST']),
    path: pick(['/', '/a', '/a/', '/a?/admin', '/a/b', '/a/b/x', '/a/[/c', '/admin/x', '/b?x']),
    host: pick(['a.com', 'A.COM', 'a.com:80', 'b.org', '']),
    headers,
    claims: randomClaims() ?? null,
    ...(next(2) > 0 && { sni: pick(['a.com', 'outbound_.80_._.a']) }),
    ...(next(2) > 0 && { remoteIp: pick(['10.0.0.1', '192.168.127.1', '::1']) }),
  };
}

/** Pairs of a policy set and facts; more by OARLOCK_PROPERTY_PAIRS. */
const PAIRS = Number(process.env.OARLOCK_PROPERTY_PAIRS ?? 100_000);
const FACTS_A_SET = 40;

t.test('the compiled form answers as the interpreter does', async (t) => {
  const wrong: string[] = [];
  const seen = { allowed: 0, denied: 0, byRule: 0, asked: 0, audited: 0, dry: 0 };
  for (let round = 0; round < PAIRS / FACTS_A_SET; round++) {
    // Every eighth set is large enough to be looked up rather than tried rule by rule.
    const raw = some(round % 8 === 0 ? 24 : 4, () => '').map((_, i) => rawPolicy(`p${i}`));
    const policies = raw.map(({ namespace, name, dryRun, ...spec }) =>
      policy(stringify(spec), {
        namespace,
        name,
        ...(dryRun && { annotations: { 'istio.io/dry-run': 'true' } }),
      }),
    );
    const authorization = compileAuthorization(policies, workload, settings);
    for (let n = 0; n < FACTS_A_SET; n++) {
      const tcp = next(4) === 0;
      const facts = randomFacts();
      const seenFacts = tcp ? { ...facts, remoteIp: undefined } : facts;
      const expected = interpret(raw, seenFacts as Facts, tcp);
      const asked = tcp ? null : request(facts);
      const got =
        asked === null
          ? authorization.decideConnection(connection(facts))
          : authorization.decideRequest(connection(facts), asked);
      const ask = authorization.ask(connection(facts), asked);
      const observed = authorization.observe?.(connection(facts), asked) ?? { audit: [], dryRun: [] };
      const nearest = got.allowed ? null : authorization.explain(connection(facts), asked, got);
      // Of several rules that match, any may be named; where none does, none may.
      const named =
        got.policy === null
          ? expected.matches.length === 0
          : expected.matches.includes(`${got.policy} ${got.rule}`);
      const askName = ask === null ? null : `${'allowed' in ask ? 'deny ' : ''}${ask.policy} ${ask.rule}`;
      const right =
        got.allowed === expected.allowed &&
        named &&
        (askName === null ? expected.asks.length === 0 : expected.asks.includes(askName)) &&
        expected.audit.join() === observed.audit.join() &&
        expected.dryRun.join() === observed.dryRun.map((one) => `${one.policy} ${one.decision}`).join() &&
        // A denial by a rule points at that rule; one by default at an ALLOW policy that exists.
        (nearest === null ||
          (got.policy === null
            ? got.missed.includes(nearest.policy)
            : nearest.policy === got.policy && nearest.rule === got.rule));
      if (!right) wrong.push(JSON.stringify({ raw, facts, tcp, expected, got, ask, observed, nearest }));
      seen[got.allowed ? 'allowed' : 'denied']++;
      if (got.policy !== null) seen.byRule++;
      if (ask !== null) seen.asked++;
      if (observed.audit.length > 0) seen.audited++;
      if (observed.dryRun.length > 0) seen.dry++;
    }
  }
  t.same(wrong.slice(0, 3), []);
  t.ok(Math.min(...Object.values(seen)) > PAIRS / 100, `a fair mix: ${JSON.stringify(seen)}`);
});
