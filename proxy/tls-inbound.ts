/** TLS of the inbound side: one terminator a set of credentials, replaced whole when they or the trust change. */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { createSecureContext, createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Credentials } from '../mesh/credentials.ts';
import type { Limits } from '../mesh/limits.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import { socketUnder } from './connections.ts';
import {
  chainRefused,
  describeTlsError,
  PeerCache,
  type PeerVerdict,
  readPeer,
  reasonOfTlsError,
  type VerifiedPeer,
} from './verify-peer.ts';

/** Hybrid post-quantum first (draft-ietf-tls-ecdhe-mlkem), then what every Envoy speaks. */
export const KEY_EXCHANGE_GROUPS = 'X25519MLKEM768:X25519:P-256:P-384';

/**
 * What we select from, in our order: what tells the HTTP version before `istio`, which says no more than mesh mTLS.
 * `istio-peer-exchange` is for who speaks its preamble.
 */
const MESH_ALPN = ['istio-h2', 'istio-http/1.1', 'istio-http/1.0', 'istio'];
/** Clients that are no sidecars, such as gRPC's, may insist on these; Envoy's terminator selects from them (`ALPNHttp`). */
const HTTP_ALPN = ['h2', 'http/1.1'];

/** Called once a handshake: with the TLS stream and who it is, or with the reason it failed. */
export interface TerminateDone {
  terminated(stream: TLSSocket, peer: VerifiedPeer): void;
  refused(reason: ReasonCode, detail: string): void;
}

export class InboundTls {
  readonly credentials: Credentials;
  readonly #trustDomains: ReadonlySet<string>;
  readonly #meshAlpn: Server;
  readonly #httpAlpn: Server;
  readonly #hboneAlpn: Server;
  readonly #withoutAlpn: Server;
  readonly #waiting = new WeakMap<Socket, TerminateDone>();
  readonly #peers: PeerCache;
  /** Leaves that passed a full handshake under these credentials: what a resumed one may rely on. */
  readonly #verified: PeerCache;

  /**
   * @param trustDomains ours and its aliases
   * @throws where OpenSSL cannot use the credentials
   */
  constructor(credentials: Credentials, trustDomains: readonly string[], limits: Limits) {
    this.credentials = credentials;
    this.#trustDomains = new Set(trustDomains);
    this.#peers = new PeerCache(limits.resumableSessions);
    this.#verified = new PeerCache(limits.resumableSessions);
    const options = {
      // New ticket keys with each terminator: no session outlives the credentials and trust it was made under.
      ticketKeys: randomBytes(48),
      sessionIdContext: 'oarlock',
      cert: credentials.chainPem,
      key: credentials.keyPem,
      ca: [...credentials.rootsPem],
      minVersion: 'TLSv1.3' as const,
      ecdhCurve: KEY_EXCHANGE_GROUPS,
      requestCert: true,
      // We judge the peer ourselves, so that a refusal can name it; nothing is read from it before that.
      rejectUnauthorized: false,
      handshakeTimeout: limits.handshakeTimeout,
    } satisfies TlsOptions;
    // Fails now, not at the first handshake, where the key does not fit the certificate.
    createSecureContext(options);
    this.#meshAlpn = createServer({ ...options, ALPNProtocols: MESH_ALPN });
    this.#httpAlpn = createServer({ ...options, ALPNProtocols: HTTP_ALPN });
    this.#hboneAlpn = createServer({ ...options, ALPNProtocols: ['h2'] });
    this.#withoutAlpn = createServer(options);
    for (const server of [this.#meshAlpn, this.#httpAlpn, this.#hboneAlpn, this.#withoutAlpn]) {
      server.on('secureConnection', (stream) => this.#secured(stream));
      server.on('tlsClientError', (error: NodeJS.ErrnoException, stream) => this.#failed(error, stream));
    }
  }

  /**
   * Terminates TLS on a socket whose ClientHello was looked at and put back.
   * @param alpn what the ClientHello offers: a set without overlap is answered without ALPN, since a
   *   STRICT port lets such a client in (docs/RESOURCES.md) while Node would end the handshake
   * @param http HTTP may be spoken: ALPNs besides Istio's are answered
   */
  terminate(socket: Socket, alpn: readonly string[], http: boolean, done: TerminateDone): void {
    this.#terminate(socket, this.#serverFor(alpn, http), done);
  }

  /**
   * The same for a tunnel: `h2`, or nothing where the client names none, as rustls has it in ztunnel.
   * @param alpn what the ClientHello offers; without `h2` among it the handshake fails
   */
  terminateHbone(socket: Socket, alpn: readonly string[], done: TerminateDone): void {
    this.#terminate(socket, alpn.length === 0 ? this.#withoutAlpn : this.#hboneAlpn, done);
  }

  #terminate(socket: Socket, server: Server, done: TerminateDone): void {
    this.#waiting.set(socket, done);
    // Half-open is for what comes after: a peer that leaves inside the handshake must not be waited for.
    socket.allowHalfOpen = false;
    server.emit('connection', socket);
  }

  #serverFor(alpn: readonly string[], http: boolean): Server {
    if (alpn.some((name) => MESH_ALPN.includes(name))) return this.#meshAlpn;
    return http && alpn.some((name) => HTTP_ALPN.includes(name)) ? this.#httpAlpn : this.#withoutAlpn;
  }

  #take(stream: TLSSocket): TerminateDone | null {
    const socket = socketUnder(stream);
    const done = socket === null ? undefined : this.#waiting.get(socket);
    if (socket === null || done === undefined) {
      stream.destroy();
      return null;
    }
    this.#waiting.delete(socket);
    return done;
  }

