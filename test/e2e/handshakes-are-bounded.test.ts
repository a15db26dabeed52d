/** Peers that begin handshakes and never finish them keep nobody out: the bound is small, and the stalled give way. */
import { connect as connectTcp, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { Mesh } from './harness/mesh.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP } from './harness/tls-client.ts';
import { until, within } from './harness/wait.ts';

t.setTimeout(120_000);

const MOST = 3;
const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
const orders = await mesh.sidecar('orders', '--max-handshakes', String(MOST));
const web = await mesh.ca.leaf(spiffe('shop', 'web'));

/** The bytes of a ClientHello, as node:tls says it. */
function clientHello(): Promise<Buffer> {
  return within(
    'a ClientHello',
    new Promise<Buffer>((resolve) => {
      const wire = new Duplex({
        read() {},
        write(chunk: Buffer, _encoding, done) {
          resolve(chunk);
          done();
        },
      });
      connectTls({ socket: wire, ALPNProtocols: ISTIO_HTTP, rejectUnauthorized: false }).on(
        'error',
        () => {},
      );
    }),
  );
}

/** Says hello, hears the answer, and leaves it at that. */
function stall(hello: Buffer): Promise<Socket> {
  const socket = connectTcp(ports.ordersHttp, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(hello);
  return within(
    "the server's answer",
    new Promise((resolve) => {
      socket.once('data', () => resolve(socket));
    }),
  );
}

t.test('the stalled give way to who waits', async (t) => {
  const hello = await clientHello();
  const stalled = await Promise.all(Array.from({ length: MOST }, () => stall(hello)));
  const { mark } = orders;
  const begun = Date.now();
  const served = attempt(t, ports.ordersHttp, { leaf: web, ALPNProtocols: ISTIO_HTTP });
  t.equal(await served, 200, 'an honest client is served');
  t.ok(Date.now() - begun < 9_000, 'before the time-out of the stalled');
  const line = await orders.logged({ reason: 'too_many_handshakes' }, mark);
  t.match(line.detail, /no end for \d+ ms/);
  t.equal(stalled.filter(({ destroyed, closed }) => destroyed || closed).length, 1, 'and one gave way');
  await orders.metricIs('oarlock_handshakes_waiting', {}, 0);
});

t.test('whoever leaves while waiting is forgotten', async (t) => {
  const hello = await clientHello();
  await until('room again', async () => (await orders.metric('oarlock_handshakes_waiting')) === 0);
  const leaving: Socket[] = [];
  for (let i = 0; i < 20; i++) {
    const socket = connectTcp(ports.ordersHttp, '127.0.0.1');
    socket.on('error', () => {});
    socket.write(hello);
    leaving.push(socket);
  }
  await until('some to wait', async () => (await orders.metric('oarlock_handshakes_waiting')) > 10);
  for (const socket of leaving) socket.resetAndDestroy();
  await orders.metricIs('oarlock_handshakes_waiting', {}, 0);
  t.equal(await attempt(t, ports.ordersHttp, { leaf: web, ALPNProtocols: ISTIO_HTTP }), 200);
  t.ok((await orders.metric('oarlock_handshakes_total', { result: 'full' })) >= 2);
});
