/** External authorization over gRPC: the message the provider gets, and what becomes of its answers. */
import { once } from 'node:events';
import { constants } from 'node:http2';
import t from 'tap';
import { createExtAuthz } from '../../providers/ext-authz.ts';
import { until, within } from '../e2e/harness/wait.ts';
import {
  check,
  fieldsOf,
  type HttpPart,
  NEVER,
  provider,
  reach,
  reachThroughStreams,
  words,
} from './check-helper.ts';
import type { Message } from './check-protocol.ts';
import { type GrpcReply, grpcProvider } from './check-server.ts';

const server = await grpcProvider(t);
const connect = reach(() => server.port);
const NOW = 1_795_252_159_649;
const extAuthz = createExtAuthz(connect, () => NOW);
t.teardown(() => extAuthz.close());
t.beforeEach(() => {
  server.seen.length = 0;
  server.answer = () => ({ message: {} });
});

const grpc = (more: Parameters<typeof provider>[0] = {}) => provider({ protocol: 'grpc', ...more });

/** Of the one question asked. */
function seenAttributes(): { request: { http: Message }; source: Message; destination: Message } {
  const [seen] = server.seen;
  if (seen === undefined) throw new Error('nothing was asked');
  return seen.message.attributes as ReturnType<typeof seenAttributes>;
}

const address = (ip: string, port: number): Message => ({
  address: { socket_address: { address: ip, port_value: port } },
});
const source = { ...address('10.0.0.1', 40_000), principal: 'spiffe://cluster.local/ns/shop/sa/web' };
const destination = { ...address('10.0.0.2', 8080), principal: 'spiffe://cluster.local/ns/shop/sa/orders' };

/** The HTTP part of what Envoy sends for `GET /` without fields. */
const plain = {
  method: 'GET',
  headers: { ':authority': 'orders.shop', ':method': 'GET', ':path': '/', ':scheme': 'https' },
  path: '/',
  host: 'orders.shop',
  scheme: 'https',
  protocol: 'HTTP/1.1',
};

t.test('the message of a request', async (t) => {
  t.equal(words(await extAuthz.check(grpc({ timeout: 1500 }), check(), NEVER)), 'allowed');
  const [seen] = server.seen;
  if (seen === undefined) throw new Error('nothing was asked');
  const { id, ...http } = (seen.message as { attributes: { request: { http: { id: string } } } }).attributes
    .request.http;
  t.match(id, /^\d{10,20}$/);
  t.same(http, plain);
  t.match(seen.message, {
    attributes: { source, destination, request: { time: { seconds: 1_795_252_159, nanos: 649_000_000 } } },
  });
  t.same(Object.keys(seen.message.attributes as object), [
    'source',
    'destination',
    'request',
    'metadata_context',
    'route_metadata_context',
  ]);
  t.match(seen.headers, {
    ':method': 'POST',
    ':path': '/envoy.service.auth.v3.Authorization/Check',
    ':authority': 'authz.example',
    te: 'trailers',
    'content-type': 'application/grpc',
    'grpc-timeout': '1500m',
  });
});

