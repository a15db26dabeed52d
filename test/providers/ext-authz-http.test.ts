/** External authorization over HTTP: what the provider is sent, and what becomes of its answers. */
import { type AddressInfo, createServer } from 'node:net';
import t from 'tap';
import { createExtAuthz } from '../../providers/ext-authz.ts';
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
import { type HttpReply, httpProvider, type SeenRequest } from './check-server.ts';

const server = await httpProvider(t);
const connect = reach(() => server.port);
const extAuthz = createExtAuthz(connect);
t.teardown(() => extAuthz.close());
t.beforeEach(() => {
  server.seen.length = 0;
  server.answer = () => ({ status: 200 });
});

/** What Envoy's own connection handling sends along in each check. */
const HOP = new Set(['connection', 'x-envoy-internal', 'x-envoy-expected-rq-timeout-ms']);

function told({ method, path, fields, body }: SeenRequest): string {
  const lines = fields.filter(([name]) => !HOP.has(name)).map(([name, value]) => `${name}: ${value}`);
  return [`${method} ${path}`, ...lines.sort(), body].join('\n').trim();
}

t.test('what the provider is sent', async (t) => {
  const body = (text: string, more: Partial<HttpPart> = {}): Partial<HttpPart> => ({
    method: 'POST',
    body: Buffer.from(text, 'latin1'),
    bodySize: text.length,
    ...more,
  });
  const requestBody = { maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true };
  const cases: readonly (readonly [
    string,
    Partial<HttpPart>,
    Parameters<typeof provider>[0],
    readonly string[],
  ])[] = [
    [
      'method, target, host and authorization, nothing else',
      {
        path: '/a/b?x=1&y',
        fields: fieldsOf('x-a: 1', 'authorization: Bearer t', 'cookie: a=b', 'host: orders.shop'),
      },
      {},
      ['GET /a/b?x=1&y', 'authorization: Bearer t', 'host: orders.shop'],
    ],
    ['HEAD', { method: 'HEAD' }, {}, ['HEAD /', 'host: orders.shop']],
    [
      'no body unless asked for',
      { method: 'POST', bodySize: 5 },
      {},
      ['POST /', 'content-length: 0', 'host: orders.shop'],
    ],
    [
      'pathPrefix goes in front',
      { path: '/a?b' },
      { pathPrefix: '/check' },
      ['GET /check/a?b', 'host: orders.shop'],
    ],
    [
      'listed fields by exact name, prefix and suffix; one line a name',
      {
        fields: fieldsOf('x-a: 1', 'X-A: 2', 'x-prefix: p', 'my-suf: s', 'x-other: no', 'content-length: 3'),
      },
      { includeRequestHeadersInCheck: ['X-a', 'x-Pre*', '*-SUF', 'content-length'] },
      ['GET /', 'host: orders.shop', 'my-suf: s', 'x-a: 1,2', 'x-prefix: p'],
    ],
    [
      'added fields win over the request’s; one without value is not sent',
      { fields: fieldsOf('x-over: client') },
      {
        includeRequestHeadersInCheck: ['x-over'],
        includeAdditionalHeadersInCheck: new Map([
          ['X-Over', 'ours'],
          ['x-fixed', 'é'],
          ['x-none', ''],
        ]),
      },
      ['GET /', 'host: orders.shop', 'x-fixed: Ã©', 'x-over: ours'],
    ],
    [
      'fields of the connection are not told, even where listed',
      {
        fields: fieldsOf(
          'expect: 100-continue',
          'transfer-encoding: chunked',
          'upgrade: x',
          'keep-alive: 5',
          'te: a',
        ),
      },
      { includeRequestHeadersInCheck: ['e*', 't*', 'u*', 'k*'] },
      ['GET /', 'host: orders.shop', 'te: a'],
    ],
    [
      'what is no UTF-8 in a field is replaced byte by byte',
      { fields: fieldsOf('authorization: a\xff\xc3\xa9\xe2\x82z\xed\xa0\x80\xc0\x80') },
      {},
      ['GET /', 'authorization: a!\xc3\xa9!!z!!!!!', 'host: orders.shop'],
    ],
    [
      'the body as it is, whole',
      body('a\xff\xc3\xa9z'),
      { requestBody },
      [
        'POST /',
        'content-length: 5',
        'host: orders.shop',
        'x-envoy-auth-partial-body: false',
        'a\xff\xc3\xa9z',
      ],
    ],
    [
      'the body in part; the downstream’s own mark is not told',
      {
        ...body('0123456789', { bodyTruncated: true, bodySize: 15 }),
        fields: fieldsOf('x-envoy-auth-partial-body: false'),
      },
      { requestBody },
      ['POST /', 'content-length: 10', 'host: orders.shop', 'x-envoy-auth-partial-body: true', '0123456789'],
    ],
    ['an empty body', body(''), { requestBody }, ['POST /', 'content-length: 0', 'host: orders.shop']],
  ];
  for (const [name, request, settings, expected] of cases) {
    server.seen.length = 0;
    t.equal(words(await extAuthz.check(provider(settings), check(request), NEVER)), 'allowed', name);
    t.same(server.seen.map(told), [expected.join('\n')], name);
  }
});

