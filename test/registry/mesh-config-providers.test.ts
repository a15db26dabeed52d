/** Mesh config's `extensionProviders`: what is read, what makes a provider unusable, what is an error. */
import t from 'tap';
import { parseDocuments } from '../../config/documents.ts';
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { Problem } from '../../mesh/resource.ts';
import { decodeMeshConfig } from '../../registry/mesh-config.ts';

interface Read {
  readonly providers: ReadonlyMap<string, ExtAuthzProvider> | null;
  /** `severity line field code`, in order. */
  readonly problems: readonly string[];
  readonly messages: readonly string[];
}

/** Reads the list of providers that follows `extensionProviders:` on line 2. */
function read(yaml: string): Read {
  const parsed = parseDocuments(`kind: MeshConfig\nextensionProviders:\n${yaml}\n`, 'mesh.yaml');
  const problems: Problem[] = [...parsed.problems];
  const [resource] = parsed.resources;
  if (resource === undefined) throw new Error(JSON.stringify(problems));
  const { extAuthz } = decodeMeshConfig(resource, problems);
  return {
    providers: extAuthz,
    problems: problems.map(({ severity, line, field, code }) => `${severity} ${line} ${field} ${code}`),
    messages: problems.map(({ message }) => message),
  };
}

/** One provider over HTTP with these fields besides service and port. */
const http = (fields: string, name = 'a'): string =>
  `- {name: ${name}, envoyExtAuthzHttp: {service: a.b, port: 80${fields === '' ? '' : `, ${fields}`}}}`;
const grpc = (fields: string): string =>
  `- {name: a, envoyExtAuthzGrpc: {service: a.b, port: 80${fields === '' ? '' : `, ${fields}`}}}`;

t.test('every field of a provider over HTTP', async (t) => {
  const { providers, problems } = read(`
- name: my-authz
  envoyExtAuthzHttp:
    service: foo/authz.foo.svc.cluster.local
    port: 8000
    timeout: 1500ms
    pathPrefix: /check
    failOpen: true
    statusOnError: "503"
    includeHeadersInCheck: [x-old]
    includeRequestHeadersInCheck: [x-a, x-b*, "*-c"]
    includeAdditionalHeadersInCheck: {X-Fixed: 100%%}
    includeRequestBodyInCheck: {maxRequestBytes: 8192, allowPartialMessage: true, packAsBytes: true}
    headersToUpstreamOnAllow: [x-up]
    headersToDownstreamOnDeny: [x-deny]
    headersToDownstreamOnAllow: [x-allow]
`);
  t.same(problems, []);
  t.same(providers?.get('my-authz'), {
    name: 'my-authz',
    protocol: 'http',
    service: 'foo/authz.foo.svc.cluster.local',
    port: 8000,
    timeout: 1500,
    failOpen: true,
    statusOnError: 503,
    requestBody: { maxRequestBytes: 8192, allowPartialMessage: true, packAsBytes: true },
    pathPrefix: '/check',
    includeRequestHeadersInCheck: ['x-a', 'x-b*', '*-c'],
    includeAdditionalHeadersInCheck: new Map([['X-Fixed', '100%']]),
    headersToUpstreamOnAllow: ['x-up'],
    headersToDownstreamOnAllow: ['x-allow'],
    headersToDownstreamOnDeny: ['x-deny'],
    fault: null,
  });
});

t.test('every field of a provider over gRPC; what is not given', async (t) => {
  const given = read(
    grpc(
      'timeout: 10s, failOpen: true, statusOnError: "401", includeRequestBodyInCheck: {maxRequestBytes: 1}',
    ),
  );
  t.same(given.problems, []);
  t.match(given.providers?.get('a'), {
    protocol: 'grpc',
    timeout: 10_000,
    failOpen: true,
    statusOnError: 401,
    requestBody: { maxRequestBytes: 1, allowPartialMessage: false, packAsBytes: false },
    fault: null,
  });
  for (const yaml of [
    grpc(''),
    http(''),
    http('timeout: null, includeRequestBodyInCheck: null, statusOnError: ""'),
  ]) {
    const bare = read(yaml);
    t.same(bare.problems, []);
    t.match(bare.providers?.get('a'), {
      timeout: 600_000,
      failOpen: false,
      statusOnError: 403,
      requestBody: null,
      pathPrefix: '',
      headersToDownstreamOnDeny: [],
      fault: null,
    });
  }
});

