/** Requests, provider settings and answers: an Envoy and our own code are put through every one. */
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { Message } from '../providers/check-protocol.ts';
import type { GrpcReply, HttpReply } from '../providers/check-server.ts';

const body = { maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: false };

/** By name; what is not given is Istio's default, but for a short time-out. */
export const settings = {
  http: {},
  prefix: { pathPrefix: '/check' },
  told: {
    includeRequestHeadersInCheck: [
      'X-a',
      'x-pre*',
      '*-SUF',
      'cookie',
      'content-type',
      'content-length',
      'e*',
      't*',
    ],
    includeAdditionalHeadersInCheck: new Map([
      ['x-fixed', 'one'],
      ['X-Over', 'two'],
      ['x-empty-one', ''],
    ]),
  },
  httpBody: { requestBody: { ...body, packAsBytes: true } },
  lists: {
    headersToUpstreamOnAllow: ['x-up', 'X-Multi', 'x-lost'],
    headersToDownstreamOnAllow: ['x-down', 'set-*'],
    headersToDownstreamOnDeny: ['*-deny'],
  },
  open: { failOpen: true, statusOnError: 503 },
  status: { statusOnError: 503 },
  nobody: { service: 'nobody' },
  nobodyOpen: { service: 'nobody', failOpen: true },
  hasty: { timeout: 200 },
  hastyOpen: { timeout: 200, failOpen: true },
  grpc: { protocol: 'grpc' },
  grpcBody: { protocol: 'grpc', requestBody: body },
  grpcPacked: { protocol: 'grpc', requestBody: { ...body, packAsBytes: true } },
  grpcOpen: { protocol: 'grpc', failOpen: true },
  grpcStatus: { protocol: 'grpc', statusOnError: 503 },
  grpcHasty: { protocol: 'grpc', timeout: 200 },
  mtls: { protocol: 'grpc' },
} as const satisfies Record<string, Partial<ExtAuthzProvider>>;

export interface Case {
  readonly name: string;
  readonly provider: keyof typeof settings;
  readonly method?: string;
  readonly path?: string;
  /** `name: value`, one character a byte. */
  readonly fields?: readonly string[];
  readonly body?: string;
  /** Null: none. Default: it allows. */
  readonly http?: HttpReply | null;
  readonly grpc?: GrpcReply | null;
}

const ok = (ok_response: Message): GrpcReply => ({ message: { status: {}, ok_response } });
const denied = (denied_response: Message, code = 7): GrpcReply => ({
  message: { status: { code }, denied_response },
});
const h = (key: string, value: string, more: Message = {}): Message => ({ header: { key, value }, ...more });
const append = { append: { value: true } };
const overwrite = { append: { value: false } };
const action = (append_action: number): Message => ({ append_action });

const all = [
  'x-up',
  'new',
  'x-multi',
  'm1',
  'x-multi',
  'm2',
  'x-down',
  'd1',
  'x-down',
  'd2',
  'set-cookie',
  'a=1',
  'set-cookie',
  'b=2',
  'x-deny',
  'why',
  'x-deny',
  'why2',
  'location',
  '/login',
  'www-authenticate',
  'Basic',
  'x-other',
  'o',
  'x-envoy-auth-headers-to-remove',
  'x-gone, Cookie ,:path,host',
  'content-type',
  'text/html',
];
const before = ['x-up: old', 'x-up: older', 'x-multi: old', 'x-gone: g', 'cookie: c=1'];

