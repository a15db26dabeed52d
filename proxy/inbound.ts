/** The inbound side: serveInbound → detect → terminate → decide → forward. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ConnectionFacts } from '../mesh/facts.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { AppAddress, EffectiveMode, Mode } from '../mesh/snapshot.ts';
import { isHttp, type Protocol } from '../mesh/workload.ts';
import { admit, takesPlaintext } from './admit.ts';
import { AppTcp } from './app-tcp.ts';
import { ConnectionLink, type LinkOwner } from './connection-link.ts';
import { type Connection, type ConnectionSocket, unmapped } from './connections.ts';
import type { DataPath, Explainer } from './data-path.ts';
import { detect, firstByteClass, httpVersion, type Spoken, spokenIn } from './detect.ts';
import { FirstBytes } from './first-bytes.ts';
import { PeersCert } from './http/forwarded-cert.ts';
import { InboundHttp } from './http/inbound-http.ts';
import { peerLabels } from './labels.ts';
import { seenBytes } from './seen-handshake.ts';
import { serveHttp } from './serve-http.ts';
import { inboundRace, ServerFirst } from './server-first.ts';
import type { OriginalDestination } from './setup/original-destination.ts';
import { refuseConnection } from './tcp.ts';
import type { VerifiedPeer } from './verify-peer.ts';

/** Where inbound connections of one port arrive and go. */
export interface InboundListener {
  /** The workload's port: what mode and policy are looked up by. */
  readonly port: number;
  readonly protocol: Protocol;
  readonly app: AppAddress;
}

/**
 * Takes an accepted socket to its end.
 * @param original of a captured one
 */
export function serveInbound(
  path: DataPath,
  listener: InboundListener,
  socket: Socket,
  original: OriginalDestination | null = null,
): void {
  const connection = path.connections.open('inbound', socket, listener.port, original);
  if (connection === null) {
    path.turnAway(socket, 'inbound', listener.port, 'too_many_connections');
    return;
  }
  new InboundConnection(path, listener, connection).start();
}

/** A stream of a tunnel, whose CONNECT has no answer yet. */
export interface TunnelledSocket extends ConnectionSocket {
  accept(): void;
  refuse(status: number): void;
}

/**
 * Takes a stream of a tunnel to its end: as a connection whose TLS is done, since the tunnel's identity is its peer's.
 * Its CONNECT is answered when all that can refuse it before its first byte has been asked.
 * @param alpn what its asker says goes through it, in the words of a connection's ALPN; null: it does not say
 */
export function serveTunnelled(
  path: DataPath,
  listener: InboundListener,
  stream: TunnelledSocket,
  peer: VerifiedPeer,
  alpn: string | null,
): void {
  const connection = path.connections.open('inbound', stream, listener.port);
  if (connection === null) {
    stream.refuse(503);
    path.turnAway(stream, 'inbound', listener.port, 'too_many_connections');
    return;
  }
  connection.connect = stream;
  new InboundConnection(path, listener, connection).startTunnelled(peer, alpn);
}

/** What is carried: `http` where only the version is still to tell, `unknown` where everything is. */
type Carried = Spoken | 'http' | 'unknown';

class InboundConnection implements LinkOwner {
  readonly #path: DataPath;
  readonly #listener: InboundListener;
  readonly #connection: Connection;
  #peer: VerifiedPeer | null = null;
  #link: ConnectionLink | null = null;
  /** Set while first bytes are looked at. */
  #looking: FirstBytes | null = null;
  /** The terminator has the socket and has not answered yet. */
  #handshaking = false;
  /** The way to the app as TCP: perhaps before it is known to be TCP. */
  #tcp: AppTcp | null = null;
  /** Set while neither side has spoken. */
  #race: ServerFirst | null = null;

  constructor(path: DataPath, listener: InboundListener, connection: Connection) {
    this.#path = path;
    this.#listener = listener;
    this.#connection = connection;
  }

