/** Builds the certificates an embedded CA signs: roots, intermediates and leaves. */
import { createHash, randomBytes, type webcrypto, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { readCertificate } from '../mesh/certificates.ts';
import { EC_P256 } from './keys.ts';
import { CredentialsError } from './source.ts';
import { loadX509, type X509Library } from './x509.ts';

/** A CA's certificate with the key that signs for it. */
export interface Authority {
  readonly pem: string;
  readonly key: webcrypto.CryptoKey;
  /** Milliseconds since the epoch, bounded by those of the certificates above it. */
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface LeafWish {
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: ArrayBuffer | Uint8Array<ArrayBuffer>;
  /** A SPIFFE URI, or the DNS names and addresses of a server. */
  readonly names: { readonly uri: string } | { readonly hosts: readonly string[] };
  readonly ttlMs: number;
}

/** Certificates start in the past, for clocks differ; Istio backdates by two minutes. */
export const BACKDATE_MS = 60_000;
/** Nothing shorter is issued: validity is counted in whole seconds. */
const SHORTEST_TTL_MS = 1_000;

/** SHA-256 of the certificate's DER, hex in lower case: how certificates are named in the audit log. */
export function fingerprintOf(pem: string): string {
  return new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase();
}

/** SHA-256 of a SubjectPublicKeyInfo in DER, hex. */
export function keyPrint(spki: ArrayBuffer | Uint8Array<ArrayBuffer>): string {
  return createHash('sha256').update(new Uint8Array(spki)).digest('hex');
}

/** The same of a certificate's key. */
export function keyPrintOf(pem: string): string {
  const spki = new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'der' });
  return keyPrint(new Uint8Array(spki));
}

/** A self-signed root that names its trust domain (SPIFFE X509-SVID §2: a SPIFFE ID without a path). */
export async function makeRoot(
  keys: webcrypto.CryptoKeyPair,
  trustDomain: string,
  { now, ttlMs }: { readonly now: number; readonly ttlMs: number },
): Promise<string> {
  const library = await loadX509();
  const keyId = await library.SubjectKeyIdentifierExtension.create(keys.publicKey);
  const root = await library.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    // the key's mark keeps roots made again for the same trust domain apart
    name: `O=${trustDomain}, CN=Oarlock embedded CA ${keyId.keyId.slice(0, 8)}`,
    keys,
    notBefore: new Date(wholeSeconds(now - BACKDATE_MS)),
    notAfter: new Date(wholeSeconds(now + ttlMs)),
    signingAlgorithm: EC_P256,
    extensions: [...authorityExtensions(library, trustDomain), keyId],
  });
  return `${root.toString('pem')}\n`;
}

/**
 * A CA's certificate below `issuer` that may sign leaves and CRLs and no further CA (path length 0), valid no
 * longer than its issuer.
 * @throws CredentialsError where the issuer has expired.
 */
export async function makeIntermediate(
  issuer: Authority,
  publicKey: webcrypto.CryptoKey,
  wish: { readonly trustDomain: string; readonly now: number; readonly ttlMs: number },
): Promise<string> {
  const library = await loadX509();
  const keyId = await library.SubjectKeyIdentifierExtension.create(publicKey);
  const above = await issuerParts(issuer);
  const certificate = await library.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: `O=${wish.trustDomain}, CN=Oarlock embedded CA intermediate ${keyId.keyId.slice(0, 8)}`,
    issuer: above.name,
    ...validity(issuer, wish),
    publicKey,
    signingKey: issuer.key,
    signingAlgorithm: EC_P256,
    extensions: [...authorityExtensions(library, wish.trustDomain, 0), keyId, above.keyId],
  });
  return `${certificate.toString('pem')}\n`;
}

/**
 * A leaf for server and client use, valid no longer than its issuer.
 * @returns its PEM.
 * @throws CredentialsError where the issuer has expired.
 */
