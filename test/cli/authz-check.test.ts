/** `oarlock authz check`: every field of a request, the answers' shape, and lines that are no requests. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { authz, folder, jsonLines, oarlock } from './helper.ts';

t.setTimeout(240_000);

const SLEEP = 'cluster.local/ns/foo/sa/sleep';
const WORKLOAD = ['--namespace', 'foo', '--labels', 'app=httpbin,version=v1'];

interface Row {
  readonly title: string;
  readonly request: Readonly<Record<string, unknown>>;
  readonly answer: Readonly<Record<string, unknown>>;
}

/** Asks all rows of one process, in their order. */
async function ask(
  dir: string,
  requests: readonly object[],
  ...flags: readonly string[]
): Promise<Record<string, unknown>[]> {
  const input = requests.map((request) => JSON.stringify(request)).join('\n');
  const args = ['authz', 'check', '--config', dir, ...WORKLOAD, '--requests', '-', ...flags];
  const { code, stdout, stderr } = await oarlock(args, input);
  if (code !== 0) throw new Error(`exit status ${code}: ${stderr}`);
  return jsonLines(stdout);
}

async function table(t: Test, policies: string, rows: readonly Row[]): Promise<void> {
  const dir = folder(t, { 'policies.yaml': policies });
  const base = { method: 'GET', host: 'httpbin.foo', path: '/' };
  const answers = await ask(
    dir,
    rows.map(({ request, title }) => ({ id: title, ...base, ...request })),
  );
  t.equal(answers.length, rows.length, 'an answer for each');
  for (const [i, { title, answer }] of rows.entries()) t.match(answers[i], { id: title, ...answer }, title);
}

const ALLOW = { decision: 'ALLOW', rule: 0 };
const DENY = { decision: 'DENY', policy: null, rule: null };

t.test('the shape of an answer', async (t) => {
  const dir = folder(t, {
    'a.yaml':
      authz(
        'readers',
        '{selector: {matchLabels: {app: httpbin}}, rules: [{to: [{operation: {ports: ["80"]}}]}, {to: [{operation: {methods: [GET]}}]}]}',
      ) +
      authz('seen', '{action: AUDIT, rules: [{}]}') +
      authz('tried', '{action: DENY, rules: [{}]}', 'annotations: {istio.io/dry-run: "true"}') +
      authz('others', '{selector: {matchLabels: {app: other}}, action: DENY, rules: [{}]}'),
  });
  const http = { method: 'GET', host: 'a', path: '/' };
  const [allowed, denied, none] = await ask(dir, [
    { id: 1, ...http },
    { id: [2], ...http, method: 'PUT' },
    { protocol: 'tcp', port: 80 },
  ]);
  const watched = { audit: ['foo/seen'], dryRun: [{ policy: 'foo/tried', decision: 'DENY' }] };
  t.same(allowed, {
    id: 1,
    decision: 'ALLOW',
    policy: 'foo/readers',
    rule: 1,
    reason: 'allowed-policy[foo/readers]-rule[1]',
    ...watched,
  });
  t.same(denied, {
    id: [2],
    decision: 'DENY',
    policy: null,
    rule: null,
    reason: 'rbac_access_denied_matched_policy[none]',
    ...watched,
  });
  t.match(none, { id: null, decision: 'ALLOW', policy: 'foo/readers', rule: 0 });
});

t.test('no policy at all allows', async (t) => {
  const [answer] = await ask(folder(t), [{ id: 1, method: 'GET', host: 'a', path: '/' }]);
  t.match(answer, { id: 1, decision: 'ALLOW', policy: null, rule: null, audit: [], dryRun: [] });
});

t.test('who asks', (t) =>
  table(t, authz('p', `{rules: [{from: [{source: {principals: ["${SLEEP}"]}}]}]}`), [
    { title: 'the principal', request: { principal: SLEEP }, answer: ALLOW },
    { title: 'another', request: { principal: 'cluster.local/ns/foo/sa/other' }, answer: DENY },
    { title: 'plaintext, absent', request: {}, answer: DENY },
    { title: 'plaintext, null', request: { principal: null }, answer: DENY },
    {
      title: 'with its scheme',
      request: { principal: `spiffe://${SLEEP}` },
      answer: { error: /principal.*spiffe/ },
    },
    { title: 'no SPIFFE identity', request: { principal: 'sleep.example' }, answer: DENY },
    { title: 'empty', request: { principal: '' }, answer: { error: /principal/ } },
    { title: 'a number', request: { principal: 1 }, answer: { error: 'principal must be a string, not 1' } },
  ]),
);

