/** An app behind a Unix socket: served like any other, and its connections can be aborted. */
import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { echo } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { pause } from './harness/wait.ts';

t.setTimeout(180_000);

const ports = await shopPorts();
const mesh = await Mesh.create(t, '');
const httpSocket = join(mesh.dir, 'http.sock');
const tcpSocket = join(mesh.dir, 'tcp.sock');
mesh.write(
  'mesh.yaml',
  shop(ports, { http: 1, tcp: 2 }, 'PERMISSIVE')
    .replace('"127.0.0.1:1"', `unix://${httpSocket}`)
    .replace('"127.0.0.1:2"', `unix://${tcpSocket}`),
);

const app = createServer((request, response) => {
  if (request.url === '/bad') request.socket.end('this is no HTTP\r\n\r\n');
  else if (request.url === '/smtp') request.socket.write('220 mail.example\r\n');
  else if (request.url !== '/never') response.end('from a socket');
});
const tcpApp = createTcpServer({ allowHalfOpen: true }, echo);
for (const [server, path] of [
  [app, httpSocket],
  [tcpApp, tcpSocket],
] as const) {
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => server.close());
}
t.teardown(() => app.closeAllConnections());
const orders = await mesh.sidecar('orders');

t.test('requests and TCP reach it', async (t) => {
  const { status, body } = await call(ports.ordersHttp, '/');
  t.equal(status, 200);
  t.equal(body.toString(), 'from a socket');
  const peer = await open(t, ports.ordersTcp);
  peer.write('hello');
  peer.end();
  t.equal(await peer.ended(), 'end');
  t.equal(peer.text, 'hello');
});

t.test('aborts of every kind end the connection and nothing else', async (t) => {
  const request = await open(t, ports.ordersHttp);
  request.write('GET /never HTTP/1.1\r\nHost: a\r\n\r\n');
  const tcp = await open(t, ports.ordersTcp);
  tcp.write('hello');
  await tcp.until('the echo', (text) => text === 'hello');
  await pause(50);
  request.abort();
  tcp.abort();
  t.equal((await call(ports.ordersHttp, '/bad')).status, 502);
  t.equal((await call(ports.ordersHttp, '/smtp')).status, 502, 'what can become no HTTP is not waited for');
  await orders.metricIs('oarlock_connections_open', { direction: 'inbound' }, 0);
  t.equal((await call(ports.ordersHttp, '/')).status, 200);
  t.equal(orders.process.child.exitCode, null);
});
