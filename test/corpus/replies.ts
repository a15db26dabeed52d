/** Point 10 and point 2 for answers: what the app says, strictly read (RFC 9112 §4, §6.3, §8; RFC 9110 §15). */
import { type Case, type Expected, get, HEAD, HOST, OK, post, type SeenAnswer } from './case.ts';

const AT_APP = ['GET / HTTP/1.1'];
/** The app is not believed: 502, and its connection is not used again. */
const BAD: Expected = { answers: [502], end: 'open', app: AT_APP, upstream: 'retired' };
const BAD_CLOSED: Expected = { answers: [502], end: 'closed', app: AT_APP };

function bad(name: string, app: string): Case {
  return { name, send: get(), app, expect: BAD, or: BAD_CLOSED };
}

/** Passed on as one answer, and the connection to the app used again unless `upstream` says otherwise. */
function good(
  name: string,
  app: string,
  answer: number | SeenAnswer = 200,
  upstream: 'kept' | 'retired' = 'kept',
): Case {
  return { name, send: get(), app, expect: { answers: [answer], end: 'open', app: AT_APP, upstream } };
}

/** Rebuilt or refused: both leave nothing to doubt. */
function rebuiltOrBad(name: string, app: string, answer: number | SeenAnswer = 200): Case {
  return { name, send: get(), app, expect: BAD, or: { answers: [answer], end: 'open', app: AT_APP } };
}

const status = (line: string): string => `${line}\r\nContent-Length: 2\r\n\r\nok`;

const statusLines: readonly Case[] = [
  ...[
    'HTTP/1.1 20 OK',
    'HTTP/1.1 2 OK',
    'HTTP/1.1 2000 OK',
    'HTTP/1.1 0200 OK',
    'HTTP/1.1 000 OK',
    'HTTP/1.1 099 OK',
    'HTTP/1.1 abc OK',
    'HTTP/1.1 2x0 OK',
    'HTTP/1.1 -20 OK',
    'HTTP/1.1 -200 OK',
    'HTTP/1.1 +200 OK',
    'HTTP/1.1 0xC8 OK',
    'HTTP/1.1 20 0 OK',
    'HTTP/1.1 200.0 OK',
    'HTTP/1.1 200OK',
    'HTTP/1.1 200,OK',
    'HTTP/1.1  200 OK',
    'HTTP/1.1\t200 OK',
    'HTTP/1.1 200\tOK',
    'HTTP/1.1200 OK',
    'HTTP/1.1 ',
    'HTTP/1.1',
    'HTTP/1.1 OK',
    ' HTTP/1.1 200 OK',
    '200 OK',
    'HTTP 200 OK',
    'HTTP/1 200 OK',
    'HTTP/1. 200 OK',
    'HTTP/1.2 200 OK',
    'HTTP/2 200 OK',
    'HTTP/2.0 200 OK',
    'HTTP/0.9 200 OK',
    'HTTP/11 200 OK',
    'HTTP/1.10 200 OK',
    'HTTP/01.1 200 OK',
    'HTTP/1.1.1 200 OK',
    'HTTP/1,1 200 OK',
    'http/1.1 200 OK',
    'Http/1.1 200 OK',
    'HTTPS/1.1 200 OK',
    'ICY 200 OK',
    'RTSP/1.0 200 OK',
    'HTTP /1.1 200 OK',
    'HTTP/ 1.1 200 OK',
    'XHTTP/1.1 200 OK',
    'HTTP/1.1 200 O\x01K',
    'HTTP/1.1 200 O\0K',
    'HTTP/1.1 200 O\x7fK',
    'HTTP/1.1 200 O\x0bK',
    'HTTP/1.1 ٢00 OK',
    'GET / HTTP/1.1',
  ].map((line) =>
    bad(
      JSON.stringify(line),
      status(Buffer.from(line, line.includes('٢') ? 'utf8' : 'latin1').toString('latin1')),
    ),
  ),
  good('200 OK', status('HTTP/1.1 200 OK'), { status: 200, line: 'HTTP/1.1 200 OK', body: 'ok' }),
  good('another phrase', status('HTTP/1.1 200 Very well, then'), {
    status: 200,
    line: 'HTTP/1.1 200 Very well, then',
  }),
  good('an empty phrase', status('HTTP/1.1 200 '), { status: 200, line: 'HTTP/1.1 200 ' }),
  good('a phrase beyond ASCII', status('HTTP/1.1 200 caf\xe9'), {
    status: 200,
    line: 'HTTP/1.1 200 caf\xe9',
  }),
  good('a phrase with a tab', status('HTTP/1.1 200 a\tb'), 200),
  rebuiltOrBad('no phrase and no space', status('HTTP/1.1 200'), { status: 200, body: 'ok' }),
  ...[
    201, 202, 203, 206, 300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 409, 410, 413, 416, 418, 421, 422,
    429, 451, 499, 500, 501, 502, 503, 504, 511, 599,
  ].map((code) => good(`${code}`, status(`HTTP/1.1 ${code} X`), { status: code, body: 'ok' })),
];