t.test('what becomes of its answer', async (t) => {
  const all = [
    'x-up',
    'new',
    'x-multi',
    '1',
    'x-multi',
    '2',
    'set-cookie',
    'a',
    'set-cookie',
    'b',
    'x-deny',
    'd',
    'location',
    '/l',
    'www-authenticate',
    'Basic',
  ];
  const lists = {
    headersToUpstreamOnAllow: ['x-up', 'X-MULTI', 'x-lost'],
    headersToDownstreamOnAllow: ['set-*'],
    headersToDownstreamOnDeny: ['*-deny'],
  };
  const remove = ['x-envoy-auth-headers-to-remove', 'x-gone, Cookie ,,:path,host'];
  const cases: readonly (readonly [string, HttpReply, Parameters<typeof provider>[0], string])[] = [
    ['200', { status: 200, fields: all, body: 'ignored' }, {}, 'allowed'],
    [
      '200 with lists: the last of one name is set, every one is added to the answer',
      { status: 200, fields: all },
      lists,
      'allowed x-up=new x-multi=2 answer:+set-cookie=a answer:+set-cookie=b',
    ],
    ['fields to remove need no list', { status: 200, fields: remove }, {}, 'allowed -x-gone -cookie'],
    [
      'what is set and removed is removed',
      { status: 200, fields: ['x-up', '1', 'x-envoy-auth-headers-to-remove', 'x-up'] },
      lists,
      'allowed -x-up',
    ],
    [
      'what frames a message is never set',
      { status: 200, fields: ['content-length', '3', 'te', 'trailers', 'host', 'other'], body: 'abc' },
      { headersToUpstreamOnAllow: ['c*', 't*', 'h*'], headersToDownstreamOnAllow: ['c*', 't*'] },
      'allowed',
    ],
    ['an empty value is set', { status: 200, fields: ['x-up', ''] }, lists, 'allowed x-up='],
    ['bytes beyond ASCII are kept', { status: 200, fields: ['x-up', 'a\xff'] }, lists, 'allowed x-up=a\xff'],
    [
      '401 without list: every field',
      { status: 401, fields: [...all, 'content-type', 'text/html'], body: 'no' },
      {},
      'denied 401 x-up=new x-multi=1 +x-multi=2 set-cookie=a +set-cookie=b x-deny=d location=/l www-authenticate=Basic content-type=text/html "no"',
    ],
    [
      '401 with list: what it names, location and www-authenticate',
      { status: 401, fields: [...all, 'content-type', 'text/html'], body: 'no' },
      lists,
      'denied 401 x-deny=d location=/l www-authenticate=Basic "no"',
    ],
    [
      'fields with one place only are joined; a type needs a body',
      {
        status: 403,
        fields: ['location', '/a', 'location', '', 'location', '/b', 'content-type', 'text/html'],
      },
      {},
      'denied 403 location=/a,/b ""',
    ],
    ['201 is no 200', { status: 201, body: 'b' }, lists, 'denied 201 "b"'],
    [
      '302 is not followed',
      { status: 302, fields: ['location', '/login'] },
      lists,
      'denied 302 location=/login ""',
    ],
    ['204', { status: 204 }, lists, 'denied 204 ""'],
    ['429', { status: 429 }, lists, 'denied 429 ""'],
    ['a status nobody knows', { status: 600 }, lists, 'denied 600 ""'],
    ['500 is no answer', { status: 500 }, lists, 'failed: it answered 500'],
    ['599 is no answer', { status: 599 }, lists, 'failed: it answered 599'],
    ['the same where it fails open', { status: 503 }, { failOpen: true }, 'failed: it answered 503'],
    ['an answer as long as allowed', { status: 403, body: 'x'.repeat(3) }, lists, 'denied 403 "xxx"'],
    [
      'one too long',
      { status: 403, body: 'x'.repeat(1_048_577) },
      lists,
      'failed: its answer is longer than 1048576 bytes',
    ],
    [
      'a head too long',
      { status: 200, fields: ['x-up', 'x'.repeat(70_000)] },
      lists,
      'failed: Headers Overflow Error',
    ],
  ];
  for (const [name, reply, settings, expected] of cases) {
    server.answer = () => reply;
    const answer = await extAuthz.check(provider(settings), check(), NEVER);
    t.equal(words(answer), expected, name);
  }
});