t.test('the deprecated list counts where the new one is empty', async (t) => {
  const old = read(http('includeHeadersInCheck: [x-old]')).providers?.get('a');
  t.same(old?.includeRequestHeadersInCheck, ['x-old']);
  const both = read(http('includeHeadersInCheck: [x-old], includeRequestHeadersInCheck: []')).providers?.get(
    'a',
  );
  t.same(both?.includeRequestHeadersInCheck, ['x-old']);
});

t.test('providers of other kinds are passed over', async (t) => {
  const kinds =
    'zipkin lightstep datadog stackdriver opencensus skywalking opentelemetry prometheus envoyFileAccessLog ' +
    'envoyHttpAls envoyTcpAls envoyOtelAls sds';
  const { providers, problems } = read(
    kinds
      .split(' ')
      .map((kind) => `- {name: ${kind}, ${kind}: {service: x, whatever: 1}}`)
      .join('\n'),
  );
  t.same(problems, []);
  t.equal(providers?.size, 0);
});

t.test('no list, an empty one, and null', async (t) => {
  for (const yaml of ['', '  []', '  null']) {
    const { providers, problems } = read(yaml);
    t.same(problems, []);
    t.equal(providers?.size, 0);
  }
});

t.test('clearRouteCache is accepted with a warning', async (t) => {
  const { providers, problems } = read(http('clearRouteCache: true'));
  t.same(problems, ['Warning 3 extensionProviders[0].envoyExtAuthzHttp.clearRouteCache OLK0110']);
  t.equal(providers?.get('a')?.fault, null);
});

t.test('what istiod would not use has a fault and a warning', async (t) => {
  const named = (name: string) => http('', name);
  const at = (service: string) => `- {name: a, envoyExtAuthzGrpc: {service: ${service}, port: 80}}`;
  const cases: readonly (readonly [string, RegExp])[] = [
    ['- {name: a, envoyExtAuthzHttp: {port: 80}}', /service is missing/],
    ['- {name: a, envoyExtAuthzHttp: {service: a.b}}', /port must be from 1 to 65535, not 0/],
    [
      '- {name: a, envoyExtAuthzGrpc: {service: a.b, port: 65536}}',
      /port must be from 1 to 65535, not 65536/,
    ],
    [at('a_b'), /service a_b is neither/],
    [at('"*.b"'), /service \*\.b is neither/],
    [at('ns/short'), /service ns\/short is neither/],
    [at('ns/a.b/c'), /service ns\/a\.b\/c is neither/],
    [at('"/a.b"'), /service \/a\.b is neither/],
    [http('statusOnError: "999"'), /statusOnError 999/],
    [http('statusOnError: "0"'), /statusOnError 0/],
    [http('statusOnError: "100"'), /statusOnError 100/],
    [grpc('statusOnError: abc'), /statusOnError abc/],
    [http('pathPrefix: check'), /pathPrefix check must begin with/],
    [http('pathPrefix: "/a%zz"'), /broken %-escape/],
    [http('includeRequestHeadersInCheck: ["*"]'), /includeRequestHeadersInCheck: \* alone/],
    [http('includeHeadersInCheck: ["*"]'), /includeHeadersInCheck: \* alone/],
    [http('headersToUpstreamOnAllow: [x, "*"]'), /headersToUpstreamOnAllow: \* alone/],
    [http('headersToDownstreamOnAllow: ["*"]'), /headersToDownstreamOnAllow: \* alone/],
    [http('headersToDownstreamOnDeny: ["*"]'), /headersToDownstreamOnDeny: \* alone/],
    [http('includeRequestBodyInCheck: {}'), /maxRequestBytes must be greater than 0/],
    [http('includeAdditionalHeadersInCheck: {":path": /}'), /no header that can be set/],
    [http('includeAdditionalHeadersInCheck: {Host: x}'), /no header that can be set/],
    [http('includeAdditionalHeadersInCheck: {a: "x\\ny"}'), /control character/],
    [http('includeAdditionalHeadersInCheck: {a: "%REQ(x)%"}'), /%COMMANDS% are not supported/],
    [named('""'), /name is missing/],
    [named('A'), /name A may hold/],
    [named('a.b'), /name a\.b may hold/],
    [named('-a'), /may not begin or end with a dash/],
    [named('a-'), /may not begin or end with a dash/],
    [named('x'.repeat(64)), /longer than 63/],
  ];
  for (const [yaml, fault] of cases) {
    const { providers, problems, messages } = read(yaml);
    t.same(problems, ['Warning 3 extensionProviders[0] OLK0108'], yaml);
    t.match(messages[0], fault, yaml);
    const [provider] = [...(providers?.values() ?? [])];
    t.match(provider?.fault, fault, yaml);
  }
});

