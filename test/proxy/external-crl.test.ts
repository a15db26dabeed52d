/** SIMPLE TLS with a DestinationRule's `caCrl`: a revoked server is refused, another of the same CA is not. */
import { webcrypto } from 'node:crypto';
import { connect } from 'node:net';
import { createServer } from 'node:tls';
import t from 'tap';
import { loadX509 } from '../../ca-client/x509.ts';
import type { RouteTls } from '../../mesh/route.ts';
import { uncounted } from '../../proxy/mesh-tls.ts';
import type { OriginateDone } from '../../proxy/outbound-handshake.ts';
import { originateExternal } from '../../proxy/tls-external.ts';
import { listen } from '../e2e/harness/apps.ts';

const x509 = await loadX509();
x509.cryptoProvider.set(webcrypto as Crypto);
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const HOUR = 3_600_000;
const dates = { notBefore: new Date(Date.now() - HOUR), notAfter: new Date(Date.now() + HOUR) };

const newKeys = (): Promise<webcrypto.CryptoKeyPair> =>
  webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']) as Promise<webcrypto.CryptoKeyPair>;
const caKeys = await newKeys();
const root = await x509.X509CertificateGenerator.createSelfSigned({
  serialNumber: '01',
  name: 'O=public root',
  ...dates,
  keys: caKeys,
  signingAlgorithm: ALGORITHM,
  extensions: [
    new x509.BasicConstraintsExtension(true, undefined, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
  ],
});

/** A TLS server of this serial number; its port. */
async function server(serialNumber: string): Promise<number> {
  const keys = await newKeys();
  const leaf = await x509.X509CertificateGenerator.create({
    serialNumber,
    subject: 'CN=api.example',
    issuer: root.subject,
    ...dates,
    publicKey: keys.publicKey as CryptoKey,
    signingKey: caKeys.privateKey as CryptoKey,
    signingAlgorithm: ALGORITHM,
    extensions: [new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: 'api.example' }])],
  });
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  const key = `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n`;
  const listener = createServer({ cert: leaf.toString('pem'), key }, (socket) => socket.end('hello'));
  listener.on('tlsClientError', () => {});
  return (await listen(t, listener)).port;
}

const good = await server('10');
const revoked = await server('11');
const crl = await x509.X509CrlGenerator.create({
  issuer: root.subject,
  thisUpdate: dates.notBefore,
  nextUpdate: dates.notAfter,
  entries: [{ serialNumber: '11', revocationDate: dates.notBefore }],
  signingAlgorithm: ALGORITHM,
  signingKey: caKeys.privateKey as CryptoKey,
});

const tls: RouteTls = {
  mode: 'SIMPLE',
  auto: false,
  sni: 'api.example',
  expectedIdentities: ['api.example'],
  source: 'shop/api',
  clientCertificate: null,
  privateKey: null,
  caCertificates: '/ca.pem',
  caCrl: '/crl.pem',
  credentialName: null,
  insecureSkipVerify: false,
};

/** `connected`, or why not. */
function reach(port: number, list: Buffer | null): Promise<string> {
  const files = { cert: null, key: null, ca: Buffer.from(root.toString('pem')), crl: list };
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      const done: OriginateDone = {
        originated: (stream) => {
          stream.destroy();
          resolve('connected');
        },
        refused: (reason, detail) => {
          socket.destroy();
          resolve(`${reason} ${detail}`);
        },
        refusedUs: () => {},
      };
      try {
        originateExternal(socket, { tls, protocol: 'tcp', files }, uncounted().outbound, done);
      } catch (error) {
        socket.destroy();
        resolve(`no handshake: ${(error as Error).message}`);
      }
    });
  });
}

t.test('who is on the list is refused', async (t) => {
  const base64 = Buffer.from(crl.rawData).toString('base64');
  const list = Buffer.from(`-----BEGIN X509 CRL-----\n${base64}\n-----END X509 CRL-----\n`);
  t.equal(await reach(good, list), 'connected');
  t.match(
    await reach(revoked, list),
    /^revoked CERT_REVOKED \(presented DNS:api\.example, issued by O=public root/,
  );
  t.equal(await reach(revoked, null), 'connected', 'without the list nobody is');
  t.match(
    await reach(good, Buffer.from('no list')),
    /^no handshake: /,
    'a file that is no list opens nothing',
  );
});