  #secured(stream: TLSSocket): void {
    const done = this.#take(stream);
    if (done === null) return;
    // From now on errors come as events, and one that nobody hears ends the process.
    stream.on('error', ignore);
    stream.allowHalfOpen = true;
    const verdict = this.#judge(stream);
    // Node calls us from inside OpenSSL's SSL_read: destroying the stream here, as a refusal does, frees what
    // OpenSSL goes on to use and kills the process. A microtask would still run inside that call.
    setImmediate(() => {
      if (verdict.ok) done.terminated(stream, verdict.peer);
      else done.refused(verdict.reason, verdict.detail);
    });
  }

  #failed(error: NodeJS.ErrnoException, stream: TLSSocket): void {
    const done = this.#take(stream);
    done?.refused(reasonOfTlsError(error.code ?? ''), describeTlsError(error));
  }

  /** Chain, validity, exactly one SPIFFE URI, trust domain; a resumed session is checked anew. */
  #judge(stream: TLSSocket): PeerVerdict {
    const leaf = stream.getPeerX509Certificate();
    if (leaf === undefined) {
      return { ok: false, reason: 'no_peer_certificate', detail: '' };
    }
    const now = Date.now();
    const verdict = readPeer(leaf, this.#peers, now);
    // OpenSSL's verdict on the chain comes first; a resumed session carries that of its full handshake.
    if (!stream.authorized) return chainRefused(String(stream.authorizationError), verdict);
    if (!verdict.ok) return verdict;
    if (!this.#trustDomains.has(verdict.peer.identity.trustDomain)) {
      return { ok: false, reason: 'untrusted_trust_domain', detail: verdict.peer.identity.uri };
    }
    if (!stream.isSessionReused()) {
      this.#verified.set(leaf.fingerprint256, verdict.peer);
      return verdict;
    }
    // OpenSSL skips the chain on resumption: rely only on a full handshake that we saw ourselves.
    if (this.#verified.get(leaf.fingerprint256) !== null) {
      this.#verified.set(leaf.fingerprint256, verdict.peer);
      return verdict;
    }
    return { ok: false, reason: 'resumption_refused', detail: verdict.peer.identity.uri };
  }
}

function ignore(): void {}
