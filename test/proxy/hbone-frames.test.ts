/** The HBONE port's HTTP/2, frame by frame, on streams of CONNECT: windows, states, identifiers (RFC 9113). */
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { connectTo, hboneClient, hboneFrames, type StreamPeer } from './hbone-client.ts';
import { type HboneSidecar, HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { block, END_HEADERS, END_STREAM, type FrameClient, frame, TYPE } from './http2-frames.ts';

const NO_ERROR = 0;
const PROTOCOL_ERROR = 1;
const FLOW_CONTROL_ERROR = 3;
const STREAM_CLOSED = 5;
const FRAME_SIZE_ERROR = 6;
const REFUSED_STREAM = 7;
const CANCEL = 8;
const COMPRESSION_ERROR = 9;

const INITIAL_WINDOW_SIZE = 4;
const MAX_WINDOW = 0x7fff_ffff;
const PADDED = 8;

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function settings(...pairs: readonly (readonly [name: number, value: number])[]): Buffer {
  const parts = pairs.map(([name, value]) => Buffer.concat([Buffer.of(0, name), uint32(value)]));
  return frame(TYPE.SETTINGS, 0, 0, Buffer.concat(parts));
}

const windowUpdate = (stream: number, octets: number): Buffer =>
  frame(TYPE.WINDOW_UPDATE, 0, stream, uint32(octets));
const data = (stream: number, text: string | Buffer, flags = 0): Buffer =>
  frame(TYPE.DATA, flags, stream, text);
const headers = (
  stream: number,
  fields: Parameters<typeof block>[0] = connectTo(TCP),
  flags = END_HEADERS,
): Buffer => frame(TYPE.HEADERS, flags, stream, block(fields));
const priority = (stream: number): Buffer => frame(TYPE.PRIORITY, 0, stream, Buffer.alloc(5));

/** Asks for a stream to the app and waits until it is there. */
async function opened(client: FrameClient, stream: number, port: number = TCP): Promise<void> {
  client.say(headers(stream, connectTo(port)));
  const status = await client.status(stream);
  if (status !== 200) throw new Error(`CONNECT was answered ${status}`);
}

/** What came on a stream, once it is so much. */
async function received(client: FrameClient, stream: number, octets: number): Promise<string> {
  let text = '';
  await client.first(`${octets} octets on stream ${stream}`, () => {
    text = client.frames
      .filter((one) => one.stream === stream && one.type === TYPE.DATA)
      .map(({ payload }) => payload.toString('latin1'))
      .join('');
    return text.length >= octets;
  });
  return text;
}

const ended = (client: FrameClient, stream: number): Promise<unknown> =>
  client.first(
    `the end of stream ${stream}`,
    (one) => one.stream === stream && one.type === TYPE.DATA && (one.flags & END_STREAM) !== 0,
  );

interface Stand {
  readonly sidecar: HboneSidecar;
  /** Of another peer, on a tunnel of its own. */
  readonly innocent: StreamPeer;
}

async function stand(t: Test, limits: Parameters<typeof hboneSidecar>[1] = {}): Promise<Stand> {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { tcp: app.port, ...limits });
  return { sidecar, innocent: await (await hboneClient(t, sidecar, 'innocent')).open(TCP) };
}

/** Its stream still carries. */
async function undisturbed(t: Test, { innocent }: Stand): Promise<void> {
  const before = innocent.text.length;
  innocent.write('still here');
  t.equal((await innocent.until('the echo', (all) => all.length >= before + 10)).slice(before), 'still here');
}

