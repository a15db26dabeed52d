/** Points 3 to 5, requests: chunks, bodies that break, trailers (RFC 9112 §7.1, §8; RFC 9110 §6.5). */
import { type Case, chunked, type Expected, get, HEAD, post, SMUGGLED, served } from './case.ts';

/** The head went on, so the app sees the request cut; the downstream gets a refusal or sees the end. */
const BROKEN: Expected = { answers: [{ status: 400 }], end: 'closed', app: [], appCut: true };

function bad(name: string, body: string): Case {
  return { name, send: chunked(body + SMUGGLED), expect: BROKEN };
}

/** What stands in the first chunk's line. */
function size(line: string, name = JSON.stringify(line)): Case {
  return bad(name, `${line}\r\nhello\r\n0\r\n\r\n`);
}

const sizes: readonly Case[] = [
  ...[
    '+5',
    '-5',
    '-0',
    '0x5',
    '0X5',
    'x5',
    '5x',
    '5 5',
    ' 5',
    '\t5',
    '5 ',
    '5\t',
    '  5',
    '5h',
    'g',
    '5g',
    '',
    ' ',
    '\t',
    ';',
    ';a=b',
    ' ;a',
    '"5"',
    '5,',
    '5.',
    '5.0',
    '.5',
    '5e',
    '5,5',
    '5_',
    '_5',
    '5\x0b',
    '\x0c5',
    '\x0b5',
    '5\0',
    '\x005',
    '5\x7f',
    '5\xa0',
    '\xb5',
    '\xff',
    '0x',
    '0x0',
    '#5',
    '%35',
    '5 x',
    '5 x;a',
    '5\rx',
    '{5}',
    '5:5',
    '5=5',
    '5/5',
  ]
    .filter((line) => !['5e'].includes(line))
    .map((line) => size(line)),
  size('20000000000005', '2^53 and more'),
  size('20000000000000', '2^53'),
  size('ffffffffffffffff', '2^64 - 1'),
  size('10000000000000005', '2^64 + 5'),
  size('100000000000000000000000000000005', '2^128 + 5'),
  size('f'.repeat(1_000), 'a thousand digits'),
  size('-ffffffffffffffb', 'negative by overflow'),
  bad('a size in decimal that is longer than the data', '10\r\nhelloworld\r\n0\r\n\r\n'),
  bad('an LF ends the size', '5\nhello\r\n0\r\n\r\n'),
  bad('a CR ends the size', '5\rhello\r\n0\r\n\r\n'),
  bad('CR CR LF ends the size', '5\r\r\nhello\r\n0\r\n\r\n'),
  bad('an empty line before the size', '\r\n5\r\nhello\r\n0\r\n\r\n'),
  bad('an LF before the size', '\n5\r\nhello\r\n0\r\n\r\n'),
  bad('the last chunk ends with an LF', '5\r\nhello\r\n0\n\r\n'),
  bad('the last chunk ends with a CR', '5\r\nhello\r\n0\r\r\n'),
  bad('the end is an LF', '5\r\nhello\r\n0\r\n\n'),
  bad('the end is a CR and something', '5\r\nhello\r\n0\r\n\rX'),
  bad('the last chunk of a body of nothing is negative', '-0\r\n\r\n'),
  bad('the last chunk has an x', '0x0\r\n\r\n'),
  ...(
    [
      ['5', 'small'],
      ['05', 'a leading zero'],
      ['0000000000005', 'many leading zeros'],
    ] as const
  ).map(
    ([line, name]): Case => ({
      name,
      send: chunked(`${line}\r\nhello\r\n0\r\n\r\n`),
      expect: served({ body: 'hello', framing: 'chunked' }),
    }),
  ),
  {
    name: 'digits in capitals',
    send: chunked('A\r\nhelloworld\r\n0\r\n\r\n'),
    expect: served({ body: 'helloworld' }),
  },
  {
    name: 'digits in small letters',
    send: chunked('a\r\nhelloworld\r\n0\r\n\r\n'),
    expect: served({ body: 'helloworld' }),
  },
  {
    name: 'a last chunk of many zeros',
    send: chunked('5\r\nhello\r\n00000\r\n\r\n'),
    expect: served({ body: 'hello' }),
  },
  {
    name: 'no data',
    send: chunked('0\r\n\r\n') + get('', '/b'),
    expect: served({ body: '', framing: 'chunked' }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'many chunks',
    send: chunked(`${'1\r\nx\r\n'.repeat(50)}0\r\n\r\n`),
    expect: served({ body: 'x'.repeat(50) }),
  },
  {
    name: 'data that is line ends',
    send: chunked('4\r\n\r\n\r\n\r\n0\r\n\r\n'),
    expect: served({ body: '\r\n\r\n' }),
  },
  {
    name: 'data that looks like the end',
    send: chunked('5\r\n0\r\n\r\n\r\n0\r\n\r\n'),
    expect: served({ body: '0\r\n\r\n' }),
  },
  {
    name: 'data of every byte',
    send: chunked(
      `100\r\n${Buffer.from(Array.from({ length: 256 }, (_, i) => i)).toString('latin1')}\r\n0\r\n\r\n`,
    ),
    expect: served({ body: Buffer.from(Array.from({ length: 256 }, (_, i) => i)).toString('latin1') }),
  },
  {
    name: 'a chunk of 100,000 bytes',
    send: chunked(`186a0\r\n${'x'.repeat(100_000)}\r\n0\r\n\r\n`),
    expect: served({ body: 'x'.repeat(100_000) }),
  },
];

const data: readonly Case[] = [
  bad('longer than its size', '5\r\nhello!\r\n0\r\n\r\n'),
  bad('longer by much', '2\r\nhelloworld\r\n0\r\n\r\n'),
  bad('shorter than its size', '6\r\nhello\r\n0\r\n\r\n'),
  bad('shorter by two: the line end counts as data', '7\r\nhello\r\n0\r\n\r\n'),
  bad('an LF behind it', '5\r\nhello\n0\r\n\r\n'),
  bad('a CR behind it', '5\r\nhello\r0\r\n\r\n'),
  bad('nothing behind it', '5\r\nhello0\r\n\r\n'),
  bad('LF CR behind it', '5\r\nhello\n\r0\r\n\r\n'),
  bad('CR and another byte behind it', '5\r\nhello\rX0\r\n\r\n'),
  bad('two line ends behind it', '5\r\nhello\r\n\r\n0\r\n\r\n'),
  bad('spaces behind it', '5\r\nhello  0\r\n\r\n'),
  bad('two bytes that are no line end', '5\r\nhelloXX0\r\n\r\n'),
  bad('a second chunk that is broken', '5\r\nhello\r\n5\r\nworld!!0\r\n\r\n'),
  bad('a request in the place of a size', `5\r\nhello\r\n${SMUGGLED}`),
];

/** A size with this behind it, dropped on the way. */
function extension(ext: string): Case {
  return {
    name: `extension ${JSON.stringify(ext).slice(0, 60)}`,
    send: chunked(`5${ext}\r\nhello\r\n0${ext}\r\n\r\n`) + get('', '/b'),
    expect: served({ body: 'hello', framing: 'chunked' }, 'GET /b HTTP/1.1'),
  };
}

const extensions: readonly Case[] = [
  ...[';a', ';a=b', ';a=b;c=d', ';a="b"', ';a="b;c"', ';a="b\\"c"', ';a=1;b', '; a = b', ';a="\xe9"'].map(
    extension,
  ),
  bad('extension with an LF', '5;a\nhello\r\n0\r\n\r\n'),
  bad('extension with an LF and more', '5;a\nb\r\nhello\r\n0\r\n\r\n'),
  bad('extension with a CR', '5;a\rb\r\nhello\r\n0\r\n\r\n'),
  bad('extension with an LF in quotes', '5;a="\n"\r\nhello\r\n0\r\n\r\n'),
  bad('extension with a CR in quotes', '5;a="\rb"\r\nhello\r\n0\r\n\r\n'),
  bad('extension with a NUL', '5;a\0b\r\nhello\r\n0\r\n\r\n'),
  bad('extension of the last chunk with an LF', '5\r\nhello\r\n0;a\n\r\n'),
  bad('extension of the last chunk with an LF and more', '5\r\nhello\r\n0;a\nb\r\n\r\n'),
  bad('extension without a semicolon', '5 a=b\r\nhello\r\n0\r\n\r\n'),
  bad('extension of 70,000 bytes', `5;${'a'.repeat(70_000)}\r\nhello\r\n0\r\n\r\n`),
  bad('extensions without end', `5;${'a=b;'.repeat(10_000)}`),
  {
    name: 'many small extensions',
    send: chunked(`${'1;ab=cd\r\nx\r\n'.repeat(60)}0\r\n\r\n`),
    expect: served({ body: 'x'.repeat(60) }),
  },
];

/** The body stops and the downstream goes: the app must not take it for whole. */
function stops(name: string, body: string, last: 'FIN' | 'RST' = 'FIN'): Case {
  return {
    name,
    send: [chunked(body), { until: 'heads', count: 1 }, last],
    expect: { answers: [], end: 'gone', app: [], appCut: true },
  };
}

function stopsAt(name: string, head: string, last: 'FIN' | 'RST' = 'FIN'): Case {
  return {
    name,
    send: [head, { until: 'heads', count: 1 }, last],
    expect: { answers: [], end: 'gone', app: [], appCut: true },
  };
}

/** The downstream goes within a head: nobody hears of it. */
function noHead(name: string, head: string): Case {
  return { name, send: [head, 'FIN'], expect: { answers: [], end: 'gone', app: [] } };
}

const cuts: readonly Case[] = [
  stops('before the first chunk', ''),
  stops('within a size', '5'),
  stops('behind a size', '5\r\n'),
  stops('within the data', '5\r\nhel'),
  stops('behind the data', '5\r\nhello'),
  stops('behind a chunk', '5\r\nhello\r\n'),
  stops('within the last size', '5\r\nhello\r\n0'),
  stops('behind the last size', '5\r\nhello\r\n0\r\n'),
  stops('within the last line end', '5\r\nhello\r\n0\r\n\r'),
  stops('within a trailer', '5\r\nhello\r\n0\r\nX: 1'),
  stops('behind a trailer', '5\r\nhello\r\n0\r\nX: 1\r\n'),
  stops('within the data, by a reset', '5\r\nhel', 'RST'),
  stops('behind a chunk, by a reset', '5\r\nhello\r\n', 'RST'),
  stopsAt('before a body of a length', post('Content-Length: 5\r\n', '')),
  stopsAt('within a body of a length', post('Content-Length: 5\r\n', 'hell')),
  stopsAt('within a body of a length, by a reset', post('Content-Length: 5\r\n', 'hell'), 'RST'),
  noHead('within a request line', 'GET / HT'),
  noHead('behind a request line', 'GET / HTTP/1.1\r\n'),
  noHead('within a head', `GET / ${HEAD}`),
  noHead('before the last LF of a head', `GET / ${HEAD}\r`),
  noHead('behind an empty line', '\r\n'),
  noHead('at once', ''),
  {
    name: 'behind a whole request: it still gets its answer',
    send: [get(), 'FIN'],
    expect: { answers: [200], end: 'closed', app: ['GET / HTTP/1.1'] },
  },
  {
    name: 'behind a whole request and an empty line: that is no other request',
    send: [`${get()}\r\n`, 'FIN'],
    expect: { answers: [200], end: 'closed', app: ['GET / HTTP/1.1'] },
  },
  {
    name: 'behind a whole request and half an empty line',
    send: [`${get()}\r`, 'FIN'],
    expect: { answers: [200], end: 'gone', app: ['GET / HTTP/1.1'] },
  },
  {
    name: 'behind a whole body: it still gets its answer',
    send: [chunked('5\r\nhello\r\n0\r\n\r\n'), 'FIN'],
    expect: { answers: [200], end: 'closed', app: [{ body: 'hello' }] },
  },
  {
    name: 'behind two whole requests: both get their answers',
    send: [get('', '/a') + get('', '/b'), 'FIN'],
    expect: { answers: [200, 200], end: 'closed', app: ['GET /a HTTP/1.1', 'GET /b HTTP/1.1'] },
  },
  {
    name: 'behind a whole request and a half: the whole one gets its answer',
    send: [`${get('', '/a')}GET /b HTTP/1.1\r\nHo`, 'FIN'],
    expect: { answers: [200], end: 'gone', app: ['GET /a HTTP/1.1'] },
  },
];

/** Chunks with these trailer lines. */
function trailing(lines: string): string {
  return chunked(`5\r\nhello\r\n0\r\n${lines}\r\n`);
}

/** Trailers that must not get through, and do not make the request a bad one: dropped, with or without the good ones. */
function filtered(field: string): Case {
  return {
    name: `${field} is filtered out`,
    send: trailing(`${field}\r\n`) + get('', '/b'),
    expect: served({ body: 'hello', trailers: [] }, 'GET /b HTTP/1.1'),
  };
}

function badTrailer(name: string, lines: string): Case {
  return { name, send: trailing(lines) + SMUGGLED, expect: BROKEN };
}

const trailers: readonly Case[] = [
  ...[
    'Content-Length: 50',
    'Transfer-Encoding: chunked',
    'Transfer-Encoding: gzip',
    'Host: spoof.test',
    'Authorization: Bearer spoof',
    'Proxy-Authorization: Basic spoof',
    'X-Forwarded-Client-Cert: By=spoof',
    'x-forwarded-client-cert: By=spoof',
    'X_Forwarded_Client_Cert: By=spoof',
    'X-FORWARDED-CLIENT-CERT: By=spoof',
    'X-Forwarded_Client-Cert: By=spoof',
    'Connection: close',
    'Connection: spoof',
    'Keep-Alive: timeout=5',
    'TE: trailers',
    'Trailer: X',
    'Upgrade: websocket',
    'Proxy-Connection: close',
    'Expect: 100-continue',
    'Cookie: a=spoof',
    'Content-Type: text/spoof',
  ]
    .filter((field) => !/^(Cookie|Content-Type)/.test(field))
    .map(filtered),
  {
    name: 'never merged into the head',
    send: trailing('X-Late: 1\r\nX-Denied: yes\r\n'),
    expect: served({ body: 'hello', lacks: ['x-late', 'x-denied'] }),
  },
  {
    name: 'a name of the head is not changed by a trailer',
    send: post('Transfer-Encoding: chunked\r\nX-User: me\r\n', '5\r\nhello\r\n0\r\nX-User: them\r\n\r\n'),
    expect: served({ body: 'hello', has: ['x-user: me'] }),
  },
  {
    name: 'one',
    send: trailing('X-Sum: abc\r\n') + get('', '/b'),
    expect: served({ body: 'hello', trailers: ['X-Sum: abc'] }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'several',
    send: trailing('A: 1\r\nB: 2\r\nA: 3\r\n') + get('', '/b'),
    expect: served({ body: 'hello', trailers: ['A: 1', 'B: 2', 'A: 3'] }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'announced',
    send: post('Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n', '5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n'),
    expect: served({ body: 'hello' }),
  },
  {
    name: 'announced and not sent',
    send: post('Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n', '5\r\nhello\r\n0\r\n\r\n'),
    expect: served({ body: 'hello' }),
  },
  badTrailer('an LF ends a line', 'X: 1\n'),
  badTrailer('an LF between two lines', 'X: 1\nY: 2\r\n'),
  badTrailer('a CR ends a line', 'X: 1\rY: 2\r\n'),
  badTrailer('a NUL in a value', 'X: a\0b\r\n'),
  badTrailer('a control byte in a value', 'X: a\x01b\r\n'),
  badTrailer('DEL in a value', 'X: a\x7fb\r\n'),
  badTrailer('a NUL in a name', 'X\0: 1\r\n'),
  badTrailer('a name that is no token', 'X(: 1\r\n'),
  badTrailer('a space before the colon', 'X : 1\r\n'),
  badTrailer('an empty name', ': 1\r\n'),
  badTrailer('a line without colon', 'nonsense\r\n'),
  badTrailer('a fold', 'X: 1\r\n 2\r\n'),
  badTrailer('a fold at the start', ' X: 1\r\n'),
  badTrailer('white space alone', ' \r\n'),
  badTrailer('a request for a trailer', 'GET /smuggled HTTP/1.1\r\nHost: app.test\r\n'),
  badTrailer('100 KiB of one', `X: ${'a'.repeat(102_400)}\r\n`),
  badTrailer('10,000 of them', 'X: 1\r\n'.repeat(10_000)),
  badTrailer('more than a hundred of them', 'X: 1\r\n'.repeat(150)),
];

export const chunks = { sizes, data, extensions, cuts, trailers };
