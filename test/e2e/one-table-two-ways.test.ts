/** The same resources give the same answer through `authz check` and through a running sidecar: one table drives both. */
import { createHash } from 'node:crypto';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { jsonLines, oarlock } from '../cli/helper.ts';
import { httpProvider } from '../providers/check-server.ts';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { Peer } from './harness/clients.ts';
import { Mesh, type Sidecar } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { hostOf, ingress, service, sidecar as sidecarOf, workload } from './harness/resources.ts';
import { peerAuthentication } from './harness/shop.ts';
import { type Leaf, spiffe } from './harness/test-ca.ts';
import { ISTIO_HTTP } from './harness/tls-client.ts';
import { until, within } from './harness/wait.ts';

t.setTimeout(300_000);

type PortName = 'http' | 'other' | 'tcp' | 'otherTcp';

/** What is asked; what is left out is `GET / HTTP/1.1` in plaintext from 127.0.0.1 to the port `http`. */
interface Row {
  readonly title: string;
  readonly port?: PortName;
  /** `NAMESPACE/ACCOUNT`: mutual TLS with that identity. */
  readonly from?: string;
  readonly sni?: string;
  /** Any of 127.0.0.0/8. */
  readonly sourceIp?: string;
  readonly method?: string;
  readonly host?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** A bearer token. */
  readonly token?: string;
  /** `refused`: 400 or 405. 401 and 403: what is wrong with the token. */
  readonly expect: 'ALLOW' | 'DENY' | 'CUSTOM' | 'refused' | 401 | 403;
  /** `NAME` of the policy in `shop` that decides; absent: the default does. */
  readonly by?: string;
}

interface Group {
  readonly title: string;
  /** `$http`, `$other`, `$tcp` and `$otherTcp` stand for port numbers. */
  readonly policies: readonly string[];
  readonly rows: readonly Row[];
}

/** A policy that selects the workload; rules in flow style. */
function policy(name: string, rules: string, action = 'ALLOW', metadata = ''): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ${name}, namespace: shop${metadata}}
spec: {selector: {matchLabels: {app: orders}}, action: ${action}, rules: ${rules}}
`;
}

function custom(name: string, providerName: string, rules: string): string {
  return policy(name, rules, `CUSTOM, provider: {name: ${providerName}}`);
}

const source = (fields: string): string => `[{from: [{source: {${fields}}}]}]`;
const operation = (fields: string): string => `[{to: [{operation: {${fields}}}]}]`;
const when = (key: string, values: string): string => `[{when: [{key: "${key}", ${values}}]}]`;
const dryRun = ', annotations: {istio.io/dry-run: "true"}';

const keys = await generateKeyPair('RS256');
const strangers = await generateKeyPair('RS256');
const jwks = JSON.stringify({ keys: [{ ...(await exportJWK(keys.publicKey)), kid: 'k', alg: 'RS256' }] });

function token(claims: Readonly<Record<string, unknown>> = {}, key = keys.privateKey): Promise<string> {
  return new SignJWT({
    iss: 'https://issuer',
    sub: 'ann',
    aud: 'shop',
    exp: Math.floor(Date.now() / 1000) + 600,
    ...claims,
  })
    .setProtectedHeader({ alg: 'RS256', kid: 'k' })
    .sign(key);
}

const requestAuthentication = `apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  jwtRules:
  - issuer: https://issuer
    audiences: [shop]
    jwks: '${jwks}'
    outputClaimToHeaders: [{header: x-sub, claim: sub}]
