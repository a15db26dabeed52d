/** Decisions: rows `policies, facts → decision` for every field and the awkward cases, as Istio documents them. */
import t from 'tap';
import type { Decision } from '../../mesh/decision.ts';
import type { MeshSettings } from '../../mesh/snapshot.ts';
import type { AuthorizationPolicy } from '../../policy/authorization-policy.ts';
import { compileAuthorization } from '../../policy/authorize.ts';
import { connection, type Facts, mesh, policy, request } from './helper.ts';

const workload = { namespace: 'foo', labels: new Map([['app', 'web']]) };
const SLEEP = 'cluster.local/ns/foo/sa/sleep';

function decide(
  policies: readonly AuthorizationPolicy[],
  facts: Facts & { readonly tcp?: boolean },
  settings: MeshSettings = mesh,
): Decision {
  const authorization = compileAuthorization(policies, workload, settings);
  return facts.tcp
    ? authorization.decideConnection(connection(facts))
    : authorization.decideRequest(connection(facts), request(facts));
}

const from = (source: string, action = 'ALLOW'): string =>
  `{action: ${action}, rules: [{from: [{source: ${source}}]}]}`;
const to = (operation: string, action = 'ALLOW'): string =>
  `{action: ${action}, rules: [{to: [{operation: ${operation}}]}]}`;

type Row = readonly [spec: string, facts: Facts & { readonly tcp?: boolean }, allowed: boolean, why: string];

function run(name: string, rows: readonly Row[], settings: MeshSettings = mesh): void {
  t.test(name, async (t) => {
    for (const [spec, facts, allowed, why] of rows) {
      t.equal(
        decide([policy(spec)], facts, settings).allowed,
        allowed,
        `${why}: ${spec} ${JSON.stringify(facts)}`,
      );
    }
  });
}

run('empty specs and rules', [
  ['null', {}, false, 'no spec denies all'],
  ['{}', {}, false, 'an empty spec denies all'],
  ['{}', { tcp: true }, false, 'TCP too'],
  ['rules: []', { principal: SLEEP }, false, 'no rules match nothing'],
  ['rules: [{}]', {}, true, 'an empty rule matches all'],
  ['rules: [{}]', { tcp: true }, true, 'TCP too'],
  ['{action: DENY, rules: [{}]}', { principal: SLEEP }, false, 'DENY all'],
  ['rules: [{from: [], to: []}]', {}, true, 'empty lists ask nothing, as in proto3'],
]);

run('principals', [
  [from(`{principals: ["${SLEEP}"]}`), { principal: SLEEP }, true, 'exact'],
  [from(`{principals: ["${SLEEP}"]}`), { principal: `${SLEEP}y` }, false, 'exact is whole'],
  [from(`{principals: ["${SLEEP}"]}`), {}, false, 'plaintext has no principal'],
  [from('{principals: ["cluster.local/ns/foo/*"]}'), { principal: SLEEP }, true, 'prefix'],
  [from('{principals: ["cluster.local/ns/fo*"]}'), { principal: SLEEP }, true, 'a prefix knows no segments'],
  [from('{principals: ["cluster.local/ns/bar/*"]}'), { principal: SLEEP }, false, 'another prefix'],
  [from('{principals: ["*/sa/sleep"]}'), { principal: SLEEP }, true, 'suffix'],
  [from('{principals: ["*/sa/leep"]}'), { principal: SLEEP }, false, 'another suffix'],
  [from('{principals: ["*"]}'), { principal: SLEEP }, true, 'presence'],
  [from('{principals: ["*"]}'), { principal: 'td/some/path' }, true, 'presence of any SPIFFE identity'],
  [from('{principals: ["*"]}'), {}, false, 'plaintext matches no positive identity field, not even *'],
  [
    from('{principals: ["cluster.local/ns/*/sa/sleep"]}'),
    { principal: SLEEP },
    false,
    'a star inside is a letter',
  ],
  [
    from('{principals: ["spiffe://cluster.local/ns/foo/sa/sleep"]}'),
    { principal: SLEEP },
    false,
    'no scheme in policies',
  ],
  [from('{principals: ["CLUSTER.local/ns/foo/sa/sleep"]}'), { principal: SLEEP }, false, 'case counts'],
  [from(`{notPrincipals: ["${SLEEP}"]}`), { principal: SLEEP }, false, 'not'],
  [from(`{notPrincipals: ["${SLEEP}"]}`), { principal: 'cluster.local/ns/foo/sa/x' }, true, 'not another'],
  [from(`{notPrincipals: ["${SLEEP}"]}`), {}, true, 'plaintext matches every not'],
  [from('{notPrincipals: ["*"]}', 'DENY'), {}, false, 'deny plaintext'],
  [from('{notPrincipals: ["*"]}', 'DENY'), { principal: SLEEP }, true, 'but not mTLS'],
  [from('{principals: ["*"]}', 'DENY'), {}, true, 'deny mTLS, not plaintext'],
  [from(`{principals: ["*"], notPrincipals: ["${SLEEP}"]}`), { principal: SLEEP }, false, 'both must hold'],
  [from(`{principals: [x, "${SLEEP}"]}`), { principal: SLEEP }, true, 'any value'],
]);

