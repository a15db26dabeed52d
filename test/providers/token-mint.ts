/** Keys and tokens for the tests, signed by node:crypto and written by hand, so that wrong ones can be made too. */
import { createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';

export type Part = Readonly<Record<string, unknown>> | string;

/** A key that signs, and what a key set says of it. */
export interface TestKey {
  readonly sign: (alg: string, data: Buffer) => Buffer;
  readonly jwk: Readonly<Record<string, unknown>>;
}

function asymmetric(pair: { publicKey: KeyObject; privateKey: KeyObject }): TestKey {
  return {
    jwk: { ...pair.publicKey.export({ format: 'jwk' }) },
    sign: (alg, data) => {
      const hash = alg === 'EdDSA' ? null : `sha${alg.slice(2)}`;
      return sign(hash, data, {
        key: pair.privateKey,
        dsaEncoding: 'ieee-p1363',
        ...(alg.startsWith('PS') ? { padding: 6, saltLength: Number(alg.slice(2)) / 8 } : {}),
      });
    },
  };
}

export function rsaKey(bits = 2048): TestKey {
  return asymmetric(generateKeyPairSync('rsa', { modulusLength: bits }));
}

export function ecKey(curve = 'P-256'): TestKey {
  return asymmetric(generateKeyPairSync('ec', { namedCurve: curve }));
}

export function edKey(): TestKey {
  return asymmetric(generateKeyPairSync('ed25519'));
}

/** HMAC with any bytes: an `oct` key, or an attacker who takes a public key for one. */
export function secretKey(secret: Buffer): TestKey {
  return {
    jwk: { kty: 'oct', k: secret.toString('base64url') },
    sign: (alg, data) =>
      createHmac(`sha${alg.slice(2)}`, secret)
        .update(data)
        .digest(),
  };
}

export function keySet(...keys: readonly Readonly<Record<string, unknown>>[]): string {
  return JSON.stringify({ keys });
}

function encode(part: Part): string {
  return Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url');
}

/** A token: `header` and `payload` as objects, or as the very text to be encoded. */
export function token(
  key: TestKey,
  header: Part & { alg?: string },
  payload: Part,
  alg = header.alg,
): string {
  const signed = `${encode(header)}.${encode(payload)}`;
  return `${signed}.${key.sign(alg ?? 'RS256', Buffer.from(signed)).toString('base64url')}`;
}