`;

/** Answers 200 under `/pass`, else a status that nobody else gives. */
const provider = await httpProvider(t);
const PROVIDERS_OWN = 418;
provider.answer = ({ path }) => ({ status: path.startsWith('/pass') ? 200 : PROVIDERS_OWN });

const groups: readonly Group[] = [
  {
    title: 'no policy',
    policies: [],
    rows: [
      { title: 'plaintext', expect: 'ALLOW' },
      { title: 'mutual TLS', from: 'shop/web', expect: 'ALLOW' },
      { title: 'TCP', port: 'tcp', expect: 'ALLOW' },
      { title: 'a target with a fragment', path: '/a#b', expect: 'refused' },
      { title: 'an escaped NUL', path: '/a%00', expect: 'refused' },
      { title: 'CONNECT', method: 'CONNECT', expect: 'refused' },
    ],
  },
  {
    title: 'an empty spec denies all',
    policies: [
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: none, namespace: shop}\nspec: {}\n',
    ],
    rows: [
      { title: 'plaintext', expect: 'DENY' },
      { title: 'mutual TLS', from: 'shop/web', expect: 'DENY' },
      { title: 'TCP', port: 'tcp', from: 'shop/web', expect: 'DENY' },
    ],
  },
  {
    title: 'an empty rule matches all',
    policies: [policy('all', '[{}]')],
    rows: [
      { title: 'plaintext', expect: 'ALLOW', by: 'all' },
      { title: 'TCP', port: 'tcp', expect: 'ALLOW', by: 'all' },
    ],
  },
  {
    title: 'principals',
    policies: [policy('web', source('principals: ["cluster.local/ns/shop/sa/web", "*/sa/batch"]'))],
    rows: [
      { title: 'exact', from: 'shop/web', expect: 'ALLOW', by: 'web' },
      { title: 'a suffix', from: 'jobs/batch', expect: 'ALLOW', by: 'web' },
      { title: 'another account', from: 'shop/other', expect: 'DENY' },
      { title: 'another namespace', from: 'jobs/web', expect: 'DENY' },
      { title: 'plaintext', expect: 'DENY' },
      { title: 'TCP, exact', port: 'tcp', from: 'shop/web', expect: 'ALLOW', by: 'web' },
      { title: 'TCP, plaintext', port: 'tcp', expect: 'DENY' },
    ],
  },
  {
    title: 'deny plaintext',
    policies: [policy('no-plaintext', source('notPrincipals: ["*"]'), 'DENY')],
    rows: [
      { title: 'plaintext', expect: 'DENY', by: 'no-plaintext' },
      { title: 'mutual TLS', from: 'shop/web', expect: 'ALLOW' },
      { title: 'TCP, plaintext', port: 'tcp', expect: 'DENY', by: 'no-plaintext' },
      { title: 'TCP, mutual TLS', port: 'tcp', from: 'shop/web', expect: 'ALLOW' },
    ],
  },
  {
    title: 'namespaces, service accounts and trust domains',
    policies: [
      policy(
        'namespace',
        '[{from: [{source: {namespaces: ["job*"]}}], to: [{operation: {paths: [/namespace]}}]}]',
      ),
      policy(
        'not-namespace',
        '[{from: [{source: {notNamespaces: ["jobs"]}}], to: [{operation: {paths: [/not-namespace]}}]}]',
      ),
      policy(
        'account',
        '[{from: [{source: {serviceAccounts: ["web", "jobs/batch"]}}], to: [{operation: {paths: [/account]}}]}]',
      ),
      policy(
        'domain',
        '[{from: [{source: {trustDomains: ["cluster.local"]}}], to: [{operation: {paths: [/domain]}}]}]',
      ),
    ],
    rows: [
      { title: 'namespace', from: 'jobs/x', path: '/namespace', expect: 'ALLOW', by: 'namespace' },
      { title: 'another namespace', from: 'shop/x', path: '/namespace', expect: 'DENY' },
      { title: 'namespace, plaintext', path: '/namespace', expect: 'DENY' },
      {
        title: 'notNamespaces',
        from: 'shop/x',
        path: '/not-namespace',
        expect: 'ALLOW',
        by: 'not-namespace',
      },
      { title: 'notNamespaces, plaintext', path: '/not-namespace', expect: 'ALLOW', by: 'not-namespace' },
      { title: 'notNamespaces, that one', from: 'jobs/x', path: '/not-namespace', expect: 'DENY' },
      { title: 'a short account', from: 'shop/web', path: '/account', expect: 'ALLOW', by: 'account' },
      { title: 'a short account elsewhere', from: 'jobs/web', path: '/account', expect: 'DENY' },
      { title: 'a full account', from: 'jobs/batch', path: '/account', expect: 'ALLOW', by: 'account' },
      { title: 'account, plaintext', path: '/account', expect: 'DENY' },
      { title: 'trust domain', from: 'jobs/x', path: '/domain', expect: 'ALLOW', by: 'domain' },
      { title: 'trust domain, plaintext', path: '/domain', expect: 'DENY' },
    ],
  },
  {
    title: 'addresses',
    policies: [
      policy('source', '[{from: [{source: {ipBlocks: ["127.0.1.0/24"]}}]}]', 'DENY'),
      policy('remote', '[{from: [{source: {remoteIpBlocks: ["127.0.2.2"]}}]}]', 'DENY'),
      policy('when-source', when('source.ip', 'values: ["127.0.3.0/24"]'), 'DENY'),
      policy('when-remote', when('remote.ip', 'values: ["127.0.4.0/24"]'), 'DENY'),
      policy('v6', '[{from: [{source: {ipBlocks: ["::/0"]}}]}]', 'DENY'),
      policy('here', when('destination.ip', 'values: ["127.0.0.1"]')),
    ],
    rows: [
      { title: 'no block', expect: 'ALLOW', by: 'here' },
      { title: 'ipBlocks', sourceIp: '127.0.1.9', expect: 'DENY', by: 'source' },
      { title: 'remoteIpBlocks', sourceIp: '127.0.2.2', expect: 'DENY', by: 'remote' },
      { title: 'beside remoteIpBlocks', sourceIp: '127.0.2.3', expect: 'ALLOW', by: 'here' },
      { title: 'source.ip', sourceIp: '127.0.3.1', expect: 'DENY', by: 'when-source' },
      { title: 'remote.ip', sourceIp: '127.0.4.1', expect: 'DENY', by: 'when-remote' },
      {
        title: 'X-Forwarded-For',
        headers: { 'x-forwarded-for': '10.0.0.1, 127.0.4.7' },
        expect: 'DENY',
        by: 'when-remote',
      },
      {
        title: 'X-Forwarded-For is not the source',
        headers: { 'x-forwarded-for': '127.0.1.9' },
        expect: 'ALLOW',
        by: 'here',
      },
      {
        title: 'X-Forwarded-For hides the remote',
        sourceIp: '127.0.4.1',
        headers: { 'x-forwarded-for': '10.0.0.1' },
        expect: 'ALLOW',
        by: 'here',
      },
      { title: 'TCP, ipBlocks', port: 'tcp', sourceIp: '127.0.1.9', expect: 'DENY', by: 'source' },
      { title: 'TCP, remote.ip', port: 'tcp', sourceIp: '127.0.4.1', expect: 'DENY', by: 'when-remote' },
      { title: 'TCP, destination.ip', port: 'tcp', expect: 'ALLOW', by: 'here' },
    ],
  },
  {
    title: 'addresses to be kept out',
    policies: [
      policy(
        'not',
        '[{from: [{source: {notIpBlocks: ["127.0.1.0/24"], notRemoteIpBlocks: ["127.0.2.0/24"]}}]}]',
      ),
    ],
    rows: [
      { title: 'neither', expect: 'ALLOW', by: 'not' },
      { title: 'the first', sourceIp: '127.0.1.1', expect: 'DENY' },
      { title: 'the second', sourceIp: '127.0.2.1', expect: 'DENY' },
    ],
  },
  {
    title: 'methods, hosts and ports',
    policies: [
      policy('get', operation('methods: [GET, "P*"], ports: ["$http"]')),
      policy('hosts', operation('hosts: ["a.example", "*.b.example", "c.*"], ports: ["$other"]')),
    ],
    rows: [
      { title: 'a method', method: 'GET', expect: 'ALLOW', by: 'get' },
      { title: 'a prefix', method: 'PATCH', expect: 'ALLOW', by: 'get' },
      { title: 'another', method: 'DELETE', expect: 'DENY' },
      { title: 'in other case', method: 'get', expect: 'DENY' },
      { title: 'a host', port: 'other', host: 'a.example', expect: 'ALLOW', by: 'hosts' },
      { title: 'a host in capitals', port: 'other', host: 'A.Example', expect: 'ALLOW', by: 'hosts' },
      { title: 'a host with its port', port: 'other', host: 'a.example:80', expect: 'DENY' },
      { title: 'a suffix', port: 'other', host: 'x.B.example', expect: 'ALLOW', by: 'hosts' },
      { title: 'a prefix of a host', port: 'other', host: 'c.anything', expect: 'ALLOW', by: 'hosts' },
      {
        title: 'absolute form beats Host',
        port: 'other',
        host: 'no',
        path: 'http://a.example/',
        expect: 'ALLOW',
        by: 'hosts',
      },
      { title: 'TCP: rules with HTTP fields are dropped', port: 'tcp', expect: 'DENY' },
    ],
  },
  {
    title: 'not methods, not hosts, not ports, not paths',
    policies: [
      policy(
        'not',
        operation(
          'notMethods: [DELETE], notHosts: ["*.internal"], notPorts: ["$other"], notPaths: ["/admin*"]',
        ),
      ),
    ],
    rows: [
      { title: 'none of them', expect: 'ALLOW', by: 'not' },
      { title: 'the method', method: 'DELETE', expect: 'DENY' },
      { title: 'the host', host: 'x.INTERNAL', expect: 'DENY' },
      { title: 'the port', port: 'other', expect: 'DENY' },
      { title: 'the path', path: '/admin/x', expect: 'DENY' },
      { title: 'the path in disguise', path: '/x/..;a/%61dmin', expect: 'DENY' },
    ],
  },
  {
    title: 'paths',
    policies: [
      policy('exact', operation('paths: [/exact]')),
      policy('prefix', operation('paths: ["/prefix/*"]')),
      policy('suffix', operation('paths: ["*.txt"]')),
      policy('one', operation('paths: ["/one/{*}/end"]')),
      policy('many', operation('paths: ["/many/{**}"]')),
    ],
    rows: [
      { title: 'exact', path: '/exact', expect: 'ALLOW', by: 'exact' },
      { title: 'a query takes no part', path: '/exact?a=/../b', expect: 'ALLOW', by: 'exact' },
      { title: 'dot segments', path: '/a/./b/../../exact', expect: 'ALLOW', by: 'exact' },
      { title: '%2e', path: '/a/%2e%2E/exact', expect: 'ALLOW', by: 'exact' },
      { title: 'escaped letters', path: '/e%78act', expect: 'ALLOW', by: 'exact' },
      { title: 'backslash', path: '/a\\..\\exact', expect: 'ALLOW', by: 'exact' },
      { title: 'parameters', path: '/exact;a=b', expect: 'DENY' },
      { title: 'two slashes', path: '//exact', expect: 'DENY' },
      { title: '%2f', path: '/a%2f..%2fexact', expect: 'DENY' },
      { title: 'other case', path: '/EXACT', expect: 'DENY' },
      { title: 'a prefix', path: '/prefix/x/y', expect: 'ALLOW', by: 'prefix' },
      { title: 'out of the prefix', path: '/prefix/../x', expect: 'DENY' },
      { title: 'a suffix', path: '/x/y.txt', expect: 'ALLOW', by: 'suffix' },
      { title: 'a suffix in the query', path: '/x?y.txt', expect: 'DENY' },
      { title: '{*}', path: '/one/x/end', expect: 'ALLOW', by: 'one' },
      { title: '{*} is one segment', path: '/one/x/y/end', expect: 'DENY' },
      { title: '{*} is not nothing', path: '/one//end', expect: 'DENY' },
      { title: '{**}', path: '/many/x/y', expect: 'ALLOW', by: 'many' },
      { title: '{**} is nothing', path: '/many/', expect: 'ALLOW', by: 'many' },
      { title: '{**} needs its slash', path: '/many', expect: 'DENY' },
    ],
  },
  {
    title: 'headers and names',
    policies: [
      policy('tenant', when('request.headers[X-Tenant]', 'values: ["a", "b*"]')),
      policy(
        'present',
        '[{to: [{operation: {paths: [/present]}}], when: [{key: "request.headers[x-any]", values: ["*"]}]}]',
      ),
      policy(
        'absent',
        '[{to: [{operation: {paths: [/absent]}}], when: [{key: "request.headers[x-not]", notValues: ["n"]}]}]',
      ),
      policy('raw', when('request.headers[:path]', 'values: ["/raw?a=1"]')),
      policy('nominated', when('request.headers[te]', 'values: ["*"]')),
      policy(
        'cert',
        when(
          'request.headers[x-forwarded-client-cert]',
          'values: ["*;URI=spiffe://cluster.local/ns/shop/sa/named"]',
        ),
      ),
      policy('sni', when('connection.sni', 'values: ["*.example.com"]')),
      policy('principal', when('source.principal', 'values: ["cluster.local/ns/jobs/*"]')),
      policy('port', when('destination.port', 'values: ["$otherTcp"]')),
    ],
    rows: [
      { title: 'a value', headers: { 'X-TENANT': 'a' }, expect: 'ALLOW', by: 'tenant' },
      { title: 'values have case', headers: { 'x-tenant': 'A' }, expect: 'DENY' },
      { title: 'one of two fields', headers: { 'x-tenant': ['z', 'bb'] }, expect: 'ALLOW', by: 'tenant' },
      { title: 'never joined', headers: { 'x-tenant': ['z,a', 'y'] }, expect: 'DENY' },
      { title: 'white space around', headers: { 'x-tenant': '\ta ' }, expect: 'ALLOW', by: 'tenant' },
      {
        title: 'nominated by Connection',
        headers: { 'x-tenant': 'a', connection: 'close, x-tenant' },
        expect: 'DENY',
      },
      { title: 'present', path: '/present', headers: { 'x-any': 'x' }, expect: 'ALLOW', by: 'present' },
      {
        title: 'present though empty',
        path: '/present',
        headers: { 'x-any': '' },
        expect: 'ALLOW',
        by: 'present',
      },
      { title: 'not present', path: '/present', expect: 'DENY' },
      { title: 'notValues, absent', path: '/absent', expect: 'ALLOW', by: 'absent' },
      {
        title: 'notValues, another',
        path: '/absent',
        headers: { 'x-not': 'm' },
        expect: 'ALLOW',
        by: 'absent',
      },
      { title: 'notValues, that one', path: '/absent', headers: { 'x-not': 'n' }, expect: 'DENY' },
      { title: ':path has the query', path: '/raw?a=1', expect: 'ALLOW', by: 'raw' },
      { title: ':path without it', path: '/raw', expect: 'DENY' },
      { title: 'hop by hop', headers: { te: 'trailers' }, expect: 'DENY' },
      { title: 'the certificate as the app is told of it', from: 'shop/named', expect: 'ALLOW', by: 'cert' },
      {
        title: 'the network tells nothing of it',
        headers: { 'x-forwarded-client-cert': 'By=a;URI=spiffe://cluster.local/ns/shop/sa/named' },
        expect: 'DENY',
      },
      { title: 'server name', from: 'shop/x', sni: 'a.example.com', expect: 'ALLOW', by: 'sni' },
      { title: 'server name in capitals', from: 'shop/x', sni: 'A.EXAMPLE.COM', expect: 'ALLOW', by: 'sni' },
      { title: 'another server name', from: 'shop/x', sni: 'example.com', expect: 'DENY' },
      { title: 'source.principal', from: 'jobs/x', expect: 'ALLOW', by: 'principal' },
      { title: 'TCP, source.principal', port: 'tcp', from: 'jobs/x', expect: 'ALLOW', by: 'principal' },
      { title: 'TCP, another', port: 'tcp', from: 'shop/x', expect: 'DENY' },
      { title: 'TCP, destination.port', port: 'otherTcp', expect: 'ALLOW', by: 'port' },
      { title: 'beyond ASCII', headers: { 'x-tenant': 'bé' }, expect: 'ALLOW', by: 'tenant' },
    ],
  },
  {
    title: 'HTTP fields on TCP: DENY widens',
    policies: [
      policy('paths', operation('paths: [/admin], ports: ["$tcp"]'), 'DENY'),
      policy(
        'claims',
        '[{from: [{source: {namespaces: [jobs]}}], when: [{key: "request.auth.claims[x]", values: [y]}]}]',
        'DENY',
      ),
    ],
    rows: [
      { title: 'HTTP', path: '/admin', expect: 'ALLOW' },
      { title: 'HTTP, a namespace without claims', from: 'jobs/x', expect: 'ALLOW' },
      { title: 'TCP on that port', port: 'tcp', expect: 'DENY', by: 'paths' },
      { title: 'TCP on another', port: 'otherTcp', expect: 'ALLOW' },
      { title: 'TCP, the namespace', port: 'otherTcp', from: 'jobs/x', expect: 'DENY', by: 'claims' },
    ],
  },
  {
    title: 'HTTP fields on TCP: ALLOW closes',
    policies: [
      policy(
        'mixed',
        '[{to: [{operation: {methods: [GET]}}, {operation: {ports: ["$tcp"]}}]}, {to: [{operation: {ports: ["$otherTcp"]}}]}]',
      ),
    ],
    rows: [
      { title: 'HTTP', expect: 'ALLOW', by: 'mixed' },
      { title: 'a rule with one HTTP field is dropped whole', port: 'tcp', expect: 'DENY' },
      { title: 'the next rule stays', port: 'otherTcp', expect: 'ALLOW', by: 'mixed' },
    ],
  },
  {
    title: 'several policies of several actions',
    policies: [
      policy('allow', operation('paths: ["/a*"]')),
      policy('also', operation('paths: ["/ab*"]')),
      policy('deny', operation('paths: ["/ab/*"]'), 'DENY'),
      policy('audit', operation('paths: ["/a*"]'), 'AUDIT'),
      policy('audit-denied', operation('paths: ["/ab/*"]'), 'AUDIT'),
      policy('try-deny', operation('paths: ["/a"]'), 'DENY', dryRun),
      policy('try-allow', operation('paths: ["/z"]'), 'ALLOW', dryRun),
    ],
    rows: [
      { title: 'dry DENY denies nothing', path: '/a', expect: 'ALLOW', by: 'allow' },
      { title: 'the first of two by name', path: '/abc', expect: 'ALLOW', by: 'allow' },
      { title: 'DENY beats ALLOW', path: '/ab/c', expect: 'DENY', by: 'deny' },
      { title: 'dry ALLOW allows nothing', path: '/z', expect: 'DENY' },
      { title: 'nothing matches', path: '/b', expect: 'DENY' },
    ],
  },
  {
    title: 'ALLOW policies that are all dry do not close',
    policies: [policy('dry', operation('paths: ["/a"]'), 'ALLOW', dryRun)],
    rows: [
      { title: 'a match', path: '/a', expect: 'ALLOW' },
      { title: 'a miss', path: '/b', expect: 'ALLOW' },
      { title: 'TCP', port: 'tcp', expect: 'ALLOW' },
    ],
  },
  {
    title: 'tokens',
    policies: [
      requestAuthentication,
      policy('user', '[{from: [{source: {requestPrincipals: ["https://issuer/ann"]}}]}]'),
      policy(
        'no-token',
        '[{from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {paths: [/open]}}]}]',
      ),
      policy('scope', when('request.auth.claims[scope]', 'values: [write]')),
      policy('nested', when('request.auth.claims[a][b]', 'values: ["c*"]')),
      policy(
        'audience',
        '[{to: [{operation: {paths: [/audience]}}], when: [{key: request.auth.audiences, values: [shop]}]}]',
      ),
      policy('header', when('request.headers[x-sub]', 'values: [bea]')),
      policy('number', when('request.auth.claims[n]', 'values: ["7"]'), 'DENY'),
    ],
    rows: [
      { title: 'the principal', token: await token(), expect: 'ALLOW', by: 'user' },
      { title: 'another', token: await token({ sub: 'bob' }), expect: 'DENY' },
      { title: 'no token', expect: 'DENY' },
      { title: 'no token where none is needed', path: '/open', expect: 'ALLOW', by: 'no-token' },
      {
        title: 'a token where none is wanted',
        path: '/open',
        token: await token({ sub: 'bob' }),
        expect: 'DENY',
      },
      {
        title: 'scope is split',
        token: await token({ sub: 'bob', scope: 'read write' }),
        expect: 'ALLOW',
        by: 'scope',
      },
      {
        title: 'a nested claim',
        token: await token({ sub: 'bob', a: { b: 'cd' } }),
        expect: 'ALLOW',
        by: 'nested',
      },
      {
        title: 'an audience',
        path: '/audience',
        token: await token({ sub: 'bob' }),
        expect: 'ALLOW',
        by: 'audience',
      },
      { title: 'a header from a claim', token: await token({ sub: 'bea' }), expect: 'ALLOW', by: 'header' },
      { title: 'the same header forged', headers: { 'x-sub': 'bea' }, expect: 'DENY' },
      { title: 'numbers never match', token: await token({ n: 7 }), expect: 'ALLOW', by: 'user' },
      { title: 'over mutual TLS', from: 'shop/web', token: await token(), expect: 'ALLOW', by: 'user' },
      { title: 'expired', token: await token({ exp: 1_000_000_000 }), expect: 401 },
      { title: 'signed by another', token: await token({}, strangers.privateKey), expect: 401 },
      { title: 'an unknown issuer', token: await token({ iss: 'https://other' }), expect: 401 },
      { title: 'a wrong audience', token: await token({ aud: 'bank' }), expect: 403 },
      { title: 'no token at all', token: 'abc', expect: 401 },
      { title: 'a bad token where none is needed', path: '/open', token: 'abc', expect: 401 },
      { title: 'TCP: JWT fields are dropped', port: 'tcp', expect: 'DENY', by: 'number' },
    ],
  },
  {
    title: 'without RequestAuthentication tokens are ignored',
    policies: [policy('user', '[{from: [{source: {requestPrincipals: ["*"]}}]}]', 'DENY')],
    rows: [
      { title: 'a good one', token: await token(), expect: 'ALLOW' },
      { title: 'a bad one', token: 'abc', expect: 'ALLOW' },
    ],
  },
  {
    title: 'CUSTOM',
    policies: [
      custom('ask', 'provider', '[{to: [{operation: {notPaths: ["/free*"]}}]}]'),
      policy('deny', operation('paths: ["*/denied"], ports: ["$http"]'), 'DENY'),
      policy('get', operation('methods: [GET], ports: ["$http"]')),
    ],
    rows: [
      { title: 'asked', path: '/x', expect: 'CUSTOM', by: 'ask' },
      { title: 'a provider of HTTP is not asked on TCP', port: 'tcp', expect: 'DENY' },
      { title: 'denied whatever it says', path: '/pass/denied', expect: 'DENY', by: 'deny' },
      { title: 'not asked, allowed', path: '/free', expect: 'ALLOW', by: 'get' },
      { title: 'not asked, denied', path: '/free/denied', expect: 'DENY', by: 'deny' },
      { title: 'not asked, nothing matches', path: '/free', method: 'PUT', expect: 'DENY' },
    ],
  },
  {
    title: 'CUSTOM without a provider',
    policies: [custom('ask', 'nobody', operation('paths: ["/x"]'))],
    rows: [
      { title: 'a match is denied', path: '/x', expect: 'DENY', by: 'ask' },
      { title: 'a miss', path: '/y', expect: 'ALLOW' },
    ],
  },
];

// ---- the sidecar

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const [http = 0, other = 0, tcpPort = 0, otherTcp = 0] = await freePorts(4);
const ports: Readonly<Record<PortName, number>> = { http, other, tcp: tcpPort, otherTcp };
const mesh = await Mesh.create(
  t,
  [
    workload('orders'),
    sidecarOf('orders', {
      ingress: [
        ingress({ number: http, name: 'http-one' }, app.port),
        ingress({ number: other, name: 'http-two' }, app.port),
        ingress({ number: tcpPort, name: 'tcp-one' }, tcp.port),
        ingress({ number: otherTcp, name: 'tcp-two' }, tcp.port),
      ],
    }),
    service(
      'provider',
      [{ number: 80, name: 'http' }],
      `[{address: 127.0.0.1, ports: {http: ${provider.port}}}]`,
    ),
    `kind: MeshConfig
