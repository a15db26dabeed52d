/** What openssl, curl and a plain TLS client meet at a STRICT port: TLS 1.3, a request for a certificate, or a reset. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { hasTool, open, run } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { HOST, policy, shop, shopPorts } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP, openTls } from './harness/tls-client.ts';

t.setTimeout(180_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(
  t,
  `${shop(ports, { http: app.port, tcp: tcp.port })}---
${policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]')}`,
);
const orders = await mesh.sidecar('orders');
const leaf = await mesh.ca.leaf(spiffe('shop', 'web'));
const stranger = await mesh.ca.leaf(spiffe('shop', 'stranger'));

const file = (name: string, text: string): string => {
  const path = join(mesh.dir, name);
  writeFileSync(path, text);
  return path;
};

t.test('openssl s_client', { skip: hasTool('openssl') ? false : 'there is no openssl here' }, async (t) => {
  const base = ['s_client', '-connect', `127.0.0.1:${ports.ordersHttp}`, '-ign_eof', '-servername', HOST];
  const identity = ['-cert', file('web.pem', leaf.cert), '-key', file('web.key', leaf.key)];
  const trust = ['-CAfile', file('root.pem', mesh.ca.rootPem)];
  const request = `GET /tell HTTP/1.1\r\nHost: ${HOST}\r\nConnection: close\r\n\r\n`;
  const rows = [
    { title: "Istio's ALPN", flags: ['-alpn', 'istio'], alpn: /ALPN protocol: istio\n/ },
    { title: 'no ALPN', flags: [], alpn: /No ALPN negotiated/ },
    { title: 'an ALPN nobody here knows', flags: ['-alpn', 'h3,imap'], alpn: /No ALPN negotiated/ },
    { title: 'one of ours among others', flags: ['-alpn', 'h2,istio'], alpn: /ALPN protocol: istio\n/ },
  ];
  for (const { title, flags, alpn } of rows) {
    const { output } = await run('openssl', [...base, ...identity, ...trust, ...flags], request);
    t.match(output, /New, TLSv1\.3, Cipher is TLS_/, `${title}: TLS 1.3`);
    t.match(output, alpn, title);
    t.match(output, /Verify return code: 0 \(ok\)/, `${title}: our chain leads to the root`);
    t.match(output, /Requested Signature Algorithms: /, `${title}: we ask for a certificate`);
    t.match(output, /HTTP\/1\.1 200 /, `${title}: it is served`);
  }
  const { output } = await run('openssl', [...base, ...identity, '-tls1_2'], request);
  t.match(output, /alert protocol version|unsupported protocol/, 'TLS 1.2 is not spoken');
});

t.test('the key exchange is hybrid post-quantum where the client can', async (t) => {
  const rows = [
    { offered: 'X25519MLKEM768:X25519', got: /MLKEM/i },
    { offered: 'X25519', got: /X25519/ },
    { offered: 'P-256', got: /P-256|prime256v1/ },
  ];
  for (const { offered, got } of rows) {
    const { tls } = await openTls(t, ports.ordersHttp, {
      leaf,
      ALPNProtocols: ISTIO_HTTP,
      ecdhCurve: offered,
    });
    const info = tls.getEphemeralKeyInfo();
    t.match(JSON.stringify(info), got, `offered ${offered}`);
    tls.destroy();
  }
});

t.test('who is not allowed is told so over TLS', async (t) => {
  t.equal(await attempt(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP }), 200);
  t.equal(await attempt(t, ports.ordersHttp, { leaf: stranger, ALPNProtocols: ISTIO_HTTP }), 403);
});

t.test('plaintext is reset, and log and metric say why', async (t) => {
  const rows = [
    { title: 'an HTTP port', port: ports.ordersHttp },
    { title: 'a TCP port', port: ports.ordersTcp },
  ];
  for (const { title, port } of rows) {
    const before = await orders.refusals('plaintext_to_strict');
    const { mark } = orders;
    const peer = await open(t, port);
    peer.write(`GET / HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`);
    t.equal(await peer.ended(), 'ECONNRESET', title);
    const line = await orders.logged({ reason: 'plaintext_to_strict' }, mark);
    t.match(line.detail, /HTTP.*istio-system\/default/, 'what came, and which resource set the mode');
    t.match(line.hint, /sidecar|PERMISSIVE/, 'what would have to change');
    await orders.metricIs('oarlock_refusals_total', { reason: 'plaintext_to_strict' }, before + 1);
  }
  t.test('curl', { skip: hasTool('curl') ? false : 'there is no curl here' }, async (t) => {
    const { status, output } = await run('curl', ['-sS', `http://127.0.0.1:${ports.ordersHttp}/tell`]);
    t.equal(status, 56, 'CURLE_RECV_ERROR');
    t.match(output, /curl: \(56\)/);
  });
  t.equal(app.seen.count > 0, true, 'the permitted ones of before had got in');
});
