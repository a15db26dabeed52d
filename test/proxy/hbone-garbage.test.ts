/** Frames of chance, and frames bent by chance, said to a tunnel of either role: it answers by the rules or ends, and never throws. */
import t from 'tap';
import { limitsWith } from '../../mesh/limits.ts';
import type { TunnelStream } from '../../proxy/hbone/stream.ts';
import { Tunnel, type TunnelEnd } from '../../proxy/hbone/tunnel.ts';
import { errorCode } from '../../proxy/http2/frame.ts';
import { seededRandom } from './client-hello.ts';
import { connectTo } from './hbone-client.ts';
import { HeldWire } from './hbone-wire.ts';
import { block, END_HEADERS, END_STREAM, frame, framesOf, PREFACE, TYPE } from './http2-frames.ts';

const PEERS = 3_000;
/** At most, of each. */
const FRAMES = 30;
const NOWHERE = { remoteAddress: '10.0.0.1', remotePort: 1, localAddress: '10.0.0.2', localPort: 2 };
const ROLES = ['server', 'client'] as const;
type Role = (typeof ROLES)[number];

const limits = limitsWith({
  streamWindow: 65_536,
  maxTunnelStreams: 10,
  maxStreams: 10,
  maxStreamResets: 20,
});
const next = seededRandom(3);
const pick = <T>(from: readonly T[]): T => from[next(from.length)] as T;
const octets = (most: number): Buffer => Buffer.from(Array.from({ length: next(most) }, () => next(256)));

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

const streamOf = (): number => pick([0, 1, 1, 1, 3, 3, 3, 5, 5, 7, 9, 2, 2 * next(20) + 1, 0x7fff_ffff]);
const sizeOf = (): number => pick([0, 1, 100, 65_535, 0x7fff_ffff, 0xffff_ffff]);

/** What a head may say, right and wrong. */
const heads = [
  block(connectTo('10.0.0.2:80')),
  block(connectTo('10.0.0.2:80')),
  block([
    [':method', 'GET'],
    [':scheme', 'https'],
    [':authority', 'orders'],
    [':path', '/'],
  ]),
  block([[':status', '200']]),
  block([[':status', '200']]),
  block([[':status', '503']]),
  block([[':status', '100']]),
  block([['x', 'y']]),
  block([]),
];

/** Frames as a peer could say them, not always when it may. */
const makers: readonly (() => Buffer)[] = [
  () =>
    frame(
      TYPE.HEADERS,
      pick([END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM]),
      pick([1, 3, 5, 7, 9, 11]),
      pick(heads),
    ),
  () => frame(TYPE.DATA, pick([0, 0, END_STREAM]), streamOf(), octets(50)),
  () => frame(TYPE.DATA, 0, streamOf(), Buffer.alloc(next(16_385))),
  () => frame(TYPE.RST_STREAM, 0, streamOf(), uint32(next(16))),
  () => frame(TYPE.WINDOW_UPDATE, 0, streamOf(), uint32(sizeOf())),
  () => frame(TYPE.SETTINGS, 0, 0, Buffer.concat([Buffer.of(0, next(9)), uint32(sizeOf())])),
  () => frame(TYPE.SETTINGS, 1, 0),
  () => frame(TYPE.PING, next(2), 0, Buffer.alloc(8)),
  () => frame(TYPE.PRIORITY, 0, streamOf(), octets(6)),
  () => frame(TYPE.GOAWAY, 0, 0, Buffer.concat([uint32(sizeOf()), uint32(next(16)), octets(20)])),
  () => frame(TYPE.CONTINUATION, pick([0, END_HEADERS]), streamOf(), octets(20)),
  () => frame(next(256), next(256), streamOf(), octets(30)),
];

/** Now and then an octet is another. */
function bent(bytes: Buffer): Buffer {
  if (next(25) === 0 && bytes.length > 0) bytes[next(bytes.length)] = next(256);
  return bytes;
}

interface Outcome {
  readonly ends: readonly TunnelEnd[];
  readonly written: Buffer;
  readonly streams: readonly TunnelStream[];
  readonly tunnel: Tunnel;
}

