/** Point 7: a request that is refused or answered early still owns its body (RFC 9112 §9.3, §9.5; RFC 9110 §10.1.1). */
import { type Case, chunked, type Expected, get, HEAD, HOST, OK, post, SMUGGLED, served } from './case.ts';

const ON = ['inbound', 'pair'] as const;
const CLOSED: Expected = { answers: [403], end: 'closed', app: [] };

/** Denied with this body; what follows is a request where the body was read past, and nothing where the connection closed. */
function deniedWith(name: string, send: string): Case {
  return {
    name,
    send: send + get('', '/b'),
    on: ON,
    expect: { answers: [403, 200], end: 'open', app: ['GET /b HTTP/1.1'] },
    or: CLOSED,
  };
}

const refusedBodies: readonly Case[] = [
  deniedWith('a length', post('Content-Length: 5\r\n', 'hello', '/admin')),
  deniedWith(
    'a length, a request for a body',
    post(`Content-Length: ${SMUGGLED.length}\r\n`, SMUGGLED, '/admin'),
  ),
  deniedWith('chunks', chunked('5\r\nhello\r\n0\r\n\r\n', '/admin')),
  deniedWith(
    'chunks, a request for a body',
    chunked(`${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`, '/admin'),
  ),
  deniedWith('chunks with extensions and trailers', chunked('5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\n', '/admin')),
  deniedWith(
    'chunks, a trailer that looks like a request',
    chunked('5\r\nhello\r\n0\r\nX: GET /smuggled HTTP/1.1\r\n\r\n', '/admin'),
  ),
  deniedWith('20,000 bytes', post('Content-Length: 20000\r\n', 'x'.repeat(20_000), '/admin')),
  deniedWith('500,000 bytes', post('Content-Length: 500000\r\n', 'x'.repeat(500_000), '/admin')),
  deniedWith('500,000 bytes in chunks', chunked(`7a120\r\n${'x'.repeat(500_000)}\r\n0\r\n\r\n`, '/admin')),
  deniedWith('a GET with a body', `GET /admin ${HEAD}Content-Length: 5\r\n\r\nhello`),
  {
    name: 'a body that comes behind the refusal',
    send: [
      post('Content-Length: 5\r\n', '', '/admin'),
      { until: 'answers', count: 1 },
      'hello',
      get('', '/b'),
    ],
    on: ON,
    expect: { answers: [403, 200], end: 'open', app: ['GET /b HTTP/1.1'] },
    or: CLOSED,
  },
  {
    name: 'a body that looks like a request and comes behind the refusal',
    send: [
      post(`Content-Length: ${SMUGGLED.length}\r\n`, '', '/admin'),
      { until: 'answers', count: 1 },
      SMUGGLED,
    ],
    on: ON,
    expect: { answers: [403], end: 'open', app: [] },
    or: CLOSED,
  },
  {
    name: 'chunks that come behind the refusal',
    send: [chunked('5\r\nhel', '/admin'), { until: 'answers', count: 1 }, 'lo\r\n0\r\n\r\n', get('', '/b')],
    on: ON,
    expect: { answers: [403, 200], end: 'open', app: ['GET /b HTTP/1.1'] },
    or: CLOSED,
  },
  ...['5\r\nhello!!0\r\n\r\n', 'x\r\n', '5\nhello\r\n0\r\n\r\n', '-1\r\n', '5\r\nhello\r\n0\r\n\n'].map(
    (body): Case => ({
      name: `chunks that break: ${JSON.stringify(body)}`,
      send: chunked(body + SMUGGLED, '/admin'),
      on: ON,
      expect: CLOSED,
      // The outbound sidecar of a pair may find it first.
      or: { answers: [{ status: [400, 403] }], end: 'gone', app: [] },
    }),
  ),
  {
    name: 'a body announced without end is not read without end',
    send: [
      post('Content-Length: 9007199254740991\r\n', 'x'.repeat(300_000), '/admin'),
      { until: 'answers', count: 1 },
      'x'.repeat(1_000_000),
    ],
    on: ON,
    whole: true,
    expect: { answers: [403], end: 'gone', app: [] },
  },
  {
    name: 'chunks without end are not read without end',
    send: [chunked('1\r\nx\r\n'.repeat(100_000), '/admin')],
    on: ON,
    whole: true,
    expect: { answers: [403], end: 'gone', app: [] },
  },
  {
    name: 'a refusal in 1.0 closes',
    send: `POST /admin HTTP/1.0\r\nHost: ${HOST}\r\nContent-Length: 5\r\n\r\nhello${SMUGGLED}`,
    on: ON,
    expect: CLOSED,
  },
  {
    name: 'a refusal and Connection: close',
    send: post('Content-Length: 5\r\nConnection: close\r\n', `hello${SMUGGLED}`, '/admin'),
    on: ON,
    expect: CLOSED,
  },
  {
    name: 'a body cut short behind the refusal',
    send: [post('Content-Length: 5\r\n', 'he', '/admin'), { until: 'answers', count: 1 }, 'FIN'],
    on: ON,
    expect: { answers: [403], end: 'gone', app: [] },
  },
];