t.test('an identity that is not Istio’s has no namespace', (t) =>
  table(t, authz('p', '{action: DENY, rules: [{from: [{source: {namespaces: ["*"]}}]}]}'), [
    {
      title: 'Istio’s',
      request: { principal: SLEEP },
      answer: { decision: 'DENY', policy: 'foo/p', rule: 0 },
    },
    { title: 'another path', request: { principal: 'cluster.local/vm/7' }, answer: { decision: 'ALLOW' } },
    { title: 'plaintext', request: {}, answer: { decision: 'ALLOW' } },
  ]),
);

t.test('addresses', (t) =>
  table(
    t,
    authz(
      'source',
      '{rules: [{from: [{source: {ipBlocks: ["10.0.0.0/8"]}}], to: [{operation: {paths: [/source]}}]}]}',
    ) +
      authz(
        'v6',
        '{rules: [{from: [{source: {ipBlocks: ["2001:db8::/32"]}}], to: [{operation: {paths: [/v6]}}]}]}',
      ) +
      authz(
        'remote',
        '{rules: [{from: [{source: {remoteIpBlocks: ["192.0.2.7"]}}], to: [{operation: {paths: [/remote]}}]}]}',
      ) +
      authz(
        'destination',
        '{rules: [{to: [{operation: {paths: [/destination]}}], when: [{key: destination.ip, values: ["10.1.0.0/16"]}]}]}',
      ) +
      authz(
        'outside',
        '{rules: [{from: [{source: {notIpBlocks: ["10.0.0.0/8"]}}], to: [{operation: {paths: [/outside]}}]}]}',
      ),
    [
      { title: 'in the block', request: { path: '/source', sourceIp: '10.2.3.4' }, answer: ALLOW },
      { title: 'outside', request: { path: '/source', sourceIp: '11.2.3.4' }, answer: DENY },
      { title: 'IPv4-mapped', request: { path: '/source', sourceIp: '::ffff:10.2.3.4' }, answer: ALLOW },
      {
        title: 'IPv4-mapped in hex',
        request: { path: '/source', sourceIp: '0:0:0:0:0:FFFF:0a02:0304' },
        answer: ALLOW,
      },
      { title: 'none given', request: { path: '/source' }, answer: DENY },
      { title: 'none given is in no block', request: { path: '/outside' }, answer: ALLOW },
      { title: 'IPv6', request: { path: '/v6', sourceIp: '2001:DB8::1' }, answer: ALLOW },
      { title: 'IPv6 with a zone', request: { path: '/v6', sourceIp: '2001:db8::1%eth0' }, answer: ALLOW },
      { title: 'remote is source', request: { path: '/remote', sourceIp: '192.0.2.7' }, answer: ALLOW },
      {
        title: 'remote beats source',
        request: { path: '/remote', sourceIp: '10.0.0.1', remoteIp: '192.0.2.7' },
        answer: ALLOW,
      },
      {
        title: 'source is not remote',
        request: { path: '/source', sourceIp: '192.0.2.7', remoteIp: '10.0.0.1' },
        answer: DENY,
      },
      {
        title: 'remote by X-Forwarded-For, the last entry',
        request: {
          path: '/remote',
          sourceIp: '10.0.0.1',
          headers: { 'X-Forwarded-For': '10.9.9.9, 192.0.2.7' },
        },
        answer: ALLOW,
      },
      {
        title: 'remote said outright beats X-Forwarded-For',
        request: { path: '/remote', remoteIp: '10.0.0.1', headers: { 'x-forwarded-for': '192.0.2.7' } },
        answer: DENY,
      },
      {
        title: 'X-Forwarded-For is not the source',
        request: { path: '/source', sourceIp: '11.0.0.1', headers: { 'x-forwarded-for': '10.0.0.1' } },
        answer: DENY,
      },
      { title: 'destination', request: { path: '/destination', destinationIp: '10.1.2.3' }, answer: ALLOW },
      { title: 'no destination', request: { path: '/destination' }, answer: DENY },
      {
        title: 'no address',
        request: { sourceIp: '10.0.0.256' },
        answer: { error: 'sourceIp must be an IP address, not "10.0.0.256"' },
      },
      { title: 'a block', request: { remoteIp: '10.0.0.0/8' }, answer: { error: /remoteIp must be an IP/ } },
    ],
  ),
);

t.test('port and server name', (t) =>
  table(
    t,
    authz('port', '{rules: [{to: [{operation: {ports: ["8080"]}}]}]}') +
      authz('sni', '{rules: [{when: [{key: connection.sni, values: ["www.example.com"]}]}]}'),
    [
      { title: 'the port', request: { port: 8080 }, answer: { ...ALLOW, policy: 'foo/port' } },
      { title: 'another', request: { port: 80 }, answer: DENY },
      { title: 'none given', request: {}, answer: DENY },
      { title: 'the name', request: { sni: 'www.example.com' }, answer: { ...ALLOW, policy: 'foo/sni' } },
      // Envoy lowers the requested server name before anyone sees it.
      { title: 'in capitals', request: { sni: 'WWW.example.com' }, answer: ALLOW },
      { title: 'as text', request: { port: '8080' }, answer: { error: /port must be a whole number/ } },
      { title: 'none', request: { port: 0 }, answer: { error: /port/ } },
      { title: 'too great', request: { port: 65_536 }, answer: { error: /port/ } },
      { title: 'a fraction', request: { port: 80.5 }, answer: { error: /port/ } },
      { title: 'null is absent', request: { port: null }, answer: DENY },
    ],
  ),
);

