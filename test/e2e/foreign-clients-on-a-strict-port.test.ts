/** What openssl, curl, gRPC and a plain TLS client meet at a STRICT port: TLS 1.3, a request for a certificate, or a reset. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { credentials, status } from '@grpc/grpc-js';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { hasTool, open, run } from './harness/clients.ts';
import { chat, grpcApp, grpcClient, unary } from './harness/grpc-app.ts';
import { Mesh } from './harness/mesh.ts';
import { HOST, policy, shop, shopPorts } from './harness/shop.ts';
import { type Leaf, spiffe } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP, openTls } from './harness/tls-client.ts';
import { until, within } from './harness/wait.ts';

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

t.test('a gRPC client with credentials of the mesh and no sidecar', async (t) => {
  const called = await grpcApp(t);
  const grpcPorts = await shopPorts();
  const only = policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]');
  const grpcMesh = await Mesh.create(
    t,
    `${shop(grpcPorts, { http: called.port, tcp: tcp.port }).replaceAll('protocol: HTTP}', 'protocol: GRPC}')}---
${only}`,
  );
  const sidecar = await grpcMesh.sidecar('orders');
  const { dir: _, leaf: ours } = await grpcMesh.certDir('web');
  const client = (t: Test, who: Leaf | null) => {
    const [key, cert] = who === null ? [null, null] : [Buffer.from(who.key), Buffer.from(who.cert)];
    const secure = credentials.createSsl(Buffer.from(grpcMesh.ca.rootPem), key, cert, {
      // An identity of the mesh is no host name.
      checkServerIdentity: (_host, { subjectaltname }) =>
        subjectaltname === `URI:${sidecar.identity}` ? undefined : new Error(`it is ${subjectaltname}`),
    });
    return grpcClient(t, grpcPorts.ordersHttp, HOST, { 'grpc.ssl_target_name_override': HOST }, secure);
  };
  t.test('is served by its ALPN h2, and the app learns who calls', async (t) => {
    const { mark } = sidecar;
    const grpc = client(t, ours);
    const { answer, code, details } = await unary(grpc, 'hello');
    t.equal(code, status.OK, details);
    t.equal(answer?.toString(), 'hello');
    t.match(called.seen.metadata?.get('x-forwarded-client-cert')[0], /URI=spiffe:\/\/.*\/sa\/web$/);
    t.match(await sidecar.accessed({ path: '/test.Echo/Unary' }, mark), {
      protocol: 'HTTP/2',
      grpc_response_status: '0',
      connection_security_policy: 'mutual_tls',
      source_principal: spiffe('shop', 'web'),
    });
    const both = chat(grpc);
    const over = new Promise<number>((resolve) => both.on('status', (end) => resolve(end.code)));
    both.on('data', () => both.end());
    both.write(Buffer.from('m'));
    t.equal(await within('a stream both ways', over), status.OK);
  });
  t.test('is told over the same TLS that policy denies it', async (t) => {
    const { calls } = called.seen;
    const { code, details } = await unary(client(t, await grpcMesh.ca.leaf(spiffe('shop', 'stranger'))), 'x');
    t.equal(code, status.PERMISSION_DENIED);
    t.equal(details, 'RBAC: access denied');
    t.equal(called.seen.calls, calls);
  });
  t.test('gets nowhere without a certificate, or with one of another mesh', async (t) => {
    const elsewhere = await mesh.ca.leaf(spiffe('shop', 'web'));
    for (const [who, reason] of [
      [null, 'no_peer_certificate'],
      [elsewhere, 'untrusted_issuer'],
    ] as const) {
      const { calls } = called.seen;
      const { mark } = sidecar;
      t.equal((await unary(client(t, who), 'x')).code, status.UNAVAILABLE, reason);
      await sidecar.logged({ reason }, mark);
      t.equal(called.seen.calls, calls);
    }
  });
  await until('its connections to be over', () =>
    sidecar.metric('oarlock_connections_open').then((n) => n === 0),
  );
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
