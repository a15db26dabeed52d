/** Point 12, waits: a head must come whole in its time, whatever it is fed with; bodies and tunnels only must not stand still. */
import { type Case, chunked, type Expected, get, HEAD, HOST, OK, post, served } from './case.ts';

/** Milliseconds, short for the test: each kind is told from the others by how long it takes. */
export const LIMITS = {
  handshakeTimeout: 4_000,
  requestHeadTimeout: 500,
  idleTimeout: 2_000,
  streamIdleTimeout: 2_000,
} as const;

/** More than a head is given in all, and less than anything may stand still. */
const EVERY = 20;
const LONG = 'x'.repeat(40);

const LATE: Expected = { answers: [408], end: 'closed', app: [] };

function late(name: string, ...send: Exclude<Case['send'], string>): Case {
  return { name, send, whole: true, expect: LATE };
}

/** RFC 9110 §15.5.9. */
const heads: readonly Case[] = [
  late('a method that stops', 'GE'),
  late('a request line that stops', 'GET / HT'),
  late('a head that stops within a name', `GET / ${HEAD}X`),
  late('a head that stops within a value', `GET / ${HEAD}X: a`),
  late('a head that lacks its last LF', `GET / ${HEAD}\r`),
  late('a head of 1.0 that stops', `GET / HTTP/1.0\r\nHost: ${HOST}\r\n`),
  late('a head with a body announced', `POST / ${HEAD}Content-Length: 5\r\n`),
  late('a byte at a time', { slowly: get(`X: ${LONG}\r\n`), every: EVERY }),
  late('a request line a byte at a time', { slowly: `GET /${LONG} HTTP/1.1\r\n`, every: EVERY }),
  late('a line, and then a byte at a time', `GET / ${HEAD}`, { slowly: `X: ${LONG}`, every: EVERY }),
  late('lines without end, a byte at a time', `GET / ${HEAD}`, {
    slowly: 'X: 1\r\n'.repeat(60),
    every: EVERY,
  }),
  {
    name: 'the second head stops',
    send: [get('', '/a'), { until: 'answers', count: 1 }, 'GET /b HT'],
    whole: true,
    expect: { answers: [200, 408], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'the second head a byte at a time',
    send: [get('', '/a'), { until: 'answers', count: 1 }, { slowly: get(`X: ${LONG}\r\n`), every: EVERY }],
    whole: true,
    expect: { answers: [200, 408], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'a pipelined head that stops',
    send: [`${get('', '/a')}GET /b HT`],
    whole: true,
    expect: { answers: [200, 408], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'a pipelined head has its time from when it is looked at',
    send: [`${get('', '/a')}GET /b ${HEAD}`, { until: 'answers', count: 1 }, '\r\n'],
    app: [{ steps: [{ pause: LIMITS.requestHeadTimeout * 1.5 }, OK] }],
    whole: true,
    expect: served('GET /a HTTP/1.1', 'GET /b HTTP/1.1'),
  },
];

const bodies: readonly Case[] = [
  {
    name: 'a slow body may take longer than a head',
    send: [post('Content-Length: 40\r\n', ''), { slowly: LONG, every: EVERY }],
    whole: true,
    expect: served({ body: LONG }),
  },
  {
    name: 'slow chunks may, too',
    send: [chunked(''), { slowly: '5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n', every: EVERY }],
    whole: true,
    expect: served({ body: 'hello world' }),
  },
  ...(
    [
      ['a body of a length that stops', post('Content-Length: 5\r\n', 'he')],
      ['a body that does not begin', post('Content-Length: 5\r\n', '')],
      ['an expected body that does not begin', post('Expect: 100-continue\r\nContent-Length: 5\r\n', '')],
      ['chunks that stop', chunked('5\r\nhel')],
      ['trailers that stop', chunked('5\r\nhello\r\n0\r\nX: 1')],
    ] as const
  ).map(
    ([name, send]): Case => ({
      name,
      send,
      whole: true,
      expect: { answers: [408], end: 'gone', app: [], appCut: true },
    }),
  ),
];

const answers: readonly Case[] = [
  {
    name: 'a slow answer may take longer than a head',
    send: get(),
    app: [{ steps: [{ slowly: `HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n${LONG}`, every: EVERY }] }],
    whole: true,
    expect: { answers: [{ status: 200, body: LONG }], end: 'open', app: ['GET / HTTP/1.1'] },
  },
  ...(
    [
      ['no answer', ''],
      ['an answer that stops within its status line', 'HTTP/1.1 20'],
      ['an answer that stops within its head', 'HTTP/1.1 200 OK\r\nContent-Le'],
    ] as const
  ).map(
    ([name, answer]): Case => ({
      name,
      send: get(),
      app: [{ steps: [answer] }],
      whole: true,
      expect: { answers: [504], end: 'gone', app: ['GET / HTTP/1.1'] },
    }),
  ),
  ...(
    [
      ['an answer of a length that stops', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe'],
      ['chunks that stop', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n'],
      ['an answer without a length that stops', 'HTTP/1.1 200 OK\r\n\r\nhe'],
    ] as const
  ).map(
    ([name, answer]): Case => ({
      name,
      send: get(),
      app: answer,
      whole: true,
      expect: { answers: [], end: 'cut', app: ['GET / HTTP/1.1'] },
    }),
  ),
];

const ASKED = get(
  'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
  '/ws',
);
const GRANTED =
  'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n';

const idle: readonly Case[] = [
  {
    name: 'a connection that says nothing',
    send: [],
    whole: true,
    expect: { answers: [], end: 'gone', app: [] },
  },
  {
    name: 'a connection that says nothing behind an answer',
    send: [get(), { until: 'answers', count: 1 }],
    whole: true,
    expect: { answers: [200], end: 'closed', app: ['GET / HTTP/1.1'] },
  },
  {
    name: 'an empty line is no head that began in vain',
    send: '\r\n',
    whole: true,
    expect: { answers: [], end: 'gone', app: [] },
    or: LATE,
  },
  {
    name: 'a tunnel may be silent for longer than a head may take',
    send: [ASKED, { until: 'answers', count: 1 }, { pause: LIMITS.requestHeadTimeout * 2 }, 'ping'],
    app: [{ steps: [GRANTED, 'pong'] }],
    whole: true,
    expect: {
      answers: [101],
      end: 'tunnel',
      app: ['GET /ws HTTP/1.1'],
      tunnel: { app: 'ping', downstream: 'pong' },
    },
  },
  {
    name: 'a tunnel that stays silent',
    send: [ASKED, { until: 'answers', count: 1 }],
    app: [{ steps: [GRANTED] }],
    whole: true,
    expect: { answers: [101], end: 'gone', app: ['GET /ws HTTP/1.1'] },
  },
];

export const timeouts = { heads, bodies, answers, idle };