t.test('method and host', (t) =>
  table(t, authz('host', '{rules: [{to: [{operation: {hosts: ["a.com", "*.b.com"], methods: [GET]}}]}]}'), [
    { title: 'exact', request: { host: 'a.com' }, answer: ALLOW },
    { title: 'in capitals', request: { host: 'A.COM' }, answer: ALLOW },
    { title: 'with a port', request: { host: 'a.com:8080' }, answer: DENY },
    { title: 'a suffix', request: { host: 'x.b.com' }, answer: ALLOW },
    { title: 'another method', request: { host: 'a.com', method: 'POST' }, answer: DENY },
    { title: 'methods have case', request: { host: 'a.com', method: 'get' }, answer: DENY },
    { title: 'Host twice alike', request: { host: 'a.com', headers: { Host: 'a.com' } }, answer: ALLOW },
    {
      title: 'Host twice unlike',
      request: { host: 'a.com', headers: { host: 'b.com' } },
      answer: { error: /host/ },
    },
    { title: 'no method', request: { method: undefined }, answer: { error: 'an http request needs method' } },
    { title: 'no host', request: { host: null }, answer: { error: 'an http request needs host' } },
    { title: 'no path', request: { path: undefined }, answer: { error: 'an http request needs path' } },
    { title: 'no method name', request: { method: 'GE T' }, answer: { error: /400/ } },
    { title: 'a host with a path', request: { host: 'a.com/x' }, answer: { error: /400.*Host/ } },
    {
      title: 'a second line',
      request: { host: 'a.com\r\nx-admin: 1' },
      answer: { error: 'host has a line break' },
    },
    { title: 'CONNECT', request: { method: 'CONNECT' }, answer: { error: /405/ } },
  ]),
);

t.test('paths are what the app would receive', (t) =>
  table(
    t,
    authz('info', '{rules: [{to: [{operation: {paths: ["/info"]}}]}]}') +
      authz('query', '{rules: [{when: [{key: "request.headers[:path]", values: ["/query?a=1"]}]}]}'),
    [
      { title: 'as it is', request: { path: '/info' }, answer: ALLOW },
      { title: 'with a query', request: { path: '/info?x=/../y' }, answer: ALLOW },
      { title: 'dot segments', request: { path: '/a/../info' }, answer: ALLOW },
      { title: '%2e', request: { path: '/a/%2E%2e/info' }, answer: ALLOW },
      { title: 'escaped letters', request: { path: '/%69nfo' }, answer: ALLOW },
      { title: 'backslash', request: { path: '\\info' }, answer: { error: /400/ } },
      { title: 'a backslash inside', request: { path: '/a\\..\\info' }, answer: ALLOW },
      { title: 'parameters of dots', request: { path: '/a/..;x/info' }, answer: ALLOW },
      { title: '// is not merged', request: { path: '//info' }, answer: DENY },
      { title: '%2F is not decoded', request: { path: '/a/..%2finfo' }, answer: DENY },
      { title: 'absolute form', request: { path: 'http://a.com/info' }, answer: ALLOW },
      {
        title: ':path keeps the query',
        request: { path: '/query?a=1' },
        answer: { ...ALLOW, policy: 'foo/query' },
      },
      { title: 'a fragment', request: { path: '/info#x' }, answer: { error: /400/ } },
      { title: 'a space', request: { path: '/in fo' }, answer: { error: /400/ } },
      { title: 'an escaped NUL', request: { path: '/info%00' }, answer: { error: /400/ } },
      { title: 'beyond ASCII', request: { path: '/infö' }, answer: { error: /400/ } },
      { title: 'not rooted', request: { path: 'info' }, answer: { error: /400/ } },
      {
        title: 'no path at all',
        request: { method: 'OPTIONS', path: '*' },
        answer: { error: /the sidecar answers 404/ },
      },
      { title: 'too long', request: { path: `/${'a'.repeat(70_000)}` }, answer: { error: /431/ } },
    ],
  ),
);

t.test('mesh config says how paths are normalized', (t) =>
  table(
    t,
    `kind: MeshConfig\npathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}\n${authz('info', '{rules: [{to: [{operation: {paths: ["/a/info"]}}]}]}')}`,
    [
      { title: '// is merged', request: { path: '//a///info' }, answer: ALLOW },
      { title: '%2F is decoded', request: { path: '/a%2Finfo' }, answer: ALLOW },
    ],
  ),
);

