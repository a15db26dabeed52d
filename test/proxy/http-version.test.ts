/** HTTP/1 and HTTP/2 told apart by a connection's first bytes: on every kind of port, in every split, whatever ALPN said. */
import t from 'tap';
import { httpApp } from '../e2e/harness/apps.ts';
import { open, type Peer } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { openTls } from '../e2e/harness/tls-client.ts';
import { until } from '../e2e/harness/wait.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

t.setTimeout(120_000);

const ca = await TestCa.create();
const orders = await ca.leaf(spiffe('shop', 'orders'));
const web = await ca.leaf(spiffe('shop', 'web'));
const app = await httpApp(t);

/** By hand, from RFC 9113 §3.4 and §4.1, and RFC 7541: the preface, empty SETTINGS, one GET that ends its stream. */
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const AUTHORITY = Buffer.from('orders');
const FIELDS = Buffer.concat([Buffer.of(0x82, 0x86, 0x84, 0x01, AUTHORITY.length), AUTHORITY]);
const HTTP2_GET = Buffer.concat([
  PREFACE,
  Buffer.from('000000040000000000', 'hex'),
  Buffer.of(0, 0, FIELDS.length, 1, 0x5, 0, 0, 0, 1),
  FIELDS,
]);
const HTTP1_GET = Buffer.from('GET / HTTP/1.1\r\nHost: orders\r\n\r\n');

/** Waits for a whole HEADERS frame on stream 1. @returns its first octet: 0x88 is `:status: 200` (RFC 7541, Appendix A) */
async function http2Status(peer: Peer): Promise<number> {
  await peer.until('a HEADERS frame', () => headersIn(peer.received) !== null);
  return headersIn(peer.received)?.[0] ?? 0;
}

function headersIn(bytes: Buffer): Buffer | null {
  for (let at = 0; at + 9 <= bytes.length; ) {
    const end = at + 9 + bytes.readUIntBE(at, 3);
    if (end > bytes.length) return null;
    if (bytes[at + 3] === 1) return bytes.subarray(at + 9, end);
    at = end;
  }
  return null;
}

/** Each piece in a packet, and so in a read, of its own as far as the kernel likes. */
async function writeSlowly(peer: Peer, bytes: Buffer, step: number): Promise<void> {
  for (let at = 0; at < bytes.length; at += step) {
    await new Promise((written) => peer.socket.write(bytes.subarray(at, at + step), written));
    await new Promise(setImmediate);
  }
}

const mode = (name: string): string => `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: ${name}}}
`;

