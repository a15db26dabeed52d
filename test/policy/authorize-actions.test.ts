/** CUSTOM, AUDIT and dry-run, the order of actions, and the explanation of a denial. */
import t from 'tap';
import type { Nearest } from '../../mesh/decision.ts';
import type { AuthorizationPolicy } from '../../policy/authorization-policy.ts';
import { compileAuthorization } from '../../policy/authorize.ts';
import { connection, type Facts, mesh, policy, request } from './helper.ts';

const workload = { namespace: 'foo', labels: new Map([['app', 'web']]) };
const SLEEP = 'cluster.local/ns/foo/sa/sleep';

function named(name: string, spec: string, dryRun = false): AuthorizationPolicy {
  return policy(spec, { name, ...(dryRun && { annotations: { 'istio.io/dry-run': 'true' } }) });
}

const HTTP = { protocol: 'http', fault: null } as const;
const GRPC = { protocol: 'grpc', fault: null } as const;
const custom = (name: string, provider: string, rule = '{}'): AuthorizationPolicy =>
  named(name, `{action: CUSTOM, provider: {name: ${provider}}, rules: [${rule}]}`);
const onPath = (path: string): string => `{to: [{operation: {paths: ["${path}"]}}]}`;

t.test('CUSTOM: the provider of the rule that matches', async (t) => {
  const providers = new Map([['opa', GRPC]]);
  const compiled = compileAuthorization([custom('c', 'opa', onPath('/a'))], workload, mesh, providers);
  t.same(compiled.ask(connection(), request({ path: '/a?x' })), {
    provider: 'opa',
    policy: 'foo/c',
    rule: 0,
  });
  t.equal(compiled.ask(connection(), request({ path: '/b' })), null);
  t.same(
    compiled.ask(connection(), null),
    { provider: 'opa', policy: 'foo/c', rule: 0 },
    'TCP: the path is dropped, so the rule widens',
  );
  t.same(compiled.byAction, { CUSTOM: ['foo/c'], DENY: [], ALLOW: [], AUDIT: [] });
  t.equal(
    compiled.decideRequest(connection(), request()).allowed,
    true,
    'and DENY and ALLOW know nothing of it',
  );
});

t.test('CUSTOM: what Istio cannot carry out denies what it matches', async (t) => {
  const one = [custom('c', 'opa', onPath('/a'))];
  const two = [...one, custom('d', 'other', onPath('/b'))];
  const cases: readonly [
    why: string,
    policies: readonly AuthorizationPolicy[],
    providers: ReadonlyMap<
      string,
      { readonly protocol: 'http' | 'grpc'; readonly fault: string | null }
    > | null,
    http: string,
    tcp: string,
  ][] = [
    ['no mesh config: every provider counts', one, null, 'ask', 'ask'],
    ['it is not there', one, new Map(), 'deny', 'deny'],
    ['it has a fault', one, new Map([['opa', { ...GRPC, fault: 'bad port' }]]), 'deny', 'deny'],
    ['HTTP does not count on TCP', one, new Map([['opa', HTTP]]), 'ask', 'none'],
    [
      'two providers',
      two,
      new Map([
        ['opa', GRPC],
        ['other', GRPC],
      ] as const),
      'deny',
      'deny',
    ],
    ['two policies of one provider', [...one, custom('d', 'opa')], new Map([['opa', GRPC]]), 'ask', 'ask'],
  ];
  for (const [why, policies, providers, http, tcp] of cases) {
    const compiled = compileAuthorization(policies, workload, mesh, providers);
    for (const [layer, wanted] of [
      [request({ path: '/a' }), http],
      [null, tcp],
    ] as const) {
      const got = compiled.ask(connection(), layer);
      t.equal(got === null ? 'none' : 'allowed' in got ? 'deny' : 'ask', wanted, why);
      if (got !== null && 'allowed' in got) {
        t.match(got, {
          allowed: false,
          policy: 'foo/c',
          rule: 0,
          detail: /-deny-due-to-bad-CUSTOM-action: \w/,
        });
      }
    }
    if (policies === one)
      t.equal(compiled.ask(connection(), request({ path: '/x' })), null, `${why}: no match`);
  }
});

t.test('CUSTOM: of two providers the first by name denies', async (t) => {
  const compiled = compileAuthorization([custom('a', 'z'), custom('b', 'y')], workload, mesh, null);
  t.match(compiled.ask(connection(), request()), { allowed: false, policy: 'foo/b' });
});

