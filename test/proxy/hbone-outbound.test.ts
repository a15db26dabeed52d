/** Tunnels of ours to a peer: what a CONNECT says, who shares a tunnel, and how many there are. */
import { createServer } from 'node:net';
import t from 'tap';
import { listen } from '../e2e/harness/apps.ts';
import { call, open } from '../e2e/harness/clients.ts';
import { hostOf } from '../e2e/harness/resources.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { pause, until } from '../e2e/harness/wait.ts';
import { carried, hboneCaller } from './hbone-caller.ts';
import { type Asked, echo, hbonePeer, rawPeer } from './hbone-peer.ts';
import { block, END_HEADERS, frame, TYPE } from './http2-frames.ts';

t.setTimeout(180_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const PORT = 7001;
const REFUSED_STREAM = 7;
const OK = block([[':status', '200']]);

/** CONNECTs by the tunnel they came on. */
function perTunnel(asked: readonly Asked[]): number[] {
  const counts: number[] = [];
  for (const { tunnel } of asked) counts[tunnel] = (counts[tunnel] ?? 0) + 1;
  return counts;
}

t.test(
  "a CONNECT's head: ztunnel's authority, baggage and forwarded, RFC 7639's alpn, and no more",
  async (t) => {
    const peer = await hbonePeer(t, orders);
    const { tcp, http } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
    await carried(t, tcp);
    const { headers } = await peer.at(0);
    t.strictSame(Object.fromEntries(Object.entries(headers)), {
      ':method': 'CONNECT',
      ':authority': `127.0.0.1:${PORT}`,
      baggage:
        'k8s.cluster.name=test,k8s.namespace.name=shop,k8s.pod.name=web,service.name=web,service.version=latest',
      forwarded: 'for="127.0.0.1"',
      // What a connection of its own would have offered (Istio's ALPN of TCP in the mesh).
      alpn: 'istio',
    });
    const client = await open(t, http);
    client.write(`GET / HTTP/1.1\r\nhost: ${hostOf('orders')}\r\n\r\n`);
    t.equal((await peer.at(1)).headers.alpn, 'istio-http%2F1.1');
  },
);

t.test('an IPv6 authority has brackets (RFC 3986 §3.2.2)', async (t) => {
  const peer = await hbonePeer(t, orders);
  const relayed = await new Promise<boolean>((resolve) => {
    const relay = createServer((socket) => peer.server.emit('connection', socket));
    relay.once('error', () => resolve(false));
    relay.listen(peer.port, '::1', () => resolve(true));
    t.teardown(() => relay.close());
  });
  if (!relayed) {
    t.comment('no IPv6 here');
    return;
  }
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT, address: '::1' }] });
  await carried(t, tcp);
  t.equal((await peer.at(0)).headers[':authority'], `[::1]:${PORT}`);
});

t.test('the handshake: our certificate, ALPN h2 alone, no server name', async (t) => {
  let offered: unknown = null;
  const peer = await rawPeer(t, orders, () => {}, {
    ALPNCallback: (hello) => {
      offered = { ...hello };
      return 'h2';
    },
  });
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await open(t, tcp);
  const { tls } = await peer.at(0);
  t.match(offered, { protocols: ['h2'] });
  t.notOk((offered as { servername?: string }).servername);
  t.notOk(tls.servername);
  t.equal(tls.getPeerX509Certificate()?.subjectAltName, `URI:${spiffe('shop', 'web')}`);
});

t.test('fifty connections at once: one handshake', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await Promise.all(Array.from({ length: 50 }, () => carried(t, tcp)));
  t.strictSame(perTunnel(peer.asked), [50]);
});

t.test('a tunnel carries a hundred; the next connection gets another', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const peers = await Promise.all(Array.from({ length: 101 }, () => carried(t, tcp)));
  t.strictSame(perTunnel(peer.asked), [100, 1]);
  for (const one of peers.slice(0, 50)) one.end();
  for (const one of peers.slice(0, 50)) await one.ended();
  await carried(t, tcp);
  t.equal(
    (await peer.at(101)).tunnel,
    0,
    'there is room again, and the fullest is filled: the other may fall idle',
  );
});

