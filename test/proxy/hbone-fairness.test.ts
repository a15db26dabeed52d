/** How streams share a tunnel: they take turns frame by frame, what is said in a turn leaves as one write, and who is slow waits alone. */
import type { Socket } from 'node:net';
import t from 'tap';
import { limitsWith } from '../../mesh/limits.ts';
import type { TunnelStream } from '../../proxy/hbone/stream.ts';
import { Tunnel, type TunnelEnd } from '../../proxy/hbone/tunnel.ts';
import { echo, httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { stalled, until } from '../e2e/harness/wait.ts';
import { connectTo, hboneClient } from './hbone-client.ts';
import { AUTO, HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { HeldWire } from './hbone-wire.ts';
import { block, END_HEADERS, type Frame, frame, framesOf, PREFACE, TYPE } from './http2-frames.ts';

const MB = 1_048_576;
const INITIAL_WINDOW_SIZE = 4;
/** What a frame of ours carries: with its header it fills a TLS record. */
const MAX_PAYLOAD = 16_384 - 9;
const CONNECT_ERROR = 10;
const NOWHERE = { remoteAddress: '10.0.0.1', remotePort: 1, localAddress: '10.0.0.2', localPort: 2 };

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

const windowUpdate = (stream: number, octets: number): Buffer =>
  frame(TYPE.WINDOW_UPDATE, 0, stream, uint32(octets));

interface Stand {
  readonly wire: HeldWire;
  readonly tunnel: Tunnel;
  /** By their identifiers, odd numbers from 1 on. */
  readonly streams: ReadonlyMap<number, TunnelStream>;
  readonly ends: readonly TunnelEnd[];
  /** Frames of the writes from then on. */
  since(write: number): readonly Frame[];
  /** Lets writes be through until none comes any more. */
  settle(): Promise<void>;
}

function turnOver(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A tunnel of ours with streams that are answered; all has been said, and no write is under way. */
async function stand(streams: number, window = 16 * MB): Promise<Stand> {
  const wire = new HeldWire();
  const found = new Map<number, TunnelStream>();
  const ends: TunnelEnd[] = [];
  const tunnel = new Tunnel('server', wire, limitsWith({}), {
    addressesOf: () => NOWHERE,
    asked: (_tunnel, stream) => {
      stream.accept();
      found.set(stream.streamId, stream);
    },
    roomChanged: () => {},
    closed: (_tunnel, end) => void ends.push(end),
  });
  tunnel.start();
  const settle = async (): Promise<void> => {
    do await turnOver();
    while (wire.release());
  };
  const settings = frame(
    TYPE.SETTINGS,
    0,
    0,
    Buffer.concat([Buffer.of(0, INITIAL_WINDOW_SIZE), uint32(window)]),
  );
  wire.say(Buffer.from(PREFACE), settings, windowUpdate(0, 64 * MB));
  for (let i = 0; i < streams; i++)
    wire.say(frame(TYPE.HEADERS, END_HEADERS, 2 * i + 1, block(connectTo('10.0.0.2:80'))));
  await settle();
  return {
    wire,
    tunnel,
    streams: found,
    ends,
    since: (write) => framesOf(Buffer.concat(wire.writes.slice(write))),
    settle,
  };
}

function stream({ streams }: Stand, id: number): TunnelStream {
  const found = streams.get(id);
  if (found === undefined) throw new Error(`no stream ${id}`);
  return found;
}

const dataOf = (frames: readonly Frame[]): readonly Frame[] =>
  frames.filter(({ type }) => type === TYPE.DATA);

t.test('what is said in one turn leaves as one write', async (t) => {
  const all = await stand(10);
  const before = all.wire.writes.length;
  for (const one of all.streams.values()) one.write(`I am ${one.streamId}`);
  await turnOver();
  t.equal(all.wire.writes.length, before + 1);
  t.strictSame(
    all.since(before).map(({ stream: id, payload }) => [id, payload.toString()]),
    [...all.streams.keys()].map((id) => [id, `I am ${id}`]),
  );
});

t.test('a small word waits for what is under way and for one frame of another', async (t) => {
  const all = await stand(3);
  const before = all.wire.writes.length;
  stream(all, 1).write(Buffer.alloc(8 * MB));
  await turnOver();
  t.equal(all.wire.writes.length, before + 1, 'a write is under way, and held');
  stream(all, 3).write('small');
  stream(all, 5).end('smaller');
  await turnOver();
  t.equal(all.wire.writes.length, before + 1);
  all.wire.release();
  await turnOver();
  const next = dataOf(all.since(before + 1)).map(({ stream: id }) => id);
  t.ok(next.indexOf(3) >= 0 && next.indexOf(3) <= 1, `${next.slice(0, 5)}`);
  t.ok(next.indexOf(5) >= 0 && next.indexOf(5) <= 2, `${next.slice(0, 5)}`);
  t.equal(next.filter((id) => id === 1).length > 1, true, 'and the bulk goes on behind them');
});

t.test('large ones take turns, at 16 KiB each', async (t) => {
  const all = await stand(3);
  const before = all.wire.writes.length;
  for (const one of all.streams.values()) one.end(Buffer.alloc(MB, one.streamId));
  await all.settle();
  const frames = dataOf(all.since(before));
  t.equal(
    frames.reduce((sum, { payload }) => sum + payload.length, 0),
    3 * MB,
  );
  t.ok(
    frames.every(
      ({ payload, stream: id }) => payload.length <= MAX_PAYLOAD && payload.every((one) => one === id),
    ),
  );
  const sent = new Map([...all.streams.keys()].map((id) => [id, 0]));
  let lead = 0;
  for (const { stream: id, payload } of frames) {
    sent.set(id, (sent.get(id) ?? 0) + payload.length);
    const counts = [...sent.values()];
    lead = Math.max(lead, Math.max(...counts) - Math.min(...counts));
  }
  t.ok(lead <= MAX_PAYLOAD, `none is ever more than a frame ahead: ${lead}`);
});

t.test('one whose window is shut leaves the others alone', async (t) => {
  const all = await stand(3, 0);
  const before = all.wire.writes.length;
  stream(all, 1).write(Buffer.alloc(MB));
  stream(all, 3).write('three');
  all.wire.say(windowUpdate(3, 100));
  await all.settle();
  t.strictSame(
    dataOf(all.since(before)).map(({ stream: id, payload }) => [id, payload.toString()]),
    [[3, 'three']],
  );
});

t.test('a window of the connection that opens by little is shared', async (t) => {
  const all = await stand(2);
  // All of it is used by the first one.
  stream(all, 1).write(Buffer.alloc(80 * MB));
  all.wire.say(windowUpdate(1, 100 * MB));
  await all.settle();
  const before = all.wire.writes.length;
  stream(all, 3).write('small');
  await all.settle();
  t.strictSame(dataOf(all.since(before)), []);
  all.wire.say(windowUpdate(0, 20_000));
  await all.settle();
  const ids = dataOf(all.since(before)).map(({ stream: id }) => id);
  t.ok(ids.includes(3), `${ids}`);
});

t.test('questions whose answers nobody reads end the tunnel', async (t) => {
  const all = await stand(2);
  const cut = new Promise((resolve) => stream(all, 1).once('close', resolve));
  // One write is under way and stays so.
  stream(all, 1).write('x');
  await turnOver();
  const ping = frame(TYPE.PING, 0, 0, Buffer.alloc(8));
  for (let i = 0; i < 20_000; i++) all.wire.say(ping);
  await cut;
  t.strictSame(
    all.ends.map(({ fault }) => fault),
    ['ENHANCE_YOUR_CALM'],
    'said once',
  );
  t.equal(all.tunnel.size, 0);
});

t.test('a tunnel that we cut says so of each stream', async (t) => {
  const all = await stand(3);
  const before = all.wire.writes.length;
  stream(all, 3).end('bye');
  await all.settle();
  all.tunnel.abort('enough');
  await all.settle();
  const resets = all.since(before).filter(({ type }) => type === TYPE.RST_STREAM);
  t.strictSame(
    resets.map(({ stream: id, payload }) => [id, payload.readUInt32BE(0)]),
    [1, 3, 5].map((id) => [id, CONNECT_ERROR]),
  );
  t.equal(all.since(before).at(-1)?.type, TYPE.GOAWAY);
  t.strictSame(all.ends, [{ fault: null, detail: 'enough' }]);
});

t.test('an app that does not read holds up its own stream alone', async (t) => {
  const apps: Socket[] = [];
  const deaf = await tcpApp(t, (socket) => {
    socket.pause();
    apps.push(socket);
  });
  const [http, auto] = [await httpApp(t), await tcpApp(t, echo)];
  const sidecar = await hboneSidecar(t, { tcp: deaf.port, http: http.port, auto: auto.port });
  const client = await hboneClient(t, sidecar);
  const bulk = await client.open(TCP);
  const total = 64 * MB;
  let written = 0;
  const chunk = Buffer.alloc(65_536, 'x');
  const more = (): void => {
    if (written < total) bulk.stream.write(chunk, () => more());
    written += chunk.length;
  };
  more();
  const taken = await stalled('the bulk', () => written);
  t.ok(taken < total / 2, `${taken} octets were taken of it`);
  const requests = await client.open(HTTP);
  const echoes = await client.open(AUTO);
  for (let i = 1; i <= 20; i++) {
    t.match(await requests.exchange('GET /bytes/20000 HTTP/1.1\r\nHost: orders\r\n\r\n'), /^HTTP\/1.1 200/);
    echoes.write(`\0${i}`);
    await echoes.until('the echo', (all) => all.endsWith(`\0${i}`));
  }
  t.equal(written, taken, 'it still waits');
  const [app] = apps;
  let received = 0;
  app?.on('data', (part: Buffer) => {
    received += part.length;
  });
  app?.resume();
  await until('all of it, once the app reads', () => received === total);
});

t.test('a client that does not read holds up its own stream alone', async (t) => {
  const [http, auto] = [await httpApp(t), await tcpApp(t, echo)];
  const sidecar = await hboneSidecar(t, { http: http.port, auto: auto.port });
  const client = await hboneClient(t, sidecar);
  const [deaf, other] = [await client.open(HTTP), await client.open(HTTP)];
  const total = 48 * MB;
  deaf.stream.pause();
  deaf.write(`GET /chunks/${total} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`);
  await until('its first octets', () => deaf.stream.readableLength > 0);
  for (let i = 0; i < 20; i++)
    t.match(await other.exchange('GET /bytes/20000 HTTP/1.1\r\nHost: orders\r\n\r\n'), /^HTTP\/1.1 200/);
  t.ok(deaf.stream.readableLength <= 2 * 65_535, `${deaf.stream.readableLength} octets wait for it`);
  let received = 0;
  deaf.stream.removeAllListeners('data');
  deaf.stream.on('data', (part: Buffer) => {
    received += part.length;
  });
  deaf.stream.resume();
  await until('all of it, once it reads', () => received > total);
});
