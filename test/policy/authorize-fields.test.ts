/** Decisions by the fields beyond the common ones: service accounts, tokens, headers, templates, every key of `when`. */
import t from 'tap';
import type { MeshSettings } from '../../mesh/snapshot.ts';
import { compileAuthorization } from '../../policy/authorize.ts';
import { connection, type Facts, mesh, policy, request } from './helper.ts';

const workload = { namespace: 'foo', labels: new Map([['app', 'web']]) };
const SLEEP = 'cluster.local/ns/foo/sa/sleep';

type Row = readonly [spec: string, facts: Facts & { readonly tcp?: boolean }, allowed: boolean, why: string];

function run(name: string, rows: readonly Row[], settings: MeshSettings = mesh, namespace = 'foo'): void {
  t.test(name, async (t) => {
    for (const [spec, facts, allowed, why] of rows) {
      const authorization = compileAuthorization([policy(spec, { namespace })], workload, settings);
      const got = facts.tcp
        ? authorization.decideConnection(connection(facts))
        : authorization.decideRequest(connection(facts), request(facts));
      t.equal(got.allowed, allowed, `${why}: ${spec} ${JSON.stringify(facts)}`);
    }
  });
}

const from = (source: string, action = 'ALLOW'): string =>
  `{action: ${action}, rules: [{from: [{source: ${source}}]}]}`;
const paths = (list: string): string => `{rules: [{to: [{operation: {paths: ${list}}}]}]}`;
const when = (key: string, values: string, action = 'ALLOW'): string =>
  `{action: ${action}, rules: [{when: [{key: "${key}", values: ${values}}]}]}`;
const whenNot = (key: string, values: string, action = 'ALLOW'): string =>
  `{action: ${action}, rules: [{when: [{key: "${key}", notValues: ${values}}]}]}`;

run('serviceAccounts', [
  [
    from('{serviceAccounts: [sleep]}'),
    { principal: SLEEP },
    true,
    "a short name is of the policy's namespace",
  ],
  [from('{serviceAccounts: [sleep]}'), { principal: 'cluster.local/ns/bar/sa/sleep' }, false, 'of no other'],
  [from('{serviceAccounts: [bar/sleep]}'), { principal: 'cluster.local/ns/bar/sa/sleep' }, true, 'full'],
  [from('{serviceAccounts: [sleep]}'), { principal: 'td2/ns/foo/sa/sleep' }, true, 'any trust domain'],
  [from('{serviceAccounts: [sleep]}'), { principal: `${SLEEP}er` }, false, 'the whole name'],
  [from('{serviceAccounts: [sleep]}'), { principal: `${SLEEP}/x/y` }, true, 'further segments behind'],
  [from('{serviceAccounts: [sleep]}'), { principal: 'td/r/eu/ns/foo/sa/sleep' }, true, 'and in front'],
  [from('{serviceAccounts: [sleep]}'), { principal: 'td/ns/foo/pod/p/sa/sleep' }, true, 'and between'],
  [from('{serviceAccounts: [sleep]}'), { principal: 'td/ns/foox/sa/sleep' }, false, 'the whole namespace'],
  [from('{serviceAccounts: [sleep]}'), {}, false, 'plaintext has none'],
  [from('{notServiceAccounts: [sleep]}'), {}, true, 'so plaintext is not it'],
  [from('{notServiceAccounts: [sleep]}'), { principal: SLEEP }, false, 'not'],
  [from('{serviceAccounts: [sleep]}'), { principal: SLEEP, tcp: true }, true, 'TCP too'],
]);

run(
  'serviceAccounts of a root policy',
  [
    [
      from('{serviceAccounts: [sleep]}'),
      { principal: 'td/ns/istio-system/sa/sleep' },
      true,
      'the root namespace for a root policy',
    ],
    [from('{serviceAccounts: [sleep]}'), { principal: SLEEP }, false, "not the workload's"],
  ],
  mesh,
  'istio-system',
);

const aliased: MeshSettings = { ...mesh, trustDomain: 'td1', trustDomainAliases: ['td2'] };
run(
  'trustDomains',
  [
    [from('{trustDomains: [td1]}'), { principal: 'td1/ns/a/sa/b' }, true, 'exact'],
    [from('{trustDomains: [td1]}'), { principal: 'td2/ns/a/sa/b' }, true, 'an alias'],
    [from('{trustDomains: [td1]}'), { principal: 'td11/ns/a/sa/b' }, false, 'whole'],
    [
      from('{trustDomains: [cluster.local]}'),
      { principal: 'td1/ns/a/sa/b' },
      false,
      'cluster.local points to nothing here',
    ],
    [from('{trustDomains: ["td*"]}'), { principal: 'td9/x' }, true, 'prefix'],
    [from('{trustDomains: ["*1"]}'), { principal: 'td1/x' }, true, 'suffix'],
    [from('{trustDomains: ["*1"]}'), { principal: 'td2/1/x' }, false, 'a star crosses no slash'],
    [from('{trustDomains: ["*"]}'), { principal: 'x/y' }, true, 'any'],
    [from('{trustDomains: ["*"]}'), {}, false, 'but plaintext'],
    [from('{notTrustDomains: [td1]}'), {}, true, 'not, on plaintext'],
    [from('{notTrustDomains: [td1]}'), { principal: 'td2/x' }, false, 'not an alias either'],
    [when('source.trustDomain', '[td1]'), { principal: 'td2/ns/a/sa/b' }, true, 'when'],
  ],
  aliased,
);

