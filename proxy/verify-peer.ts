/** Who is at the other end of a TLS connection: identity read from the certificate itself, and checked, on every handshake. */
import type { X509Certificate } from 'node:crypto';
import { readCertificate } from '../mesh/certificates.ts';
import type { ChainRoot, TrustedChain } from '../mesh/chain.ts';
import { type Identity, parseIdentity } from '../mesh/identity.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { PeerRole, Trust } from './trust.ts';

/** A peer that passed, or why it did not. */
export type PeerVerdict = { readonly ok: true; readonly peer: VerifiedPeer } | RefusedVerdict;

export interface RefusedVerdict {
  readonly ok: false;
  readonly reason: ReasonCode;
  readonly detail: string;
}

/** A peer whose chain was verified under some trust; shared by all its connections. */
export interface VerifiedPeer {
  readonly identity: Identity;
  /** SHA-256 of the leaf, hex without colons: XFCC's `Hash`. */
  readonly hash: string;
  /** Milliseconds since the epoch; of the whole path to the root. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Hex. */
  readonly serial: string;
  /** Distinguished name of who signed the leaf, on one line. */
  readonly issuer: string;
  /** The root that vouches for it. */
  readonly root: ChainRoot;
  /** What its certificate was verified for, and by which trust (`Trust.epoch`). */
  readonly role: PeerRole;
  readonly epoch: symbol;
  /** What it presented, DER, leaf first; none of it is trusted for being here. */
  readonly chain: readonly Buffer[];
}

/**
 * What a judge says, and a refusal where it throws: it is called from inside a handshake, on bytes of a stranger's
 * choice, and an error there would end the process.
 */
