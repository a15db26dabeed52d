/** The end of a tunnel: nothing of what comes behind it, in the same read, is served, and a fault of ours is told to the log alone. */
import t from 'tap';
import { limitsWith } from '../../mesh/limits.ts';
import type { TunnelStream } from '../../proxy/hbone/stream.ts';
import { Tunnel, type TunnelEnd } from '../../proxy/hbone/tunnel.ts';
import { tcpApp } from '../e2e/harness/apps.ts';
import { connectTo, hboneFrames } from './hbone-client.ts';
import { hboneSidecar, TCP } from './hbone-sidecar.ts';
import { HeldWire } from './hbone-wire.ts';
import { block, END_HEADERS, END_STREAM, frame, framesOf, PREFACE, TYPE } from './http2-frames.ts';

t.setTimeout(30_000);

const SETTINGS = frame(TYPE.SETTINGS, 0, 0);
const GOAWAY = frame(TYPE.GOAWAY, 0, 0, Buffer.alloc(8));
const connectFrame = (stream: number): Buffer =>
  frame(TYPE.HEADERS, END_HEADERS, stream, block(connectTo(TCP)));

t.test('CONNECT behind a GOAWAY that ends an empty tunnel', async (t) => {
  let reached = 0;
  const app = await tcpApp(t, () => {
    reached++;
  });
  const sidecar = await hboneSidecar(t, { tcp: app.port });
  const client = await hboneFrames(t, sidecar);
  await client.next(TYPE.SETTINGS);
  const asked = Array.from({ length: 100 }, (_, i) => connectFrame(2 * i + 1));
  client.say(SETTINGS, GOAWAY, ...asked);
  await client.goaway();
  client.peer.end();
  await sidecar.metricIs('oarlock_connections_open', {}, 0);
  t.equal(reached, 0);
});

t.test('a fault of ours', async (t) => {
  const wire = new HeldWire();
  const ends: TunnelEnd[] = [];
  const ignore = (): void => {};
  const tunnel = new Tunnel('server', wire, limitsWith({}), {
    addressesOf: () => ({ remoteAddress: '', remotePort: 0, localAddress: '', localPort: 0 }),
    asked: () => {
      throw new Error('not thought of');
    },
    roomChanged: ignore,
    closed: (_tunnel, end) => void ends.push(end),
  });
  tunnel.start();
  wire.say(PREFACE, SETTINGS, connectFrame(1));
  do await new Promise((resolve) => setImmediate(resolve));
  while (wire.release());
  const goaway = framesOf(Buffer.concat(wire.writes)).find(({ type }) => type === TYPE.GOAWAY);
  const INTERNAL_ERROR = 2;
  t.equal(goaway?.payload.readUInt32BE(4), INTERNAL_ERROR);
  t.equal(goaway?.payload.length, 8, 'the peer is told no more than that');
  t.match(ends, [{ fault: 'INTERNAL_ERROR', detail: /not thought of[\s\S]*hbone-over\.test/ }]);
});

t.test('a stream that is whole when its tunnel ends is read to its end', async (t) => {
  const wire = new HeldWire();
  const ignore = (): void => {};
  const nowhere = { remoteAddress: '', remotePort: 0, localAddress: '', localPort: 0 };
  const tunnel = new Tunnel('client', wire, limitsWith({}), {
    addressesOf: () => nowhere,
    asked: ignore,
    roomChanged: ignore,
    closed: ignore,
  });
  tunnel.start();
  const open = (): TunnelStream =>
    tunnel.open([[':authority', '10.0.0.1:80']], nowhere, { opened: ignore, refused: ignore, lost: ignore });
  const [whole, cut] = [open(), open()];
  const turns = async (): Promise<void> => {
    do await new Promise((resolve) => setImmediate(resolve));
    while (wire.release());
  };
  const answer = block([[':status', '200']]);
  wire.say(
    SETTINGS,
    frame(TYPE.HEADERS, END_HEADERS, 1, answer),
    frame(TYPE.HEADERS, END_HEADERS, 3, answer),
  );
  whole.end('bye');
  await turns();
  for (let i = 0; i < 10; i++) wire.say(frame(TYPE.DATA, i === 9 ? END_STREAM : 0, 1, Buffer.alloc(10_000)));
  wire.say(frame(TYPE.DATA, END_STREAM, 3, 'not answered yet'));
  await turns();
  wire.push(null);
  await turns();
  t.equal(cut.destroyed, true, 'what it still had to say goes nowhere');
  let heard = 0;
  for await (const piece of whole) heard += piece.length;
  t.equal(heard, 100_000);
});