t.test('headers', (t) =>
  table(
    t,
    authz('x', '{rules: [{when: [{key: "request.headers[X-Tenant]", values: ["a", "b*"]}]}]}') +
      authz(
        'not',
        '{rules: [{to: [{operation: {paths: [/not]}}], when: [{key: "request.headers[x-not]", notValues: ["n"]}]}]}',
      ) +
      authz(
        'any',
        '{rules: [{to: [{operation: {paths: [/any]}}], when: [{key: "request.headers[x-any]", values: ["*"]}]}]}',
      ) +
      authz('hop', '{rules: [{when: [{key: "request.headers[te]", values: ["*"]}]}]}') +
      authz('xfcc', '{rules: [{when: [{key: "request.headers[x-forwarded-client-cert]", values: ["*"]}]}]}'),
    [
      {
        title: 'in another case',
        request: { headers: { 'X-TENANT': 'a' } },
        answer: { ...ALLOW, policy: 'foo/x' },
      },
      { title: 'a list', request: { headers: { 'x-tenant': ['z', 'a'] } }, answer: ALLOW },
      {
        title: 'two names of one field',
        request: { headers: { 'x-tenant': 'z', 'X-Tenant': 'bb' } },
        answer: ALLOW,
      },
      { title: 'never joined', request: { headers: { 'x-tenant': ['z,a', 'z'] } }, answer: DENY },
      { title: 'space around', request: { headers: { 'x-tenant': ' a\t' } }, answer: ALLOW },
      { title: 'absent', request: {}, answer: DENY },
      { title: 'an empty list', request: { headers: { 'x-tenant': [] } }, answer: DENY },
      { title: 'notValues, absent', request: { path: '/not' }, answer: { ...ALLOW, policy: 'foo/not' } },
      { title: 'notValues, there', request: { path: '/not', headers: { 'x-not': 'n' } }, answer: DENY },
      { title: 'present and empty', request: { path: '/any', headers: { 'x-any': '' } }, answer: ALLOW },
      { title: 'hop by hop', request: { headers: { te: 'trailers' } }, answer: DENY },
      {
        title: 'nominated by Connection',
        request: { headers: { 'x-tenant': 'a', connection: 'x-tenant' } },
        answer: DENY,
      },
      {
        title: 'the network’s XFCC',
        request: { headers: { 'X-Forwarded-Client-Cert': 'By=x' } },
        answer: DENY,
      },
      {
        title: 'not an object',
        request: { headers: [] },
        answer: { error: 'headers must be an object, not []' },
      },
      {
        title: 'a number',
        request: { headers: { 'x-tenant': 1 } },
        answer: { error: 'headers["x-tenant"] must be a string or a list of strings, not 1' },
      },
      {
        title: 'a number inside',
        request: { headers: { a: ['b', null] } },
        answer: { error: /headers\["a"\]/ },
      },
      { title: 'a bad name', request: { headers: { 'a b': 'c' } }, answer: { error: /400.*name/ } },
      {
        title: 'a name with a colon',
        request: { headers: { ':path': '/x' } },
        answer: { error: /:path.*no header name/ },
      },
      { title: 'no name', request: { headers: { '': 'c' } }, answer: { error: /no header name/ } },
      {
        title: 'a line break',
        request: { headers: { a: 'b\r\nx-tenant: a' } },
        answer: { error: /line break/ },
      },
      { title: 'a control byte', request: { headers: { a: 'b\u0000' } }, answer: { error: /400.*control/ } },
      {
        title: 'two lengths',
        request: { headers: { 'content-length': ['1', '2'] } },
        answer: { error: /400.*Content-Length/ },
      },
      {
        title: 'too many',
        request: { headers: Object.fromEntries(Array.from({ length: 101 }, (_, i) => [`x-${i}`, '1'])) },
        answer: { error: /431/ },
      },
    ],
  ),
);

t.test('claims given directly', (t) =>
  table(
    t,
    authz('jwt', '{rules: [{from: [{source: {requestPrincipals: ["https://issuer/sub"]}}]}]}') +
      authz('group', '{rules: [{when: [{key: "request.auth.claims[groups]", values: ["admin"]}]}]}'),
    [
      {
        title: 'both',
        request: { claims: { iss: 'https://issuer', sub: 'sub' } },
        answer: { ...ALLOW, policy: 'foo/jwt' },
      },
      { title: 'another', request: { claims: { iss: 'https://issuer', sub: 'other' } }, answer: DENY },
      {
        title: 'a list',
        request: { claims: { groups: ['a', 'admin'] } },
        answer: { ...ALLOW, policy: 'foo/group' },
      },
      { title: 'none', request: {}, answer: DENY },
      { title: 'null', request: { claims: null }, answer: DENY },
      { title: 'a text', request: { claims: 'x' }, answer: { error: /claims must be an object/ } },
      { title: 'and a token', request: { claims: {}, token: 'x' }, answer: { error: /claims or token/ } },
      // SEMANTICS: without any RequestAuthentication tokens are ignored.
      { title: 'a token nobody asks for', request: { token: 'x' }, answer: DENY },
    ],
  ),
);

