/** TLS of the inbound side: one terminator a set of credentials, replaced whole when they or the trust change. */
import { randomBytes, type X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { createSecureContext, createServer, type SecureContext, type Server, type TLSSocket } from 'node:tls';
import { spiffeIdentity } from '../mesh/certificates.ts';
import type { Credentials } from '../mesh/credentials.ts';
import type { Limits } from '../mesh/limits.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import { alertOf, sayAlert } from './alerts.ts';
import { reset, socketUnder } from './connections.ts';
import { dearness, MAX_BROKEN_OFF, MAX_FLIGHT } from './dear-chain.ts';
import type { Handshakes, PendingHandshake } from './handshakes.ts';
import { contextOptions, count, type HandshakeCounts, type MeshTlsParts } from './mesh-tls.ts';
import type { HandshakeFacts } from './seen-handshake.ts';
import { callerOf, type Ends, type Shunned, seconds } from './shunned.ts';
import { Strangers, type StrangersHandshake } from './strangers.ts';
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
} from './verify-peer.ts';

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
  refused(reason: ReasonCode, detail: string, facts: HandshakeFacts): void;
}

/** One inbound handshake from the moment it is asked for: also while it waits for its turn. */
class Terminating implements PendingHandshake, StrangersHandshake {
  readonly #owner: InboundTls;
  readonly #server: Server;
  readonly socket: Socket;
  readonly alpn: readonly string[];
  readonly done: TerminateDone;
  /** By what it may be shunned. */
  readonly caller: string | null;
  /** Bytes that were read before: the ClientHello, mostly. */
  readonly #readBefore: number;
  #settled = false;

  constructor(
    owner: InboundTls,
    server: Server,
    socket: Socket,
    alpn: readonly string[],
    done: TerminateDone,
  ) {
    this.#owner = owner;
    this.#server = server;
    this.socket = socket;
    this.alpn = alpn;
    this.done = done;
    this.caller = owner.callerOf(socket);
    this.#readBefore = socket.bytesRead;
  }

  proceed(): void {
    this.#owner.enter(this);
  }

  turnAway(ms: number): void {
    this.refuse('shunned', `${this.caller} for another ${seconds(ms)}`, NO_FACTS);
  }

  begin(): void {
    const { socket } = this;
    // The peer left: its owner knows.
    if (socket.destroyed) this.settle();
    else this.#server.emit('connection', socket);
  }

  timedOut(): void {
    this.refuse('tls_handshake_timeout', 'its turn did not come in time', NO_FACTS);
  }

  giveWay(stalledMs: number): void {
    this.refuse('too_many_handshakes', this.#owner.blame(this, `no end for ${stalledMs} ms`, null), NO_FACTS);
    // TLS may be at work on what the socket read.
    setImmediate(() => reset(this.socket));
  }

  /** Bytes that came since; what follows a finished handshake is among them. */
  get flight(): number {
    return this.socket.bytesRead - this.#readBefore;
  }

  succeed(stream: TLSSocket, peer: VerifiedPeer): void {
    if (this.settle()) this.done.terminated(stream, peer);
  }

  refuse(reason: ReasonCode, detail: string, facts: Omit<HandshakeFacts, 'alpn'>): void {
    if (this.settle()) this.done.refused(reason, detail, { ...facts, alpn: this.alpn });
  }

  /** @returns true the first time */
  settle(): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    this.#owner.handshakes.done(this);
    this.#owner.strangers.done(this);
    return true;
  }
}

const NO_FACTS = { openssl: null, sni: null, chain: [] } as const;

export class InboundTls {
  readonly credentials: Credentials;
  readonly handshakes: Handshakes;
  readonly callerOf: (socket: Ends) => string | null;
  readonly #shunned: Shunned;
  readonly strangers: Strangers;
  readonly #counts: HandshakeCounts;
  readonly #trust: Trust;
  readonly #meshAlpn: Server;
  readonly #httpAlpn: Server;
  readonly #hboneAlpn: Server;
  readonly #withoutAlpn: Server;
  readonly #waiting = new WeakMap<Socket, Terminating>();
  /** Leaves whose chain was verified under this trust: in a full handshake, which a resumed one may rely on. */
  readonly #verified: PeerCache;