const heads: readonly Case[] = [
  bad('bare LF behind the status line', 'HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok'),
  bad('bare LF everywhere', 'HTTP/1.1 200 OK\nContent-Length: 2\n\nok'),
  bad('bare LF behind a field', 'HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 2\r\n\r\nok'),
  bad('bare LF ends the head', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok'),
  bad('bare CR behind the status line', 'HTTP/1.1 200 OK\rContent-Length: 2\r\n\r\nok'),
  bad('bare CR in a value', 'HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok'),
  bad(
    'bare CR that hides a field',
    'HTTP/1.1 200 OK\r\nX: a\rContent-Length: 50\r\nContent-Length: 2\r\n\r\nok',
  ),
  bad('NUL in a value', 'HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok'),
  bad('a control byte in a value', 'HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 2\r\n\r\nok'),
  bad('DEL in a value', 'HTTP/1.1 200 OK\r\nX: a\x7fb\r\nContent-Length: 2\r\n\r\nok'),
  bad('a vertical tab in a value', 'HTTP/1.1 200 OK\r\nX: a\x0bb\r\nContent-Length: 2\r\n\r\nok'),
  bad('a space before the colon', 'HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 2\r\n\r\nok'),
  bad('a space before the colon of Content-Length', 'HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok'),
  bad(
    'a space before the colon of Transfer-Encoding',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  ),
  bad('a name that is no token', 'HTTP/1.1 200 OK\r\nX(: 1\r\nContent-Length: 2\r\n\r\nok'),
  bad('a name beyond ASCII', 'HTTP/1.1 200 OK\r\nX\xe9: 1\r\nContent-Length: 2\r\n\r\nok'),
  bad('a name with a NUL', 'HTTP/1.1 200 OK\r\nX\0: 1\r\nContent-Length: 2\r\n\r\nok'),
  bad('a name with a space', 'HTTP/1.1 200 OK\r\nX Y: 1\r\nContent-Length: 2\r\n\r\nok'),
  bad('an empty name', 'HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nok'),
  bad('a line without colon', 'HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok'),
  bad('a space before the first field', 'HTTP/1.1 200 OK\r\n X: 1\r\nContent-Length: 2\r\n\r\nok'),
  rebuiltOrBad('a fold', 'HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok'),
  rebuiltOrBad('a fold by a tab', 'HTTP/1.1 200 OK\r\nX: 1\r\n\t2\r\nContent-Length: 2\r\n\r\nok'),
  bad('a fold that hides Content-Length', 'HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nok'),
  bad(
    'a fold that hides Transfer-Encoding',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  ),
  rebuiltOrBad('an empty line before the status line', `\r\n${OK}`),
  bad('HTTP/0.9', '<html>ok</html>\r\n\r\n'),
  bad('another protocol', 'SSH-2.0-OpenSSH_9.6\r\n'),
  bad('SMTP', '220 mail.example ESMTP\r\n'),
  bad('HTTP/2 frames', '\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0\0\x05\0\xff\xff\xff'),
  good('no field at all, and the end', 'HTTP/1.1 204 No Content\r\n\r\n', { status: 204, body: '' }),
  good('repeated fields stay apart', 'HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nContent-Length: 2\r\n\r\nok', {
    status: 200,
    has: ['a: 1', 'a: 2'],
  }),
  good('names in any case', 'HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh: 2\r\n\r\nok', { status: 200, body: 'ok' }),
  good('white space around values', 'HTTP/1.1 200 OK\r\nA: \t 1 \t\r\nContent-Length:2\r\n\r\nok', {
    status: 200,
    body: 'ok',
    has: ['a: 1'],
  }),
  good('empty values', 'HTTP/1.1 200 OK\r\nA:\r\nB: \r\nContent-Length: 2\r\n\r\nok', {
    status: 200,
    has: ['a: ', 'b: '],
  }),
];

const CHUNKS = '2\r\nok\r\n0\r\n\r\n';
const framed = (lines: string, body = 'ok'): string => `HTTP/1.1 200 OK\r\n${lines}\r\n${body}`;

const framing: readonly Case[] = [
  ...[
    '+2',
    '-2',
    '-0',
    '0x2',
    '2x',
    '2 2',
    '2.0',
    '2e0',
    '"2"',
    '2;',
    '2, 3',
    '3, 2',
    '2,3',
    '2,',
    ',2',
    '\xb2',
    '2\x0b',
    '9007199254740992',
    '18446744073709551618',
    '99999999999999999999999',
    'NaN',
    'two',
    '2_',
    '%32',
  ].map((value) => bad(`Content-Length: ${JSON.stringify(value)}`, framed(`Content-Length: ${value}\r\n`))),
  bad('an empty Content-Length', framed('Content-Length:\r\n')),
  bad('two Content-Lengths that differ', framed('Content-Length: 2\r\nContent-Length: 3\r\n')),
  bad('two Content-Lengths that differ, the other way', framed('Content-Length: 3\r\nContent-Length: 2\r\n')),
  bad('two Content-Lengths, one bad', framed('Content-Length: 2\r\nContent-Length: x\r\n')),
  rebuiltOrBad(
    'two Content-Lengths that are the same',
    framed('Content-Length: 2\r\nContent-Length: 2\r\n'),
    { status: 200, body: 'ok', has: ['content-length: 2'] },
  ),
  rebuiltOrBad('a Content-Length of one twice', framed('Content-Length: 2, 2\r\n'), {
    status: 200,
    body: 'ok',
    has: ['content-length: 2'],
  }),
  bad('both', framed('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n', CHUNKS)),
  bad('both, the other way', framed('Transfer-Encoding: chunked\r\nContent-Length: 2\r\n', CHUNKS)),
  bad('both, a length of zero', framed('Transfer-Encoding: chunked\r\nContent-Length: 0\r\n', CHUNKS)),
  bad('both, identity', framed('Transfer-Encoding: identity\r\nContent-Length: 2\r\n')),
  ...[
    'identity',
    'gzip',
    'gzip, chunked',
    'chunked, gzip',
    'chunked, identity',
    'identity, chunked',
    'chunked, chunked',
    'x',
    'chunked;q=1',
    '"chunked"',
    'chunkedx',
    'chunked\x0b',
    '\x0bchunked',
    'chunked,',
    ',chunked',
    'chu nked',
    'chunked\xa0',
  ].map((value) =>
    bad(`Transfer-Encoding: ${JSON.stringify(value)}`, framed(`Transfer-Encoding: ${value}\r\n`, CHUNKS)),
  ),
  bad('an empty Transfer-Encoding', framed('Transfer-Encoding:\r\n', CHUNKS)),
  bad(
    'Transfer-Encoding twice',
    framed('Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n', CHUNKS),
  ),
  bad(
    'Transfer-Encoding twice, identity',
    framed('Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n', CHUNKS),
  ),
  bad('Transfer-Encoding in 1.0', `HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${CHUNKS}`),
  bad('both in 1.0', `HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n${CHUNKS}`),
  good('chunks', framed('Transfer-Encoding: chunked\r\n', CHUNKS), {
    status: 200,
    body: 'ok',
    framing: 'chunked',
  }),
  good('Chunked', framed('transfer-encoding: Chunked\r\n', CHUNKS), {
    status: 200,
    body: 'ok',
    framing: 'chunked',
  }),
  good('a length of zero', framed('Content-Length: 0\r\n', ''), { status: 200, body: '' }),
  good('a length with leading zeros', framed('Content-Length: 002\r\n'), {
    status: 200,
    body: 'ok',
    has: ['content-length: 2'],
  }),
  good('Transfer_Encoding frames nothing', framed('Transfer_Encoding: chunked\r\nContent-Length: 2\r\n'), {
    status: 200,
    body: 'ok',
    framing: 'length',
  }),
  good('a body that looks like an answer', framed(`Content-Length: ${OK.length}\r\n`, OK), {
    status: 200,
    body: OK,
  }),
  good('a body of 300,000 bytes', framed('Content-Length: 300000\r\n', 'x'.repeat(300_000)), {
    status: 200,
    body: 'x'.repeat(300_000),
  }),
];

/** Nothing behind the head belongs to it; what there is makes the connection unfit. */
const bodiless: readonly Case[] = [
  good('204', 'HTTP/1.1 204 No Content\r\n\r\n', { status: 204, body: '' }),
  good('204 with a length of zero', 'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', {
    status: 204,
    body: '',
    lacks: ['content-length'],
  }),
  rebuiltOrBad('204 with a length', 'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n', {
    status: 204,
    body: '',
    lacks: ['content-length'],
  }),
  rebuiltOrBad('204 with a body', 'HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok', {
    status: 204,
    body: '',
    lacks: ['content-length'],
  }),
  rebuiltOrBad(
    '204 in chunks',
    'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    { status: 204, body: '', lacks: ['transfer-encoding'] },
  ),
  rebuiltOrBad('204 in no chunks', 'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', {
    status: 204,
    body: '',
    lacks: ['transfer-encoding'],
  }),
  good('204 with an answer behind it', `HTTP/1.1 204 No Content\r\n\r\n${OK}`, { status: 204 }, 'retired'),
  // RFC 9110 §15.3.6: it has none, and is framed like any other.
  good('205', 'HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n', { status: 205, body: '' }),
  good('205 in no chunks', 'HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', {
    status: 205,
    body: '',
  }),
  good('304', 'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n', { status: 304, body: '' }),
  good('304 with a length', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n', {
    status: 304,
    body: '',
  }),
  good(
    '304 with a body',
    'HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok',
    { status: 304, body: '' },
    'retired',
  ),
  good(
    '304 in chunks',
    'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
    { status: 304, body: '' },
    'retired',
  ),
  good('304 with an answer behind it', `HTTP/1.1 304 Not Modified\r\n\r\n${OK}`, { status: 304 }, 'retired'),
  ...(
    [
      ['HEAD with a length', 'Content-Length: 5000\r\n\r\n', 'kept'],
      ['HEAD in chunks', 'Transfer-Encoding: chunked\r\n\r\n', 'kept'],
      ['HEAD without either', 'X: 1\r\n\r\n', 'kept'],
      ['HEAD with a body', 'Content-Length: 2\r\n\r\nok', 'retired'],
      ['HEAD with chunks behind it', 'Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', 'retired'],
      ['HEAD with an answer behind it', `Content-Length: 0\r\n\r\n${OK}`, 'retired'],
    ] as const
  ).map(
    ([name, rest, upstream]): Case => ({
      name,
      send: `HEAD / ${HEAD}\r\n`,
      app: `HTTP/1.1 200 OK\r\n${rest}`,
      expect: {
        answers: [{ status: 200, toHead: true, body: '' }],
        end: 'open',
        app: ['HEAD / HTTP/1.1'],
        upstream,
      },
    }),
  ),
  {
    name: 'HEAD keeps the length',
    send: `HEAD / ${HEAD}\r\n`,
    app: 'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n',
    expect: {
      answers: [{ status: 200, toHead: true, has: ['content-length: 5000'] }],
      end: 'open',
      app: ['HEAD / HTTP/1.1'],
    },
  },
  {
    name: 'HEAD with bad framing',
    send: `HEAD / ${HEAD}\r\n`,
    app: 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n',
    expect: {
      answers: [{ status: 502, toHead: true }],
      end: 'open',
      app: ['HEAD / HTTP/1.1'],
      upstream: 'retired',
    },
    or: { answers: [{ status: 502, toHead: true }], end: 'closed', app: ['HEAD / HTTP/1.1'] },
  },
];