extensionProviders: [{name: provider, envoyExtAuthzHttp: {service: ${hostOf('provider')}, port: 80}}]
`,
    peerAuthentication('PERMISSIVE'),
  ].join('---\n'),
);
mesh.write('policies.yaml', yamlOf([policy('before', '[{}]')]));
const sidecar: Sidecar = await mesh.sidecar('orders');

function yamlOf(policies: readonly string[]): string {
  return `# ${createHash('sha256').update(policies.join()).digest('hex')}\n${policies.join('---\n')}`.replace(
    /\$(http|other|tcp|otherTcp)\b/g,
    (_, name: PortName) => String(ports[name]),
  );
}

const leaves = new Map<string, Promise<Leaf>>();

function leafOf(from: string): Promise<Leaf> {
  const [namespace = '', account = ''] = from.split('/');
  const leaf = leaves.get(from) ?? mesh.ca.leaf(spiffe(namespace, account));
  leaves.set(from, leaf);
  return leaf;
}

/** Connects as the row says: from its address, with its identity or in plaintext. */
async function connect(row: Row): Promise<Peer> {
  const { port = 'http', from, sni, sourceIp = '127.0.0.1' } = row;
  const socket = connectTcp({ port: ports[port], host: '127.0.0.1', localAddress: sourceIp, noDelay: true });
  const name = sni === undefined ? {} : { servername: sni };
  const carried: Socket =
    from === undefined
      ? socket
      : connectTls({
          socket,
          ...(await leafOf(from)),
          ca: [],
          rejectUnauthorized: false,
          ALPNProtocols: ISTIO_HTTP,
          ...name,
        });
  const peer = new Peer(carried);
  const opened = new Promise<void>((resolve) =>
    carried.once(from === undefined ? 'connect' : 'secureConnect', resolve),
  );
  await within(`a connection for ${row.title}`, Promise.race([opened, peer.ended()]));
  return peer;
}

