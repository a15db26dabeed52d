/** What Istio's webhook and schema refuse of an AuthorizationPolicy: each names its field. */
import t from 'tap';
import { parse } from 'yaml';
import type { Problem } from '../../mesh/resource.ts';
import { decodeAuthorizationPolicy } from '../../policy/authorization-policy.ts';
import { resource } from './helper.ts';

const UNKNOWN = 'OLK0103';
const TYPE = 'OLK0104';
const ENUM = 'OLK0105';
const MISSING = 'OLK0106';
const UNSUPPORTED = 'OLK0107';
const VALUE = 'OLK0108';

const source = (fields: string): string => `rules: [{from: [{source: ${fields}}]}]`;
const operation = (fields: string): string => `rules: [{to: [{operation: ${fields}}]}]`;
const SOURCE = 'spec.rules[0].from[0].source';
const OPERATION = 'spec.rules[0].to[0].operation';
const WHEN = 'spec.rules[0].when[0]';
const when = (key: string, values: string): string => `rules: [{when: [{key: "${key}", values: ${values}}]}]`;
const GATEWAY = '{group: gateway.networking.k8s.io, kind: Gateway, name: g}';

const refused: readonly [spec: string, field: string, code: string][] = [
  ['[]', 'spec', TYPE],
  ['action: BLOCK', 'spec.action', ENUM],
  ['action: deny', 'spec.action', ENUM],
  ['action: 1', 'spec.action', ENUM],
  ['acton: DENY', 'spec.acton', UNKNOWN],
  ['action: DENY', 'spec.rules', MISSING],
  ['{action: DENY, rules: []}', 'spec.rules', MISSING],
  ['{action: DENY, rules: null}', 'spec.rules', MISSING],
  ['rules: {}', 'spec.rules', TYPE],
  ['rules: [null]', 'spec.rules[0]', TYPE],
  ['rules: [{form: []}]', 'spec.rules[0].form', UNKNOWN],
  ['rules: [{from: [null]}]', 'spec.rules[0].from[0]', TYPE],
  ['rules: [{from: [{}]}]', 'spec.rules[0].from[0].source', MISSING],
  ['rules: [{from: [{source: null}]}]', 'spec.rules[0].from[0].source', MISSING],
  ['rules: [{from: [{principals: [a]}]}]', 'spec.rules[0].from[0].principals', UNKNOWN],
  [source('{}'), SOURCE, MISSING],
  [source('{principals: []}'), SOURCE, MISSING],
  [source('{principals: [""]}'), `${SOURCE}.principals[0]`, VALUE],
  [source('{principals: a}'), `${SOURCE}.principals`, TYPE],
  [source('{principals: [a, 1]}'), `${SOURCE}.principals[1]`, TYPE],
  [source('{principal: [a]}'), `${SOURCE}.principal`, UNKNOWN],
  [source('{notPrincipals: [""]}'), `${SOURCE}.notPrincipals[0]`, VALUE],
  [source('{namespaces: [""]}'), `${SOURCE}.namespaces[0]`, VALUE],
  [source('{notNamespaces: [""]}'), `${SOURCE}.notNamespaces[0]`, VALUE],
  [source('{ipBlocks: ["10.0.0.0/33"]}'), `${SOURCE}.ipBlocks[0]`, VALUE],
  [source('{ipBlocks: ["10.0.0.0/08"]}'), `${SOURCE}.ipBlocks[0]`, VALUE],
  [source('{ipBlocks: ["10.0.0"]}'), `${SOURCE}.ipBlocks[0]`, VALUE],
  [source('{ipBlocks: ["10.00.0.1"]}'), `${SOURCE}.ipBlocks[0]`, VALUE],
  [source('{ipBlocks: ["::1::"]}'), `${SOURCE}.ipBlocks[0]`, VALUE],
  [source('{ipBlocks: ["fe80::1%eth0/64"]}'), `${SOURCE}.ipBlocks[0]`, VALUE],
  [source('{notIpBlocks: ["x"]}'), `${SOURCE}.notIpBlocks[0]`, VALUE],
  ['rules: [{to: [{}]}]', 'spec.rules[0].to[0].operation', MISSING],
  [operation('{}'), OPERATION, MISSING],
  [operation('{methods: [], paths: []}'), OPERATION, MISSING],
  [operation('{methods: [""]}'), `${OPERATION}.methods[0]`, VALUE],
  [operation('{method: [GET]}'), `${OPERATION}.method`, UNKNOWN],
  [operation('{ports: [80]}'), `${OPERATION}.ports[0]`, TYPE],
  [operation('{ports: ["65536"]}'), `${OPERATION}.ports[0]`, VALUE],
  [operation('{ports: ["+80"]}'), `${OPERATION}.ports[0]`, VALUE],
  [operation('{ports: ["http"]}'), `${OPERATION}.ports[0]`, VALUE],
  [operation('{notPorts: ["-1"]}'), `${OPERATION}.notPorts[0]`, VALUE],
  [operation('{paths: ["/a", ""]}'), `${OPERATION}.paths[1]`, VALUE],
  [operation('{paths: ["/a", "/{x}"]}'), `${OPERATION}.paths[1]`, VALUE],
  [operation('{notPaths: ["/a}"]}'), `${OPERATION}.notPaths[0]`, VALUE],
  [operation('{hosts: [""]}'), `${OPERATION}.hosts[0]`, VALUE],
  ['selector: {matchLabels: {app: "w*"}}', 'spec.selector.matchLabels.app', VALUE],
  ['selector: {app: web}', 'spec.selector.app', UNKNOWN],
  [`rules: [${'{},'.repeat(513)}]`, 'spec.rules', VALUE],
  // serviceAccounts, trustDomains, requestPrincipals, remoteIpBlocks
  [source('{serviceAccounts: ["a*"]}'), `${SOURCE}.serviceAccounts[0]`, VALUE],
  [source('{serviceAccounts: ["a/b/c"]}'), `${SOURCE}.serviceAccounts[0]`, VALUE],
  [source('{serviceAccounts: ["/b"]}'), `${SOURCE}.serviceAccounts[0]`, VALUE],
  [source('{notServiceAccounts: ["a/"]}'), `${SOURCE}.notServiceAccounts[0]`, VALUE],
  [source('{serviceAccounts: [""]}'), `${SOURCE}.serviceAccounts[0]`, VALUE],
  [source(`{serviceAccounts: [${'a, '.repeat(17)}]}`), `${SOURCE}.serviceAccounts`, VALUE],
  [source(`{serviceAccounts: [${'a'.repeat(321)}]}`), `${SOURCE}.serviceAccounts[0]`, VALUE],
  [source('{serviceAccounts: [a], principals: [b]}'), SOURCE, VALUE],
  [source('{notServiceAccounts: [a], namespaces: [b]}'), SOURCE, VALUE],
  [source('{serviceAccounts: [a], notNamespaces: []}'), SOURCE, VALUE],
  [source('{trustDomains: ["a*b"]}'), `${SOURCE}.trustDomains[0]`, VALUE],
  [source('{trustDomains: ["*a*"]}'), `${SOURCE}.trustDomains[0]`, VALUE],
  [source('{notTrustDomains: ["td/ns"]}'), `${SOURCE}.notTrustDomains[0]`, VALUE],
  [source('{requestPrincipals: [""]}'), `${SOURCE}.requestPrincipals[0]`, VALUE],
  [source('{remoteIpBlocks: ["1.2.3"]}'), `${SOURCE}.remoteIpBlocks[0]`, VALUE],
  [source('{notRemoteIpBlocks: ["::1/129"]}'), `${SOURCE}.notRemoteIpBlocks[0]`, VALUE],
  // path templates
  [operation('{paths: ["/a/{**}/{*}"]}'), `${OPERATION}.paths[0]`, VALUE],
  [operation('{paths: ["/{**}/b/{**}"]}'), `${OPERATION}.paths[0]`, VALUE],
  [operation('{paths: ["/a{*}"]}'), `${OPERATION}.paths[0]`, VALUE],
  [operation('{paths: ["/a*/{*}"]}'), `${OPERATION}.paths[0]`, VALUE],
  [operation('{paths: ["/a//{*}"]}'), `${OPERATION}.paths[0]`, VALUE],
  [operation('{notPaths: ["/a/{***}"]}'), `${OPERATION}.notPaths[0]`, VALUE],
  // when
  ['rules: [{when: [{}]}]', `${WHEN}.key`, MISSING],
  ['rules: [{when: [{key: "", values: [a]}]}]', `${WHEN}.key`, MISSING],
  ['rules: [{when: [{key: source.principal}]}]', WHEN, MISSING],
  ['rules: [{when: [{key: source.principal, values: []}]}]', WHEN, MISSING],
  ['rules: [{when: [{key: source.principal, value: [a]}]}]', `${WHEN}.value`, UNKNOWN],
  [when('source.principal', '[""]'), `${WHEN}.values[0]`, VALUE],
  [when('source.ip', '["1.2.3"]'), `${WHEN}.values[0]`, VALUE],
  [when('remote.ip', '[x]'), `${WHEN}.values[0]`, VALUE],
  [when('destination.ip', '["10.0.0.0/40"]'), `${WHEN}.values[0]`, VALUE],
  [when('destination.port', '["70000"]'), `${WHEN}.values[0]`, VALUE],
  [when('source.serviceAccount', '["a*"]'), `${WHEN}.values[0]`, VALUE],
  [when('source.trustDomain', '["a*b"]'), `${WHEN}.values[0]`, VALUE],
  [when('request.header[x]', '[a]'), `${WHEN}.key`, VALUE],
  [when('request.headers', '[a]'), `${WHEN}.key`, VALUE],
  [when('request.headers[]', '[a]'), `${WHEN}.key`, VALUE],
  [when('request.headers[x', '[a]'), `${WHEN}.key`, VALUE],
  [when('request.auth.claims', '[a]'), `${WHEN}.key`, VALUE],
  [when('request.auth.issuer', '[a]'), `${WHEN}.key`, VALUE],
  [when('destination.labels[app]', '[a]'), `${WHEN}.key`, VALUE],
  [when('destination.namespace', '[a]'), `${WHEN}.key`, VALUE],
  [when('destination.name', '[a]'), `${WHEN}.key`, VALUE],
  [when('destination.user', '[a]'), `${WHEN}.key`, VALUE],
  [when('Source.ip', '["1.2.3.4"]'), `${WHEN}.key`, VALUE],
  [when('experimental.envoy.filters', '[a]'), `${WHEN}.key`, VALUE],
  [when('experimental.envoy.filters.a.b', '[a]'), `${WHEN}.key`, VALUE],
  [when('experimental.envoy.filters.a.b[c]', '[a]'), `${WHEN}.key`, UNSUPPORTED],
  [when('request.headersX[a]', '[a]'), `${WHEN}.key`, UNSUPPORTED],
  // CUSTOM, provider and targets
  ['{action: CUSTOM, provider: {name: x}}', 'spec.rules', MISSING],
  ['{action: CUSTOM, rules: [{}]}', 'spec.provider.name', MISSING],
  ['{action: CUSTOM, provider: {name: ""}, rules: [{}]}', 'spec.provider.name', MISSING],
  ['{action: DENY, provider: {name: x}, rules: [{}]}', 'spec.provider', VALUE],
  ['{provider: {name: x}, rules: [{}]}', 'spec.provider', VALUE],
  ['{action: CUSTOM, provider: {nam: x}, rules: [{}]}', 'spec.provider.nam', UNKNOWN],
  ...['principals', 'notPrincipals', 'requestPrincipals', 'namespaces', 'notNamespaces', 'trustDomains'].map(
    (field): [string, string, string] => [
      `{action: CUSTOM, provider: {name: x}, ${source(`{${field}: [a]}`)}}`,
      `${SOURCE}.${field}`,
      VALUE,
    ],
  ),
  ...['source.namespace', 'source.principal', 'request.auth.claims[a]', 'request.auth.principal'].map(
    (key): [string, string, string] => [
      `{action: CUSTOM, provider: {name: x}, ${when(key, '[a]')}}`,
      `${WHEN}.key`,
      VALUE,
    ],
  ),
  ['targetRef: {kind: Gateway, name: g}', 'spec.targetRef.kind', VALUE],
  [`{targetRefs: [${GATEWAY}], selector: {matchLabels: {a: b}}}`, 'spec.targetRefs', VALUE],
];

