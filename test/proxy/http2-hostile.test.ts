/** What a hostile HTTP/2 peer may try: heads that are wrong, and floods. Nothing of it reaches the app. */
import { createServer, type ServerHttp2Stream } from 'node:http2';
import t, { type Test } from 'tap';
import { listen } from '../e2e/harness/apps.ts';
import { open } from '../e2e/harness/clients.ts';
import { until } from '../e2e/harness/wait.ts';
import {
  ACK,
  block,
  END_HEADERS,
  END_STREAM,
  type FrameClient,
  frame,
  frameClient,
  GET,
  TYPE,
} from './http2-frames.ts';
import { type InboundSidecar, inboundSidecar, type SidecarOptions } from './inbound-sidecar.ts';

const PROTOCOL_ERROR = 1;
const FLOW_CONTROL_ERROR = 3;
const FRAME_SIZE_ERROR = 6;
const CANCEL = 8;
const ENHANCE_YOUR_CALM = 11;

interface Stand {
  readonly sidecar: InboundSidecar;
  readonly client: FrameClient;
  /** Targets the app was asked for. */
  readonly asked: string[];
  /** Those of requests to `/wait` whose body came to its end. */
  readonly ended: string[];
  /** Names of the fields of the last request. */
  last(): readonly string[];
}

async function stand(t: Test, options: SidecarOptions = {}): Promise<Stand> {
  const asked: string[] = [];
  const ended: string[] = [];
  let names: readonly string[] = [];
  const app = createServer();
  app.on('stream', (stream: ServerHttp2Stream, headers) => {
    asked.push(String(headers[':path']));
    names = Object.keys(headers);
    stream.on('error', () => {});
    if (headers[':path'] === '/wait') {
      stream.resume();
      stream.on('end', () => {
        if (!stream.aborted) ended.push('/wait');
      });
      return;
    }
    stream.respond({ ':status': 200 });
    stream.end('ok');
  });
  const { port } = await listen(t, app as never);
  const sidecar = await inboundSidecar(t, port, { protocol: 'http2', ...options });
  return { sidecar, client: await frameClient(t, sidecar.port), asked, ended, last: () => names };
}

type Fields = readonly (readonly [string, string])[];

/** GET with some pseudo-fields replaced (null: left out), and fields added. */
function get(pseudo: Readonly<Record<string, string | null>>, more: Fields = []): Fields {
  const kept = GET.flatMap(([name, value]): Fields => {
    const other = pseudo[name];
    return other === null ? [] : [[name, other ?? value]];
  });
  return [...kept, ...more];
}

/** A status; `reset`: RST_STREAM PROTOCOL_ERROR (RFC 9113 §8.1.1: malformed); `dropped`: 200, and the app sees no such field. */
const heads: readonly (readonly [what: string, fields: Fields, answer: number | 'reset' | 'dropped'])[] = [
  ['as it should be', GET, 200],
  ['Host like :authority', get({}, [['host', 'Orders']]), 200],
  ['Host alone', get({ ':authority': null }, [['host', 'orders']]), 200],
  ['Host unlike :authority', get({}, [['host', 'other']]), 400],
  ['neither', get({ ':authority': null }), 'reset'],
  [
    'two Hosts',
    get({ ':authority': null }, [
      ['host', 'orders'],
      ['host', 'other'],
    ]),
    'reset',
  ],
  ['user info in :authority', get({ ':authority': 'me@orders' }), 'reset'],
  ['a bad port', get({ ':authority': 'orders:http' }), 400],
  ['a list of hosts', get({ ':authority': 'orders,other' }), 400],
  ['no :path', get({ ':path': null }), 'reset'],
  ['an empty :path', get({ ':path': '' }), 'reset'],
  ['a fragment', get({ ':path': '/a#b' }), 400],
  ['a space in :path', get({ ':path': '/a b' }), 'reset'],
  ['a control byte in :path', get({ ':path': '/a\x01' }), 'reset'],
  ['a byte above ASCII in :path', get({ ':path': '/\xe4' }), 400],
  ['an absolute :path', get({ ':path': 'http://orders/' }), 'reset'],
  ['OPTIONS *', get({ ':method': 'OPTIONS', ':path': '*' }), 404],
  ['GET *', get({ ':path': '*' }), 'reset'],
  [
    'CONNECT',
    [
      [':method', 'CONNECT'],
      [':authority', 'orders:443'],
    ],
    405,
  ],
  ['CONNECT to a :protocol', get({ ':method': 'CONNECT' }, [[':protocol', 'websocket']]), 'reset'],
  ['no :method', get({ ':method': null }), 'reset'],
  ['a :method that is no token', get({ ':method': 'GE T' }), 'reset'],
  ['no :scheme', get({ ':scheme': null }), 'reset'],
  ['another :scheme', get({ ':scheme': 'ftp' }), 400],
  ['a :path twice', [...GET, [':path', '/b']], 'reset'],
  ['a pseudo-field behind a field', [...get({ ':path': null }, [['a', 'b']]), [':path', '/']], 'reset'],
  ['an unknown pseudo-field', [[':x', 'y'], ...GET], 'reset'],
  [':status in a request', [[':status', '200'], ...GET], 'reset'],
  ['a name in capitals', get({}, [['X-A', 'b']]), 'reset'],
  ['a name with a space', get({}, [['x a', 'b']]), 'dropped'],
  ['an empty name', get({}, [['', 'b']]), 'dropped'],
  ['NUL in a value', get({}, [['x', 'a\0b']]), 'dropped'],
  ['LF in a value', get({}, [['x', 'a\nx-b: c']]), 'dropped'],
  ['connection', get({}, [['connection', 'close']]), 'reset'],
  ['keep-alive', get({}, [['keep-alive', '1']]), 'reset'],
  ['proxy-connection', get({}, [['proxy-connection', 'close']]), 'reset'],
  ['transfer-encoding', get({}, [['transfer-encoding', 'chunked']]), 'reset'],
  ['upgrade', get({}, [['upgrade', 'websocket']]), 'reset'],
  ['te: trailers', get({}, [['te', 'trailers']]), 200],
  ['te: gzip', get({}, [['te', 'gzip']]), 'reset'],
  ['content-length without a body', get({}, [['content-length', '3']]), 'reset'],
  ['content-length 0', get({}, [['content-length', '0']]), 200],
  ['a content-length that is none', get({}, [['content-length', '+0']]), 'reset'],
  [
    'content-length twice',
    get({}, [
      ['content-length', '0'],
      ['content-length', '0'],
    ]),
    'reset',
  ],
  [
    '100 fields',
    get(
      {},
      Array.from({ length: 100 }, (_, i) => [`x-${i}`, '']),
    ),
    200,
  ],
  [
    '101 fields',
    get(
      {},
      Array.from({ length: 101 }, (_, i) => [`x-${i}`, '']),
    ),
    431,
  ],
];