/** A peer's life. Its frames come in pieces, and what its streams' users do is chance, too. */
async function life(role: Role): Promise<Outcome> {
  const wire = new HeldWire();
  wire.on('error', () => {});
  const ends: TunnelEnd[] = [];
  const streams: TunnelStream[] = [];
  const use = (stream: TunnelStream): void => {
    streams.push(stream);
    stream.on('data', () => {});
    const does = next(6);
    if (does === 0) stream.resetAndDestroy();
    else if (does === 1) stream.end('bye');
    else if (does === 2) stream.pause();
    else if (does === 3) stream.write(Buffer.alloc(next(100_000)));
    else stream.on('end', () => stream.end());
  };
  const tunnel = new Tunnel(role, wire, limits, {
    addressesOf: () => NOWHERE,
    asked: (_tunnel, stream) => {
      if (next(4) === 0) {
        stream.refuse(pick([400, 401, 503]));
        return;
      }
      stream.accept();
      use(stream);
    },
    roomChanged: () => {},
    closed: (_tunnel, end) => void ends.push(end),
  });
  tunnel.start();
  if (role === 'client')
    for (let i = 0; i < 4; i++)
      tunnel.open([[':authority', '10.0.0.2:80']], NOWHERE, {
        opened: use,
        refused: () => {},
        lost: () => {},
      });
  const hello = [Buffer.from(role === 'server' ? PREFACE : ''), frame(TYPE.SETTINGS, 0, 0)];
  let said = Buffer.concat([
    ...hello,
    ...Array.from({ length: 1 + next(FRAMES) }, () => bent(pick(makers)())),
  ]);
  while (said.length > 0 && !wire.destroyed) {
    const piece = Math.min(said.length, pick([1, 9, 20, 1_000, 20_000]));
    wire.push(said.subarray(0, piece));
    said = said.subarray(piece);
    if (next(3) > 0) wire.release();
    if (next(4) === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  do await new Promise((resolve) => setImmediate(resolve));
  while (wire.release());
  return { ends: [...ends], written: Buffer.concat(wire.writes), streams, tunnel };
}

for (const role of ROLES) {
  t.test(`a ${role}`, async (t) => {
    const faults = new Map<string, number>();
    const wrong: string[] = [];
    let lived = 0;
    for (let peer = 0; peer < PEERS; peer++) {
      const { ends, written, streams, tunnel } = await life(role);
      const [end] = ends;
      if (ends.length > 1) wrong.push(`${peer}: it ended ${ends.length} times`);
      const frames = framesOf(role === 'client' ? written.subarray(PREFACE.length) : written);
      const whole = frames.reduce((sum, { payload }) => sum + 9 + payload.length, 0);
      if (whole !== written.length - (role === 'client' ? PREFACE.length : 0))
        wrong.push(`${peer}: half a frame was said`);
      if (end === undefined) {
        lived++;
        tunnel.abort('over');
      } else {
        faults.set(end.fault ?? 'none', (faults.get(end.fault ?? 'none') ?? 0) + 1);
        const code = end.fault === null ? null : errorCode[end.fault];
        const told = frames.some(
          ({ type, payload }) => type === TYPE.GOAWAY && payload.readUInt32BE(4) === code,
        );
        if (code !== null && !told) wrong.push(`${peer}: it was not told of ${end.detail}`);
        // One that both sides have ended is none of the tunnel's any more.
        const live = streams.filter((one) => !one.destroyed && !(one.remoteEnded && one.localEnded));
        if (live.length > 0) wrong.push(`${peer}: a stream lives on`);
      }
    }
    t.strictSame(wrong, []);
    const found = [...faults.keys()];
    t.comment(`${lived} lived, ${JSON.stringify(Object.fromEntries(faults))}`);
    for (const fault of ['PROTOCOL_ERROR', 'FRAME_SIZE_ERROR', 'FLOW_CONTROL_ERROR', 'COMPRESSION_ERROR'])
      t.ok(found.includes(fault), `${fault} was come by`);
    t.ok(lived > PEERS / 100, 'some live');
  });
}