t.test('AUDIT and dry-run are watched and change nothing', async (t) => {
  const policies = [
    named('audit-b', '{action: AUDIT, rules: [{}]}'),
    named('audit-a', `{action: AUDIT, rules: [${onPath('/a')}]}`),
    named('would-deny', '{action: DENY, rules: [{}]}', true),
    named('would-allow', `{rules: [${onPath('/a')}]}`, true),
    named('never', '{}', true),
  ];
  const compiled = compileAuthorization(policies, workload, mesh);
  t.equal(compiled.decideRequest(connection(), request()).allowed, true, 'dry ALLOWs alone do not close');
  t.same(compiled.observe?.(connection(), request({ path: '/a' })), {
    audit: ['foo/audit-a', 'foo/audit-b'],
    dryRun: [
      { policy: 'foo/would-allow', decision: 'ALLOW' },
      { policy: 'foo/would-deny', decision: 'DENY' },
    ],
  });
  t.same(
    compiled.observe?.(connection(), null),
    {
      audit: ['foo/audit-a', 'foo/audit-b'],
      dryRun: [{ policy: 'foo/would-deny', decision: 'DENY' }],
    },
    'TCP: AUDIT widens, ALLOW drops the rule',
  );
  t.same(compiled.byAction, { CUSTOM: [], DENY: [], ALLOW: [], AUDIT: ['foo/audit-a', 'foo/audit-b'] });
  const plain = compileAuthorization([named('a', '{rules: [{}]}')], workload, mesh);
  t.equal(plain.observe, null, 'nothing to watch costs nothing');
  const both = compileAuthorization([...policies, named('real', '{}')], workload, mesh);
  t.equal(both.decideRequest(connection(), request()).allowed, false, 'an enforced ALLOW does close');
});

t.test('policies for gateways hold for no sidecar', async (t) => {
  const gateway = '{group: gateway.networking.k8s.io, kind: Gateway, name: g}';
  const policies = [named('g', `{targetRefs: [${gateway}]}`), named('h', `{targetRef: ${gateway}}`)];
  const compiled = compileAuthorization(policies, workload, mesh);
  t.same(compiled.policies, []);
  t.equal(compiled.decideRequest(connection(), request()).allowed, true);
});

t.test('the nearest rule and the field that missed', async (t) => {
  const web =
    '{from: [{source: {principals: ["cluster.local/ns/foo/sa/web"]}}], to: [{operation: {methods: [GET]}}]}';
  const sleep = `{from: [{source: {principals: ["${SLEEP}"]}}], to: [{operation: {methods: [POST], paths: ["/x"]}}]}`;
  const cases: readonly [
    why: string,
    policies: readonly AuthorizationPolicy[],
    facts: Facts & { readonly tcp?: boolean },
    nearest: Nearest | null,
  ][] = [
    [
      'one field misses',
      [named('p', `{rules: [${web}]}`)],
      { principal: 'cluster.local/ns/foo/sa/web', method: 'PUT' },
      { policy: 'foo/p', rule: 0, field: 'to.operation.methods', expected: ['GET'], actual: 'PUT' },
    ],
    [
      'the rule that fewest fields keep',
      [named('p', `{rules: [${web}, ${sleep}]}`)],
      { principal: SLEEP, method: 'POST', path: '/y?q' },
      { policy: 'foo/p', rule: 1, field: 'to.operation.paths', expected: ['/x'], actual: '/y' },
    ],
    [
      'plaintext has no principal',
      [named('p', `{rules: [${web}]}`)],
      {},
      {
        policy: 'foo/p',
        rule: 0,
        field: 'from.source.principals',
        expected: ['cluster.local/ns/foo/sa/web'],
        actual: null,
      },
    ],
    [
      'a not field',
      [named('p', '{rules: [{to: [{operation: {notPorts: ["8080"]}}]}]}')],
      { port: 8080 },
      { policy: 'foo/p', rule: 0, field: 'to.operation.notPorts', expected: ['8080'], actual: '8080' },
    ],
    [
      'a condition',
      [named('p', '{rules: [{when: [{key: "request.headers[X-A]", values: [a]}]}]}')],
      { headers: { 'x-a': ['b', 'c'] } },
      {
        policy: 'foo/p',
        rule: 0,
        field: 'when[request.headers[X-A]].values',
        expected: ['a'],
        actual: ['b', 'c'],
      },
    ],
    [
      'a secret is not shown',
      [named('p', '{rules: [{when: [{key: "request.headers[Authorization]", values: [a]}]}]}')],
      { headers: { authorization: ['Bearer abc'] } },
      {
        policy: 'foo/p',
        rule: 0,
        field: 'when[request.headers[Authorization]].values',
        expected: ['a'],
        actual: '(not shown)',
      },
    ],
    ['nothing to point at', [named('p', '{}')], {}, null],
    [
      'the rule that denied',
      [named('d', `{action: DENY, rules: [{from: [{source: {namespaces: [bar]}}]}, ${onPath('/a')}]}`)],
      { path: '/a' },
      { policy: 'foo/d', rule: 1, field: 'to.operation.paths', expected: ['/a'], actual: '/a' },
    ],
    ['a rule that denies all', [named('d', '{action: DENY, rules: [{}]}')], {}, null],
    [
      'dropped on TCP',
      [named('p', `{rules: [${onPath('/a')}]}`)],
      { tcp: true },
      { policy: 'foo/p', rule: 0, field: 'to.operation.paths', expected: ['/a'], actual: null },
    ],
  ];
  for (const [why, policies, facts, nearest] of cases) {
    const compiled = compileAuthorization(policies, workload, mesh);
    const asked = facts.tcp ? null : request(facts);
    const denial =
      asked === null
        ? compiled.decideConnection(connection(facts))
        : compiled.decideRequest(connection(facts), asked);
    t.equal(denial.allowed, false, why);
    t.same(compiled.explain(connection(facts), asked, denial), nearest, why);
  }
});
