/** What peers answer to a CONNECT of ours, or fail to, and what the app sees of it. */
import { createServer } from 'node:net';
import t, { type Test } from 'tap';
import { listen } from '../e2e/harness/apps.ts';
import { call, open } from '../e2e/harness/clients.ts';
import { freePort } from '../e2e/harness/ports.ts';
import { hostOf } from '../e2e/harness/resources.ts';
import { type Leaf, spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { type Caller, carried, hboneCaller } from './hbone-caller.ts';
import { echo, hbonePeer, type RawTunnel, rawPeer } from './hbone-peer.ts';
import { block, END_HEADERS, END_STREAM, frame, TYPE } from './http2-frames.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const PORT = 7001;
const headers = { host: hostOf('orders') };
/** RFC 9113 §7. */
const PROTOCOL_ERROR = 1;
const INTERNAL_ERROR = 2;
const SETTINGS_TIMEOUT = 4;
const CANCEL = 8;
const CONNECT_ERROR = 10;

const status = (value: string): Buffer => block([[':status', value]]);

/** A request and a connection that reach nobody: 503 and a reset, and why. */
async function reachesNobody(t: Test, caller: Caller, reason: string, detail: RegExp): Promise<void> {
  const answer = await call(caller.http, '/refused', { headers });
  t.equal(answer.status, 503);
  t.match(await caller.accessed({ path: '/refused' }), { response_flags: 'UF', reason });
  const peer = await open(t, caller.tcp);
  peer.write('hello');
  t.equal(await peer.ended(), 'ECONNRESET');
  t.equal(peer.text, '');
  t.match((await caller.refused(reason)).detail, detail);
}

for (const code of [400, 401, 403, 404, 500]) {
  t.test(`${code}: refused, and nobody else is asked`, async (t) => {
    const refuse = ({ stream }: Parameters<typeof echo>[0]): void =>
      stream.respond({ ':status': code }, { endStream: true });
    const peers = await Promise.all([hbonePeer(t, orders, refuse), hbonePeer(t, orders, refuse)]);
    const places = peers.map(({ port }, i) => ({ hbone: port, port: PORT + i }));
    const caller = await hboneCaller(t, ca, { places });
    await reachesNobody(t, caller, 'tunnel_refused', new RegExp(`:${PORT}|:${PORT + 1}.* ${code}`));
    t.equal(
      peers.reduce((sum, { asked }) => sum + asked.length, 0),
      2,
      'one CONNECT each',
    );
  });
}

t.test('503: the next endpoint is asked', async (t) => {
  const dead = await hbonePeer(t, orders, ({ stream }) =>
    stream.respond({ ':status': 503 }, { endStream: true }),
  );
  const live = await hbonePeer(t, orders);
  const both = [
    { hbone: dead.port, port: PORT },
    { hbone: live.port, port: PORT + 1 },
  ];
  const caller = await hboneCaller(t, ca, { places: both });
  while (dead.asked.length < 3) await carried(t, caller.tcp);
  t.ok(live.asked.length >= 3);
  t.match(
    (await caller.refused('connect_failed')).detail,
    `127.0.0.1:${PORT} by HBONE: CONNECT was answered 503`,
  );
  const alone = await hboneCaller(t, ca, { places: [{ hbone: dead.port, port: PORT }] });
  await reachesNobody(t, alone, 'connect_failed', / 503/);
});

t.test('no answer in time: the next endpoint is asked', async (t) => {
  const dead = await hbonePeer(t, orders, () => {});
  const limits = { connectTimeout: 1_000 };
  const alone = await hboneCaller(t, ca, { places: [{ hbone: dead.port, port: PORT }], limits });
  await reachesNobody(t, alone, 'connect_failed', /no answer within 1000 ms/);
  const live = await hbonePeer(t, orders);
  const places = [
    { hbone: dead.port, port: PORT },
    { hbone: live.port, port: PORT + 1 },
  ];
  const { tcp } = await hboneCaller(t, ca, { places, limits });
  while (dead.asked.length < 3) await carried(t, tcp);
  t.ok(live.asked.length > 0);
});

t.test('a peer that answers slowly keeps its tunnel', async (t) => {
  const slow = await hbonePeer(t, orders, () => {});
  const { tcp } = await hboneCaller(t, ca, {
    places: [{ hbone: slow.port, port: PORT }],
    limits: { connectTimeout: 1_500 },
  });
  const apps = [await open(t, tcp), await open(t, tcp)];
  for (const app of apps) t.equal(await app.ended(), 'ECONNRESET');
  await open(t, tcp);
  await slow.at(2);
  t.equal(slow.sessions.length, 1, 'it answers PING');
});

t.test('answers are no flood, however little is carried', async (t) => {
  const count = 1_500;
  const refusal = block([
    [':status', '401'],
    ['x-why', 'y'.repeat(900)],
  ]);
  const peer = await rawPeer(t, orders, async (tunnel) => {
    tunnel.greet();
    for (let stream = 1; stream < 2 * count; stream += 2) {
      await tunnel.asked(stream);
      tunnel.say(frame(TYPE.HEADERS, END_HEADERS | END_STREAM, stream, refusal));
    }
  });
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  for (let i = 0; i < count; i += 50) {
    const apps = await Promise.all(Array.from({ length: 50 }, () => open(t, tcp)));
    for (const app of apps) t.equal(await app.ended(), 'ECONNRESET');
  }
  t.equal(peer.tunnels.length, 1);
});

t.test('interim answers are passed over', async (t) => {
  const peer = await hbonePeer(t, orders, (asked) => {
    asked.stream.additionalHeaders({ ':status': 103 });
    echo(asked);
  });
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await carried(t, tcp);
});

t.test('200 and the end in one: the app sees what a closed connection shows', async (t) => {
  const peer = await hbonePeer(t, orders, ({ stream }) =>
    stream.respond({ ':status': 200 }, { endStream: true }),
  );
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, tcp);
  t.equal(await app.ended(), 'end');
});