export function judged(judge: () => PeerVerdict): PeerVerdict {
  try {
    return judge();
  } catch (error) {
    const detail = `the certificate cannot be judged: ${(error as Error).message}`;
    return { ok: false, reason: 'bad_certificate', detail };
  }
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
 * Reads the one SPIFFE identity of a leaf certificate (X.509-SVID §2: exactly one URI SAN) and verifies its chain by
 * the bundle of that identity's own trust domain. OpenSSL must have verified it before, now or when the session being
 * resumed was made: it knows all roots, and not which of them may vouch for whom.
 * @param judged what was verified before under the same trust
 */
export function readPeer(
  leaf: X509Certificate,
  trust: Trust,
  role: PeerRole,
  judged: PeerCache,
  now: number,
): PeerVerdict {
  const fingerprint = leaf.fingerprint256;
  const known = judged.get(fingerprint);
  if (known !== null && now <= known.notAfter) {
    judged.set(fingerprint, known);
    return stillValid(known, now);
  }
  // Over may be but the path it came by first: its issuer may have been renewed, and the leaf be good for long.
  const read = readIdentity(leaf.raw);
  if ('reason' in read) return read;
  const { identity, serial } = read;
  const chain = presentedChain(leaf);
  const verdict = verdictBy(trust, { identity, chain, role }, now);
  if (!verdict.ok) return verdict;
  const { notBefore, notAfter, root } = verdict;
  const hash = fingerprint.replaceAll(':', '').toLowerCase();
  const issuer = leaf.issuer.replaceAll('\n', ', ');
  const about = { identity, hash, serial, issuer, notBefore, notAfter, root };
  const peer: VerifiedPeer = { ...about, role, epoch: trust.epoch, chain };
  judged.set(fingerprint, peer);
  return stillValid(peer, now);
}

/** Judges anew, by the trust now in force, who was verified under another. Null: it still passes. */
export function judgeAgain(peer: VerifiedPeer, trust: Trust, now: number): RefusedVerdict | null {
  if (peer.epoch === trust.epoch) return null;
  const verdict = verdictBy(trust, peer, now);
  return verdict.ok ? null : verdict;
}

function verdictBy(
  trust: Trust,
  { identity, chain, role }: Pick<VerifiedPeer, 'identity' | 'chain' | 'role'>,
  now: number,
): TrustedChain | RefusedVerdict {
  const verdict = trust.verify(chain, identity.trustDomain, role, now);
  if (verdict === null) return { ok: false, reason: 'untrusted_trust_domain', detail: identity.uri };
  return verdict.ok ? verdict : { ...verdict, detail: naming(identity, verdict.detail) };
}

/** A fault of the chain names the certificate it is of, which may not be the leaf. */
function naming({ uri }: Identity, detail: string): string {
  return detail.startsWith(uri) ? detail : `${uri}: ${detail}`;
}

/** Milliseconds since the epoch. */
interface Validity {
  readonly notBefore: number;
  readonly notAfter: number;
}

interface ReadIdentity extends Validity {
  readonly identity: Identity;
  readonly serial: string;
}

function readIdentity(der: Uint8Array): ReadIdentity | RefusedVerdict {
  const bad = (detail: string): RefusedVerdict => ({ ok: false, reason: 'bad_spiffe_id', detail });
  let read: ReturnType<typeof readCertificate>;
  try {
    read = readCertificate(der);
  } catch (error) {
    return bad((error as Error).message);
  }
  // X.509-SVID §4.1: a leaf must not be a CA.
  if (read.ca) return bad('a CA certificate used as a leaf');
  const [uri] = read.uris;
  if (uri === undefined || read.uris.length !== 1) return bad(`${read.uris.length} URI SANs`);
  const identity = parseIdentity(uri);
  return identity === null ? bad(JSON.stringify(uri.slice(0, 256))) : { ...read, identity };
}

/** Longer chains are refused by OpenSSL's own default depth long after any real mesh's. */
export const MAX_CHAIN = 10;

/** The certificates as they were presented, DER, leaf first. */
export function presentedChain(leaf: X509Certificate): readonly Buffer[] {
  const chain: Buffer[] = [];
  for (const { raw } of presented(leaf)) if (chain.push(raw) === MAX_CHAIN) break;
  return chain;
}

/** The leaf and all that was presented behind it, as Node has it of a connection. */
export function* presented(leaf: X509Certificate): Generator<X509Certificate, void> {
  for (let at: X509Certificate | undefined = leaf; at !== undefined; ) {
    yield at;
    at = at.issuerCertificate === at ? undefined : at.issuerCertificate;
  }
}

function stillValid(peer: VerifiedPeer, now: number): PeerVerdict {
  if (now <= peer.notAfter && now >= peer.notBefore) return { ok: true, peer };
  const detail = `${peer.identity.uri} valid ${validityOf(peer)}`;
  return { ok: false, reason: 'expired', detail };
}

/**
 * Secure naming: the server must be one of those the registry expects (docs/RESOURCES.md).
 * @param expected SPIFFE URIs; empty means any that we trust, as in Istio
 * @returns null where it is
 */
export function verifyServerIdentity(server: Identity, expected: readonly string[]): RefusedVerdict | null {
  if (expected.length === 0 || expected.includes(server.uri)) return null;
  const detail = `expected ${expected.join(' or ')}, got ${server.uri}`;
  return { ok: false, reason: 'identity_mismatch', detail };
}

/** OpenSSL refused the chain: its code, and whom the leaf names, which is a claim and no more. */
export function chainRefused(
  code: string,
  leaf: X509Certificate,
  trust: Trust,
  role: PeerRole,
  now: number,
): RefusedVerdict {
  const read = readIdentity(leaf.raw);
  const claimed = 'reason' in read ? read.detail : read.identity.uri;
  const reason = reasonOfTlsError(code);
  // What Node has no word for, such as a key too weak for OpenSSL's security level, our own verdict has one for; and it
  // tells which certificate of the chain is at fault, and by which rule.
  if ((code === UNNAMED || TOLD_BETTER.has(reason)) && !('reason' in read)) {
    const verdict = trust.verify(presentedChain(leaf), read.identity.trustDomain, role, now);
    if (verdict !== null && !verdict.ok && (code === UNNAMED || verdict.reason === reason))
      return { ...verdict, detail: `${code} (presented ${claimed}): ${verdict.detail}` };
  }
  const validity = reason === 'expired' && !('reason' in read) ? ` valid ${validityOf(read)}` : '';
  return {
    ok: false,
    // A chain that fails for whatever cause is never called a mere handshake failure.
    reason: reason === 'tls_handshake_failed' ? 'untrusted_issuer' : reason,
    detail: `${code} (presented ${claimed}${validity})`,
  };
}

/** Where OpenSSL's code leaves open which certificate it speaks of. */
const TOLD_BETTER: ReadonlySet<ReasonCode> = new Set(['expired', 'bad_certificate']);

/** Node's code for OpenSSL's verdicts that it has no name for. */
const UNNAMED = 'UNSPECIFIED';

function validityOf({ notBefore, notAfter }: Validity): string {
  return `${new Date(notBefore).toISOString()} to ${new Date(notAfter).toISOString()}`;
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
      return 'untrusted_issuer';
    case 'CERT_CHAIN_TOO_LONG':
    case 'INVALID_CA':
    case 'INVALID_PURPOSE':
    case 'PATH_LENGTH_EXCEEDED':
    case 'CERT_REJECTED':
      return 'bad_certificate';
    case 'CERT_REVOKED':
      return 'revoked';
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return 'tls_handshake_timeout';
    case 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE':
      return 'no_peer_certificate';
    default:
      return 'tls_handshake_failed';
  }
}