t.test('tcp', (t) =>
  table(
    t,
    authz(
      'http',
      '{rules: [{to: [{operation: {methods: [GET], ports: ["80"]}}]}, {to: [{operation: {ports: ["5432"]}}]}]}',
    ) + authz('wide', '{action: DENY, rules: [{to: [{operation: {paths: [/x], ports: ["90"]}}]}]}'),
    [
      {
        title: 'an L4 rule',
        request: { protocol: 'tcp', port: 5432 },
        answer: { decision: 'ALLOW', policy: 'foo/http', rule: 1 },
      },
      { title: 'ALLOW with HTTP fields is dropped', request: { protocol: 'tcp', port: 80 }, answer: DENY },
      {
        title: 'DENY with HTTP fields widens',
        request: { protocol: 'tcp', port: 90 },
        answer: { decision: 'DENY', policy: 'foo/wide', rule: 0 },
      },
      {
        title: 'HTTP fields are not looked at',
        request: { protocol: 'tcp', port: 5432, method: 7 },
        answer: { decision: 'ALLOW' },
      },
      { title: 'no port', request: { protocol: 'tcp' }, answer: { error: 'a tcp request needs port' } },
      { title: 'another protocol', request: { protocol: 'udp' }, answer: { error: /protocol.*"udp"/ } },
    ],
  ),
);

const custom = (name: string, provider: string, path: string): string =>
  authz(
    name,
    `{action: CUSTOM, provider: {name: ${provider}}, rules: [{to: [{operation: {paths: [${path}]}}]}]}`,
  );

t.test('CUSTOM without mesh config: every provider counts', (t) =>
  table(
    t,
    custom('ask', 'opa', '/ask*') +
      authz('deny', '{action: DENY, rules: [{to: [{operation: {paths: [/ask/denied]}}]}]}') +
      authz('allow', '{rules: [{to: [{operation: {methods: [GET]}}]}]}') +
      authz('seen', '{action: AUDIT, rules: [{}]}'),
    [
      {
        title: 'asked',
        request: { path: '/ask' },
        answer: {
          decision: 'CUSTOM',
          provider: 'opa',
          policy: 'foo/ask',
          rule: 0,
          audit: ['foo/seen'],
          dryRun: [],
        },
      },
      {
        title: 'asked though no ALLOW matches',
        request: { path: '/ask', method: 'PUT' },
        answer: { decision: 'CUSTOM' },
      },
      {
        title: 'denied too',
        request: { path: '/ask/denied' },
        answer: { decision: 'DENY', policy: 'foo/deny', rule: 0, audit: ['foo/seen'] },
      },
      { title: 'not asked', request: { path: '/' }, answer: { decision: 'ALLOW', policy: 'foo/allow' } },
      {
        title: 'on TCP, where paths do not count',
        request: { protocol: 'tcp', port: 80 },
        answer: { decision: 'DENY', policy: 'foo/deny' },
      },
    ],
  ),
);

const MESH = `kind: MeshConfig
extensionProviders:
- {name: http, envoyExtAuthzHttp: {service: authz.foo.svc.cluster.local, port: 8000}}
- {name: grpc, envoyExtAuthzGrpc: {service: authz.foo.svc.cluster.local, port: 9000}}
`;
const askedOf = (provider: string): string =>
  authz(
    'ask',
    `{action: CUSTOM, provider: {name: ${provider}}, rules: [{to: [{operation: {ports: ["90"]}}]}]}`,
  );
const bothLayers = (http: Row['answer'], tcp: Row['answer']): readonly Row[] => [
  { title: 'HTTP', request: { port: 90 }, answer: http },
  { title: 'TCP', request: { protocol: 'tcp', port: 90 }, answer: tcp },
  { title: 'another port', request: { port: 91 }, answer: { decision: 'ALLOW', policy: null } },
];

t.test('CUSTOM, a provider of HTTP: not asked on TCP', (t) =>
  table(
    t,
    MESH + askedOf('http'),
    bothLayers({ decision: 'CUSTOM', provider: 'http' }, { decision: 'ALLOW', policy: null }),
  ),
);

t.test('CUSTOM, a provider of gRPC: asked on both layers', (t) => {
  const asked = { decision: 'CUSTOM', provider: 'grpc', policy: 'foo/ask', rule: 0 };
  return table(t, MESH + askedOf('grpc'), bothLayers(asked, asked));
});

