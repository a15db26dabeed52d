/** The inbound side: serveInbound → detect → terminate → decide → forward. */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Ask } from '../mesh/decision.ts';
import type { ConnectionFacts } from '../mesh/facts.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { AppAddress, EffectiveMode, Snapshot } from '../mesh/snapshot.ts';
import type { Protocol } from '../mesh/workload.ts';
import { admit } from './admit.ts';
import { type Connection, unmapped } from './connections.ts';
import type { DataPath, Explainer } from './data-path.ts';
import { observe } from './decide.ts';
import { detect, firstByteClass, looksLikeHttp } from './detect.ts';
import { dial } from './dial.ts';
import { FirstBytes } from './first-bytes.ts';
import { checkRequestOf, providerOf } from './http/ext-authz-check.ts';
import { InboundHttp } from './http/inbound-http.ts';
import { HttpForwarder } from './http1/forward.ts';
import { peerLabels } from './labels.ts';
import { deniedBy } from './report.ts';
import { pipeConnection, refuseConnection } from './tcp.ts';
import type { VerifiedPeer } from './verify-peer.ts';

/** Where inbound connections of one port arrive and go. */
export interface InboundListener {
  /** The workload's port: what mode and policy are looked up by. */
  readonly port: number;
  readonly protocol: Protocol;
  readonly app: AppAddress;
}

/** Takes an accepted socket to its end. */
export function serveInbound(path: DataPath, listener: InboundListener, socket: Socket): void {
  const connection = path.connections.open('inbound', socket, listener.port);
  if (connection === null) {
    path.turnAway(socket, 'inbound', listener.port, 'too_many_connections');
    return;
  }
  new InboundConnection(path, listener, connection).start();
}

class InboundConnection {
  readonly #path: DataPath;
  readonly #listener: InboundListener;
  readonly #connection: Connection;
  #peer: VerifiedPeer | null = null;
  /** Set while first bytes are looked at. */
  #looking: FirstBytes | null = null;
  /** The terminator has the socket and has not answered yet. */
  #handshaking = false;
  /** Set while an external authorizer is asked about a TCP connection. */
  #asking: AbortController | null = null;

  constructor(path: DataPath, listener: InboundListener, connection: Connection) {
    this.#path = path;
    this.#listener = listener;
    this.#connection = connection;
  }

