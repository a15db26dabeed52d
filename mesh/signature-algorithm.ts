/** Which signature algorithms and keys are strong enough to vouch for anybody. */
import { constants, type KeyObject, verify } from 'node:crypto';
import { Cursor, OID, SEQUENCE } from './der.ts';

const RSA_PSS = '1.2.840.113549.1.1.10';

/** RFC 4055, RFC 5758, RFC 8410: what is trusted. */
const STRONG = new Map([
  ['1.2.840.113549.1.1.11', 'sha256WithRSAEncryption'],
  ['1.2.840.113549.1.1.12', 'sha384WithRSAEncryption'],
  ['1.2.840.113549.1.1.13', 'sha512WithRSAEncryption'],
  ['1.2.840.10045.4.3.2', 'ecdsa-with-SHA256'],
  ['1.2.840.10045.4.3.3', 'ecdsa-with-SHA384'],
  ['1.2.840.10045.4.3.4', 'ecdsa-with-SHA512'],
  ['1.3.101.112', 'Ed25519'],
]);

/** What is not, under names a person knows. */
const WEAK = new Map([
  ['1.2.840.113549.1.1.2', 'md2WithRSAEncryption'],
  ['1.2.840.113549.1.1.4', 'md5WithRSAEncryption'],
  ['1.2.840.113549.1.1.5', 'sha1WithRSAEncryption'],
  ['1.2.840.113549.1.1.14', 'sha224WithRSAEncryption'],
  ['1.2.840.10040.4.3', 'dsa-with-SHA1'],
  ['2.16.840.1.101.3.4.3.2', 'dsa-with-SHA256'],
  ['1.2.840.10045.4.1', 'ecdsa-with-SHA1'],
  ['1.2.840.10045.4.3.1', 'ecdsa-with-SHA224'],
  ['1.3.101.113', 'Ed448'],
]);

const HASHES = new Map([
  ['2.16.840.1.101.3.4.2.1', 'SHA256'],
  ['2.16.840.1.101.3.4.2.2', 'SHA384'],
  ['2.16.840.1.101.3.4.2.3', 'SHA512'],
]);

const strongNames = new Set([
  ...STRONG.values(),
  ...[...HASHES.values()].map((hash) => `RSASSA-PSS-${hash}`),
]);

/**
 * Reads an AlgorithmIdentifier (RFC 5280 §4.1.1.2).
 * @returns its name, or its object identifier in dots where we know none
 */
export function readSignatureAlgorithm(parent: Cursor): string {
  const identifier = parent.enter(SEQUENCE);
  const oid = identifier.oid();
  if (oid === RSA_PSS) return `RSASSA-PSS-${readPssHash(identifier)}`;
  return STRONG.get(oid) ?? WEAK.get(oid) ?? oid;
}

/** RFC 4055 §3.1: the hash is [0], SHA-1 where left out. Whether all parameters agree, OpenSSL sees as it verifies. */
function readPssHash(identifier: Cursor): string {
  const parameters = identifier.enter(SEQUENCE);
  if (parameters.peek() !== 0xa0) return 'SHA1';
  const oid = parameters.enter(0xa0).enter(SEQUENCE).oid();
  return HASHES.get(oid) ?? oid;
}

/** True for SHA-2 with RSA or ECDSA, and Ed25519; MD5, SHA-1, SHA-224, DSA and what we do not know are none. */
export function isStrongSignature(algorithm: string): boolean {
  return strongNames.has(algorithm);
}

/**
 * Verifies a signature by one of the strong algorithms; false for any other, and for a key of another kind.
 * @param algorithm as `readSignatureAlgorithm` names it
 */
export function verifySignature(
  algorithm: string,
  data: Uint8Array,
  key: KeyObject,
  signature: Uint8Array,
): boolean {
  const hash = /SHA(?:256|384|512)/i.exec(algorithm)?.[0]?.toLowerCase() ?? null;
  if (!isStrongSignature(algorithm) || !keyKinds(algorithm).includes(key.asymmetricKeyType ?? ''))
    return false;
  if (!algorithm.startsWith('RSASSA-PSS')) return verify(hash, data, key, signature);
  const padding = constants.RSA_PKCS1_PSS_PADDING;
  return verify(hash, data, { key, padding, saltLength: constants.RSA_PSS_SALTLEN_AUTO }, signature);
}

function keyKinds(algorithm: string): readonly string[] {
  if (algorithm === 'Ed25519') return ['ed25519'];
  if (algorithm.startsWith('ecdsa')) return ['ec'];
  return algorithm.startsWith('RSASSA-PSS') ? ['rsa', 'rsa-pss'] : ['rsa'];
}

/** Longer ones take long to verify, and nobody has them; Go's limit. */
const MAX_RSA_BITS = 8_192;
const MIN_RSA_BITS = 2_048;
/** A public exponent beyond this makes a signature's check slow; Go's limit as well. */
const MAX_RSA_EXPONENT = 0x7fff_ffffn;
/** With 1, a signature is what it signs. */
const MIN_RSA_EXPONENT = 3n;
/** P-256, P-384 and P-521, as OpenSSL calls them. */
const CURVES = new Set(['prime256v1', 'secp384r1', 'secp521r1']);

/**
 * Judges a public key: RSA of 2048 to 8192 bits, the curves P-256, P-384 and P-521, Ed25519.
 * @returns null where it is strong enough, else what it is: `RSA of 1024 bits`
 */
export function weakness(key: KeyObject): string | null {
  const { modulusLength = 0, publicExponent = 0n, namedCurve = '' } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case 'rsa':
    case 'rsa-pss':
      if (modulusLength < MIN_RSA_BITS || modulusLength > MAX_RSA_BITS) return `RSA of ${modulusLength} bits`;
      return publicExponent < MIN_RSA_EXPONENT || publicExponent > MAX_RSA_EXPONENT
        ? `RSA with the public exponent ${publicExponent.toString().slice(0, 32)}`
        : null;
    case 'ec':
      if (!CURVES.has(namedCurve)) return `of the curve ${namedCurve || 'without a name'}`;
      return namesItsCurve(key) ? null : 'of a curve that it spells out, or no point of it';
    case 'ed25519':
      return null;
    default:
      return `of the kind ${key.asymmetricKeyType ?? 'unknown'}`;
  }
}

/**
 * RFC 5480 §2.1.1: the parameters are the curve's name; spelled out "MUST NOT be used in PKIX", for they may hold
 * another generator, for which whoever chose it knows the key (CVE-2020-0601). OpenSSL calls such a key by its curve.
 */
function namesItsCurve(key: KeyObject): boolean {
  let spki: Buffer;
  try {
    spki = key.export({ type: 'spki', format: 'der' });
  } catch {
    // A point that is none, such as the one at infinity, is read by OpenSSL and not written again.
    return false;
  }
  const algorithm = new Cursor(spki).enter(SEQUENCE).enter(SEQUENCE);
  algorithm.oid();
  return algorithm.peek() === OID;
}