/** What costs the whole tunnel: the last frame said and the code of the GOAWAY. */
const faults: readonly (readonly [what: string, code: number, frames: readonly Buffer[]])[] = [
  ['an even stream', PROTOCOL_ERROR, [headers(2)]],
  ['a stream below the last one', PROTOCOL_ERROR, [headers(5), headers(3)]],
  ['a stream 0', PROTOCOL_ERROR, [headers(0)]],
  ['DATA on a stream nobody opened', PROTOCOL_ERROR, [data(1, 'x')]],
  ['DATA on stream 0', PROTOCOL_ERROR, [data(0, 'x')]],
  ['a window update for a stream nobody opened', PROTOCOL_ERROR, [windowUpdate(1, 1)]],
  ['a reset of a stream nobody opened', PROTOCOL_ERROR, [frame(TYPE.RST_STREAM, 0, 1, uint32(CANCEL))]],
  ['a window update of nothing', PROTOCOL_ERROR, [windowUpdate(0, 0)]],
  ['more window than there can be', FLOW_CONTROL_ERROR, [windowUpdate(0, MAX_WINDOW)]],
  [
    'more window for streams than there can be',
    FLOW_CONTROL_ERROR,
    [settings([INITIAL_WINDOW_SIZE, MAX_WINDOW + 1])],
  ],
  [
    "SETTINGS that make a stream's window more than there can be",
    FLOW_CONTROL_ERROR,
    [headers(1), windowUpdate(1, MAX_WINDOW - 65_535), settings([INITIAL_WINDOW_SIZE, 65_536])],
  ],
  ['a frame that is too large', FRAME_SIZE_ERROR, [frame(0x42, 0, 0, Buffer.alloc(16_385))]],
  ['DATA that is too large', FRAME_SIZE_ERROR, [headers(1), data(1, Buffer.alloc(16_385))]],
  ['a PING of the wrong size', FRAME_SIZE_ERROR, [frame(TYPE.PING, 0, 0, 'short')]],
  ['SETTINGS of the wrong size', FRAME_SIZE_ERROR, [frame(TYPE.SETTINGS, 0, 0, 'short')]],
  ['SETTINGS on a stream', PROTOCOL_ERROR, [headers(1), frame(TYPE.SETTINGS, 0, 1)]],
  ['more padding than payload', PROTOCOL_ERROR, [headers(1), data(1, Buffer.of(4, 1, 2, 3), PADDED)]],
  [
    'another frame inside a header block',
    PROTOCOL_ERROR,
    [headers(1, connectTo(TCP), 0), frame(TYPE.PING, 0, 0, Buffer.alloc(8))],
  ],
  [
    'the headers of another stream inside a header block',
    PROTOCOL_ERROR,
    [headers(1, connectTo(TCP), 0), headers(3)],
  ],
  [
    'a continuation of another stream',
    PROTOCOL_ERROR,
    [headers(1, connectTo(TCP), 0), frame(TYPE.CONTINUATION, END_HEADERS, 3)],
  ],
  ['a continuation of nothing', PROTOCOL_ERROR, [frame(TYPE.CONTINUATION, END_HEADERS, 1)]],
  ['a push', PROTOCOL_ERROR, [headers(1), frame(TYPE.PUSH_PROMISE, END_HEADERS, 1, uint32(2))]],
  ['an index of no field', COMPRESSION_ERROR, [frame(TYPE.HEADERS, END_HEADERS, 1, Buffer.of(0xff, 0x7f))]],
  ['half a field', COMPRESSION_ERROR, [frame(TYPE.HEADERS, END_HEADERS, 1, Buffer.of(0x00, 0x05, 0x61))]],
];

t.test('what costs the tunnel', async (t) => {
  const all = await stand(t);
  for (const [i, [what, code, frames]] of faults.entries()) {
    const client = await hboneFrames(t, all.sidecar);
    client.say(...frames);
    t.equal(await client.goaway(), code, what);
    await client.peer.ended();
    await all.sidecar.metricIs('oarlock_refusals_total', { reason: 'tunnel_broken' }, i + 1);
  }
  await undisturbed(t, all);
  t.match(await all.sidecar.refused('tunnel_broken'), {
    direction: 'inbound',
    peer: 'spiffe://cluster.local/ns/shop/sa/web',
    detail: /^PROTOCOL_ERROR: /,
  });
});

/** What costs its stream and no more: stream 1 is open when they are said. */
const streamFaults: readonly (readonly [what: string, code: number, frames: readonly Buffer[]])[] = [
  ['a second head', PROTOCOL_ERROR, [headers(1)]],
  ['trailers that do not end it', PROTOCOL_ERROR, [headers(1, [['x', 'y']])]],
  [
    'trailers with a pseudo-field',
    PROTOCOL_ERROR,
    [headers(1, [[':method', 'CONNECT']], END_HEADERS | END_STREAM)],
  ],
  ['a window update of nothing', PROTOCOL_ERROR, [windowUpdate(1, 0)]],
  ['more window than there can be', FLOW_CONTROL_ERROR, [windowUpdate(1, MAX_WINDOW)]],
  ['a dependency on itself', PROTOCOL_ERROR, [frame(TYPE.PRIORITY, 0, 1, Buffer.of(0, 0, 0, 1, 0))]],
  ['a PRIORITY of the wrong size', FRAME_SIZE_ERROR, [frame(TYPE.PRIORITY, 0, 1, 'four')]],
];

