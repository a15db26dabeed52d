/** Point 9: a tunnel only where WebSocket was asked for and granted (RFC 9110 §7.8, RFC 6455 §4, RFC 9112 §3.2.3). */
import { type Case, get, HEAD, HOST, OK, type SeenRequest, SMUGGLED, served } from './case.ts';

const KEY = 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
const ASKED = `Connection: Upgrade\r\nUpgrade: websocket\r\n${KEY}`;
const GRANTED =
  'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n';
const TO_WS = { line: 'GET /ws HTTP/1.1', has: ['upgrade: websocket'] } as const;

/** A tunnel: `ping` goes up once it stands, `pong` comes down. */
function tunnel(name: string, lines: string, granted = GRANTED): Case {
  return {
    name,
    send: [get(lines, '/ws'), { until: 'answers', count: 1 }, 'ping'],
    app: [{ steps: [granted, 'pong'] }],
    expect: { answers: [101], end: 'tunnel', app: [TO_WS], tunnel: { app: 'ping', downstream: 'pong' } },
  };
}

const granted: readonly Case[] = [
  tunnel('as browsers ask', ASKED),
  tunnel('Connection is a list', `Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n${KEY}`),
  tunnel('Connection is a list, tight', `Connection: keep-alive,upgrade\r\nUpgrade: websocket\r\n${KEY}`),
  tunnel(
    'Connection on two lines',
    `Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\n${KEY}`,
  ),
  tunnel('capitals', `CONNECTION: UPGRADE\r\nUPGRADE: websocket\r\n${KEY}`),
  {
    ...tunnel('WebSocket in capitals', `Connection: Upgrade\r\nUpgrade: WebSocket\r\n${KEY}`),
    expect: {
      answers: [101],
      end: 'tunnel',
      app: ['GET /ws HTTP/1.1'],
      tunnel: { app: 'ping', downstream: 'pong' },
    },
  },
  tunnel(
    'the answer is in small letters',
    ASKED,
    GRANTED.replace('Upgrade: websocket', 'upgrade: websocket').replace('Connection', 'connection'),
  ),
  {
    ...tunnel('the answer says WebSocket', ASKED, GRANTED.replace('websocket', 'WebSocket')),
  },
  {
    name: 'bytes behind the 101 are the tunnel’s',
    send: [get(ASKED, '/ws'), { until: 'answers', count: 1 }, 'ping'],
    app: [{ steps: [`${GRANTED}\x82\x04pong`] }],
    expect: {
      answers: [101],
      end: 'tunnel',
      app: [TO_WS],
      tunnel: { app: 'ping', downstream: '\x82\x04pong' },
    },
  },
  {
    name: 'bytes that look like HTTP are the tunnel’s',
    send: [get(ASKED, '/ws'), { until: 'answers', count: 1 }, SMUGGLED],
    app: [{ steps: [GRANTED, OK] }],
    expect: {
      answers: [101],
      end: 'tunnel',
      app: [TO_WS, 'GET /smuggled HTTP/1.1'],
      tunnel: { app: SMUGGLED, downstream: OK },
    },
  },
  {
    name: 'bytes sent before the 101 reach the app behind it, or not at all',
    send: [`${get(ASKED, '/ws')}ping`],
    app: [{ steps: [GRANTED, 'pong'] }],
    expect: { answers: [101], end: 'tunnel', app: [TO_WS], tunnel: { app: 'ping', downstream: 'pong' } },
    or: { answers: [400], end: 'closed', app: [] },
  },
  {
    name: 'a 100 before the 101',
    send: [get(ASKED, '/ws'), { until: 'answers', count: 1 }, 'ping'],
    app: [{ steps: [`HTTP/1.1 100 Continue\r\n\r\n${GRANTED}pong`] }],
    expect: {
      answers: [101],
      interims: [100],
      end: 'tunnel',
      app: [TO_WS],
      tunnel: { app: 'ping', downstream: 'pong' },
    },
  },
  {
    name: 'behind another request',
    send: [get('', '/a') + get(ASKED, '/ws'), { until: 'answers', count: 2 }, 'ping'],
    app: [OK, { steps: [GRANTED, 'pong'] }],
    expect: {
      answers: [200, 101],
      end: 'tunnel',
      app: ['GET /a HTTP/1.1', TO_WS],
      tunnel: { app: 'ping', downstream: 'pong' },
    },
  },
];

/** The upgrade is taken out, the request goes on without. */
function stripped(name: string, send: string, seen: SeenRequest = {}): Case {
  return {
    name,
    send: send + get('', '/b'),
    expect: served({ lacks: ['upgrade', 'http2-settings'], ...seen }, 'GET /b HTTP/1.1'),
  };
}

