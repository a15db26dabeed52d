/** Who and what the HBONE port does not take: certificates, first bytes, destinations, policy; each with its answer and its reason. */
import { connect as connectTls } from 'node:tls';
import t, { type Test } from 'tap';
import { echo, tcpApp } from '../e2e/harness/apps.ts';
import { open } from '../e2e/harness/clients.ts';
import { policy } from '../e2e/harness/shop.ts';
import { type Leaf, type LeafOptions, spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { openTls, type TlsCall } from '../e2e/harness/tls-client.ts';
import { within } from '../e2e/harness/wait.ts';
import { connectTo, hboneClient, hboneClientWith, hboneFrames, type StreamPeer } from './hbone-client.ts';
import { ADMIN, HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { END_STREAM, TYPE } from './http2-frames.ts';

const WEB = spiffe('shop', 'web');
const HOUR = 3_600_000;

/** Status of a CONNECT that is not let in; its stream must be over on their side. */
async function refused(stream: StreamPeer): Promise<number> {
  const status = await stream.status;
  if (status !== 200) await stream.ended();
  return status;
}

t.test('policy denies a TCP port: 401', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, {
    tcp: app.port,
    auto: app.port,
    policies: policy(
      'not-web',
      `[{from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}]}]`,
      'DENY',
    ),
  });
  const client = await hboneFrames(t, sidecar);
  client.request(1, connectTo(TCP), 4);
  t.equal(await client.status(1), 401);
  t.equal((await client.next(TYPE.HEADERS, 1)).flags & END_STREAM, END_STREAM, 'the answer ends the stream');
  t.match(await sidecar.refused('policy_denied'), { port: TCP, peer: WEB, policy: 'shop/not-web' });
  t.equal(await sidecar.refusals('policy_denied'), 1);
  const [line] = await sidecar.accessed(1);
  t.match(line, { source_principal: WEB, response_code: 0, reason: 'policy_denied', policy: 'shop/not-web' });
  t.equal(app.seen.count, 0, 'the app never heard of it');
  t.equal(await (await hboneClient(t, sidecar, 'other')).connect(TCP).status, 200, 'another peer may');
});

t.test('an app that is not there: 503', async (t) => {
  const sidecar = await hboneSidecar(t);
  const client = await hboneClient(t, sidecar);
  t.equal(await refused(client.connect(TCP)), 503);
  t.match(await sidecar.refused('app_unreachable'), { port: TCP, peer: WEB });
  t.equal(await sidecar.refusals('app_unreachable'), 1);
  const stream = await client.open(HTTP);
  const answer = await stream.exchange('GET / HTTP/1.1\r\nHost: orders\r\n\r\n');
  t.match(answer, /^HTTP\/1\.1 503 /, 'HTTP is answered inside');
});

/** What `:authority` may say; the workload is at 127.0.0.1. */
const destinations: readonly (readonly [authority: string, status: number])[] = [
  [`127.0.0.1:${TCP}`, 200],
  [`[::ffff:127.0.0.1]:${TCP}`, 200],
  [`10.9.8.7:${TCP}`, 400],
  [`[fd00::1]:${TCP}`, 400],
  [`0.0.0.0:${TCP}`, 400],
  [`orders:${TCP}`, 400],
  [`orders.shop.svc.cluster.local:${TCP}`, 400],
  [`localhost:${TCP}`, 400],
  ['127.0.0.1', 400],
  ['127.0.0.1:', 400],
  ['127.0.0.1:0', 400],
  ['127.0.0.1:65536', 400],
  [`127.0.0.1:${TCP}x`, 400],
  [`127.0.0.1:-${TCP}`, 400],
  [`127.1:${TCP}`, 400],
  [`127.0.0.01:${TCP}`, 400],
  [`2130706433:${TCP}`, 400],
  [`0x7f.0.0.1:${TCP}`, 400],
  [`me@127.0.0.1:${TCP}`, 400],
  [`127.0.0.1:${TCP}/`, 400],
  [`::ffff:127.0.0.1:${TCP}`, 400],
  [`[127.0.0.1]:${TCP}`, 400],
  [`127.0.0.1:${TCP},10.9.8.7:${TCP}`, 400],
];