t.test('the HTTP part of the message', async (t) => {
  const headers = (more: Message, left: readonly string[] = []): Message => {
    const all: Message = { ...plain.headers, ...more };
    for (const name of left) delete all[name];
    return all;
  };
  const requestBody = { maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: false };
  const packed = { ...requestBody, packAsBytes: true };
  const body = (text: string, more: Partial<HttpPart> = {}) => ({
    body: Buffer.from(text, 'latin1'),
    ...more,
  });
  const cases: readonly (readonly [string, Partial<HttpPart>, Parameters<typeof provider>[0], Message])[] = [
    [
      'every field, those of one name joined, as UTF-8',
      {
        fields: fieldsOf(
          'X-A: 1',
          'x-a: 2',
          'cookie: a=b',
          'cookie: c=d',
          'x-empty:',
          'host: x',
          'x-b: a\xff\xc3\xa9',
        ),
      },
      {},
      { headers: headers({ 'x-a': '1,2', cookie: 'a=b,c=d', 'x-empty': '', 'x-b': 'a!é' }) },
    ],
    [
      'no list narrows the fields',
      { fields: fieldsOf('x-a: 1') },
      { includeRequestHeadersInCheck: ['x-b'] },
      { headers: headers({ 'x-a': '1' }) },
    ],
    [
      'a length, but no body nor size, unless asked for',
      { method: 'POST', bodySize: 5, fields: fieldsOf('content-length: 5') },
      {},
      { method: 'POST', headers: headers({ ':method': 'POST', 'content-length': '5' }) },
    ],
    [
      'the body as text',
      body('a\xff\xc3\xa9z\x00\n', { bodySize: 7 }),
      { requestBody },
      { headers: headers({ 'x-envoy-auth-partial-body': 'false' }), size: 7, body: 'a!éz\x00\n' },
    ],
    [
      'the body as bytes',
      body('a\xff\xc3\xa9z\x00\n', { bodySize: 7 }),
      { requestBody: packed },
      {
        headers: headers({ 'x-envoy-auth-partial-body': 'false' }),
        size: 7,
        raw_body: 'a\xff\xc3\xa9z\x00\n',
      },
    ],
    [
      'a part of the body, cut inside a character',
      body('012345678\xc3', { bodySize: 12, bodyTruncated: true }),
      { requestBody },
      { headers: headers({ 'x-envoy-auth-partial-body': 'true' }), size: 12, body: '012345678!' },
    ],
    [
      'a chunked body',
      body('abc'),
      { requestBody },
      { headers: headers({ 'x-envoy-auth-partial-body': 'false' }), size: 3, body: 'abc' },
    ],
    ['an empty body', body('', { bodySize: 0 }), { requestBody }, {}],
    [
      'method, target, host, scheme, version',
      { method: 'PUT', path: '/a?b=%41', host: 'Shop:8080', scheme: 'http', protocol: 'HTTP/1.0' },
      {},
      {
        method: 'PUT',
        path: '/a?b=%41',
        host: 'Shop:8080',
        scheme: 'http',
        protocol: 'HTTP/1.0',
        headers: { ':authority': 'Shop:8080', ':method': 'PUT', ':path': '/a?b=%41', ':scheme': 'http' },
      },
    ],
  ];
  for (const [name, request, settings, expected] of cases) {
    server.seen.length = 0;
    await extAuthz.check(grpc(settings), check(request), NEVER);
    const { id: _, ...http } = seenAttributes().request.http;
    t.same(http, { ...plain, ...expected }, name);
  }
});

t.test('who is on both ends', async (t) => {
  const { connection } = check();
  const plaintext = { ...connection, peer: null, sni: null };
  const cases: readonly (readonly [string, Parameters<typeof check>, Message])[] = [
    [
      'plaintext',
      [{}, { connection: plaintext, ownIdentity: null }],
      { source: address('10.0.0.1', 40_000), destination: address('10.0.0.2', 8080) },
    ],
    [
      'the original client',
      [{}, { connection: { ...connection, remoteIp: '192.0.2.7' } }],
      { source: { ...source, ...address('192.0.2.7', 40_000) }, destination },
    ],
    [
      'IPv6',
      [{}, { connection: { ...connection, remoteIp: '2001:db8::1' } }],
      { source: { ...source, ...address('2001:db8::1', 40_000) }, destination },
    ],
    [
      'the source’s own name for itself',
      [{ fields: fieldsOf('x-envoy-downstream-service-cluster: web') }],
      { source: { ...source, service: 'web' }, destination },
    ],
    [
      'a TCP connection',
      [{}, { request: null }],
      { source, destination: { ...destination, service: 'outbound_.80_._.orders.shop' } },
    ],
    [
      'a TCP connection without server name',
      [{}, { request: null, connection: plaintext, ownIdentity: null }],
      { source: address('10.0.0.1', 40_000), destination: address('10.0.0.2', 8080) },
    ],
  ];
  for (const [name, [request, whole], expected] of cases) {
    server.seen.length = 0;
    await extAuthz.check(grpc(), check(request, whole), NEVER);
    const { source: from, destination: to } = seenAttributes();
    t.same({ source: from, destination: to }, expected, name);
  }
});

const h = (key: string, value: string, more: Message = {}): Message => ({ header: { key, value }, ...more });
const append = { append: { value: true } };
const overwrite = { append: { value: false } };
const action = (number: number) => ({ append_action: number });

