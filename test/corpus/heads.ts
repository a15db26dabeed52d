/** Point 1, lines and fields: what stands where no byte of it may be doubted (RFC 9112 §2, §3, §5; RFC 9110 §5). */
import { type Case, get, HEAD, HOST, refused, SMUGGLED, served } from './case.ts';

/** Refused, with a request behind it that must never be read. */
function bad(name: string, bytes: string, status: number | readonly number[] = 400): Case {
  return { name, send: bytes + SMUGGLED, expect: refused(status) };
}

const hex = (byte: number): string => `\\x${byte.toString(16).padStart(2, '0')}`;
const char = String.fromCharCode;

// RFC 9110 §5.6.2: what is no tchar.
const DELIMITERS = ['(', ')', ',', '/', ';', '<', '=', '>', '?', '@', '[', '\\', ']', '{', '}', '"'];
const CONTROLS = Array.from({ length: 32 }, (_, i) => i).filter((byte) => ![9, 10, 13].includes(byte));

const lineEnds: readonly Case[] = [
  bad('bare LF ends the request line', `GET / HTTP/1.1\nHost: ${HOST}\r\n\r\n`),
  bad('bare LF ends every line', `GET / HTTP/1.1\nHost: ${HOST}\n\n`),
  bad('bare LF ends a field line', `GET / ${HEAD}X: 1\nY: 2\r\n\r\n`),
  bad('bare LF ends the last field line', `GET / ${HEAD}X: 1\n\r\n`),
  bad('bare LF ends the head', `GET / ${HEAD}X: 1\r\n\n`),
  bad('bare LF hides a Content-Length', `GET / ${HEAD}X: 1\nContent-Length: 40\r\n\r\n`),
  bad('bare LF hides a Transfer-Encoding', `POST / ${HEAD}X: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`),
  bad('bare CR ends the request line', `GET / HTTP/1.1\rHost: ${HOST}\r\n\r\n`),
  bad('bare CR ends a field line', `GET / ${HEAD}X: 1\rY: 2\r\n\r\n`),
  bad('bare CR ends every line', `GET / HTTP/1.1\rHost: ${HOST}\r\r`.padEnd(60, '\r')),
  bad('bare CR within a value', `GET / ${HEAD}X: a\rb\r\n\r\n`),
  bad('bare CR behind a value', `GET / ${HEAD}X: a\r\r\n\r\n`),
  bad('bare CR before a value', `GET / ${HEAD}X:\ra\r\n\r\n`),
  bad('bare CR within a name', `GET / ${HEAD}X\rY: a\r\n\r\n`),
  bad('bare CR at the start of a field line', `GET / ${HEAD}\rX: a\r\n\r\n`),
  bad('bare CR in the request line', `GET /\r HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('CR LF CR where the head should end', `GET / ${HEAD}\rX`),
  bad('LF CR for CR LF', `GET / HTTP/1.1\n\rHost: ${HOST}\n\r\n\r`),
  bad('CR CR LF behind the request line', `GET / HTTP/1.1\r\r\nHost: ${HOST}\r\n\r\n`),
  bad('CR CR LF before a framing field', `POST / ${HEAD}X: 1\r\r\nContent-Length: 5\r\n\r\nhello`),
  bad('a vertical tab for a line end', `GET / HTTP/1.1\x0bHost: ${HOST}\r\n\r\n`),
  bad('NEL for a line end', `GET / HTTP/1.1\x85Host: ${HOST}\r\n\r\n`),
];

const emptyLines: readonly Case[] = [
  { name: 'one empty line before the request line', send: `\r\n${get()}`, expect: served('GET / HTTP/1.1') },
  {
    name: 'one empty line between two requests',
    send: `${get('', '/a')}\r\n${get('', '/b')}`,
    expect: served('GET /a HTTP/1.1', 'GET /b HTTP/1.1'),
  },
  {
    name: 'one empty line behind a body',
    send: `POST /a ${HEAD}Content-Length: 2\r\n\r\nhi\r\n${get('', '/b')}`,
    expect: served('POST /a HTTP/1.1', 'GET /b HTTP/1.1'),
  },
  bad('a bare LF before the request line', `\n${get()}`),
  bad('a bare CR before the request line', `\r${get()}`),
  bad('a space before the request line', ` ${get()}`),
  bad('a tab before the request line', `\t${get()}`),
  bad('a NUL before the request line', `\0${get()}`),
  bad('an empty line of a space', ` \r\n${get()}`),
  bad('a byte order mark before the request line', `\xef\xbb\xbf${get()}`),
];

const requestLine: readonly Case[] = [
  bad('HTTP/0.9', 'GET /\r\n\r\n'),
  bad('HTTP/0.9 with a Host', `GET /\r\nHost: ${HOST}\r\n\r\n`),
  bad('a method alone', `GET\r\nHost: ${HOST}\r\n\r\n`),
  bad('a method and a space', `GET \r\nHost: ${HOST}\r\n\r\n`),
  bad('no target', `GET HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('an empty target', `GET  HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('no method', `/ HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('an empty method', ` / HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('two spaces behind the method', `GET  / HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('two spaces before the version', `GET /  HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a space at the end', `GET / HTTP/1.1 \r\nHost: ${HOST}\r\n\r\n`),
  bad('a tab at the end', `GET / HTTP/1.1\t\r\nHost: ${HOST}\r\n\r\n`),
  bad('a tab behind the method', `GET\t/ HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a tab before the version', `GET /\tHTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a vertical tab behind the method', `GET\x0b/ HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a form feed before the version', `GET /\x0cHTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a fourth word', `GET / HTTP/1.1 HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a second target', `GET / /admin HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
  bad('a field for a request line', `Host: ${HOST}\r\n\r\n`),
  bad('an answer for a request', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'),
  bad('nothing but line ends', '\r\n\r\n\r\n\r\n'),
  {
    name: 'the preface of HTTP/2 behind a request',
    send: `${get()}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
    expect: { answers: [200, { status: [400, 505] }], end: 'closed', app: ['GET / HTTP/1.1'] },
  },
  bad('a comment in the request line', `GET / HTTP/1.1 (x)\r\nHost: ${HOST}\r\n\r\n`),
  ...[
    'HTTP/1.2',
    'HTTP/2.0',
    'HTTP/2',
    'HTTP/3',
    'HTTP/9.9',
    'HTTP/11',
    'HTTP/1.10',
    'HTTP/01.1',
    'HTTP/1.01',
  ].map((version) => bad(version, `GET / ${version}\r\nHost: ${HOST}\r\n\r\n`, [400, 505])),
  ...[
    'http/1.1',
    'Http/1.1',
    'HTTP1.1',
    'HTTP/',
    'HTTP',
    'HTTP/1',
    'HTTP/1.',
    'HTTP/.1',
    'HTTP/1,1',
    'HTTP/1.1.1',
    'HTTP/a.b',
  ].map((version) => bad(version, `GET / ${version}\r\nHost: ${HOST}\r\n\r\n`, [400, 505])),
  ...[
    'HTTP /1.1',
    'HTTP/ 1.1',
    'HTTP/1 .1',
    'HTTP/1. 1',
    'HTTP/+1.1',
    'HTTP/-1.1',
    'HTTP/1.1x',
    'HTTPS/1.1',
    'ICY/1.1',
    'RTSP/1.0',
    'SIP/2.0',
  ].map((version) => bad(version, `GET / ${version}\r\nHost: ${HOST}\r\n\r\n`, [400, 505])),
];

const methods: readonly Case[] = [
  ...[
    'GET',
    'POST',
    'PUT',
    'DELETE',
    'PATCH',
    'OPTIONS',
    'PROPFIND',
    'MKCOL',
    'M-SEARCH',
    'QUERY',
    'X',
    "!#$%&'*+-.^_`|~",
  ].map(
    (method): Case => ({
      name: `the method ${method}`,
      send: `${method} / ${HEAD}Content-Length: 0\r\n\r\n`,
      expect: served(`${method} / HTTP/1.1`),
    }),
  ),
  ...['get', 'Get', 'pOST', 'connect', 'purge'].map(
    (method): Case => ({
      name: `the method ${method}, as it is`,
      send: `${method} / ${HEAD}Content-Length: 0\r\n\r\n`,
      expect: served(`${method} / HTTP/1.1`),
    }),
  ),
  ...DELIMITERS.map((delimiter) => bad(`the method G${delimiter}T`, `G${delimiter}T / ${HEAD}\r\n`)),
  ...[0, 1, 8, 9, 0x0b, 0x1b, 0x7f, 0x80, 0xe9, 0xff].map((byte) =>
    bad(`the method with ${hex(byte)}`, `GE${char(byte)}T / ${HEAD}\r\n`),
  ),
  bad('a method of another request line', `GET / HTTP/1.1\r\n / ${HEAD}\r\n`),
  {
    name: 'a long method',
    send: `${'M'.repeat(500)} / ${HEAD}\r\n`,
    expect: served(`${'M'.repeat(500)} / HTTP/1.1`),
  },
];

const names: readonly Case[] = [
  ...DELIMITERS.map((delimiter) => bad(`a name with ${delimiter}`, `GET / ${HEAD}X${delimiter}Y: 1\r\n\r\n`)),
  ...[...CONTROLS, 0x7f, 0x80, 0xa0, 0xe9, 0xff].map((byte) =>
    bad(`a name with ${hex(byte)}`, `GET / ${HEAD}X${char(byte)}Y: 1\r\n\r\n`),
  ),
  bad('a space before the colon', `GET / ${HEAD}X : 1\r\n\r\n`),
  bad('a tab before the colon', `GET / ${HEAD}X\t: 1\r\n\r\n`),
  bad('a space before the colon of Content-Length', `POST / ${HEAD}Content-Length : 5\r\n\r\nhello`),
  bad(
    'a space before the colon of Transfer-Encoding',
    `POST / ${HEAD}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`,
  ),
  bad(
    'a tab before the colon of Transfer-Encoding',
    `POST / ${HEAD}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n`,
  ),
  bad(
    'a vertical tab before the colon of Transfer-Encoding',
    `POST / ${HEAD}Transfer-Encoding\x0b: chunked\r\n\r\n0\r\n\r\n`,
  ),
  bad('a NUL behind the name Content-Length', `POST / ${HEAD}Content-Length\0: 5\r\n\r\nhello`),
  bad('a space before the colon of Host', `GET / HTTP/1.1\r\nHost : ${HOST}\r\n\r\n`),
  bad('a space within a name', `GET / ${HEAD}X Y: 1\r\n\r\n`),
  bad('a space within Transfer-Encoding', `POST / ${HEAD}Transfer Encoding: chunked\r\n\r\n0\r\n\r\n`),
  bad('an empty name', `GET / ${HEAD}: 1\r\n\r\n`),
  bad('a space for a name', `GET / ${HEAD} : 1\r\n\r\n`),
  bad('a line without colon', `GET / ${HEAD}nonsense\r\n\r\n`),
  bad('a line without colon, as the first', `GET / HTTP/1.1\r\nnonsense\r\nHost: ${HOST}\r\n\r\n`),
  bad('a line without colon, as the last', `GET / ${HEAD}X: 1\r\nnonsense\r\n\r\n`),
  bad('Transfer-Encoding without colon', `POST / ${HEAD}Transfer-Encoding chunked\r\n\r\n0\r\n\r\n`),
  bad('a colon first', `POST / ${HEAD}:Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`),
  bad('a name in quotes', `GET / ${HEAD}"X": 1\r\n\r\n`),
  bad('a pseudo header of HTTP/2', `GET / ${HEAD}:path: /admin\r\n\r\n`),
  {
    name: 'every token character in a name',
    send: get("!#$%&'*+-.^_`|~09azAZ: 1\r\n"),
    expect: served({ line: 'GET / HTTP/1.1', has: ["!#$%&'*+-.^_`|~09azAZ: 1"] }),
  },
  {
    name: 'a long name',
    send: get(`${'X'.repeat(5_000)}: 1\r\n`),
    expect: served({ has: [`${'x'.repeat(5_000)}: 1`] }),
  },
];

const folds: readonly Case[] = [
  bad('obs-fold by a space', `GET / ${HEAD}X: 1\r\n 2\r\n\r\n`),
  bad('obs-fold by a tab', `GET / ${HEAD}X: 1\r\n\t2\r\n\r\n`),
  bad('obs-fold by many spaces', `GET / ${HEAD}X: 1\r\n      2\r\n\r\n`),
  bad('obs-fold that looks like a field', `GET / ${HEAD}X: 1\r\n Y: 2\r\n\r\n`),
  bad('obs-fold of white space alone', `GET / ${HEAD}X: 1\r\n \r\n\r\n`),
  bad('obs-fold of white space, as the last line', `GET / ${HEAD}X: 1\r\n\t\r\n\r\n`),
  bad('obs-fold of an empty value', `GET / ${HEAD}X:\r\n 2\r\n\r\n`),
  bad('obs-fold of Host', `GET / HTTP/1.1\r\nHost:\r\n ${HOST}\r\n\r\n`),
  bad('obs-fold of Content-Length', `POST / ${HEAD}Content-Length:\r\n 5\r\n\r\nhello`),
  bad('obs-fold of Transfer-Encoding', `POST / ${HEAD}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n`),
  bad(
    'obs-fold that hides Transfer-Encoding',
    `POST / ${HEAD}X: 1\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  ),
  bad('white space before the first field', `GET / HTTP/1.1\r\n Host: ${HOST}\r\nHost: ${HOST}\r\n\r\n`),
  bad('a tab before the first field', `GET / HTTP/1.1\r\n\tX: 1\r\nHost: ${HOST}\r\n\r\n`),
  bad('obs-fold of the request line', `GET /\r\n HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`),
];

const valuesTable: readonly Case[] = [
  ...[...CONTROLS, 0x7f].map((byte) =>
    bad(`a value with ${hex(byte)}`, `GET / ${HEAD}X: a${char(byte)}b\r\n\r\n`),
  ),
  ...[0, 0x0b, 0x0c, 0x1f, 0x7f].map((byte) =>
    bad(`a value that begins with ${hex(byte)}`, `GET / ${HEAD}X:${char(byte)}b\r\n\r\n`),
  ),
  ...[0, 0x0b, 0x0c, 0x1f, 0x7f].map((byte) =>
    bad(`a value that ends with ${hex(byte)}`, `GET / ${HEAD}X: b${char(byte)}\r\n\r\n`),
  ),
  {
    name: 'white space around a value goes',
    send: get('A:1\r\nB:  2\r\nC:\t3\r\nD: 4 \r\nE: 5\t\r\nF: \t 6 \t \r\n'),
    expect: served({ has: ['a: 1', 'b: 2', 'c: 3', 'd: 4', 'e: 5', 'f: 6'] }),
  },
  {
    name: 'white space within a value stays',
    send: get('A: 1 2\r\nB: 3\t4\r\nC: 5 \t  6\r\n'),
    expect: served({ has: ['a: 1 2', 'b: 3\t4', 'c: 5 \t  6'] }),
  },
  {
    name: 'empty values',
    send: get('A:\r\nB: \r\nC:\t\r\n'),
    expect: served({ has: ['a: ', 'b: ', 'c: '] }),
  },
  {
    name: 'obs-text in a value',
    send: get('A: caf\xc3\xa9 \xff\x80\r\n'),
    expect: served({ has: ['a: caf\xc3\xa9 \xff\x80'] }),
  },
  {
    name: 'NBSP around a value stays',
    send: get('A: \xa0x\xa0\r\n'),
    expect: served({ has: ['a: \xa0x\xa0'] }),
  },
  {
    name: 'every visible character in a value',
    send: get('A: !"#$%&\'()*+,-./0123456789:;<=>?@AZ[\\]^_`az{|}~\r\n'),
    expect: served({ has: ['a: !"#$%&\'()*+,-./0123456789:;<=>?@AZ[\\]^_`az{|}~'] }),
  },
  {
    name: 'a quoted string is not looked into',
    send: get('A: "x, y\\" z\r\n'),
    expect: served({ has: ['a: "x, y\\" z'] }),
  },
  { name: 'a colon begins a value', send: get('A::b\r\n'), expect: served({ has: ['a: :b'] }) },
  {
    name: 'repeated fields stay apart and in order',
    send: get('A: 1\r\nB: x\r\nA: 2\r\na: 3\r\n'),
    expect: served({ has: ['a: 1', 'a: 2', 'a: 3', 'b: x'] }),
  },
  {
    name: 'a long value',
    send: get(`A: ${'v'.repeat(20_000)}\r\n`),
    expect: served({ has: [`a: ${'v'.repeat(20_000)}`] }),
  },
  {
    name: 'Cookie lines stay apart',
    send: get('Cookie: a=1\r\nCookie: b=2\r\n'),
    expect: served({ has: ['cookie: a=1', 'cookie: b=2'] }),
  },
];

/** What is no HTTP at all. */
const foreign: readonly Case[] = [
  bad('SSH', 'SSH-2.0-OpenSSH_9.6\r\n'),
  bad('SMTP', 'EHLO mail.example\r\n\r\n'),
  bad('Redis', '*1\r\n$4\r\nPING\r\n\r\n'),
  bad('noise', 'q\x90\x11\xffz\x02\r\n\r\n'),
  bad('the PROXY protocol', `PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n${get()}`),
];

export const heads = {
  lineEnds,
  emptyLines,
  requestLine,
  methods,
  names,
  folds,
  values: valuesTable,
  foreign,
};