  /**
   * @param caller by what a caller is shunned; null: never
   * @throws where OpenSSL cannot use the credentials or the policy
   */
  constructor(parts: MeshTlsParts, handshakes: Handshakes, caller = callerOf) {
    const { credentials, trust, limits } = parts;
    this.credentials = credentials;
    this.handshakes = handshakes;
    this.callerOf = caller;
    this.#shunned = parts.shunned.inbound;
    this.strangers = new Strangers(this.#shunned, limits.handshakeTimeout);
    this.#counts = parts.counts.inbound;
    this.#trust = trust;
    this.#verified = parts.verified.client;
    // Made here, not at the first handshake, so that a key that does not fit the certificate is refused.
    const context = createSecureContext({
      ...contextOptions(parts),
      // New ticket keys with each terminator: no session outlives the credentials and trust it was made under.
      ticketKeys: randomBytes(48),
      sessionIdContext: 'oarlock',
    });
    this.#meshAlpn = serverWith(context, limits, MESH_ALPN);
    this.#httpAlpn = serverWith(context, limits, HTTP_ALPN);
    this.#hboneAlpn = serverWith(context, limits, ['h2']);
    this.#withoutAlpn = serverWith(context, limits, null);
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
    this.#terminate(new Terminating(this, this.#serverFor(alpn, http), socket, alpn, done));
  }

  /**
   * The same for a tunnel: `h2`, or nothing where the client names none, as rustls has it in ztunnel.
   * @param alpn what the ClientHello offers; without `h2` among it the handshake fails
   */
  terminateHbone(socket: Socket, alpn: readonly string[], done: TerminateDone): void {
    const server = alpn.length === 0 ? this.#withoutAlpn : this.#hboneAlpn;
    this.#terminate(new Terminating(this, server, socket, alpn, done));
  }

  #terminate(handshake: Terminating): void {
    const { socket, caller } = handshake;
    const shunned = caller === null ? 0 : this.#shunned.left(caller);
    if (shunned > 0) {
      handshake.turnAway(shunned);
      return;
    }
    this.#waiting.set(socket, handshake);
    // Half-open is for what comes after: a peer that leaves inside the handshake must not be waited for.
    socket.allowHalfOpen = false;
    if (this.strangers.admits(handshake)) this.enter(handshake);
    else socket.once('close', () => handshake.settle());
  }

  /** Begins a handshake now, or when there is room for it. */
  enter(handshake: Terminating): void {
    if (!this.handshakes.enter(handshake)) handshake.socket.once('close', () => handshake.settle());
  }