t.test('CUSTOM, a provider that mesh config lacks: denied', (t) => {
  const denied = { decision: 'DENY', policy: 'foo/ask', rule: 0, provider: undefined };
  return table(t, MESH + askedOf('opa'), bothLayers(denied, denied).slice(0, 1));
});

t.test('CUSTOM, two providers: denied', (t) =>
  table(t, MESH + askedOf('http') + askedOf('grpc').replace('name: ask', 'name: too'), [
    { title: 'HTTP', request: { port: 90 }, answer: { decision: 'DENY' } },
    { title: 'another port', request: { port: 91 }, answer: { decision: 'ALLOW' } },
  ]),
);

t.test('--explain', async (t) => {
  const dir = folder(t, {
    'a.yaml':
      authz(
        'readers',
        `{rules: [{from: [{source: {principals: ["${SLEEP}"]}}], to: [{operation: {methods: [GET], paths: ["/info*"]}}]}]}`,
      ) + authz('no-admin', '{action: DENY, rules: [{to: [{operation: {paths: ["/admin*"]}}]}]}'),
  });
  const base = { principal: SLEEP, method: 'GET', host: 'a', path: '/info' };
  const [allowed, method, plaintext, denied] = await ask(
    dir,
    [base, { ...base, method: 'PUT' }, { ...base, principal: null }, { ...base, path: '/admin/x' }],
    '--explain',
  );
  t.notOk('nearest' in (allowed ?? {}), 'nothing to explain');
  t.same(method?.nearest, {
    policy: 'foo/readers',
    rule: 0,
    field: 'to.operation.methods',
    expected: ['GET'],
    actual: 'PUT',
  });
  t.match(plaintext?.nearest, {
    policy: 'foo/readers',
    field: 'from.source.principals',
    expected: [SLEEP],
    actual: null,
  });
  t.match(denied, { policy: 'foo/no-admin', rule: 0, nearest: { policy: 'foo/no-admin', rule: 0 } });
  t.match(denied?.nearest, { field: 'to.operation.paths', expected: ['/admin*'], actual: '/admin/x' });
});

t.test('without --explain nothing is explained', async (t) => {
  const dir = folder(t, { 'a.yaml': authz('none', '{}') });
  const [answer] = await ask(dir, [{ method: 'GET', host: 'a', path: '/' }]);
  t.match(answer, DENY);
  t.notOk('nearest' in (answer ?? {}));
});

t.test('lines', async (t) => {
  const dir = folder(t);
  const args = ['authz', 'check', '--config', dir, '--requests', '-', '-o', 'json'];
  const ok = '{"id":1,"method":"GET","host":"a","path":"/"}';
  const rows: readonly {
    title: string;
    input: string | (string | Buffer)[];
    ids: unknown[];
    errors?: RegExp[];
  }[] = [
    { title: 'no input', input: '', ids: [] },
    { title: 'blank lines', input: `\n \n${ok}\n\t\r\n\n`, ids: [1] },
    { title: 'CRLF and no last end', input: `${ok}\r\n${ok}`, ids: [1, 1] },
    { title: 'a byte order mark', input: `\ufeff${ok}\n`, ids: [1] },
    { title: 'a line in pieces', input: [ok.slice(0, 9), ok.slice(9), '\n', ok], ids: [1, 1] },
    {
      title: 'bad lines between good ones',
      input: `nope\n${ok}\n[1]\n"x"\nnull\n{"id":{"a":[2]},"method":1}\n{"id":false}\n${ok}`,
      ids: [null, 1, null, null, null, { a: [2] }, false, 1],
      errors: [
        /not valid JSON/,
        /must be a JSON object/,
        /must be a JSON object/,
        /must be a JSON object/,
        /method/,
        /method/,
      ],
    },
    {
      title: 'a line nested without end',
      input: `{"id":${'['.repeat(50_000)}${']'.repeat(50_000)}}\n${ok}\n{"claims":{"a":${'['.repeat(200)}${']'.repeat(200)}}}`,
      ids: [null, 1, null],
      errors: [/nested/, /nested/],
    },
    {
      title: 'a line that is no UTF-8',
      input: [Buffer.concat([Buffer.from('{"id":"'), Buffer.from([0xff]), Buffer.from(`"}\n${ok}`)])],
      ids: [null, 1],
      errors: [/UTF-8/],
    },
    {
      title: 'a huge line',
      input: [`{"id":2,"path":"`, 'x'.repeat(3_000_000), `"}\n`, ok],
      ids: [null, 1],
      errors: [/longer than 1048576 bytes/],
    },
    {
      title: 'names that objects have of themselves',
      input: '{"id":3,"__proto__":{"method":"GET","host":"a","path":"/"},"constructor":1}',
      ids: [3],
      errors: [/needs method/],
    },
  ];
  for (const { title, input, ids, errors = [] } of rows) {
    const { code, stdout, stderr } = await oarlock(args, input);
    t.equal(code, 0, `${title}: exit status`);
    t.equal(stderr, '', `${title}: nothing on stderr`);
    const answers = jsonLines(stdout);
    t.same(
      answers.map(({ id }) => id),
      ids,
      `${title}: ids`,
    );
    const failed = answers.filter(({ error }) => error !== undefined);
    t.match(
      failed.map(({ error }) => error),
      errors,
      `${title}: errors`,
    );
    t.equal(failed.length, errors.length);
    for (const one of failed) t.same(Object.keys(one), ['id', 'error']);
  }
});

