/** TLS of the outbound side: mesh mTLS with secure naming and resumption, and the TLS a DestinationRule asks for. */
import type { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import {
  checkServerIdentity,
  connect,
  createSecureContext,
  type DetailedPeerCertificate,
  type PeerCertificate,
  type SecureContext,
  type SecureContextOptions,
  type TLSSocket,
} from 'node:tls';
import { readCertificate } from '../mesh/certificates.ts';
import type { Credentials } from '../mesh/credentials.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { RouteTls } from '../mesh/route.ts';
import { dearness, MAX_FLIGHT } from './dear-chain.ts';
import { contextOptions, count, type HandshakeCounts, type MeshTlsParts } from './mesh-tls.ts';
import type { HandshakeFacts } from './seen-handshake.ts';
import { type Shunned, seconds } from './shunned.ts';
import type { Trust } from './trust.ts';
import {
  chainRefused,
  describeTlsError,
  judged,
  type PeerCache,
  type PeerVerdict,
  presentedChain,
  readPeer,
  reasonOfTlsError,
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

/** What mesh mTLS asks of a peer. */
export type MeshTls = Pick<RouteTls, 'sni' | 'expectedIdentities'>;
/** Outside the mesh: HTTP/2 is offered alone (pilot's `ALPNH2Only`), since nothing else could be spoken then. */
const EXTERNAL_ALPN = { http1: ['http/1.1'], http2: ['h2'], tcp: null } as const;

export interface OriginateDone {
  /** `peer` is null outside the mesh (SIMPLE, MUTUAL). */
  originated(stream: TLSSocket, peer: VerifiedPeer | null): void;
  /** @param facts null outside the mesh */
  refused(reason: ReasonCode, detail: string, facts: HandshakeFacts | null): void;
}

interface Resumable {
  readonly session: Buffer;
  /** Who the session was made with: a resumed handshake shows no certificate to the client. */
  readonly peer: VerifiedPeer;
}

/** A server's list of the CAs it takes is as long as its bundle. */
const MAX_SERVER_FLIGHT = 2 * MAX_FLIGHT;

/** One outbound TLS connection: the record its listeners work on. */
class Handshake {
  readonly owner: OutboundTls;
  readonly tls: MeshTls;
  readonly alpn: readonly string[];
  /** `host:port` */
  readonly address: string;
  readonly key: string;
  readonly resumed: Resumable | null;
  readonly done: OriginateDone;
  peer: VerifiedPeer | null = null;
  settled = false;

  constructor(
    owner: OutboundTls,
    tls: MeshTls,
    alpn: readonly string[],
    address: string,
    done: OriginateDone,
  ) {
    this.owner = owner;
    this.tls = tls;
    this.alpn = alpn;
    this.address = address;
    this.key = `${address} ${tls.sni ?? ''} ${tls.expectedIdentities.join(' ')}`;
    this.resumed = owner.sessions.get(this.key) ?? null;
    this.done = done;
  }

  secured(stream: TLSSocket): void {
    if (this.settled) return;
    this.settled = true;
    const verdict = judged(() => this.owner.judge(this, stream));
    count(this.owner.counts, stream, verdict.ok);
    if (verdict.ok) this.peer = verdict.peer;
    else this.owner.sessions.delete(this.key);
    // Not from inside OpenSSL: see InboundTls.
    setImmediate(() => {
      if (verdict.ok) {
        this.owner.shunned.trust(this.address);
        this.done.originated(stream, verdict.peer);
        return;
      }
      const leaf = stream.authorized ? null : (stream.getPeerX509Certificate() ?? null);
      this.done.refused(verdict.reason, this.#blame(verdict.detail, leaf, 0), this.#facts(stream));
    });
  }

  /** Shuns a server that made us work for nothing. @returns the detail of its refusal, with that */
  #blame(detail: string, leaf: X509Certificate | null, bytes: number): string {
    const dear = bytes > MAX_SERVER_FLIGHT ? `${bytes} bytes` : leaf && dearness(leaf);
    const ms = dear === null ? 0 : this.owner.shunned.shun(this.address);
    return ms === 0 ? detail : `${detail}; ${dear}: shunned for ${seconds(ms)}`;
  }

  #facts(stream: TLSSocket): HandshakeFacts {
    const leaf = stream.getPeerX509Certificate();
    const refusedByOpenssl = leaf !== undefined && !stream.authorized;
    return {
      openssl: refusedByOpenssl ? String(stream.authorizationError) : null,
      sni: this.tls.sni,
      alpn: this.alpn,
      chain: leaf === undefined ? [] : presentedChain(leaf),
    };
  }

  failed(error: NodeJS.ErrnoException, stream: TLSSocket, bytes: number): void {
    this.owner.sessions.delete(this.key);
    if (this.settled) return;
    this.settled = true;
    this.owner.counts.failed++;
    const openssl = describeTlsError(error);
    const facts = { openssl, sni: this.tls.sni, alpn: this.alpn, chain: [] };
    const detail = this.#blame(openssl, stream.getPeerX509Certificate() ?? null, bytes);
    this.done.refused(reasonOfFailure(error), detail, facts);
  }

  /** Before it began. */
  refuse(detail: string): void {
    this.settled = true;
    const facts = { openssl: null, sni: this.tls.sni, alpn: this.alpn, chain: [] };
    this.done.refused('shunned', detail, facts);
  }

  /** Tickets come after the handshake (RFC 8446 §4.6.1): only a verified peer's is kept. */
  ticket(session: Buffer): void {
    if (this.peer !== null) this.owner.keep(this.key, { session, peer: this.peer });
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
    target: { tls: MeshTls; protocol: UpstreamProtocol | 'hbone'; address: string },
    done: OriginateDone,
  ): void {
    const { tls, protocol, address } = target;
    const alpn = MESH_ALPN[protocol];
    const handshake = new Handshake(this, tls, alpn, address, done);
    const shunned = this.shunned.left(address);
    if (shunned > 0) {
      handshake.refuse(`for another ${seconds(shunned)}`);
      return;
    }
    const before = socket.bytesRead;
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
    // Node would take the peer's chain apart for that check, and throw it away.
    stream.getPeerCertificate = noCertificate;
    stream.on('session', (session) => handshake.ticket(session));
    stream.once('secureConnect', () => handshake.secured(stream));
    stream.on('error', (error) => handshake.failed(error, stream, socket.bytesRead - before));
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

/** What a connection ends with that nobody has refused. */
const CUT: ReadonlySet<string | undefined> = new Set(['ECONNRESET', 'EPIPE']);

/**
 * Why a handshake of ours failed. One that was cut, with no word of TLS, was no connection: the kernel makes it for a
 * server that stops just then, and resets it. As in Envoy (RemoteConnectionFailure), another endpoint may have it.
 */
function reasonOfFailure({ code }: NodeJS.ErrnoException): ReasonCode {
  return CUT.has(code) ? 'connect_failed' : reasonOfTlsError(code ?? '');
}

function noCertificate(): PeerCertificate & DetailedPeerCertificate {
  return {} as PeerCertificate & DetailedPeerCertificate;
}

/** Files of a DestinationRule's SIMPLE or MUTUAL TLS, read when dialled; the caller caches. */
export interface TlsFiles {
  readonly cert: Buffer | null;
  readonly key: Buffer | null;
  readonly ca: Buffer | null;
  /** Certificates of that CA that are revoked. */
  readonly crl: Buffer | null;
}

/**
 * Speaks SIMPLE or MUTUAL on a connected socket, as a DestinationRule asks. The server must bear one of the
 * names that the route expects (`subjectAltNames`, else the host).
 */
export function originateExternal(
  socket: Socket,
  target: { tls: RouteTls; protocol: UpstreamProtocol; files: TlsFiles },
  done: OriginateDone,
): void {
  const { tls, protocol, files } = target;
  const alpn = EXTERNAL_ALPN[protocol];
  const options: SecureContextOptions = {
    ...(files.cert === null ? {} : { cert: files.cert }),
    ...(files.key === null ? {} : { key: files.key }),
    ...(files.ca === null ? {} : { ca: files.ca }),
    ...(files.crl === null ? {} : { crl: files.crl }),
    minVersion: 'TLSv1.2',
  };
  let settled = false;
  const settle = (act: () => void): void => {
    if (settled) return;
    settled = true;
    act();
  };
  let stream: TLSSocket;
  try {
    stream = connect({
      socket,
      ...options,
      ...(tls.sni === null ? {} : { servername: tls.sni }),
      ...(alpn === null ? {} : { ALPNProtocols: [...alpn] }),
      rejectUnauthorized: !tls.insecureSkipVerify,
      checkServerIdentity: (_name, certificate) => {
        // Empty means any, as in Istio; the registry warned.
        if (tls.expectedIdentities.length === 0) return undefined;
        let fault = '';
        try {
          if (tls.expectedIdentities.some((name) => bearsName(certificate, name))) return undefined;
        } catch (error) {
          // Called from inside the handshake, on bytes of a stranger's choice.
          fault = `, which cannot be read: ${(error as Error).message}`;
        }
        const error = new Error(
          `expected ${tls.expectedIdentities.join(' or ')}, got ${certificate.subjectaltname ?? 'no names'}${fault}`,
        );
        return Object.assign(error, { code: 'ERR_TLS_CERT_ALTNAME_INVALID' });
      },
    });
  } catch (error) {
    done.refused('bad_tls_files', (error as Error).message, null);
    return;
  }
  stream.once('secureConnect', () => settle(() => setImmediate(() => done.originated(stream, null))));
  stream.on('error', (error: NodeJS.ErrnoException) =>
    settle(() => {
      const misnamed = error.code === 'ERR_TLS_CERT_ALTNAME_INVALID';
      const reason = misnamed ? 'identity_mismatch' : reasonOfFailure(error);
      done.refused(reason, describeTlsError(error), null);
    }),
  );
}

/** A URI must stand in the certificate as it is; a DNS name or address by RFC 6125, wildcards included. */
function bearsName(certificate: PeerCertificate, name: string): boolean {
  if (name.includes('://')) return readCertificate(certificate.raw).uris.includes(name);
  return checkServerIdentity(name, certificate) === undefined;
}