function isHttp({ port = 'http' }: Row): boolean {
  return port === 'http' || port === 'other';
}

const DECISIONS: ReadonlyMap<number, string> = new Map([
  [200, 'ALLOW'],
  [403, 'DENY'],
  [400, 'refused'],
  [401, '401'],
  [405, 'refused'],
  [PROVIDERS_OWN, 'CUSTOM'],
]);

interface Seen {
  readonly decision: string;
  /** As the access log names it. */
  readonly policy: unknown;
  readonly detail: unknown;
}

/** Sends the row's bytes through the sidecar. @param id finds its line in the access log */
async function throughSidecar(row: Row, id: string): Promise<Seen> {
  const mark = sidecar.mark;
  const peer = await connect(row);
  try {
    return isHttp(row) ? await askHttp(peer, row, id, mark) : await askTcp(peer, mark);
  } finally {
    peer.socket.destroy();
  }
}

async function askHttp(peer: Peer, row: Row, id: string, mark: number): Promise<Seen> {
  const { method = 'GET', path = '/', host = 'orders', headers = {}, token: bearer } = row;
  let head = `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\nx-request-id: ${id}\r\n`;
  if (bearer !== undefined) head += `authorization: Bearer ${bearer}\r\n`;
  for (const [name, values] of Object.entries(headers)) {
    for (const value of typeof values === 'string' ? [values] : values) head += `${name}: ${value}\r\n`;
  }
  peer.write(Buffer.from(`${head}\r\n`, 'utf8'));
  const text = await peer.until('a status line', (all) => /^HTTP\/1\.1 \d{3} /.test(all));
  const decision = DECISIONS.get(Number(text.slice(9, 12))) ?? text.slice(0, 12);
  if (decision === 'refused') return { decision, policy: null, detail: null };
  const line = await sidecar.accessed({ request_id: id }, mark);
  return { decision, policy: line.policy, detail: line.response_code_details };
}

