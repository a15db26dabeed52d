/** Peers with wrong certificates, wrong bytes or no manners: each is refused for its reason, and nobody else notices. */
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { hasTool, open, run } from './harness/clients.ts';
import { byteByByte, clientHello } from './harness/hello.ts';
import { Mesh } from './harness/mesh.ts';
import { procOf } from './harness/proc.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { type Leaf, type LeafOptions, spiffe, TestCa } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP } from './harness/tls-client.ts';
import { Traffic } from './harness/traffic.ts';

t.setTimeout(180_000);

/** Long enough for an honest handshake on a busy machine, short enough to wait for. */
const HANDSHAKE_TIMEOUT = '1500ms';

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const web = spiffe('shop', 'web');
const mesh = await Mesh.create(
  t,
  `${shop(ports, { http: app.port, tcp: tcp.port })}---
${policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]')}`,
);
const [orders, caller] = await Promise.all([
  mesh.sidecar('orders', '--handshake-timeout', HANDSHAKE_TIMEOUT, '--access-log', 'off'),
  mesh.sidecar('web', '--pool-idle-timeout', '500ms'),
]);
const good = await mesh.ca.leaf(web);
const other = await TestCa.create('O=another root');
const kept = new Traffic(t, ports.http);

/** Runs `act` and expects one refusal for that reason: in the metric, in the log, and with a hint. */
async function refusedFor(
  t: Test,
  title: string,
  reason: string,
  act: () => Promise<unknown>,
): Promise<void> {
  const before = await orders.refusals(reason);
  const { mark } = orders;
  const outcome = await act();
  t.not(outcome, 200, `${title}: not served (${String(outcome)})`);
  const line = await orders.logged({ reason }, mark);
  t.ok(line.hint, `${title}: ${reason} in the log, with a hint`);
  await orders.metricIs('oarlock_refusals_total', { reason, direction: 'inbound' }, before + 1);
  t.equal(
    await attempt(t, ports.ordersHttp, { leaf: good, ALPNProtocols: ISTIO_HTTP }),
    200,
    'the next is served',
  );
}

t.test('certificates', async (t) => {
  const HOUR = 3_600_000;
  const uri = spiffe('shop', 'web');
  const from = async (ca: TestCa, uri: string | null, options: LeafOptions = {}): Promise<Leaf> =>
    ca.leaf(uri, options);
  const rows: { title: string; leaf: Leaf | null; reason: string; says?: RegExp }[] = [
    { title: 'of another CA', leaf: await from(other, uri), reason: 'untrusted_issuer', says: /TLS/ },
    { title: 'self-signed', leaf: await selfSigned(), reason: 'untrusted_issuer', says: /TLS/ },
    {
      title: 'expired',
      leaf: await from(mesh.ca, uri, { from: -HOUR, to: -60_000 }),
      reason: 'expired',
      says: /TLS/,
    },
    {
      title: 'not yet valid',
      leaf: await from(mesh.ca, uri, { from: HOUR, to: 2 * HOUR }),
      reason: 'expired',
    },
    {
      title: 'no URI',
      leaf: await from(mesh.ca, null, { dns: ['web.shop'] }),
      reason: 'bad_spiffe_id',
      says: /TLS/,
    },
    {
      title: 'two SPIFFE URIs',
      leaf: await from(mesh.ca, null, { uris: [uri, spiffe('shop', 'admin')] }),
      reason: 'bad_spiffe_id',
    },
    {
      title: 'a SPIFFE and another URI',
      leaf: await from(mesh.ca, null, { uris: [uri, 'https://example.com/'] }),
      reason: 'bad_spiffe_id',
    },
    {
      title: 'another scheme',
      leaf: await from(mesh.ca, 'https://cluster.local/ns/shop/sa/web'),
      reason: 'bad_spiffe_id',
    },
    { title: 'none at all', leaf: null, reason: 'no_peer_certificate', says: /TLS/ },
    {
      title: 'of another trust domain',
      leaf: await from(mesh.ca, spiffe('shop', 'web', 'evil.example')),
      reason: 'untrusted_trust_domain',
      says: /TLS/,
    },
  ];
  for (const { title, leaf, reason, says } of rows) {
    const { mark } = orders;
    await refusedFor(t, title, reason, () =>
      attempt(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP }),
    );
    if (says !== undefined)
      t.match((await orders.logged({ reason }, mark)).msg, says, `${title}: the line says TLS`);
  }
  const accepted = [
    { title: 'no extended key usage', leaf: await from(mesh.ca, uri, { usages: null }) },
    {
      title: 'a DNS name beside the URI',
      leaf: await from(mesh.ca, null, { uris: [uri], dns: ['web.shop'] }),
    },
  ];
  for (const { title, leaf } of accepted) {
    t.equal(await attempt(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP }), 200, `${title}: served`);
  }
});