run('namespaces', [
  [from('{namespaces: [foo]}'), { principal: SLEEP }, true, 'exact'],
  [from('{namespaces: [fo]}'), { principal: SLEEP }, false, 'whole'],
  [from('{namespaces: ["f*"]}'), { principal: SLEEP }, true, 'prefix'],
  [from('{namespaces: ["*o"]}'), { principal: SLEEP }, true, 'suffix'],
  [from('{namespaces: ["f*o"]}'), { principal: SLEEP }, true, 'Istio makes every star a wildcard here'],
  [from('{namespaces: ["f*x"]}'), { principal: SLEEP }, false, 'and the rest must be there'],
  [from('{namespaces: ["*"]}'), { principal: SLEEP }, true, 'presence'],
  [from('{namespaces: ["*"]}'), {}, false, 'plaintext has none'],
  [from('{namespaces: ["*"]}'), { principal: 'td/some/path' }, false, 'an identity without /ns/ has none'],
  [from('{namespaces: [foo]}'), { principal: 'td/ns/foo/sa/a/x/y' }, true, 'more segments do not matter'],
  [from('{namespaces: [foo]}'), { principal: 'td/k/v/ns/foo/sa/a' }, true, 'nor in front'],
  [from('{namespaces: [foo]}'), { principal: 'td/x/ns/foo' }, false, 'but something must follow'],
  [from('{namespaces: ["f.o"]}'), { principal: SLEEP }, false, 'a dot is a dot'],
  [from('{namespaces: [foo]}'), { principal: 'other/ns/foo/sa/x' }, true, 'of any trust domain'],
  [from('{notNamespaces: [foo]}'), { principal: SLEEP }, false, 'not'],
  [from('{notNamespaces: [bar]}'), { principal: SLEEP }, true, 'not another'],
  [from('{notNamespaces: [foo]}'), {}, true, 'plaintext matches every not'],
  [from('{notNamespaces: [foo]}', 'DENY'), {}, false, 'so a DENY by notNamespaces denies it'],
  [from('{namespaces: [dev]}', 'DENY'), {}, true, 'and a DENY by namespaces does not'],
  [
    from('{namespaces: [foo], principals: ["*/sa/x"]}'),
    { principal: SLEEP },
    false,
    'all fields of a source',
  ],
]);