export async function makeLeaf(issuer: Authority, wish: LeafWish, now: number): Promise<string> {
  const library = await loadX509();
  const above = await issuerParts(issuer);
  const publicKey = new library.PublicKey(wish.spki);
  const usages = library.KeyUsageFlags.digitalSignature | library.KeyUsageFlags.keyEncipherment;
  const certificate = await library.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: 'uri' in wish.names ? '' : 'CN=Oarlock embedded CA server',
    issuer: above.name,
    ...validity(issuer, { now, ttlMs: wish.ttlMs }),
    publicKey,
    signingKey: issuer.key,
    signingAlgorithm: EC_P256,
    extensions: [
      new library.KeyUsagesExtension(usages, true),
      new library.ExtendedKeyUsageExtension([
        library.ExtendedKeyUsage.serverAuth,
        library.ExtendedKeyUsage.clientAuth,
      ]),
      new library.BasicConstraintsExtension(false, undefined, true),
      namesExtension(library, wish.names),
      await library.SubjectKeyIdentifierExtension.create(publicKey),
      above.keyId,
    ],
  });
  return `${certificate.toString('pem')}\n`;
}

/**
 * The trust domain a CA's certificate names.
 * @returns null where it is no CA's, or names none or more than one.
 */
export function trustDomainOf(pem: string): string | null {
  const { uris, ca } = readCertificate(new X509Certificate(pem).raw);
  const own = /^spiffe:\/\/([^/]+)$/.exec(uris[0] ?? '')?.[1];
  return ca && uris.length === 1 && own !== undefined ? own : null;
}

/** What each certificate of an issuer repeats. */
interface IssuerParts {
  readonly name: InstanceType<X509Library['Name']>;
  readonly keyId: InstanceType<X509Library['AuthorityKeyIdentifierExtension']>;
}

/** Read once an issuer: taking its certificate apart costs about as much as signing does. */
const partsOf = new WeakMap<Authority, Promise<IssuerParts>>();

function issuerParts(issuer: Authority): Promise<IssuerParts> {
  const parts = partsOf.get(issuer) ?? readIssuerParts(issuer.pem);
  partsOf.set(issuer, parts);
  return parts;
}

async function readIssuerParts(pem: string): Promise<IssuerParts> {
  const library = await loadX509();
  const certificate = new library.X509Certificate(pem);
  return {
    name: certificate.subjectName,
    keyId: await library.AuthorityKeyIdentifierExtension.create(certificate.publicKey),
  };
}

function authorityExtensions(library: X509Library, trustDomain: string, pathLength?: number) {
  const usages = library.KeyUsageFlags.keyCertSign | library.KeyUsageFlags.cRLSign;
  return [
    new library.BasicConstraintsExtension(true, pathLength, true),
    new library.KeyUsagesExtension(usages, true),
    new library.SubjectAlternativeNameExtension([{ type: 'url', value: `spiffe://${trustDomain}` }]),
  ];
}

function namesExtension(library: X509Library, names: LeafWish['names']) {
  if ('uri' in names) {
    // critical, for the subject is empty (RFC 5280 §4.1.2.6)
    return new library.SubjectAlternativeNameExtension([{ type: 'url', value: names.uri }], true);
  }
  return new library.SubjectAlternativeNameExtension(
    names.hosts.map((host) => ({ type: isIP(host) === 0 ? 'dns' : 'ip', value: host })),
  );
}

function validity(issuer: Authority, { now, ttlMs }: { readonly now: number; readonly ttlMs: number }) {
  const notAfter = wholeSeconds(Math.min(now + Math.max(ttlMs, SHORTEST_TTL_MS) + 999, issuer.notAfter));
  if (notAfter <= now) {
    const what = new X509Certificate(issuer.pem).subject.replaceAll('\n', ', ');
    throw new CredentialsError(
      `the CA's root or intermediate (${what}) expired at ${new Date(issuer.notAfter).toISOString()}; make a new one`,
    );
  }
  const notBefore = wholeSeconds(Math.max(now - BACKDATE_MS, issuer.notBefore));
  return { notBefore: new Date(notBefore), notAfter: new Date(notAfter) };
}

/** RFC 5280 §4.1.2.2: positive and at most 20 bytes; random, so that nobody can guess what is signed next. */
function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000;
}