t.test('what is no HTTP answer fails', async (t) => {
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['garbage', 'SSH-2.0-x\r\n', /^failed: .*(?:Expected HTTP|Parse Error)/],
    [
      'cut off',
      'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc',
      /^failed: other side closed|^failed: .*terminated/,
    ],
    [
      'switching protocols',
      'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n',
      /^failed: /,
    ],
    ['closed at once', '', /^failed: other side closed/],
    ['only an interim answer', 'HTTP/1.1 100 Continue\r\n\r\n', /^failed: /],
  ];
  for (const [name, bytes, expected] of cases) {
    const raw = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => socket.end(bytes, 'latin1'));
    });
    await new Promise<void>((resolve) => raw.listen(0, '127.0.0.1', resolve));
    const client = createExtAuthz(reach(() => (raw.address() as AddressInfo).port));
    t.match(words(await client.check(provider(), check(), NEVER)), expected, name);
    client.close();
    raw.close();
  }
});

t.test('over a stream that is no socket', async (t) => {
  const client = createExtAuthz(reachThroughStreams(server.port));
  for (let i = 0; i < 3; i++) t.equal(words(await client.check(provider(), check(), NEVER)), 'allowed');
  client.close();
});

t.test('a TCP connection cannot be asked about', async (t) => {
  const answer = await extAuthz.check(provider(), check({}, { request: null }), NEVER);
  t.equal(words(answer), 'denied 403 "" for a TCP connection cannot be checked over HTTP');
});

t.test('a question that cannot be written denies, failOpen or not', async (t) => {
  const cases: readonly (readonly [string, Partial<HttpPart>])[] = [
    ['a target that is no path', { method: 'OPTIONS', path: '*' }],
    ['a target with a control character', { path: '/a\0' }],
    ['a method that is none', { method: 'a b' }],
    ['a method that asks for a tunnel', { method: 'CONNECT' }],
    ['a field that would end its line', { fields: fieldsOf('authorization: a\0b') }],
  ];
  for (const [name, request] of cases) {
    const asking = provider({ failOpen: true, statusOnError: 503 });
    t.match(words(await extAuthz.check(asking, check(request), NEVER)), /^denied 503 "" for ./, name);
  }
  t.equal(server.seen.length, 0);
  t.equal(words(await extAuthz.check(provider(), check(), NEVER)), 'allowed', 'others go on');
});

t.test(
  'no check waits for another: as many connections as checks at once, kept for those after',
  async (t) => {
    const many = reach(() => server.port);
    const client = createExtAuthz(many);
    for (let round = 0; round < 2; round++) {
      server.seen.length = 0;
      const answers = await Promise.all(
        Array.from({ length: 200 }, (_, i) => client.check(provider(), check({ path: `/${i}` }), NEVER)),
      );
      t.same(new Set(answers.map(words)), new Set(['allowed']));
      t.equal(new Set(server.seen.map(({ path }) => path)).size, 200);
      t.equal(many.asked.length, 200);
    }
    client.close();
  },
);

t.test('a connection that the server closed when it was not used is not the last', async (t) => {
  const many = reach(() => server.port);
  const client = createExtAuthz(many);
  for (let i = 0; i < 50; i++) {
    server.answer = () => ({ status: 200, fields: i % 2 === 0 ? ['connection', 'close'] : [] });
    const method = i % 3 === 0 ? 'HEAD' : 'POST';
    t.equal(words(await client.check(provider(), check({ method }), NEVER)), 'allowed');
  }
  client.close();
});