interface Bad {
  readonly title: string;
  /** What the peer says once it was asked. */
  readonly says: (tunnel: RawTunnel, stream: number) => void;
  /** The code of our RST_STREAM; null: the peer has ended it itself. */
  readonly code: number | null;
  readonly detail: RegExp;
}

const bad: readonly Bad[] = [
  {
    title: 'no status',
    says: (tunnel, stream) => tunnel.say(frame(TYPE.HEADERS, END_HEADERS, stream, block([['x', 'y']]))),
    code: PROTOCOL_ERROR,
    detail: /bad answer/,
  },
  {
    title: 'a status that is none',
    says: (tunnel, stream) => tunnel.say(frame(TYPE.HEADERS, END_HEADERS, stream, status('ok'))),
    code: PROTOCOL_ERROR,
    detail: /bad answer/,
  },
  {
    title: 'an interim answer that ends the stream',
    says: (tunnel, stream) =>
      tunnel.say(frame(TYPE.HEADERS, END_HEADERS | END_STREAM, stream, status('103'))),
    code: PROTOCOL_ERROR,
    detail: /bad answer/,
  },
  {
    title: 'DATA before the answer',
    says: (tunnel, stream) => tunnel.say(frame(TYPE.DATA, 0, stream, 'too early')),
    code: PROTOCOL_ERROR,
    detail: /before the answer/,
  },
  {
    title: 'a reset',
    says: (tunnel, stream) =>
      tunnel.say(frame(TYPE.RST_STREAM, 0, stream, Buffer.of(0, 0, 0, INTERNAL_ERROR))),
    code: null,
    detail: /INTERNAL_ERROR/,
  },
];