  /** The port's mode now: the set may be swapped between any two steps of this connection. No set: nothing passes. */
  #mode(): EffectiveMode {
    return this.#path.snapshot?.modeOf(this.#listener.port) ?? { mode: 'STRICT', source: null };
  }

  start(): void {
    const connection = this.#connection;
    const { socket } = connection;
    socket.on('error', ignore);
    socket.once('close', () => this.#closed());
    const { mode } = this.#mode();
    // Nothing to tell apart: a server-first protocol must not wait for the client's first byte.
    if (mode === 'DISABLE' && this.#listener.protocol !== 'auto') this.#plaintext(this.#listener.protocol);
    else
      this.#look(
        socket,
        (bytes) => this.#detect(bytes),
        (bytes) => this.#cut(bytes),
      );
    if (connection.onDeadline === null) {
      connection.expire(this.#path.limits.handshakeTimeout, () => this.#silent());
    }
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
    const detected = detect(bytes);
    if (detected.kind === 'more') {
      if (bytes.length <= this.#path.limits.maxClientHello) return false;
      this.#refuse('bad_client_hello', 'ClientHello too long');
      return true;
    }
    const { mode, source } = this.#mode();
    const { protocol } = this.#listener;
    if (detected.kind === 'plaintext' && mode !== 'STRICT' && protocol === 'auto') {
      if (looksLikeHttp(bytes) === 'more') return false;
    }
    const admission = admit(mode, protocol, detected);
    if (detected.kind === 'tls') this.#connection.sni = detected.sni;
    if (admission === 'terminate') {
      // The caller puts the bytes back first.
      queueMicrotask(() => this.#terminate(detected.kind === 'tls' ? detected.alpn : []));
    } else if (admission === 'plaintext') {
      const http = protocol === 'http' || (protocol === 'auto' && looksLikeHttp(bytes) === 'http');
      queueMicrotask(() => this.#plaintext(http ? 'http' : 'tcp'));
    } else if (admission === 'app-tls') {
      queueMicrotask(() => this.#plaintext(protocol === 'http' ? 'http' : 'tcp'));
    } else {
      const kind = firstByteClass(bytes);
      // Began as TLS and came to nothing: to call that plaintext would send its reader the wrong way.
      const broken = detected.kind === 'plaintext' && kind === 'TLS';
      const detail = `first bytes: ${kind}; mode ${mode} set by ${source ?? 'default'}`;
      this.#refuse(broken ? 'bad_client_hello' : admission.refused, detail, source);
    }
    return true;
  }

  /** The peer closed before its bytes told anything. */
  #cut(bytes: Buffer): void {
    const plaintext = bytes.length > 0 && detect(bytes).kind === 'plaintext';
    if (plaintext && this.#mode().mode !== 'STRICT' && this.#listener.protocol !== 'http') {
      // A short word and a half-close: no HTTP can come of it, but it is whole as TCP.
      this.#connection.early = bytes;
      this.#plaintext('tcp');
    } else this.#gone(bytes, 'closed');
  }

  /** The peer left before its bytes told enough. */
  #gone(bytes: Buffer, how: 'closed' | 'reset'): void {
    if (bytes.length === 0) this.#refuse('closed_unused', '');
    else {
      const reason = firstByteClass(bytes) === 'TLS' ? 'bad_client_hello' : 'downstream_closed';
      this.#refuse(reason, `${how} after ${bytes.length} bytes`);
    }
  }

  /** The deadline passed before the first bytes told enough, or the handshake was through. */
  #silent(): void {
    const bytes = this.#looking?.giveUp() ?? Buffer.alloc(0);
    this.#looking = null;
    if (bytes.length > 0 && detect(bytes).kind === 'plaintext') {
      this.#slow(bytes);
      return;
    }
    // Other plaintext is decided by its first byte: what is left here is half a ClientHello.
    if (bytes.length === 0) this.#refuse('no_first_byte', '');
    else this.#refuse('tls_handshake_timeout', `${bytes.length} bytes of a ClientHello`);
  }

  /** Undeclared, and still the beginning of a request line: as TCP the rest of it would pass policy unread. */
  #slow(bytes: Buffer): void {
    this.#refuse('request_timeout', `${bytes.length} bytes of what may be a request line`);
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
    refuseConnection(this.#path, this.#connection, reason, { detail, policy, explainer });
  }

  #terminate(alpn: readonly string[]): void {
    const { inboundTls } = this.#path;
    const connection = this.#connection;
    if (connection.closed) return;
    // The terminator has its own time-out from here on.
    connection.deadline = Number.POSITIVE_INFINITY;
    if (inboundTls === null || Date.now() >= inboundTls.credentials.notAfter) {
      this.#refuse('no_credentials', inboundTls === null ? '' : 'ours have expired');
      return;
    }
    this.#handshaking = true;
    inboundTls.terminate(connection.socket, alpn, {
      terminated: (stream, peer) => {
        this.#handshaking = false;
        if (connection.closed) return;
        connection.stream = stream;
        connection.tls = true;
        connection.peer = peer.identity;
        this.#peer = peer;
        this.#carry(this.#protocolOf(stream.alpnProtocol));
      },
      refused: (reason, detail) => {
        this.#handshaking = false;
        this.#refuse(reason, detail);
      },
    });
  }

  /** Declared protocol, else what the peer's sidecar says of it in ALPN, else the first bytes. */
  #protocolOf(alpn: string | false | null): Protocol {
    const { protocol } = this.#listener;
    if (protocol !== 'auto' || !alpn) return protocol;
    return alpn.startsWith('istio-http/') ? 'http' : 'tcp';
  }

  #plaintext(protocol: Protocol): void {
    if (!this.#connection.closed) this.#carry(protocol);
  }

  /** Facts are complete: registers the labels, then judges and forwards as the protocol has it. */
  #carry(protocol: Protocol): void {
    const connection = this.#connection;
    // The handshake took its time: mode and trust may be others than when it began.
    if (!this.#stillAdmitted()) return;
    connection.facts = this.#facts();
    connection.cluster = `inbound|${this.#listener.port}||`;
    this.#label(connection.tls ? 'mutual_tls' : 'none');
    if (protocol === 'auto') {
      const ended = (bytes: Buffer): void => {
        connection.early = bytes;
        this.#serveTcp();
      };
      this.#look(connection.stream, (bytes) => this.#sniff(bytes), ended);
      connection.expire(this.#path.limits.handshakeTimeout, () => {
        const bytes = this.#looking?.giveUp() ?? Buffer.alloc(0);
        this.#looking = null;
        // Nothing yet: a client that waits for a server-first protocol.
        if (bytes.length === 0) this.#serveTcp();
        else this.#slow(bytes);
      });
    } else if (protocol === 'http') this.#serveHttp();
    else this.#serveTcp();
  }

  #sniff(bytes: Buffer): boolean {
    const said = looksLikeHttp(bytes);
    if (said === 'more') return false;
    queueMicrotask(() => {
      if (this.#connection.closed) return;
      if (said === 'http') this.#serveHttp();
      else this.#serveTcp();
    });
    return true;
  }

  #serveHttp(): void {
    const connection = this.#connection;
    const side = new InboundHttp(this.#path, connection, this.#listener.app, this.#peer);
    const forwarder = new HttpForwarder(connection, side);
    side.carrier = forwarder;
    connection.carrier = forwarder;
    connection.rejudge = () => this.#rejudge(false);
  }

  #serveTcp(): void {
    const connection = this.#connection;
    connection.stream.pause();
    connection.rejudge = () => this.#rejudge(true);
    connection.expireIdle(this.#path.limits.idleTimeout, () => this.#refuse('idle_timeout', ''));
    this.#askTcp();
  }

  /** CUSTOM policies first, as for a request: an external authorizer is asked before the app is dialled. */
  #askTcp(): void {
    const path = this.#path;
    const connection = this.#connection;
    const { snapshot } = path;
    const { facts } = connection;
    if (snapshot === null || facts === null) return;
    const asked = snapshot.authorization.ask(facts, null);
    const provider = asked !== null && 'provider' in asked ? providerOf(snapshot, asked) : asked;
    if (provider !== null && 'allowed' in provider) {
      this.#refuse('policy_denied', provider.detail, provider.policy);
      return;
    }
    // An HTTP provider has no say over TCP (pilot's `buildTCP`).
    if (asked === null || provider === null || provider.protocol === 'http') {
      this.#admitTcp(snapshot);
      return;
    }
    const abort = new AbortController();
    this.#asking = abort;
    path.extAuthz
      .check(provider, checkRequestOf(path, connection, facts, null), abort.signal)
      // A fault of ours is none of the authorizer's: failOpen must not excuse it.
      .catch((error: Error) => ({ kind: 'denied', why: error.message }) as const)
      .then((answer) => {
        this.#asking = null;
        if (connection.closed || connection.refusal !== null) return;
        path.metrics.externalChecks[answer.kind]++;
        const { policy } = asked as Ask;
        if (answer.kind === 'denied') {
          const detail = answer.why === undefined ? ' denied the connection' : `: ${answer.why}`;
          this.#refuse('ext_authz_denied', `${provider.name}${detail}`, policy);
        } else if (answer.kind === 'failed' && !provider.failOpen) {
          this.#refuse('ext_authz_failed', `${provider.name}: ${answer.reason}`, policy);
        } else {
          if (answer.kind === 'failed') path.failedOpen(connection, `${provider.name}: ${answer.reason}`);
          this.#admitTcp(snapshot);
        }
      });
  }

  /** @param snapshot the one that CUSTOM policies were asked of */
  #admitTcp(snapshot: Snapshot): void {
    const path = this.#path;
    const connection = this.#connection;
    const { facts } = connection;
    if (facts !== null && snapshot.authorization.observe !== null)
      observe({ path, connection, facts, snapshot }, null);
    if (!this.#decideTcp(snapshot)) return;
    dial(
      this.#path,
      { kind: 'app', address: this.#listener.app },
      {
        connected: (upstream) => pipeConnection(this.#path, connection, upstream),
        failed: (reason, detail) => this.#refuse(reason, detail),
      },
    );
  }

  #decideTcp(snapshot: Snapshot): boolean {
    const { facts } = this.#connection;
    if (facts === null) return false;
    const { authorization } = snapshot;
    const decision = authorization.decideConnection(facts);
    if (decision.allowed) return true;
    const explainer = { explain: () => authorization.explain(facts, null, decision) };
    this.#refuse('policy_denied', decision.detail, deniedBy(decision.policy, decision.missed), explainer);
    return false;
  }

  /** Judges by the set now in force: modes, trust and, for TCP, policy. HTTP is decided request by request. */
  #rejudge(tcp: boolean): void {
    const { snapshot } = this.#path;
    if (!this.#connection.closed && this.#stillAdmitted() && tcp && snapshot !== null)
      this.#decideTcp(snapshot);
  }

  #stillAdmitted(): boolean {
    const { snapshot } = this.#path;
    const { peer } = this.#connection;
    const { mode, source } = this.#mode();
    if (peer === null) {
      if (mode !== 'STRICT') return true;
      this.#refuse('plaintext_to_strict', `mode STRICT set by ${source ?? 'default'}`, source);
      return false;
    }
    const mesh = snapshot?.mesh;
    if (peer.trustDomain === mesh?.trustDomain) return true;
    if (mesh?.trustDomainAliases.includes(peer.trustDomain) === true) return true;
    this.#refuse('untrusted_trust_domain', peer.uri);
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
    this.#asking?.abort();
    if (this.#handshaking) this.#refuse('tls_handshake_failed', 'the peer left during the handshake');
    else if (this.#looking !== null) this.#gone(this.#looking.giveUp(), 'reset');
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
