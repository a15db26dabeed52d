/** Clients that mean harm, one connection each: what they can cost is bounded, and nobody else notices. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { HOST, shop, shopPorts } from './harness/shop.ts';
import { ISTIO_HTTP, openTls } from './harness/tls-client.ts';
import { pause, until } from './harness/wait.ts';

t.setTimeout(120_000);

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const [undeclared = 0] = await freePorts(1);
const resources = shop(ports, { http: http.port, tcp: tcp.port }, 'PERMISSIVE')
  .replace(
    '  egress:\n',
    `  egress:\n  - {port: {number: ${undeclared}, name: any}, captureMode: NONE, hosts: [./${HOST}]}\n`,
  )
  .replace(
    '  - {number',
    `  - {number: ${undeclared}, name: any, targetPort: ${ports.ordersTcp}}\n  - {number`,
  );
const deny = `
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-denied, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  # On TCP the path is dropped and the rule widens: the port keeps it off the echo.
  rules: [{to: [{operation: {paths: ["/denied"], ports: ["${ports.ordersHttp}"]}}]}]
`;
const mesh = await Mesh.create(t, resources + deny);
const [orders] = await Promise.all([
  mesh.sidecar('orders'),
  mesh.sidecar('web', '--handshake-timeout', '1500ms'),
]);
const { leaf } = await mesh.certDir('client');

const openNow = (): Promise<number> => orders.metric('oarlock_connections_open', { direction: 'inbound' });

/** Megabytes of anonymous memory; null where there is no /proc. */
function memory(): number | null {
  try {
    const status = readFileSync(`/proc/${orders.process.child.pid}/status`, 'utf8');
    return Number(/RssAnon:\s+(\d+)/.exec(status)?.[1]) / 1024;
  } catch {
    return null;
  }
}

t.test('20,000 denied requests in one write are answered one by one', async (t) => {
  const peer = await open(t, ports.ordersHttp);
  const count = 20_000;
  peer.write('GET /denied HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(count));
  await peer.until('all answers', (text) => text.split('RBAC: access denied').length === count + 1, 60_000);
  t.equal((await call(ports.ordersHttp, '/')).status, 200, 'and the sidecar is still there');
  peer.abort();
});

t.test('a client that asks and never reads costs no more than its buffers', async (t) => {
  const before = memory();
  if (before === null) {
    t.comment('SKIPPED: this system has no /proc to read memory from');
    return;
  }
  const peer = await open(t, ports.ordersHttp);
  peer.socket.pause();
  const piece = 'GET /denied HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(10_000);
  let sent = 0;
  // 30 MB of requests, as far as they are taken.
  while (sent < 30e6) {
    sent += piece.length;
    if (!peer.socket.write(piece)) {
      const drained = new Promise((resolve) => peer.socket.once('drain', resolve));
      if ((await Promise.race([drained, pause(2_000).then(() => 'stuck')])) === 'stuck') break;
    }
  }
  t.ok(sent < 30e6, 'it is not read on');
  // The answers to all would be 150 MB; what is not yet collected of the requests taken is a few tens.
  t.ok((memory() ?? 0) - before < 80, `memory grew from ${before} to ${memory()} MB`);
  peer.abort();
});

t.test('a client that ends right behind its handshake leaves nothing', async (t) => {
  await until('the others to be gone', async () => (await openNow()) === 0);
  for (let i = 0; i < 20; i++) {
    const peer = await openTls(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP });
    peer.end();
  }
  await until('all to be closed', async () => (await openNow()) === 0);
  t.pass();
});

t.test('an empty line before a request, cut anywhere', async (t) => {
  const request = '\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n';
  for (const cut of [0, 1, 2, 3]) {
    const peer = await open(t, ports.ordersHttp);
    peer.write(request.slice(0, cut));
    await pause(20);
    peer.write(request.slice(cut));
    t.match(
      await peer.until('an answer', (text) => text.includes('\r\n\r\n')),
      /^HTTP\/1\.1 200/,
      `cut at ${cut}`,
    );
    peer.abort();
  }
});

t.test('an answer that ends with the connection arrives whole, however late it is read', async (t) => {
  const size = 12_000_000;
  const peer = await open(t, ports.ordersHttp);
  peer.socket.pause();
  peer.write(`GET /bytes/${size} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`);
  // Longer than the moment a connection lingers after its last byte.
  await pause(2_500);
  peer.socket.resume();
  t.equal(await peer.ended(), 'end');
  const body = peer.received.length - peer.text.indexOf('\r\n\r\n') - 4;
  t.equal(body, size);
});

t.test('an app that speaks late or slowly on an undeclared port is heard once', async (t) => {
  for (const [title, first, rest] of [
    ['silent at first', '', 'hello\n'],
    ['half a word, then the rest', 'GE', 'TX\n'],
  ] as const) {
    const peer = await open(t, undeclared);
    if (first !== '') peer.write(first);
    // Past this sidecar's --handshake-timeout, with the sweep's half second on top.
    await pause(2_500);
    peer.write(rest);
    peer.end();
    t.equal(await peer.ended(), 'end', title);
    t.equal(peer.text, first + rest, title);
  }
});