/** The same, or the request is refused: both leave nothing to doubt. */
function strippedOrRefused(name: string, send: string, seen: SeenRequest = {}): Case {
  return {
    ...stripped(name, send, seen),
    or: { answers: [{ status: [400, 403, 501] }], end: 'closed', app: [] },
  };
}

const notAsked: readonly Case[] = [
  stripped('not named in Connection', get(`Upgrade: websocket\r\n${KEY}`)),
  stripped('Connection says keep-alive alone', get(`Connection: keep-alive\r\nUpgrade: websocket\r\n${KEY}`)),
  stripped('Connection names it and it is not there', get(`Connection: Upgrade\r\n${KEY}`)),
  stripped('Connection names a longer word', get(`Connection: Upgrades\r\nUpgrade: websocket\r\n${KEY}`)),
  stripped('Connection names it in quotes', get(`Connection: "Upgrade"\r\nUpgrade: websocket\r\n${KEY}`)),
  stripped(
    'h2c',
    get(
      'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n',
    ),
  ),
  stripped(
    'h2c, settings not nominated',
    get('Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n'),
    { lacks: ['upgrade'] },
  ),
  stripped('h2c in capitals', get('Connection: Upgrade\r\nUpgrade: H2C\r\n')),
  stripped('h2', get('Connection: Upgrade\r\nUpgrade: h2\r\n')),
  stripped('TLS', get('Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n')),
  stripped('HTTP/2.0', get('Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n')),
  stripped('something unknown', get('Connection: Upgrade\r\nUpgrade: spdy/3\r\n')),
  stripped('an empty one', get('Connection: Upgrade\r\nUpgrade:\r\n')),
  stripped('connect-udp', get('Connection: Upgrade\r\nUpgrade: connect-udp\r\n')),
  strippedOrRefused('two protocols', get(`Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n${KEY}`)),
  strippedOrRefused(
    'two protocols, the other first',
    get(`Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n${KEY}`),
  ),
  strippedOrRefused('two lines', get(`Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n${KEY}`)),
  strippedOrRefused('a longer word', get(`Connection: Upgrade\r\nUpgrade: websocketx\r\n${KEY}`)),
  strippedOrRefused('a version', get(`Connection: Upgrade\r\nUpgrade: websocket/13\r\n${KEY}`)),
  strippedOrRefused('in quotes', get(`Connection: Upgrade\r\nUpgrade: "websocket"\r\n${KEY}`)),
  strippedOrRefused(
    'with a body',
    `POST /ws ${HEAD}${ASKED}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    { body: SMUGGLED },
  ),
  strippedOrRefused(
    'a GET with a body',
    `GET /ws ${HEAD}${ASKED}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    { body: SMUGGLED },
  ),
  strippedOrRefused(
    'a GET with chunks',
    `GET /ws ${HEAD}${ASKED}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`,
    { body: 'hello' },
  ),
  {
    name: 'in 1.0',
    send: `GET /ws HTTP/1.0\r\nHost: ${HOST}\r\n${ASKED}\r\n${SMUGGLED}`,
    expect: { answers: [200], end: 'closed', app: [{ line: 'GET /ws HTTP/1.1', lacks: ['upgrade'] }] },
  },
];

/** Asked for and not granted: what follows is a request again, and judged. */
function declined(name: string, answer: string, status: number, rest: Partial<Case> = {}): Case {
  return {
    name,
    send: [get(ASKED, '/ws'), { until: 'answers', count: 1 }, get('', '/b')],
    app: [answer, OK],
    expect: { answers: [status, 200], end: 'open', app: [TO_WS, 'GET /b HTTP/1.1'] },
    or: { answers: [status], end: 'closed', app: [TO_WS] },
    ...rest,
  };
}