for (const { title, says, code, detail } of bad) {
  t.test(`${title} instead of an answer: it reaches nobody, and the tunnel lives`, async (t) => {
    const peer = await rawPeer(t, orders, async (tunnel) => {
      tunnel.greet();
      for (const stream of [1, 3]) {
        await tunnel.asked(stream);
        says(tunnel, stream);
      }
      await tunnel.asked(5);
      tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 5, status('200')), frame(TYPE.DATA, 0, 5, 'hello'));
    });
    const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    await reachesNobody(t, caller, 'connect_failed', detail);
    const tunnel = await peer.at(0);
    if (code !== null) t.equal(await tunnel.reset(1), code);
    await carried(t, caller.tcp);
    t.equal(peer.tunnels.length, 1);
  });
}

t.test(
  'an app that leaves while its stream is asked for: that is taken back, once it is answered',
  async (t) => {
    const peer = await rawPeer(t, orders, (tunnel) => tunnel.greet());
    const { tcp, metric } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const app = await open(t, tcp);
    const tunnel = await peer.at(0);
    await tunnel.asked(1);
    app.abort();
    await until('it to be gone', async () => (await metric('oarlock_connections_open')) === 0);
    await open(t, tcp);
    await tunnel.asked(3);
    // Peers count streams that are reset unanswered, and end a tunnel that has many.
    t.notOk(tunnel.frames.some(({ type }) => type === TYPE.RST_STREAM));
    tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 1, status('200')), frame(TYPE.DATA, 0, 1, 'late'));
    t.equal(await tunnel.reset(1), CANCEL);
    tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 3, status('200')));
  },
);

t.test('apps that leave while the tunnel is made: it goes with the last of them', async (t) => {
  const silent = await listen(
    t,
    createServer((socket) => socket.on('error', () => {}).resume()),
  );
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: silent.port, port: PORT }] });
  const apps = [await open(t, tcp), await open(t, tcp)];
  await until('the tunnel to be dialled', () => silent.sockets.size === 1);
  apps[0]?.abort();
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.equal(silent.sockets.size, 1, 'one still waits');
  apps[1]?.abort();
  // Long before its time is over.
  await until('the dial to be given up', () => silent.sockets.size === 0, 3_000);
});

const mallory = await ca.leaf(spiffe('shop', 'mallory'));
const stranger = await (await TestCa.create()).leaf(spiffe('shop', 'orders'));
const old = await ca.leaf(spiffe('shop', 'orders'), { from: -7_200_000, to: -3_600_000 });
const wrong: readonly { title: string; leaf: Leaf; reason: string; detail: RegExp }[] = [
  {
    title: 'another identity',
    leaf: mallory,
    reason: 'identity_mismatch',
    detail: /expected .*shop\/sa\/orders.*got .*mallory/,
  },
  { title: 'another CA', leaf: stranger, reason: 'untrusted_issuer', detail: /./ },
  { title: 'an expired certificate', leaf: old, reason: 'expired', detail: /./ },
];

for (const { title, leaf, reason, detail } of wrong) {
  t.test(`a peer with ${title}: nothing is asked of it`, async (t) => {
    const peer = await hbonePeer(t, leaf);
    const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    await reachesNobody(t, caller, reason, detail);
    t.equal(peer.asked.length, 0);
  });
}

t.test('a peer that is not there, or takes no h2', async (t) => {
  const nobody = await hboneCaller(t, ca, { places: [{ hbone: await freePort(), port: PORT }] });
  await reachesNobody(t, nobody, 'connect_failed', /ECONNREFUSED/);
  const peer = await rawPeer(t, orders, () => {}, { ALPNCallback: () => undefined });
  const other = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await reachesNobody(t, other, 'tls_handshake_failed', /./);
});

