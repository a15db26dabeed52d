/** Judges one path of certificates, leaf to root, whose names and signatures already hold. */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { CLIENT_AUTH, keyUsage, SERVER_AUTH } from './certificate-extensions.ts';
import { type CertificateFacts, readCertificate } from './certificates.ts';
import type { RevocationLists } from './crl.ts';
import { parseIdentity } from './identity.ts';
import { nameOutside } from './name-constraints.ts';
import { isStrongSignature, weakness } from './signature-algorithm.ts';

/** One certificate with all that is read of it once. */
export interface Certificate {
  readonly facts: CertificateFacts;
  readonly x509: X509Certificate;
  readonly publicKey: KeyObject;
}

/**
 * Opens a certificate of PEM or DER for judging.
 * @throws CertificateError or OpenSSL's error where it cannot be read
 */
export function openCertificate(certificate: Uint8Array | string): Certificate {
  const x509 = new X509Certificate(certificate);
  return { facts: readCertificate(x509.raw), x509, publicKey: x509.publicKey };
}

export interface PathRules {
  /** What the leaf is used for: its extended key usage must allow it, and so must that of its CAs. */
  readonly purpose: 'client' | 'server' | 'both';
  /** Milliseconds since the epoch. */
  readonly now: number;
  readonly revoked: RevocationLists;
}

/** The reasons are codes of mesh/reasons.ts. */
export interface RefusedChain {
  readonly ok: false;
  readonly reason: 'untrusted_issuer' | 'expired' | 'revoked' | 'bad_certificate';
  /** One line; what it quotes from certificates is cut short. */
  readonly detail: string;
}

const PURPOSES = { client: [CLIENT_AUTH], server: [SERVER_AUTH], both: [CLIENT_AUTH, SERVER_AUTH] } as const;
const PURPOSE_NAMES = new Map<string, string>([
  [CLIENT_AUTH, 'clients'],
  [SERVER_AUTH, 'servers'],
]);
const MAX_NAME = 256;

/**
 * RFC 5280 §6.1 without policies, and X509-SVID §4 and §5. The last certificate is the trust anchor: it is held to
 * its validity, path length, key usage and names like any CA, as OpenSSL does, but not to its own signature and
 * not to a revocation list, for nobody stands above it.
 * @param path leaf first, anchor last
 * @returns null where it holds, else the first thing wrong, the leaf's before its CAs'
 */
export function judgePath(path: readonly Certificate[], rules: PathRules): RefusedChain | null {
  for (const [i, certificate] of path.entries()) {
    const fault =
      certificateFault(certificate, i === path.length - 1) ??
      (i === 0 ? leafFault(certificate) : issuerFault(path, i)) ??
      purposeFault(certificate, PURPOSES[rules.purpose]);
    if (fault !== null) return bad(`${nameOf(certificate)} ${fault}`);
    const late = validityFault(certificate, rules.now);
    if (late !== null) return { ok: false, reason: 'expired', detail: `${nameOf(certificate)} ${late}` };
  }
  return revocation(path, rules);
}

/** What every certificate of a path is held to. */
function certificateFault({ facts, publicKey }: Certificate, anchor: boolean): string | null {
  // RFC 5280 §4.2: "A certificate-using system MUST reject the certificate if it encounters a critical extension
  // it does not recognize or a critical extension that contains information that it cannot process."
  if (facts.unknownCritical !== null)
    return `has the critical extension ${facts.unknownCritical}, which we do not know`;
  // nobody relies on an anchor's own signature
  if (!anchor && !isStrongSignature(facts.signatureAlgorithm)) {
    return `is signed by ${facts.signatureAlgorithm}, which is too weak or not known`;
  }
  const weak = weakness(publicKey);
  return weak === null ? null : `has a key that is too weak: ${weak}`;
}

/** X509-SVID §5.2: a leaf is no CA and may sign neither certificates nor lists; §4.3: it may sign handshakes. */
function leafFault({ facts }: Certificate): string | null {
  if (facts.ca) return 'is a CA certificate used as a leaf';
  if (facts.pathLength !== null) return 'has a path length without being a CA';
  if (facts.keyUsage === null) return null;
  if ((facts.keyUsage & (keyUsage.keyCertSign | keyUsage.cRLSign)) !== 0) {
    return 'is a leaf whose key usage lets it sign certificates or revocation lists';
  }
  return (facts.keyUsage & keyUsage.digitalSignature) === 0
    ? 'lacks digitalSignature in its key usage, without which no handshake can be signed'
    : null;
}