  #serverFor(alpn: readonly string[], http: boolean): Server {
    if (alpn.some((name) => MESH_ALPN.includes(name))) return this.#meshAlpn;
    return http && alpn.some((name) => HTTP_ALPN.includes(name)) ? this.#httpAlpn : this.#withoutAlpn;
  }

  #take(stream: TLSSocket): Terminating | null {
    const socket = socketUnder(stream);
    const handshake = socket === null ? undefined : this.#waiting.get(socket);
    if (socket === null || handshake === undefined) {
      stream.destroy();
      return null;
    }
    this.#waiting.delete(socket);
    return handshake;
  }

  #secured(stream: TLSSocket): void {
    const handshake = this.#take(stream);
    if (handshake === null) return;
    // From now on errors come as events, and one that nobody hears ends the process.
    stream.on('error', ignore);
    stream.allowHalfOpen = true;
    const leaf = stream.getPeerX509Certificate();
    const verdict = judged(() => this.#judge(stream, leaf));
    count(this.#counts, stream, verdict.ok);
    // Node calls us from inside OpenSSL's SSL_read: destroying the stream here, as a refusal does, frees what
    // OpenSSL goes on to use and kills the process. A microtask would still run inside that call.
    setImmediate(() => {
      if (verdict.ok) {
        if (handshake.caller !== null) this.#shunned.trust(handshake.caller);
        handshake.succeed(stream, verdict.peer);
        return;
      }
      // What OpenSSL trusts was made by a CA of ours, and verified no further than that.
      const dear = stream.authorized || leaf === undefined ? null : dearness(leaf);
      const detail = dear === null ? verdict.detail : this.#shun(handshake, verdict.detail, dear);
      handshake.refuse(verdict.reason, detail, refusedFacts(stream, leaf));
    });
  }

  #failed(error: NodeJS.ErrnoException, stream: TLSSocket): void {
    this.#counts.failed++;
    const openssl = describeTlsError(error);
    const sni = stream.servername || null;
    const handshake = this.#take(stream);
    if (handshake === null) return;
    const alert = alertOf(error);
    const said = alert === null ? openssl : sayAlert(alert, this.credentials.chainPem);
    const detail = this.blame(handshake, said, stream.getPeerX509Certificate() ?? null);
    handshake.refuse(reasonOfTlsError(error.code ?? ''), detail, { openssl, sni, chain: [] });
  }

  /**
   * Shuns the caller of a handshake that was never finished, where more came of it than honest peers say till then.
   * @param leaf where it came so far that OpenSSL verified it
   * @returns the detail of its refusal, with that
   */
  blame(handshake: Terminating, detail: string, leaf: X509Certificate | null): string {
    const { flight, caller } = handshake;
    const dear = flight > MAX_FLIGHT ? `${flight} bytes` : leaf && dearness(leaf);
    if (dear !== null) return this.#shun(handshake, detail, dear);
    if (caller === null || leaf !== null || flight <= MAX_BROKEN_OFF) return detail;
    const ms = this.#shunned.strike(caller);
    return ms === 0
      ? detail
      : `${detail}; broken off again and again: ${caller} is shunned for ${seconds(ms)}`;
  }

  #shun({ caller }: Terminating, detail: string, dear: string): string {
    const ms = caller === null ? 0 : this.#shunned.shun(caller);
    return ms === 0 ? `${detail}; ${dear}` : `${detail}; ${dear}: ${caller} is shunned for ${seconds(ms)}`;
  }

  /** Chain, validity, exactly one SPIFFE URI, trust domain; a resumed session is checked anew. */
  #judge(stream: TLSSocket, leaf: X509Certificate | undefined): PeerVerdict {
    if (leaf === undefined) return { ok: false, reason: 'no_peer_certificate', detail: '' };
    const now = Date.now();
    // OpenSSL's verdict on the chain comes first; a resumed session carries that of its full handshake.
    if (!stream.authorized)
      return chainRefused(String(stream.authorizationError), leaf, this.#trust, 'client', now);
    // It skips the chain on resumption: rely only on a full handshake that we saw ourselves.
    const resumed = stream.isSessionReused();
    if (resumed && this.#verified.get(leaf.fingerprint256) === null)
      return { ok: false, reason: 'resumption_refused', detail: spiffeIdentity(leaf.raw)?.uri ?? '' };
    return readPeer(leaf, this.#trust, 'client', this.#verified, now);
  }
}

/**
 * A TLS server that listens nowhere: sockets are given to it. Node's servers make their context themselves, and of some
 * of its options only (none of `allowPartialTrustChain`): the one that is shared is put in the place of its own.
 * @throws where this Node keeps it under another name
 */
function serverWith(context: SecureContext, limits: Limits, alpn: readonly string[] | null): Server {
  const server = createServer({
    requestCert: true,
    // We judge the peer ourselves, so that a refusal can name it; nothing is read from it before that.
    rejectUnauthorized: false,
    handshakeTimeout: limits.handshakeTimeout,
    ...(alpn === null ? {} : { ALPNProtocols: [...alpn] }),
  });
  if (!Reflect.has(server, SHARED_CONTEXT)) throw new Error(`node:tls has no ${SHARED_CONTEXT} any more`);
  Reflect.set(server, SHARED_CONTEXT, context);
  return server;
}

const SHARED_CONTEXT = '_sharedCreds';

function refusedFacts(stream: TLSSocket, leaf: X509Certificate | undefined): Omit<HandshakeFacts, 'alpn'> {
  return {
    openssl: stream.authorized || leaf === undefined ? null : String(stream.authorizationError),
    sni: stream.servername || null,
    chain: leaf === undefined ? [] : presentedChain(leaf),
  };
}

function ignore(): void {}