t.test('what a permission changes', async (t) => {
  const request = {
    path: '/p?z=1&a=1&b=2&a=3',
    fields: fieldsOf('x-up: old', 'x-up: older', 'x-one: 1', 'cookie: c'),
  };
  const headers = (...list: readonly Message[]): Message => ({ headers: list });
  const onAnswer = (...list: readonly Message[]): Message => ({ response_headers_to_add: list });
  const cases: readonly (readonly [string, Message, string])[] = [
    ['nothing', {}, 'allowed'],
    [
      'a field without append is set, the last one counts',
      headers(h('X-Up', 'a'), h('x-up', 'b')),
      'allowed x-up=b',
    ],
    [
      'whatever its action',
      headers(h('x-up', 'a', action(1)), h('x-new', 'b', action(3)), h('x-3', 'c', action(9))),
      'allowed x-up=a x-new=b x-3=c',
    ],
    ['append false sets too', headers(h('x-up', 'a', overwrite)), 'allowed x-up=a'],
    ['append joins to the first there is', headers(h('x-up', 'a', append)), 'allowed x-up=old,a +x-up=older'],
    ['append joins cookies in their own way', headers(h('cookie', 'd', append)), 'allowed cookie=c; d'],
    ['append of nothing changes nothing', headers(h('x-one', '', append)), 'allowed x-one=1'],
    ['append where nothing is does nothing', headers(h('x-new', 'a', append)), 'allowed'],
    [
      'setting comes before appending',
      headers(h('x-up', 'b', append), h('x-up', 'a'), h('x-new', 'd', append), h('x-new', 'c')),
      'allowed x-up=a,b x-new=c,d',
    ],
    ['an empty value', headers(h('x-up', '')), 'allowed x-up='],
    ['space around a value goes', headers(h('x-up', ' a b\t')), 'allowed x-up=a b'],
    ['UTF-8 goes out as its bytes', headers(h('x-up', 'é')), 'allowed x-up=Ã©'],
    ['raw_value is not heeded', headers({ header: { key: 'x-up', raw_value: 'r' } }), 'allowed x-up='],
    [
      'removing comes last',
      {
        ...headers(h('x-up', 'a'), h('x-b', 'b')),
        headers_to_remove: ['X-Up', 'cookie', ':path', 'host', ''],
      },
      'allowed x-b=b -x-up -cookie',
    ],
    [
      'framing and addressee stay',
      headers(
        h('content-length', '9'),
        h('Transfer-Encoding', 'chunked'),
        h('host', 'x'),
        h(':authority', 'x'),
        h(':method', 'PUT'),
        h('connection', 'x'),
      ),
      'allowed',
    ],
    ['the target', headers(h(':path', '/new?x')), 'allowed path=/new?x'],
    [
      'fields of the answer, by action',
      onAnswer(
        h('x-1', 'exists', action(3)),
        h('x-2', 'absent', action(1)),
        h('x-3', 'set', action(2)),
        h('x-4', 'add'),
        h('x-5', 'add', append),
        h('x-6', 'set', overwrite),
        h('x-7', 'no', action(9)),
      ),
      'allowed answer:+x-4=add answer:+x-5=add answer:x-3=set answer:x-6=set answer:+x-2=absent if absent answer:x-1=exists if present',
    ],
    [
      'a parameter of the query: sorted, nothing decoded',
      {
        query_parameters_to_set: [
          { key: 'n', value: '%20&' },
          { key: 'a', value: 'x' },
        ],
      },
      'allowed path=/p?a=x&b=2&n=%20&&z=1',
    ],
    ['a parameter removed', { query_parameters_to_remove: ['a', 'none'] }, 'allowed path=/p?b=2&z=1'],
    [
      'the whole query removed',
      {
        query_parameters_to_set: [{ key: 'q', value: '1' }],
        query_parameters_to_remove: ['a', 'b', 'z', 'q'],
      },
      'allowed path=/p',
    ],
    [
      'a parameter of a new target',
      { ...headers(h(':path', '/new?c&&=x&d=1=2&')), query_parameters_to_set: [{ key: 'q', value: '1' }] },
      'allowed path=/new?=&=x&c=&d=1=2&q=1',
    ],
    ['a value that would end its line', headers(h('x-up', 'a\r\nx-admin: 1')), 'denied 503 ""'],
    ['a name that is none', headers(h('bad name', 'a')), 'denied 503 ""'],
    ['a field of the answer that would end its line', onAnswer(h('x-up', 'a\nb')), 'denied 503 ""'],
    ['a target that is none', headers(h(':path', '/a b')), 'denied 503 ""'],
    [
      'a parameter that would end the target',
      { query_parameters_to_set: [{ key: 'a', value: 'x HTTP/1.1' }] },
      'denied 503 ""',
    ],
  ];
  for (const [name, ok_response, expected] of cases) {
    server.answer = () => ({ message: { status: {}, ok_response } });
    t.equal(words(await extAuthz.check(grpc({ failOpen: true }), check(request), NEVER)), expected, name);
  }
});