t.test('whatever a field holds, its line is answered', async (t) => {
  const fields = [
    ...[
      'protocol',
      'principal',
      'sourceIp',
      'remoteIp',
      'destinationIp',
      'port',
      'sni',
      'method',
      'host',
      'path',
    ],
    ...['headers', 'claims', 'token', '__proto__', 'toString'],
  ];
  const odd = [
    null,
    true,
    0,
    -1,
    1e300,
    '',
    ' ',
    'x',
    '\u0000',
    'é',
    '\ud800',
    'a\nb',
    'a'.repeat(10_000),
    [],
    [[]],
    {},
  ];
  const objects = [
    { '': '' },
    { a: {} },
    { a: [1] },
    { __proto__: 'x' },
    { iss: 1, sub: {} },
    { 'a\r\nb': 'c' },
  ];
  const dir = folder(t, {
    'a.yaml':
      authz('p', '{rules: [{from: [{source: {requestPrincipals: ["*"], notIpBlocks: ["10.0.0.0/8"]}}]}]}') +
      authz(
        'q',
        '{rules: [{when: [{key: "request.auth.claims[sub][a]", values: [x]}, {key: connection.sni, values: [y]}]}]}',
      ),
  });
  const requests = fields.flatMap((field) =>
    [...odd, ...objects].map((value, i) => {
      const base = JSON.stringify({ id: `${field} ${i}`, port: 80, method: 'GET', host: 'a', path: '/' });
      // Written by hand: an object literal would take __proto__ for its own.
      return `${base.slice(0, -1)},${JSON.stringify(field)}:${JSON.stringify(value)}}`;
    }),
  );
  const args = ['authz', 'check', '--config', dir, ...WORKLOAD, '--explain', '--requests', '-'];
  const { code, stdout, stderr } = await oarlock(args, requests.join('\n'));
  t.equal(code, 0, stderr);
  const answers = jsonLines(stdout);
  t.equal(answers.length, requests.length);
  for (const { id, decision, error } of answers) {
    t.equal(typeof id, 'string');
    t.ok(decision === 'ALLOW' || decision === 'DENY' || typeof error === 'string', String(id));
  }
});

t.test('requests from a file', async (t) => {
  const dir = folder(t, { 'requests.jsonl': '{"id":1,"method":"GET","host":"a","path":"/"}\n' });
  const { code, stdout } = await oarlock([
    ...['authz', 'check', '--config', folder(t), '--requests', join(dir, 'requests.jsonl')],
  ]);
  t.equal(code, 0);
  t.match(jsonLines(stdout), [{ id: 1, decision: 'ALLOW' }]);
});

t.test('each answer comes as soon as its request has', async (t) => {
  const args = ['authz', 'check', '--config', folder(t), '--requests', '-'];
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../cli/main.ts'), ...args]);
  t.teardown(() => child.kill());
  child.stdout.setEncoding('utf8');
  for (const id of [1, 2]) {
    const answer = new Promise<string>((resolve) => child.stdout.once('data', resolve));
    child.stdin.write(`{"id":${id},"method":"GET","host":"a","path":"/"}\n`);
    t.match(JSON.parse(await answer), { id });
  }
});

t.test('a reader that leaves ends it quietly', async (t) => {
  const args = ['authz', 'check', '--config', folder(t), '--requests', '-'];
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../cli/main.ts'), ...args]);
  let stderr = '';
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  child.stdin.on('error', () => {});
  child.stdout.once('data', () => child.stdout.destroy());
  const line = '{"method":"GET","host":"a","path":"/"}\n'.repeat(1_000);
  const more = (): void => {
    while (child.stdin.writable && child.stdin.write(line)) {}
    child.stdin.once('drain', more);
  };
  more();
  const code = await new Promise((resolve) => child.on('close', resolve));
  t.equal(code, 0);
  t.equal(stderr, '');
});

