/** An upstream that takes connections and says nothing: who gives up waiting for it does not leave dials behind. */
import t from 'tap';
import { tcpApp } from './harness/apps.ts';
import { open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

/** Stands where the callee's sidecar should, and never answers a ClientHello. */
const silent = await tcpApp(t, (socket) => socket.resume().on('end', () => socket.end()));
const ports = { ...(await shopPorts()), ordersTcp: silent.port };
const mesh = await Mesh.create(t, shop(ports, { http: 1, tcp: 1 }));
// Longer than any step of this test: what ends a dial here is not the clock.
const web = await mesh.sidecar('web', '--connect-timeout', '60s');

// As in Envoy, whose TCP proxy cancels such a dial; a request's goes on there, for the pool.
t.test('a TCP connection that leaves takes its dial along', async (t) => {
  for (const how of ['before it spoke', 'after it spoke']) {
    const { count } = silent.seen;
    const { mark } = web;
    const peer = await open(t, ports.tcp);
    if (how === 'after it spoke') peer.write('hello');
    await until('the dial', () => silent.seen.count > count);
    peer.abort();
    t.match(await web.accessed({ direction: 'outbound' }, mark), { response_flags: 'DC' }, how);
    await until('the dial to be given up', () => silent.sockets.size === 0, 5_000);
    await web.metricIs('oarlock_connections_open', {}, 0);
  }
});

t.test('a drain does not wait for a dial', async (t) => {
  const peer = await open(t, ports.tcp);
  await until('the dial', () => silent.sockets.size === 1);
  web.process.signal('SIGTERM');
  t.equal(await peer.ended(), 'ECONNRESET');
  t.same(await web.process.end(10_000), { code: 0, signal: null });
});