t.test("a peer's own bound holds, also for those that came before it was known", async (t) => {
  const peer = await hbonePeer(t, orders, echo, { settings: { maxConcurrentStreams: 3 } });
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await Promise.all(Array.from({ length: 20 }, () => carried(t, tcp)));
  const counts = perTunnel(peer.asked);
  t.ok(
    counts.every((count) => count <= 3),
    String(counts),
  );
});

t.test('services of one workload share a tunnel; where another may answer, they do not', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp, more } = await hboneCaller(t, ca, {
    places: [{ hbone: peer.port, port: PORT }],
    services: ['twin', 'other'],
    resources: `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: other, namespace: shop}
spec:
  host: ${hostOf('other')}
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: ["${spiffe('shop', 'orders')}", "${spiffe('shop', 'spare')}"]}}
`,
  });
  for (const port of [tcp, more[0] ?? 0, more[1] ?? 0]) await carried(t, port);
  t.strictSame(
    peer.asked.map(({ tunnel }) => tunnel),
    [0, 0, 1],
  );
});

t.test('a tunnel without a stream is closed, and the next connection gets a new one', async (t) => {
  const peer = await hbonePeer(t, orders);
  const { tcp } = await hboneCaller(t, ca, {
    places: [{ hbone: peer.port, port: PORT }],
    limits: { sessionIdleTimeout: 1_000 },
  });
  const first = await carried(t, tcp);
  const [session] = peer.sessions;
  const goaway: number[] = [];
  session?.on('goaway', (code) => void goaway.push(code));
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  t.equal(session?.closed, false, 'one with a stream is not idle');
  first.end();
  await first.ended();
  await until('the tunnel to be closed', () => session?.destroyed);
  t.strictSame(goaway, [0], 'NO_ERROR');
  await carried(t, tcp);
  t.equal(peer.sessions.length, 2);
});