t.test('a peer that never says its SETTINGS is given up', async (t) => {
  const peer = await rawPeer(t, orders, () => {});
  const limits = { handshakeTimeout: 1_000, connectTimeout: 10_000 };
  const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }], limits });
  t.equal((await call(caller.http, '/', { headers })).status, 503);
  t.equal(await (await peer.at(0)).goaway(), SETTINGS_TIMEOUT);
  t.match(await caller.refused('tunnel_broken'), { detail: 'no SETTINGS in time' });
});

const violations: readonly { title: string; bytes: Buffer; code: number }[] = [
  {
    title: 'a first frame that is not SETTINGS',
    bytes: frame(TYPE.PING, 0, 0, Buffer.alloc(8)),
    code: PROTOCOL_ERROR,
  },
  {
    title: 'PUSH_PROMISE',
    bytes: Buffer.concat([
      frame(TYPE.SETTINGS, 0, 0),
      frame(TYPE.PUSH_PROMISE, END_HEADERS, 1, Buffer.concat([Buffer.of(0, 0, 0, 2), status('200')])),
    ]),
    code: PROTOCOL_ERROR,
  },
  {
    title: 'SETTINGS_ENABLE_PUSH from a server',
    bytes: frame(TYPE.SETTINGS, 0, 0, Buffer.of(0, 2, 0, 0, 0, 1)),
    code: PROTOCOL_ERROR,
  },
  {
    title: 'an answer on a stream that nobody asked for',
    bytes: Buffer.concat([frame(TYPE.SETTINGS, 0, 0), frame(TYPE.HEADERS, END_HEADERS, 99, status('200'))]),
    code: PROTOCOL_ERROR,
  },
  {
    title: 'a stream of its own',
    bytes: Buffer.concat([frame(TYPE.SETTINGS, 0, 0), frame(TYPE.HEADERS, END_HEADERS, 2, status('200'))]),
    code: PROTOCOL_ERROR,
  },
  {
    title: 'a header block that is no HPACK',
    bytes: Buffer.concat([frame(TYPE.SETTINGS, 0, 0), frame(TYPE.HEADERS, END_HEADERS, 1, Buffer.of(0x80))]),
    code: 9, // COMPRESSION_ERROR
  },
  { title: 'HTTP/1', bytes: Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'), code: 6 /* FRAME_SIZE_ERROR */ },
];

for (const { title, bytes, code } of violations) {
  t.test(`${title} ends the tunnel, and the connection on it`, async (t) => {
    const peer = await rawPeer(t, orders, async (tunnel) => {
      await tunnel.asked(1);
      tunnel.say(bytes);
    });
    const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const app = await open(t, caller.tcp);
    t.equal(await app.ended(), 'ECONNRESET');
    t.equal(await (await peer.at(0)).goaway(), code);
    t.match(await caller.refused('tunnel_broken'), { level: 40 });
  });
}

t.test("a stream's window is held to", async (t) => {
  const peer = await rawPeer(t, orders, async (tunnel) => {
    tunnel.greet();
    await tunnel.asked(1);
    tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 1, status('200')));
    // More than the kernel takes on the app's side.
    const data = frame(TYPE.DATA, 0, 1, Buffer.alloc(16_384));
    for (let i = 0; i < 2_000; i++) tunnel.say(data);
  });
  const places = [{ hbone: peer.port, port: PORT }];
  const { tcp } = await hboneCaller(t, ca, { places, limits: { streamWindow: 65_535 } });
  const app = await open(t, tcp);
  app.socket.pause();
  t.equal(await (await peer.at(0)).reset(1), 3, 'FLOW_CONTROL_ERROR');
  app.socket.resume();
  t.equal(await app.ended(), 'ECONNRESET');
});

t.test("an app's abort is CONNECT_ERROR (RFC 9113 §8.5)", async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, tcp);
  app.write('hello');
  await app.until('the echo', (text) => text === 'hello');
  const { stream } = await peer.at(0);
  app.abort();
  await until('the reset', () => stream.closed);
  t.equal(stream.rstCode, CONNECT_ERROR);
});
