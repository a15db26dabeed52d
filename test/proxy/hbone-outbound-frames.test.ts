/** What a peer may send on a tunnel of ours besides the usual, and the windows that it gives us. */
import t, { type Test } from 'tap';
import { open, type Peer } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { hboneCaller } from './hbone-caller.ts';
import { hbonePeer, type RawTunnel, rawPeer } from './hbone-peer.ts';
import { ACK, block, END_HEADERS, END_STREAM, type Frame, frame, TYPE } from './http2-frames.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const PORT = 7001;
const PADDED = 8;
const INITIAL_WINDOW_SIZE = 4;
const OK = block([[':status', '200']]);

/** Connections on one tunnel, answered, and the peer's end of it. */
async function tunnel(
  t: Test,
  streams: number,
  settings: readonly (readonly [number, number])[] = [],
): Promise<{ apps: Peer[]; raw: RawTunnel }> {
  const peer = await rawPeer(t, orders, (raw) => raw.greet(settings));
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const apps: Peer[] = [];
  for (let i = 0; i < streams; i++) {
    apps.push(await open(t, tcp));
    const raw = await peer.at(0);
    await raw.asked(2 * i + 1);
    raw.say(frame(TYPE.HEADERS, END_HEADERS, 2 * i + 1, OK));
  }
  return { apps, raw: await peer.at(0) };
}

/** Octets of DATA that have come on a stream; 0: on all of them. */
function octets({ frames }: RawTunnel, stream = 0): number {
  const counts = (one: Frame): boolean => one.type === TYPE.DATA && (stream === 0 || one.stream === stream);
  return frames.filter(counts).reduce((sum, { payload }) => sum + payload.length, 0);
}

let pings = 0;

/** Whatever was sent before has come. */
async function settled(raw: RawTunnel): Promise<void> {
  const opaque = Buffer.alloc(8);
  opaque.writeUInt32BE(++pings);
  raw.say(frame(TYPE.PING, 0, 0, opaque));
  const isAnswer = ({ type, flags, payload }: Frame): boolean =>
    type === TYPE.PING && flags === ACK && payload.equals(opaque);
  await until('the PING to be answered', async () => {
    await raw.next(TYPE.SETTINGS);
    return raw.frames.some(isAnswer);
  });
}

function windowUpdate(stream: number, more: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(more);
  return frame(TYPE.WINDOW_UPDATE, 0, stream, payload);
}

function initialWindow(size: number): Buffer {
  const payload = Buffer.alloc(6);
  payload.writeUInt16BE(INITIAL_WINDOW_SIZE);
  payload.writeUInt32BE(size, 2);
  return frame(TYPE.SETTINGS, 0, 0, payload);
}

/** Waits until that many octets have come, and sees that no more do. */
async function comes(t: Test, raw: RawTunnel, wanted: number, stream = 0): Promise<void> {
  await until(`${wanted} octets`, async () => {
    await settled(raw);
    return octets(raw, stream) >= wanted;
  });
  await settled(raw);
  t.equal(octets(raw, stream), wanted);
}

t.test(
  "a stream's window: as it was set, as it grows, and as SETTINGS change it (RFC 9113 §6.9.2)",
  async (t) => {
    const { apps, raw } = await tunnel(t, 1, [[INITIAL_WINDOW_SIZE, 10]]);
    apps[0]?.write(Buffer.alloc(1_000, 'x'));
    await comes(t, raw, 10);
    raw.say(windowUpdate(1, 5));
    await comes(t, raw, 15);
    // Of 20 it has used 15.
    raw.say(initialWindow(15));
    await comes(t, raw, 20);
    // Now it has used 15 more than it was given: the first 15 give nothing.
    raw.say(initialWindow(0));
    await comes(t, raw, 20);
    raw.say(windowUpdate(1, 15));
    await comes(t, raw, 20);
    raw.say(windowUpdate(1, 3));
    await comes(t, raw, 23);
    raw.say(windowUpdate(1, 10_000));
    await comes(t, raw, 1_000);
  },
);

t.test("the connection's window: shared by all", async (t) => {
  const { apps, raw } = await tunnel(t, 3, [[INITIAL_WINDOW_SIZE, 1_000_000]]);
  for (const app of apps) app.write(Buffer.alloc(100_000, 'x'));
  // RFC 9113 §6.9.2: 65,535 until it is told otherwise.
  await comes(t, raw, 65_535);
  raw.say(windowUpdate(0, 100_000));
  await comes(t, raw, 165_535);
  raw.say(windowUpdate(0, 1_000_000));
  await comes(t, raw, 300_000);
  for (const stream of [1, 3, 5]) t.equal(octets(raw, stream), 100_000);
});

t.test('a stream without a window holds up no other, nor its own end', async (t) => {
  const { apps, raw } = await tunnel(t, 2, [[INITIAL_WINDOW_SIZE, 10]]);
  const [shut, live] = apps;
  shut?.write('y'.repeat(100));
  await comes(t, raw, 10, 1);
  live?.write('hello');
  live?.end();
  await comes(t, raw, 5, 3);
  await until('its end', async () => {
    await settled(raw);
    return raw.frames.some(
      ({ type, stream, flags }) => type === TYPE.DATA && stream === 3 && flags === END_STREAM,
    );
  });
  raw.say(windowUpdate(1, 1_000));
  await comes(t, raw, 100, 1);
});