t.test('what becomes of its answer', async (t) => {
  const denied = (denied_response: Message, code = 7): GrpcReply => ({
    message: { status: { code }, denied_response },
  });
  const error = { status: { code: 502 }, headers: [h('x-err', '2', append), h('x-err', '1')], body: 'err' };
  const cases: readonly (readonly [string, GrpcReply, Parameters<typeof provider>[0], string])[] = [
    ['no status is OK', { message: {} }, {}, 'allowed'],
    ['OK beside a denial is OK', { message: { status: {}, denied_response: { body: 'x' } } }, {}, 'allowed'],
    ['a denial without more', { message: { status: { code: 7 } } }, {}, 'denied 403 ""'],
    ['any code but OK denies', { message: { status: { code: 16 }, ok_response: {} } }, {}, 'denied 403 ""'],
    ['a denial never fails open', denied({}), { failOpen: true, statusOnError: 503 }, 'denied 403 ""'],
    [
      'status, fields and body; none that would be appended',
      denied({
        status: { code: 401 },
        headers: [
          h('WWW-Authenticate', 'Basic'),
          h('set-cookie', 'a'),
          h('set-cookie', 'b'),
          h('x-a', 'a', append),
          h('x-n', 'n', overwrite),
          h('x-1', 'v', action(3)),
          h(':status', '402'),
          h('content-length', '99'),
        ],
        body: '{"é":1}',
      }),
      {},
      'denied 401 www-authenticate=Basic set-cookie=a +set-cookie=b x-n=n x-1=v "{\\"é\\":1}"',
    ],
    [
      'a field that would end its line is left out',
      denied({ headers: [h('x-a', 'a\r\nb: c'), h('x-b', 'b')] }),
      {},
      'denied 403 x-b=b ""',
    ],
    ['a status of 500', denied({ status: { code: 500 } }), { failOpen: true }, 'denied 500 ""'],
    ['a status that ends nothing', denied({ status: { code: 100 } }), {}, 'denied 403 ""'],
    ['a status that is none', denied({ status: { code: 9999 } }), {}, 'denied 403 ""'],
    [
      'an error of its own, closed',
      { message: { status: { code: 13 }, error_response: error } },
      {},
      'denied 502 x-err=1 +x-err=2 "err"',
    ],
    [
      'an error without status',
      { message: { status: { code: 13 }, error_response: { body: 'err' } } },
      { statusOnError: 503 },
      'denied 503 "err"',
    ],
    [
      'an error of its own, open',
      { message: { status: { code: 13 }, error_response: error } },
      { failOpen: true },
      'failed: it answered with an error, code 13',
    ],
    ['gRPC PERMISSION_DENIED is no denial', { grpcStatus: 7 }, {}, 'failed: it answered gRPC status 7'],
    ['HTTP without gRPC', { httpStatus: 403 }, {}, 'failed: it answered HTTP 403 to gRPC'],
    ['no message', { raw: Buffer.alloc(0) }, {}, 'failed: its answer holds no message'],
    [
      'a message cut off',
      { raw: Buffer.from([0, 0, 0, 0, 9, 1]) },
      {},
      'failed: its answer is not one whole message',
    ],
    ['two messages', { raw: Buffer.alloc(10) }, {}, 'failed: its answer is not one whole message'],
    ['a compressed message', { raw: Buffer.from([1, 0, 0, 0, 0]) }, {}, 'failed: its answer is compressed'],
    [
      'a message too long',
      { bytes: Buffer.alloc(1_048_577) },
      {},
      'failed: its answer is longer than 1048576 bytes',
    ],
  ];
  for (const [name, reply, settings, expected] of cases) {
    server.answer = () => reply;
    t.equal(words(await extAuthz.check(grpc(settings), check(), NEVER)), expected, name);
  }
});

t.test('a message that is none fails', async (t) => {
  for (const hex of ['ffffff', '0a', '0a00120f', '0a05', '1a03120101', '12021aff', '12041a02c328', '0800']) {
    server.answer = () => ({ bytes: Buffer.from(hex, 'hex') });
    const answer = words(await extAuthz.check(grpc(), check(), NEVER));
    if (hex === '0800') t.equal(answer, 'allowed', 'a field of another type is passed over');
    else t.match(answer, /^failed: /, hex);
  }
});

t.test('a TCP connection is allowed or denied', async (t) => {
  const tcp = check({}, { request: null });
  server.answer = () => ({ message: { status: {}, ok_response: { headers: [h('x-a', '1')] } } });
  t.equal(words(await extAuthz.check(grpc(), tcp, NEVER)), 'allowed');
  server.answer = () => ({ message: { status: { code: 7 } } });
  t.equal(words(await extAuthz.check(grpc(), tcp, NEVER)), 'denied 403 ""');
});