const early = (n: number): string => `HTTP/1.1 103 Early Hints\r\nLink: </${n}>\r\n\r\n`;

function interim(
  name: string,
  app: string,
  interims: readonly number[],
  answer: number | SeenAnswer = 200,
): Case {
  return { name, send: get(), app, expect: { answers: [answer], interims, end: 'open', app: AT_APP } };
}

const interims: readonly Case[] = [
  interim('103', early(1) + OK, [103]),
  interim('103 three times', early(1) + early(2) + early(3) + OK, [103, 103, 103]),
  interim('102', `HTTP/1.1 102 Processing\r\n\r\n${OK}`, [102]),
  interim('199', `HTTP/1.1 199 X\r\n\r\n${OK}`, [199]),
  interim('103 before 204', `${early(1)}HTTP/1.1 204 No Content\r\n\r\n`, [103], { status: 204 }),
  interim('103 before 500', `${early(1)}HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n`, [103], { status: 500 }),
  {
    name: '100 that nobody asked for',
    send: get(),
    app: `HTTP/1.1 100 Continue\r\n\r\n${OK}`,
    expect: { answers: [200], interims: [100], end: 'open', app: AT_APP },
    or: { answers: [200], end: 'open', app: AT_APP },
  },
  {
    name: '103 with a length, which means nothing',
    send: get(),
    app: `HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n${OK}`,
    expect: { answers: [200], interims: [103], end: 'open', app: AT_APP },
    or: BAD,
  },
  {
    name: '103 in chunks, which means nothing',
    send: get(),
    app: `HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n${OK}`,
    expect: { answers: [200], interims: [103], end: 'open', app: AT_APP },
    or: BAD,
  },
  {
    name: '103 and its answer apart',
    send: get(),
    app: [{ steps: [early(1), { until: 'interims', count: 1 }, OK] }],
    expect: { answers: [200], interims: [103], end: 'open', app: AT_APP, upstream: 'kept' },
  },
  ...[
    early(1),
    'HTTP/1.1 100 Continue\r\n\r\n',
    'HTTP/1.1 102 Processing\r\n\r\n',
    early(1) + early(2),
    'HTTP/1.1 199 X\r\n\r\n',
  ].map(
    (before): Case => ({
      name: `none to a client of 1.0: ${before.slice(9, 12)}, ${before.length} bytes`,
      send: `GET / HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`,
      app: before + OK,
      expect: { answers: [200], end: 'closed', app: AT_APP },
    }),
  ),
  {
    name: 'a thousand',
    send: get(),
    app: early(1).repeat(1_000) + OK,
    whole: true,
    expect: { answers: [502], interims: Array(10).fill(103), end: 'open', app: AT_APP, upstream: 'retired' },
    or: { answers: [502], interims: Array(10).fill(103), end: 'closed', app: AT_APP },
  },
  {
    name: 'and then nothing',
    send: get(),
    app: [{ steps: [early(1), 'FIN'] }],
    expect: { answers: [{ status: [502, 503] }], interims: [103], end: 'open', app: AT_APP },
    or: { answers: [{ status: [502, 503] }], interims: [103], end: 'closed', app: AT_APP },
  },
  {
    name: 'and then a bad head',
    send: get(),
    app: `${early(1)}HTTP/1.1 20 OK\r\n\r\n`,
    expect: { answers: [502], interims: [103], end: 'open', app: AT_APP, upstream: 'retired' },
    or: { answers: [502], interims: [103], end: 'closed', app: AT_APP },
  },
  {
    name: 'a bad one',
    send: get(),
    app: `HTTP/1.1 103 Early Hints\r\nX : 1\r\n\r\n${OK}`,
    expect: BAD,
    or: BAD_CLOSED,
  },
];