const BIG = 400_000;
const TEAPOT = "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nno";

/** The app answers at the head; the body may reach it in part, or whole. */
function answeredEarly(name: string, send: Case['send'], reply = TEAPOT): Case {
  return {
    name,
    send,
    app: [{ at: 'head', steps: [reply] }],
    whole: true,
    expect: { answers: [418], end: 'open', app: [], appCut: true },
    or: { answers: [418], end: 'gone', app: [], appCut: true },
  };
}

const earlyAnswers: readonly Case[] = [
  answeredEarly('a length that is not sent on in full', [
    post(`Content-Length: ${BIG}\r\n`, 'x'.repeat(BIG - 10)),
    { until: 'answers', count: 1 },
    'x'.repeat(10),
  ]),
  answeredEarly('chunks that go on behind the answer', [
    chunked(`5\r\nhello\r\n`),
    { until: 'answers', count: 1 },
    `${'5\r\nworld\r\n'.repeat(1_000)}0\r\n\r\n`,
  ]),
  answeredEarly('a request for the rest of the body', [
    post(`Content-Length: ${SMUGGLED.length + 5}\r\n`, 'hello'),
    { until: 'answers', count: 1 },
    SMUGGLED,
  ]),
  answeredEarly('a request in the rest of the chunks', [
    chunked('5\r\nhello\r\n'),
    { until: 'answers', count: 1 },
    `${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`,
  ]),
  {
    name: 'and a request behind the body',
    send: [
      post('Content-Length: 10\r\n', 'hello', '/a'),
      { until: 'answers', count: 1 },
      `world${get('', '/b')}`,
    ],
    app: [{ at: 'head', steps: [TEAPOT] }],
    expect: { answers: [418, 200], end: 'open', app: ['GET /b HTTP/1.1'], appCut: true },
    or: { answers: [418], end: 'gone', app: [], appCut: true },
  },
  {
    name: 'the body is whole at the app, so the connection may serve again',
    send: post('Content-Length: 5\r\n', 'hello', '/a') + get('', '/b'),
    app: [{ at: 'head', steps: [TEAPOT] }],
    expect: { answers: [418, 200], end: 'open', app: ['POST /a HTTP/1.1', 'GET /b HTTP/1.1'] },
    or: { answers: [418, 200], end: 'open', app: ['GET /b HTTP/1.1'], appCut: true },
  },
  {
    name: 'the app answers, closes, and does not read on',
    send: [
      post(`Content-Length: ${BIG}\r\n`, 'x'.repeat(1_000)),
      { until: 'answers', count: 1 },
      'x'.repeat(BIG - 1_000),
    ],
    app: [
      {
        at: 'head',
        steps: ["HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", 'FIN'],
      },
    ],
    whole: true,
    expect: { answers: [418], end: 'gone', app: [], appCut: true },
    or: { answers: [418], end: 'open', app: [], appCut: true },
  },
  {
    name: 'an answer that begins before the body ends and ends behind it',
    send: [post('Content-Length: 10\r\n', 'hello'), { until: 'heads', count: 1 }, 'world'],
    app: [
      {
        at: 'head',
        steps: ['HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab', { until: 'requests', count: 1 }, 'cd'],
      },
    ],
    expect: { answers: [{ status: 200, body: 'abcd' }], end: 'open', app: [{ body: 'helloworld' }] },
  },
  {
    name: 'a body that breaks behind an early answer is never whole',
    send: [chunked('5\r\nhello\r\n'), { until: 'heads', count: 1 }, `x\r\n${SMUGGLED}`],
    app: [{ at: 'head', steps: [TEAPOT] }],
    expect: { answers: [418], end: 'gone', app: [], appCut: true },
    or: { answers: [400], end: 'gone', app: [], appCut: true },
  },
];