async function askTcp(peer: Peer, mark: number): Promise<Seen> {
  const from = `${peer.socket.localAddress}:${peer.socket.localPort}`;
  peer.write('hello');
  const echoed = await peer
    .until('the echo', (all) => all === 'hello')
    .then(
      () => true,
      () => false,
    );
  peer.socket.destroy();
  const line = await sidecar.accessed({ downstream_remote_address: from }, mark);
  return {
    decision: echoed ? 'ALLOW' : 'DENY',
    policy: line.policy,
    detail: line.connection_termination_details,
  };
}

// ---- the command

function requestOf(row: Row): object {
  const {
    port = 'http',
    from,
    sni,
    sourceIp = '127.0.0.1',
    method = 'GET',
    host = 'orders',
    path = '/',
  } = row;
  const connection = {
    id: row.title,
    port: ports[port],
    sourceIp,
    destinationIp: '127.0.0.1',
    principal:
      from === undefined ? null : spiffe(...(from.split('/') as [string, string])).slice('spiffe://'.length),
    sni: sni ?? null,
  };
  if (!isHttp(row)) return { ...connection, protocol: 'tcp' };
  const bearer = row.token === undefined ? {} : { token: row.token };
  return { ...connection, ...bearer, method, host, path, headers: { ...row.headers, 'x-request-id': 'x' } };
}