t.test('refused, the field named', async (t) => {
  for (const [spec, field, code] of refused) {
    const problems: Problem[] = [];
    t.equal(decodeAuthorizationPolicy(resource({ spec: parse(spec) }), problems), null, spec);
    const got = problems.map((one) => `${one.code} ${one.field}`);
    t.ok(got.includes(`${code} ${field}`), `${spec}: ${code} ${field}, got ${got.join(', ')}`);
    t.ok(
      problems.every((one) => one.severity === 'Error' && one.resource === 'AuthorizationPolicy/foo/p'),
      'each an Error of this resource',
    );
  }
});

t.test('one mistake is one problem', async (t) => {
  for (const spec of [
    source('{principals: [""]}'),
    source('{serviceAccounts: ["a*"]}'),
    when('source.ip', '[x]'),
    operation('{ports: [80]}'),
  ]) {
    const problems: Problem[] = [];
    decodeAuthorizationPolicy(resource({ spec: parse(spec) }), problems);
    t.equal(problems.length, 1, spec);
  }
});

t.test('accepted', async (t) => {
  const accepted = [
    'null',
    '{}',
    'action: ALLOW',
    'rules: []',
    'rules: [{}]',
    '{action: DENY, rules: [{}]}',
    'rules: [{from: [], to: null}]',
    '{selector: null, rules: [{}]}',
    '{selector: {matchLabels: {app: web}}, rules: [{}]}',
    source('{principals: ["*", "a*", "*a", "a*b", "**"], notPrincipals: [x], namespaces: ["*-x*y"]}'),
    source(
      '{ipBlocks: ["10.0.0.1", "10.1.2.3/8", "::1", "2001:db8::/32", "::ffff:1.2.3.4/128", "fe80::1%eth0"]}',
    ),
    operation('{ports: ["0", "080", "65535"], methods: ["*"], paths: ["/a*"], hosts: ["*.com"]}'),
    operation('{notPorts: ["1"], notMethods: [GET], notPaths: ["/"], notHosts: [a]}'),
    operation('{paths: ["/a/{*}", "/{*}/{**}", "/{**}/b/c", "/{**}", "{*}", "/a/{*}/"]}'),
    source('{serviceAccounts: [a, foo/b], notServiceAccounts: [c]}'),
    source('{trustDomains: ["*", "a*", "*a", td], notTrustDomains: [x]}'),
    source('{requestPrincipals: ["*", "iss/sub", "https://iss/*"], remoteIpBlocks: ["::1"]}'),
    '{action: AUDIT}',
    '{action: CUSTOM, provider: {name: x}, rules: [{}]}',
    `{action: CUSTOM, provider: {name: x}, ${source('{ipBlocks: ["1.1.1.1"], notRemoteIpBlocks: ["::1"]}')}}`,
    `{action: CUSTOM, provider: {name: x}, ${when('request.headers[x]', '[a]')}}`,
    `targetRef: ${GATEWAY}`,
    `targetRefs: [${GATEWAY}, {kind: Service, name: s}]`,
    ...[
      'source.namespace',
      'source.principal',
      'source.serviceAccount',
      'source.trustDomain',
      'request.auth.principal',
      'request.auth.audiences',
      'request.auth.presenter',
      'request.auth.claims[a]',
      'request.auth.claims[a][b]',
      'request.auth.claims[https://example.com/role]',
      'request.headers[User-Agent]',
      'request.headers[:path]',
      'connection.sni',
    ].map((key) => when(key, '[a]')),
    ...['source.ip', 'remote.ip', 'destination.ip'].map((key) => when(key, '["10.0.0.0/8", "::1"]')),
    when('destination.port', '["80"]'),
    'rules: [{when: [{key: source.principal, notValues: [a]}]}]',
  ];
  for (const spec of accepted) {
    const problems: Problem[] = [];
    t.ok(decodeAuthorizationPolicy(resource({ spec: parse(spec) }), problems), spec);
    t.same(problems, [], spec);
  }
});

