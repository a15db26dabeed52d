/** What Istio's webhook and schema refuse of an AuthorizationPolicy, and what this build cannot do yet: each names its field. */
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
  // the rest of the language, until it is built
  ['action: AUDIT', 'spec.action', UNSUPPORTED],
  ['{action: CUSTOM, provider: {name: x}, rules: [{}]}', 'spec.action', UNSUPPORTED],
  ['{action: CUSTOM, provider: {name: x}, rules: [{}]}', 'spec.provider', UNSUPPORTED],
  ['targetRef: {kind: Gateway, name: g}', 'spec.targetRef', UNSUPPORTED],
  ['targetRefs: [{kind: Gateway, name: g}]', 'spec.targetRefs', UNSUPPORTED],
  ['rules: [{when: [{key: source.ip, values: ["1.1.1.1"]}]}]', 'spec.rules[0].when', UNSUPPORTED],
  [operation('{paths: ["/a/{*}/b"]}'), `${OPERATION}.paths[0]`, UNSUPPORTED],
  [operation('{notPaths: ["/a/{**}"]}'), `${OPERATION}.notPaths[0]`, UNSUPPORTED],
  ...['requestPrincipals', 'remoteIpBlocks', 'serviceAccounts', 'trustDomains'].flatMap((name) =>
    [name, `not${name[0]?.toUpperCase()}${name.slice(1)}`].map((field): [string, string, string] => [
      source(`{${field}: [x]}`),
      `${SOURCE}.${field}`,
      UNSUPPORTED,
    ]),
  ),
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
    source('{serviceAccounts: [x]}'),
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
    ['true', UNSUPPORTED],
    ['T', UNSUPPORTED],
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
  }
});

t.test('annotations Istio keeps for itself', async (t) => {
  for (const name of ['webhook-always-reject', 'parents', 'parent-namespace']) {
    const problems: Problem[] = [];
    const annotations = { [`internal.istio.io/${name}`]: 'x' };
    t.equal(decodeAuthorizationPolicy(resource({ annotations, spec: {} }), problems), null, name);
  }
});