t.test('requests share streams as they share connections', async (t) => {
  const peer = await hbonePeer(t, orders, ({ stream }) => {
    stream.respond({ ':status': 200 });
    stream.on('data', () => stream.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  });
  const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const { http } = caller;
  const headers = { host: hostOf('orders') };
  for (let i = 0; i < 5; i++) t.equal((await call(http, '/', { headers })).status, 200);
  t.equal(peer.asked.length, 1, 'one stream for five requests, one after the other');
  await caller.apply('kind: MeshConfig\n');
  for (let i = 0; i < 5; i++) t.equal((await call(http, '/', { headers })).status, 200);
  t.equal(peer.asked.length, 2, 'and one more after new resources');
  await Promise.all(Array.from({ length: 5 }, () => call(http, '/', { headers })));
  t.strictSame(perTunnel(peer.asked), [peer.asked.length]);
});

t.test('a port that nobody declared: whoever speaks first decides', async (t) => {
  const peer = await hbonePeer(t, orders, ({ stream }) => {
    stream.respond({ ':status': 200 });
    stream.on('end', () => stream.end());
    stream.on('data', (chunk: Buffer) => {
      if (chunk.includes('HTTP/1.1')) stream.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      else stream.write(chunk);
    });
    if (greets) stream.write('220 mail ESMTP\r\n');
  });
  const { auto } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  let greets = true;
  const patient = await open(t, auto);
  await patient.until('the greeting', (text) => text === '220 mail ESMTP\r\n');
  greets = false;
  // No request begins so: it is known at once for TCP.
  const quick = await open(t, auto);
  quick.write('\0hello');
  await quick.until('the echo', (text) => text === '\0hello');
  t.equal((await call(auto, '/', { headers: { host: hostOf('orders') } })).status, 200);
  patient.end();
  t.equal(await patient.ended(), 'end');
  t.strictSame(perTunnel(peer.asked), [peer.asked.length]);
});

t.test('who waits for a tunnel is bounded', async (t) => {
  // It accepts, and says nothing.
  const silent = await listen(
    t,
    createServer((socket) => socket.on('error', () => {})),
  );
  const caller = await hboneCaller(t, ca, {
    places: [{ hbone: silent.port, port: PORT }],
    limits: { maxWaitingStreams: 2, connectTimeout: 2_000 },
  });
  const headers = { host: hostOf('orders') };
  const waiting = [1, 2].map(() => call(caller.http, '/wait', { headers }));
  await until('the tunnel to be dialled', () => silent.sockets.size === 1);
  await until('both to be there', async () => caller.metric('oarlock_connections_open').then((n) => n === 2));
  const third = await call(caller.http, '/third', { headers });
  t.equal(third.status, 503);
  t.match(await caller.accessed({ path: '/third' }), { response_flags: 'UO' });
  for (const { status } of await Promise.all(waiting)) t.equal(status, 503);
  t.match(await caller.accessed({ path: '/wait' }), { response_flags: 'UF' });
  t.match((await caller.refused('too_many_waiting')).detail, /by HBONE/);
  t.match(await caller.refused('tls_handshake_timeout'), { direction: 'outbound' });
});

t.test('where all tunnels there may be are full, connections wait for room', async (t) => {
  const peer = await hbonePeer(t, orders);
  const caller = await hboneCaller(t, ca, {
    places: [{ hbone: peer.port, port: PORT }],
    limits: { poolSize: 2, maxTunnelStreams: 2, connectTimeout: 2_000 },
  });
  const { tcp } = caller;
  const served = await Promise.all([1, 2, 3, 4].map(() => carried(t, tcp)));
  t.strictSame(perTunnel(peer.asked), [2, 2]);
  const [fifth, sixth] = [await open(t, tcp), await open(t, tcp)];
  fifth.write('hello');
  served[0]?.end();
  await fifth.until('the echo', (text) => text === 'hello');
  t.equal(await sixth.ended(), 'ECONNRESET');
  t.match((await caller.refused('connect_failed')).detail, /no tunnel has room/);
  t.equal(peer.sessions.length, 2);
});

t.test('a peer that takes nobody for now is not asked by one tunnel after the other', async (t) => {
  const MAX_CONCURRENT_STREAMS = 3;
  const peer = await rawPeer(t, orders, (tunnel) => tunnel.greet([[MAX_CONCURRENT_STREAMS, 0]]));
  const { tcp } = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  const first = await open(t, tcp);
  const tunnel = await peer.at(0);
  await tunnel.asked(1);
  // It came before our bound was known.
  tunnel.say(frame(TYPE.RST_STREAM, 0, 1, Buffer.of(0, 0, 0, REFUSED_STREAM)));
  const more = [first, await open(t, tcp), await open(t, tcp)];
  await pause(200);
  t.equal(peer.tunnels.length, 1);
  tunnel.say(frame(TYPE.SETTINGS, 0, 0, Buffer.of(0, MAX_CONCURRENT_STREAMS, 0, 0, 0, 9)));
  for (const [i, app] of more.entries()) {
    const stream = 2 * i + 3;
    await tunnel.asked(stream);
    tunnel.say(frame(TYPE.HEADERS, END_HEADERS, stream, OK), frame(TYPE.DATA, 0, stream, 'hello'));
    await app.until('the greeting', (text) => text === 'hello');
  }
});

t.test('an endpoint that is a host name is asked for by its address', async (t) => {
  const peer = await hbonePeer(t, orders);
  const places = [{ hbone: peer.port, port: PORT, address: 'localhost' }];
  const { tcp } = await hboneCaller(t, ca, { places, resolution: 'DNS' });
  await carried(t, tcp);
  t.equal((await peer.at(0)).headers[':authority'], `127.0.0.1:${PORT}`);
});

t.test('a second tunnel resumes the TLS session of the first, and its peer is who it was', async (t) => {
  const resumed: boolean[] = [];
  const peer = await hbonePeer(t, orders);
  peer.server.on('secureConnection', (tls) => resumed.push(tls.isSessionReused()));
  const caller = await hboneCaller(t, ca, { places: [{ hbone: peer.port, port: PORT }] });
  await carried(t, caller.tcp);
  peer.sessions[0]?.destroy();
  const second = await carried(t, caller.tcp);
  t.strictSame(resumed, [false, true]);
  second.end();
  await second.ended();
  const logged = await caller.accessed({ response_flags: '-' });
  t.equal(logged.destination_principal, spiffe('shop', 'orders'));
});