const TO_ADMIN = get('', '/admin');
const notGranted: readonly Case[] = [
  declined('200', OK, 200),
  declined('404', 'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n', 404),
  declined('426', 'HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n', 426),
  declined(
    '403 in chunks',
    'HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n',
    403,
  ),
  {
    name: 'what follows is judged',
    send: [get(ASKED, '/ws'), { until: 'answers', count: 1 }, TO_ADMIN],
    on: ['inbound', 'pair'],
    expect: { answers: [200, 403], end: 'open', app: [TO_WS] },
    or: { answers: [200], end: 'closed', app: [TO_WS] },
  },
  {
    name: 'what was sent in advance is judged',
    send: get(ASKED, '/ws') + TO_ADMIN,
    on: ['inbound', 'pair'],
    expect: { answers: [200, 403], end: 'open', app: [TO_WS] },
    or: { answers: [200], end: 'closed', app: [TO_WS] },
  },
  {
    name: 'what was sent in advance is a request',
    send: get(ASKED, '/ws') + get('', '/b'),
    expect: served(TO_WS, 'GET /b HTTP/1.1'),
    or: { answers: [200], end: 'closed', app: [TO_WS] },
  },
  {
    name: 'what was sent in advance is no request',
    send: [`${get(ASKED, '/ws')}\x81\x84ping\r\n\r\n`],
    expect: { answers: [200, 400], end: 'closed', app: [TO_WS] },
    or: { answers: [200], end: 'closed', app: [TO_WS] },
  },
  {
    name: 'asked for twice, granted then',
    send: [
      get(ASKED, '/ws'),
      { until: 'answers', count: 1 },
      get(ASKED, '/ws'),
      { until: 'answers', count: 2 },
      'ping',
    ],
    app: [OK, { steps: [GRANTED, 'pong'] }],
    expect: {
      answers: [200, 101],
      end: 'tunnel',
      app: [TO_WS, TO_WS],
      tunnel: { app: 'ping', downstream: 'pong' },
    },
  },
  {
    name: 'denied by policy',
    send: get(ASKED, '/admin/ws'),
    on: ['inbound', 'pair'],
    expect: { answers: [403], end: 'open', app: [] },
    or: { answers: [403], end: 'closed', app: [] },
  },
  {
    name: 'denied by policy, bytes behind it',
    send: `${get(ASKED, '/admin/ws')}${SMUGGLED}`,
    on: ['inbound', 'pair'],
    expect: { answers: [403, 200], end: 'open', app: ['GET /smuggled HTTP/1.1'] },
    or: { answers: [403], end: 'closed', app: [] },
  },
];

/** A 101 that answers nothing we asked: the app is refused, and its connection closed. */
function unasked(name: string, send: Case['send'], answer: string, app: SeenRequest = {}): Case {
  return {
    name,
    send,
    app: [{ steps: [answer] }],
    expect: { answers: [502], end: 'open', app: [app], upstream: 'retired' },
    or: { answers: [502], end: 'closed', app: [app] },
  };
}

const badSwitch: readonly Case[] = [
  {
    name: 'to HEAD',
    send: `HEAD / ${HEAD}\r\n`,
    app: GRANTED,
    expect: {
      answers: [{ status: 502, toHead: true }],
      end: 'open',
      app: ['HEAD / HTTP/1.1'],
      upstream: 'retired',
    },
    or: { answers: [{ status: 502, toHead: true }], end: 'closed', app: ['HEAD / HTTP/1.1'] },
  },
  unasked('unasked', get(), GRANTED),
  unasked('unasked, with bytes behind', get(), `${GRANTED}pong`),
  unasked('unasked, an answer behind', get(), `HTTP/1.1 101 Switching Protocols\r\n\r\n${OK}`),
  unasked(
    'unasked, h2c',
    get('Connection: Upgrade\r\nUpgrade: h2c\r\n'),
    GRANTED.replace('websocket', 'h2c'),
  ),
  unasked('to a POST', `POST / ${HEAD}Content-Length: 5\r\n\r\nhello`, GRANTED),
  unasked('upgrade not named in Connection', get(`Upgrade: websocket\r\n${KEY}`), GRANTED),
  unasked('another protocol than asked', get(ASKED, '/ws'), GRANTED.replace('websocket', 'h2c')),
  unasked('two protocols', get(ASKED, '/ws'), GRANTED.replace('websocket', 'websocket, h2c')),
  unasked('no protocol', get(ASKED, '/ws'), GRANTED.replace('Upgrade: websocket\r\n', '')),
  unasked('no Connection', get(ASKED, '/ws'), GRANTED.replace('Connection: Upgrade\r\n', '')),
  unasked(
    'Connection without upgrade',
    get(ASKED, '/ws'),
    GRANTED.replace('Connection: Upgrade', 'Connection: keep-alive'),
  ),
  unasked('no field at all', get(ASKED, '/ws'), 'HTTP/1.1 101 Switching Protocols\r\n\r\n'),
  unasked('version 1.0', get(ASKED, '/ws'), GRANTED.replace('HTTP/1.1', 'HTTP/1.0')),
  unasked(
    'with chunks',
    get(ASKED, '/ws'),
    GRANTED.replace('\r\n\r\n', '\r\nTransfer-Encoding: chunked\r\n\r\n'),
  ),
  unasked('with a length', get(ASKED, '/ws'), GRANTED.replace('\r\n\r\n', '\r\nContent-Length: 5\r\n\r\n')),
  {
    name: 'unasked, in 1.0',
    send: `GET / HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`,
    app: GRANTED,
    expect: { answers: [502], end: 'closed', app: ['GET / HTTP/1.1'] },
  },
];

export const tunnels = { granted, notAsked, notGranted, badSwitch };