async function throughCommand(rows: readonly Row[]): Promise<Record<string, unknown>[]> {
  const input = rows.map((row) => JSON.stringify(requestOf(row))).join('\n');
  const workload = ['--namespace', 'shop', '--labels', 'app=orders', '--service-account', 'orders'];
  const { code, stdout, stderr } = await oarlock(
    ['authz', 'check', '--config', mesh.config, ...workload, '--requests', '-'],
    input,
  );
  if (code !== 0) throw new Error(stderr);
  return jsonLines(stdout);
}

/** How often AUDIT and dry-run policies matched, as the sidecar counts them. */
async function watchedBySidecar(): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  const policies = ['audit', 'audit-denied', 'try-deny', 'try-allow', 'dry'].map((name) => `shop/${name}`);
  for (const name of policies) {
    const audited = await sidecar.metric('oarlock_audit_matches_total', { policy: name });
    const allow = await sidecar.metric('oarlock_dry_run_decisions_total', {
      policy: name,
      decision: 'ALLOW',
    });
    const deny = await sidecar.metric('oarlock_dry_run_decisions_total', { policy: name, decision: 'DENY' });
    for (const [key, count] of [
      [name, audited],
      [`${name} ALLOW`, allow],
      [`${name} DENY`, deny],
    ] as const) {
      if (count > 0) counts.set(key, count);
    }
  }
  return counts;
}

