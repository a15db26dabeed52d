/** An ALLOW rule that is said to be shadowed lets nobody in: random pairs of rules, judged by the compiled decision. */
import t from 'tap';
import { stringify } from 'yaml';
import type { Subject } from '../../policy/analysis/set.ts';
import { shadowedRules } from '../../policy/analysis/shadow.ts';
import { compileAuthorization } from '../../policy/authorize.ts';
import { connection, mesh, policy, request, resource } from './helper.ts';

const PAIRS = 6_000;

/** A small generator of its own, so that every run sees the same pairs (Park and Miller). */
let seed = 20_260_101;
const random = (below: number): number => {
  seed = (seed * 48_271) % 2_147_483_647;
  return seed % below;
};
const pick = <T>(list: readonly [T, ...T[]]): T => list[random(list.length)] ?? list[0];

const settings = { ...mesh, trustDomain: 'td1', trustDomainAliases: ['td2'] };
const subject: Subject = {
  name: 'foo/web',
  known: true,
  namespace: 'foo',
  labels: new Map([['app', 'web']]),
  serviceAccount: 'web',
  ports: new Map(),
  servicePorts: new Map(),
  mtlsPorts: [],
  modeOf: () => ({ mode: 'STRICT', source: null }),
};

const FIELDS = {
  source: {
    principals: ['*', 'td1/ns/foo/sa/a', 'td1/*', 'cluster.local/ns/foo/sa/a', 'td2/ns/*', '*/sa/a'],
    namespaces: ['foo', 'f*', 'bar'],
    serviceAccounts: ['a', 'foo/a', 'istio-system/a'],
    trustDomains: ['td1', 'td*', 'td2', '*2'],
  },
  operation: {
    ports: ['80', '81'],
    methods: ['GET', 'G*', '*', '*ET'],
    paths: ['/a', '/a/*', '/a/b', '*', '*/b', '/{*}/b'],
    hosts: ['a.com', '*.com', 'A.com', 'a*'],
  },
} as const;

function lists(kind: keyof typeof FIELDS): Record<string, readonly string[]> {
  const entries = Object.entries(FIELDS[kind]) as [string, readonly [string, ...string[]]][];
  const asked: Record<string, readonly string[]> = {};
  for (let i = 0; i <= random(2); i++) {
    const [name, values] = pick(entries as [(typeof entries)[0], ...typeof entries]);
    const field = random(4) === 0 ? `not${name.charAt(0).toUpperCase()}${name.slice(1)}` : name;
    asked[field] = random(2) === 0 ? [pick(values)] : [pick(values), pick(values)];
  }
  // Istio's webhook wants service accounts alone.
  const accounts = Object.entries(asked).filter(([name]) => /serviceAccounts/i.test(name));
  return accounts.length > 0 ? Object.fromEntries(accounts) : asked;
}

function rule(): object {
  const from =
    random(3) === 0
      ? {}
      : { from: Array.from({ length: 1 + random(2) }, () => ({ source: lists('source') })) };
  const to =
    random(3) === 0
      ? {}
      : { to: Array.from({ length: 1 + random(2) }, () => ({ operation: lists('operation') })) };
  const keys =
    random(4) === 0 ? { when: [{ key: 'request.headers[x]', values: [pick(['a', 'a*', '*'])] }] } : {};
  return { ...from, ...to, ...keys };
}

const facts = [
  null,
  'td1/ns/foo/sa/a',
  'td2/ns/foo/sa/a',
  'td2/ns/istio-system/sa/a',
  'td1/ns/bar/sa/b',
].flatMap((principal) =>
  [80, 81].flatMap((port) =>
    ['GET', 'PUT'].flatMap((method) =>
      ['/a', '/a/b', '/c/b'].flatMap((path) =>
        ['a.com', 'b.com', 'A.com:80'].map((host) => ({ principal, port, method, path, host })),
      ),
    ),
  ),
);

t.test('what is called shadowed lets nobody in', async (t) => {
  let shadowed = 0;
  for (let i = 0; i < PAIRS; i++) {
    const narrow = rule();
    // Half of the pairs share something, or hardly any would be covered.
    const wide =
      random(2) === 0
        ? rule()
        : { ...narrow, ...(random(2) === 0 ? { from: [{ source: lists('source') }] } : {}) };
    const namespace = pick(['foo', 'istio-system']);
    const allow = policy(stringify({ rules: [narrow] }), { namespace: 'foo', name: 'allow' });
    const deny = policy(stringify({ action: 'DENY', rules: [wide] }), { namespace, name: 'deny' });
    const problems = shadowedRules({
      mesh: settings,
      providers: null,
      peerAuthentications: [],
      authorizationPolicies: [
        { item: allow, resource: resource({ name: 'allow' }) },
        { item: deny, resource: resource({ name: 'deny', namespace }) },
      ],
      requestAuthentications: [],
      subjects: new Map([['foo', [subject]]]),
      knowsWorkloads: true,
    });
    if (problems.length === 0) continue;
    shadowed++;
    const decide = compileAuthorization([allow, deny], subject, settings);
    for (const one of facts) {
      const plain = { ...request(one), headerValues: () => ['ab'] };
      const open =
        decide.decideRequest(connection(one), plain).allowed ||
        decide.decideConnection(connection(one)).allowed;
      if (open) {
        t.fail(JSON.stringify({ one, narrow, wide, namespace }));
        return;
      }
    }
  }
  t.ok(shadowed > PAIRS / 20, `${shadowed} pairs were called shadowed`);
});