t.test('each head is answered as it deserves, and the connection goes on', async (t) => {
  const { client, asked, last } = await stand(t);
  let stream = 1;
  let served = 0;
  for (const [what, fields, answer] of heads) {
    client.request(stream, fields);
    t.comment(what);
    if (answer === 'reset') t.equal(await client.reset(stream), PROTOCOL_ERROR, what);
    else t.equal(await client.status(stream), answer === 'dropped' ? 200 : answer, what);
    if (answer === 'dropped')
      t.notOk(
        last().some((name) => /^(?:|x.*a)$/.test(name)),
        what,
      );
    if (answer === 200 || answer === 'dropped') served++;
    stream += 2;
  }
  t.equal(asked.length, served, 'the app saw no other');
});

t.test('a body that is not as long as Content-Length says never ends at the app', async (t) => {
  const post = get({ ':method': 'POST', ':path': '/wait' }, [['content-length', '5']]);
  const short = await stand(t);
  short.client.request(1, post, END_HEADERS);
  short.client.say(frame(TYPE.DATA, END_STREAM, 1, 'abc'));
  t.equal(await short.client.reset(1), PROTOCOL_ERROR);
  short.client.request(3);
  t.equal(await short.client.status(3), 200);
  const long = await stand(t);
  long.client.request(1, post, END_HEADERS);
  long.client.say(frame(TYPE.DATA, 0, 1, 'abcdef'));
  t.not(await long.client.goaway(), 0);
  for (const { ended } of [short, long]) t.equal(ended.length, 0);
});

t.test('trailers with a pseudo-field, or in the middle', async (t) => {
  const { client } = await stand(t);
  client.request(1, get({ ':method': 'POST', ':path': '/wait' }), END_HEADERS);
  client.say(frame(TYPE.HEADERS, END_HEADERS | END_STREAM, 1, block([[':path', '/evil']])));
  t.equal(await client.reset(1), PROTOCOL_ERROR);
  client.request(3, get({ ':method': 'POST', ':path': '/wait' }), END_HEADERS);
  client.say(frame(TYPE.HEADERS, END_HEADERS, 3, block([['x', 'y']])));
  t.equal(await client.reset(3), PROTOCOL_ERROR);
});

t.test('a head of more than --max-head-bytes', async (t) => {
  const { client, asked } = await stand(t, { limits: { maxHeadBytes: 2_000 } });
  const big = block(get({}, [['x', 'y'.repeat(3_000)]]));
  client.say(frame(TYPE.HEADERS, END_HEADERS | END_STREAM, 1, big));
  t.equal(await client.status(1), 431);
  client.request(3);
  t.equal(await client.status(3), 200);
  t.equal(asked.length, 1);
});

t.test('a head without end: CONTINUATION after CONTINUATION', async (t) => {
  const { client, asked } = await stand(t);
  client.say(frame(TYPE.HEADERS, END_STREAM, 1, block(GET)));
  const piece = frame(TYPE.CONTINUATION, 0, 1, block([['x', 'y'.repeat(1_000)]]));
  for (let i = 0; i < 100; i++) client.say(piece);
  t.not(await client.goaway(), 0);
  await client.peer.ended();
  t.equal(asked.length, 0);
});

