/** Judges a certificate request: only its public key counts, and only if its owner signed and it is strong enough. */
import { createPublicKey } from 'node:crypto';
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
 *   or the key is neither EC P-256 or P-384 nor RSA of 2048 to 8192 bits.
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
  // verify() throws on a signature algorithm it does not know
  const signed = await request.verify().catch(() => false);
  if (!signed) throw new RequestError("the CSR's signature does not verify with its own key");
  return new Uint8Array(request.publicKey.rawData);
}

function checkStrength(spki: ArrayBuffer): void {
  const key = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  const { namedCurve, modulusLength = 0 } = key.asymmetricKeyDetails ?? {};
  const strong =
    key.asymmetricKeyType === 'ec'
      ? namedCurve === 'prime256v1' || namedCurve === 'secp384r1'
      : key.asymmetricKeyType === 'rsa' && modulusLength >= 2048 && modulusLength <= MAX_RSA_BITS;
  if (!strong) {
    const found = `${key.asymmetricKeyType} ${namedCurve ?? (modulusLength || '')}`.trim();
    throw new RequestError(
      `the key (${found}) is refused: use EC P-256, EC P-384, or RSA of at least 2048 bits`,
    );
  }
}
