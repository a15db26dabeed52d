/** How streams of a tunnel of ours end: an end, an abort, and a reset behind an end arrive as what they are. */
import { constants, type ServerHttp2Stream } from 'node:http2';
import t, { type Test } from 'tap';
import { open, Peer } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { pause, until, within } from '../e2e/harness/wait.ts';
import { hboneCaller } from './hbone-caller.ts';
import { hbonePeer, rawPeer } from './hbone-peer.ts';
import { block, END_HEADERS, END_STREAM, frame, TYPE } from './http2-frames.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const PORT = 7001;
const { NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR, NGHTTP2_INTERNAL_ERROR } = constants;
const OK = block([[':status', '200']]);

/** The two ends of a connection. */
async function ends(t: Test): Promise<{ app: Peer; stream: ServerHttp2Stream; there: Peer }> {
  const peer = await hbonePeer(t, orders, ({ stream }) => stream.respond({ ':status': 200 }));
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const app = await open(t, tcp);
  const { stream } = await peer.at(0);
  return { app, stream, there: new Peer(stream as never) };
}

t.test('an end is passed on as one, and the other side goes on', async (t) => {
  t.test("the app's", async (t) => {
    const { app, stream, there } = await ends(t);
    app.write('question');
    app.end();
    t.equal(await there.ended(), 'end');
    t.equal(there.text, 'question');
    stream.write('answer');
    await app.until('the answer', (text) => text === 'answer');
    stream.end(' and more');
    t.equal(await app.ended(), 'end');
    t.equal(app.text, 'answer and more');
    await until('the stream to be over', () => stream.closed);
    t.equal(stream.rstCode, 0);
  });
  t.test("the app's, before the peer has answered", async (t) => {
    const peer = await hbonePeer(t, orders, () => {});
    const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    const app = await open(t, tcp);
    app.write('question');
    app.end();
    const { stream } = await peer.at(0);
    await pause(50);
    const there = new Peer(stream as never);
    t.equal(there.text, '', 'not a byte goes where nobody said 200');
    stream.respond({ ':status': 200 });
    t.equal(await there.ended(), 'end');
    t.equal(there.text, 'question');
    stream.end('answer');
    t.equal(await app.ended(), 'end');
    t.equal(app.text, 'answer');
  });
  t.test("the peer's", async (t) => {
    const { app, stream, there } = await ends(t);
    stream.end('goodbye');
    t.equal(await app.ended(), 'end');
    app.write('but ');
    app.write('wait');
    app.end();
    t.equal(await there.ended(), 'end');
    t.equal(there.text, 'but wait');
    await until('the stream to be over', () => stream.closed);
    t.equal(stream.rstCode, 0);
  });
});

t.test("an app's abort is the peer's CONNECT_ERROR (RFC 9113 §8.5), also behind an end", async (t) => {
  for (const ended of ['nobody', 'the app', 'the peer']) {
    t.test(`${ended} had ended`, async (t) => {
      const { app, stream, there } = await ends(t);
      app.write('hello');
      await there.until('it', (text) => text === 'hello');
      if (ended === 'the peer') stream.end();
      if (ended === 'the peer') t.equal(await app.ended(), 'end');
      if (ended === 'the app') app.end();
      if (ended === 'the app') t.equal(await there.ended(), 'end');
      app.abort();
      // The kernel tells nobody of a reset behind a FIN who does not write.
      if (ended === 'the app') stream.write('more');
      await until('the stream to be over', () => stream.closed);
      t.equal(stream.rstCode, NGHTTP2_CONNECT_ERROR);
    });
  }
});

t.test("a peer's reset is the app's, whatever its code and also behind an end", async (t) => {
  for (const code of [NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR, NGHTTP2_INTERNAL_ERROR, 0]) {
    for (const ended of ['nobody', 'the app', 'the peer']) {
      t.test(`code ${code}, ${ended} had ended`, async (t) => {
        const peer = await rawPeer(t, orders, async (tunnel) => {
          tunnel.greet();
          await tunnel.asked(1);
          tunnel.accept(1);
        });
        const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
        const app = await open(t, tcp);
        await app.until('the greeting', (text) => text === 'hello');
        const tunnel = await peer.at(0);
        if (ended === 'the app') app.end();
        if (ended === 'the app') await tunnel.next(TYPE.DATA, 1);
        const gone = new Promise<void>((resolve) => app.socket.once('close', () => resolve()));
        if (ended === 'the peer') tunnel.say(frame(TYPE.DATA, END_STREAM, 1));
        if (ended === 'the peer') t.equal(await app.ended(), 'end');
        tunnel.say(frame(TYPE.RST_STREAM, 0, 1, Buffer.of(0, 0, 0, code)));
        if (ended === 'the peer') {
          // It has heard the end: that nobody listens any more it is told when it writes.
          const writing = setInterval(() => app.write('more'), 20);
          await within('the reset', gone).finally(() => clearInterval(writing));
        } else t.equal(await app.ended(), 'ECONNRESET');
      });
    }
  }
});

t.test(
  'NO_ERROR behind END_STREAM cuts nothing short (RFC 9113 §8.1): so Envoy ends a tunnel whose server closed first',
  async (t) => {
    const size = 4 * 1_048_576;
    const peer = await rawPeer(t, orders, async (tunnel) => {
      tunnel.greet();
      await tunnel.asked(1);
      tunnel.say(frame(TYPE.HEADERS, END_HEADERS, 1, OK));
      for (let sent = 0; sent < size; sent += 16_384)
        tunnel.say(frame(TYPE.DATA, 0, 1, Buffer.alloc(16_384)));
      tunnel.say(frame(TYPE.DATA, END_STREAM, 1), frame(TYPE.RST_STREAM, 0, 1, Buffer.alloc(4)));
    });
    const { tcp } = await hboneCaller(t, ca, {
      places: [{ hbone: peer.port, port: PORT }],
      limits: { streamWindow: 2 * size },
    });
    const app = await open(t, tcp);
    app.write('not read by anybody');
    app.socket.pause();
    // Until the kernel holds no more, and the sidecar keeps the rest.
    await pause(500);
    app.socket.resume();
    t.equal(await app.ended(), 'end');
    t.equal(app.received.length, size);
  },
);