t.test('rapid reset: streams opened and taken back', async (t) => {
  const { client, sidecar, asked } = await stand(t, { limits: { maxStreamResets: 50 } });
  const again = get({ ':path': '/wait' });
  for (let stream = 1; stream < 1_000; stream += 2) {
    client.request(stream, again);
    client.say(frame(TYPE.RST_STREAM, 0, stream, Buffer.of(0, 0, 0, CANCEL)));
  }
  t.equal(await client.goaway(), ENHANCE_YOUR_CALM);
  await client.peer.ended();
  t.ok(asked.length < 500, `${asked.length} reached the app`);
  t.equal(sidecar.lines.filter(({ reason }) => reason === 'too_many_resets').length, 1);
  await until('all streams to be over', () => sidecar.path.connections.size === 0);
});

t.test('resets of a few among many are no attack', async (t) => {
  const { client } = await stand(t, { limits: { maxStreamResets: 5 } });
  let stream = 1;
  for (let i = 0; i < 30; i++) {
    client.request(stream);
    t.equal(await client.status(stream), 200);
    stream += 2;
    client.request(stream, get({ ':path': '/wait' }));
    if (i % 2 === 0) client.say(frame(TYPE.RST_STREAM, 0, stream, Buffer.of(0, 0, 0, CANCEL)));
    stream += 2;
  }
  client.request(stream);
  t.equal(await client.status(stream), 200);
});

const floods: readonly (readonly [what: string, piece: (i: number) => Buffer])[] = [
  ['PING', (i) => frame(TYPE.PING, 0, 0, Buffer.alloc(8, i))],
  ['SETTINGS', () => frame(TYPE.SETTINGS, 0, 0, Buffer.of(0, 4, 0, 0, 255, 255))],
];
for (const [what, piece] of floods) {
  t.test(`a flood of ${what} by who reads no answer ends the connection`, async (t) => {
    const { client, sidecar } = await stand(t);
    client.request(1);
    t.equal(await client.status(1), 200);
    const { socket } = client.peer;
    socket.pause();
    const chunk = Buffer.concat(Array.from({ length: 1_000 }, (_, i) => piece(i)));
    const timer = setInterval(() => {
      for (let i = 0; i < 100 && socket.writableLength < 1 << 20; i++) client.say(chunk);
    }, 1);
    t.teardown(() => clearInterval(timer));
    await client.peer.ended();
    t.equal(sidecar.path.connections.size, 0);
  });
}

t.test('frames that break the rules end the connection', async (t) => {
  const cases: readonly (readonly [what: string, bytes: Buffer, code: number])[] = [
    ['DATA on no stream', frame(TYPE.DATA, 0, 0, 'x'), PROTOCOL_ERROR],
    ['an even stream', frame(TYPE.HEADERS, END_HEADERS | END_STREAM, 2, block(GET)), PROTOCOL_ERROR],
    ['a SETTINGS that is no multiple of six', frame(TYPE.SETTINGS, 0, 0, 'abc'), FRAME_SIZE_ERROR],
    ['a SETTINGS ACK with a payload', frame(TYPE.SETTINGS, ACK, 0, 'abcdef'), FRAME_SIZE_ERROR],
    [
      'PUSH_PROMISE of a client',
      frame(TYPE.PUSH_PROMISE, END_HEADERS, 1, Buffer.of(0, 0, 0, 2)),
      PROTOCOL_ERROR,
    ],
    [
      'a window beyond 2^31 - 1',
      frame(TYPE.WINDOW_UPDATE, 0, 0, Buffer.of(0x7f, 255, 255, 255)),
      FLOW_CONTROL_ERROR,
    ],
    ['a frame larger than we take', frame(TYPE.PING, 0, 0, Buffer.alloc(20_000)), FRAME_SIZE_ERROR],
  ];
  for (const [what, bytes, code] of cases) {
    const { client } = await stand(t);
    client.say(bytes);
    t.equal(await client.goaway(), code, what);
    await client.peer.ended();
  }
});

t.test('more DATA than the window allows', async (t) => {
  const { client } = await stand(t, { limits: { streamWindow: 65_535 } });
  client.request(1, get({ ':method': 'POST', ':path': '/wait' }), END_HEADERS);
  for (let i = 0; i < 8; i++) client.say(frame(TYPE.DATA, 0, 1, Buffer.alloc(16_384)));
  const ended = await Promise.race([client.reset(1), client.goaway()]);
  t.equal(ended, FLOW_CONTROL_ERROR);
});

t.test('more streams at once than --max-streams', async (t) => {
  const { client, asked } = await stand(t, { limits: { maxStreams: 10 } });
  for (let stream = 1; stream <= 41; stream += 2) client.request(stream, get({ ':path': '/wait' }));
  t.not(await Promise.race([client.reset(21), client.goaway()]), 0);
  t.ok(asked.length <= 10, `${asked.length} reached the app`);
});

t.test('a preface and nothing behind it', async (t) => {
  const { sidecar } = await stand(t, { limits: { handshakeTimeout: 300 } });
  const peer = await open(t, sidecar.port);
  peer.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  await peer.ended();
  t.pass('it is closed');
});
