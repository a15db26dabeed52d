/** Header blocks against `node:http2`, whose nghttp2 uses all of RFC 7541, and against chance and ill will. */
import { once } from 'node:events';
import { createServer, type ServerHttp2Stream, sensitiveHeaders } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { Worker } from 'node:worker_threads';
import t, { type Test } from 'tap';
import { encodeHeaders, HpackDecoder } from '../../proxy/http2/hpack.ts';
import { HpackError } from '../../proxy/http2/hpack-error.ts';
import { STATIC_TABLE } from '../../proxy/http2/hpack-static.ts';
import { random } from '../corpus/run.ts';
import { END_HEADERS, END_STREAM, frame, frameClient, TYPE } from './http2-frames.ts';

type Field = readonly [name: string, value: string];

const BOUNDS = { maxTableBytes: 4096, maxListBytes: 16_384 };
const next = random(7541);
const below = (limit: number): number => Math.floor(next() * limit);
const pick = <T>(from: ArrayLike<T>): T => from[below(from.length)] as T;

const NAMES = ['via', 'baggage', 'x-a', 'x-b', 'forwarded', 'x-secret', 'accept-encoding', 'link'];
const VALUES = ['', 'gzip, deflate', 'a=b', '10.0.0.7:8080', 'spiffe://cluster.local/ns/shop/sa/web'];
/** What a value may hold (RFC 9110 §5.5), but for a space at its ends. */
const OCTETS = Array.from({ length: 256 }, (_, octet) => octet).filter(
  (octet) => octet > 0x20 && octet !== 0x7f,
);
const SHORT = Buffer.from('0123456789aceiost');

/** Fields that repeat, so that tables are worth it, and some that are new. */
function someFields(): Field[] {
  return Array.from({ length: below(12) }, () => [
    next() < 0.9 ? pick(NAMES) : `x-${below(1_000)}`,
    next() < 0.6 ? pick(VALUES) : text(below(next() < 0.1 ? 1_500 : 60)),
  ]);
}

/** Mostly of what has short codes: nghttp2 only uses Huffman's where the text gets shorter. */
function text(length: number): string {
  const octets = Array.from({ length }, () => (next() < 0.9 ? pick(SHORT) : pick(OCTETS)));
  return String.fromCharCode(...octets);
}

/** A server of `node:http2`. @param answer gets each request's names and values in turn */
async function listen(
  t: Test,
  answer: (stream: ServerHttp2Stream, raw: readonly string[]) => void,
): Promise<number> {
  const server = createServer({ maxHeaderListPairs: 1_000 });
  server.on('stream', (stream: ServerHttp2Stream, _headers, _flags, raw) => answer(stream, raw));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  t.teardown(() => server.close());
  return (server.address() as AddressInfo).port;
}

t.test('node:http2 and we read a thousand blocks of each other', async (t) => {
  const REQUESTS = 1_000;
  const asked: string[][] = [];
  const answers = Array.from({ length: REQUESTS }, someFields);
  const port = await listen(t, (stream, raw) => {
    asked.push([...raw]);
    const fields = answers[asked.length - 1] ?? [];
    const flat = [':status', '200', 'date', 'today', ...fields.flat()];
    // RFC 7541 §6.2.3: these are never indexed.
    stream.respond(Object.assign(flat, { [sensitiveHeaders]: ['x-secret'] }), { endStream: true });
  });
  const client = await frameClient(t, port);
  t.teardown(() => client.peer.socket.destroy());

  const decoder = new HpackDecoder(BOUNDS);
  let updates = 0;
  let twice = 0;
  let referring = 0;
  for (let i = 0; i < REQUESTS; i += 1) {
    const stream = 2 * i + 1;
    const request: Field[] = [
      [':method', 'GET'],
      [':scheme', 'http'],
      [':authority', `10.0.0.${below(256)}:8080`],
      [':path', pick(['/', '/index.html', '/other'])],
      ...someFields(),
    ];
    // The server's table follows our SETTINGS, so that it has to write size updates.
    if (next() < 0.1) client.say(tableSize(0));
    if (next() < 0.2) client.say(tableSize(pick([0, 64, 300, 1_000, 4_096])));
    client.say(frame(TYPE.HEADERS, END_STREAM | END_HEADERS, stream, encodeHeaders(request)));
    const { payload, flags } = await client.next(TYPE.HEADERS, stream);
    if ((flags & END_HEADERS) === 0) t.fail('a block of more than one frame');
    if (isUpdate(payload[0])) updates += 1;
    if (payload[0] === 0x20 && isUpdate(payload[1])) twice += 1;
    if (!readsAlone(payload)) referring += 1;
    const got = decoder.decode(payload).fields.flatMap(({ name, value }) => [name, value]);
    const said = [':status', '200', 'date', 'today', ...(answers[i] ?? []).flat()];
    if (!same(got, said)) t.same(got, said, `answer ${i}`);
    if (!same(asked[i] ?? [], request.flat())) t.same(asked[i], request.flat(), `request ${i}`);
  }
  t.equal(asked.length, REQUESTS);
  const seen = `${updates} with a size update, ${twice} with two, ${referring} referring to the table`;
  t.ok(updates > 100 && twice > 5 && referring > 100, seen);
});

/** False where it refers to what blocks before it left in the table. */
function readsAlone(block: Buffer): boolean {
  try {
    new HpackDecoder(BOUNDS).decode(block);
    return true;
  } catch {
    return false;
  }
}