export const cases: readonly Case[] = [
  // === what a provider over HTTP is sent
  {
    name: 'GET with a query',
    provider: 'http',
    path: '/a/b?x=1&y',
    fields: ['x-a: 1', 'authorization: Bearer t', 'cookie: a=b'],
  },
  { name: 'HEAD', provider: 'http', method: 'HEAD', path: '/h' },
  { name: 'POST, body not asked for', provider: 'http', method: 'POST', body: 'hello' },
  { name: 'a method nobody knows', provider: 'http', method: 'PROPFIND' },
  { name: 'pathPrefix', provider: 'prefix', path: '/a/b?x=1' },
  {
    name: 'lists of fields',
    provider: 'told',
    method: 'POST',
    body: 'abc',
    fields: [
      'x-a: 1',
      'X-A: 2',
      'x-prefix: p',
      'X-Pre: q',
      'my-suf: s',
      'x-over: client',
      'x-other: no',
      'cookie: a=1',
      'cookie: b=2',
      'content-type: text/plain',
      'te: trailers',
    ],
  },
  {
    name: 'bytes that are no UTF-8',
    provider: 'told',
    fields: ['x-a: a\xff\xc3\xa9\xe2\x82z', 'x-pre: \xed\xa0\x80\xf0\x9f\x98\x80\xc0\x80\xf4\x90\x80\x80'],
  },
  { name: 'a body', provider: 'httpBody', method: 'POST', body: 'a\xff\xc3\xa9z' },
  { name: 'a body as long as may be', provider: 'httpBody', method: 'POST', body: '0123456789' },
  { name: 'an empty body', provider: 'httpBody', method: 'POST', body: '' },
  { name: 'no body', provider: 'httpBody' },
  {
    name: 'a part of a body, and the downstream’s own mark',
    provider: 'httpBody',
    method: 'POST',
    body: '0123456789abcde',
    fields: ['x-envoy-auth-partial-body: zzz'],
  },
  // === what becomes of its answers
  {
    name: '200, lists',
    provider: 'lists',
    fields: before,
    http: { status: 200, fields: all, body: 'ignored' },
  },
  { name: '200, no lists', provider: 'http', fields: before, http: { status: 200, fields: all } },
  {
    name: '200, empty value and bytes beyond ASCII',
    provider: 'lists',
    fields: before,
    http: { status: 200, fields: ['x-up', '', 'x-multi', 'a\xff'] },
  },
  {
    name: '200, set and removed',
    provider: 'lists',
    fields: before,
    http: { status: 200, fields: ['x-up', 'a', 'x-envoy-auth-headers-to-remove', 'X-Up'] },
  },
  { name: '401, lists', provider: 'lists', http: { status: 401, fields: all, body: 'denied' } },
  { name: '401, no lists', provider: 'http', http: { status: 401, fields: all, body: 'denied' } },
  { name: '401 to HEAD', provider: 'lists', method: 'HEAD', http: { status: 401, fields: all } },
  ...[201, 204, 299, 302, 304, 400, 404, 429, 500, 503, 599, 600, 999].map(
    (status): Case => ({
      name: `${status}`,
      provider: 'status',
      http: { status, fields: ['x-s', '1'], body: status === 204 || status === 304 ? '' : 'b' },
    }),
  ),
  { name: '503, failOpen', provider: 'open', http: { status: 503, fields: all } },
  { name: '403, failOpen', provider: 'open', http: { status: 403 } },
  { name: 'no answer', provider: 'hasty', http: null },
  { name: 'no answer, failOpen', provider: 'hastyOpen', http: null },
  { name: 'nobody listens', provider: 'nobody' },
  { name: 'nobody listens, failOpen', provider: 'nobodyOpen' },
  { name: 'a denial of 500,000 bytes', provider: 'http', http: { status: 403, body: 'x'.repeat(500_000) } },
  // === gRPC: the message
  {
    name: 'fields of the message',
    provider: 'grpc',
    path: '/a/b?x=1&y',
    fields: [
      'x-a: 1',
      'X-A: 2',
      'authorization: Bearer t',
      'cookie: a=b',
      'cookie: c=d',
      'x-envoy-downstream-service-cluster: svc',
      'x-empty:',
      'x-envoy-auth-partial-body: true',
    ],
  },
  {
    name: 'bytes that are no UTF-8 in the message',
    provider: 'grpc',
    fields: ['x-a: a\xff\xc3\xa9\xe2\x82z', 'x-b: \xed\xa0\x80\xf0\x9f\x98\x80\xc0\x80\xf4\x90\x80\x80'],
  },
  { name: 'POST in the message', provider: 'grpc', method: 'POST', body: 'hello' },
  { name: 'a text body', provider: 'grpcBody', method: 'POST', body: 'a\xff\xc3\xa9z\x00\n' },
  { name: 'a part of a text body', provider: 'grpcBody', method: 'POST', body: '012345678\xc3\xa9a' },
  { name: 'no body in the message', provider: 'grpcBody', method: 'POST', body: '' },
  { name: 'a packed body', provider: 'grpcPacked', method: 'POST', body: 'a\xff\xc3\xa9z\x00\n' },
  { name: 'who is on both ends', provider: 'mtls' },
  // === gRPC: permissions
  {
    name: 'fields set, appended, removed',
    provider: 'grpc',
    fields: before,
    grpc: ok({
      headers: [
        h('x-up', 'def'),
        h('X-Multi', 'app', append),
        h('x-new', 'app', append),
        h('x-new2', 'n1'),
        h('x-new2', 'n2'),
      ],
      headers_to_remove: ['x-gone', 'Cookie', ':path', 'host', 'x-new3'],
    }),
  },
  {
    name: 'fields by action',
    provider: 'grpc',
    fields: before,
    grpc: ok({
      headers: [
        h('x-up', 'over', overwrite),
        h('x-multi', 'absent', action(1)),
        h('x-2', 'ow', action(2)),
        h('x-3', 'owe', action(3)),
        h('cookie', 'owe', action(3)),
        h('x-9', 'inv', action(9)),
      ],
    }),
  },
  {
    name: 'in what order',
    provider: 'grpc',
    fields: before,
    grpc: ok({
      headers: [
        h('x-1', 'a'),
        h('x-1', 'b', action(1)),
        h('x-1', 'c', append),
        h('x-up', 's', action(2)),
        h('x-up', 't', append),
        h('x-up', 'u'),
        h('x-both', 'q'),
        h('x-empty', ''),
        h('x-multi', '', overwrite),
      ],
      headers_to_remove: ['x-both'],
    }),
  },
  {
    name: 'values as they are',
    provider: 'grpc',
    grpc: ok({
      headers: [
        { header: { key: 'x-raw', raw_value: 'r' } },
        h('X-Sp', ' a b '),
        h('x-u', 'é'),
        h('', 'x'),
        {},
      ],
      headers_to_remove: [''],
    }),
  },
  {
    name: 'fields of the answer',
    provider: 'grpc',
    grpc: ok({
      response_headers_to_add: [
        h('x-dup', 'def'),
        h('x-r', 'r1'),
        h('x-r', 'r2'),
        h('x-ra', 'a1', append),
        h('x-ra', 'a2', append),
        h('x-app', 'set', overwrite),
        h('x-u', 'é'),
      ],
    }),
  },
  {
    name: 'fields of the answer by action',
    provider: 'grpc',
    grpc: ok({
      response_headers_to_add: [
        h('x-dup', 'absent', action(1)),
        h('x-1', 'absent', action(1)),
        h('x-app', 'owe', action(3)),
        h('x-2', 'owe', action(3)),
        h('set-cookie', 'ow', action(2)),
        h('x-9', 'inv', action(9)),
        h('x-dup', 'f', overwrite),
        h('x-ra', 'a', append),
      ],
    }),
  },
  { name: 'a new target', provider: 'grpc', path: '/old?a', grpc: ok({ headers: [h(':path', '/new?z')] }) },
  {
    name: 'query parameters set and removed',
    provider: 'grpc',
    path: '/p?a=1&a=2&gone=3&b%20=4&keep=%41&c&d=&&=x&e=f=g&',
    grpc: ok({
      query_parameters_to_set: [
        { key: 'new', value: '1&2' },
        { key: 'a', value: '' },
      ],
      query_parameters_to_remove: ['gone', 'b%20'],
    }),
  },
  {
    name: 'a query parameter of a target without query',
    provider: 'grpc',
    path: '/p',
    grpc: ok({ query_parameters_to_set: [{ key: 'a', value: '1' }] }),
  },
  {
    name: 'names of query parameters sort by bytes',
    provider: 'grpc',
    path: '/p?z=1&B=2&b=3&_=4&%41=5&0=1',
    grpc: ok({ query_parameters_to_set: [{ key: 'a', value: '1' }] }),
  },
  {
    name: 'a question mark in the query',
    provider: 'grpc',
    path: '/p?x?y=1',
    grpc: ok({
      query_parameters_to_set: [
        { key: 'a', value: '1' },
        { key: 'a', value: '2' },
        { key: '', value: '2' },
      ],
    }),
  },
  {
    name: 'the last query parameter removed',
    provider: 'grpc',
    path: '/p?a=1',
    grpc: ok({ query_parameters_to_remove: ['a'] }),
  },
  {
    name: 'a target and its query',
    provider: 'grpc',
    path: '/p?a=1',
    grpc: ok({ headers: [h(':path', '/new?b=1&a=1')], query_parameters_to_remove: ['a'] }),
  },
  // === gRPC: denials and errors
  { name: 'an empty message', provider: 'grpc', grpc: { message: {} } },
  {
    name: 'OK with a denial',
    provider: 'grpc',
    grpc: { message: { status: {}, denied_response: { status: { code: 401 }, body: 'x' } } },
  },
  {
    name: 'a denial with a permission',
    provider: 'grpc',
    grpc: { message: { status: { code: 7 }, ok_response: {} } },
  },
  { name: 'a denial without more', provider: 'grpcOpen', grpc: denied({}) },
  {
    name: 'a denial with everything',
    provider: 'grpc',
    grpc: denied({
      status: { code: 401 },
      headers: [
        h('www-authenticate', 'Basic'),
        h('set-cookie', 'a'),
        h('set-cookie', 'b'),
        h('x-a', 'a', append),
        h('x-n', 'n', overwrite),
        h('x-1', 'abs', action(1)),
        h('x-2', 'ow', action(2)),
        h('x-3', 'owe', action(3)),
        h('x-9', 'inv', action(9)),
        h('Content-Type', 'application/json'),
        h('x-empty', ''),
      ],
      body: '{"a":1}',
    }),
  },
  { name: 'a denial with text', provider: 'grpc', grpc: denied({ body: 'é' }) },
  {
    name: 'a denial that frames itself',
    provider: 'grpc',
    grpc: denied({
      headers: [
        h('transfer-encoding', 'chunked'),
        h('connection', 'close'),
        h('content-length', '99'),
        h('x-1', 'v'),
        h('x-1', 'w'),
      ],
      body: 'body',
    }),
  },
  ...[200, 204, 304, 500, 503, 599].map(
    (code): Case => ({
      name: `a denial with ${code}`,
      provider: 'grpcOpen',
      grpc: denied({ status: { code } }),
    }),
  ),
  ...(['grpc', 'grpcOpen', 'grpcStatus'] as const).flatMap((provider): Case[] => [
    {
      name: `an error of its own, ${provider}`,
      provider,
      grpc: {
        message: {
          status: { code: 13 },
          error_response: { status: { code: 502 }, headers: [h('x-err', '1')], body: 'err' },
        },
      },
    },
    {
      name: `an error without status, ${provider}`,
      provider,
      grpc: {
        message: { status: { code: 13 }, error_response: { headers: [h('x-err', '1')], body: 'err' } },
      },
    },
    {
      name: `an error with status OK, ${provider}`,
      provider,
      grpc: { message: { error_response: { body: 'err' } } },
    },
    { name: `gRPC's own status, ${provider}`, provider, grpc: { grpcStatus: 7 } },
    { name: `no gRPC, ${provider}`, provider, grpc: { httpStatus: 403 } },
    { name: `garbage, ${provider}`, provider, grpc: { bytes: Buffer.from('ffffff', 'hex') } },
    { name: `a message cut off, ${provider}`, provider, grpc: { raw: Buffer.from([0, 0, 0, 0, 9, 1]) } },
    { name: `no message, ${provider}`, provider, grpc: { raw: Buffer.alloc(0) } },
    {
      name: `a body that is no UTF-8, ${provider}`,
      provider,
      grpc: { bytes: Buffer.from('0a02080712041a02c328', 'hex') },
    },
  ]),
  { name: 'no answer over gRPC', provider: 'grpcHasty', grpc: null },
];
