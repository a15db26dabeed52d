/** Private keys: made, written as PEM, read back. */
import { createPrivateKey, webcrypto } from 'node:crypto';
import { CredentialsError } from './source.ts';

/** What our own CA signs with, and the default for a workload: the kind every peer takes and the cheapest to use. */
export const EC_P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** 65537, the exponent everyone uses. */
const publicExponent = new Uint8Array([1, 0, 1]);
const RSA = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', publicExponent } as const;

/** The kinds of key a workload may ask for, each with the hash its request is signed by. */
const algorithms = {
  'EC-P256': EC_P256,
  'EC-P384': { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' },
  'RSA-2048': { ...RSA, modulusLength: 2048 },
  'RSA-4096': { ...RSA, modulusLength: 4096 },
} as const;

export type KeyType = keyof typeof algorithms;
export const KEY_TYPES = Object.keys(algorithms) as readonly KeyType[];

/** How a key of that kind is made and signs, for WebCrypto. */
export function algorithmOf(type: KeyType): (typeof algorithms)[KeyType] {
  return algorithms[type];
}

/** A fresh pair whose private key can be written. */
export function newKeys(type: KeyType = 'EC-P256'): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(algorithms[type], true, ['sign', 'verify']);
}

/** PKCS#8 PEM of a private key made by `newKeys`. */
export async function privateKeyPem({ privateKey }: webcrypto.CryptoKeyPair): Promise<string> {
  const base64 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', privateKey)).toString('base64');
  const lines = base64.match(/.{1,64}/g) ?? [];
  return `-----BEGIN PRIVATE KEY-----\n${lines.join('\n')}\n-----END PRIVATE KEY-----\n`;
}

/**
 * Reads a private key and works out its public one.
 * @param file names it in the error.
 * @throws CredentialsError where the text is no unencrypted P-256 key; it never quotes the text.
 */
export async function readKeys(pem: string, file: string): Promise<webcrypto.CryptoKeyPair> {
  try {
    const jwk = createPrivateKey(pem).export({ format: 'jwk' });
    const { d: _secret, ...publicJwk } = jwk;
    return {
      privateKey: await webcrypto.subtle.importKey('jwk', jwk, EC_P256, false, ['sign']),
      publicKey: await webcrypto.subtle.importKey('jwk', publicJwk, EC_P256, true, ['verify']),
    };
  } catch {
    throw new CredentialsError(`${file} does not hold an unencrypted EC P-256 private key in PEM`);
  }
}