run('ipBlocks', [
  [from('{ipBlocks: ["10.0.0.0/8"]}'), { sourceIp: '10.255.0.1' }, true, 'in the block'],
  [from('{ipBlocks: ["10.0.0.0/8"]}'), { sourceIp: '11.0.0.1' }, false, 'outside'],
  [from('{ipBlocks: ["10.1.2.3/8"]}'), { sourceIp: '10.9.9.9' }, true, 'host bits do not count'],
  [from('{ipBlocks: ["10.0.0.9"]}'), { sourceIp: '10.0.0.9' }, true, 'one address'],
  [from('{ipBlocks: ["10.0.0.9"]}'), { sourceIp: '10.0.0.8' }, false, 'another'],
  [from('{ipBlocks: ["0.0.0.0/0"]}'), { sourceIp: '255.1.2.3' }, true, 'all of IPv4'],
  [from('{ipBlocks: ["0.0.0.0/0"]}'), { sourceIp: '::1' }, false, 'is none of IPv6'],
  [from('{ipBlocks: ["::/0"]}'), { sourceIp: '10.0.0.1' }, false, 'nor the other way'],
  [
    from('{ipBlocks: ["::ffff:10.0.0.0/104"]}'),
    { sourceIp: '10.0.0.1' },
    false,
    'Envoy compares like with like',
  ],
  [from('{ipBlocks: ["2001:db8::/33"]}'), { sourceIp: '2001:db8:7fff::1' }, true, 'IPv6, inside a word'],
  [from('{ipBlocks: ["2001:db8::/33"]}'), { sourceIp: '2001:db8:8000::1' }, false, 'the bit behind'],
  [from('{ipBlocks: ["128.0.0.0/1"]}'), { sourceIp: '200.0.0.1' }, true, 'the highest bit'],
  [from('{notIpBlocks: ["10.0.0.0/8"]}'), { sourceIp: '10.0.0.1' }, false, 'not'],
  [from('{notIpBlocks: ["10.0.0.0/8"]}'), { sourceIp: '11.0.0.1', tcp: true }, true, 'TCP too'],
]);

run('methods', [
  [to('{methods: [GET]}'), { method: 'GET' }, true, 'exact'],
  [to('{methods: [get]}'), { method: 'GET' }, false, 'case counts'],
  [to('{methods: ["P*"]}'), { method: 'PUT' }, true, 'prefix'],
  [to('{methods: ["*T"]}'), { method: 'POST' }, true, 'suffix'],
  [to('{methods: ["*"]}'), { method: 'X' }, true, 'presence'],
  [to('{notMethods: [GET]}'), { method: 'GET' }, false, 'not'],
  [to('{notMethods: [GET]}'), { method: 'PUT' }, true, 'not another'],
]);

run('paths', [
  [to('{paths: ["/a"]}'), { path: '/a' }, true, 'exact'],
  [to('{paths: ["/a"]}'), { path: '/a?b' }, true, 'the query takes no part'],
  [to('{paths: ["/a?b"]}'), { path: '/a?b' }, false, 'so a policy cannot ask for one'],
  [to('{paths: ["/a"]}'), { path: '/a/' }, false, 'exact is whole'],
  [to('{paths: ["/a"]}'), { path: '/A' }, false, 'case counts'],
  [to('{paths: ["/a/*"]}'), { path: '/a/b/c' }, true, 'prefix'],
  [to('{paths: ["/a/*"]}'), { path: '/a' }, false, 'a prefix with its slash'],
  [to('{paths: ["/a*"]}'), { path: '/ab' }, true, 'a prefix without'],
  [to('{paths: ["*/info"]}'), { path: '/a/info?x=/y' }, true, 'suffix'],
  [to('{paths: ["*"]}'), { path: '/' }, true, 'presence'],
  [to('{paths: ["/a/*/c"]}'), { path: '/a/b/c' }, false, 'a star inside is a letter'],
  [to('{paths: ["/a/*/c"]}'), { path: '/a/*/c' }, true, 'that letter'],
  [to('{notPaths: ["/admin*"]}'), { path: '/admin/x' }, false, 'not'],
  [to('{notPaths: ["/admin*"]}'), { path: '/a' }, true, 'not another'],
]);

