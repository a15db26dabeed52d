/** The client of Istio's CA against a server that speaks HTTP/2 badly: every fault is an error that says what, in time. */
import { createSecureServer, type ServerHttp2Stream } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { encodeResponse } from '../../ca-client/istio-ca-proto.ts';
import { CredentialsError } from '../../ca-client/source.ts';
import { clientOf, embeddedCa, fileWith, type Misbehaviour, orders, type Scene, scene } from './helper.ts';

const HOUR = 3_600_000;
const DEADLINE = 700;
/** Where an answer of some kind comes. */
const PATIENCE = 20_000;
const never = new AbortController().signal;
type Tap = Parameters<typeof embeddedCa>[0];

/** A CA's place with real TLS whose streams a test answers by hand. */
async function byHand(t: Tap, answer: (stream: ServerHttp2Stream) => void): Promise<Scene> {
  const ca = await embeddedCa(t);
  const own = await ca.issueServer(['127.0.0.1'], HOUR);
  const server = createSecureServer({ key: own.keyPem, cert: own.certificatePem });
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => {});
    answer(stream);
  });
  server.on('session', (session) => {
    session.on('error', () => {});
    t.teardown(() => session.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return { t, ca, address: `127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const GRPC = { ':status': 200, 'content-type': 'application/grpc' };

/** A length-prefixed message (gRPC over HTTP/2): compressed flag, length, bytes. */
function frame(message: Buffer, { compressed = false, length = message.length } = {}): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(compressed ? 1 : 0, 0);
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, message]);
}

function finish(stream: ServerHttp2Stream, bytes: Buffer, headers: object = {}): void {
  stream.respond({ ...GRPC, ...headers }, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.end(bytes);
}

function drip(stream: ServerHttp2Stream, bytes: Buffer): void {
  stream.respond(GRPC);
  let sent = 0;
  const timer = setInterval(() => stream.write(bytes.subarray(sent, ++sent)), 50);
  stream.on('close', () => clearInterval(timer));
}

/** @param deadlineMs as short as can be where it is what is waited for */
async function failureOf(world: Scene, deadlineMs = PATIENCE): Promise<CredentialsError> {
  const started = performance.now();
  try {
    await clientOf(world, { deadlineMs }).obtain(never);
  } catch (error) {
    if (!(error instanceof CredentialsError)) throw error;
    if (performance.now() - started > deadlineMs + 8_000) throw new Error(`too late: ${error.message}`);
    return error;
  }
  throw new Error('it was taken for an answer');
}

const some = encodeResponse({ certChain: ['-----BEGIN CERTIFICATE-----'] });
const rows: readonly (readonly [string, RegExp, (stream: ServerHttp2Stream) => void])[] = [
  ['headers, then nothing', /DEADLINE_EXCEEDED.*within 0.7 s/, (stream) => stream.respond(GRPC)],
  [
    'half a message, then nothing',
    /DEADLINE_EXCEEDED.*check the CA and the network/,
    (stream) => {
      stream.respond(GRPC);
      stream.write(frame(some).subarray(0, 12));
    },
  ],
  ['a byte now and then', /DEADLINE_EXCEEDED/, (stream) => drip(stream, frame(Buffer.alloc(10_000)))],
  [
    'a message, but no end',
    /DEADLINE_EXCEEDED/,
    (stream) => {
      stream.respond(GRPC);
      stream.write(frame(some));
    },
  ],
  [
    'half a message, then reset',
    /CA 127.0.0.1:\d+: (INTERNAL|UNAVAILABLE|CANCELLED)/,
    (stream) => {
      stream.respond(GRPC);
      stream.write(frame(some).subarray(0, 12), () => stream.close(2));
    },
  ],
  [
    'the connection closed in the middle',
    /UNAVAILABLE.*check that the CA runs there/,
    (stream) => {
      stream.respond(GRPC);
      stream.write(frame(some).subarray(0, 12), () => stream.session?.destroy());
    },
  ],
  [
    'no message',
    /its answer is refused: .*no PEM certificate|UNIMPLEMENTED|INTERNAL/,
    (s) => finish(s, Buffer.alloc(0)),
  ],
  ['no protobuf', /INTERNAL: .*parsing/, (stream) => finish(stream, frame(Buffer.alloc(20, 0xff)))],
  ['a field cut off', /INTERNAL: .*premature EOF/, (stream) => finish(stream, frame(some.subarray(0, 9)))],
  [
    'too long',
    /RESOURCE_EXHAUSTED: .*262144.*too long/,
    (stream) => finish(stream, frame(encodeResponse({ certChain: ['x'.repeat(300_000)] }))),
  ],
  [
    'longer than there is memory',
    /RESOURCE_EXHAUSTED/,
    (stream) => {
      stream.respond(GRPC);
      stream.write(frame(some, { length: 0xffff_ffff }));
    },
  ],
  [
    'much in little',
    /RESOURCE_EXHAUSTED/,
    (stream) =>
      finish(stream, frame(gzipSync(Buffer.alloc(50_000_000)), { compressed: true }), {
        'grpc-encoding': 'gzip',
      }),
  ],
  [
    'an unknown compression',
    /INTERNAL: its message cannot be read/,
    (stream) => finish(stream, frame(some, { compressed: true }), { 'grpc-encoding': 'lzma' }),
  ],
  [
    'a web server',
    /UNIMPLEMENTED: .*404.*is that the port of a CA/,
    (stream) => {
      stream.respond({ ':status': 404, 'content-type': 'text/html' });
      stream.end('<h1>not here</h1>');
    },
  ],
  [
    'an error without gRPC',
    /(UNKNOWN|INTERNAL): /,
    (stream) => {
      stream.respond({ ':status': 500 });
      stream.end();
    },
  ],
];

for (const [title, words, answer] of rows) {
  t.test(title, async (t) => {
    const waits = words.source.includes('DEADLINE');
    const error = await failureOf(await byHand(t, answer), waits ? DEADLINE : PATIENCE);
    t.match(error.message, words);
    t.match(error.message, /^CA 127.0.0.1:\d+: /);
    t.equal(error.retryAfterMs, null);
  });
}

t.test('how long to wait comes along', async (t) => {
  const waits: readonly (readonly [string, number, (stream: ServerHttp2Stream) => void])[] = [
    [
      'gRPC',
      2_500,
      (s) =>
        s.respond({ ...GRPC, 'grpc-status': '8', 'grpc-retry-pushback-ms': '2500' }, { endStream: true }),
    ],
    [
      'in trailers',
      2_500,
      (stream) => {
        stream.respond(GRPC, { waitForTrailers: true });
        stream.on('wantTrailers', () =>
          stream.sendTrailers({ 'grpc-status': '14', 'grpc-retry-pushback-ms': '2500' }),
        );
        stream.end();
      },
    ],
    ['a proxy', 30_000, (s) => s.respond({ ':status': 503, 'retry-after': '30' }, { endStream: true })],
    [
      'a proxy with a page',
      7_000,
      (stream) => {
        stream.respond({ ':status': 429, 'retry-after': '7', 'content-type': 'text/html' });
        stream.end('slow down');
      },
    ],
  ];
  for (const [title, wait, answer] of waits) {
    const error = await failureOf(await byHand(t, answer));
    t.equal(error.retryAfterMs, wait, `${title}: ${error.message}`);
  }
});

/** Istio's CA, whose clock is `ahead` of ours. */
function issuing(ahead: number, date: boolean): (ca: Scene['ca']) => Misbehaviour {
  return (ca) => async (call, callback) => {
    const { certificatePem } = await ca.issueForRequest(call.request.csr, orders, HOUR);
    const { loadGrpc } = await import('../../ca-client/grpc.ts');
    const { Metadata } = await loadGrpc();
    const metadata = new Metadata();
    if (date) metadata.set('date', new Date(Date.now() + ahead).toUTCString());
    call.sendMetadata(metadata);
    callback(null, { certChain: [certificatePem, ca.rootPem] });
  };
}

t.test('the clocks are compared', async (t) => {
  const near = (actual: number | null, wanted: number, title: string) =>
    t.ok(actual !== null && Math.abs(actual - wanted) < 3_000, `${title}: ${actual}`);
  for (const ahead of [0, 45_000, -45_000]) {
    const world = await scene(t, issuing(ahead, true));
    const { clockSkewMs } = await clientOf(world, { ttlMs: HOUR }).obtain(never);
    near(clockSkewMs, -ahead, 'by the date');
  }
  const world = await scene(t, issuing(0, true));
  const late = clientOf(world, { now: () => Date.now() + 2 * HOUR });
  await t.rejects(late.obtain(never), {
    message:
      /its answer is refused: the certificate expired.*; this machine's clock is 7\d\d\d s ahead of the CA's$/,
  });
});

t.test('a token refused by a CA of another time', async (t) => {
  const claims = Buffer.from(JSON.stringify({ aud: 'istio-ca', exp: Math.floor(Date.now() / 1000) - 60 }));
  const world = await byHand(t, (stream) =>
    stream.respond(
      { ...GRPC, 'grpc-status': '16', date: new Date(Date.now() + 600_000).toUTCString() },
      { endStream: true },
    ),
  );
  const tokenFile = fileWith(t, `e30.${claims.toString('base64url')}.c2lnbmF0dXJl`);
  const error = await clientOf(world, { tokenFile })
    .obtain(never)
    .then(
      () => t.fail(),
      (reason: Error) => reason,
    );
  t.match(
    (error as Error).message,
    /UNAUTHENTICATED: .*expired at .*have it renewed; .* clock is (599|60\d) s behind/,
  );
  t.notMatch((error as Error).message, 'c2lnbmF0dXJl');
});
