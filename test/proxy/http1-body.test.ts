/** Where bodies end, the same in any split of the same bytes; a broken one never ends clean. */
import t from 'tap';
import type { Framing } from '../../proxy/http/head.ts';
import { BodyError, bodyReader } from '../../proxy/http1/body.ts';
import { seededRandom } from './client-hello.ts';

interface Outcome {
  readonly end: 'done' | 'more' | 'error';
  /** What went on, without its chunk framing. */
  readonly payload: string;
  /** Bytes that belonged to the body; not told after an error. */
  readonly taken: number | null;
}

const chunked: Framing = { kind: 'chunked' };

/** Feeds the pieces as a connection would: what is left of one stays before the next. */
function read(framing: Framing, pieces: readonly Buffer[], plain: boolean): Outcome {
  const reader = bodyReader(framing, plain);
  const passed: Buffer[] = [];
  let taken = 0;
  let end: Outcome['end'] = 'more';
  try {
    for (const piece of pieces) {
      if (!reader.done) taken += reader.feed(piece, (part) => passed.push(Buffer.from(part)));
    }
    if (reader.done) end = 'done';
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    end = 'error';
  }
  const all = Buffer.concat(passed).toString('latin1');
  if (end === 'error') return { end, payload: '', taken: null };
  const payload = plain || framing.kind !== 'chunked' ? all : dechunked(all);
  return { end, payload, taken };
}

/** The payload of canonical chunks, complete or not; throws where they are not canonical. */
function dechunked(text: string): string {
  let payload = '';
  let rest = text;
  while (rest !== '' && !/^0\r\n(?:X: 1\r\n)?\r\n$/.test(rest)) {
    const size = /^([1-9A-Fa-f][0-9A-Fa-f]*)\r\n/.exec(rest);
    if (size === null) throw new Error(`no canonical chunk: ${JSON.stringify(rest.slice(0, 20))}`);
    const length = Number.parseInt(size[1] ?? '', 16);
    payload += rest.slice(size[0].length, size[0].length + length);
    if (rest.slice(size[0].length + length, size[0].length + length + 2) !== '\r\n')
      throw new Error('no CRLF');
    rest = rest.slice(size[0].length + length + 2);
  }
  return payload;
}

/** The same bytes whole, byte by byte, in every two pieces, and in some random ones. */
function splits(text: string): Buffer[][] {
  const bytes = Buffer.from(text, 'latin1');
  const all: Buffer[][] = [[bytes], [...bytes].map((byte) => Buffer.of(byte))];
  for (let cut = 1; cut < bytes.length; cut++) all.push([bytes.subarray(0, cut), bytes.subarray(cut)]);
  const random = seededRandom(bytes.length);
  for (let round = 0; round < 20; round++) {
    const pieces: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) {
      const size = 1 + random(5);
      pieces.push(bytes.subarray(at, at + size));
      at += size;
    }
    all.push(pieces);
  }
  return all;
}

const HELLO = '5\r\nhello\r\n';
const END = '0\r\n\r\n';

t.test('chunked bodies that end', async (t) => {
  const rows: [title: string, body: string, payload: string, after?: string][] = [
    ['empty', END, ''],
    ['one chunk', HELLO + END, 'hello'],
    ['upper-case hex', `A\r\n0123456789\r\n${END}`, '0123456789'],
    ['leading zeros', `0005\r\nhello\r\n000\r\n\r\n`, 'hello'],
    ['an extension', `5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n`, 'hello'],
    ['trailers', `${HELLO}0\r\nX: 1\r\nHost: evil\r\n\r\n`, 'hello'],
    ['CRLF as data', `2\r\n\r\n\r\n${END}`, '\r\n'],
    ['what looks like an end as data', `5\r\n0\r\n\r\n\r\n${END}`, END],
    ['the next request behind it', HELLO + END, 'hello', 'GET / HTTP/1.1\r\n'],
    ['a CRLF behind it', END, '', '\r\n'],
  ];
  for (const [title, body, payload, after = ''] of rows) {
    for (const plain of [false, true]) {
      for (const pieces of splits(body + after)) {
        const got = read(chunked, pieces, plain);
        const fine = got.end === 'done' && got.payload === payload && got.taken === body.length;
        if (!fine)
          t.fail(`${title} in ${pieces.length} pieces`, { got, sizes: pieces.map((one) => one.length) });
      }
    }
    t.pass(title);
  }
});

const FORBIDDEN = [
  'Host',
  'Content-Length',
  'Transfer-Encoding',
  'Authorization',
  'X-Forwarded-Client-Cert',
  'x_forwarded_client_cert',
  'Connection',
]
  .map((name) => `${name}: evil\r\n`)
  .join('');