run('hosts', [
  [to('{hosts: [a.com]}'), { host: 'a.com' }, true, 'exact'],
  [to('{hosts: [a.com]}'), { host: 'A.Com' }, true, 'without regard to case'],
  [to('{hosts: [A.COM]}'), { host: 'a.com' }, true, 'either way'],
  [to('{hosts: [a.com]}'), { host: 'a.com:8080' }, false, 'the port is not stripped'],
  [to('{hosts: ["a.com*"]}'), { host: 'a.com:8080' }, true, 'prefix'],
  [to('{hosts: ["*.COM"]}'), { host: 'x.com' }, true, 'suffix'],
  [to('{hosts: ["*"]}'), { host: '' }, true, 'presence, even empty'],
  [to('{hosts: [k]}'), { host: '\u212a' }, false, 'only ASCII letters have cases here'],
  [to('{notHosts: [a.com]}'), { host: 'A.com' }, false, 'not'],
]);

run('ports', [
  [to('{ports: ["8080"]}'), { port: 8080 }, true, 'the port'],
  [to('{ports: ["8080"]}'), { port: 8081 }, false, 'another'],
  [to('{ports: ["08080"]}'), { port: 8080 }, true, 'a number, not a string'],
  [to('{notPorts: ["8080"]}'), { port: 8080 }, false, 'not'],
  [to('{ports: ["8080"]}'), { port: 8080, tcp: true }, true, 'TCP'],
]);

run('from, to and their entries', [
  [
    `rules: [{from: [{source: {principals: ["${SLEEP}"]}}], to: [{operation: {methods: [GET]}}]}]`,
    { principal: SLEEP, method: 'PUT' },
    false,
    'from and to',
  ],
  [
    'rules: [{from: [{source: {namespaces: [bar]}}, {source: {namespaces: [foo]}}]}]',
    { principal: SLEEP },
    true,
    'any source',
  ],
  [
    'rules: [{to: [{operation: {methods: [GET]}}, {operation: {paths: ["/x"]}}]}]',
    { method: 'PUT', path: '/x' },
    true,
    'any operation',
  ],
  [
    'rules: [{to: [{operation: {methods: [GET], paths: ["/x"]}}]}]',
    { method: 'GET', path: '/y' },
    false,
    'all fields of one operation',
  ],
  [
    'rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: [PUT]}}]}]',
    { method: 'PUT' },
    true,
    'any rule',
  ],
]);

run('HTTP fields on TCP', [
  [to('{methods: [GET]}'), { tcp: true }, false, 'ALLOW: the rule is dropped, the policy still closes'],
  [to('{methods: [GET], ports: ["8080"]}'), { tcp: true }, false, 'ALLOW: with its L4 fields'],
  [
    'rules: [{to: [{operation: {ports: ["8080"]}}, {operation: {paths: ["/a"]}}]}]',
    { tcp: true },
    false,
    'ALLOW: even where another `to` entry is L4-only',
  ],
  ['rules: [{to: [{operation: {notPaths: ["/a"]}}]}]', { tcp: true }, false, 'ALLOW: a not field too'],
  [
    'rules: [{to: [{operation: {paths: ["/a"]}}]}, {to: [{operation: {ports: ["8080"]}}]}]',
    { tcp: true },
    true,
    'ALLOW: another rule stays',
  ],
  [to('{methods: [GET]}', 'DENY'), { tcp: true }, false, 'DENY: nothing is left, so all matches'],
  [to('{hosts: [x]}', 'DENY'), { tcp: true }, false, 'DENY: hosts are HTTP'],
  [
    to('{methods: [GET], ports: ["8080"]}', 'DENY'),
    { tcp: true, port: 8080 },
    false,
    'DENY: widened to the port',
  ],
  [to('{methods: [GET], ports: ["8080"]}', 'DENY'), { tcp: true, port: 9090 }, true, 'DENY: and no further'],
  [
    '{action: DENY, rules: [{to: [{operation: {ports: ["9090"]}}, {operation: {paths: ["/a"]}}]}]}',
    { tcp: true, port: 8080 },
    false,
    'DENY: one entry that asks nothing any more matches all',
  ],
  [
    '{action: DENY, rules: [{from: [{source: {namespaces: [dev]}}], to: [{operation: {notMethods: [GET]}}]}]}',
    { tcp: true, principal: SLEEP },
    true,
    'DENY: the source still counts',
  ],
]);

