/** Judges a certificate request: only its public key counts, and only if its owner signed and it is strong enough. */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { loadX509 } from './x509.ts';

/** The request is refused; one sentence for its sender. */
export class RequestError extends Error {
  override name = 'RequestError';
}

/** A request with an RSA 8192 key is under 4 KiB. */
const MAX_BYTES = 16_384;
const MAX_RSA_BITS = 8192;
const PEM =
  /^\s*-----BEGIN (NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]+)-----END (NEW )?CERTIFICATE REQUEST-----\s*$/;

/**
 * Reads a PKCS#10 request in PEM. Whatever names and extensions it asks for are not looked at.
 * @returns the requester's public key, SubjectPublicKeyInfo in DER.
 * @throws RequestError where it cannot be read, its signature does not verify (proof of possession, RFC 2986 §3),
 *   it is signed by way of SHA-1 or MD5, or the key is neither EC P-256 or P-384 nor a sound RSA key of 2048 to 8192
 *   bits.
 */
export async function readRequest(csrPem: string): Promise<Uint8Array<ArrayBuffer>> {
  if (csrPem.length > MAX_BYTES) throw new RequestError(`the CSR is longer than ${MAX_BYTES} bytes`);
  const base64 = PEM.exec(csrPem)?.[2];
  if (base64 === undefined) throw new RequestError('the CSR is not one PEM block CERTIFICATE REQUEST');
  const { Pkcs10CertificateRequest } = await loadX509();
  let request: InstanceType<typeof Pkcs10CertificateRequest>;
  try {
    request = new Pkcs10CertificateRequest(new Uint8Array(Buffer.from(base64, 'base64')));
    checkStrength(request.publicKey.rawData);
  } catch (error) {
    if (error instanceof RequestError) throw error;
    throw new RequestError('the CSR cannot be read: it is no PKCS#10 request with a known kind of key');
  }
  const { hash } = request.signatureAlgorithm;
  if (!['SHA-256', 'SHA-384', 'SHA-512'].includes(hash?.name ?? '')) {
    throw new RequestError(
      `the CSR's signature (${hash?.name ?? 'of an unknown kind'}) is refused: use SHA-256`,
    );
  }
  // verify() throws on a signature algorithm it does not know
  const signed = await request.verify().catch(() => false);
  if (!signed) throw new RequestError("the CSR's signature does not verify with its own key");
  return new Uint8Array(request.publicKey.rawData);
}

/**
 * NIST SP 800-56B §6.2.1's smallest public exponent. CA/Browser Forum Baseline Requirements §6.1.6: the modulus is
 * odd and has no factor below 752.
 */
const LEAST_EXPONENT = 65_537n;
const SMALL_FACTORS_BELOW = 752n;
/** SubjectPublicKeyInfo of P-256 and P-384 up to the point's first coordinate: named curve, uncompressed. */
const EC_PREFIXES = [
  '3059301306072a8648ce3d020106082a8648ce3d03010703420004',
  '3076301006072a8648ce3d020106052b8104002203620004',
];

function checkStrength(spki: ArrayBuffer): void {
  const key = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  const { namedCurve, modulusLength = 0, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
  const rsa = key.asymmetricKeyType === 'rsa';
  const strong = rsa
    ? modulusLength >= 2048 && modulusLength <= MAX_RSA_BITS
    : key.asymmetricKeyType === 'ec' && (namedCurve === 'prime256v1' || namedCurve === 'secp384r1');
  if (!strong) {
    const found = `${key.asymmetricKeyType} ${namedCurve ?? (modulusLength || '')}`.trim();
    throw new RequestError(
      `the key (${found}) is refused: use EC P-256, EC P-384, or RSA of at least 2048 bits`,
    );
  }
  if (!rsa) checkPoint(spki);
  else if (publicExponent < LEAST_EXPONENT || publicExponent % 2n === 0n) {
    throw new RequestError(
      `the key's public exponent ${publicExponent} is refused: use ${LEAST_EXPONENT}, as everyone does`,
    );
  }
  if (rsa && hasSmallFactor(key))
    throw new RequestError("the key's modulus is refused: it has a small factor");
}

/** RFC 5480 §2.1.1: in PKIX a curve is named. And not all that read certificates read compressed points (§2.2). */
function checkPoint(spki: ArrayBuffer): void {
  const hex = Buffer.from(spki).toString('hex');
  if (EC_PREFIXES.some((prefix) => hex.startsWith(prefix))) return;
  throw new RequestError("the key's curve must be given by its name, and its point uncompressed");
}

function hasSmallFactor(key: KeyObject): boolean {
  const { n = '' } = key.export({ format: 'jwk' });
  const modulus = BigInt(`0x${Buffer.from(n, 'base64url').toString('hex')}`);
  if (modulus % 2n === 0n) return true;
  for (let factor = 3n; factor < SMALL_FACTORS_BELOW; factor += 2n) if (modulus % factor === 0n) return true;
  return false;
}
