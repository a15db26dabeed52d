/** What a hostile peer may try on a tunnel: floods, bombs, stalls and waiting. Its tunnel ends, nobody else's is disturbed. */
import type { Socket } from 'node:net';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { openTls } from '../e2e/harness/tls-client.ts';
import { stalled } from '../e2e/harness/wait.ts';
import { connectTo, hboneClient, hboneFrames, type StreamPeer } from './hbone-client.ts';
import { AUTO, type HboneOptions, type HboneSidecar, HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { block, END_HEADERS, END_STREAM, FrameEnd, frame, PREFACE, TYPE } from './http2-frames.ts';

const PROTOCOL_ERROR = 1;
const SETTINGS_TIMEOUT = 4;
const CANCEL = 8;
const ENHANCE_YOUR_CALM = 11;
const PADDED = 8;
const MB = 1_048_576;
/** No request begins so: a port that nobody declared knows it at once for TCP. */
const HELLO = '\0hello';
const STILL = '\0still here';
/** Streams of the stall, of the 100 that a tunnel may have. */
const STALLED = 90;
const INITIAL_WINDOW_SIZE = 4;

const SETTINGS = frame(TYPE.SETTINGS, 0, 0);
const PING = frame(TYPE.PING, 0, 0, Buffer.alloc(8));

/** More than a tunnel may carry for nothing (1 MiB), as often as a frame must be said for that. */
const MUCH = 1_200_000;
const repeated = (one: Buffer): Buffer => Buffer.alloc(Math.ceil(MUCH / one.length) * one.length, one);

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

const connectFrame = (stream: number, port: number, flags = END_HEADERS): Buffer =>
  frame(TYPE.HEADERS, flags, stream, block(connectTo(port)));
const resetFrame = (stream: number): Buffer => frame(TYPE.RST_STREAM, 0, stream, uint32(CANCEL));

function rapidReset(port: number): Buffer {
  const parts: Buffer[] = [];
  for (let stream = 1; stream < 200; stream += 2) parts.push(connectFrame(stream, port), resetFrame(stream));
  return Buffer.concat(parts);
}

/** An octet and 255 of padding, so often: on several streams, since windows count padding. */
function paddedFlood(): Buffer {
  const parts: Buffer[] = [];
  for (let stream = 1; stream <= 15; stream += 2) {
    const payload = Buffer.concat([Buffer.of(255), Buffer.from('x'), Buffer.alloc(255)]);
    parts.push(
      connectFrame(stream, TCP),
      repeated(frame(TYPE.DATA, PADDED, stream, payload)).subarray(0, 900 * 266),
    );
  }
  return Buffer.concat(parts);
}

/** RFC 7541 §6.2.1: 4,000 octets that the table keeps, then what refers to them, an octet each. */
function bomb(references: number): Buffer {
  const value = Buffer.alloc(4_000, 'x');
  const length = Buffer.of(127, ((4_000 - 127) & 127) | 128, (4_000 - 127) >> 7);
  const literal = Buffer.concat([Buffer.of(0x40, 1), Buffer.from('a'), length, value]);
  return Buffer.concat([block(connectTo(TCP)), literal, Buffer.alloc(references, 0x80 | 62)]);
}

/** One frame, and each setting in it is one that all streams are looked at for. */
function windowChanges(): Buffer {
  const parts: Buffer[] = [];
  for (let stream = 1; stream < 800; stream += 2) parts.push(connectFrame(stream, AUTO));
  const changes = Buffer.alloc(600);
  for (let at = 0; at < changes.length; at += 6) {
    changes.writeUInt16BE(INITIAL_WINDOW_SIZE, at);
    changes.writeUInt32BE(65_535 + (at % 12), at + 2);
  }
  return Buffer.concat([...parts, ...Array.from({ length: 3 }, () => frame(TYPE.SETTINGS, 0, 0, changes))]);
}

const floods: readonly (readonly [what: string, said: Buffer])[] = [
  ['streams of a TCP port reset at once', rapidReset(TCP)],
  ['streams of an HTTP port reset at once', rapidReset(HTTP)],
  ['streams of a port that nobody declared reset at once', rapidReset(AUTO)],
  ['PING', repeated(frame(TYPE.PING, 0, 0, Buffer.alloc(8)))],
  ['answers to PING', repeated(frame(TYPE.PING, 1, 0, Buffer.alloc(8)))],
  ['SETTINGS', repeated(frame(TYPE.SETTINGS, 0, 0))],
  ['SETTINGS full of settings', repeated(frame(TYPE.SETTINGS, 0, 0, Buffer.alloc(16_380)))],
  ['SETTINGS that change the windows of many streams', windowChanges()],
  ['empty DATA', Buffer.concat([connectFrame(1, TCP), repeated(frame(TYPE.DATA, 0, 1))])],
  ['padding', paddedFlood()],
  ['PRIORITY', repeated(frame(TYPE.PRIORITY, 0, 3, Buffer.alloc(5)))],
  ['unknown frames', repeated(frame(0x42, 0, 0, Buffer.alloc(16_384)))],
  ['empty unknown frames', repeated(frame(0x42, 0, 0))],
  ['window updates', repeated(frame(TYPE.WINDOW_UPDATE, 0, 0, uint32(1)))],
  [
    'window updates of a stream',
    Buffer.concat([connectFrame(1, TCP), repeated(frame(TYPE.WINDOW_UPDATE, 0, 1, uint32(1)))]),
  ],
  ['resets of a stream that is over', Buffer.concat([connectFrame(1, TCP), repeated(resetFrame(1))])],
  ['GOAWAY', Buffer.concat([connectFrame(1, TCP), repeated(frame(TYPE.GOAWAY, 0, 0, Buffer.alloc(8)))])],
  [
    'continuations',
    Buffer.concat([connectFrame(1, TCP, 0), repeated(frame(TYPE.CONTINUATION, 0, 1)).subarray(0, 20 * 9)]),
  ],
  [
    'a header block without end',
    Buffer.concat([
      frame(TYPE.HEADERS, 0, 1, Buffer.alloc(16_000, 0x82)),
      frame(TYPE.CONTINUATION, 0, 1, Buffer.alloc(1_000, 0x82)),
    ]),
  ],
  [
    'trailers that are no end',
    Buffer.concat([
      connectFrame(1, TCP),
      repeated(frame(TYPE.HEADERS, END_HEADERS, 1, block([['x', 'y'.repeat(99)]]))),
    ]),
  ],
];

interface Stand {
  readonly sidecar: HboneSidecar;
  /** Of another peer, on a tunnel of its own. */
  readonly innocent: StreamPeer;
}

async function stand(t: Test, options: HboneOptions = {}): Promise<Stand> {
  // It takes everything and says nothing: what is sent back would be worth something.
  const sink = await tcpApp(t, (socket) => void socket.resume());
  const [http, auto] = [await httpApp(t), await tcpApp(t, echo)];
  const sidecar = await hboneSidecar(t, { tcp: sink.port, http: http.port, auto: auto.port, ...options });
  const innocent = await (await hboneClient(t, sidecar, 'innocent')).open(AUTO);
  return { sidecar, innocent };
}

/** Another tunnel goes on, and of those that ended nothing is left. */
async function undisturbed(t: Test, { sidecar, innocent }: Stand, streams = 1): Promise<void> {
  const before = innocent.text.length;
  innocent.write(STILL);
  const text = await innocent.until('the echo', (all) => all.length >= before + STILL.length);
  t.equal(text.slice(before), STILL, 'another tunnel is not disturbed');
  await sidecar.metricIs('oarlock_tunnel_streams', { direction: 'inbound' }, streams);
}

t.test('floods', async (t) => {
  const all = await stand(t, { limits: { maxStreamResets: 40 } });
  for (const [i, [what, said]] of floods.entries()) {
    const client = await hboneFrames(t, all.sidecar);
    client.say(said);
    t.equal(await client.goaway(), ENHANCE_YOUR_CALM, what);
    await client.peer.ended();
    await all.sidecar.metricIs('oarlock_refusals_total', { reason: 'tunnel_broken' }, i + 1);
  }
  await undisturbed(t, all);
  t.match(await all.sidecar.refused('tunnel_broken'), { detail: /ENHANCE_YOUR_CALM/ });
});

t.test('streams that are reset when they have been answered, and those of whom few are', async (t) => {
  const all = await stand(t, { limits: { maxStreamResets: 10 } });
  const client = await hboneFrames(t, all.sidecar);
  for (let stream = 1; stream < 100; stream += 2) {
    client.say(connectFrame(stream, AUTO), frame(TYPE.DATA, 0, stream, HELLO));
    await client.next(TYPE.DATA, stream);
    client.say(resetFrame(stream));
  }
  // Nobody wants them any more when their answer comes.
  for (let stream = 101; stream < 200; stream += 2) {
    client.say(connectFrame(stream, HTTP));
    await client.status(stream);
    client.say(resetFrame(stream));
  }
  // Ten are free; beyond them it takes most of all streams.
  for (let stream = 201; stream < 300; stream += 4)
    client.say(connectFrame(stream, TCP), resetFrame(stream), connectFrame(stream + 2, TCP));
  client.say(connectFrame(301, AUTO), frame(TYPE.DATA, 0, 301, HELLO));
  await client.next(TYPE.DATA, 301);
  t.equal(await all.sidecar.refusals('tunnel_broken'), 0);
});

/** What never goes on; each is closed in time. Limits: 1,500 ms for a handshake, 300 ms for a frame. */
const waits: readonly (readonly [what: string, said: Buffer, code: number])[] = [
  ['half a preface', PREFACE.subarray(0, 10), SETTINGS_TIMEOUT],
  ['a preface and no SETTINGS', PREFACE, SETTINGS_TIMEOUT],
  ['half a frame', Buffer.concat([PREFACE, SETTINGS, PING.subarray(0, 12)]), ENHANCE_YOUR_CALM],
  ["half a frame's header", Buffer.concat([PREFACE, SETTINGS, PING.subarray(0, 3)]), ENHANCE_YOUR_CALM],
  ['half a header block', Buffer.concat([PREFACE, SETTINGS, connectFrame(1, TCP, 0)]), ENHANCE_YOUR_CALM],
  ['another protocol', Buffer.from('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'), PROTOCOL_ERROR],
  ['PING before SETTINGS', Buffer.concat([PREFACE, PING]), PROTOCOL_ERROR],
];

t.test('what never goes on', async (t) => {
  const all = await stand(t, { limits: { handshakeTimeout: 1_500, requestHeadTimeout: 300 } });
  const leaf = await all.sidecar.ca.leaf(spiffe('shop', 'web'));
  for (const [i, [what, said, code]] of waits.entries()) {
    const peer = await openTls(t, all.sidecar.port, { leaf, ALPNProtocols: ['h2'] });
    const end = new FrameEnd(peer, 0);
    end.say(said);
    t.equal(await end.goaway(), code, what);
    await peer.ended();
    await all.sidecar.metricIs('oarlock_refusals_total', { reason: 'tunnel_broken' }, i + 1);
  }
  await undisturbed(t, all);
});

t.test('a header block that grows an octet at a time', async (t) => {
  const all = await stand(t, { limits: { requestHeadTimeout: 300 } });
  const client = await hboneFrames(t, all.sidecar);
  const [head, ...octets] = [...block(connectTo(TCP))].map((octet) => Buffer.of(octet));
  client.say(frame(TYPE.HEADERS, 0, 1, head));
  const drip = setInterval(() => {
    const octet = octets.shift();
    if (octet !== undefined) client.say(frame(TYPE.CONTINUATION, 0, 1, octet));
  }, 100);
  t.teardown(() => clearInterval(drip));
  t.equal(await client.goaway(), ENHANCE_YOUR_CALM);
  await undisturbed(t, all);
});

t.test('header blocks that unpack to much more', async (t) => {
  const all = await stand(t);
  const client = await hboneFrames(t, all.sidecar);
  const before = process.memoryUsage().heapUsed;
  // 48 MB, were it kept.
  client.say(frame(TYPE.HEADERS, END_HEADERS, 1, bomb(12_000)));
  t.equal(await client.status(1), 431);
  t.ok(process.memoryUsage().heapUsed - before < 20 * MB);
  // The table it left is the peer's: what comes next is read as ever.
  client.say(connectFrame(3, AUTO), frame(TYPE.DATA, 0, 3, HELLO));
  t.equal((await client.next(TYPE.DATA, 3)).payload.toString(), HELLO);
  t.equal(await all.sidecar.refusals('tunnel_broken'), 0);
});

t.test('streams whose window stays shut hold little, and leave the others alone', async (t) => {
  const sockets: Socket[] = [];
  const chunk = Buffer.alloc(65_536, 'x');
  const flood = await tcpApp(t, (socket) => {
    sockets.push(socket);
    let left = 8 * MB;
    const more = (): void => {
      while (left > 0) {
        left -= chunk.length;
        if (!socket.write(chunk)) return;
      }
      socket.end();
    };
    socket.on('drain', more);
    more();
  });
  const all = await stand(t, { tcp: flood.port });
  const before = process.memoryUsage().arrayBuffers;
  const client = await hboneFrames(t, all.sidecar);
  const none = frame(TYPE.SETTINGS, 0, 0, Buffer.concat([Buffer.of(0, INITIAL_WINDOW_SIZE), uint32(0)]));
  client.say(none);
  for (let stream = 1; stream < 2 * STALLED; stream += 2) client.say(connectFrame(stream, TCP));
  const taken = (): number =>
    sockets.reduce((sum, socket) => sum + socket.bytesWritten - socket.writableLength, 0);
  await stalled('what the app could say', taken);
  t.equal(sockets.length, STALLED);
  const held = process.memoryUsage().arrayBuffers - before;
  t.ok(held < STALLED * MB, `${Math.round(held / MB)} MiB are held for ${STALLED} streams of 8 MiB each`);
  const last = 2 * STALLED + 1;
  const window = frame(TYPE.WINDOW_UPDATE, 0, last, uint32(100));
  client.say(connectFrame(last, AUTO), window, frame(TYPE.DATA, END_STREAM, last, HELLO));
  t.equal((await client.next(TYPE.DATA, last)).payload.toString(), HELLO, 'one with a window is served');
  await undisturbed(t, all, STALLED + 1);
  // One of them opens its window at last.
  client.say(frame(TYPE.WINDOW_UPDATE, 0, 1, uint32(5)));
  t.equal((await client.next(TYPE.DATA, 1)).payload.toString(), 'xxxxx');
});
