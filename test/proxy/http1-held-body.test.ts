/** A body held back: kept once whatever it was cut into, bounded alone and together, passed on framed. */
import t from 'tap';
import type { Framing } from '../../proxy/http/head.ts';
import { HeldBody, HeldRoom } from '../../proxy/http/held-body.ts';
import { type BodyReader, bodyReader } from '../../proxy/http1/body.ts';

const CHUNKED: Framing = { kind: 'chunked' };

/** Feeds each piece as a read of its own, whose memory is used for something else afterwards. */
function feed(held: HeldBody, reader: BodyReader, pieces: readonly string[]): void {
  for (const piece of pieces) {
    const read = Buffer.from(piece, 'latin1');
    held.feed(read, reader);
    read.fill('#');
  }
}

t.test('what goes on, and what is shown', async (t) => {
  const ten = [...'0123456789'];
  const inChunks = ten.map((byte) => `1\r\n${byte}\r\n`);
  const rows: [title: string, Framing, pieces: readonly string[], goesOn: string, shown: string][] = [
    ['of known length', { kind: 'length', length: 10 }, ten, '0123456789', '01234567'],
    ['of known length, not whole', { kind: 'length', length: 20 }, ten, '0123456789', '01234567'],
    ['in chunks', CHUNKED, [...inChunks, '0\r\n\r\n'], 'a\r\n0123456789\r\n0\r\n\r\n', '01234567'],
    ['in chunks, not whole', CHUNKED, inChunks, 'a\r\n0123456789\r\n', '01234567'],
    ['within a chunk', CHUNKED, ['ff\r\n012', '3'], '4\r\n0123\r\n', '0123'],
    ['chunks of nothing', CHUNKED, ['0\r\nX: y\r\n\r\n'], '0\r\nX: y\r\n\r\n', ''],
    ['nothing yet', CHUNKED, ['a\r'], '', ''],
  ];
  for (const [title, framing, pieces, goesOn, shown] of rows) {
    const held = new HeldBody(framing, { maxBytes: 8, partial: true, room: new HeldRoom(100) });
    const reader = bodyReader(framing, true);
    feed(held, reader, pieces);
    t.equal(Buffer.concat(held.framed(reader)).toString('latin1'), goesOn, `${title}: goes on`);
    t.equal(held.data().toString('latin1'), shown, `${title}: shown`);
  }
});

t.test('the room it takes', async (t) => {
  for (const framing of [CHUNKED, { kind: 'length', length: 100_000 } as const]) {
    const room = new HeldRoom(1_000_000);
    const held = new HeldBody(framing, { maxBytes: 50_000, partial: false, room });
    const reader = bodyReader(framing, true);
    const piece = framing.kind === 'chunked' ? '1\r\na\r\n' : 'a';
    for (let length = 1; length <= 20_000; length++) {
      held.feed(Buffer.from(piece), reader);
      if (room.used > Math.max(2 * length, 1_024)) t.fail(`${room.used} bytes for ${length}`);
    }
    t.equal(held.data().length, 20_000);
    feed(held, reader, [piece.repeat(30_000)]);
    t.equal(room.used, 50_000, 'no more than may come');
    held.release();
    held.release();
    t.equal(room.used, 0, 'given back once');
  }
});

t.test('no room beside others', async (t) => {
  const room = new HeldRoom(3_100);
  const bounds = { maxBytes: 2_000, partial: true, room };
  const first = new HeldBody(CHUNKED, bounds);
  feed(first, bodyReader(CHUNKED, true), [`7d0\r\n${'a'.repeat(2_000)}\r\n`]);
  t.notOk(first.crowdedOut);
  const second = new HeldBody(CHUNKED, bounds);
  const reader = bodyReader(CHUNKED, true);
  feed(second, reader, [`5dc\r\n${'b'.repeat(1_000)}`]);
  t.notOk(second.crowdedOut || second.enough);
  feed(second, reader, ['b'.repeat(500)]);
  t.ok(second.crowdedOut && second.enough);
  second.release();
  first.release();
  t.equal(room.used, 0);
  const third = new HeldBody(CHUNKED, bounds);
  feed(third, bodyReader(CHUNKED, true), [`7d0\r\n${'c'.repeat(2_000)}\r\n`]);
  t.notOk(third.crowdedOut, 'room again');
});