run('remoteIpBlocks', [
  [from('{remoteIpBlocks: ["1.2.3.0/24"]}'), { remoteIp: '1.2.3.4' }, true, 'the original client'],
  [from('{remoteIpBlocks: ["1.2.3.0/24"]}'), { sourceIp: '1.2.3.4' }, true, 'or the connection'],
  [
    from('{remoteIpBlocks: ["1.2.3.0/24"]}'),
    { sourceIp: '1.2.3.4', remoteIp: '9.9.9.9' },
    false,
    'if there is no other',
  ],
  [
    from('{ipBlocks: ["1.2.3.0/24"]}'),
    { sourceIp: '9.9.9.9', remoteIp: '1.2.3.4' },
    false,
    'ipBlocks is the connection',
  ],
  [from('{notRemoteIpBlocks: ["1.2.3.0/24"]}'), { remoteIp: '1.2.3.4' }, false, 'not'],
  [when('remote.ip', '["1.2.3.4"]'), { remoteIp: '1.2.3.4' }, true, 'when'],
  [whenNot('remote.ip', '["::1"]'), { remoteIp: '1.2.3.4' }, true, 'IPv4 is in no IPv6 block'],
  [from('{remoteIpBlocks: ["1.2.3.4"]}'), { sourceIp: '1.2.3.4', tcp: true }, true, 'TCP: the connection'],
]);

const CLAIMS = { iss: 'https://i/x', sub: 'u', aud: ['a', 'b'], azp: 'app', n: 7, t: true, e: '' };
run('requestPrincipals', [
  [from('{requestPrincipals: ["https://i/x/u"]}'), { claims: CLAIMS }, true, 'split at the last slash'],
  [from('{requestPrincipals: ["https://i/x/u"]}'), {}, false, 'no token'],
  [from('{requestPrincipals: ["*"]}'), {}, false, 'presence needs a token'],
  [from('{requestPrincipals: ["*"]}'), { claims: CLAIMS }, true, 'presence'],
  [from('{requestPrincipals: ["*"]}'), { claims: { iss: 'i' } }, false, 'presence needs a subject'],
  [from('{requestPrincipals: ["*"]}'), { claims: { iss: 'i', sub: '' } }, false, 'that is not empty'],
  [from('{requestPrincipals: ["https://i/x/*"]}'), { claims: CLAIMS }, true, 'any subject of an issuer'],
  [from('{requestPrincipals: ["*/u"]}'), { claims: CLAIMS }, true, 'a subject of any issuer'],
  [from('{requestPrincipals: ["*i/x/u"]}'), { claims: CLAIMS }, true, 'issuer suffix and subject'],
  [from('{requestPrincipals: ["https://*"]}'), { claims: CLAIMS }, false, 'the last slash ends the issuer'],
  [
    from('{requestPrincipals: ["i*"]}'),
    { claims: { iss: 'iss', sub: 'x' } },
    true,
    'without a slash: issuer prefix',
  ],
  [from('{requestPrincipals: ["*x"]}'), { claims: { iss: 'i', sub: 'ax' } }, true, 'without: subject suffix'],
  [from('{requestPrincipals: [i]}'), { claims: { iss: 'i', sub: '' } }, true, 'without: an empty subject'],
  [from('{requestPrincipals: [i]}'), { claims: { iss: 'i', sub: 'x' } }, false, 'and no other'],
  [from('{requestPrincipals: ["i/s"]}'), { claims: { iss: 'i', sub: 7 } }, false, 'a number is no subject'],
  [from('{notRequestPrincipals: ["*"]}'), {}, true, 'not: no token'],
  [from('{notRequestPrincipals: ["*"]}'), { claims: CLAIMS }, false, 'not: a token'],
  [from('{notRequestPrincipals: ["*"]}', 'DENY'), {}, false, 'DENY whoever has no token'],
  [from('{requestPrincipals: ["*"]}'), { tcp: true }, false, 'TCP: ALLOW drops the rule'],
  [from('{requestPrincipals: ["*"]}', 'DENY'), { tcp: true }, false, 'TCP: DENY widens'],
  [when('request.auth.principal', '["https://i/x/u"]'), { claims: CLAIMS }, true, 'when'],
]);

