/** Mesh mTLS of the outbound side: secure naming and resumption. */
import type { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import {
  connect,
  createSecureContext,
  type DetailedPeerCertificate,
  type PeerCertificate,
  type SecureContext,
  type TLSSocket,
} from 'node:tls';
import type { Credentials } from '../mesh/credentials.ts';
import { dearness, MAX_FLIGHT } from './dear-chain.ts';
import { contextOptions, count, type HandshakeCounts, type MeshTlsParts } from './mesh-tls.ts';
import {
  type AskedTls,
  type OriginateDone,
  OutboundHandshake,
  reasonOfFailure,
} from './outbound-handshake.ts';
import { type Shunned, seconds } from './shunned.ts';
import type { Trust } from './trust.ts';
import {
  chainRefused,
  describeTlsError,
  judged,
  type PeerCache,
  type PeerVerdict,
  readPeer,
  type VerifiedPeer,
  verifyServerIdentity,
} from './verify-peer.ts';

/** What is spoken to an upstream: it decides the ALPNs offered, and who may share a connection. */
export type UpstreamProtocol = 'tcp' | 'http1' | 'http2';

/**
 * Istio's ALPNs of a client sidecar, by what goes through (pilot's `mtlsHTTP11ALPN`, `mtlsHTTP2ALPN`, `ALPNInMesh`);
 * the second of HTTP tells old peers that this is mesh mTLS.
 */
export const MESH_ALPN = {
  http1: ['istio-http/1.1', 'istio', 'http/1.1'],
  http2: ['istio-h2', 'istio', 'h2'],
  tcp: ['istio'],
  hbone: ['h2'],
} as const;

interface Resumable {
  readonly session: Buffer;
  /** Who the session was made with: a resumed handshake shows no certificate to the client. */
  readonly peer: VerifiedPeer;
}

/** A server's list of the CAs it takes is as long as its bundle. */
const MAX_SERVER_FLIGHT = 2 * MAX_FLIGHT;

/** One outbound mesh connection. */
class Handshake extends OutboundHandshake {
  readonly owner: OutboundTls;
  /** `host:port` */
  readonly address: string;
  readonly key: string;
  readonly resumed: Resumable | null;
  readonly #socket: Socket;
  /** Of its bytes, those that were read before. */
  readonly #readBefore: number;
  #peer: VerifiedPeer | null = null;

  constructor(
    owner: OutboundTls,
    asked: { tls: AskedTls; alpn: readonly string[]; address: string },
    socket: Socket,
    done: OriginateDone,
  ) {
    const { tls, address } = asked;
    super({ ...asked, shown: owner.credentials.chainPem }, owner.counts, done);
    this.owner = owner;
    this.address = address;
    this.key = `${address} ${tls.sni ?? ''} ${tls.expectedIdentities.join(' ')}`;
    this.resumed = owner.sessions.get(this.key) ?? null;
    this.#socket = socket;
    this.#readBefore = socket.bytesRead;
  }

  protected secured(stream: TLSSocket): boolean {
    const verdict = judged(() => this.owner.judge(this, stream));
    count(this.counts, stream, verdict.ok);
    if (verdict.ok) this.#peer = verdict.peer;
    else this.owner.sessions.delete(this.key);
    // Not from inside OpenSSL: see InboundTls.
    setImmediate(() => {
      if (verdict.ok) {
        this.owner.shunned.trust(this.address);
        this.done.originated(stream, verdict.peer, null);
        return;
      }
      const leaf = stream.authorized ? null : (stream.getPeerX509Certificate() ?? null);
      this.done.refused(verdict.reason, this.#blame(verdict.detail, leaf, 0), this.factsOf(stream));
    });
    return verdict.ok;
  }

  /** Shuns a server that made us work for nothing. @returns the detail of its refusal, with that */
  #blame(detail: string, leaf: X509Certificate | null, bytes: number): string {
    const dear = bytes > MAX_SERVER_FLIGHT ? `${bytes} bytes` : leaf && dearness(leaf);
    const ms = dear === null ? 0 : this.owner.shunned.shun(this.address);
    return ms === 0 ? detail : `${detail}; ${dear}: shunned for ${seconds(ms)}`;
  }

  protected override broke(): void {
    this.owner.sessions.delete(this.key);
  }

  protected failed(error: NodeJS.ErrnoException, detail: string, stream: TLSSocket): void {
    const bytes = this.#socket.bytesRead - this.#readBefore;
    const blame = this.#blame(detail, stream.getPeerX509Certificate() ?? null, bytes);
    this.done.refused(reasonOfFailure(error), blame, this.facts(describeTlsError(error), []));
  }

  /** Before it began. */
  refuse(detail: string): void {
    this.settled = true;
    this.done.refused('shunned', detail, this.facts(null, []));
  }

  protected override get chain(): readonly Buffer[] {
    return this.#peer?.chain ?? [];
  }

  /** Only a verified peer's is kept. */
  protected override ticket(session: Buffer): void {
    if (this.#peer !== null) this.owner.keep(this.key, { session, peer: this.#peer });
  }
}

/** Mesh mTLS under one set of credentials. Its sessions die with it. */
export class OutboundTls {
  readonly credentials: Credentials;
  /** Resumable sessions by address and expected identities. */
  readonly sessions = new Map<string, Resumable>();
  readonly #context: SecureContext;
  /** Leaves whose chain was verified under this trust. */
  readonly #verified: PeerCache;
  readonly #trust: Trust;
  readonly counts: HandshakeCounts;
  readonly shunned: Shunned;
  readonly #maxSessions: number;

  /** @throws where OpenSSL cannot use the credentials or the policy */
  constructor(parts: MeshTlsParts) {
    const { credentials, trust, limits } = parts;
    this.credentials = credentials;
    this.#trust = trust;
    this.counts = parts.counts.outbound;
    this.shunned = parts.shunned.outbound;
    this.#verified = parts.verified.server;
    this.#maxSessions = limits.resumableSessions;
    this.#context = createSecureContext(contextOptions(parts));
  }

  /**
   * Speaks ISTIO_MUTUAL on a connected socket: our SVID, Istio's SNI and ALPN, secure naming on the answer.
   * @param address the peer's `host:port`, part of the session cache's key
   */
  originate(
    socket: Socket,
    target: { tls: AskedTls; protocol: UpstreamProtocol | 'hbone'; address: string },
    done: OriginateDone,
  ): void {
    const { tls, protocol, address } = target;
    const alpn = MESH_ALPN[protocol];
    const handshake = new Handshake(this, { tls, alpn, address }, socket, done);
    const shunned = this.shunned.left(address);
    if (shunned > 0) {
      handshake.refuse(`for another ${seconds(shunned)}`);
      return;
    }
    const stream = connect({
      socket,
      secureContext: this.#context,
      ...(tls.sni === null ? {} : { servername: tls.sni }),
      ALPNProtocols: [...alpn],
      // Names are judged from the certificate's own bytes, resumed or not, in `judge`.
      checkServerIdentity: () => undefined,
      // We judge the chain's verdict in `judge`, so that a refusal can name whom it refuses.
      rejectUnauthorized: false,
      ...(handshake.resumed === null ? {} : { session: handshake.resumed.session }),
    });
    stream.getPeerCertificate = noCertificate;
    handshake.listen(stream);
  }

  keep(key: string, resumable: Resumable): void {
    this.sessions.delete(key);
    if (this.sessions.size >= this.#maxSessions) {
      const oldest = this.sessions.keys().next().value;
      if (oldest !== undefined) this.sessions.delete(oldest);
    }
    this.sessions.set(key, resumable);
  }

  /** Chain, validity, exactly one SPIFFE URI, secure naming; on resumed sessions as on new ones. */
  judge(handshake: Handshake, stream: TLSSocket): PeerVerdict {
    const now = Date.now();
    let peer: VerifiedPeer;
    if (stream.isSessionReused()) {
      // OpenSSL skips the chain and Node the names on resumption: judge the peer the session was made with.
      if (handshake.resumed === null) return { ok: false, reason: 'resumption_refused', detail: '' };
      peer = handshake.resumed.peer;
      if (now > peer.notAfter) return { ok: false, reason: 'expired', detail: peer.identity.uri };
    } else {
      const leaf = stream.getPeerX509Certificate();
      if (leaf === undefined) return { ok: false, reason: 'no_peer_certificate', detail: '' };
      if (!stream.authorized)
        return chainRefused(String(stream.authorizationError), leaf, this.#trust, 'server', now);
      const verdict = readPeer(leaf, this.#trust, 'server', this.#verified, now);
      if (!verdict.ok) return verdict;
      peer = verdict.peer;
    }
    return verifyServerIdentity(peer.identity, handshake.tls.expectedIdentities) ?? { ok: true, peer };
  }
}

/** In the place of `getPeerCertificate`: Node would take the peer's chain apart for a check we make ourselves. */
export function noCertificate(): PeerCertificate & DetailedPeerCertificate {
  return {} as PeerCertificate & DetailedPeerCertificate;
}
