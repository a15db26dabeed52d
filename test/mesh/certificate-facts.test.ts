/** What a certificate may be used for, as its DER says it: against OpenSSL's reading, and against extensions that are none. */
import { X509Certificate } from 'node:crypto';
import { rootCertificates } from 'node:tls';
import t from 'tap';
import { keyUsage } from '../../mesh/certificate-extensions.ts';
import { CertificateError, readCertificate } from '../../mesh/certificates.ts';
import { describeName } from '../../mesh/distinguished-name.ts';
import { caLink, keysAt, leafLink, makeAll, NOW } from './chain-world.ts';
import {
  CLIENT,
  certificate,
  constraints,
  distinguishedName,
  dnsName,
  edKeys,
  extension,
  keyId,
  rsaKeys,
  SERVER,
  sequence,
  tlv,
  uriName,
} from './pki.ts';

t.test('agrees with OpenSSL on the roots of the web', (t) => {
  for (const pem of rootCertificates) {
    const x509 = new X509Certificate(pem);
    const facts = readCertificate(x509.raw);
    t.same(facts.extendedKeyUsage ?? undefined, x509.keyUsage, x509.subject);
    t.equal(facts.unknownCritical, null, x509.subject);
    t.ok(facts.subject.equals(facts.issuer), x509.subject);
    // RFC 5280 §4.2.1.3: conforming CAs must include it; of these, some are older
    const mayCertify = facts.keyUsage === null || (facts.keyUsage & keyUsage.keyCertSign) !== 0;
    t.ok(mayCertify, x509.subject);
    const ours = describeName(facts.subject).replace(/^.*CN=/, '');
    const theirs = /CN=(.*)$/.exec(x509.subject)?.[1];
    if (theirs !== undefined && /^[\w .-]+$/.test(theirs)) t.equal(ours.split(', ')[0], theirs);
  }
  t.ok(rootCertificates.length > 50);
  t.end();
});

t.test('every field', (t) => {
  const root = caLink('root', keysAt(0), {
    pathLength: 3,
    more: [constraints({ permitted: [uriName('.example')], excluded: [uriName('a.example'), dnsName('b')] })],
  });
  const leaf = leafLink(keysAt(1), { subject: 'leaf', names: [uriName('spiffe://td/a'), dnsName('c')] });
  const [rootFacts, leafFacts] = makeAll([root, leaf]).map(readCertificate);
  const rootId = keyId(keysAt(0).publicKey).toString('hex');
  t.match(rootFacts, {
    ca: true,
    pathLength: 3,
    keyUsage: keyUsage.keyCertSign | keyUsage.cRLSign,
    extendedKeyUsage: null,
    subject: distinguishedName('root'),
    issuer: distinguishedName('root'),
    subjectKeyId: rootId,
    authorityKeyId: rootId,
    nameConstraints: { permittedUris: ['.example'], excludedUris: ['a.example'], otherKinds: [0x82] },
    signatureAlgorithm: 'ecdsa-with-SHA256',
    unknownCritical: null,
  });
  t.match(leafFacts, {
    ca: false,
    pathLength: null,
    keyUsage: keyUsage.digitalSignature | (1 << 2),
    extendedKeyUsage: [SERVER, CLIENT],
    subject: distinguishedName('leaf'),
    issuer: distinguishedName('root'),
    uris: ['spiffe://td/a'],
    nameKinds: [0x86, 0x82],
    subjectKeyId: null,
    authorityKeyId: rootId,
    nameConstraints: null,
  });
  const bare = certificate({
    subject: 'x',
    issuer: 'x',
    keys: keysAt(0),
    issuerKey: keysAt(0).privateKey,
    notBefore: NOW,
    notAfter: NOW + 1000,
    extensions: [],
  });
  t.match(readCertificate(bare), { keyUsage: null, extendedKeyUsage: null, ca: false, uris: [] });
  t.end();
});