run('claims', [
  [when('request.auth.audiences', '[b]'), { claims: CLAIMS }, true, 'one of a list'],
  [when('request.auth.audiences', '[c]'), { claims: CLAIMS }, false, 'none of it'],
  [when('request.auth.audiences', '[c]'), { claims: { aud: 'c' } }, true, 'a single audience'],
  [when('request.auth.presenter', '[app]'), { claims: CLAIMS }, true, 'azp'],
  [when('request.auth.claims[iss]', '["https://i/*"]'), { claims: CLAIMS }, true, 'prefix'],
  [when('request.auth.claims[n]', '["7"]'), { claims: CLAIMS }, false, 'a number never matches'],
  [when('request.auth.claims[t]', '["true"]'), { claims: CLAIMS }, false, 'nor a boolean'],
  [when('request.auth.claims[e]', '["*"]'), { claims: CLAIMS }, false, '* needs a value'],
  [when('request.auth.claims[gone]', '["*"]'), { claims: CLAIMS }, false, 'and the claim'],
  [whenNot('request.auth.claims[gone]', '["*"]'), { claims: CLAIMS }, true, 'not: absent'],
  [whenNot('request.auth.claims[gone]', '["*"]'), {}, true, 'not: no token'],
  [when('request.auth.claims[a][b]', '[x]'), { claims: { a: { b: 'x' } } }, true, 'nested'],
  [when('request.auth.claims[a.b]', '[x]'), { claims: { a: { b: 'x' } } }, false, 'a dot is no path'],
  [when('request.auth.claims[a.b]', '[x]'), { claims: { 'a.b': 'x' } }, true, 'it is a letter'],
  [when('request.auth.claims[a]', '[x]'), { claims: { a: { b: 'x' } } }, false, 'an object never matches'],
  [when('request.auth.claims[a]', '[x]'), { claims: { a: [['x']] } }, false, 'nor a list in a list'],
  [when('request.auth.claims[a]', '[x]'), { claims: { a: [1, 'x'] } }, true, 'strings of a mixed list'],
  [when('request.auth.claims[a][0]', '[x]'), { claims: { a: ['x'] } }, false, 'a list has no names'],
  [when('request.auth.claims[a][length]', '["*"]'), { claims: { a: 'xyz' } }, false, 'nor has a text'],
  [
    when('request.auth.claims[constructor][name]', '["*"]'),
    { claims: {} },
    false,
    'nor what objects inherit',
  ],
  [when('request.auth.claims[a[b]]', '[x]'), { claims: { 'a[b]': 'x' } }, true, 'odd brackets: one name'],
  [when('request.auth.claims[a]', '["*"]'), { claims: { a: '\n' } }, false, 'a line break is no character'],
  [when('request.auth.claims[a]', '[x]', 'DENY'), { tcp: true }, false, 'TCP: DENY widens'],
]);

run('request.headers', [
  [when('request.headers[X-Team]', '[red]'), { headers: { 'x-team': ['red'] } }, true, 'names in any case'],
  [when('request.headers[x-team]', '[red]'), { headers: { 'x-team': ['Red'] } }, false, 'values as they are'],
  [
    when('request.headers[x-team]', '[red]'),
    { headers: { 'x-team': ['blue', 'red'] } },
    true,
    'repeated: any',
  ],
  [
    when('request.headers[x-team]', '["blue,red"]'),
    { headers: { 'x-team': ['blue', 'red'] } },
    false,
    'each alone, never joined',
  ],
  [
    when('request.headers[x-team]', '["*"]'),
    { headers: { 'x-team': [''] } },
    true,
    '* matches an empty value',
  ],
  [when('request.headers[x-team]', '["*"]'), {}, false, '* needs the header'],
  [when('request.headers[x-team]', '["re*"]'), { headers: { 'x-team': ['red'] } }, true, 'prefix'],
  [when('request.headers[x-team]', '["*ed"]'), { headers: { 'x-team': ['red'] } }, true, 'suffix'],
  [
    when('request.headers[x-team]', '[é]'),
    { headers: { 'x-team': ['\u00c3\u00a9'] } },
    true,
    'bytes, not letters',
  ],
  [whenNot('request.headers[x-team]', '[red]'), {}, true, '`notValues` holds when the header is absent'],
  [whenNot('request.headers[x-team]', '[red]'), { headers: { 'x-team': ['blue', 'red'] } }, false, 'not any'],
  [when('request.headers[:path]', '["/a?b"]'), { path: '/a?b' }, true, ':path keeps the query'],
  [when('request.headers[:method]', '[GET]'), { method: 'GET' }, true, ':method'],
  [when('request.headers[:authority]', '[a.com]'), { host: 'a.com' }, true, ':authority'],
  [when('request.headers[Host]', '[a.com]'), { host: 'A.com' }, false, 'Host, with regard to case here'],
  [when('request.headers[x]', '[a]'), { tcp: true }, false, 'TCP: ALLOW drops the rule'],
]);

