/** Makes a workload's private key and the certificate request that goes with it, in memory. */
import type { Identity } from '../mesh/identity.ts';
import { EC_P256, newKeys, privateKeyPem } from './keys.ts';
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
  const keys = await newKeys();
  const csr = await Pkcs10CertificateRequestGenerator.create({
    keys,
    signingAlgorithm: EC_P256,
    extensions: [new SubjectAlternativeNameExtension([{ type: 'url', value: identity.uri }], true)],
  });
  return { csrPem: `${csr.toString('pem')}\n`, keyPem: await privateKeyPem(keys) };
}