t.test('signature algorithms by name, or by number', (t) => {
  const rsa = rsaKeys();
  for (const [keys, algorithm, name] of [
    [rsa, 'rsa md5', 'md5WithRSAEncryption'],
    [rsa, 'rsa sha1', 'sha1WithRSAEncryption'],
    [rsa, 'rsa sha256', 'sha256WithRSAEncryption'],
    [rsa, 'rsa pss', 'RSASSA-PSS-SHA256'],
    [keysAt(0), 'ec sha1', 'ecdsa-with-SHA1'],
    [keysAt(0), 'ec sha384', 'ecdsa-with-SHA384'],
    [edKeys(), 'ed25519', 'Ed25519'],
  ] as const) {
    const [der] = makeAll([caLink('root', keys, { algorithm })]) as [Buffer];
    t.equal(readCertificate(der).signatureAlgorithm, name);
    if (name !== 'RSASSA-PSS-SHA256') t.equal(opensslName(der).toLowerCase(), name.toLowerCase());
  }
  // the outer identifier is not signed: it must be the inner one (RFC 5280 §4.1.1.2)
  const [der] = makeAll([caLink('root', keysAt(0))]) as [Buffer];
  const outer = der.lastIndexOf(Buffer.from('2a8648ce3d040302', 'hex'));
  der[outer + 7] = 3;
  t.throws(() => readCertificate(der), { message: 'two different signature algorithms' });
  t.end();
});

function opensslName(der: Buffer): string {
  const { signatureAlgorithm } = new X509Certificate(der) as { signatureAlgorithm?: string };
  return signatureAlgorithm ?? 'not told';
}

t.test('extensions that are none', (t) => {
  const rows: readonly (readonly [string, Uint8Array, RegExp])[] = [
    ['key usage of nothing', extension('2.5.29.15', tlv(3)), /too early/],
    ['more unused bits than a byte has', extension('2.5.29.15', tlv(3, Buffer.of(8, 0x80))), /odd key usage/],
    ['key usage of three bytes', extension('2.5.29.15', tlv(3, Buffer.of(0, 1, 2, 3))), /odd key usage/],
    ['no purpose', extension('2.5.29.37', sequence()), /without a purpose/],
    ['an empty identifier', extension('2.5.29.37', sequence(tlv(6))), /empty object identifier/],
    ['an identifier cut off', extension('2.5.29.37', sequence(tlv(6, Buffer.of(0x2a, 0x86)))), /too early/],
    [
      'an identifier padded',
      extension('2.5.29.37', sequence(tlv(6, Buffer.of(0x2a, 0x80, 1)))),
      /not minimal/,
    ],
    ['a negative path length', basic(tlv(1, Buffer.of(0xff)), tlv(2, Buffer.of(0x80))), /no small number/],
    ['a huge path length', basic(tlv(1, Buffer.of(0xff)), tlv(2, Buffer.alloc(5, 1))), /no small number/],
    ['something behind the path length', basic(tlv(2, Buffer.of(1)), tlv(5)), /left over/],
    ['something behind the value', extension('2.5.29.15', Buffer.from('0302078005', 'hex')), /left over/],
    ['constraints of nothing', extension('2.5.29.30', sequence()), /constrain nothing/],
    ['constraints without a name', extension('2.5.29.30', sequence(tlv(0xa0))), /without a name/],
    ['a minimum', extension('2.5.29.30', subtree(uriName('a'), tlv(0x80, Buffer.of(1)))), /left over/],
    ['no kind of name', extension('2.5.29.30', subtree(tlv(0x99))), /no kind of name/],
  ];
  for (const [title, more, message] of rows) {
    const link = caLink('root', keysAt(0), { ca: null, usage: null, more: [more] });
    const [der] = makeAll([link]) as [Buffer];
    t.throws(() => readCertificate(der), CertificateError, title);
    t.throws(() => readCertificate(der), { message }, title);
  }
  t.end();
});

function basic(...parts: readonly Uint8Array[]): Buffer {
  return extension('2.5.29.19', sequence(...parts), true);
}

function subtree(...parts: readonly Uint8Array[]): Buffer {
  return sequence(tlv(0xa0, sequence(...parts)));
}

t.test('object identifiers of every size', (t) => {
  const oids: readonly (readonly [string, string])[] = [
    ['2a03', '1.2.3'],
    ['2b', '1.3'],
    ['8137', '2.103'],
    ['883703', '2.999.3'],
    // X.667: a UUID as one arc
    ['69' + '83f89ae2fcb8d4cb98dabdcbd4cbf7b7e3a1b2c301', '2.25.'],
  ];
  for (const [hex, dots] of oids) {
    const more = [extension('2.5.29.37', sequence(tlv(6, Buffer.from(hex, 'hex'))))];
    const [der] = makeAll([caLink('root', keysAt(0), { more })]) as [Buffer];
    const [read = ''] = readCertificate(der).extendedKeyUsage ?? [];
    t.ok(dots.endsWith('.') ? read.startsWith(dots) : read === dots, read);
    t.same(new X509Certificate(der).keyUsage, [read], 'as OpenSSL writes it');
  }
  t.end();
});
