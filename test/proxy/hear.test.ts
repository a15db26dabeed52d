/** Reads into one buffer: pieces stay what they were, order and pauses hold, and the way past Node's queue is open on this Node. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { hear, pass } from '../../proxy/hear.ts';

async function pair(t: Test): Promise<{ near: Socket; far: Socket }> {
  const server = createServer({ pauseOnConnect: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const far = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [near] = (await once(server, 'connection')) as [Socket];
  t.teardown(() => {
    near.destroy();
    far.destroy();
    server.close();
  });
  return { near, far };
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

t.test('pieces stay as they were, however much is read after them', async (t) => {
  const [a, b] = [await pair(t), await pair(t)];
  const heard: Buffer[][] = [[], []];
  hear(a.near, (piece) => heard[0]?.push(piece));
  hear(b.near, (piece) => heard[1]?.push(piece));
  a.near.resume();
  b.near.resume();
  const bytes = (of: number) => Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * of) % 251));
  const sent = [bytes(3), bytes(4)] as const;
  a.far.end(sent[0]);
  b.far.end(sent[1]);
  await Promise.all([once(a.near, 'end'), once(b.near, 'end')]);
  t.ok(Buffer.concat(heard[0] ?? []).equals(sent[0]));
  t.ok(Buffer.concat(heard[1] ?? []).equals(sent[1]));
});

t.test('a small piece does not hold a block of its own', async (t) => {
  const { near, far } = await pair(t);
  const pieces: Buffer[] = [];
  hear(near, (piece) => pieces.push(piece));
  near.resume();
  for (let i = 1; i <= 20; i++) {
    far.write(`word ${i}`);
    await until(() => pieces.length === i);
  }
  t.equal(new Set(pieces.map(({ buffer }) => buffer)).size <= 2, true, 'one after the other in a block');
  t.equal(near.readableLength, 0);
  t.equal(pieces.join(' ').split('word').length, 21);
});

t.test(
  'what was put back comes first; nothing comes in a pause; the next hearer gets the rest',
  async (t) => {
    const { near, far } = await pair(t);
    let first = '';
    let second = '';
    near.unshift(Buffer.from('one '));
    far.write('two ');
    hear(near, (piece) => {
      first += piece;
    });
    near.resume();
    await until(() => first === 'one two ');
    near.pause();
    far.write('three');
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
    t.equal(first, 'one two ');
    hear(near, (piece) => {
      second += piece;
    });
    near.resume();
    far.end();
    await once(near, 'end');
    t.equal(first, 'one two ');
    t.equal(second, 'three');
  },
);

t.test('memory of large pieces is used again, and never while somebody may still read it', async (t) => {
  const [a, b] = [await pair(t), await pair(t)];
  const memories = new Set<ArrayBufferLike>();
  let pieces = 0;
  hear(a.near, (piece) => {
    if (piece.length > 8_192) {
      pieces++;
      memories.add(piece.buffer);
    }
    if (!pass(piece, b.near)) a.near.pause();
  });
  b.near.on('drain', () => a.near.resume());
  a.near.on('end', () => b.near.end());
  a.near.resume();
  const sent = Buffer.from(Array.from({ length: 1_048_576 }, (_, i) => (i * 7 + (i >> 8)) % 253));
  const received: Buffer[] = [];
  // Read late and in turns, so that pieces wait in the stream's queue and in the kernel.
  b.far.pause();
  for (let round = 0; round < 8; round++) a.far.write(sent);
  a.far.end();
  b.far.on('data', (chunk: Buffer) => {
    received.push(chunk);
    b.far.pause();
    setImmediate(() => b.far.resume());
  });
  await until(() => b.near.writableLength > 0);
  b.far.resume();
  await once(b.far, 'end');
  t.ok(Buffer.concat(received).equals(Buffer.concat(Array.from({ length: 8 }, () => sent))));
  t.ok(pieces > 2 * memories.size, `${pieces} large pieces in ${memories.size} pieces of memory`);
});
