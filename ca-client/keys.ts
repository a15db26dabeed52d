/** ECDSA P-256 keys: made, written as PEM, read back. */
import { createPrivateKey, webcrypto } from 'node:crypto';
import { CredentialsError } from './source.ts';

/** The one kind of key we make, and the hash we sign with. */
export const EC_P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** A fresh pair whose private key can be written. */
export function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(EC_P256, true, ['sign', 'verify']);
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