const watched = new Map<string, number>();

for (const group of groups) {
  t.test(group.title, async (t: Test) => {
    const mark = sidecar.mark;
    mesh.write('policies.yaml', yamlOf(group.policies));
    await sidecar.logged({ msg: 'resources are in force' }, mark);
    const answers = await throughCommand(group.rows);
    for (const [i, row] of group.rows.entries()) {
      const answer = answers[i] ?? {};
      const seen = await throughSidecar(row, `${group.title} ${i}`.replaceAll(' ', '-'));
      const by = row.by === undefined ? null : `shop/${row.by}`;
      if (row.expect === 'refused') {
        t.match(
          answer,
          { id: row.title, error: /^the sidecar answers 4\d\d: / },
          `${row.title}: the command`,
        );
        t.equal(seen.decision, 'refused', `${row.title}: the sidecar`);
        continue;
      }
      if (typeof row.expect === 'number') {
        const refusal = { decision: 'UNAUTHENTICATED', status: row.expect };
        t.match(answer, { id: row.title, ...refusal }, `${row.title}: the command`);
        // 403 stands for a denial too: the details tell them apart, in Envoy's words.
        const words = String(answer.reason).replaceAll(' ', '_');
        t.equal(seen.detail, `jwt_authn_access_denied{${words}}`, `${row.title}: the sidecar`);
        continue;
      }
      t.match(answer, { id: row.title, decision: row.expect, policy: by }, `${row.title}: the command`);
      t.equal(seen.decision, row.expect, `${row.title}: the sidecar`);
      if (row.expect === 'DENY') t.equal(seen.detail, answer.reason, `${row.title}: the same words`);
      // The line of a TCP connection names a policy only where one denies.
      else if (isHttp(row)) t.equal(seen.policy, by, `${row.title}: the policy logged`);
      for (const name of answer.audit as string[]) watched.set(name, (watched.get(name) ?? 0) + 1);
      for (const { policy: name, decision } of answer.dryRun as { policy: string; decision: string }[]) {
        const key = `${name} ${decision}`;
        watched.set(key, (watched.get(key) ?? 0) + 1);
      }
    }
  });
}

t.test('AUDIT and dry runs matched as often here as there', async (t) => {
  t.ok(watched.size >= 5, 'some matched');
  await until('the counters', async () => {
    const seen = await watchedBySidecar();
    return seen.size === watched.size;
  });
  t.strictSame(await watchedBySidecar(), watched);
});
