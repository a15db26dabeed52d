/** Points 11 and 12: what is asked again, what is kept, in which order, and how much (RFC 9112 §9.3; RFC 9110 §9.2.2). */
import {
  type Case,
  chunked,
  type Expected,
  get,
  HEAD,
  HOST,
  OK,
  post,
  refused,
  SMUGGLED,
  served,
} from './case.ts';

const pipelining: readonly Case[] = [
  { name: 'two', send: get('', '/a') + get('', '/b'), expect: served('GET /a HTTP/1.1', 'GET /b HTTP/1.1') },
  {
    name: 'ten, in order',
    send: Array.from({ length: 10 }, (_, i) => get('', `/${i}`)).join(''),
    app: Array.from({ length: 10 }, (_, i) => `HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n${i}`),
    expect: {
      answers: Array.from({ length: 10 }, (_, i) => ({ status: 200, body: `${i}` })),
      end: 'open',
      app: Array.from({ length: 10 }, (_, i) => `GET /${i} HTTP/1.1`),
    },
  },
  {
    name: 'bodies of each framing',
    send:
      post('Content-Length: 5\r\n', 'hello', '/a') +
      chunked('5\r\nworld\r\n0\r\n\r\n', '/b') +
      get('', '/c') +
      post('Content-Length: 0\r\n', '', '/d'),
    expect: served(
      { line: 'POST /a HTTP/1.1', body: 'hello' },
      { line: 'POST /b HTTP/1.1', body: 'world' },
      'GET /c HTTP/1.1',
      'POST /d HTTP/1.1',
    ),
  },
  {
    name: 'answers of each framing',
    send: `${get('', '/a') + get('', '/b')}HEAD /c ${HEAD}\r\n${get('', '/d')}${get('', '/e')}`,
    app: [
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n',
      OK,
      'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n',
      'HTTP/1.1 204 No Content\r\n\r\n',
      'HTTP/1.1 304 Not Modified\r\n\r\n',
    ],
    expect: {
      answers: [{ status: 200, body: 'a' }, 200, { status: 200, toHead: true }, 204, 304],
      end: 'open',
      app: ['GET /a HTTP/1.1', 'GET /b HTTP/1.1', 'HEAD /c HTTP/1.1', 'GET /d HTTP/1.1', 'GET /e HTTP/1.1'],
      upstream: 'kept',
    },
  },
  {
    name: 'a bad one behind a good one',
    send: `${get('', '/a')}GET /b ${HEAD}X : 1\r\n\r\n${SMUGGLED}`,
    expect: { answers: [200, 400], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'a body that breaks behind a good one',
    send: get('', '/a') + chunked(`x\r\n${SMUGGLED}`, '/b'),
    expect: { answers: [200, 400], end: 'closed', app: ['GET /a HTTP/1.1'], appCut: true },
  },
  {
    name: 'none is begun before the one before it is answered',
    send: get('', '/a') + get('', '/b'),
    app: [{ steps: [{ pause: 20 }, OK] }, OK],
    expect: served('GET /a HTTP/1.1', 'GET /b HTTP/1.1'),
  },
  {
    name: 'thousand',
    send: get('', '/x').repeat(1_000),
    whole: true,
    expect: { answers: Array(1_000).fill(200), end: 'open', app: Array(1_000).fill('GET /x HTTP/1.1') },
  },
];

const closing = (name: string, lines: string, path = '/a'): Case => ({
  name,
  send: get(lines, path) + SMUGGLED,
  expect: { answers: [200], end: 'closed', app: [`GET ${path} HTTP/1.1`] },
});

const old = (lines: string): string => `GET /a HTTP/1.0\r\nHost: ${HOST}\r\n${lines}\r\n`;

const persistence: readonly Case[] = [
  closing('Connection: close', 'Connection: close\r\n'),
  closing('Connection: Close', 'Connection: Close\r\n'),
  closing('Connection: CLOSE', 'CONNECTION: CLOSE\r\n'),
  closing('close in a list', 'Connection: X-A, close\r\n'),
  closing('close on a second line', 'Connection: X-A\r\nConnection: close\r\n'),
  closing('close wins over keep-alive', 'Connection: keep-alive, close\r\n'),
  closing('close wins over keep-alive behind it', 'Connection: close\r\nConnection: keep-alive\r\n'),
  closing('close with white space', 'Connection: \t close \t\r\n'),
  {
    name: 'the answer says so',
    send: get('Connection: close\r\n'),
    expect: {
      answers: [{ status: 200, has: ['connection: close'] }],
      end: 'closed',
      app: ['GET / HTTP/1.1'],
    },
  },
  {
    name: 'a longer word is not close',
    send: get('Connection: closed\r\n'),
    expect: served('GET / HTTP/1.1'),
  },
  {
    name: 'close in quotes is not close',
    send: get('Connection: "close"\r\n'),
    expect: served('GET / HTTP/1.1'),
    or: closing('', 'Connection: close\r\n', '/').expect,
  },
  {
    name: '1.0',
    send: old('') + SMUGGLED,
    expect: { answers: [200], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: '1.0 and close',
    send: old('Connection: close\r\n') + SMUGGLED,
    expect: { answers: [200], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: '1.0 and keep-alive',
    send: old('Connection: keep-alive\r\n'),
    expect: { answers: [200], end: 'closed', app: ['GET /a HTTP/1.1'] },
    or: {
      answers: [{ status: 200, has: ['connection: keep-alive'] }],
      end: 'open',
      app: ['GET /a HTTP/1.1'],
    },
  },
  {
    name: 'a body behind Connection: close',
    send: post('Connection: close\r\nContent-Length: 5\r\n', `hello${SMUGGLED}`),
    expect: { answers: [200], end: 'closed', app: [{ body: 'hello' }] },
  },
];

function upstream(name: string, answer: string, kept: 'kept' | 'retired'): Case {
  return {
    name,
    send: get(),
    app: answer,
    expect: { answers: [200], end: 'open', app: ['GET / HTTP/1.1'], upstream: kept },
  };
}

const pool: readonly Case[] = [
  upstream('kept', OK, 'kept'),
  upstream(
    'Connection: close',
    'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok',
    'retired',
  ),
  upstream(
    'Connection: Close in a list',
    'HTTP/1.1 200 OK\r\nConnection: X, Close\r\nContent-Length: 2\r\n\r\nok',
    'retired',
  ),
  upstream(
    'close beside keep-alive',
    'HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok',
    'retired',
  ),
  upstream('1.0', 'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok', 'retired'),
  {
    name: 'the app closes behind its answer',
    send: get(),
    app: [{ steps: [OK, { until: 'answers', count: 1 }, { pause: 5 }, 'FIN'] }],
    expect: { answers: [200], end: 'open', app: ['GET / HTTP/1.1'], upstream: 'retired' },
  },
  {
    name: 'the app closes at once behind its answer',
    send: get(),
    app: [{ steps: [OK, 'FIN'] }],
    expect: { answers: [200], end: 'open', app: ['GET / HTTP/1.1'], upstream: 'retired' },
  },
  {
    name: 'the app resets behind its answer',
    send: get(),
    app: [{ steps: [OK, { until: 'answers', count: 1 }, { pause: 5 }, 'RST'] }],
    expect: { answers: [200], end: 'open', app: ['GET / HTTP/1.1'], upstream: 'retired' },
  },
];

/** The first request makes the connection a kept one; the app then closes it on the second, unanswered. */
function closedOn(name: string, second: string, last: 'FIN' | 'RST', expect: Expected): Case {
  return {
    name,
    send: [get('', '/a'), { until: 'answers', count: 1 }, second],
    app: [OK, { steps: [last] }, OK],
    expect,
  };
}

const replayed = (line: string): Expected => ({
  answers: [200, 200],
  end: 'open',
  app: ['GET /a HTTP/1.1', line, line],
});
const once = (line: string): Expected => ({
  answers: [200, { status: [502, 503] }],
  end: 'open',
  app: ['GET /a HTTP/1.1', line],
});

const replay: readonly Case[] = [
  closedOn('GET', get('', '/b'), 'FIN', replayed('GET /b HTTP/1.1')),
  closedOn('GET, by a reset', get('', '/b'), 'RST', replayed('GET /b HTTP/1.1')),
  closedOn('OPTIONS', `OPTIONS /b ${HEAD}\r\n`, 'FIN', replayed('OPTIONS /b HTTP/1.1')),
  closedOn(
    'PUT without a body',
    `PUT /b ${HEAD}Content-Length: 0\r\n\r\n`,
    'FIN',
    replayed('PUT /b HTTP/1.1'),
  ),
  closedOn('DELETE', `DELETE /b ${HEAD}\r\n`, 'FIN', replayed('DELETE /b HTTP/1.1')),
  closedOn('TRACE', `TRACE /b ${HEAD}\r\n`, 'RST', replayed('TRACE /b HTTP/1.1')),
  {
    name: 'HEAD',
    send: [get('', '/a'), { until: 'answers', count: 1 }, `HEAD /b ${HEAD}\r\n`],
    app: [OK, { steps: ['FIN'] }, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n'],
    expect: {
      answers: [200, { status: 200, toHead: true }],
      end: 'open',
      app: ['GET /a HTTP/1.1', 'HEAD /b HTTP/1.1', 'HEAD /b HTTP/1.1'],
    },
  },
  {
    // RFC 9110 §9.2.2 lets it be sent again, but its body is gone.
    ...closedOn(
      'PUT with a body may not be',
      `PUT /b ${HEAD}Content-Length: 5\r\n\r\nhello`,
      'FIN',
      once('PUT /b HTTP/1.1'),
    ),
    or: {
      answers: [200, 200],
      end: 'open',
      app: [
        'GET /a HTTP/1.1',
        { line: 'PUT /b HTTP/1.1', body: 'hello' },
        { line: 'PUT /b HTTP/1.1', body: 'hello' },
      ],
    },
  },
  closedOn(
    'POST is not sent again',
    post('Content-Length: 0\r\n', '', '/b'),
    'FIN',
    once('POST /b HTTP/1.1'),
  ),
  closedOn(
    'POST is not sent again, by a reset',
    post('Content-Length: 0\r\n', '', '/b'),
    'RST',
    once('POST /b HTTP/1.1'),
  ),
  closedOn('POST without a length is not sent again', post('', '', '/b'), 'FIN', once('POST /b HTTP/1.1')),
  closedOn(
    'POST with a body is not sent again',
    post('Content-Length: 5\r\n', 'hello', '/b'),
    'FIN',
    once('POST /b HTTP/1.1'),
  ),
  closedOn(
    'PATCH is not sent again',
    `PATCH /b ${HEAD}Content-Length: 5\r\n\r\nhello`,
    'FIN',
    once('PATCH /b HTTP/1.1'),
  ),
  closedOn('an unknown method is not sent again', `FROB /b ${HEAD}\r\n`, 'FIN', once('FROB /b HTTP/1.1')),
  closedOn('get is no GET', `get /b ${HEAD}\r\n`, 'FIN', once('get /b HTTP/1.1')),
  {
    name: 'GET is not sent again once a byte of the answer came',
    send: [get('', '/a'), { until: 'answers', count: 1 }, get('', '/b')],
    app: [OK, { steps: ['HTTP/1.1 2', { pause: 5 }, 'FIN'] }, OK],
    expect: once('GET /b HTTP/1.1'),
    or: { ...once('GET /b HTTP/1.1'), end: 'closed' },
  },
  {
    name: 'GET is not sent again once an interim answer came',
    send: [get('', '/a'), { until: 'answers', count: 1 }, get('', '/b')],
    app: [OK, { steps: ['HTTP/1.1 103 Early Hints\r\n\r\n', { pause: 5 }, 'FIN'] }, OK],
    expect: { ...once('GET /b HTTP/1.1'), interims: [103] },
    or: { ...once('GET /b HTTP/1.1'), interims: [103], end: 'closed' },
  },
  {
    name: 'an app that always closes is not asked without end',
    send: [get('', '/a'), { until: 'answers', count: 1 }, get('', '/b')],
    app: [OK, { steps: ['FIN'] }, { steps: ['FIN'] }, OK],
    expect: {
      answers: [200, { status: [502, 503] }],
      end: 'open',
      app: ['GET /a HTTP/1.1', 'GET /b HTTP/1.1', 'GET /b HTTP/1.1'],
    },
  },
  {
    name: 'a new connection that is closed at once',
    send: get('', '/b'),
    app: [{ steps: ['FIN'] }, { steps: ['FIN'] }, { steps: ['FIN'] }],
    expect: { answers: [{ status: [502, 503] }], end: 'open', app: ['GET /b HTTP/1.1'] },
    or: { answers: [{ status: [502, 503] }], end: 'open', app: ['GET /b HTTP/1.1', 'GET /b HTTP/1.1'] },
  },
];

/** A GET whose head is so long. */
function headOf(length: number): string {
  const [before, after] = [`GET / ${HEAD}X: `, '\r\n\r\n'];
  return before + 'x'.repeat(length - before.length - after.length) + after;
}

/** A GET with so many fields, Host among them. */
const fieldsOf = (count: number): string =>
  get(Array.from({ length: count - 1 }, (_, i) => `X-${i}: 1\r\n`).join(''));
/** What our own fields take at the next hop; the bound is the same there. */
const ROOM = 1_000;
const answerOf = (lines: string): string => `HTTP/1.1 200 OK\r\n${lines}Content-Length: 2\r\n\r\nok`;
const BAD_ANSWER: Expected = { answers: [502], end: 'open', app: ['GET / HTTP/1.1'], upstream: 'retired' };

const bounds: readonly Case[] = [
  {
    name: 'a head of 60 KiB',
    send: headOf(61_440),
    on: ['inbound', 'outbound'],
    expect: served('GET / HTTP/1.1'),
  },
  { name: 'a head of nearly 60 KiB', send: headOf(61_440 - ROOM), expect: served('GET / HTTP/1.1') },
  { name: 'a head of more than 60 KiB', send: headOf(61_445), expect: refused(431) },
  { name: 'a head of 100 KiB', send: headOf(102_400), expect: refused(431) },
  { name: 'a head of 1 MiB', send: headOf(1_048_576), whole: true, expect: { ...refused(431), end: 'gone' } },
  {
    name: 'a head that never ends',
    send: `GET / ${HEAD}${'X: 1\r\n'.repeat(20_000)}`,
    expect: { ...refused(431), end: 'gone' },
  },
  {
    name: 'a field line that never ends',
    send: `GET / ${HEAD}X: ${'x'.repeat(100_000)}`,
    expect: { ...refused(431), end: 'gone' },
  },
  {
    name: 'a request line that never ends',
    send: `GET /${'x'.repeat(100_000)}`,
    expect: { ...refused([414, 431]), end: 'gone' },
  },
  {
    name: 'a method that never ends',
    send: 'G'.repeat(100_000),
    expect: { ...refused([400, 414, 431]), end: 'gone' },
  },
  { name: '100 fields', send: fieldsOf(100), on: ['inbound', 'outbound'], expect: served('GET / HTTP/1.1') },
  { name: '90 fields', send: fieldsOf(90), expect: served('GET / HTTP/1.1') },
  { name: '101 fields', send: fieldsOf(101), expect: refused(431) },
  { name: '101 fields of one name', send: get('A: 1\r\n'.repeat(100)), expect: refused(431) },
  { name: '5,000 fields', send: fieldsOf(5_000), expect: refused(431) },
  {
    name: 'a target of 8,000 bytes',
    send: get('', `/${'a'.repeat(7_999)}`),
    expect: served(`GET /${'a'.repeat(7_999)} HTTP/1.1`),
  },
  {
    name: 'a query of 8,000 bytes',
    send: get('', `/?${'a'.repeat(7_999)}`),
    expect: served(`GET /?${'a'.repeat(7_999)} HTTP/1.1`),
  },
  { name: 'a target of 50,000 bytes', send: get('', `/${'a'.repeat(50_000)}`), expect: refused(414) },
  { name: 'a query of 50,000 bytes', send: get('', `/?${'a'.repeat(50_000)}`), expect: refused(414) },
  {
    name: 'an absolute form of 50,000 bytes',
    send: get('', `http://${HOST}/${'a'.repeat(50_000)}`),
    expect: refused(414),
  },
  {
    name: 'a path of 2,000 dot segments',
    send: get('', `${'/a/..'.repeat(2_000)}/b`),
    expect: served('GET /b HTTP/1.1'),
  },
  {
    name: 'an answer with a head of nearly 60 KiB',
    send: get(),
    app: answerOf(`X: ${'x'.repeat(60_000)}\r\n`),
    expect: served('GET / HTTP/1.1'),
  },
  {
    name: 'an answer with a head of 70 KiB',
    send: get(),
    app: answerOf(`X: ${'x'.repeat(71_680)}\r\n`),
    expect: BAD_ANSWER,
    or: { ...BAD_ANSWER, end: 'closed' },
  },
  {
    name: 'an answer with a head that never ends',
    send: get(),
    app: `HTTP/1.1 200 OK\r\n${'X: 1\r\n'.repeat(20_000)}`,
    expect: BAD_ANSWER,
    or: { ...BAD_ANSWER, end: 'closed' },
  },
  {
    name: 'an answer with a status line that never ends',
    send: get(),
    app: `HTTP/1.1 200 ${'x'.repeat(100_000)}`,
    expect: BAD_ANSWER,
    or: { ...BAD_ANSWER, end: 'closed' },
  },
  {
    name: 'an answer with 90 fields',
    send: get(),
    app: answerOf('X: 1\r\n'.repeat(89)),
    expect: served('GET / HTTP/1.1'),
  },
  {
    name: 'an answer with 101 fields',
    send: get(),
    app: answerOf('X: 1\r\n'.repeat(100)),
    expect: BAD_ANSWER,
    or: { ...BAD_ANSWER, end: 'closed' },
  },
];

export const reuse = { pipelining, persistence, pool, replay, bounds };