/** More than was asked for: it belongs to nobody, and what it came over is not used again. */
const surplus: readonly Case[] = [
  good('two answers', OK + OK, { status: 200, body: 'ok' }, 'retired'),
  good('an answer and a half', `${OK}HTTP/1.1 20`, { status: 200, body: 'ok' }, 'retired'),
  good('a byte behind a length', `${OK}!`, { status: 200, body: 'ok' }, 'retired'),
  good('a line end behind a length', `${OK}\r\n`, { status: 200, body: 'ok' }, 'retired'),
  good(
    'bytes behind chunks',
    `${framed('Transfer-Encoding: chunked\r\n', CHUNKS)}x`,
    { status: 200, body: 'ok' },
    'retired',
  ),
  good(
    'an answer behind chunks',
    framed('Transfer-Encoding: chunked\r\n', CHUNKS) + OK,
    { status: 200, body: 'ok' },
    'retired',
  ),
  good(
    'bytes behind a length of zero',
    framed('Content-Length: 0\r\n', 'ok'),
    { status: 200, body: '' },
    'retired',
  ),
  {
    name: 'bytes later, while it is idle',
    send: get(),
    app: [
      {
        steps: [
          OK,
          { until: 'answers', count: 1 },
          { pause: 5 },
          'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil',
        ],
      },
    ],
    expect: { answers: [{ status: 200, body: 'ok' }], end: 'open', app: AT_APP, upstream: 'retired' },
  },
  {
    name: 'a line end later, while it is idle',
    send: get(),
    app: [{ steps: [OK, { until: 'answers', count: 1 }, { pause: 5 }, '\r\n'] }],
    expect: { answers: [{ status: 200, body: 'ok' }], end: 'open', app: AT_APP, upstream: 'retired' },
  },
  {
    name: 'a 408 later, while it is idle',
    send: get(),
    app: [
      {
        steps: [
          OK,
          { until: 'answers', count: 1 },
          { pause: 5 },
          'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n',
          'FIN',
        ],
      },
    ],
    expect: { answers: [{ status: 200, body: 'ok' }], end: 'open', app: AT_APP, upstream: 'retired' },
  },
  {
    // Only what came before the next request was sent can be told from its answer.
    name: 'two answers at once to a pipelined pair: the second is not for the second',
    whole: true,
    send: get('', '/a') + get('', '/b'),
    app: [OK + OK.replace('ok', 'no'), OK.replace('ok', 'b!')],
    expect: {
      answers: [
        { status: 200, body: 'ok' },
        { status: 200, body: 'b!' },
      ],
      end: 'open',
      app: ['GET /a HTTP/1.1', 'GET /b HTTP/1.1'],
    },
  },
];

