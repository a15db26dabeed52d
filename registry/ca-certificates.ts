/** MeshConfig's `caCertificates`: more roots, and whom they vouch for. */
import type { X509Certificate } from 'node:crypto';
import { openCertificate } from '../mesh/path-rules.ts';
import type { FieldPath } from '../mesh/resource.ts';
import { type Decoder, listOf, notHonoured, object, type Reporter, string } from '../mesh/schema.ts';
import type { CaCertificates } from '../mesh/snapshot.ts';

const PEM_BLOCK = /-----BEGIN ([A-Z0-9 ]+)-----[\s\S]*?-----END \1-----/g;

const pem: Decoder<string> = (value, path, reporter) => {
  const text = string(value, path, reporter);
  if (text === undefined || text === '') return text;
  const fault = faultOf(text);
  if (fault === null) return text;
  reporter.report(path, 'badValue', fault);
  return undefined;
};

/** Istio: verifyTrustAnchor, for each certificate there is. */
function faultOf(text: string): string | null {
  const blocks = [...text.matchAll(PEM_BLOCK)];
  if (blocks.length === 0) return 'must be certificates in PEM: no block was found';
  for (const [i, [block, type]] of blocks.entries()) {
    const place = blocks.length === 1 ? 'it' : `block ${i + 1}`;
    if (type !== 'CERTIFICATE') return `must be certificates in PEM: ${place} is a ${type}`;
    try {
      const { x509: certificate, facts } = openCertificate(block);
      if (!facts.ca) return `must be certificates of CAs: ${place} is none (${oneLine(certificate)})`;
    } catch (error) {
      return `must be certificates in PEM: ${place} cannot be read: ${(error as Error).message}`;
    }
  }
  return null;
}

function oneLine({ subject, serialNumber }: X509Certificate): string {
  return subject === undefined ? `serial ${serialNumber}` : subject.replaceAll('\n', ', ');
}

/** Istio takes one without scheme for https. */
const bundleUrl: Decoder<string> = (value, path, reporter) => {
  const text = string(value, path, reporter);
  if (text === undefined || text === '') return text;
  const url = text.includes('://') ? text : `https://${text}`;
  // SPIFFE Federation §5.2.1.1: "MUST have the scheme set to `https` and MUST NOT include userinfo".
  const parsed = url.startsWith('https://') && URL.canParse(url) ? new URL(url) : null;
  if (parsed !== null && parsed.username === '' && parsed.password === '') return url;
  reporter.report(path, 'badValue', 'must be an https URL without user and password');
  return undefined;
};

/** @param trustDomain one name of `trustDomains` */
export function caCertificates(trustDomain: Decoder<string>): Decoder<readonly CaCertificates[]> {
  const shape = object({
    pem,
    spiffeBundleUrl: bundleUrl,
    trustDomains: listOf(trustDomain),
    certSigners: notHonoured('they are for istiod, which asks Kubernetes to sign'),
  });
  return listOf((value, path, reporter) => {
    const decoded = shape(value, path, reporter);
    if (decoded === undefined) return undefined;
    checkOneOf(value as object, path, reporter);
    return {
      pem: decoded.pem || null,
      spiffeBundleUrl: decoded.spiffeBundleUrl || null,
      trustDomains: decoded.trustDomains ?? [],
    };
  });
}

/** A oneof of the schema: both at once no reader of it would take. */
function checkOneOf(given: object, path: FieldPath, reporter: Reporter): void {
  const sources = ['pem', 'spiffeBundleUrl'].filter((name) => Object.hasOwn(given, name));
  if (sources.length === 2) {
    reporter.report(path, 'badValue', 'pem and spiffeBundleUrl exclude each other: make two entries of them');
  } else if (sources.length === 0) {
    reporter.report(path, 'missing', 'names no root: give pem or spiffeBundleUrl', 'Warning');
  }
}