for (const protocol of ['http', 'http2', 'auto'] as const) {
  // The app speaks HTTP/1: on a port declared HTTP/2 it is not asked, so that what is judged locally must do.
  const resources = `${mode('PERMISSIVE')}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-one, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["/"]}}]}]}
`;
  t.test(`a port declared ${protocol}: each request is judged, and none goes on unread`, async (t) => {
    for (const name of ['PERMISSIVE', 'DISABLE', 'STRICT']) {
      const sidecar = await inboundSidecar(t, app.port, {
        protocol,
        resources: resources.replace('PERMISSIVE', name),
        leaf: orders,
      });
      const connect = (): Promise<Peer> =>
        name === 'STRICT' ? openTls(t, sidecar.port, { leaf: web }) : open(t, sidecar.port);
      for (const step of [1, 2, 17, 23, 24, 25, HTTP2_GET.length]) {
        const peer = await connect();
        await writeSlowly(peer, HTTP2_GET, step);
        // `:status: 403` has no index of its own: 0x48 begins it, whole or in Huffman code.
        t.equal(await http2Status(peer), 0x48, `${name}, HTTP/2 in pieces of ${step}`);
        peer.socket.destroy();
      }
      for (const step of [1, 2, HTTP1_GET.length]) {
        const peer = await connect();
        await writeSlowly(peer, HTTP1_GET, step);
        t.match(await peer.until('an answer', (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 403 /);
        peer.socket.destroy();
      }
      const broken = await connect();
      broken.write('PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n');
      t.match(await broken.until('an answer', (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 (400|505) /);
      t.ok(await broken.ended(), 'and the connection ends');
    }
    t.equal(app.seen.count, 0);
  });
}

t.test('whatever ALPN said, the first bytes have it', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http',
    resources: mode('STRICT'),
    leaf: orders,
  });
  const rows = [
    { offered: ['istio-h2', 'istio', 'h2'], selected: 'istio-h2' },
    { offered: ['istio-http/1.1', 'istio', 'http/1.1'], selected: 'istio-http/1.1' },
    { offered: ['h2'], selected: 'h2' },
    { offered: ['http/1.1', 'h2'], selected: 'h2' },
    { offered: ['http/1.1'], selected: 'http/1.1' },
    { offered: ['spdy/3'], selected: false },
    { offered: undefined, selected: false },
  ];
  for (const { offered, selected } of rows) {
    const alpn = offered === undefined ? {} : { ALPNProtocols: offered };
    const two = await openTls(t, sidecar.port, { leaf: web, ...alpn });
    t.equal(two.tls.alpnProtocol, selected, `offered ${offered}`);
    two.write(HTTP2_GET);
    t.equal(await http2Status(two), 0x88, `${selected}: HTTP/2`);
    two.tls.destroy();
    const one = await openTls(t, sidecar.port, { leaf: web, ...alpn });
    one.write(HTTP1_GET);
    // Where HTTP/2 was agreed upon, HTTP/1 is a broken preface.
    if (selected === 'h2' || selected === 'istio-h2') t.ok(await one.ended(), `${selected}: HTTP/1`);
    else t.match(await one.until('an answer', (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 200 /);
    one.tls.destroy();
  }
});

t.test('on a TCP port no HTTP is agreed upon, and none is read', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'tcp',
    resources: mode('STRICT'),
    leaf: orders,
  });
  const peer = await openTls(t, sidecar.port, { leaf: web, ALPNProtocols: ['h2', 'http/1.1'] });
  t.equal(peer.tls.alpnProtocol, false);
  peer.write('GET / HTTP/1.1\r\nhost: orders\r\nx-FORWARDED-client-cert: mine\r\n\r\n');
  const text = await peer.until('an answer', (all) => all.includes('}'));
  t.match(text, /x-FORWARDED-client-cert/, 'byte for byte');
});

t.test('who waits within the preface is not waited for', async (t) => {
  const limits = { requestHeadTimeout: 700, handshakeTimeout: 700 };
  for (const protocol of ['http', 'auto'] as const) {
    for (const name of ['PERMISSIVE', 'STRICT']) {
      const sidecar = await inboundSidecar(t, app.port, {
        protocol,
        resources: mode(name),
        limits,
        leaf: orders,
      });
      const peer =
        name === 'STRICT' ? await openTls(t, sidecar.port, { leaf: web }) : await open(t, sidecar.port);
      peer.write(PREFACE.subarray(0, 23));
      t.ok(await peer.ended(), `${protocol}, ${name}`);
      t.match(sidecar.lines.at(-1), { reason: 'request_timeout', detail: /^23 bytes/ });
    }
  }
});

t.test('until it speaks, an HTTP connection is idle like any other', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http',
    resources: mode('STRICT'),
    leaf: orders,
  });
  const peer = await openTls(t, sidecar.port, { leaf: web, ALPNProtocols: ['istio-http/1.1'] });
  const carrier = await until('it to be served', () => [...sidecar.path.connections.list()][0]?.carrier);
  carrier.drain();
  t.equal(await peer.ended(), 'end', 'a clean end, no reset');
  t.equal(sidecar.lines.filter(({ reason }) => reason !== undefined).length, 0, 'nothing is refused');
});