const EXPECTS = 'Expect: 100-continue\r\nContent-Length: 5\r\n';
const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n';

const expectations: readonly Case[] = [
  {
    name: 'the app says 100, then the body goes',
    send: [post(EXPECTS, ''), { until: 'interims', count: 1 }, 'hello'],
    app: [{ at: 'head', steps: [CONTINUE, { until: 'requests', count: 1 }, OK] }],
    expect: { answers: [200], interims: [100], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: 'the same with chunks',
    send: [
      post('Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n', ''),
      { until: 'interims', count: 1 },
      '5\r\nhello\r\n0\r\n\r\n',
    ],
    app: [{ at: 'head', steps: [CONTINUE, { until: 'requests', count: 1 }, OK] }],
    expect: { answers: [200], interims: [100], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: '100-Continue, in another case',
    send: [
      post('Expect: 100-Continue\r\nContent-Length: 5\r\n', ''),
      { until: 'interims', count: 1 },
      'hello',
    ],
    app: [{ at: 'head', steps: [CONTINUE, { until: 'requests', count: 1 }, OK] }],
    expect: { answers: [200], interims: [100], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: 'a downstream that does not wait',
    send: post(EXPECTS, 'hello'),
    app: [{ at: 'head', steps: [CONTINUE, { until: 'requests', count: 1 }, OK] }],
    expect: { answers: [200], interims: [100], end: 'open', app: [{ body: 'hello' }] },
    or: { answers: [200], end: 'open', app: [{ body: 'hello' }] },
  },
  {
    name: 'the app refuses at once, and no body comes',
    send: post(EXPECTS, ''),
    app: [{ at: 'head', steps: ['HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n'] }],
    expect: { answers: [417], end: 'any', app: [], appCut: true },
  },
  {
    name: 'the app refuses at once, and the body comes all the same',
    send: [
      post(`Expect: 100-continue\r\nContent-Length: ${SMUGGLED.length}\r\n`, ''),
      { until: 'answers', count: 1 },
      SMUGGLED,
    ],
    app: [{ at: 'head', steps: ['HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n'] }],
    expect: { answers: [417], end: 'gone', app: [], appCut: true },
    or: { answers: [417], end: 'open', app: [], appCut: true },
  },
  {
    name: 'denied, and no body comes',
    send: post(EXPECTS, '', '/admin'),
    on: ON,
    expect: { answers: [403], end: 'any', app: [] },
  },
  {
    name: 'denied, and the body comes all the same',
    send: [post(`Expect: 100-continue\r\nContent-Length: ${SMUGGLED.length}\r\n`, SMUGGLED, '/admin')],
    on: ON,
    expect: { answers: [403], end: 'open', app: [] },
    or: CLOSED,
  },
  {
    name: 'no body',
    send: get('Expect: 100-continue\r\n'),
    expect: served('GET / HTTP/1.1'),
  },
  {
    name: 'in 1.0 it is ignored',
    send: `POST / HTTP/1.0\r\nHost: ${HOST}\r\n${EXPECTS}\r\nhello`,
    expect: { answers: [200], end: 'closed', app: [{ body: 'hello' }] },
  },
  ...['200-ok', '100', 'x', '100-continue, x', '100-continue; q=1', 'a=b', '"100-continue"'].map(
    (value): Case => ({
      name: `the expectation ${value}`,
      send: post(`Expect: ${value}\r\nContent-Length: 5\r\n`, 'hello'),
      expect: served({ body: 'hello' }),
      or: { answers: [{ status: [417, 400] }], end: 'closed', app: [] },
    }),
  ),
  {
    name: 'twice',
    send: post('Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n', 'hello'),
    expect: { answers: [{ status: [400, 417] }], end: 'closed', app: [] },
    or: served({ body: 'hello' }),
  },
  {
    name: 'a 100 behind the body is passed on or swallowed',
    send: post('Content-Length: 5\r\n', 'hello'),
    app: CONTINUE + OK,
    expect: { answers: [200], interims: [100], end: 'open', app: [{ body: 'hello' }] },
    or: { answers: [200], end: 'open', app: [{ body: 'hello' }] },
  },
];

export const early = { refusedBodies, earlyAnswers, expectations };