t.test('destinations', async (t) => {
  const app = await tcpApp(t, echo);
  const undeclared = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { tcp: app.port });
  const client = await hboneClient(t, sidecar);
  const rows = [
    ...destinations,
    [`127.0.0.1:${sidecar.port}`, 400],
    [`127.0.0.1:${ADMIN}`, 400],
    // Somebody's on this machine, and not this workload's.
    [`127.0.0.1:${undeclared.port}`, 400],
  ] as const;
  for (const [authority, status] of rows)
    t.equal(await refused(client.connect(authority)), status, authority);
  t.equal(undeclared.seen.count, 0);
  t.equal(await sidecar.refusals('bad_connect'), rows.filter(([, status]) => status === 400).length);
  t.match(await sidecar.refused('bad_connect'), { peer: WEB, request: `CONNECT 10.9.8.7:${TCP}` });
});

t.test('no tunnel leads to the admin API, even where the workload names its port', async (t) => {
  const sidecar = await hboneSidecar(t, { named: { admin: ADMIN } });
  const client = await hboneClient(t, sidecar);
  t.equal(await refused(client.connect(ADMIN)), 400);
  t.match(await sidecar.refused('bad_connect'), { detail: /the sidecar's own/ });
});

t.test('too many connections: 503', async (t) => {
  const app = await tcpApp(t, echo);
  // The tunnel is one itself.
  const sidecar = await hboneSidecar(t, { tcp: app.port, limits: { maxConnections: 3 } });
  const client = await hboneClient(t, sidecar);
  const streams = [await client.open(TCP), await client.open(TCP)];
  t.equal(await refused(client.connect(TCP)), 503);
  t.equal(await sidecar.refusals('too_many_connections'), 1);
  streams[0]?.end();
  await streams[0]?.ended();
  t.equal(await client.connect(TCP).status, 200, 'there is room again');
});

interface Certificates {
  readonly ca: TestCa;
  readonly other: TestCa;
}

/** Refused in the handshake, before a byte of HTTP/2. */
const strangers: readonly (readonly [
  what: string,
  reason: string,
  leaf: (from: Certificates) => Promise<Leaf | null>,
])[] = [
  ['no certificate', 'no_peer_certificate', async () => null],
  [
    'a trust domain that is not ours',
    'untrusted_trust_domain',
    ({ ca }) => ca.leaf(spiffe('shop', 'web', 'evil.example')),
  ],
  ['another CA', 'untrusted_issuer', ({ other }) => other.leaf(WEB)],
  ['expired', 'expired', ({ ca }) => ca.leaf(WEB, { from: -2 * HOUR, to: -HOUR } satisfies LeafOptions)],
  ['no URI', 'bad_spiffe_id', ({ ca }) => ca.leaf(null, { dns: ['web.shop'] })],
];

/** A handshake, and whether a word of HTTP/2 came after it. */
async function heardAfter(t: Test, port: number, call: TlsCall): Promise<string> {
  const peer = await openTls(t, port, call).catch((error: Error) => error);
  if (peer instanceof Error) return '';
  await peer.ended();
  return peer.text;
}

t.test('strangers', async (t) => {
  const sidecar = await hboneSidecar(t);
  const certificates = { ca: sidecar.ca, other: await TestCa.create('O=another root') };
  for (const [what, reason, make] of strangers) {
    const leaf = await make(certificates);
    t.equal(await heardAfter(t, sidecar.port, { leaf, ALPNProtocols: ['h2'] }), '', what);
    t.match(await sidecar.refused(reason), { direction: 'inbound', port: sidecar.port }, reason);
    await sidecar.metricIs('oarlock_refusals_total', { reason, direction: 'inbound' }, 1);
  }
  t.equal(sidecar.lines.length, strangers.length, 'each is told of once');
});

/** ALPN: `h2` or none at all, as ztunnel has it. */
const protocols: readonly (readonly [offered: readonly string[], served: boolean, chosen: string | false])[] =
  [
    [['h2'], true, 'h2'],
    [['http/1.1', 'h2'], true, 'h2'],
    [[], true, false],
    [['http/1.1'], false, false],
    [['istio', 'istio-http/1.1'], false, false],
  ];

t.test('ALPN', async (t) => {
  const app = await tcpApp(t, echo);
  const sidecar = await hboneSidecar(t, { tcp: app.port });
  const leaf = await sidecar.ca.leaf(WEB);
  let fails = 0;
  for (const [ALPNProtocols, served, chosen] of protocols) {
    const what = ALPNProtocols.join(' ') || 'none';
    if (!served) {
      t.equal(await heardAfter(t, sidecar.port, { leaf, ALPNProtocols: [...ALPNProtocols] }), '', what);
      await sidecar.metricIs('oarlock_refusals_total', { reason: 'tls_handshake_failed' }, ++fails);
      continue;
    }
    const client = await hboneClientWith(t, sidecar.port, leaf, {}, ALPNProtocols);
    t.equal(await client.connect(TCP).status, 200, what);
    t.equal(client.tls.alpnProtocol, chosen, what);
  }
});

t.test('TLS 1.2', async (t) => {
  const sidecar = await hboneSidecar(t);
  const { cert, key } = await sidecar.ca.leaf(WEB);
  const tls = connectTls({
    port: sidecar.port,
    host: '127.0.0.1',
    cert,
    key,
    ALPNProtocols: ['h2'],
    maxVersion: 'TLSv1.2',
    rejectUnauthorized: false,
  });
  t.teardown(() => tls.destroy());
  const outcome = new Promise((resolve) => {
    tls.once('secureConnect', () => resolve('secured'));
    tls.once('error', (error: NodeJS.ErrnoException) => resolve(error.code));
  });
  t.equal(await within('an answer', outcome), 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION');
  await sidecar.metricIs('oarlock_refusals_total', { reason: 'tls_handshake_failed' }, 1);
});

const HELLO = Buffer.of(0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03);

/** First bytes that are no TLS, or not the whole of it; then the peer ends its side, where it does. */
const firstBytes: readonly (readonly [what: string, said: string | Buffer, ends: boolean, reason: string])[] =
  [
    ['a request', 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n', false, 'plaintext_to_hbone'],
    ['HTTP/2 in plaintext', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', false, 'plaintext_to_hbone'],
    ['a CONNECT in plaintext', `CONNECT 127.0.0.1:${TCP} HTTP/1.1\r\n\r\n`, false, 'plaintext_to_hbone'],
    ['anything', '\0\0\0', false, 'plaintext_to_hbone'],
    ['nothing', '', true, 'closed_unused'],
    ['half a ClientHello', HELLO, true, 'bad_client_hello'],
    ['half a ClientHello, and waiting', HELLO, false, 'tls_handshake_timeout'],
    ['silence', '', false, 'tls_handshake_timeout'],
  ];

t.test('first bytes', async (t) => {
  const sidecar = await hboneSidecar(t, { limits: { handshakeTimeout: 1_000 } });
  const counts = new Map<string, number>();
  for (const [what, said, ends, reason] of firstBytes) {
    const peer = await open(t, sidecar.port);
    if (said.length > 0) peer.write(said);
    if (ends) peer.end();
    await peer.ended();
    t.equal(peer.text, '', `${what}: no word is said to it`);
    const count = (counts.get(reason) ?? 0) + 1;
    counts.set(reason, count);
    await sidecar.metricIs('oarlock_refusals_total', { reason, direction: 'inbound' }, count);
  }
  t.match(await sidecar.refused('plaintext_to_hbone'), { port: sidecar.port, peer: null, hint: /HBONE/ });
});