const td1: MeshSettings = { ...mesh, trustDomain: 'td1', trustDomainAliases: ['old-td'] };
run(
  'trust domains',
  [
    [from(`{principals: ["${SLEEP}"]}`), { principal: 'td1/ns/foo/sa/sleep' }, true, 'cluster.local is ours'],
    [from(`{principals: ["${SLEEP}"]}`), { principal: 'old-td/ns/foo/sa/sleep' }, true, 'and its aliases'],
    [from(`{principals: ["${SLEEP}"]}`), { principal: SLEEP }, false, 'and no longer itself'],
    [
      from('{principals: ["td1/ns/foo/sa/*"]}'),
      { principal: 'old-td/ns/foo/sa/x' },
      true,
      'five parts, a prefix',
    ],
    [
      from('{principals: ["cluster.local/ns/foo/*"]}'),
      { principal: 'td1/ns/foo/sa/x' },
      false,
      'four parts: as is',
    ],
    [from('{principals: ["cluster.local/ns/foo/*"]}'), { principal: SLEEP }, true, 'four parts: literally'],
    [from('{principals: ["x/ns/foo/sa/a"]}'), { principal: 'x/ns/foo/sa/a' }, true, 'a foreign one as is'],
    [from('{principals: ["x/ns/foo/sa/a"]}'), { principal: 'td1/ns/foo/sa/a' }, false, 'and no other'],
    [from(`{notPrincipals: ["${SLEEP}"]}`), { principal: 'old-td/ns/foo/sa/sleep' }, false, 'not fields too'],
  ],
  td1,
);

t.test('which policies apply', async (t) => {
  const deny = '{action: DENY, rules: [{}]}';
  const rows: readonly [namespace: string, selector: string | null, allowed: boolean, why: string][] = [
    ['foo', null, false, "the workload's namespace"],
    ['bar', null, true, 'another namespace'],
    ['istio-system', null, false, 'the root namespace, everywhere'],
    ['foo', '{app: web}', false, 'a selector that matches'],
    ['foo', '{app: db}', true, 'one that does not'],
    ['foo', '{app: web, v: "1"}', true, 'one label too many'],
    ['istio-system', '{app: web}', false, 'a root selector selects in every namespace'],
    ['istio-system', '{app: db}', true, 'if it matches'],
    ['bar', '{app: web}', true, 'a selector of another namespace does not'],
  ];
  for (const [namespace, labels, allowed, why] of rows) {
    const spec = labels === null ? deny : `{selector: {matchLabels: ${labels}}, action: DENY, rules: [{}]}`;
    t.equal(decide([policy(spec, { namespace })], {}).allowed, allowed, why);
  }
});