t.test('what costs a stream and no more', async (t) => {
  const all = await stand(t);
  for (const [what, code, frames] of streamFaults) {
    const client = await hboneFrames(t, all.sidecar);
    await opened(client, 1);
    await opened(client, 3);
    client.say(...frames);
    t.equal(await client.reset(1), code, what);
    client.say(data(3, 'hello'));
    t.equal(await received(client, 3, 5), 'hello', `${what}: the tunnel goes on`);
    client.peer.end();
  }
  t.equal(await all.sidecar.refusals('tunnel_broken'), 0);
  await undisturbed(t, all);
});

const CONNECTION = [':method', 'CONNECT'] as const;
const AUTHORITY = [':authority', `127.0.0.1:${TCP}`] as const;

/** RFC 9113 §8.2, §8.3, §8.5: malformed is reset, whole and no CONNECT is answered 400. */
const heads: readonly (readonly [
  what: string,
  fields: Parameters<typeof block>[0],
  answer: 'reset' | number,
])[] = [
  ['as it should be', [CONNECTION, AUTHORITY], 200],
  ['with fields', [CONNECTION, AUTHORITY, ['baggage', 'a=b'], ['te', 'trailers']], 200],
  ['no :authority', [CONNECTION], 'reset'],
  ['an empty :authority', [CONNECTION, [':authority', '']], 'reset'],
  [':scheme', [CONNECTION, AUTHORITY, [':scheme', 'http']], 'reset'],
  [':path', [CONNECTION, AUTHORITY, [':path', '/']], 'reset'],
  [':authority twice', [CONNECTION, AUTHORITY, AUTHORITY], 'reset'],
  [':method twice', [CONNECTION, CONNECTION, AUTHORITY], 'reset'],
  ['an unknown pseudo-field', [CONNECTION, AUTHORITY, [':x', 'y']], 'reset'],
  ['a pseudo-field behind a field', [CONNECTION, ['x', 'y'], AUTHORITY], 'reset'],
  ['a name in capitals', [CONNECTION, AUTHORITY, ['X', 'y']], 'reset'],
  ['an empty name', [CONNECTION, AUTHORITY, ['', 'y']], 'reset'],
  ['LF in a value', [CONNECTION, AUTHORITY, ['x', 'a\nb']], 'reset'],
  ['connection', [CONNECTION, AUTHORITY, ['connection', 'close']], 'reset'],
  ['transfer-encoding', [CONNECTION, AUTHORITY, ['transfer-encoding', 'chunked']], 'reset'],
  ['te: gzip', [CONNECTION, AUTHORITY, ['te', 'gzip']], 'reset'],
  ['no :method', [AUTHORITY], 'reset'],
  ['GET', [[':method', 'GET'], [':scheme', 'https'], AUTHORITY, [':path', '/']], 400],
  ['POST', [[':method', 'POST'], [':scheme', 'https'], AUTHORITY, [':path', '/']], 400],
  ['GET without :path', [[':method', 'GET'], [':scheme', 'https'], AUTHORITY], 'reset'],
];

t.test('heads', async (t) => {
  const all = await stand(t);
  const client = await hboneFrames(t, all.sidecar);
  let stream = 1;
  for (const [what, fields, answer] of heads) {
    client.say(headers(stream, fields));
    if (answer === 'reset') t.equal(await client.reset(stream), PROTOCOL_ERROR, what);
    else {
      t.equal(await client.status(stream), answer, what);
      if (answer !== 200) t.equal(await client.reset(stream), NO_ERROR, `${what}: no more of it is wanted`);
    }
    stream += 2;
  }
  t.equal(await all.sidecar.refusals('bad_connect'), 2);
  t.equal(await all.sidecar.refusals('tunnel_broken'), 0);
});

t.test('a head in many frames, with padding and priority', async (t) => {
  const { sidecar } = await stand(t);
  const client = await hboneFrames(t, sidecar);
  const fields = block(connectTo(TCP));
  const PRIORITY_FLAG = 0x20;
  client.say(
    frame(
      TYPE.HEADERS,
      PADDED | PRIORITY_FLAG,
      1,
      Buffer.concat([Buffer.of(3, 0, 0, 0, 0, 7), fields.subarray(0, 5), Buffer.alloc(3)]),
    ),
    frame(TYPE.CONTINUATION, 0, 1),
    frame(TYPE.CONTINUATION, 0, 1, fields.subarray(5, 6)),
    frame(TYPE.CONTINUATION, END_HEADERS, 1, fields.subarray(6)),
  );
  t.equal(await client.status(1), 200);
});

