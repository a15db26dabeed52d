/** What comes behind the end of a tunnel, in the same read: nothing of it is served, and nothing stays behind. */
import t from 'tap';
import { tcpApp } from '../e2e/harness/apps.ts';
import { connectTo, hboneFrames } from './hbone-client.ts';
import { hboneSidecar, TCP } from './hbone-sidecar.ts';
import { block, END_HEADERS, frame, TYPE } from './http2-frames.ts';

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