/** RFC 5280 §6.1.4 (k) to (n), and what X509-SVID §3.2 asks of a signing certificate's SPIFFE ID. */
function issuerFault(path: readonly Certificate[], at: number): string | null {
  const [issuer, subject] = [path[at], path[at - 1]];
  if (issuer === undefined || subject === undefined) return 'is not there';
  const { facts } = issuer;
  if (!facts.ca) return 'is no CA, but issued a certificate of the chain';
  if (facts.keyUsage !== null && (facts.keyUsage & keyUsage.keyCertSign) === 0) {
    return 'lacks keyCertSign in its key usage, but issued a certificate of the chain';
  }
  if (facts.pathLength !== null && intermediatesBelow(path, at) > facts.pathLength) {
    return `allows a path length of ${facts.pathLength}, and ${intermediatesBelow(path, at)} CAs stand below it`;
  }
  // authority key identifiers by issuer and serial number, and a signature of another kind than the key
  if (!subject.x509.checkIssued(issuer.x509)) return 'is not the issuer that its certificate asks for';
  return namesFault(path, at) ?? (at === path.length - 1 ? null : signingIdentityFault(path, at));
}

/** RFC 5280 §4.2.1.9: non-self-issued intermediates between this CA and the leaf. */
function intermediatesBelow(path: readonly Certificate[], at: number): number {
  return path.slice(1, at).filter(({ facts }) => !isSelfIssued(facts)).length;
}

function isSelfIssued({ subject, issuer }: CertificateFacts): boolean {
  return subject.equals(issuer);
}

/** RFC 5280 §6.1.3 (b): name constraints hold for all certificates below, self-issued intermediates left out. */
function namesFault(path: readonly Certificate[], at: number): string | null {
  const constraints = path[at]?.facts.nameConstraints ?? null;
  if (constraints === null) return null;
  for (const [i, { facts }] of path.slice(0, at).entries()) {
    if (i > 0 && isSelfIssued(facts)) continue;
    const outside = nameOutside(facts, constraints);
    if (outside !== null) return `may not vouch for ${outside}, by its name constraints`;
  }
  return null;
}

/**
 * X509-SVID §3.2 of a signing certificate: "If present, the SPIFFE ID of a signing certificate MUST NOT have a path
 * component, and SHOULD reside in the trust domain of any leaf SVIDs it issues." Under a root that several trust
 * domains share this alone keeps the CA of one from vouching for another, so the second half is held to as well, of
 * every CA of the path: else one more CA in between, which it signs itself, would do. An anchor is in the bundle by
 * somebody's decision, whatever it is called.
 */
function signingIdentityFault(path: readonly Certificate[], at: number): string | null {
  const leafDomain = parseIdentity(path[0]?.facts.uris[0] ?? '')?.trustDomain;
  for (const uri of path[at]?.facts.uris ?? []) {
    const [, trustDomain, rest] = /^spiffe:\/\/([^/]*)(.*)$/i.exec(uri) ?? [];
    if (trustDomain === undefined) continue;
    if (rest !== '') return `is a CA whose SPIFFE ID has a path: ${short(uri)}`;
    if (trustDomain !== leafDomain) {
      return `is the CA of ${short(trustDomain)} and may not vouch for ${leafDomain ?? 'a leaf without a SPIFFE ID'}`;
    }
  }
  return null;
}

/**
 * RFC 5280 §4.2.1.12. Every CA's counts for what is below it too, as OpenSSL and Go have it. anyExtendedKeyUsage is
 * not enough: OpenSSL, BoringSSL and webpki do not take it for these two, and X509-SVID §4.4 wants both named.
 */
function purposeFault({ facts }: Certificate, purposes: readonly string[]): string | null {
  const { extendedKeyUsage } = facts;
  const missing =
    extendedKeyUsage === null ? undefined : purposes.find((oid) => !extendedKeyUsage.includes(oid));
  return missing === undefined
    ? null
    : `is not for ${PURPOSE_NAMES.get(missing) ?? missing}, by its extended key usage`;
}

/** As OpenSSL has it, the moment of notAfter itself is too late. */
function validityFault({ facts }: Certificate, now: number): string | null {
  if (now >= facts.notAfter) return `expired at ${iso(facts.notAfter)} and it is ${iso(now)}`;
  return now < facts.notBefore ? `is not valid before ${iso(facts.notBefore)} and it is ${iso(now)}` : null;
}

function revocation(path: readonly Certificate[], { revoked }: PathRules): RefusedChain | null {
  for (const [i, certificate] of path.entries()) {
    const issuer = path[i + 1];
    if (issuer === undefined) break;
    const verdict = revoked.check(certificate.facts.serial, issuer);
    if (typeof verdict === 'string') continue;
    return { ok: false, reason: verdict.reason, detail: `${nameOf(certificate)}: ${verdict.detail}` };
  }
  return null;
}

export function bad(detail: string): RefusedChain {
  return { ok: false, reason: 'bad_certificate', detail };
}

/** A certificate for people: its subject, or the SPIFFE ID of one without. */
export function nameOf({ facts, x509 }: Certificate): string {
  return nameLine(x509.subject ?? '') || short(facts.uris[0] ?? `serial ${facts.serial}`);
}

/** A distinguished name as Node writes it, one line of it; Node has already escaped what is not printable. */
export function nameLine(name: string): string {
  return short(name.split('\n').join(', '));
}

function short(text: string): string {
  return text.length > MAX_NAME ? `${text.slice(0, MAX_NAME)}…` : text;
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