t.test('one octet at a time', async (t) => {
  const { sidecar } = await stand(t);
  const client = await hboneFrames(t, sidecar);
  const said = Buffer.concat([
    headers(1),
    data(1, 'hello '),
    frame(TYPE.PING, 0, 0, 'octetsss'),
    data(1, Buffer.concat([Buffer.of(5), Buffer.from('world'), Buffer.alloc(5)]), PADDED | END_STREAM),
  ]);
  for (const octet of said) client.say(Buffer.of(octet));
  await ended(client, 1);
  t.equal(await received(client, 1, 11), 'hello world');
  t.equal((await client.next(TYPE.PING)).payload.toString(), 'octetsss');
});

t.test('streams beyond the limit are refused, until one ends', async (t) => {
  const all = await stand(t, { limits: { maxStreams: 3 } });
  const client = await hboneFrames(t, all.sidecar);
  for (const stream of [1, 3, 5]) await opened(client, stream);
  client.say(headers(7));
  t.equal(await client.reset(7), REFUSED_STREAM);
  client.say(data(1, 'one', END_STREAM));
  await ended(client, 1);
  await opened(client, 9);
  client.say(data(3, 'three'), data(9, 'nine'));
  t.equal(await received(client, 3, 5), 'three');
  t.equal(await received(client, 9, 4), 'nine');
  t.equal(await all.sidecar.refusals('tunnel_broken'), 0);
});

t.test('DATA beyond the window', async (t) => {
  // While a request is under way no more than 64 KiB are taken in advance, and one window waits.
  const app = await httpApp(t);
  const all = await stand(t, { http: app.port, limits: { streamWindow: 65_536 } });
  const client = await hboneFrames(t, all.sidecar);
  await opened(client, 1, HTTP);
  await opened(client, 3);
  client.say(data(1, 'GET /slow/60000 HTTP/1.1\r\nHost: orders\r\n\r\n'));
  for (let i = 0; i < 20; i++) client.say(data(1, Buffer.alloc(16_384, 'x')));
  t.equal(await client.reset(1), FLOW_CONTROL_ERROR);
  client.say(data(3, 'hello'));
  t.equal(await received(client, 3, 5), 'hello');
  await undisturbed(t, all);
});

t.test('padding counts against the window, and is given back', async (t) => {
  const { sidecar } = await stand(t, { limits: { streamWindow: 65_536 } });
  const client = await hboneFrames(t, sidecar);
  await opened(client, 1);
  const padded = data(1, Buffer.concat([Buffer.of(255), Buffer.from('x'), Buffer.alloc(255)]), PADDED);
  // 51,400 octets a turn: three turns are more than the window.
  for (let turn = 1; turn <= 5; turn++) {
    client.say(...Array.from({ length: 200 }, () => padded));
    t.equal((await received(client, 1, 200 * turn)).length, 200 * turn);
  }
});

t.test('what may come on a stream whose peer has ended its side', async (t) => {
  const { sidecar } = await stand(t);
  const client = await hboneFrames(t, sidecar);
  client.say(settings([INITIAL_WINDOW_SIZE, 0]));
  await opened(client, 1);
  client.say(data(1, 'hello', END_STREAM), priority(1), windowUpdate(1, 2));
  t.equal(await received(client, 1, 2), 'he');
  client.say(windowUpdate(1, 100));
  await ended(client, 1);
  t.equal(await received(client, 1, 5), 'hello');
  // And when it is over: frames that were under way.
  client.say(windowUpdate(1, 1), priority(1), frame(TYPE.RST_STREAM, 0, 1, uint32(NO_ERROR)));
  await opened(client, 3);
});

t.test('what may not', async (t) => {
  const { sidecar } = await stand(t);
  const client = await hboneFrames(t, sidecar);
  client.say(settings([INITIAL_WINDOW_SIZE, 0]));
  await opened(client, 1);
  client.say(data(1, 'hello', END_STREAM), data(1, 'more'));
  t.equal(await client.reset(1), STREAM_CLOSED);
  client.say(settings([INITIAL_WINDOW_SIZE, 65_535]));
  await opened(client, 3);
  client.say(data(3, 'bye', END_STREAM));
  await ended(client, 3);
  client.say(data(3, 'more'));
  t.equal(await client.reset(3), STREAM_CLOSED, 'both sides have ended');
  client.say(headers(3));
  t.equal(await client.goaway(), STREAM_CLOSED, 'a stream opened again');
});