t.test('an end needs no window', async (t) => {
  const { apps, raw } = await tunnel(t, 1, [[INITIAL_WINDOW_SIZE, 5]]);
  apps[0]?.write('hello');
  await comes(t, raw, 5);
  apps[0]?.end();
  await until('the end', async () => {
    await settled(raw);
    return raw.frames.some(
      ({ type, flags, payload }) => type === TYPE.DATA && flags === END_STREAM && payload.length === 0,
    );
  });
});

t.test('tiny windows of node:http2: a megabyte comes back whole', async (t) => {
  const peer = await hbonePeer(
    t,
    orders,
    ({ stream }) => {
      stream.respond({ ':status': 200 });
      stream.pipe(stream);
      for (const [i, initialWindowSize] of [0, 5_000, 1, 65_535].entries())
        setTimeout(() => stream.session?.settings({ initialWindowSize }), 20 * i);
    },
    { settings: { initialWindowSize: 1_000 } },
  );
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, tcp);
  const sent = Buffer.alloc(1_048_576, 'All work and no play makes a dull test. ');
  app.write(sent);
  app.end();
  t.equal(await app.ended(), 'end');
  t.ok(app.received.equals(sent));
});

t.test('padding is taken off, and counted', async (t) => {
  const { apps, raw } = await tunnel(t, 1);
  const padded = frame(
    TYPE.DATA,
    PADDED,
    1,
    Buffer.concat([Buffer.of(255), Buffer.from('hello'), Buffer.alloc(255)]),
  );
  for (let i = 0; i < 2_000; i++) raw.say(padded);
  raw.say(
    frame(
      TYPE.DATA,
      PADDED | END_STREAM,
      1,
      Buffer.concat([Buffer.of(3), Buffer.from('bye'), Buffer.alloc(3)]),
    ),
  );
  t.equal(await apps[0]?.ended(), 'end');
  t.equal(apps[0]?.text, `${'hello'.repeat(2_000)}bye`);
  // 522,000 octets came: two windows of 262,144 hold them only where the first is given back, padding and all.
  await settled(raw);
  const back = raw.frames.filter(({ type, stream }) => type === TYPE.WINDOW_UPDATE && stream === 1);
  t.ok(back.reduce((sum, { payload }) => sum + payload.readUInt32BE(0), 0) >= 261_000);
});

const PIECES = [OK.subarray(0, 1), OK.subarray(1, 4), OK.subarray(4)];
const odd: readonly { title: string; says: readonly Buffer[] }[] = [
  {
    title: 'an answer in CONTINUATIONs',
    says: [
      frame(TYPE.HEADERS, 0, 1, PIECES[0]),
      frame(TYPE.CONTINUATION, 0, 1, PIECES[1]),
      frame(TYPE.CONTINUATION, END_HEADERS, 1, PIECES[2]),
    ],
  },
  {
    title: 'a padded answer with a priority',
    says: [
      frame(
        TYPE.HEADERS,
        END_HEADERS | PADDED | 0x20,
        1,
        Buffer.concat([Buffer.of(4, 0, 0, 0, 0, 16), OK, Buffer.alloc(4)]),
      ),
    ],
  },
  {
    title: 'frames of a type that nobody knows',
    says: [
      frame(0x42, 0xff, 0, 'who knows'),
      frame(TYPE.HEADERS, END_HEADERS, 1, OK),
      frame(0x42, 0xff, 1, 'who knows'),
    ],
  },
  {
    title: 'fields that mean nothing here',
    says: [
      frame(
        TYPE.HEADERS,
        END_HEADERS,
        1,
        block([
          [':status', '200'],
          ['date', 'Sat, 21 Nov 2026 18:30:00 GMT'],
          ['server', 'peer'],
        ]),
      ),
    ],
  },
  {
    title: 'empty DATA',
    says: [frame(TYPE.HEADERS, END_HEADERS, 1, OK), frame(TYPE.DATA, 0, 1), frame(TYPE.DATA, 0, 1)],
  },
];

for (const { title, says } of odd) {
  t.test(`${title} is taken`, async (t) => {
    const peer = await rawPeer(t, orders, async (raw) => {
      raw.greet();
      await raw.asked(1);
      raw.say(...says, frame(TYPE.DATA, END_STREAM, 1, 'hello'));
    });
    const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const app = await open(t, tcp);
    t.equal(await app.ended(), 'end');
    t.equal(app.text, 'hello');
  });
}

t.test('trailers end a stream, and say nothing', async (t) => {
  const peer = await hbonePeer(t, orders, ({ stream }) => {
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end('hello');
  });
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, tcp);
  t.equal(await app.ended(), 'end');
  t.equal(app.text, 'hello');
});

t.test('frames cut anywhere, one octet at a time', async (t) => {
  const peer = await rawPeer(t, orders, async (raw) => {
    raw.tls.setNoDelay(true);
    const all = Buffer.concat([
      frame(TYPE.SETTINGS, 0, 0),
      frame(TYPE.SETTINGS, ACK, 0),
      frame(TYPE.HEADERS, END_HEADERS, 1, OK),
      frame(TYPE.DATA, PADDED, 1, Buffer.concat([Buffer.of(2), Buffer.from('hel'), Buffer.alloc(2)])),
      frame(TYPE.PING, 0, 0, Buffer.alloc(8)),
      frame(TYPE.DATA, END_STREAM, 1, 'lo'),
    ]);
    await raw.asked(1);
    for (const byte of all) {
      raw.peer.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
  });
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, tcp);
  t.equal(await app.ended(), 'end');
  t.equal(app.text, 'hello');
});
