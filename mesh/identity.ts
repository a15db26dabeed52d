/** What a SPIFFE identity is, and the one place where its text is taken apart. */

/** A verified or configured SPIFFE identity. `namespace` and `serviceAccount` are null where the path is not Istio's. */
export interface Identity {
  /** `spiffe://td/ns/x/sa/y` */
  readonly uri: string;
  /** The same without its scheme, as policies write it: `td/ns/x/sa/y` */
  readonly principal: string;
  readonly trustDomain: string;
  readonly namespace: string | null;
  readonly serviceAccount: string | null;
}

const SCHEME = 'spiffe://';
/** SPIFFE-ID §2.3: a SPIFFE ID is at most 2048 bytes. */
const MAX_URI_BYTES = 2048;
const TRUST_DOMAIN = /^[a-z0-9._-]{1,255}$/;
const SEGMENT = /^[A-Za-z0-9._-]+$/;

/**
 * Parses a SPIFFE URI by the SPIFFE-ID standard §2: lower-case scheme and trust domain, no port, user,
 * query or fragment, path segments of letters, digits, dot, dash, underscore, none empty, `.` or `..`.
 * @returns null for anything else; nothing is repaired.
 */
export function parseIdentity(uri: string): Identity | null {
  if (uri.length > MAX_URI_BYTES || !uri.startsWith(SCHEME)) return null;
  const principal = uri.slice(SCHEME.length);
  const segments = principal.split('/');
  const trustDomain = segments[0] ?? '';
  if (!TRUST_DOMAIN.test(trustDomain) || segments.length < 2) return null;
  for (let i = 1; i < segments.length; i++) {
    const segment = segments[i] ?? '';
    if (!SEGMENT.test(segment) || segment === '.' || segment === '..') return null;
  }
  const istio = segments.length === 5 && segments[1] === 'ns' && segments[3] === 'sa';
  return {
    uri,
    principal,
    trustDomain,
    namespace: istio ? (segments[2] ?? null) : null,
    serviceAccount: istio ? (segments[4] ?? null) : null,
  };
}

/** Builds Istio's identity of a service account: `spiffe://<trustDomain>/ns/<namespace>/sa/<serviceAccount>`. */
export function identityOf(trustDomain: string, namespace: string, serviceAccount: string): Identity {
  const principal = `${trustDomain}/ns/${namespace}/sa/${serviceAccount}`;
  return { uri: SCHEME + principal, principal, trustDomain, namespace, serviceAccount };
}
