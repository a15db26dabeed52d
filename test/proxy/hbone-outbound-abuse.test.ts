/** Peers that we connect to and that mean ill: their tunnel is closed with the right code, and the next one is made. */
import t, { type Test } from 'tap';
import { open } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { hboneCaller } from './hbone-caller.ts';
import { type RawTunnel, rawPeer } from './hbone-peer.ts';
import { block, END_HEADERS, frame, TYPE } from './http2-frames.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const PORT = 7001;
const OK = block([[':status', '200']]);
/** RFC 9113 §7. */
const FLOW_CONTROL_ERROR = 3;
const COMPRESSION_ERROR = 9;
const ENHANCE_YOUR_CALM = 11;

/** Says one thing again and again, until it is told to go. */
async function flood(tunnel: RawTunnel, bytes: Buffer): Promise<void> {
  const many = Buffer.concat(Array.from({ length: Math.ceil(32_768 / bytes.length) }, () => bytes));
  while (tunnel.peer.over === null) {
    if (!tunnel.tls.write(many))
      await new Promise((resolve) => tunnel.tls.once('drain', resolve).once('close', resolve));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const field = (name: string, value: string): Buffer => block([[name, value]]);
const answer = frame(TYPE.HEADERS, END_HEADERS, 1, OK);
const ping = frame(TYPE.PING, 0, 0, Buffer.alloc(8));
const windowUpdate = (stream: number, octets: number): Buffer => {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(octets);
  return frame(TYPE.WINDOW_UPDATE, 0, stream, payload);
};
/** One field of 4,000 octets in the table, then it again and again by its index (RFC 7541 §6.1, §6.2.1). */
const bomb = Buffer.concat([
  Buffer.of(0x40, 1),
  Buffer.from('x'),
  Buffer.of(127, 0xa1, 0x1e),
  Buffer.alloc(4_000, 'y'),
  Buffer.alloc(10_000, 0x80 | 62),
]);

const rows: readonly {
  title: string;
  says: (tunnel: RawTunnel) => unknown;
  code: number;
  limits?: Parameters<typeof hboneCaller>[2]['limits'];
}[] = [
  { title: 'PING without end', says: (tunnel) => flood(tunnel, ping), code: ENHANCE_YOUR_CALM },
  {
    title: 'SETTINGS without end',
    says: (tunnel) => flood(tunnel, frame(TYPE.SETTINGS, 0, 0)),
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'interim answers without end',
    says: (tunnel) => flood(tunnel, frame(TYPE.HEADERS, END_HEADERS, 1, block([[':status', '103']]))),
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'empty DATA without end',
    says: (tunnel) => {
      tunnel.say(answer);
      return flood(tunnel, frame(TYPE.DATA, 0, 1));
    },
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'windows that grow without end, an octet at a time',
    says: (tunnel) => flood(tunnel, windowUpdate(0, 1)),
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'GOAWAY without end',
    says: (tunnel) => flood(tunnel, frame(TYPE.GOAWAY, 0, 0, Buffer.of(0x7f, 255, 255, 255, 0, 0, 0, 0))),
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'frames of no known type without end',
    says: (tunnel) => flood(tunnel, frame(0x42, 0, 0, Buffer.alloc(1_000))),
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'a header block without end',
    says: (tunnel) => {
      tunnel.say(frame(TYPE.HEADERS, 0, 1, OK));
      return flood(tunnel, frame(TYPE.CONTINUATION, 0, 1, field('x', 'y')));
    },
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'a header block that stops in the middle',
    says: (tunnel) => tunnel.say(frame(TYPE.HEADERS, 0, 1, OK)),
    code: ENHANCE_YOUR_CALM,
    limits: { requestHeadTimeout: 500 },
  },
  {
    title: 'a header block of more than 16 KiB',
    says: (tunnel) =>
      tunnel.say(
        frame(TYPE.HEADERS, 0, 1, Buffer.concat([OK, field('x', 'y'.repeat(16_000))])),
        frame(TYPE.CONTINUATION, END_HEADERS, 1, field('x', 'y'.repeat(16_000))),
      ),
    code: ENHANCE_YOUR_CALM,
  },
  {
    title: 'a table larger than ours',
    // RFC 7541 §6.3: a size update, to 8,192.
    says: (tunnel) =>
      tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 1, Buffer.concat([Buffer.of(0x3f, 0xe1, 0x3f), OK]))),
    code: COMPRESSION_ERROR,
  },
  {
    title: "the connection's window beyond its bound",
    says: (tunnel) => tunnel.say(windowUpdate(0, 0x7fff_ffff)),
    code: FLOW_CONTROL_ERROR,
  },
  {
    title: 'an initial window beyond its bound',
    says: (tunnel) => tunnel.say(frame(TYPE.SETTINGS, 0, 0, Buffer.of(0, 4, 0x80, 0, 0, 0))),
    code: FLOW_CONTROL_ERROR,
  },
];

/** A peer whose first tunnel means ill, and whose second greets. */
async function illPeer(
  t: Test,
  says: (tunnel: RawTunnel) => unknown,
  limits: Parameters<typeof hboneCaller>[2]['limits'] = {},
) {
  const peer = await rawPeer(t, orders, async (tunnel, n) => {
    tunnel.tls.on('error', () => {});
    tunnel.greet();
    await tunnel.asked(1);
    if (n === 0) await says(tunnel);
    else tunnel.say(answer, frame(TYPE.DATA, 0, 1, 'hello'));
  });
  return { peer, caller: await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }], limits }) };
}

for (const { title, says, code, limits } of rows) {
  t.test(title, async (t) => {
    const { peer, caller } = await illPeer(t, says, limits);
    const app = await open(t, caller.tcp);
    const tunnel = await peer.at(0);
    t.equal(await tunnel.goaway(), code);
    t.equal(await app.ended(), 'ECONNRESET');
    t.match(await caller.refused('tunnel_broken'), { peer: `127.0.0.1:${peer.port}` });
    const next = await open(t, caller.tcp);
    await next.until('the greeting', (text) => text === 'hello');
    t.equal(peer.tunnels.length, 2);
  });
}

t.test("a stream's window beyond its bound costs the stream", async (t) => {
  const { peer, caller } = await illPeer(t, (tunnel) => tunnel.say(answer, windowUpdate(1, 0x7fff_ffff)));
  const app = await open(t, caller.tcp);
  t.equal(await (await peer.at(0)).reset(1), FLOW_CONTROL_ERROR);
  t.equal(await app.ended(), 'ECONNRESET');
  t.equal(peer.tunnels.length, 1);
});

t.test('an answer that grows when it is decoded is none', async (t) => {
  const { peer, caller } = await illPeer(t, (tunnel) =>
    tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 1, Buffer.concat([OK, bomb]))),
  );
  const app = await open(t, caller.tcp);
  t.equal(await app.ended(), 'ECONNRESET');
  t.match((await caller.refused('connect_failed')).detail, /by HBONE/);
  t.equal(peer.tunnels.length, 1);
});
