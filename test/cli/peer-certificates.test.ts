/** A server with a good certificate and a strange one beside it: whoever connects lives, and checks names as before. */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';
import t from 'tap';
import { guardPeerCertificates } from '../../cli/peer-certificates.ts';
import { caLink, keysAt, type Link, leafLink, make, makeAll } from '../mesh/chain-world.ts';
import { dnsName, ecKeys, keyId, pem, tlv } from '../mesh/pki.ts';

const HOUR = 3_600_000;
const valid = { notBefore: Date.now() - HOUR, notAfter: Date.now() + HOUR };
const rootLink = caLink('root', keysAt(0), valid);
const ADDRESS = tlv(0x87, Buffer.of(127, 0, 0, 1));

/** A server of these names that presents its leaf and, where told, a root of its own making besides. */
async function serving(t: Tap, names: readonly Uint8Array[], strange: Link | null) {
  const leaf = leafLink(keysAt(1), { ...valid, names, subject: 'a.example' });
  const [root, own] = makeAll([rootLink, leaf]) as [Buffer, Buffer];
  const beside = strange === null ? [] : [make(strange, strange)];
  const server = createServer({
    cert: [own, ...beside].map((der) => pem(der)).join(''),
    key: String(keysAt(1).privateKey.export({ type: 'pkcs8', format: 'pem' })),
  });
  server.on('secureConnection', (socket: TLSSocket) => socket.end());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  return { port: (server.address() as AddressInfo).port, ca: pem(root), own };
}
type Tap = { teardown(fn: () => unknown): void };

/** Connects as a client does that names its server; null where all is well, else the error's code. */
async function attempt(server: { port: number; ca: string }, servername: string): Promise<string | null> {
  const socket = connect({ host: '127.0.0.1', port: server.port, ca: server.ca, servername });
  try {
    await once(socket, 'secureConnect');
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  } finally {
    setImmediate(() => socket.destroy());
  }
}

t.before(() => guardPeerCertificates());

t.test('a key on a curve without a NIST name, where Node would look for the issuer', async (t) => {
  // Nobody signed it: that it bears the name and key identifier of the root is enough for Node to read it.
  for (const curve of ['secp256k1', 'brainpoolP256r1']) {
    const strange = { ...rootLink, keys: ecKeys(curve), subjectKeyId: keyId(keysAt(0).publicKey) };
    const server = await serving(t, [dnsName('a.example')], strange);
    t.equal(await attempt(server, 'a.example'), null, curve);
    t.equal(
      await attempt(server, 'b.example'),
      'ERR_TLS_CERT_ALTNAME_INVALID',
      `${curve}: names are checked`,
    );
  }
});

t.test('names are checked as before', async (t) => {
  const rows: readonly (readonly [string, readonly Uint8Array[], string, boolean])[] = [
    ['its name', [dnsName('a.example')], 'a.example', true],
    ['one of two', [dnsName('x.example'), dnsName('a.example')], 'a.example', true],
    ['a wildcard', [dnsName('*.b.example')], 'a.b.example', true],
    ['a wildcard of another level', [dnsName('*.b.example')], 'a.a.b.example', false],
    ['another name', [dnsName('b.example')], 'a.example', false],
    ['a common name alone', [ADDRESS], 'a.example', false],
  ];
  for (const [title, names, asked, ok] of rows) {
    const server = await serving(t, names, null);
    t.equal(await attempt(server, asked), ok ? null : 'ERR_TLS_CERT_ALTNAME_INVALID', title);
  }
});

t.test('what is answered', async (t) => {
  const server = await serving(t, [dnsName('a.example'), ADDRESS], null);
  const socket = connect({ host: '127.0.0.1', port: server.port, ca: server.ca, servername: 'a.example' });
  t.same(socket.getPeerCertificate(), {}, 'nothing before the handshake');
  await once(socket, 'secureConnect');
  t.match(socket.getPeerCertificate(true), {
    raw: server.own,
    subjectaltname: 'DNS:a.example, IP Address:127.0.0.1',
  });
  setImmediate(() => socket.destroy());
});