t.test('names that are fine', async (t) => {
  for (const name of ['a', '"0"', 'x'.repeat(63), 'a--b']) t.same(read(http('', name)).problems, [], name);
});

t.test('services that are fine', async (t) => {
  for (const service of ['opa', 'a.b', 'a.b.', 'ns/a.b', '10.0.0.1', '"::1"', 'A.b']) {
    t.same(read(`- {name: a, envoyExtAuthzGrpc: {service: ${service}, port: 80}}`).problems, [], service);
  }
});

t.test('a name given twice cannot be used, by either', async (t) => {
  const { providers, problems } = read(`${http('')}\n${grpc('')}`);
  t.same(problems, ['Warning 4 extensionProviders[1] OLK0108']);
  t.match(providers?.get('a')?.fault, /given to two providers/);
});

t.test('what Istio cannot read is an error', async (t) => {
  const at = 'extensionProviders[0]';
  const cases: readonly (readonly [string, string])[] = [
    ['- {name: a, envoyExtAuthz: {}}', `Error 3 ${at}.envoyExtAuthz OLK0103`],
    [http('header: []'), `Error 3 ${at}.envoyExtAuthzHttp.header OLK0103`],
    [grpc('pathPrefix: /'), `Error 3 ${at}.envoyExtAuthzGrpc.pathPrefix OLK0103`],
    [http('statusOnError: 403'), `Error 3 ${at}.envoyExtAuthzHttp.statusOnError OLK0104`],
    [http('failOpen: "true"'), `Error 3 ${at}.envoyExtAuthzHttp.failOpen OLK0104`],
    [http('timeout: 5'), `Error 3 ${at}.envoyExtAuthzHttp.timeout OLK0104`],
    [http('timeout: "5"'), `Error 3 ${at}.envoyExtAuthzHttp.timeout OLK0108`],
    [http('timeout: -1s'), `Error 3 ${at}.envoyExtAuthzHttp.timeout OLK0108`],
    [http('headersToUpstreamOnAllow: x'), `Error 3 ${at}.envoyExtAuthzHttp.headersToUpstreamOnAllow OLK0104`],
    [
      http('includeAdditionalHeadersInCheck: [x]'),
      `Error 3 ${at}.envoyExtAuthzHttp.includeAdditionalHeadersInCheck OLK0104`,
    ],
    [
      http('includeRequestBodyInCheck: {maxRequestBytes: -1}'),
      `Error 3 ${at}.envoyExtAuthzHttp.includeRequestBodyInCheck.maxRequestBytes OLK0108`,
    ],
    [
      '- {name: a, envoyExtAuthzHttp: {service: a.b, port: x}}',
      `Error 3 ${at}.envoyExtAuthzHttp.port OLK0104`,
    ],
    ['- {name: a, envoyExtAuthzHttp: {service: a.b, port: 80}, zipkin: {}}', `Error 3 ${at} OLK0109`],
    ['- x', `Error 3 ${at} OLK0104`],
    ['- {name: a}', `Warning 3 ${at} OLK0106`],
    ['  {name: a}', 'Error 2 extensionProviders OLK0104'],
  ];
  for (const [yaml, expected] of cases) t.same(read(yaml).problems, [expected], yaml);
});

t.test('a time-out of zero, or beyond a day, is a day', async (t) => {
  for (const timeout of ['0s', '48h'])
    t.equal(read(http(`timeout: ${timeout}`)).providers?.get('a')?.timeout, 86_400_000);
});