t.test('an extension never goes on, nor what must not be a trailer (RFC 9110 §6.5.1)', async (t) => {
  const passed: Buffer[] = [];
  const reader = bodyReader(chunked);
  reader.feed(Buffer.from(`5;evil=1\r\nhello\r\n0;evil\r\n${FORBIDDEN}X-Sum:1 \r\n\r\n`), (part) =>
    passed.push(part),
  );
  t.equal(Buffer.concat(passed).toString(), '5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n');
  t.same(reader.trailers, [{ name: 'X-Sum', key: 'x-sum', value: '1' }]);
});

t.test('chunked bodies that are broken', async (t) => {
  const rows: [title: string, body: string][] = [
    ['a sign', `+5\r\nhello\r\n${END}`],
    ['a minus', `-5\r\nhello\r\n${END}`],
    ['0x', `0x5\r\nhello\r\n${END}`],
    ['a space before', ` 5\r\nhello\r\n${END}`],
    ['a space after', `5 \r\nhello\r\n${END}`],
    ['a tab after', `5\t\r\nhello\r\n${END}`],
    ['underscores', `1_0\r\n0123456789abcdef\r\n${END}`],
    ['no digit', `\r\nhello\r\n${END}`],
    ['no hex', `5g\r\nhello\r\n${END}`],
    ['an extension without size', `;a=b\r\nhello\r\n${END}`],
    ['bare LF after the size', `5\nhello\r\n${END}`],
    ['bare CR after the size', `5\rhello\r\n${END}`],
    ['two CRs after the size', `5\r\r\nhello\r\n${END}`],
    ['bare LF in an extension', `5;a\nb\r\nhello\r\n${END}`],
    ['bare CR in an extension', `5;a\rb\r\nhello\r\n${END}`],
    ['NUL in an extension', `5;a\0b\r\nhello\r\n${END}`],
    ['2^53', `20000000000000\r\nhello`],
    ['2^64 + 5', `10000000000000005\r\nhello\r\n${END}`],
    ['data longer than its size', `4\r\nhello\r\n${END}`],
    ['no CRLF after data', `5\r\nhello0\r\n\r\n`],
    ['LF alone after data', `5\r\nhello\n${END}`],
    ['CR and another byte after data', `5\r\nhello\rX${END}`],
    ['bare LF ends the last line', '0\n\r\n'],
    ['bare LF ends the trailers', '0\r\nX: 1\n\r\n'],
    ['bare CR in a trailer', '0\r\nX: 1\r2\r\n\r\n'],
    ['an endless size line', `5;${'a'.repeat(70_000)}`],
    ['endless trailers', `0\r\n${'X: 1\r\n'.repeat(20_000)}`],
  ];
  for (const [title, body] of rows) {
    // Two pieces at every cut of a long one would take all day and tell nothing more.
    const ways = body.length > 1_000 ? [[Buffer.from(body)], cutBy(body, 1_000)] : splits(body);
    for (const pieces of ways) {
      const { end } = read(chunked, pieces, false);
      if (end !== 'error') t.fail(`${title} in ${pieces.length} pieces: ${end}`);
    }
    t.pass(title);
  }
});

t.test('a body cut short is not at its end', async (t) => {
  const whole = `${HELLO}3;x\r\nyou\r\n0\r\nX: 1\r\n\r\n`;
  for (let cut = 0; cut < whole.length; cut++) {
    const reader = bodyReader(chunked);
    const passed: Buffer[] = [];
    reader.feed(Buffer.from(whole.slice(0, cut)), (part) => passed.push(part));
    if (reader.done || reader.ended()) t.fail(`after ${cut} bytes`);
    if (Buffer.concat(passed).toString().endsWith('0\r\n\r\n'))
      t.fail(`an end was made up after ${cut} bytes`);
  }
  const length = bodyReader({ kind: 'length', length: 5 });
  length.feed(Buffer.from('hell'), () => {});
  t.equal(length.ended(), false, 'four bytes of five');
});

t.test('bodies with a length', async (t) => {
  const rows: [length: number, text: string, outcome: Outcome][] = [
    [5, 'hello', { end: 'done', payload: 'hello', taken: 5 }],
    [5, 'helloGET /', { end: 'done', payload: 'hello', taken: 5 }],
    [5, 'hell', { end: 'more', payload: 'hell', taken: 4 }],
  ];
  for (const [length, text, outcome] of rows) {
    for (const pieces of splits(text)) {
      const got = read({ kind: 'length', length }, pieces, false);
      if (JSON.stringify(got) !== JSON.stringify(outcome)) t.fail(text, { got, outcome });
    }
    t.pass(text);
  }
});

t.test('a body that ends with its connection', async (t) => {
  const reader = bodyReader({ kind: 'close' });
  let passed = '';
  for (const piece of ['a', 'b']) reader.feed(Buffer.from(piece), (part) => (passed += part.toString()));
  t.equal(reader.done, false);
  t.equal(reader.ended(), true);
  t.equal(passed, 'ab');
});

function cutBy(text: string, size: number): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < text.length; at += size) pieces.push(Buffer.from(text.slice(at, at + size)));
  return pieces;
}