t.test("Istio's warnings are Warnings", async (t) => {
  const rows: readonly [spec: string, field: string][] = [
    ['{selector: {}, rules: [{}]}', 'spec.selector'],
    ['{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}', 'spec.rules[0].to'],
  ];
  for (const [spec, field] of rows) {
    const problems: Problem[] = [];
    t.ok(decodeAuthorizationPolicy(resource({ spec: parse(spec) }), problems), spec);
    t.match(problems, [{ severity: 'Warning', field }]);
  }
  const problems: Problem[] = [];
  const ports = '{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ["80"]}}]}]}';
  t.ok(decodeAuthorizationPolicy(resource({ spec: parse(ports) }), problems));
  t.same(problems, [], 'a named port is what the warning asks for');
});

t.test('the dry-run annotation', async (t) => {
  const rows: readonly [value: string, code: string | null][] = [
    ['true', null],
    ['T', null],
    ['false', null],
    ['0', null],
    ['yes', VALUE],
    ['', VALUE],
  ];
  for (const [value, code] of rows) {
    const problems: Problem[] = [];
    const annotations = { 'istio.io/dry-run': value };
    const decoded = decodeAuthorizationPolicy(resource({ annotations, spec: {} }), problems);
    t.equal(decoded === null, code !== null, value);
    t.equal(problems[0]?.code ?? null, code, value);
    if (code !== null) t.equal(problems[0]?.field, 'metadata.annotations.istio.io/dry-run');
    t.equal(decoded?.dryRun ?? false, code === null && /^t/i.test(value), value);
  }
  for (const spec of ['{action: AUDIT, rules: [{}]}', '{action: CUSTOM, provider: {name: x}, rules: [{}]}']) {
    const problems: Problem[] = [];
    const dry = resource({ annotations: { 'istio.io/dry-run': 'false' }, spec: parse(spec) });
    t.equal(decodeAuthorizationPolicy(dry, problems), null, `${spec}: only ALLOW and DENY`);
  }
});

t.test('annotations Istio keeps for itself', async (t) => {
  for (const name of ['webhook-always-reject', 'parents', 'parent-namespace']) {
    const problems: Problem[] = [];
    const annotations = { [`internal.istio.io/${name}`]: 'x' };
    t.equal(decodeAuthorizationPolicy(resource({ annotations, spec: {} }), problems), null, name);
  }
});