run('other keys of when', [
  [when('source.ip', '["10.0.0.0/8"]'), { sourceIp: '10.1.1.1' }, true, 'source.ip'],
  [when('source.namespace', '[foo]'), { principal: SLEEP }, true, 'source.namespace'],
  [when('source.principal', `["${SLEEP}"]`), { principal: SLEEP }, true, 'source.principal'],
  [when('source.serviceAccount', '[sleep]'), { principal: SLEEP }, true, 'source.serviceAccount'],
  [when('destination.ip', '["10.0.0.0/24"]'), { destinationIp: '10.0.0.7' }, true, 'destination.ip'],
  [whenNot('destination.ip', '["10.0.0.0/24"]'), { destinationIp: '10.0.0.7' }, false, 'not'],
  [when('destination.port', '["8080"]'), { port: 8080 }, true, 'destination.port'],
  [when('connection.sni', '["*.com"]'), { sni: 'a.com' }, true, 'connection.sni'],
  [when('connection.sni', '["*"]'), {}, false, 'none was sent'],
  [whenNot('connection.sni', '[a.com]'), {}, true, 'so it is not that one'],
  [when('connection.sni', '[A.com]'), { sni: 'a.com' }, false, 'with regard to case'],
  [
    '{rules: [{when: [{key: source.namespace, values: [foo]}, {key: destination.port, values: ["1"]}]}]}',
    { principal: SLEEP },
    false,
    'all conditions',
  ],
  [
    `{rules: [{from: [{source: {namespaces: [bar]}}, {source: {namespaces: [foo]}}],
      when: [{key: "request.headers[x]", values: [a]}]}]}`,
    { principal: SLEEP, headers: { x: ['a'] } },
    true,
    'a condition beside any source',
  ],
]);

run('path templates', [
  [paths('["/a/{*}"]'), { path: '/a/b' }, true, 'one segment'],
  [paths('["/a/{*}"]'), { path: '/a/' }, false, 'not an empty one'],
  [paths('["/a/{*}"]'), { path: '/a/b/c' }, false, 'not two'],
  [paths('["/a/{*}"]'), { path: '/a/b/' }, false, 'nor a slash behind'],
  [paths('["/a/{*}/"]'), { path: '/a/b/' }, true, 'unless asked for'],
  [paths('["/a/{*}"]'), { path: '/a/b?c/d' }, true, 'the query takes no part'],
  [paths('["/{*}/b"]'), { path: '/x/b' }, true, 'in front'],
  [paths('["/a/{**}"]'), { path: '/a/' }, true, '{**} may match nothing'],
  [paths('["/a/{**}"]'), { path: '/a' }, false, 'but not without the slash'],
  [paths('["/a/{**}"]'), { path: '/a/b/c/' }, true, 'any number'],
  [paths('["/a/{**}"]'), { path: '/ab' }, false, 'of whole segments'],
  [paths('["/{**}/c"]'), { path: '/a/b/c' }, true, 'and an ending'],
  [paths('["/{**}/c"]'), { path: '/c' }, false, 'which needs its own slash'],
  [paths('["/{**}/c"]'), { path: '//c' }, true, 'this one has it'],
  [paths('["/{*}/{**}"]'), { path: '/a/' }, true, 'both'],
  [paths('["/a/{*}"]'), { path: '/a/[b]' }, false, 'only the letters a template knows'],
  [paths('["/a/{*}", "/x*"]'), { path: '/xy' }, true, 'beside other patterns'],
  ['{rules: [{to: [{operation: {notPaths: ["/a/{**}"]}}]}]}', { path: '/a/b' }, false, 'not'],
]);

t.test('an identity with several namespaces is found among many rules', async (t) => {
  // `td ns`: the trust domain itself makes `/ns/ns/` part of the URI, as Istio's expression sees it.
  const many = ['ns', 'a', 'b', 'c', 'd', 'e', 'f', 'g'].map((namespace) =>
    policy(from(`{namespaces: [${namespace}]}`), { name: namespace }),
  );
  const authorization = compileAuthorization(many, workload, mesh);
  for (const principal of ['ns/ns/foo/sa/x', 'td/ns/foo/ns/ns/x', 'td/x/ns/ns/sa/y']) {
    t.equal(authorization.decideConnection(connection({ principal })).policy, 'foo/ns', principal);
  }
  t.equal(authorization.decideConnection(connection({ principal: SLEEP })).allowed, false);
});