t.test('memory does not grow with the number of requests', async (t) => {
  const COUNT = 300_000;
  const dir = folder(t, {
    'requests.jsonl': '{"id":"a request","method":"GET","host":"a","path":"/some/path"}\n'.repeat(COUNT),
  });
  // All answers together are 40 MB: kept, they would not fit.
  const args = ['authz', 'check', '--config', folder(t), '--requests', join(dir, 'requests.jsonl')];
  const main = join(import.meta.dirname, '../../cli/main.ts');
  const child = spawn(process.execPath, ['--max-old-space-size=32', main, ...args]);
  let lines = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines++;
  });
  t.equal(await new Promise((resolve) => child.on('close', resolve)), 0);
  t.equal(lines, COUNT);
});

t.test('exit status 2, and what is wrong on stderr', async (t) => {
  const broken = folder(t, { 'a.yaml': authz('p', '{rules: [{from: [{source: {principles: [a]}}]}]}') });
  const two = folder(t, { 'a.yaml': authz('p', '{action: SOME}') + authz('q', '{rules: 1}') });
  const fine = folder(t);
  const check = ['authz', 'check', '--requests', '-'];
  const rows = [
    { args: [...check], says: /--config/ },
    { args: ['authz', 'check', '--config', fine], says: /--requests/ },
    { args: [...check, '--config', join(fine, 'nowhere')], says: /nowhere.*ENOENT/ },
    {
      args: ['authz', 'check', '--config', fine, '--requests', join(fine, 'no.jsonl')],
      says: /--requests.*no\.jsonl/,
    },
    { args: ['authz', 'check', '--config', fine, '--requests', fine], says: /--requests.*EISDIR/ },
    { args: [...check, '--config', fine, '--labels', 'app'], says: /--labels/ },
    { args: [...check, '--config', fine, '-o', 'yaml'], says: /yaml.*json/ },
    { args: [...check, '--config', fine, '--frobnicate'], says: /--frobnicate/ },
    { args: [...check, '--config', fine, 'extra'], says: /argument/ },
    { args: [...check, '--config', broken], says: /a\.yaml:5: AuthorizationPolicy\/foo\/p: .*principles/ },
    { args: ['authz', 'fly'], says: /fly/ },
  ];
  for (const { args, says } of rows) {
    const { code, stdout, stderr } = await oarlock(args);
    t.equal(code, 2, args.join(' '));
    t.equal(stdout, '');
    t.match(stderr, says);
    t.equal(stderr.trimEnd().split('\n').length, 1, `one line: ${stderr}`);
  }
  const { code, stderr } = await oarlock([...check, '--config', two]);
  t.equal(code, 2);
  t.match(
    stderr,
    /foo\/p.*SOME.*and 1 more: see oarlock analyze\n$/,
    'the first Error is named, in one line',
  );
});

t.test("labels given twice are all the workload's", async (t) => {
  const dir = folder(t, {
    'a.yaml': authz('p', '{selector: {matchLabels: {app: web, tier: front}}, action: DENY, rules: [{}]}'),
  });
  const flags = ['authz', 'check', '--config', dir, '--namespace', 'foo', '--requests', '-'];
  const { stdout } = await oarlock(
    [...flags, '--labels', 'app=web', '--labels', 'tier=front'],
    '{"method":"GET","host":"a","path":"/"}',
  );
  t.match(jsonLines(stdout), [{ decision: 'DENY', policy: 'foo/p' }]);
});

t.test('a Warning is no refusal', async (t) => {
  const dir = folder(t, { 'a.yaml': authz('p', '{selector: {}, rules: [{}]}') });
  const { code, stdout, stderr } = await oarlock(
    ['authz', 'check', '--config', dir, '--namespace', 'foo', '--requests', '-'],
    '{"method":"GET","host":"a","path":"/"}',
  );
  t.equal(code, 0);
  t.match(jsonLines(stdout), [{ decision: 'ALLOW', policy: 'foo/p' }]);
  t.match(stderr, /^warning: .*a\.yaml:\d+: AuthorizationPolicy\/foo\/p: .*selector/);
});

t.test('trust domain and root namespace by flag', async (t) => {
  const dir = folder(t, {
    'a.yaml': authz(
      'p',
      '{rules: [{from: [{source: {principals: [cluster.local/ns/foo/sa/sleep]}}]}]}',
    ).replace('namespace: foo', 'namespace: root'),
  });
  const requests = ['td1', 'old', 'td2'].map((id) => ({
    id,
    principal: `${id}/ns/foo/sa/sleep`,
    method: 'GET',
    host: 'a',
    path: '/',
  }));
  const flags = ['--root-namespace', 'root', '--trust-domain', 'td1', '--trust-domain-alias', 'old'];
  const answers = await ask(dir, requests, ...flags);
  t.same(
    answers.map(({ decision }) => decision),
    ['ALLOW', 'ALLOW', 'DENY'],
  );
});
