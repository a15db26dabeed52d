/** What both sides of mesh mTLS are made of: credentials, trust and TLS policy, and the OpenSSL options they come to. */
import { constants, X509Certificate } from 'node:crypto';
import { DEFAULT_CIPHERS, type SecureContextOptions, type TLSSocket } from 'node:tls';
import type { Credentials } from '../mesh/credentials.ts';
import type { Limits } from '../mesh/limits.ts';
import type { MeshSettings, MeshTlsPolicy } from '../mesh/snapshot.ts';
import type { Direction } from './connections.ts';
import { Shunned } from './shunned.ts';
import type { PeerRole, Trust } from './trust.ts';
import { PeerCache } from './verify-peer.ts';

/** All that a change of makes TLS contexts anew, and with them the end of every session made before. */
export interface MeshTlsParts {
  readonly credentials: Credentials;
  readonly trust: Trust;
  /** Who was verified under this trust: kept while it stays, empty with another. */
  readonly verified: Readonly<Record<PeerRole, PeerCache>>;
  readonly policy: MeshTlsPolicy;
  readonly limits: Limits;
  /** Counted up with each handshake. */
  readonly counts: Record<Direction, HandshakeCounts>;
  /** Inbound: by callers' networks. Outbound: by servers' `host:port`. Whatever we trust, they stay. */
  readonly shunned: Readonly<Record<Direction, Shunned>>;
}

/** By what came of them; `resumed` are no part of `full`. */
export interface HandshakeCounts {
  full: number;
  resumed: number;
  failed: number;
}

export function count(counts: HandshakeCounts, stream: TLSSocket, passed: boolean): void {
  if (!passed) counts.failed++;
  else if (stream.isSessionReused()) counts.resumed++;
  else counts.full++;
}

/** For a trust that is new. */
export function nobodyVerified({ resumableSessions }: Limits): Record<PeerRole, PeerCache> {
  return { client: new PeerCache(resumableSessions), server: new PeerCache(resumableSessions) };
}

export function nobodyShunned(): Record<Direction, Shunned> {
  return { inbound: new Shunned(), outbound: new Shunned() };
}

/** For handshakes that nobody counts. */
export function uncounted(): Record<Direction, HandshakeCounts> {
  return { inbound: { full: 0, resumed: 0, failed: 0 }, outbound: { full: 0, resumed: 0, failed: 0 } };
}

/** Hybrid post-quantum first (draft-ietf-tls-ecdhe-mlkem), then what every Envoy speaks. */
const KEY_EXCHANGE_GROUPS = 'X25519MLKEM768:X25519:P-256:P-384';

/**
 * AES-128 first, as BoringSSL and Go have it: it is as strong as the curves beside it, and SHA-256 of its key schedule
 * has instructions of its own where SHA-384 has none: a twentieth of a handshake's CPU.
 */
const TLS13_SUITES = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'];
const DEFAULT_SUITES = {
  'TLSv1.3': TLS13_SUITES,
  'TLSv1.2': [...TLS13_SUITES, ...DEFAULT_CIPHERS.split(':').filter((name) => !name.startsWith('TLS_'))],
};

const defaultTlsPolicy: MeshTlsPolicy = { minVersion: 'TLSv1.3', cipherSuites: [], ecdhCurves: [] };

/** What mesh config asks for; null: there is none yet. */
export function tlsPolicyOf(mesh: Pick<MeshSettings, 'meshTls'> | null): MeshTlsPolicy {
  return mesh?.meshTls ?? defaultTlsPolicy;
}

/** Of either side. OpenSSL verifies by all roots; which of them may vouch for whom is `Trust`'s affair. */
export function contextOptions({
  credentials,
  trust,
  policy,
}: Pick<MeshTlsParts, 'credentials' | 'trust' | 'policy'>): SecureContextOptions {
  const { minVersion, cipherSuites, ecdhCurves } = policy;
  return {
    cert: sentChain(credentials),
    key: credentials.keyPem,
    ca: [...trust.rootsPem],
    // A bundle may hold an intermediate without its root (X509-SVID §6.1): what it lists is where trust ends.
    allowPartialTrustChain: true,
    minVersion,
    ecdhCurve: ecdhCurves.length === 0 ? KEY_EXCHANGE_GROUPS : ecdhCurves.join(':'),
    ciphers: (cipherSuites.length === 0 ? DEFAULT_SUITES[minVersion] : cipherSuites).join(':'),
    // Of TLS 1.2: nobody in a mesh needs it, and each asks for a handshake's work on an open connection.
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
  };
}

/**
 * Where a certificate comes alone, OpenSSL completes the chain it sends by itself: it verifies our own certificate anew
 * in every handshake (ssl_add_cert_chain), a tenth of a handshake's CPU, and sends the root all the same. A chain that
 * has its root is sent as it is.
 */
function sentChain({ chainPem, rootsPem }: Credentials): string {
  if (chainPem.split('-----BEGIN ').length !== 2) return chainPem;
  const leaf = new X509Certificate(chainPem);
  const issuer = rootsPem.find((pem) => {
    const root = new X509Certificate(pem);
    return leaf.checkIssued(root) && leaf.verify(root.publicKey);
  });
  return issuer === undefined ? chainPem : `${chainPem.trimEnd()}\n${issuer}`;
}
