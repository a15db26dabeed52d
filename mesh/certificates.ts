/** Reads from a certificate's DER what a handshake needs: names, validity, serial, and what it may be used for. */
import { type Extensions, readExtensions } from './certificate-extensions.ts';
import { BIT_STRING, Cursor, DerError, INTEGER, SEQUENCE } from './der.ts';
import { type Identity, parseIdentity } from './identity.ts';
import { readSignatureAlgorithm } from './signature-algorithm.ts';

/** What is read of one certificate. Nothing here says that anyone trusts it. */
export interface CertificateFacts extends Extensions {
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hex in lower case, without leading zero bytes. */
  readonly serial: string;
  /** Distinguished names, DER: views of the bytes that were read. */
  readonly subject: Buffer;
  readonly issuer: Buffer;
  /** The name of the algorithm its issuer signed with, or its object identifier: see signature-algorithm.ts. */
  readonly signatureAlgorithm: string;
}

/** The one error of this file: the bytes are not a certificate we are willing to read. */
export class CertificateError extends Error {
  override name = 'CertificateError';
}

/** Node takes no longer chains than 100 KiB either; one certificate of ours is under 1 KiB. */
const MAX_BYTES = 65_536;

/**
 * Reads a certificate (RFC 5280 §4.1) directly from its DER, never from Node's SAN string, whose quoting an
 * attacker can play with. Strict: definite and minimal lengths, no bytes left over, no extension twice, no NUL
 * or non-ASCII byte in a name. Signatures are the caller's affair. Synchronous, no copies but the result's.
 * @throws CertificateError, and nothing else, whatever the bytes.
 */
export function readCertificate(der: Uint8Array): CertificateFacts {
  if (der.length > MAX_BYTES) throw new CertificateError(`longer than ${MAX_BYTES} bytes`);
  try {
    return readDer(der);
  } catch (error) {
    if (error instanceof DerError) throw new CertificateError(error.message);
    throw error;
  }
}

function readDer(der: Uint8Array): CertificateFacts {
  const file = new Cursor(der);
  const certificate = file.enter(SEQUENCE);
  file.finish();
  const tbs = certificate.enter(SEQUENCE);
  const outerAlgorithm = certificate.element(SEQUENCE);
  certificate.enter(BIT_STRING);
  certificate.finish();

  let version = 1;
  if (tbs.peek() === 0xa0) {
    const explicit = tbs.enter(0xa0);
    const number = explicit.enter(INTEGER);
    explicit.finish();
    if (number.length !== 1) throw new DerError('version is no small number');
    version = number.byte() + 1;
  }
  const serial = tbs.serial();
  // RFC 5280 §4.1.1.2: "This field MUST contain the same algorithm identifier as the signature field in the
  // sequence tbsCertificate": the outer one is not signed
  const algorithm = tbs.element(SEQUENCE);
  if (!algorithm.equals(outerAlgorithm)) throw new DerError('two different signature algorithms');
  const issuer = tbs.element(SEQUENCE);
  const validity = tbs.enter(SEQUENCE);
  const notBefore = validity.time();
  const notAfter = validity.time();
  validity.finish();
  const subject = tbs.element(SEQUENCE);
  tbs.enter(SEQUENCE); // subjectPublicKeyInfo
  if (tbs.peek() === 0x81) tbs.enter(0x81); // issuerUniqueID
  if (tbs.peek() === 0x82) tbs.enter(0x82); // subjectUniqueID
  const extensions = tbs.peek() === 0xa3 ? tbs.enter(0xa3) : null;
  tbs.finish();
  if (extensions !== null && version !== 3) throw new DerError('extensions need version 3');

  const signatureAlgorithm = readSignatureAlgorithm(new Cursor(algorithm));
  return {
    ...readExtensions(extensions),
    notBefore,
    notAfter,
    serial,
    subject,
    issuer,
    signatureAlgorithm,
  };
}

/**
 * The identity a workload's certificate carries. SPIFFE X509-SVID §2 and §4.1: exactly one URI name, a valid
 * SPIFFE ID with a path, on a certificate that is not a CA's. Null for anything else, unreadable bytes included.
 */
export function spiffeIdentity(der: Uint8Array): Identity | null {
  try {
    const { uris, ca } = readCertificate(der);
    const uri = uris[0];
    return uri === undefined || uris.length !== 1 || ca ? null : parseIdentity(uri);
  } catch (error) {
    if (error instanceof CertificateError) return null;
    throw error;
  }
}
