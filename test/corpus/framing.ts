/** Point 2: one framing, or none is believed (RFC 9112 §6; RFC 9110 §8.6; request smuggling in all its spellings). */
import { type Case, chunked, get, HEAD, HOST, post, refused, SMUGGLED, served } from './case.ts';

/** `Content-Length` lines that tell no length: behind them a body of five bytes and a request that must not be read. */
function badLength(name: string, lines: string): Case {
  return { name, send: post(lines, `hello${SMUGGLED}`), expect: refused() };
}

function length(value: string): Case {
  return badLength(JSON.stringify(value).slice(0, 60), `Content-Length: ${value}\r\n`);
}

const contentLength: readonly Case[] = [
  ...[
    '+5',
    '-5',
    '-0',
    '+0',
    '0x5',
    '0X5',
    '5x',
    'x5',
    '5 5',
    '5\t5',
    '5.0',
    '5.',
    '.5',
    '5e0',
    '1e1',
    '5;',
    '5,',
    ',5',
    '"5"',
    "'5'",
    '(5)',
    '5 ;a',
    'five',
    '0b101',
    '0o5',
    '5_0',
    '5_',
    '_5',
    '٥',
    '\xb2',
    '\xb5',
    '5\xa0',
    '\xa05',
    '5\x0b',
    '\x0c5',
    '5\0',
    'NaN',
    'Infinity',
    '5-',
    '5+0',
    '5/1',
    '5%',
    '%35',
    '0x',
    '#5',
    '$5',
    '5 bytes',
    'chunked',
  ].map((value) => length(Buffer.from(value, value === '٥' ? 'utf8' : 'latin1').toString('latin1'))),
  badLength('an empty value', 'Content-Length:\r\n'),
  badLength('white space', 'Content-Length: \t \r\n'),
  length('5, 6'),
  length('6, 5'),
  length('5,6'),
  length('0, 5'),
  length('5, 0'),
  length('5, x'),
  length('5,,5'),
  length('5, '),
  length('05, 6'),
  badLength('2^53', 'Content-Length: 9007199254740992\r\n'),
  badLength('2^53 + 1', 'Content-Length: 9007199254740993\r\n'),
  badLength('2^63', 'Content-Length: 9223372036854775808\r\n'),
  badLength('2^64', 'Content-Length: 18446744073709551616\r\n'),
  badLength('2^64 + 5', 'Content-Length: 18446744073709551621\r\n'),
  badLength('2^32 · 2^32 + 5 by many digits', `Content-Length: 1${'0'.repeat(30)}5\r\n`),
  badLength('a thousand digits', `Content-Length: ${'9'.repeat(1_000)}\r\n`),
  badLength('two that differ', 'Content-Length: 5\r\nContent-Length: 6\r\n'),
  badLength('two that differ, the other way', 'Content-Length: 6\r\nContent-Length: 5\r\n'),
  badLength('two that differ, apart', 'Content-Length: 5\r\nX: 1\r\ncontent-length: 6\r\n'),
  badLength('zero and another', 'Content-Length: 0\r\nContent-Length: 5\r\n'),
  badLength('another and zero', 'Content-Length: 5\r\nContent-Length: 0\r\n'),
  badLength('three, one differs', 'Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n'),
  badLength('one is bad', 'Content-Length: 5\r\nContent-Length: x\r\n'),
  badLength('one is empty', 'Content-Length: 5\r\nContent-Length:\r\n'),
  badLength('one is a list that differs', 'Content-Length: 5\r\nContent-Length: 5, 6\r\n'),
  {
    name: 'five',
    send: post('Content-Length: 5\r\n', 'hello'),
    expect: served({ line: 'POST / HTTP/1.1', body: 'hello', framing: 'length', has: ['content-length: 5'] }),
  },
  {
    name: 'zero',
    send: post('Content-Length: 0\r\n', ''),
    expect: served({ line: 'POST / HTTP/1.1', body: '' }),
  },
  {
    name: 'no length and no body',
    send: post('', ''),
    expect: served({ line: 'POST / HTTP/1.1', framing: 'none' }),
  },
  {
    name: 'a body of a GET',
    send: `GET / ${HEAD}Content-Length: 5\r\n\r\nhello${get('', '/b')}`,
    expect: served({ line: 'GET / HTTP/1.1', body: 'hello' }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'a body of a DELETE',
    send: `DELETE / ${HEAD}Content-Length: 5\r\n\r\nhello${get('', '/b')}`,
    expect: served({ line: 'DELETE / HTTP/1.1', body: 'hello' }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'a body of a HEAD',
    send: `HEAD / ${HEAD}Content-Length: 5\r\n\r\nhello`,
    app: 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n',
    expect: {
      answers: [{ status: 200, toHead: true }],
      end: 'open',
      app: [{ line: 'HEAD / HTTP/1.1', body: 'hello' }],
    },
  },
  {
    name: 'a body that looks like a request',
    send: post(`Content-Length: ${SMUGGLED.length}\r\n`, SMUGGLED) + get('', '/b'),
    expect: served({ line: 'POST / HTTP/1.1', body: SMUGGLED }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'white space around it',
    send: post('Content-Length: \t 5 \t\r\n', 'hello'),
    expect: served({ body: 'hello', has: ['content-length: 5'] }),
  },
  {
    name: 'leading zeros are passed on as they were understood',
    send: post('Content-Length: 0005\r\n', 'hello'),
    expect: served({ body: 'hello', has: ['content-length: 5'] }),
  },
  {
    name: 'eight is not octal',
    send: post('Content-Length: 010\r\n', 'helloworld'),
    expect: served({ body: 'helloworld', has: ['content-length: 10'] }),
  },
  {
    // RFC 9112 §6.3: identical values may be taken as one or refused; either way there is one reading.
    name: 'two that are the same become one, or are refused',
    send: post('Content-Length: 5\r\nContent-Length: 5\r\n', 'hello'),
    expect: served({ body: 'hello', has: ['content-length: 5'] }),
  },
];

/** Names that are not Content-Length: they frame nothing. */
const lengthTwins: readonly Case[] = [
  ...[
    'Content_Length',
    'Content-Length-X',
    'X-Content-Length',
    'Contentlength',
    'Content.Length',
    'Content-Lengt',
  ].map(
    (name): Case => ({
      name: `${name} frames nothing`,
      send: post(`${name}: 5\r\n`, '') + get('', '/b'),
      expect: served({ line: 'POST / HTTP/1.1', framing: 'none' }, 'GET /b HTTP/1.1'),
    }),
  ),
  {
    name: 'Content_Length beside Content-Length',
    send: post('Content_Length: 50\r\nContent-Length: 5\r\n', 'hello'),
    expect: served({ body: 'hello', has: ['content-length: 5'] }),
  },
  {
    name: 'CONTENT-LENGTH frames',
    send: post('CONTENT-LENGTH: 5\r\n', 'hello') + get('', '/b'),
    expect: served({ body: 'hello' }, 'GET /b HTTP/1.1'),
  },
];

const CHUNKS = '5\r\nhello\r\n0\r\n\r\n';

function badCoding(name: string, lines: string, status: number | readonly number[] = [400, 501]): Case {
  return { name, send: post(lines, CHUNKS + SMUGGLED), expect: refused(status) };
}

function coding(value: string): Case {
  return badCoding(JSON.stringify(value), `Transfer-Encoding: ${value}\r\n`);
}

const transferEncoding: readonly Case[] = [
  ...[
    'identity',
    'gzip',
    'deflate',
    'compress',
    'br',
    'x-gzip',
    'gzip, chunked',
    'gzip,chunked',
    'chunked, gzip',
    'chunked, identity',
    'identity, chunked',
    'chunked, chunked',
    'chunked,chunked',
    'chunked,',
    ',chunked',
    'chunked, ',
    ' , chunked',
    ',',
    ',,',
    'chunked;',
    'chunked; q=1',
    'chunked;a=b',
    'chunked ;',
    '"chunked"',
    "'chunked'",
    'chunk',
    'chunke',
    'chunkedx',
    'xchunked',
    'x-chunked',
    'chunked-x',
    'not-chunked',
    'chunked chunked',
    'chunked x',
    'x chunked',
    'chu nked',
    'chunked\x0b',
    '\x0bchunked',
    '\x0cchunked',
    'chunked\x0c',
    'chunked\0',
    '\0chunked',
    'chunked\x7f',
    'chunked\xa0',
    '\xa0chunked',
    'chunked\x85',
    'chun\xe7ed',
    '\xffchunked',
    '[chunked]',
    '(chunked)',
    '<chunked>',
    'chunked()',
    'chunked=1',
    '=chunked',
    ':chunked',
    ': chunked',
    'chunked:',
    'trailers',
    '0',
    'none',
    'cow',
    'chunked, cow',
    'cow, chunked',
    'chunkedchunked',
    'chunKed\t,\tchunked',
    'hunked',
    'chunked/1',
    'Chunked, Identity',
    'none, chunked',
    'null',
    '\\chunked',
    'c\\hunked',
  ].map(coding),
  badCoding('an empty value', 'Transfer-Encoding:\r\n'),
  badCoding('white space', 'Transfer-Encoding: \t\r\n'),
  badCoding('twice', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n'),
  badCoding('twice, apart', 'Transfer-Encoding: chunked\r\nX: 1\r\nTRANSFER-encoding: chunked\r\n'),
  badCoding('identity behind it', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n'),
  badCoding('identity before it', 'Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n'),
  badCoding(
    'gzip before it, on a line of its own',
    'Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n',
  ),
  badCoding('an empty one before it', 'Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n'),
  badCoding('an empty one behind it', 'Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n'),
  badCoding('a strange one behind it', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n'),
  badCoding('a fold before the value', 'Transfer-Encoding:\r\n chunked\r\n'),
  badCoding('a fold behind the value', 'Transfer-Encoding: chunked\r\n \r\n'),
  badCoding('a fold within a list', 'Transfer-Encoding: identity,\r\n chunked\r\n'),
  badCoding('an LF before the value', 'Transfer-Encoding: \nchunked\r\n'),
  badCoding('a CR before the value', 'Transfer-Encoding: \rchunked\r\n'),
  badCoding('a CR behind the value', 'Transfer-Encoding: chunked\r\r\n'),
  badCoding('an LF behind the value', 'Transfer-Encoding: chunked\n\r\n'),
  badCoding('an LF before the line', 'X: 1\nTransfer-Encoding: chunked\r\n'),
  badCoding('a NUL before the name', '\0Transfer-Encoding: chunked\r\n'),
  badCoding('a byte order mark before the name', '\xef\xbb\xbfTransfer-Encoding: chunked\r\n'),
  badCoding('a NUL in the name', 'Transfer\0Encoding: chunked\r\n'),
  ...['chunked', 'Chunked', 'CHUNKED', 'cHuNkEd'].map(
    (value): Case => ({
      name: `${value} is chunked`,
      send: post(`Transfer-Encoding: ${value}\r\n`, CHUNKS) + get('', '/b'),
      expect: served({ body: 'hello', framing: 'chunked' }, 'GET /b HTTP/1.1'),
    }),
  ),
  {
    name: 'white space around it',
    send: post('Transfer-Encoding:\t chunked \t\r\n', CHUNKS),
    expect: served({ body: 'hello', framing: 'chunked', has: ['transfer-encoding: chunked'] }),
  },
  {
    name: 'without a space',
    send: post('tRANSFER-eNCODING:chunked\r\n', CHUNKS),
    expect: served({ body: 'hello', framing: 'chunked' }),
  },
  {
    name: 'a body of a GET in chunks',
    send: `GET / ${HEAD}Transfer-Encoding: chunked\r\n\r\n${CHUNKS}${get('', '/b')}`,
    expect: served({ line: 'GET / HTTP/1.1', body: 'hello' }, 'GET /b HTTP/1.1'),
  },
];

/** Names that are not Transfer-Encoding: they frame nothing, and nobody behind us may be made to believe that they do. */
const codingTwins: readonly Case[] = [
  ...[
    'Transfer_Encoding',
    'X-Transfer-Encoding',
    'TransferEncoding',
    'Transfer.Encoding',
    'Transfer-Encodin',
    'Transfer-Encodings',
    'TE-Transfer-Encoding',
  ].map(
    (name): Case => ({
      name: `${name} frames nothing`,
      send: post(`${name}: chunked\r\nContent-Length: 5\r\n`, 'hello') + get('', '/b'),
      expect: served({ body: 'hello', framing: 'length' }, 'GET /b HTTP/1.1'),
    }),
  ),
];

const both: readonly Case[] = [
  badCoding('Content-Length before', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', 400),
  badCoding('Content-Length behind', 'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', 400),
  badCoding(
    'a length that fits the chunks',
    `Content-Length: ${CHUNKS.length}\r\nTransfer-Encoding: chunked\r\n`,
    400,
  ),
  badCoding('a length of zero', 'Content-Length: 0\r\nTransfer-Encoding: chunked\r\n', 400),
  badCoding('two lengths', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n', 400),
  badCoding('a bad length', 'Content-Length: x\r\nTransfer-Encoding: chunked\r\n', 400),
  badCoding('an empty length', 'Content-Length:\r\nTransfer-Encoding: chunked\r\n', 400),
  badCoding('a bad coding', 'Content-Length: 5\r\nTransfer-Encoding: x\r\n'),
  badCoding('identity', 'Content-Length: 5\r\nTransfer-Encoding: identity\r\n'),
  badCoding('an empty coding', 'Content-Length: 5\r\nTransfer-Encoding:\r\n'),
  badCoding(
    'nominated by Connection',
    'Connection: Content-Length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n',
    400,
  ),
  badCoding(
    'the coding nominated by Connection',
    'Connection: Transfer-Encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n',
    400,
  ),
];

const CODED_10 = `POST / HTTP/1.0\r\nHost: ${HOST}\r\nTransfer-Encoding: chunked\r\n`;
const in10: readonly Case[] = [
  { name: 'Transfer-Encoding', send: `${CODED_10}\r\n${CHUNKS}${SMUGGLED}`, expect: refused() },
  {
    name: 'Transfer-Encoding and keep-alive',
    send: `${CODED_10}Connection: keep-alive\r\n\r\n${CHUNKS}${SMUGGLED}`,
    expect: refused(),
  },
  {
    name: 'Transfer-Encoding and Content-Length',
    send: `${CODED_10}Content-Length: 5\r\n\r\n${CHUNKS}${SMUGGLED}`,
    expect: refused(),
  },
  {
    name: 'a bad Content-Length',
    send: `POST / HTTP/1.0\r\nHost: ${HOST}\r\nContent-Length: 5x\r\n\r\nhello`,
    expect: refused(),
  },
  {
    name: 'Content-Length',
    send: `POST / HTTP/1.0\r\nHost: ${HOST}\r\nContent-Length: 5\r\n\r\nhello`,
    expect: { answers: [200], end: 'closed', app: [{ line: 'POST / HTTP/1.1', body: 'hello' }] },
  },
];

/** The classics, as published: both hops must read one and the same. */
const smuggling: readonly Case[] = [
  {
    name: 'CL.TE',
    send: post('Content-Length: 13\r\nTransfer-Encoding: chunked\r\n', `0\r\n\r\n${SMUGGLED}`),
    expect: refused(),
  },
  {
    name: 'TE.CL',
    send: post('Content-Length: 4\r\nTransfer-Encoding: chunked\r\n', `5c\r\n${SMUGGLED}\r\n0\r\n\r\n`),
    expect: refused(),
  },
  {
    name: 'TE.TE by a twin',
    send: post('Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n', `5c\r\n${SMUGGLED}`),
    expect: refused([400, 501]),
  },
  {
    name: 'CL.0',
    send: `POST / ${HEAD}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    expect: served({ body: SMUGGLED }),
  },
  {
    name: '0.CL',
    send: `GET / ${HEAD}Content-Length : ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    expect: refused(),
  },
  {
    name: 'TE.0',
    send: `OPTIONS / ${HEAD}Transfer-Encoding: chunked\r\n\r\n${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`,
    expect: served({ line: 'OPTIONS / HTTP/1.1', body: SMUGGLED }),
  },
  {
    name: 'a request in the value of a field',
    send: `GET / ${HEAD}X: ${SMUGGLED.replaceAll('\r\n', ' ')}\r\n\r\n`,
    expect: served('GET / HTTP/1.1'),
  },
  {
    name: 'a head within a chunk',
    send: chunked(`${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`) + get('', '/b'),
    expect: served({ body: SMUGGLED }, 'GET /b HTTP/1.1'),
  },
  {
    name: 'a chunked body that ends within a Content-Length of the second request',
    send: chunked(CHUNKS) + post('Content-Length: 5\r\n', 'world', '/b') + get('', '/c'),
    expect: served({ body: 'hello' }, { line: 'POST /b HTTP/1.1', body: 'world' }, 'GET /c HTTP/1.1'),
  },
  {
    name: 'a method with a body that is not asked for one',
    send: `TRACE / ${HEAD}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    // RFC 9110 §9.3.8: a client must not send one; the body is never read as a request.
    expect: served({ line: 'TRACE / HTTP/1.1', body: SMUGGLED }),
  },
];

export const framing = { contentLength, lengthTwins, transferEncoding, codingTwins, both, in10, smuggling };
