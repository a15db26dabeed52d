/** A JSON Web Key Set (RFC 7517): read once, and signatures verified with its keys by `jose`. */
import { createPublicKey, createSecretKey, type KeyObject, type webcrypto } from 'node:crypto';
import { isObject } from '../mesh/schema.ts';
import type { Jwt, TokenFault } from './jwt.ts';

interface VerifyKey {
  /** Empty: fits every token. */
  readonly kid: string;
  /** The one algorithm it says it is for; empty: it does not say. */
  readonly alg: string;
  /** The algorithms its type can verify. */
  readonly algorithms: readonly string[];
  readonly isEd25519: boolean;
  readonly key: KeyObject;
}

/** Keys at least one of which is of use. A set that is replaced is another object. */
export interface KeySet {
  /** The text it was read from. */
  readonly text: string;
  readonly keys: readonly VerifyKey[];
}

/** A token without `kid` is tried with every key: more of them would be an amplifier. */
const MAX_KEYS = 100;

const EC_ALGORITHMS: ReadonlyMap<unknown, readonly string[]> = new Map([
  ['P-256', ['ES256']],
  ['P-384', ['ES384']],
  ['P-521', ['ES512']],
]);
const RSA_ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'];
const SECRET_ALGORITHMS = ['HS256', 'HS384', 'HS512'];

/** Node reads past what is none; such a key would count and verify nothing. */
const BASE64URL = /^[A-Za-z0-9_-]+={0,2}$/;

/**
 * Reads a key set. Keys that are of no use (unknown type, broken, an `alg` that does not fit) are left out.
 * @throws Error where it is no key set, or none of its keys is of use.
 */
export function parseKeySet(text: string): KeySet {
  const parsed: unknown = JSON.parse(text);
  // One bare key is a set of one, as Istio's webhook reads it.
  const list = isObject(parsed) && 'kty' in parsed && !('keys' in parsed) ? [parsed] : listOf(parsed);
  if (list.length > MAX_KEYS)
    throw new Error(`the key set has ${list.length} keys; at most ${MAX_KEYS} are taken`);
  const keys = list.flatMap((jwk) => verifyKey(jwk) ?? []);
  if (keys.length === 0) throw new Error('the key set has no usable key');
  return { text, keys };
}

function listOf(parsed: unknown): readonly unknown[] {
  if (isObject(parsed) && Array.isArray(parsed.keys)) return parsed.keys;
  throw new Error('no key set: an object with a list `keys` is needed');
}

function verifyKey(jwk: unknown): VerifyKey | null {
  if (!isObject(jwk)) return null;
  const algorithms = algorithmsOf(jwk);
  const alg = typeof jwk.alg === 'string' ? jwk.alg : '';
  if (algorithms.length === 0 || (alg !== '' && !algorithms.includes(alg))) return null;
  try {
    // Only what makes the key: Envoy reads neither `use` nor `key_ops`.
    const { kty, n, e, crv, x, y, k } = jwk as webcrypto.JsonWebKey;
    if (![n, e, x, y, k].every((part) => part === undefined || BASE64URL.test(part))) return null;
    const key =
      kty === 'oct'
        ? createSecretKey(Buffer.from(k ?? '', 'base64url'))
        : createPublicKey({ key: definedOnly({ kty, n, e, crv, x, y }), format: 'jwk' });
    const kid = typeof jwk.kid === 'string' ? jwk.kid : '';
    return { kid, alg, algorithms, isEd25519: kty === 'OKP', key };
  } catch {
    return null;
  }
}

function definedOnly(jwk: Readonly<Record<string, unknown>>): webcrypto.JsonWebKey {
  return Object.fromEntries(Object.entries(jwk).filter(([, value]) => value !== undefined));
}

/** What a key can verify goes by its type alone: an RSA key is never taken for a secret. */
function algorithmsOf(jwk: Readonly<Record<string, unknown>>): readonly string[] {
  if (jwk.kty === 'RSA') return RSA_ALGORITHMS;
  if (jwk.kty === 'EC') return EC_ALGORITHMS.get(jwk.crv) ?? [];
  if (jwk.kty === 'OKP') return jwk.crv === 'Ed25519' ? ['EdDSA'] : [];
  return jwk.kty === 'oct' && typeof jwk.k === 'string' && jwk.k !== '' ? SECRET_ALGORITHMS : [];
}

const ED25519_SIGNATURE_BYTES = 64;

/**
 * Verifies a token's signature: "If kid is specified in JWT, JWK with the same kid is used for verification. If
 * kid is not specified in JWT, try all JWK." A key without `kid` is tried in any case.
 * @returns null where a key verifies it. Never rejects.
 */
export async function signatureFault(jwt: Jwt, set: KeySet): Promise<TokenFault | null> {
  const { compactVerify } = await import('jose');
  let fault: TokenFault = 'noKeyMatches';
  for (const { kid, alg, algorithms, isEd25519, key } of set.keys) {
    if (jwt.kid !== '' && kid !== '' && kid !== jwt.kid) continue;
    if (alg !== '' && alg !== jwt.alg) continue;
    fault = 'badSignature';
    // Envoy ends here whatever the token's alg, so a set that mixes key types needs a `kid` in its tokens.
    if (isEd25519 && jwt.signatureBytes !== ED25519_SIGNATURE_BYTES) return 'edSignatureLength';
    if (!algorithms.includes(jwt.alg)) continue;
    try {
      await compactVerify(jwt.token, key, { algorithms: [jwt.alg] });
      return null;
    } catch {
      // The next key may fit.
    }
  }
  return fault;
}