/** The answer stops: its reader sees a cut, never an end. */
function cut(name: string, app: string, last: 'FIN' | 'RST' = 'FIN'): Case {
  return {
    name,
    send: get(),
    app: [{ steps: [app, { pause: 10 }, last] }],
    whole: true,
    expect: { answers: [], end: 'cut', app: AT_APP },
  };
}

/** It stops before its head is whole: there is time for an answer of ours. */
function none(name: string, app: string, last: 'FIN' | 'RST' = 'FIN'): Case {
  return {
    name,
    send: post('Content-Length: 0\r\n', ''),
    app: [{ steps: [app, last] }],
    expect: { answers: [{ status: [502, 503] }], end: 'open', app: ['POST / HTTP/1.1'] },
    or: { answers: [{ status: [502, 503] }], end: 'closed', app: ['POST / HTTP/1.1'] },
  };
}

const chunkedHead = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';
const cuts: readonly Case[] = [
  cut('within a length', framed('Content-Length: 5\r\n', 'he')),
  cut('within a length, by a reset', framed('Content-Length: 5\r\n', 'he'), 'RST'),
  cut('before the first byte of a length', framed('Content-Length: 5\r\n', '')),
  cut('before the first chunk', chunkedHead),
  cut('within a chunk', `${chunkedHead}5\r\nhe`),
  cut('behind a chunk', `${chunkedHead}5\r\nhello\r\n`),
  cut('within the last chunk', `${chunkedHead}5\r\nhello\r\n0`),
  cut('behind the last size', `${chunkedHead}5\r\nhello\r\n0\r\n`),
  cut('before the last LF', `${chunkedHead}5\r\nhello\r\n0\r\n\r`),
  cut('within a trailer', `${chunkedHead}5\r\nhello\r\n0\r\nX: 1`),
  cut('within a chunk, by a reset', `${chunkedHead}5\r\nhe`, 'RST'),
  cut('behind a chunk, by a reset', `${chunkedHead}5\r\nhello\r\n`, 'RST'),
  cut('what ends with the connection, by a reset', framed('', 'hello'), 'RST'),
  {
    name: 'what ends with the connection, by a FIN, is whole',
    send: get(),
    app: [{ steps: [framed('', 'hello'), 'FIN'] }],
    expect: { answers: [{ status: 200, body: 'hello' }], end: 'closed', app: AT_APP },
    or: { answers: [{ status: 200, body: 'hello', framing: 'chunked' }], end: 'open', app: AT_APP },
  },
  {
    name: 'what ends with the connection and has no byte is whole',
    send: get(),
    app: [{ steps: [framed('', ''), 'FIN'] }],
    expect: { answers: [{ status: 200, body: '' }], end: 'closed', app: AT_APP },
    or: { answers: [{ status: 200, body: '' }], end: 'open', app: AT_APP },
  },
  {
    name: 'keep-alive does not end what ends with the connection',
    send: get(),
    app: [{ steps: [framed('Connection: keep-alive\r\n', 'hel'), { pause: 5 }, 'lo', 'FIN'] }],
    expect: { answers: [{ status: 200, body: 'hello' }], end: 'closed', app: AT_APP },
    or: { answers: [{ status: 200, body: 'hello' }], end: 'open', app: AT_APP },
  },
  {
    name: 'of 1.0, ends with the connection',
    send: get(),
    app: [{ steps: ['HTTP/1.0 200 OK\r\n\r\nhello', 'FIN'] }],
    expect: { answers: [{ status: 200, body: 'hello' }], end: 'closed', app: AT_APP },
    or: { answers: [{ status: 200, body: 'hello' }], end: 'open', app: AT_APP },
  },
  none('at once', ''),
  none('at once, by a reset', '', 'RST'),
  none('within the status line', 'HTTP/1.1 20'),
  none('behind the status line', 'HTTP/1.1 200 OK\r\n'),
  none('within the head', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n'),
  none('before the last LF of the head', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r'),
  none('within the head, by a reset', 'HTTP/1.1 200 OK\r\nConte', 'RST'),
];

/** Chunks that are none: what was passed on is cut, or the answer is a 502 where nothing was. */
function broken(name: string, body: string): Case {
  return {
    name,
    send: get(),
    app: chunkedHead + body,
    // A pair's outbound sidecar may see nothing of it but the end of its connection.
    expect: { answers: [{ status: [502, 503] }], end: 'any', app: AT_APP },
    or: { answers: [], end: 'cut', app: AT_APP },
  };
}

const chunks: readonly Case[] = [
  ...[
    '+5',
    '-5',
    '0x5',
    '5x',
    '5 5',
    ' 5',
    '5 ',
    '\t5',
    '5\t',
    '',
    'x',
    '"5"',
    '5,',
    '5.',
    '\xb5',
    '5\0',
    '5\x0b',
    'ffffffffffffffff',
    '20000000000000',
    '10000000000000005',
  ].map((size) => broken(`size ${JSON.stringify(size)}`, `${size}\r\nhello\r\n0\r\n\r\n`)),
  broken('an LF ends the size', '5\nhello\r\n0\r\n\r\n'),
  broken('a CR ends the size', '5\rhello\r\n0\r\n\r\n'),
  broken('data longer than its size', '5\r\nhello!\r\n0\r\n\r\n'),
  broken('data shorter than its size', '6\r\nhello\r\n0\r\n\r\n'),
  broken('an LF behind the data', '5\r\nhello\n0\r\n\r\n'),
  broken('nothing behind the data', '5\r\nhello0\r\n\r\n'),
  broken('a last chunk that ends with an LF', '5\r\nhello\r\n0\n\r\n'),
  broken('an end that is an LF', '5\r\nhello\r\n0\r\n\n'),
  broken('an extension with an LF', '5;a\nb\r\nhello\r\n0\r\n\r\n'),
  broken('an extension with a CR', '5;a\rb\r\nhello\r\n0\r\n\r\n'),
  broken('an extension without end', `5;${'a'.repeat(100_000)}`),
  broken('an answer in the place of a size', `5\r\nhello\r\n${OK}`),
  broken('a trailer without colon', '5\r\nhello\r\n0\r\nnonsense\r\n\r\n'),
  broken('a trailer with a space before the colon', '5\r\nhello\r\n0\r\nX : 1\r\n\r\n'),
  broken('a trailer with a NUL', '5\r\nhello\r\n0\r\nX: a\0b\r\n\r\n'),
  broken('a trailer with an LF', '5\r\nhello\r\n0\r\nX: 1\nY: 2\r\n\r\n'),
  broken('a trailer with a name that is no token', '5\r\nhello\r\n0\r\nX(: 1\r\n\r\n'),
  broken('a trailer that is folded', '5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n'),
  broken('trailers without end', `5\r\nhello\r\n0\r\n${'X: 1\r\n'.repeat(20_000)}`),
  ...[';a', ';a=b', ';a="b;c"', ';a=b;c=d'].map((ext) =>
    good(`an extension ${ext}`, `${chunkedHead}5${ext}\r\nhello\r\n0${ext}\r\n\r\n`, {
      status: 200,
      body: 'hello',
      framing: 'chunked',
    }),
  ),
  good('many chunks', `${chunkedHead}${'1\r\nx\r\n'.repeat(60)}0\r\n\r\n`, {
    status: 200,
    body: 'x'.repeat(60),
  }),
  good('no data', `${chunkedHead}0\r\n\r\n`, { status: 200, body: '' }),
  good('leading zeros', `${chunkedHead}0005\r\nhello\r\n000\r\n\r\n`, { status: 200, body: 'hello' }),
  good('one trailer', `${chunkedHead}5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n`, {
    status: 200,
    body: 'hello',
    lacks: ['x-sum'],
    trailers: ['X-Sum: 1'],
  }),
  ...[
    'Content-Length: 50',
    'Transfer-Encoding: chunked',
    'Host: x',
    'Connection: close',
    'Keep-Alive: timeout=1',
    'Upgrade: h2c',
    'Trailer: X',
    'Authorization: x',
    'X-Forwarded-Client-Cert: By=x',
    'X_Forwarded_Client_Cert: By=x',
  ].map((line) =>
    good(`the trailer ${line} is filtered out`, `${chunkedHead}5\r\nhello\r\n0\r\n${line}\r\n\r\n`, {
      status: 200,
      body: 'hello',
      trailers: [],
    }),
  ),
];

const to10 = (path = '/'): string => `GET ${path} HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`;

/** A client of 1.0 knows no chunks, and its answer ends with the connection where it has no length. */
const oldClients: readonly Case[] = [
  {
    name: 'a length',
    send: to10(),
    app: OK,
    expect: { answers: [{ status: 200, body: 'ok', framing: 'length' }], end: 'closed', app: AT_APP },
  },
  {
    name: 'chunks become plain',
    send: to10(),
    app: `${chunkedHead}2\r\nok\r\n3\r\nay!\r\n0\r\n\r\n`,
    expect: {
      answers: [{ status: 200, body: 'okay!', framing: 'close', lacks: ['transfer-encoding'] }],
      end: 'closed',
      app: AT_APP,
    },
  },
  {
    name: 'chunks with trailers become plain',
    send: to10(),
    app: `${chunkedHead}2\r\nok\r\n0\r\nX: 1\r\n\r\n`,
    expect: {
      answers: [{ status: 200, body: 'ok', framing: 'close', lacks: ['transfer-encoding', 'x'] }],
      end: 'closed',
      app: AT_APP,
    },
  },
  {
    name: 'chunks that are cut are a reset',
    send: to10(),
    app: [{ steps: [`${chunkedHead}5\r\nhel`, { pause: 10 }, 'FIN'] }],
    whole: true,
    expect: { answers: [], end: 'cut', app: AT_APP },
  },
  {
    name: 'chunks that break are a reset',
    send: to10(),
    app: [{ steps: [`${chunkedHead}2\r\nok\r\n`, { pause: 10 }, 'x\r\n'] }],
    whole: true,
    expect: { answers: [], end: 'cut', app: AT_APP },
  },
  {
    name: 'what ends with the connection',
    send: to10(),
    app: [{ steps: ['HTTP/1.1 200 OK\r\n\r\nhello', 'FIN'] }],
    expect: { answers: [{ status: 200, body: 'hello', framing: 'close' }], end: 'closed', app: AT_APP },
  },
  {
    name: 'what ends with the connection, by a reset',
    send: to10(),
    app: [{ steps: ['HTTP/1.1 200 OK\r\n\r\nhello', { pause: 10 }, 'RST'] }],
    whole: true,
    expect: { answers: [], end: 'cut', app: AT_APP },
  },
  {
    name: 'a length that is cut',
    send: to10(),
    app: [{ steps: ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel', { pause: 10 }, 'FIN'] }],
    whole: true,
    expect: { answers: [], end: 'cut', app: AT_APP },
  },
  {
    name: 'HEAD in chunks',
    send: `HEAD / HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`,
    app: chunkedHead,
    expect: {
      answers: [{ status: 200, toHead: true, body: '', lacks: ['transfer-encoding'] }],
      end: 'closed',
      app: ['HEAD / HTTP/1.1'],
    },
  },
  {
    name: 'a status of no body',
    send: to10(),
    app: 'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n',
    expect: {
      answers: [{ status: 304, body: '', lacks: ['transfer-encoding'] }],
      end: 'closed',
      app: AT_APP,
    },
  },
  {
    name: 'nothing behind the answer is read',
    send: `${to10('/a')}${get('', '/smuggled')}`,
    expect: { answers: [200], end: 'closed', app: ['GET /a HTTP/1.1'] },
  },
  {
    name: 'without Host',
    send: 'GET / HTTP/1.0\r\n\r\n',
    expect: { answers: [400], end: 'closed', app: [] },
  },
];

export const replies = { statusLines, heads, framing, bodiless, interims, surplus, cuts, chunks, oldClients };
