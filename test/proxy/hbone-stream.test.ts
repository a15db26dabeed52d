/** A stream of a tunnel and whoever reads it: octets in their order whatever sizes they come in, and small ones kept together. */
import { randomBytes } from 'node:crypto';
import t from 'tap';
import { type StreamOwner, TunnelStream } from '../../proxy/hbone/stream.ts';
import { hear } from '../../proxy/hear.ts';
import { seededRandom } from './client-hello.ts';

const ADDRESSES = { remoteAddress: '', remotePort: 0, localAddress: '', localPort: 0 };
const WINDOW = 262_144;

interface Owned {
  readonly stream: TunnelStream;
  /** Taken by the reader, and given back of the window. */
  read: number;
  credited: number;
}

function owned(): Owned {
  const all = { read: 0, credited: 0 };
  const owner: StreamOwner = {
    streamWindow: WINDOW,
    ready: () => {},
    read: (octets) => {
      all.read += octets;
    },
    credits: (_stream, octets) => {
      all.credited += octets;
    },
    answer: () => {},
    left: () => {},
  };
  return Object.assign(all, { stream: new TunnelStream(owner, 1, 0, ADDRESSES) });
}

function comes(stream: TunnelStream, piece: Buffer): void {
  stream.counts(piece.length);
  stream.received(piece);
  stream.frameEnds();
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test('octets that wait one by one are kept together', async (t) => {
  const one = owned();
  const { stream } = one;
  const sent = randomBytes(100_000);
  for (const octet of sent) comes(stream, Buffer.of(octet));
  t.equal(one.read, 0);
  const pieces: Buffer[] = [];
  stream.on('data', (piece: Buffer) => void pieces.push(piece));
  await turn();
  t.same(Buffer.concat(pieces), sent);
  t.equal(pieces.length < 50, true);
  t.equal(one.read, sent.length);
});

t.test('sizes of chance, read and not read by turns', async (t) => {
  const next = seededRandom(11);
  const sent = randomBytes(20_000_000);
  for (const directly of [false, true]) {
    const one = owned();
    const { stream } = one;
    let at = 0;
    let heard = 0;
    let wrong = 0;
    const listen = (piece: Buffer): void => {
      if (!piece.equals(sent.subarray(heard, heard + piece.length))) wrong++;
      heard += piece.length;
      if (next(10) === 0) stream.pause();
    };
    if (directly) hear(stream, listen);
    else stream.on('data', listen);
    while (at < sent.length) {
      for (let frames = next(200); frames > 0; frames--) {
        const size = next(4) === 0 ? 1 + next(16_375) : 1 + next(40);
        const piece = sent.subarray(at, at + Math.min(size, stream.receiveWindow));
        at += piece.length;
        if (piece.length > 0) comes(stream, piece);
      }
      if (next(3) === 0) await turn();
      if (next(2) === 0) stream.resume();
    }
    const ended = new Promise((resolve) => stream.on('end', resolve));
    stream.remoteEnds();
    const resumer = setInterval(() => stream.resume(), 1);
    await ended;
    clearInterval(resumer);
    t.same({ heard, wrong, read: one.read }, { heard: sent.length, wrong: 0, read: sent.length });
    stream.destroy();
  }
});

t.test('what waits when a stream is destroyed counts as read', async (t) => {
  const one = owned();
  for (let octets = 0; octets < 1_000; octets++) comes(one.stream, Buffer.of(1));
  one.stream.destroy();
  t.equal(one.read, 1_000);
});

t.test('writes of nothing hold nobody up', async (t) => {
  const { stream } = owned();
  const done: string[] = [];
  stream.write(Buffer.alloc(0), () => void done.push('alone'));
  await turn();
  stream.cork();
  stream.write(Buffer.alloc(0), () => void done.push('first of two'));
  stream.write(Buffer.alloc(0), () => void done.push('second of two'));
  stream.uncork();
  await turn();
  t.same(done, ['alone', 'first of two', 'second of two']);
});