t.test('over a stream that is no socket', async (t) => {
  const client = createExtAuthz(reachThroughStreams(server.port));
  for (let i = 0; i < 3; i++) t.equal(words(await client.check(grpc(), check(), NEVER)), 'allowed');
  client.close();
});

t.test('no check waits for another: as many connections as the server makes necessary', async (t) => {
  const narrow = await grpcProvider(t, 0, { maxConcurrentStreams: 10 });
  for (const [peer, connections] of [
    [server, 1],
    [narrow, 20],
  ] as const) {
    const many = reach(() => peer.port);
    const client = createExtAuthz(many);
    const all = { answer: () => {}, asked: 0 };
    const asked = new Promise<void>((resolve) => {
      all.answer = resolve;
    });
    // None is answered before all are asked.
    peer.answer = async () => {
      if (++all.asked === 200) all.answer();
      await asked;
      return { message: { status: { code: 7 } } };
    };
    for (let round = 0; round < 2; round++) {
      const answers = await Promise.all(
        Array.from({ length: 200 }, () => client.check(grpc({ failOpen: true }), check(), NEVER)),
      );
      t.same(new Set(answers.map(words)), new Set(['denied 403 ""']));
      t.equal(many.asked.length, connections);
    }
    client.close();
  }
});

t.test('a server that takes one call a connection gets 1024 of them at most', async (t) => {
  const narrow = await grpcProvider(t, 0, { maxConcurrentStreams: 1 });
  const client = createExtAuthz(reach(() => narrow.port));
  t.equal(words(await client.check(grpc(), check(), NEVER)), 'allowed');
  narrow.answer = () => null;
  const downstream = new AbortController();
  const waiting = Array.from({ length: 1024 }, () => client.check(grpc(), check(), downstream.signal));
  t.equal(
    words(await client.check(grpc({ failOpen: true }), check(), NEVER)),
    'denied 403 "" for all 1024 connections to it are busy',
  );
  downstream.abort();
  await Promise.all(waiting);
  client.close();
});

t.test(
  'a server that goes away in good order finishes what it has; the next check takes a new connection',
  async (t) => {
    const leaving = await grpcProvider(t);
    const many = reach(() => leaving.port);
    const client = createExtAuthz(many);
    let release: (reply: GrpcReply) => void = () => undefined;
    const held = new Promise<GrpcReply>((resolve) => {
      release = resolve;
    });
    leaving.answer = () => held;
    const first = client.check(grpc(), check(), NEVER);
    while (leaving.seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
    leaving.answer = () => ({ message: {} });
    // Close sends GOAWAY and waits for the open stream.
    for (const session of leaving.sessions) session.close();
    await until('the second connection', async () => {
      t.equal(words(await client.check(grpc(), check(), NEVER)), 'allowed');
      return many.asked.length === 2;
    });
    release({ message: { status: { code: 7 } } });
    t.equal(words(await first), 'denied 403 ""');
    client.close();
  },
);

t.test('a refused call is made once more, one that failed is not', async (t) => {
  const { NGHTTP2_REFUSED_STREAM, NGHTTP2_INTERNAL_ERROR } = constants;
  const cases: readonly (readonly [readonly number[], number, RegExp])[] = [
    [[NGHTTP2_REFUSED_STREAM], 2, /^allowed$/],
    [[NGHTTP2_REFUSED_STREAM, NGHTTP2_REFUSED_STREAM], 2, /^failed: it refused the call$/],
    [[NGHTTP2_INTERNAL_ERROR], 1, /^failed: .*INTERNAL_ERROR/],
  ];
  for (const [resets, calls, expected] of cases) {
    server.seen.length = 0;
    const left = [...resets];
    server.answer = () => {
      const reset = left.shift();
      return reset === undefined ? { message: {} } : { reset };
    };
    t.match(words(await extAuthz.check(grpc(), check(), NEVER)), expected);
    t.equal(server.seen.length, calls);
  }
});

t.test('a connection on which nothing moves any more is given up', async (t) => {
  const many = reachThroughStreams(server.port);
  const client = createExtAuthz(many);
  t.equal(words(await client.check(grpc(), check(), NEVER)), 'allowed');
  const [first] = many.streams;
  if (first === undefined) throw new Error('no connection');
  many.stall();
  t.match(words(await client.check(grpc({ timeout: 50 }), check(), NEVER)), /^failed: no answer within/);
  if (!first.closed) await within('the connection to be closed', once(first, 'close'));
  t.equal(words(await client.check(grpc(), check(), NEVER)), 'allowed');
  t.equal(many.streams.length, 2);
  client.close();
});