  /** The port's mode now: the set may be swapped between any two steps of this connection. No set: nothing passes. */
  #mode(): EffectiveMode {
    return this.#path.snapshot?.modeOf(this.#listener.port) ?? { mode: 'STRICT', source: null };
  }

  /** The port's mode now, and those before it that are still honoured. */
  #modes(): readonly Mode[] {
    return [this.#mode().mode, ...this.#path.modes.former(this.#listener.port)];
  }

  startTunnelled(peer: VerifiedPeer, alpn: string | null): void {
    const connection = this.#connection;
    this.#listen();
    connection.tls = true;
    connection.peer = peer.identity;
    this.#peer = peer;
    if (this.#register(peer)) this.#carry(this.#carriedBy(alpn));
  }

  /** @returns false where trust has changed since the peer's handshake: the connection is refused */
  #register(peer: VerifiedPeer): boolean {
    const { links } = this.#path;
    const refused = links.refuses(peer);
    if (refused !== null) {
      this.#refuse(refused.reason, refused.detail);
      return false;
    }
    this.#link = new ConnectionLink(this.#connection, peer, this);
    links.add(this.#link);
    return true;
  }

  linkRetires(): void {
    this.#connection.retiring = true;
  }

  linkEnds(reason: ReasonCode, detail: string): void {
    this.#refuse(reason, detail);
  }

  #listen(): void {
    const { socket } = this.#connection;
    socket.on('error', ignore);
    socket.once('close', () => this.#closed());
  }

  start(): void {
    const connection = this.#connection;
    const { socket } = connection;
    const { protocol } = this.#listener;
    this.#listen();
    const modes = this.#modes();
    // Nothing to tell apart: a server-first protocol must not wait for the client's first byte.
    if (protocol !== 'auto' && modes.every((mode) => mode === 'DISABLE')) {
      this.#carry(isHttp(protocol) ? 'http' : 'tcp');
      return;
    }
    this.#look(
      socket,
      (bytes) => this.#detect(bytes),
      (bytes) => this.#cut(bytes),
    );
    connection.expire(this.#path.limits.handshakeTimeout, () => this.#silent());
    if (!takesPlaintext(modes) || isHttp(protocol)) return;
    // What the app may be asked and do for it is judged as plaintext, until something else comes.
    connection.facts = this.#facts();
    this.#letRace(connection.startedTick, () => this.#carry('tcp'));
  }

  /**
   * Lets the app speak first where the client is silent, as SMTP and MySQL have it.
   * @param since `performance.now()` at which the client could first speak
   * @param won the app did
   */
  #letRace(since: number, won: () => void): void {
    this.#race = new ServerFirst(inboundRace(this.#path.limits.serverFirstHold), since, {
      silent: () => this.#looking?.length === 0 && !this.#connection.closed,
      prepare: () => {
        this.#tcp = this.#appTcp();
        this.#tcp.prepare();
      },
      greet: () => {
        this.#looking?.giveUp();
        this.#looking = null;
        won();
      },
    });
    this.#race.start();
  }

  #look(stream: Duplex, enough: (bytes: Buffer) => boolean, ended: (bytes: Buffer) => void): void {
    const seen = (bytes: Buffer): boolean => {
      const decided = enough(bytes);
      if (decided) this.#looking = null;
      return decided;
    };
    const over = (bytes: Buffer): void => {
      this.#looking = null;
      ended(bytes);
    };
    this.#looking = new FirstBytes(stream, seen, over);
    this.#looking.start();
  }

  /** @returns true once the bytes say enough */
  #detect(bytes: Buffer): boolean {
    this.#race?.stop();
    const detected = detect(bytes);
    // TLS, or what begins as that.
    if (detected.kind !== 'plaintext') this.#dropTcp();
    if (detected.kind === 'more') {
      if (bytes.length <= this.#path.limits.maxClientHello) return false;
      this.#refuse('bad_client_hello', 'ClientHello too long');
      return true;
    }
    const { mode, source } = this.#mode();
    const { protocol } = this.#listener;
    const admission = admit(this.#modes(), protocol, detected);
    if (detected.kind === 'tls') this.#connection.sni = detected.sni;
    // The caller puts the bytes back first.
    if (admission === 'terminate') {
      queueMicrotask(() => this.#terminate(detected.kind === 'tls' ? detected.alpn : []));
    } else if (admission === 'plaintext') {
      const spoken = this.#spokenIn(bytes);
      if (spoken === 'more') return false;
      queueMicrotask(() => this.#carry(spoken));
    } else if (admission === 'app-tls') {
      queueMicrotask(() => this.#carry(isHttp(protocol) ? 'http1' : 'tcp'));
    } else {
      const kind = firstByteClass(bytes);
      this.#connection.handshake = seenBytes(kind, detected.kind === 'tls' ? detected.alpn : []);
      // Began as TLS and came to nothing: to call that plaintext would send its reader the wrong way.
      const broken = detected.kind === 'plaintext' && kind === 'TLS';
      const detail = `first bytes: ${kind}; mode ${mode} set by ${source ?? 'default'}`;
      this.#refuse(broken ? 'bad_client_hello' : admission.refused, detail, source);
    }
    return true;
  }

  /** What plaintext is on this port. */
  #spokenIn(bytes: Buffer): 'more' | Spoken {
    const { protocol } = this.#listener;
    if (protocol === 'tcp') return 'tcp';
    return protocol === 'auto' ? spokenIn(bytes) : httpVersion(bytes);
  }

  /** The peer closed before its bytes told anything. */
  #cut(bytes: Buffer): void {
    // A short word and a half-close: no HTTP can come of it, but it is whole as TCP. So it is where the app was
    // reached for already; a health check has closed long before that.
    const whole = bytes.length > 0 ? detect(bytes).kind === 'plaintext' : this.#tcp !== null;
    if (whole && takesPlaintext(this.#modes()) && !isHttp(this.#listener.protocol)) {
      this.#connection.early = bytes;
      this.#carry('tcp');
    } else this.#gone(bytes, 'closed');
  }

  /** The peer left before its bytes told enough. */
  #gone(bytes: Buffer, how: 'closed' | 'reset'): void {
    if (bytes.length === 0) this.#refuse('closed_unused', '');
    else {
      const kind = firstByteClass(bytes);
      this.#connection.handshake = seenBytes(kind);
      const reason = kind === 'TLS' ? 'bad_client_hello' : 'downstream_closed';
      this.#refuse(reason, `${how} after ${bytes.length} bytes`);
    }
  }

  /** The deadline passed before the first bytes told enough, or the handshake was through. */
  #silent(): void {
    const bytes = this.#looking?.giveUp() ?? Buffer.alloc(0);
    this.#looking = null;
    if (bytes.length > 0 && detect(bytes).kind === 'plaintext') {
      this.#slow(bytes.length);
      return;
    }
    // Other plaintext is decided by its first byte: what is left here is half a ClientHello.
    if (bytes.length === 0) this.#refuse('no_first_byte', this.#whyNoGreeting());
    else {
      this.#connection.handshake = seenBytes('TLS');
      this.#refuse('tls_handshake_timeout', `${bytes.length} bytes of a ClientHello`);
    }
  }

  #whyNoGreeting(): string {
    const refusal = this.#tcp?.refusal ?? null;
    return refusal === null
      ? ''
      : `the app was not let speak first: ${refusal.reason} ${refusal.detail}`.trimEnd();
  }

  /** Undeclared, and still the beginning of a request line: as TCP the rest of it would pass policy unread. */
  #slow(length: number): void {
    this.#refuse('request_timeout', `${length} bytes of what may be a request line`);
  }

  #refuse(
    reason: ReasonCode,
    detail: string,
    policy: string | null = null,
    explainer: Explainer | null = null,
  ): void {
    // Every connection is counted, also one that is turned away: its callers are whom a migration looks for.
    if (this.#connection.series === null && this.#connection.refusal === null) {
      this.#label(PLAINTEXT_REASONS.has(reason) ? 'none' : 'unknown');
    }
    this.#race?.stop();
    refuseConnection(this.#path, this.#connection, reason, { detail, policy, explainer });
    this.#dropTcp();
  }

  #terminate(alpn: readonly string[]): void {
    const { inboundTls } = this.#path;
    const connection = this.#connection;
    const { socket } = connection;
    if (connection.closed || !(socket instanceof Socket)) return;
    // The terminator has its own time-out from here on.
    connection.deadline = Number.POSITIVE_INFINITY;
    if (inboundTls === null || Date.now() >= inboundTls.credentials.notAfter) {
      this.#refuse('no_credentials', inboundTls === null ? '' : 'ours have expired');
      return;
    }
    this.#handshaking = true;
    inboundTls.terminate(socket, alpn, this.#listener.protocol !== 'tcp', {
      terminated: (stream, peer) => {
        this.#handshaking = false;
        if (connection.closed) return;
        connection.stream = stream;
        connection.tls = true;
        connection.peer = peer.identity;
        this.#peer = peer;
        if (this.#register(peer)) this.#carry(this.#carriedBy(stream.alpnProtocol));
      },
      refused: (reason, detail, facts) => {
        this.#handshaking = false;
        connection.handshake = { ...facts, firstBytes: 'TLS' };
        this.#refuse(reason, detail);
      },
    });
  }

  /** The port's protocol, and the version that ALPN names (Envoy's codec AUTO); else the first bytes tell. */
  #carriedBy(alpn: string | false | null): Carried {
    const { protocol } = this.#listener;
    if (protocol === 'tcp') return 'tcp';
    if (alpn === 'istio-h2' || alpn === 'h2') return 'http2';
    if (protocol !== 'auto') return 'http';
    // A sidecar has looked at what its app says: `istio` alone is what was no HTTP.
    if (alpn === 'istio') return 'tcp';
    return alpn ? 'http' : 'unknown';
  }

  /** Facts are complete: registers the labels, then judges and forwards as the protocol has it. */
  #carry(what: Carried): void {
    const connection = this.#connection;
    this.#race?.stop();
    // The handshake took its time: mode and trust may be others than when it began.
    if (connection.closed || !this.#stillAdmitted()) return;
    connection.facts = this.#facts();
    connection.cluster = `inbound|${this.#listener.port}||`;
    connection.rejudge = () => this.#rejudge();
    this.#label(connection.tls ? 'mutual_tls' : 'none');
    if (what === 'unknown') this.#sniff();
    else this.#serve(what);
  }

  /** Inside TLS, undeclared and without an ALPN that tells: the first bytes do, of whichever side. */
  #sniff(): void {
    const connection = this.#connection;
    const { limits } = this.#path;
    // It waits for that with its first byte, as ztunnel does.
    connection.connect?.accept();
    let begun = false;
    const enough = (bytes: Buffer): boolean => {
      this.#race?.stop();
      const spoken = spokenIn(bytes);
      if (spoken === 'more') {
        if (!begun) connection.expire(limits.handshakeTimeout, () => this.#slow(this.#looking?.length ?? 0));
        begun = true;
        return false;
      }
      queueMicrotask(() => this.#serve(spoken));
      return true;
    };
    const ended = (bytes: Buffer): void => {
      connection.early = bytes;
      this.#serve('tcp');
    };
    this.#look(connection.stream, enough, ended);
    connection.expire(limits.handshakeTimeout, () => this.#bothSilent());
    this.#letRace(performance.now(), (): void => this.#serve('tcp'));
  }

  /** Its peer is known and the app hears for itself: neither has to speak soon, unless the app could not be reached. */
  #bothSilent(): void {
    const refusal = this.#tcp?.refusal ?? null;
    if (refusal !== null) this.#refuse(refusal.reason, refusal.detail, refusal.policy, refusal.explainer);
    else this.#connection.expireIdle(this.#path.limits.idleTimeout, () => this.#refuse('idle_timeout', ''));
  }

  #serve(what: Spoken | 'http'): void {
    const connection = this.#connection;
    if (connection.closed || connection.refusal !== null) return;
    if (what === 'tcp') {
      connection.stream.pause();
      connection.expireIdle(this.#path.limits.idleTimeout, () => this.#refuse('idle_timeout', ''));
      this.#tcp ??= this.#appTcp();
      this.#tcp.commit();
      return;
    }
    this.#dropTcp();
    // Requests are judged and answered one by one: the stream itself is let in.
    connection.connect?.accept();
    const { app, protocol } = this.#listener;
    const cert = new PeersCert(this.#peer);
    const makeSide = (): InboundHttp => new InboundHttp(this.#path, connection, app, cert, protocol);
    serveHttp(this.#path, connection, makeSide, what === 'http' ? null : what);
  }

  #appTcp(): AppTcp {
    return new AppTcp(this.#path, this.#connection, this.#listener.app, {
      refused: ({ reason, detail, policy, explainer }) => this.#refuse(reason, detail, policy, explainer),
      spoke: () => this.#race?.spoke(),
    });
  }

  #dropTcp(): void {
    this.#tcp?.drop();
    this.#tcp = null;
  }

  /** Judges by the set now in force: modes, trust and, for TCP, policy. HTTP is decided request by request. */
  #rejudge(): void {
    if (!this.#connection.closed && this.#stillAdmitted()) this.#tcp?.rejudge();
  }

  #stillAdmitted(): boolean {
    const { peer } = this.#connection;
    if (!this.#modeAdmits()) return false;
    if (peer === null || this.#path.trusts(peer)) return true;
    this.#refuse('untrusted_trust_domain', peer.uri);
    return false;
  }

  /** Plaintext is nothing for STRICT, nor terminated mTLS for DISABLE; a tunnel's streams are no matter of the mode. */
  #modeAdmits(): boolean {
    const connection = this.#connection;
    const { peer, connect } = connection;
    const { mode, source } = this.#mode();
    const unfit: Mode = peer === null ? 'STRICT' : 'DISABLE';
    if (mode !== unfit || (peer !== null && connect !== null)) return true;
    if (this.#modes().some((one) => one !== unfit)) {
      // For the grace time after a switch. HTTP is told to come anew meanwhile, and then comes as it should.
      connection.retiring = true;
      return true;
    }
    const reason = peer === null ? 'plaintext_to_strict' : 'mtls_to_disabled';
    this.#refuse(reason, `mode ${mode} set by ${source ?? 'default'}`, source);
    return false;
  }

  #facts(): ConnectionFacts {
    const { peer, remoteAddress, localAddress, sni } = this.#connection;
    return {
      peer,
      sourceIp: remoteAddress,
      remoteIp: remoteAddress,
      destinationIp: unmapped(localAddress),
      destinationPort: this.#listener.port,
      sni,
    };
  }

  #label(security: 'mutual_tls' | 'none' | 'unknown'): void {
    const connection = this.#connection;
    const { snapshot, identity } = this.#path;
    const { peer } = connection;
    const source =
      peer === null
        ? snapshot?.workloadByAddress(connection.remoteAddress)
        : snapshot?.workloadByIdentity(peer);
    const series = this.#path.metrics.peer(
      peerLabels({
        reporter: 'destination',
        source: { workload: source ?? null, identity: peer },
        destination: { workload: snapshot?.workload ?? null, identity: connection.tls ? identity : null },
        service: snapshot?.serviceOf(this.#listener.port) ?? null,
        fallback: 'InboundPassthroughCluster',
        security,
      }),
    );
    series.retain();
    series.connectionsOpened++;
    connection.series = series;
  }

  #closed(): void {
    const { carrier, refusal } = this.#connection;
    this.#race?.stop();
    if (this.#handshaking) this.#refuse('tls_handshake_failed', 'the peer left during the handshake');
    else if (this.#looking !== null) this.#gone(this.#looking.giveUp(), 'reset');
    else if (this.#tcp !== null && carrier === null && refusal === null)
      this.#refuse('downstream_closed', 'before the app was reached');
    this.#dropTcp();
    if (this.#link !== null) this.#path.links.remove(this.#link);
    if (this.#path.connections.close(this.#connection)) this.#connection.series?.release();
  }
}

/** Refusals of what was plaintext beyond doubt. */
const PLAINTEXT_REASONS: ReadonlySet<ReasonCode> = new Set([
  'plaintext_to_strict',
  'downstream_closed',
  'request_timeout',
]);

function ignore(): void {}