function tableSize(bytes: number): Buffer {
  const payload = Buffer.alloc(6);
  payload.writeUInt16BE(1, 0);
  payload.writeUInt32BE(bytes, 2);
  return frame(TYPE.SETTINGS, 0, 0, payload);
}

function isUpdate(octet = 0): boolean {
  return (octet & 0xe0) === 0x20;
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((part, i) => part === b[i]);
}

t.test('each index of the static table means the same to node:http2', async (t) => {
  const statuses = [200, 204, 206, 304, 400, 404, 500];
  const asked: string[][] = [];
  const port = await listen(t, (stream, raw) => {
    asked.push([...raw]);
    stream.respond([':status', String(statuses[asked.length - 1]), 'date', 'today'], { endStream: true });
  });
  const client = await frameClient(t, port);
  t.teardown(() => client.peer.socket.destroy());
  const decoder = new HpackDecoder(BOUNDS);
  // HTTP/2 has no Transfer-Encoding (RFC 9113 §8.2.2); a length of 0 agrees with END_STREAM.
  const names = STATIC_TABLE.map(({ name }) => name).filter(
    (name) => !name.startsWith(':') && name !== 'transfer-encoding',
  );
  t.equal(new Set(names).size, 46, 'all but that and 14 entries of pseudo-fields');
  for (const [i, status] of statuses.entries()) {
    const request: Field[] = [
      [':method', i % 2 === 0 ? 'GET' : 'POST'],
      [':scheme', i % 2 === 0 ? 'http' : 'https'],
      [':path', i % 2 === 0 ? '/' : '/index.html'],
      [':authority', '0'],
      ...names.map((name): Field => [name, '0']),
      ['accept-encoding', 'gzip, deflate'],
    ];
    client.say(frame(TYPE.HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, encodeHeaders(request)));
    const { payload } = await client.next(TYPE.HEADERS, 2 * i + 1);
    t.equal(decoder.decode(payload).fields[0]?.value, String(status));
    t.same(asked[i], request.flat());
  }
});

t.test('chance: whatever comes is decoded within bounds or an HpackError', async (t) => {
  const BLOCKS = 50_000;
  let decoded = 0;
  let refused = 0;
  let decoder = new HpackDecoder(BOUNDS);
  for (let i = 0; i < BLOCKS; i += 1) {
    const block = next() < 0.5 ? noise(below(200)) : mutated();
    try {
      const { fields, tooLarge } = decoder.decode(block);
      const size = fields.reduce((sum, { name, value }) => sum + name.length + value.length + 32, 0);
      if (size > BOUNDS.maxListBytes || (tooLarge && size > 0))
        t.fail(`${size} bytes: ${block.toString('hex')}`);
      decoded += 1;
    } catch (error) {
      if (!(error instanceof HpackError)) throw error;
      refused += 1;
      decoder = new HpackDecoder(BOUNDS);
    }
  }
  t.ok(decoded > BLOCKS / 20 && refused > BLOCKS / 20, `both were met: ${decoded}, ${refused}`);
});

function noise(length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => below(256)));
}

/** Part of a good block with some octets changed. */
function mutated(): Buffer {
  const whole = encodeHeaders(someFields());
  const block = Buffer.from(whole.subarray(0, next() < 0.3 ? below(whole.length) : undefined));
  for (let changes = below(4); changes > 0 && block.length > 0; changes -= 1) {
    block[below(block.length)] = below(256);
  }
  return block;
}

t.test('bombs: 16 MB of references to a field of 4 KB, of fields, of evictions', async (t) => {
  const hpack = new URL('../../proxy/http2/hpack.ts', import.meta.url).href;
  const rows: [title: string, repeated: string][] = [
    ['the large field again and again', '[0xbe]'],
    ['its name with another value, again and again', '[0x0f, 0x2f, 1, 0x61]'],
    ['its name with another value, to be indexed', '[0x7e, 1, 0x61]'],
    ['small fields', '[0, 1, 0x61, 1, 0x62]'],
    ['small fields to be indexed', '[0x40, 1, 0x61, 1, 0x62]'],
  ];
  for (const [title, repeated] of rows) {
    // A heap of this size does not hold a reference, let alone a field, of each.
    const limits = { maxOldGenerationSizeMb: 24, maxYoungGenerationSizeMb: 4 };
    const script = `
      const { parentPort } = require('node:worker_threads');
      import(${JSON.stringify(hpack)}).then(({ HpackDecoder }) => {
        const decoder = new HpackDecoder({ maxTableBytes: 4096, maxListBytes: 8192 });
        const large = Buffer.concat([Buffer.of(0x40, 127, 0xd0, 30), Buffer.alloc(4047, 'n'), Buffer.of(1, 0x76)]);
        const { fields } = decoder.decode(large);
        const many = Buffer.alloc(16 * 1024 * 1024);
        const once = Buffer.from(${repeated});
        const whole = many.subarray(0, many.length - (many.length % once.length)).fill(once);
        const told = decoder.decode(whole);
        parentPort.postMessage([fields[0].name.length, told.tooLarge, told.fields.length]);
      });`;
    const worker = new Worker(script, { eval: true, resourceLimits: limits });
    const [told] = await once(worker, 'message');
    t.same(told, [4047, true, 0], title);
    await worker.terminate();
  }
});
