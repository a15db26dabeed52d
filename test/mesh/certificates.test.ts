/** The DER reader against real certificates, odd ones made byte by byte, and random damage. */
import { X509Certificate } from 'node:crypto';
import { rootCertificates } from 'node:tls';
import t from 'tap';
import { CertificateError, readCertificate, spiffeIdentity } from '../../mesh/certificates.ts';
import { makeCertificate } from '../ca-client/helper.ts';
import { damaged, generator } from './damage.ts';

const ID = 'spiffe://cluster.local/ns/foo/sa/bar';

t.test('agrees with OpenSSL on the roots of the web', (t) => {
  for (const pem of rootCertificates) {
    const x509 = new X509Certificate(pem);
    const facts = readCertificate(x509.raw);
    const same =
      facts.notBefore === x509.validFromDate.getTime() &&
      facts.notAfter === x509.validToDate.getTime() &&
      facts.ca === x509.ca &&
      BigInt(`0x${facts.serial}`) === BigInt(`0x${x509.serialNumber}`);
    if (!same) t.fail(x509.subject, { facts, serial: x509.serialNumber });
  }
  t.ok(rootCertificates.length > 50);
  t.end();
});

t.test('reads names from the DER, whatever they look like', async (t) => {
  const trick = 'spiffe://evil/ns/a/sa/b, URI:spiffe://cluster.local/ns/foo/sa/bar';
  const rows: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ['one', [ID], []],
    ['one beside a DNS name', [ID], ['a.example']],
    ['two', [ID, 'https://example.com/'], []],
    ['the same twice', [ID, ID], []],
    ['none', [], ['a.example']],
    ['no extension', [], []],
  ];
  for (const [title, uris, dns] of rows) {
    const { der } = await makeCertificate({ uris, dns });
    t.same(readCertificate(der).uris, uris, title);
    t.equal(spiffeIdentity(der)?.uri, uris.length === 1 ? ID : undefined, title);
  }
  // Node's SAN string would show this as two names, or quoted
  const { der } = await makeCertificate({ uris: [ID.padEnd(trick.length, 'x')] });
  const tricked = patch(der, ID.padEnd(trick.length, 'x'), trick);
  t.throws(() => readCertificate(tricked), CertificateError, 'a space is no byte of a URI');
});

t.test('a CA is no workload, a foreign URI no identity', async (t) => {
  t.equal(spiffeIdentity((await makeCertificate({ uris: [ID], ca: true })).der), null);
  for (const uri of [
    'spiffe://cluster.local',
    'https://cluster.local/ns/a/sa/b',
    'SPIFFE://td/a',
    'spiffe://TD/a',
  ]) {
    t.equal(spiffeIdentity((await makeCertificate({ uris: [uri] })).der), null, uri);
  }
});

t.test('validity beyond 2049 is in another notation', async (t) => {
  const { der } = await makeCertificate({ uris: [ID], until: 40 * 365 * 86_400 });
  t.equal(readCertificate(der).notAfter, new X509Certificate(der).validToDate.getTime());
});

t.test('refuses what is not strict DER', async (t) => {
  const { der } = await makeCertificate({ uris: [ID], dns: ['a.example'] });
  const refused = (bytes: Uint8Array, words: RegExp, title: string) =>
    t.throws(() => readCertificate(bytes), { name: 'CertificateError', message: words }, title);
  refused(new Uint8Array(), /too early/, 'nothing');
  refused(der.subarray(0, der.length - 1), /beyond its parent/, 'cut off');
  refused(Uint8Array.of(...der, 0), /left over/, 'a byte more');
  refused(patch(der, 'cluster.local', 'cluster\0local'), /byte 00 in a name/, 'NUL in the URI');
  refused(patch(der, 'a.example', 'a\0example'), /byte 00 in a name/, 'NUL in a DNS name');
  refused(patch(der, 'a.example', 'a\xe9example'), /byte e9 in a name/, 'not ASCII');
  refused(Uint8Array.of(0x30, 0x80, 0, 0), /indefinite/, 'indefinite length');
  refused(Uint8Array.of(0x30, 0x81, 0x05, 0, 0, 0, 0, 0), /not minimal/, 'long form for a short length');
  refused(Uint8Array.of(0x30, 0x82, 0x00, 0x80), /not minimal/, 'leading zero in a length');
  refused(Uint8Array.of(0x30, 0x84, 1, 0, 0, 0), /more than three/, 'length of four bytes');
  refused(new Uint8Array(70_000), /longer than/, 'too long');
  refused(patch(der, '\x06\x03\x55\x1d\x11', '\x06\x03\x55\x1d\x13'), /twice/, 'an extension twice');
  refused(patch(der, '\x06\x03\x55\x1d\x13', '\x06\x03\x55\x1d\x11'), /no name/, 'no name among the names');
});

t.test('times that are none', async (t) => {
  const { der } = await makeCertificate({ uris: [ID] });
  const start = Buffer.from(der).indexOf(Uint8Array.of(0x17, 13)) + 2;
  const rows = [
    '990229000000Z',
    '260101246000Z',
    '261301000000Z',
    '260101000000+',
    '26010100000 Z',
    '2601010000000',
  ];
  for (const text of rows) {
    const bytes = new Uint8Array(der);
    bytes.set(Buffer.from(text), start);
    t.throws(() => readCertificate(bytes), CertificateError, text);
  }
});

t.test('random damage: an answer or the one named error, and no waiting', async (t) => {
  const { der } = await makeCertificate({ uris: [ID], dns: ['a.example'] });
  const random = generator(20260101);
  const started = performance.now();
  let refused = 0;
  for (let round = 0; round < 30_000; round++) {
    const bytes = damaged(der, random);
    try {
      readCertificate(bytes);
    } catch (error) {
      if (!(error instanceof CertificateError)) {
        t.fail(`round ${round}: ${error}`);
        break;
      }
      refused++;
    }
    const identity = spiffeIdentity(bytes);
    if (identity !== null && !identity.uri.startsWith('spiffe://')) t.fail(`round ${round}: ${identity.uri}`);
  }
  t.ok(refused > 1_000 && refused < 30_000, `${refused} refused`);
  t.ok(performance.now() - started < 20_000);
});

/** The bytes with one text put for another of the same length. */
function patch(der: Uint8Array, from: string, to: string): Uint8Array {
  const bytes = Buffer.from(der);
  const at = bytes.indexOf(Buffer.from(from, 'latin1'));
  if (at < 0 || from.length !== to.length) throw new Error('nothing to patch');
  bytes.write(to, at, 'latin1');
  return new Uint8Array(bytes);
}