t.test('order of actions, and what a decision says', async (t) => {
  const denyDev = policy(from('{namespaces: [dev]}', 'DENY'), { name: 'deny-dev' });
  const allowAll = policy('rules: [{}]', { name: 'allow-all' });
  const allowGet = policy(to('{methods: [GET]}'), { name: 'allow-get' });
  const closed = policy('{}', { namespace: 'istio-system', name: 'closed' });

  t.same(decide([], {}), {
    allowed: true,
    policy: null,
    rule: null,
    detail: 'allowed-policy[none]',
    missed: [],
  });
  t.same(
    decide([denyDev], { principal: SLEEP }),
    { allowed: true, policy: null, rule: null, detail: 'allowed-policy[none]', missed: [] },
    'no ALLOW policy: allow',
  );
  t.same(decide([allowAll, denyDev], { principal: 'td/ns/dev/sa/x' }), {
    allowed: false,
    policy: 'foo/deny-dev',
    rule: 0,
    detail: 'rbac_access_denied_matched_policy[ns[foo]-policy[deny-dev]-rule[0]]',
    missed: [],
  });
  t.same(decide([allowAll, denyDev], { principal: SLEEP }), {
    allowed: true,
    policy: 'foo/allow-all',
    rule: 0,
    detail: 'allowed-policy[foo/allow-all]-rule[0]',
    missed: [],
  });
  t.same(decide([closed, allowGet, denyDev], { method: 'PUT' }), {
    allowed: false,
    policy: null,
    rule: null,
    detail: 'rbac_access_denied_matched_policy[none]',
    missed: ['foo/allow-get', 'istio-system/closed'],
  });
  t.same(
    decide([closed, allowGet], { method: 'GET' }).policy,
    'foo/allow-get',
    'deny-all yields to an ALLOW',
  );
  t.same(
    decide([allowGet], { tcp: true }).missed,
    ['foo/allow-get'],
    'a policy all dropped on TCP still closes',
  );
});

t.test('of several that match, the one Envoy would name', async (t) => {
  const a = policy('rules: [{to: [{operation: {methods: [PUT]}}]}, {}]', { name: 'a' });
  const b = policy('rules: [{}]', { name: 'b' });
  const root = policy('rules: [{}]', { namespace: 'istio-system', name: 'a' });
  for (const order of [
    [a, b, root],
    [root, b, a],
  ]) {
    t.match(decide(order, {}), { policy: 'foo/a', rule: 1 });
    t.match(decide(order, { method: 'PUT' }), { policy: 'foo/a', rule: 0 });
  }
});

t.test('decisions are made at compile time and shared', async (t) => {
  const authorization = compileAuthorization([policy('rules: [{}]')], workload, mesh);
  const first = authorization.decideRequest(connection(), request());
  t.equal(authorization.decideRequest(connection(), request()), first);
  t.ok(Object.isFrozen(first));
});

t.test("the zero-trust guide's policies", async (t) => {
  const settings = { namespace: 'production' };
  const authorization = compileAuthorization(
    [
      policy('{}', { ...settings, name: 'deny-all' }),
      policy(
        `{selector: {matchLabels: {app: product-catalog}}, action: ALLOW, rules: [{
          from: [{source: {principals: ["cluster.local/ns/production/sa/frontend"]}}],
          to: [{operation: {methods: ["GET"], paths: ["/api/v1/products", "/api/v1/products/*"]}}]}]}`,
        { ...settings, name: 'allow-frontend-to-catalog' },
      ),
      policy('{action: DENY, rules: [{from: [{source: {namespaces: ["development", "testing"]}}]}]}', {
        ...settings,
        name: 'deny-from-untrusted',
      }),
    ],
    { namespace: 'production', labels: new Map([['app', 'product-catalog']]) },
    mesh,
  );
  const frontend = 'cluster.local/ns/production/sa/frontend';
  const rows: readonly [facts: Facts, policy: string | null, allowed: boolean][] = [
    [{ principal: frontend, path: '/api/v1/products' }, 'production/allow-frontend-to-catalog', true],
    [{ principal: frontend, path: '/api/v1/products/7?x=1' }, 'production/allow-frontend-to-catalog', true],
    [{ principal: frontend, path: '/api/v1/products', method: 'POST' }, null, false],
    [{ principal: frontend, path: '/api/v1/productsX' }, null, false],
    [{ principal: 'cluster.local/ns/production/sa/cart', path: '/api/v1/products' }, null, false],
    [{ path: '/api/v1/products' }, null, false],
    [
      { principal: 'cluster.local/ns/development/sa/frontend', path: '/api/v1/products' },
      'production/deny-from-untrusted',
      false,
    ],
  ];
  for (const [facts, by, allowed] of rows) {
    t.match(
      authorization.decideRequest(connection(facts), request(facts)),
      { policy: by, allowed },
      JSON.stringify(facts),
    );
  }
});
