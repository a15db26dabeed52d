/** Tells a chain made to keep its verifier busy from one that is merely wrong. */
import type { X509Certificate } from 'node:crypto';
import { MAX_CHAIN, presented } from './verify-peer.ts';

/**
 * Bytes of a chain, and of all that a client sends after its ClientHello to end its handshake. Four certificates with
 * RSA keys of 4096 bits come to 8 KiB. Checking names by name constraints takes time by the square of it.
 */
export const MAX_FLIGHT = 12_288;
/** A handshake broken off after so much of it may have been verified, and shows its certificates no more. */
export const MAX_BROKEN_OFF = 4_096;
/** Go's limits: nobody has such a key, and what it signs takes milliseconds to verify. */
const MAX_MODULUS_BITS = 8_192;
const MAX_EXPONENT = 0x7fff_ffffn;
/** Binary fields (SEC 2 §3, X9.62's c2…, WAP's): no CA signs by them, and a signature takes 4 ms to verify. */
const DEAR_CURVES = /^(sect|c2|wap-wsg-idm-ecid-wtls[1345]|Oakley)/;

/**
 * What makes a chain dear to verify: its length, its size, or a key that no CA takes.
 * @param leaf with all that was presented behind it, as Node has it of a connection
 * @returns null where it is like any other, be it ever so wrong
 */
export function dearness(leaf: X509Certificate): string | null {
  let [length, bytes] = [0, 0];
  for (const at of presented(leaf)) {
    length++;
    bytes += at.raw.length;
    if (length > MAX_CHAIN) return `more than ${MAX_CHAIN} certificates`;
    if (hasDearKey(at)) return 'a key that takes long to verify by';
  }
  return bytes > MAX_FLIGHT ? `certificates of ${bytes} bytes` : null;
}

function hasDearKey(certificate: X509Certificate): boolean {
  try {
    const { asymmetricKeyType, asymmetricKeyDetails = {} } = certificate.publicKey;
    const { modulusLength = 0, publicExponent = 0n, namedCurve } = asymmetricKeyDetails;
    // A curve that is spelled out has none of the quick arithmetic of those known by name.
    if (asymmetricKeyType === 'ec') return namedCurve === undefined || DEAR_CURVES.test(namedCurve);
    return modulusLength > MAX_MODULUS_BITS || publicExponent > MAX_EXPONENT;
  } catch {
    // OpenSSL could not read it either, and verified nothing by it.
    return false;
  }
}
