/** Makes a workload's private key and the certificate request that goes with it, in memory. */
import { webcrypto } from 'node:crypto';
import type { Identity } from '../mesh/identity.ts';
import { loadX509 } from './x509.ts';

export interface CertificateRequest {
  /** PKCS#10, PEM. */
  readonly csrPem: string;
  /** PKCS#8, PEM. Never logged, never written. */
  readonly keyPem: string;
}

/**
 * A fresh ECDSA P-256 key and a request signed by it, with an empty subject and the SPIFFE ID as its only name
 * (what Istio's agent sends; the CA may heed its token alone).
 */
export async function makeRequest(identity: Identity): Promise<CertificateRequest> {
  const { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } = await loadX509();
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const csr = await Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm: algorithm,
    extensions: [new SubjectAlternativeNameExtension([{ type: 'url', value: identity.uri }], true)],
  });
  return { csrPem: `${csr.toString('pem')}\n`, keyPem: await privateKeyPem(keys.privateKey) };
}

/** PKCS#8 PEM of an extractable key. */
export async function privateKeyPem(key: webcrypto.CryptoKey): Promise<string> {
  const base64 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key)).toString('base64');
  const lines = base64.match(/.{1,64}/g) ?? [];
  return `-----BEGIN PRIVATE KEY-----\n${lines.join('\n')}\n-----END PRIVATE KEY-----\n`;
}
