/** Holds a certificate's names against the name constraints of a CA above it (RFC 5280 §4.2.1.10). */
import { DIRECTORY_NAME, type NameConstraints, RFC822_NAME, URI_NAME } from './certificate-extensions.ts';
import type { CertificateFacts } from './certificates.ts';

/** A URI with a host: what the constraint is on. A host as SPIFFE has it; no user, no port. */
const HOST = /^[a-z][a-z0-9+.-]*:\/\/([a-z0-9._-]+)(?:[/?#]|$)/i;
const EMPTY_NAME_BYTES = 2;

/**
 * URIs are judged, for SPIFFE IDs are URIs and X509-SVID §4.2 gives no meaning to the others. Where a CA constrains
 * a name of another kind that this certificate has, it is refused: "the application MUST either process the
 * constraint or reject the certificate."
 * @returns null where all names lie within, else the one that does not
 */
export function nameOutside(facts: CertificateFacts, constraints: NameConstraints): string | null {
  const { permittedUris, excludedUris, otherKinds } = constraints;
  const named = facts.subject.length > EMPTY_NAME_BYTES;
  for (const kind of otherKinds) {
    const inSubject = named && (kind === DIRECTORY_NAME || kind === RFC822_NAME);
    if (inSubject || facts.nameKinds.includes(kind))
      return 'a name of a kind whose constraints we do not judge';
  }
  if (permittedUris === null && excludedUris.length === 0) return null;
  if (!facts.nameKinds.includes(URI_NAME)) return null;
  for (const uri of facts.uris) {
    const host = HOST.exec(uri)?.[1]?.toLowerCase();
    const inside =
      host !== undefined &&
      (permittedUris === null || permittedUris.some((base) => covers(base, host))) &&
      !excludedUris.some((base) => covers(base, host));
    if (!inside) return uri.slice(0, 256);
  }
  return null;
}

/** "When the constraint begins with a period, it MAY be expanded with one or more labels"; else it is that host alone. */
function covers(base: string, host: string): boolean {
  const wanted = base.toLowerCase();
  return wanted.startsWith('.') ? host.length > wanted.length && host.endsWith(wanted) : host === wanted;
}
