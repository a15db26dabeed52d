/** Mesh config's `caCertificates` and `meshMTLS` under a running sidecar: whose roots vouch for whom, and what TLS is spoken. */
import { createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { connect, type SecureVersion } from 'node:tls';
import t from 'tap';
import { echo, httpApp, listen, tcpApp } from './harness/apps.ts';
import { Mesh, ready } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { type Leaf, replace, spiffe, TestCa } from './harness/test-ca.ts';
import { ISTIO_HTTP, openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const base = shop(ports, { http: app.port, tcp: tcp.port });
const mesh = await Mesh.create(t, base);
const partnerCa = await TestCa.create('O=partner root');
const partner = await partnerCa.leaf(spiffe('shop', 'buyer', 'partner.example'));
/** Of the partner's CA, for one of ours: what no foreign root may vouch for. */
const impostor = await partnerCa.leaf(spiffe('shop', 'web'));
/** And of ours for one of theirs. */
const reverse = await mesh.ca.leaf(spiffe('shop', 'buyer', 'partner.example'));
const ours = await mesh.ca.leaf(spiffe('shop', 'web'));
const lost = await partnerCa.leaf(spiffe('shop', 'lost', 'partner.example'));
const [ourList, theirList] = [await mesh.ca.crl([]), await partnerCa.crl([lost])];
const crlFile = join(mesh.dir, 'crl.pem');
replace(crlFile, ourList + theirList);

/** A server of a SPIFFE bundle whose own certificate is from a CA that Node is told of. */
const webCa = await TestCa.create('O=web pki');
const webLeaf = await webCa.leaf(null, { dns: ['localhost'], uris: [] });
let keys: unknown[] = [];
let answers = 0;
const bundles = await listen(
  t,
  createServer({ cert: webLeaf.cert, key: webLeaf.key }, (_, answer) => {
    answers++;
    answer.end(JSON.stringify({ spiffe_sequence: 1, spiffe_refresh_hint: 60, keys }));
  }),
);
const extraCa = join(mesh.dir, 'web-pki.pem');
writeFileSync(extraCa, webCa.rootPem);

const { dir } = await mesh.certDir('orders');
const orders = await ready(
  start(t, mesh.flags('shop/orders', '--cert-dir', dir, '--crl', crlFile), { NODE_EXTRA_CA_CERTS: extraCa }),
  dir,
);

function meshConfig(fields: object): string {
  return `kind: MeshConfig\n${Object.entries(fields)
    .map(([name, value]) => `${name}: ${JSON.stringify(value)}\n`)
    .join('')}`;
}

interface Failures {
  readonly total: number;
  readonly failures: readonly { readonly reason: string }[];
}

/** 200, or the reason why this peer was not let in. Not by the log, which leaves lines out where there are many. */
async function outcome(leaf: Leaf): Promise<string> {
  const failures = async () => (await orders.admin('/handshakes')) as unknown as Failures;
  const { total } = await failures();
  try {
    const peer = await openTls(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP });
    const status = await peer.get('/');
    peer.tls.destroy();
    return String(status);
  } catch {
    await until('the failure to be told', async () => (await failures()).total > total);
    return (await failures()).failures[0]?.reason ?? '';
  }
}

const REFUSED = /untrusted_issuer|untrusted_trust_domain/;

t.test('only our own root at first', async (t) => {
  t.equal(await outcome(ours), '200');
  t.match(await outcome(partner), REFUSED);
  t.match(await outcome(impostor), REFUSED);
  t.match(await outcome(reverse), REFUSED);
});

t.test('a PEM root for another trust domain vouches for that one, and for no other', async (t) => {
  const caCertificates = [{ pem: partnerCa.rootPem, trustDomains: ['partner.example'] }];
  await mesh.change('mesh-config.yaml', meshConfig({ caCertificates }), [orders]);
  t.equal(await outcome(partner), '200');
  t.equal(await outcome(ours), '200');
  t.match(await outcome(impostor), REFUSED, 'for one of ours');
  t.match(await outcome(reverse), REFUSED, "nor does our CA for the partner's");
  t.match((await orders.admin('/certs')).trust, [
    { trustDomain: 'cluster.local', roots: [{ subject: 'O=test root' }] },
    { trustDomain: 'partner.example', roots: [{ subject: 'O=partner root' }] },
  ]);
});

t.test('what is taken back counts at once, for live connections too', async (t) => {
  const live = await openTls(t, ports.ordersHttp, { leaf: partner, ALPNProtocols: ISTIO_HTTP });
  t.equal(await live.get('/'), 200);
  await mesh.change('mesh-config.yaml', meshConfig({ caCertificates: [] }), [orders]);
  t.match(await outcome(partner), REFUSED);
  await t.rejects(live.get('/'), 'the live one is closed');
  t.equal(await outcome(ours), '200');
});

t.test('a root without trust domains is one more of ours', async (t) => {
  await mesh.change('mesh-config.yaml', meshConfig({ caCertificates: [{ pem: partnerCa.rootPem }] }), [
    orders,
  ]);
  t.equal(await outcome(impostor), '200', 'that is what a second root of our own is');
  t.match(await outcome(partner), REFUSED);
});

t.test('a SPIFFE bundle by its URL', async (t) => {
  const spiffeBundleUrl = `https://localhost:${bundles.port}/bundle`;
  const caCertificates = [{ spiffeBundleUrl, trustDomains: ['partner.example'] }];
  await mesh.change('mesh-config.yaml', meshConfig({ caCertificates }), [orders]);
  await orders.logged({ msg: 'no new roots of a trust domain', error: /no root/ });
  await orders.metricIs('oarlock_trust_bundles', { state: 'missing' }, 1);
  t.match(await outcome(partner), REFUSED, 'an empty bundle vouches for nobody');
  const key = createPublicKey(partnerCa.rootPem).export({ format: 'jwk' });
  const der = partnerCa.rootPem.replace(/-----[A-Z ]+-----|\s/g, '');
  keys = [{ ...key, use: 'x509-svid', x5c: [der] }];
  await until('the bundle to count', async () => (await outcome(partner)) === '200');
  t.match(await outcome(impostor), REFUSED);
  t.equal(await outcome(ours), '200');
  t.ok(answers >= 2);
  t.match(await orders.admin('/certs'), {
    fetched: [{ url: spiffeBundleUrl, roots: 1, sequence: 1, failures: 0 }],
  });
  await orders.metricIs('oarlock_trust_bundles', { state: 'fresh' }, 1);
});

t.test(
  "a partner's revocation list that is gone from the file stays in force while we trust the partner",
  async (t) => {
    const caCertificates = [{ pem: partnerCa.rootPem, trustDomains: ['partner.example'] }];
    await mesh.change('mesh-config.yaml', meshConfig({ caCertificates }), [orders]);
    await until('the bundle to count', async () => (await outcome(partner)) === '200');
    t.equal(await outcome(lost), 'revoked');
    const { mark } = orders;
    replace(crlFile, ourList);
    await orders.logged({ level: 'error', msg: /no list any more that O=partner root has signed/ }, mark);
    t.equal(await outcome(lost), 'revoked');
    t.equal(await outcome(partner), '200');
    await mesh.change('mesh-config.yaml', meshConfig({}), [orders]);
    await orders.logged({ msg: /^revocation lists can be read again/ }, mark);
    t.match(await outcome(lost), REFUSED);
  },
);

/** Protocol of a handshake with our sidecar, or the error's code. */
function protocolOf(maxVersion: SecureVersion): Promise<string> {
  const socket = connect({
    port: ports.ordersHttp,
    host: '127.0.0.1',
    cert: ours.cert,
    key: ours.key,
    maxVersion,
    ALPNProtocols: ISTIO_HTTP,
    rejectUnauthorized: false,
  });
  return new Promise((resolve) => {
    socket.once('secureConnect', () => {
      resolve(socket.getProtocol() ?? '');
      socket.destroy();
    });
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  });
}

t.test('TLS 1.2 where it is asked for, and only then', async (t) => {
  t.not(await protocolOf('TLSv1.2'), 'TLSv1.2');
  t.equal(await protocolOf('TLSv1.3'), 'TLSv1.3');
  await mesh.change('mesh-config.yaml', meshConfig({ meshMTLS: { minProtocolVersion: 'TLSV1_2' } }), [
    orders,
  ]);
  await until('TLS 1.2', async () => (await protocolOf('TLSv1.2')) === 'TLSv1.2');
  t.equal(await protocolOf('TLSv1.3'), 'TLSv1.3');
  await mesh.change('mesh-config.yaml', meshConfig({ meshMTLS: { minProtocolVersion: 'TLS_AUTO' } }), [
    orders,
  ]);
  await until('TLS 1.3 alone', async () => (await protocolOf('TLSv1.2')) !== 'TLSv1.2');
});
