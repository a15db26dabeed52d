/** Makes a workload's private key and the certificate request that goes with it, in memory. */
import type { Identity } from '../mesh/identity.ts';
import { algorithmOf, type KeyType, newKeys, privateKeyPem } from './keys.ts';
import { loadX509 } from './x509.ts';

export interface CertificateRequest {
  /** PKCS#10, PEM. */
  readonly csrPem: string;
  /** PKCS#8, PEM. Never logged, never written. */
  readonly keyPem: string;
}

/**
 * A fresh key and a request signed by it, with an empty subject and the SPIFFE ID as its only name (what Istio's
 * agent sends; the CA may heed its token alone).
 */
export async function makeRequest(
  identity: Identity,
  keyType: KeyType = 'EC-P256',
): Promise<CertificateRequest> {
  const { Pkcs10CertificateRequestGenerator, SubjectAlternativeNameExtension } = await loadX509();
  const keys = await newKeys(keyType);
  const csr = await Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm: algorithmOf(keyType),
    extensions: [new SubjectAlternativeNameExtension([{ type: 'url', value: identity.uri }], true)],
  });
  return { csrPem: `${csr.toString('pem')}\n`, keyPem: await privateKeyPem(keys) };
}