t.test('frames for a stream that both have reset', async (t) => {
  const { sidecar } = await stand(t);
  const client = await hboneFrames(t, sidecar);
  await opened(client, 1);
  client.say(windowUpdate(1, 0));
  t.equal(await client.reset(1), PROTOCOL_ERROR);
  const resets = (): number => client.frames.filter(({ type }) => type === TYPE.RST_STREAM).length;
  // It may have been on its way when ours came.
  client.say(data(1, 'late'), frame(TYPE.PING, 0, 0, 'answer 1'));
  await client.next(TYPE.PING);
  t.equal(resets(), 1);
  // Nothing can be on its way behind its own.
  client.say(frame(TYPE.RST_STREAM, 0, 1, uint32(CANCEL)), data(1, 'later'));
  await client.first('another reset', () => resets() === 2);
  client.say(headers(1));
  t.equal(await client.goaway(), STREAM_CLOSED);
});

t.test('trailers are an end', async (t) => {
  const { sidecar } = await stand(t);
  const client = await hboneFrames(t, sidecar);
  await opened(client, 1);
  client.say(data(1, 'hello'), headers(1, [['x', 'y']], END_HEADERS | END_STREAM));
  await ended(client, 1);
  t.equal(await received(client, 1, 5), 'hello');
});

t.test('a CONNECT that has ended its side already', async (t) => {
  const app = await tcpApp(t, (socket) => {
    socket.resume();
    socket.on('end', () => socket.end('bye'));
  });
  const sidecar = await hboneSidecar(t, { tcp: app.port });
  const client = await hboneFrames(t, sidecar);
  client.say(headers(1, connectTo(TCP), END_HEADERS | END_STREAM));
  await ended(client, 1);
  t.equal(await received(client, 1, 3), 'bye');
});

/** SETTINGS_INITIAL_WINDOW_SIZE (§6.5.3, §6.9.2): what is said, in turn, and how much of `hello world` has come then. */
const windows: readonly (readonly [what: string, turns: readonly (readonly [Buffer, number])[]])[] = [
  [
    'a window of one octet',
    [
      [settings([INITIAL_WINDOW_SIZE, 1]), 1],
      [windowUpdate(1, 4), 5],
      [windowUpdate(1, 100), 11],
    ],
  ],
  [
    'the last of several values',
    [
      [settings([INITIAL_WINDOW_SIZE, 100], [INITIAL_WINDOW_SIZE, 3]), 3],
      [settings([INITIAL_WINDOW_SIZE, 6]), 6],
    ],
  ],
  [
    'a window that turns negative',
    [
      [settings([INITIAL_WINDOW_SIZE, 3]), 3],
      // Now −2.
      [settings([INITIAL_WINDOW_SIZE, 1]), 3],
      [windowUpdate(1, 2), 3],
      [windowUpdate(1, 1), 4],
      [settings([INITIAL_WINDOW_SIZE, 65_535]), 11],
    ],
  ],
  [
    'the window of the connection is another',
    [
      [settings([INITIAL_WINDOW_SIZE, 2]), 2],
      [windowUpdate(0, 1_000), 2],
      [windowUpdate(1, 1_000), 11],
    ],
  ],
];

for (const [what, turns] of windows) {
  t.test(what, async (t) => {
    const { sidecar } = await stand(t);
    const client = await hboneFrames(t, sidecar);
    client.say(settings([INITIAL_WINDOW_SIZE, 0]));
    await opened(client, 1);
    client.say(data(1, 'hello world', END_STREAM));
    let pings = 0;
    for (const [said, octets] of turns) {
      client.say(said);
      t.equal(await received(client, 1, octets), 'hello world'.slice(0, octets));
      // What it may not send would have come with the answer to this.
      const opaque = Buffer.from(`ping ${++pings}   `.slice(0, 8));
      client.say(frame(TYPE.PING, 0, 0, opaque));
      await client.first('the answer', (one) => one.type === TYPE.PING && one.payload.equals(opaque));
      t.equal((await received(client, 1, octets)).length, octets);
    }
  });
}
