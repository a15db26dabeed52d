/** Who is at the other end of a TLS connection: identity read from the certificate itself, and checked, on every handshake. */
import type { X509Certificate } from 'node:crypto';
import { readCertificate } from '../mesh/certificates.ts';
import { type Identity, parseIdentity } from '../mesh/identity.ts';
import type { ReasonCode } from '../mesh/reasons.ts';

/** A peer that passed, or why it did not. */
export type PeerVerdict = { readonly ok: true; readonly peer: VerifiedPeer } | RefusedVerdict;

export interface RefusedVerdict {
  readonly ok: false;
  readonly reason: ReasonCode;
  readonly detail: string;
}

export interface VerifiedPeer {
  readonly identity: Identity;
  /** SHA-256 of the leaf, hex without colons: XFCC's `Hash`. */
  readonly hash: string;
  /** Milliseconds since the epoch; of the whole path to the root. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hex. */
  readonly serial: string;
  /** What it presented, DER, leaf first; none of it is trusted for being here. */
  readonly chain: readonly Buffer[];
}

/** The leaf's facts by fingerprint: certificates repeat for hours, their DER needs reading once. */
export class PeerCache {
  readonly #peers = new Map<string, VerifiedPeer>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  get(fingerprint: string): VerifiedPeer | null {
    return this.#peers.get(fingerprint) ?? null;
  }

  /** Adds or renews an entry; the oldest goes when the cache is full. */
  set(fingerprint: string, peer: VerifiedPeer): void {
    this.#peers.delete(fingerprint);
    if (this.#peers.size >= this.#max) {
      const oldest = this.#peers.keys().next().value;
      if (oldest !== undefined) this.#peers.delete(oldest);
    }
    this.#peers.set(fingerprint, peer);
  }
}

/**
 * Reads the one SPIFFE identity of a leaf certificate and checks its validity now. The chain is OpenSSL's
 * business and must have been verified (now, or when the session being resumed was made).
 * X.509-SVID §2: exactly one URI SAN.
 */
export function readPeer(leaf: X509Certificate, cache: PeerCache, now: number): PeerVerdict {
  const fingerprint = leaf.fingerprint256;
  const known = cache.get(fingerprint);
  if (known !== null) return stillValid(known, now);
  let read: ReturnType<typeof readCertificate>;
  try {
    read = readCertificate(leaf.raw);
  } catch (error) {
    return { ok: false, reason: 'bad_spiffe_id', detail: (error as Error).message };
  }
  // X.509-SVID §4.1: a leaf must not be a CA.
  if (read.ca) return { ok: false, reason: 'bad_spiffe_id', detail: 'a CA certificate used as a leaf' };
  const [uri] = read.uris;
  if (uri === undefined || read.uris.length !== 1) {
    return { ok: false, reason: 'bad_spiffe_id', detail: `${read.uris.length} URI SANs` };
  }
  const identity = parseIdentity(uri);
  if (identity === null)
    return { ok: false, reason: 'bad_spiffe_id', detail: JSON.stringify(uri.slice(0, 256)) };
  const peer: VerifiedPeer = {
    identity,
    hash: fingerprint.replaceAll(':', '').toLowerCase(),
    notBefore: read.notBefore,
    notAfter: read.notAfter,
    serial: read.serial,
    chain: presentedChain(leaf),
  };
  cache.set(fingerprint, peer);
  return stillValid(peer, now);
}

/** Longer chains are refused by OpenSSL's own default depth long after any real mesh's. */
const MAX_CHAIN = 10;

/** The certificates as they were presented, DER, leaf first. */
function presentedChain(leaf: X509Certificate): readonly Buffer[] {
  const chain: Buffer[] = [];
  for (let at: X509Certificate | undefined = leaf; at !== undefined && chain.length < MAX_CHAIN; ) {
    chain.push(at.raw);
    at = at.issuerCertificate === at ? undefined : at.issuerCertificate;
  }
  return chain;
}

function stillValid(peer: VerifiedPeer, now: number): PeerVerdict {
  if (now <= peer.notAfter && now >= peer.notBefore) return { ok: true, peer };
  const detail = `${peer.identity.uri} valid ${new Date(peer.notBefore).toISOString()} to ${new Date(peer.notAfter).toISOString()}`;
  return { ok: false, reason: 'expired', detail };
}

/**
 * Secure naming: the server must be one of those the registry expects (docs/RESOURCES.md).
 * @param expected SPIFFE URIs; empty means any of the mesh, as in Istio: of our trust domain or an alias
 * @returns null where it is
 */
export function verifyServerIdentity(
  server: Identity,
  expected: readonly string[],
  trustDomains: readonly string[],
): RefusedVerdict | null {
  if (expected.includes(server.uri)) return null;
  if (expected.length > 0) {
    const detail = `expected ${expected.join(' or ')}, got ${server.uri}`;
    return { ok: false, reason: 'identity_mismatch', detail };
  }
  if (trustDomains.includes(server.trustDomain)) return null;
  return { ok: false, reason: 'untrusted_trust_domain', detail: server.uri };
}

/** OpenSSL refused the chain: its code, and whom the leaf names, which is a claim and no more. */
export function chainRefused(code: string, leaf: PeerVerdict): RefusedVerdict {
  const claimed = leaf.ok ? leaf.peer.identity.uri : leaf.detail;
  const reason = reasonOfTlsError(code);
  return {
    ok: false,
    // A chain that fails for whatever cause is never called a mere handshake failure.
    reason: reason === 'tls_handshake_failed' ? 'untrusted_issuer' : reason,
    detail: `${code} (presented ${claimed})`,
  };
}

/** Node's code, and OpenSSL's own words where it has any; never Node's advice to users of Node. */
export function describeTlsError(error: NodeJS.ErrnoException): string {
  const code = error.code ?? '';
  const reason: unknown = Reflect.get(error, 'reason');
  if (typeof reason === 'string') return `${code} ${reason}`.trim();
  if (code.startsWith('ERR_TLS_CERT')) return error.message;
  return code === '' ? (error.message.split('\n')[0] ?? '') : code;
}

/** OpenSSL's verification codes and Node's error codes → our reasons. */
export function reasonOfTlsError(code: string): ReasonCode {
  switch (code) {
    case 'CERT_HAS_EXPIRED':
    case 'CERT_NOT_YET_VALID':
      return 'expired';
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'CERT_SIGNATURE_FAILURE':
    case 'CERT_UNTRUSTED':
    case 'CERT_REVOKED':
    case 'CRL_HAS_EXPIRED':
    case 'UNABLE_TO_GET_CRL':
    case 'CERT_CHAIN_TOO_LONG':
    case 'INVALID_CA':
    case 'INVALID_PURPOSE':
    case 'PATH_LENGTH_EXCEEDED':
      return 'untrusted_issuer';
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return 'tls_handshake_timeout';
    case 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE':
      return 'no_peer_certificate';
    default:
      return 'tls_handshake_failed';
  }
}
