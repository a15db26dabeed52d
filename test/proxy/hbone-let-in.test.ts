/** Who is let in through a tunnel that is there already, and what a stream is taken for when its asker says what it carries. */
import t from 'tap';
import { echo, httpApp, tcpApp } from '../e2e/harness/apps.ts';
import { policy } from '../e2e/harness/shop.ts';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { connectTo, hboneClient, hboneClientWith, hboneFrames } from './hbone-client.ts';
import { AUTO, HTTP, hboneSidecar } from './hbone-sidecar.ts';
import { block, END_HEADERS, frame, TYPE } from './http2-frames.ts';

const ENHANCE_YOUR_CALM = 11;
const get = (path: string): string => `GET ${path} HTTP/1.1\r\nhost: orders\r\n\r\n`;

t.test('what a stream carries, as its asker says (RFC 7639)', async (t) => {
  const app = await tcpApp(t, echo);
  const http = await httpApp(t);
  // Longer than any test waits: what answers in time was not told by its bytes.
  const limits = { handshakeTimeout: 60_000, serverFirstHold: 60_000 };
  const sidecar = await hboneSidecar(t, { auto: app.port, http: http.port, limits });
  const client = await hboneClient(t, sidecar);

  await t.test('TCP, whose first bytes might begin a request', async () => {
    const stream = client.connect(AUTO, { alpn: 'istio' });
    await stream.status;
    stream.write('ping');
    await stream.until('the echo', (all) => all === 'ping');
  });
  await t.test('HTTP on a port declared so stays HTTP, whatever is said', async (t) => {
    const stream = client.connect(HTTP, { alpn: 'istio' });
    await stream.status;
    t.match(await stream.exchange(get('/tell')), /^HTTP\/1\.1 200 /);
    await sidecar.metricIs('istio_requests_total', { response_code: '200' }, 1);
  });
  await t.test('what nobody knows says HTTP', async (t) => {
    const stream = client.connect(AUTO, { alpn: 'istio-http%2F1.1' });
    await stream.status;
    // An app that echoes speaks no HTTP: 502, and that is an answer of HTTP.
    t.match(await stream.exchange(get('/')), /^HTTP\/1\.1 502 /);
  });
});

t.test('TCP by its asker’s word is judged as TCP', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, {
    auto: app.port,
    policies: policy('others', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}]'),
  });
  const stream = (await hboneClient(t, sidecar)).connect(AUTO, { alpn: 'istio' });
  t.equal(await stream.status, 401);
});

t.test('an expired certificate of the peer opens nothing more', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { auto: app.port });
  const leaf = await sidecar.ca.leaf(spiffe('shop', 'web'), { to: 2_000 });
  const client = await hboneClientWith(t, sidecar.port, leaf);
  const before = client.connect(AUTO, { alpn: 'istio' });
  await before.status;
  await until('GOAWAY', () => client.goaways.length > 0);
  t.equal(await client.connect(AUTO).status.catch(() => 0), 0, 'refused');
  before.write('still here');
  await before.until('the echo', (all) => all === 'still here');
});

t.test('an expired certificate of our own opens nothing more', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { auto: app.port });
  await sidecar.rotate(2_000);
  const client = await hboneClient(t, sidecar);
  await client.open(AUTO);
  await until('GOAWAY', () => client.goaways.length > 0);
  t.equal(await client.connect(AUTO).status.catch(() => 0), 0, 'refused');
});

t.test('new credentials ask for new tunnels, and old streams go on', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { auto: app.port });
  const client = await hboneClient(t, sidecar);
  const stream = client.connect(AUTO, { alpn: 'istio' });
  await stream.status;
  await sidecar.rotate();
  await until('the GOAWAY that counts', () => client.goaways.length === 2);
  stream.write('still here');
  await stream.until('the echo', (all) => all === 'still here');
  stream.end();
  await within('the end of the tunnel', client.closed);
});

t.test('streams that a peer has us reset count as those it resets (CVE-2025-8671)', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { auto: app.port, limits: { maxStreamResets: 20 } });
  const faults = [
    { why: 'WINDOW_UPDATE of 0', of: (id: number) => frame(TYPE.WINDOW_UPDATE, 0, id, Buffer.alloc(4)) },
    { why: 'a PRIORITY of 4 octets', of: (id: number) => frame(TYPE.PRIORITY, 0, id, Buffer.alloc(4)) },
    {
      why: 'a window beyond its bound',
      of: (id: number) => frame(TYPE.WINDOW_UPDATE, 0, id, Buffer.of(0x7f, 0xff, 0xff, 0xff)),
    },
    {
      why: 'trailers that end nothing',
      of: (id: number) => frame(TYPE.HEADERS, END_HEADERS, id, block([['x', 'y']])),
    },
  ];
  for (const { why, of } of faults) {
    const client = await hboneFrames(t, sidecar);
    for (let id = 1; id < 50; id += 2)
      client.say(frame(TYPE.HEADERS, END_HEADERS, id, block(connectTo(AUTO))), of(id));
    const { payload } = await client.next(TYPE.GOAWAY);
    t.equal(payload.readUInt32BE(4), ENHANCE_YOUR_CALM, why);
  }
  t.equal(await sidecar.refusals('tunnel_broken'), faults.length);
});