t.test('bytes', async (t) => {
  const hello = await clientHello(t, { servername: 'orders', ALPNProtocols: ISTIO_HTTP });
  const lyingLength = Buffer.from(hello);
  // The handshake message's own length, beyond its record.
  lyingLength.writeUIntBE(20, 6, 3);
  const afterHeader = Buffer.concat([hello.subarray(0, 9), randomBytes(hello.length - 9)]);
  const rows = [
    { title: 'zeros', bytes: Buffer.alloc(64), reason: 'plaintext_to_strict' },
    {
      title: 'an SSH greeting',
      bytes: Buffer.from('SSH-2.0-OpenSSH_9.2\r\n'),
      reason: 'plaintext_to_strict',
    },
    { title: 'garbage after a good record header', bytes: afterHeader, reason: 'bad_client_hello' },
    { title: 'a handshake length that lies', bytes: lyingLength, reason: 'bad_client_hello' },
    { title: 'a ClientHello without end', bytes: endlessHello(), reason: 'bad_client_hello' },
  ];
  for (const { title, bytes, reason } of rows) {
    await refusedFor(t, title, reason, async () => {
      const peer = await open(t, ports.ordersHttp);
      peer.write(bytes);
      return peer.ended();
    });
  }
  await refusedFor(t, 'half a ClientHello, then a FIN', 'bad_client_hello', async () => {
    const peer = await open(t, ports.ordersHttp);
    peer.write(hello.subarray(0, 100));
    peer.end();
    return peer.ended();
  });
  await refusedFor(t, 'a good ClientHello, then garbage', 'tls_handshake_failed', async () => {
    const peer = await open(t, ports.ordersHttp);
    peer.write(hello);
    await peer.until('the ServerHello', (text) => text.length > 100);
    peer.write(Buffer.concat([Buffer.of(0x17, 3, 3, 0, 64), randomBytes(64)]));
    return peer.ended();
  });
  if (hasTool('openssl')) {
    const args = ['s_client', '-connect', `127.0.0.1:${ports.ordersHttp}`, '-tls1_2'];
    await refusedFor(t, 'TLS 1.2', 'tls_handshake_failed', async () => (await run('openssl', args)).status);
  }
});

t.test('a ClientHello in pieces of one byte is as good as any', async (t) => {
  const relay = await byteByByte(t, ports.ordersHttp);
  t.equal(await attempt(t, relay, { leaf: good, ALPNProtocols: ISTIO_HTTP, servername: 'orders' }), 200);
});

t.test('peers that stop talking are let go', async (t) => {
  const hello = await clientHello(t, { servername: 'orders', ALPNProtocols: ISTIO_HTTP });
  const rows = [
    { title: 'never speaks', bytes: Buffer.alloc(0), reason: 'no_first_byte' },
    { title: 'stops inside its ClientHello', bytes: hello.subarray(0, 150), reason: 'tls_handshake_timeout' },
    { title: 'stops after its ClientHello', bytes: hello, reason: 'tls_handshake_timeout' },
  ];
  for (const { title, bytes, reason } of rows) {
    await refusedFor(t, title, reason, async () => {
      const peer = await open(t, ports.ordersHttp);
      if (bytes.length > 0) peer.write(bytes);
      return peer.ended();
    });
  }
});

t.test('10,000 connections come and go', async (t) => {
  const hello = await clientHello(t, { servername: 'orders', ALPNProtocols: ISTIO_HTTP });
  const proc = procOf(orders.process.pid);
  const before = { rss: proc?.rss() ?? 0, fds: proc?.fds() ?? 0 };
  const { mark } = orders;
  const refusals = await orders.metric('oarlock_refusals_total');
  const opened = await orders.metric('oarlock_connections_opened_total');
  const visits: readonly ((port: number) => Promise<void>)[] = [
    (port) => visit(port, null, 'reset'),
    (port) => visit(port, null, 'fin'),
    (port) => visit(port, hello.subarray(0, 200), 'reset'),
    (port) => visit(port, hello, 'reset'),
    (port) => visit(port, Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'wait'),
  ];
  let left = 10_000;
  const worker = async (): Promise<void> => {
    while (left-- > 0)
      await visits[left % visits.length]?.(left % 2 === 0 ? ports.ordersHttp : ports.ordersTcp);
  };
  await Promise.all(Array.from({ length: 100 }, worker));
  await kept.goesOn();
  await kept.stop();
  await orders.metricIs('oarlock_connections_open', {}, 0);
  // A connection reset while it waited to be accepted may be nobody's: the kernel tells of some of them only.
  const told = (await orders.metric('oarlock_refusals_total')) - refusals;
  t.ok(told > 9_000, `${told} of 10,000 have a reason in the metric`);
  const counted = (await orders.metric('oarlock_connections_opened_total')) - opened;
  t.ok(counted >= told, `${counted} connections were counted`);
  for (const reason of ['closed_unused', 'bad_client_hello', 'plaintext_to_strict', 'tls_handshake_failed']) {
    t.ok(await orders.logged({ reason }, mark), `${reason} is in the log`);
  }
  if (proc === null) return;
  const rss = proc.rss();
  t.ok(rss < before.rss + 250, `resident memory: ${before.rss} MB before, ${rss} MB after`);
  t.ok(proc.fds() <= before.fds + 5, `descriptors: ${before.fds} before, ${proc.fds()} after`);
});

t.test('good traffic noticed none of it', async (t) => {
  t.same(kept.failures, []);
  t.ok(kept.served > 50, `${kept.served} requests were served meanwhile`);
  t.equal(orders.process.child.exitCode, null, 'the sidecar runs');
  t.equal(caller.process.child.exitCode, null);
});

async function selfSigned(): Promise<Leaf> {
  const ca = await TestCa.create('');
  return ca.leaf(web);
}

/** Handshake records that promise 16 MB and go on, each of a legal size. */
function endlessHello(): Buffer {
  const record = Buffer.concat([Buffer.of(0x16, 3, 1, 0x20, 0), Buffer.alloc(0x2000, 1)]);
  record.set([1, 0xff, 0xff, 0xff], 5);
  return Buffer.concat([record, record, record]);
}

/** One connection: says `bytes` and leaves in that way, or waits to be sent away. */
function visit(port: number, bytes: Buffer | null, leave: 'reset' | 'fin' | 'wait'): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.on('close', () => resolve());
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED') reject(error);
    });
    socket.on('data', () => {});
    socket.on('connect', () => {
      if (bytes !== null) socket.write(bytes);
      if (leave === 'reset') socket.resetAndDestroy();
      else if (leave === 'fin') socket.end();
    });
  });
}
