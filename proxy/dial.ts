/** Reaching an upstream: the app beside us, or a peer over mTLS; a pool keeps what can be used again. */
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Limits } from '../mesh/limits.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Endpoint, EndpointTunnel, RouteTls } from '../mesh/route.ts';
import type { AppAddress } from '../mesh/snapshot.ts';
import { hostPort } from '../mesh/text.ts';
import type { Protocol } from '../mesh/workload.ts';
import { abortStream, type ConnectionSocket } from './connections.ts';
import { hear } from './hear.ts';
import type { CertificateLife, Links } from './links.ts';
import type { HandshakeCounts } from './mesh-tls.ts';
import type { AskedTls, OriginateDone } from './outbound-handshake.ts';
import type { HandshakeFacts } from './seen-handshake.ts';
import type { BindFrom } from './setup/bound-socket.ts';
import { originateExternal, type TlsFiles } from './tls-external.ts';
import type { OutboundTls, UpstreamProtocol } from './tls-outbound.ts';
import { Told } from './told.ts';
import { type LinkedUpstream, register } from './upstream-link.ts';
import type { VerifiedPeer } from './verify-peer.ts';

/** Who serves an exchange, for log and metrics: a connection of its own, or an HTTP/2 session that many share. */
export interface Reached {
  readonly peer: VerifiedPeer | null;
  /** `host:port` for the log. */
  readonly address: string;
  /** Our end, `host:port`, for the log. */
  readonly localAddress: string;
  /** Exchanges begun on it before this one. */
  readonly uses: number;
  readonly told: Told;
}

/** Why an upstream ended, where more is known than that it did. */
export class UpstreamBroken extends Error {
  readonly reason: ReasonCode;
  /** It went under with a connection kept from before: the request may be sent again if its method allows it. */
  readonly stale: boolean;

  constructor(reason: ReasonCode, detail: string, stale: boolean) {
    super(detail);
    this.reason = reason;
    this.stale = stale;
  }
}

/** Listens to an upstream for as long as it has it: an exchange, or the pool between two. */
export interface UpstreamUser {
  upstreamData(upstream: Upstream, chunk: Buffer): void;
  /** It ended its side (FIN). */
  upstreamEnd(upstream: Upstream): void;
  /** It is gone; null: without an error of its own. */
  upstreamClosed(upstream: Upstream, error: Error | null): void;
  /** What was written has left. */
  upstreamDrain(upstream: Upstream): void;
}

/** A live upstream connection. */
export class Upstream implements Reached, LinkedUpstream {
  readonly stream: Duplex;
  /** What is under it: the TCP connection, or the tunnel's stream that stands for one. */
  readonly socket: ConnectionSocket;
  /** Pool key; connections of one key are interchangeable. */
  readonly key: string;
  readonly peer: VerifiedPeer | null;
  readonly address: string;
  readonly localAddress: string;
  readonly target: DialTarget;
  readonly told = new Told();
  /** Of the context when it was dialled: one of an older trust or registry is not pooled. */
  readonly generation: number;
  /** The tunnel it is a stream of; null: it is a connection of its own. */
  readonly tunnel: { readonly leaving: boolean } | null;
  uses = 0;
  idleSince = 0;
  /** Its peer's certificate is near its end. */
  retired = false;
  /** Why we ended it under whoever uses it; null: we have not. */
  broken: UpstreamBroken | null = null;
  #user: UpstreamUser | null = null;
  #heard = false;

  constructor(fields: {
    stream: Duplex;
    socket: ConnectionSocket;
    target: DialTarget;
    peer: VerifiedPeer | null;
    address: string;
    generation: number;
    tunnel?: { readonly leaving: boolean };
  }) {
    this.stream = fields.stream;
    this.socket = fields.socket;
    this.target = fields.target;
    this.key = poolKey(fields.target);
    this.peer = fields.peer;
    this.address = fields.address;
    this.generation = fields.generation;
    this.tunnel = fields.tunnel ?? null;
    const { localAddress, localPort } = fields.socket;
    this.localAddress =
      localPort === undefined ? '' : addressText({ host: localAddress ?? '', port: localPort });
  }

  /**
   * Hands it to its next user, or to nobody. It is listened to once and for all: adding and removing five
   * listeners a request costs more than asking whose turn it is.
   */
  use(user: UpstreamUser | null): void {
    this.#user = user;
    if (this.#heard || user === null) return;
    this.#heard = true;
    const { stream } = this;
    hear(stream, (piece) => this.#user?.upstreamData(this, piece));
    stream.on('end', () => this.#user?.upstreamEnd(this));
    stream.on('error', (error: Error) => this.#user?.upstreamClosed(this, this.broken ?? error));
    stream.on('close', () => this.#user?.upstreamClosed(this, this.broken));
    stream.on('drain', () => this.#user?.upstreamDrain(this));
    // It may have ended before anyone listened: right behind its TLS handshake.
    if (stream.readableEnded) queueMicrotask(() => this.#user?.upstreamEnd(this));
  }

  /** It serves what it serves, and nothing new. */
  get leaving(): boolean {
    return this.retired || this.tunnel?.leaving === true;
  }

  abort(): void {
    abortStream(this.stream, this.socket);
  }

  /** Takes nothing new. Who keeps it looks at `leaving`; who knows but its stream hears `leaving` of that. */
  retire(): void {
    this.retired = true;
    this.stream.emit('leaving');
  }

  /** Aborts it; why is `broken` from then on, for whoever hears of its end. */
  break(reason: ReasonCode, detail: string): void {
    if (this.stream.destroyed) return;
    this.broken = new UpstreamBroken(reason, detail, false);
    this.abort();
  }
}

export interface DialDone {
  connected(upstream: Upstream): void;
  failed(reason: ReasonCode, detail: string): void;
}

/** Somebody who is being reached. */
export interface Reaching {
  /** Gives it up: nobody is called back. Safe at any time. */
  cancel(): void;
}

/** What is dialled and how. */
export type DialTarget = AppTarget | PeerTarget | TunnelTarget;

export interface AppTarget {
  readonly kind: 'app';
  readonly address: AppAddress;
  readonly protocol: UpstreamProtocol;
}

export interface PeerTarget {
  readonly kind: 'peer';
  readonly endpoint: Endpoint;
  readonly tls: RouteTls;
  readonly protocol: UpstreamProtocol;
}

/** A tunnel to a peer: what carries the connections of many `PeerTarget`s. */
export interface TunnelTarget {
  readonly kind: 'tunnel';
  readonly address: AppAddress;
  /** Never empty. */
  readonly expectedIdentities: readonly string[];
  readonly protocol: 'hbone';
}

/**
 * The version an HTTP upstream is spoken to in (pilot's `setUpstreamProtocol`): as the port was declared; where nobody
 * did, as the downstream came.
 * @param came `Exchange.protocol` of the request
 */
export function upstreamVersion(declared: Protocol, came: string): 'http1' | 'http2' {
  if (declared === 'http2') return 'http2';
  return declared === 'auto' && came === 'HTTP/2' ? 'http2' : 'http1';
}

export interface DialContext {
  /** Counts up with credentials and resources: see `Upstream.generation`. */
  readonly generation: number;
  readonly limits: Limits;
  /** Null while we have no credentials. */
  readonly outboundTls: OutboundTls | null;
  readTlsFiles(tls: RouteTls): TlsFiles;
  /** Of those we make. */
  readonly handshakeCounts: HandshakeCounts;
  /** Told of each handshake of ours that failed. @param address the upstream's `host:port` */
  handshakeFailed(address: string, tls: AskedTls, failure: DialFailure): void;
  /** Where connections that rest on a peer's certificate are registered. */
  readonly links: Links;
  /** Opens streams for endpoints that are reached by HBONE. */
  readonly tunnels: TunnelDialler;
  /** Makes sockets for apps that are dialled from a given address; null: there are none, or libuv does. */
  readonly bindFrom: BindFrom | null;
}

/** Why a dial failed. */
export interface DialFailure {
  readonly reason: ReasonCode;
  readonly detail: string;
  /** Null where TLS had nothing to say: a time-out, a peer that left. */
  readonly facts: HandshakeFacts | null;
}

/** Whoever keeps the tunnels. */
export interface TunnelDialler {
  enter(target: PeerTarget, tunnel: EndpointTunnel, done: DialDone): Reaching;
}

/** Made once for each: a target goes from request to request. */
const keys = new WeakMap<DialTarget, string>();

/** Interchangeable connections have one key: same address, same protocol, same TLS, same expectations. */
export function poolKey(target: DialTarget): string {
  let key = keys.get(target);
  if (key === undefined) {
    key = keyOf(target);
    keys.set(target, key);
  }
  return key;
}

function keyOf(target: DialTarget): string {
  const { protocol } = target;
  if (target.kind !== 'peer') {
    const { address } = target;
    const from = 'path' in address || address.from === undefined ? '' : ` from ${address.from}`;
    return `${target.kind} ${protocol} ${addressText(address)}${from}`;
  }
  const { endpoint, tls } = target;
  const address = `${endpoint.tls} ${protocol} ${endpoint.address}:${endpoint.port}`;
  if (endpoint.tls === 'DISABLE') return address;
  const names = `${tls.sni ?? ''} ${tls.expectedIdentities.join(' ')}`;
  if (endpoint.tls === 'ISTIO_MUTUAL') return `${address} ${names}`;
  // Two rules may go to one address as two clients.
  const { clientCertificate, privateKey, caCertificates, caCrl, insecureSkipVerify } = tls;
  return `${address} ${names} ${[clientCertificate, privateKey, caCertificates, caCrl, insecureSkipVerify].join(' ')}`;
}

/** A WorkloadEntry's address may be a Unix socket. */
export function endpointAddress({ address, port }: Endpoint): AppAddress {
  return address.startsWith('unix://') ? { path: address.slice(7) } : { host: address, port };
}

export function addressText(address: AppAddress): string {
  return 'path' in address ? `unix://${address.path}` : hostPort(address.host, address.port);
}

/**
 * Connects, speaks TLS where the endpoint asks for it, and verifies who answered; or opens a stream of a tunnel where
 * it is reached by that. One call back, within the connect time-out.
 */
export function dial(context: DialContext, target: DialTarget, done: DialDone): Reaching {
  if (target.kind === 'peer' && target.endpoint.tunnel !== null)
    return context.tunnels.enter(target, target.endpoint.tunnel, done);
  const address = target.kind === 'peer' ? endpointAddress(target.endpoint) : target.address;
  const attempt = new Attempt(context, target, address, done);
  attempt.start();
  return attempt;
}

class Attempt implements OriginateDone, Reaching {
  readonly #context: DialContext;
  readonly #target: DialTarget;
  readonly #address: AppAddress;
  readonly #done: DialDone;
  readonly #timer: NodeJS.Timeout;
  readonly #socket: Socket;
  #settled = false;
  /** What TLS was asked for, once it was. */
  #asked: AskedTls | null = null;
  /** What came of it. */
  #upstream: Upstream | null = null;
  readonly #generation: number;
  readonly #onClose = (): void => this.#fail(this.#connectReason(), 'closed during the handshake');

  constructor(context: DialContext, target: DialTarget, address: AppAddress, done: DialDone) {
    this.#context = context;
    this.#generation = context.generation;
    this.#target = target;
    this.#address = address;
    this.#done = done;
    this.#socket = connect({ ...whereTo(context, address), allowHalfOpen: true, noDelay: true });
    this.#timer = setTimeout(() => this.#timedOut(), context.limits.connectTimeout);
  }

  start(): void {
    this.#socket.once('connect', () => this.#connected());
    this.#socket.on('error', (error: NodeJS.ErrnoException) =>
      this.#fail(this.#connectReason(), describe(error)),
    );
    this.#socket.once('close', this.#onClose);
  }

  cancel(): void {
    if (this.#settle()) this.#socket.destroy();
  }

  originated(stream: Duplex, peer: VerifiedPeer | null, external: CertificateLife | null): void {
    // The trust it was verified by may be another now.
    const refused = peer === null ? null : this.#context.links.refuses(peer);
    if (refused === null) this.#succeed(stream, peer, external);
    else this.#fail(refused.reason, refused.detail);
  }

  refused(reason: ReasonCode, detail: string, facts: HandshakeFacts): void {
    this.#fail(reason, detail, facts);
  }

  refusedUs(detail: string, facts: HandshakeFacts, proven: boolean): void {
    const failure = { reason: 'tls_handshake_failed', detail, facts } as const;
    if (proven && !this.#settled) this.#fail(failure.reason, detail, facts);
    else if (this.#asked !== null)
      this.#context.handshakeFailed(addressText(this.#address), this.#asked, failure);
    // Before whoever uses it hears of its end.
    if (proven && this.#upstream !== null)
      this.#upstream.broken ??= new UpstreamBroken(failure.reason, detail, false);
  }

  #connectReason(): ReasonCode {
    return this.#target.kind === 'app' ? 'app_unreachable' : 'connect_failed';
  }

  #timedOut(): void {
    const reason = this.#socket.connecting ? this.#connectReason() : 'tls_handshake_timeout';
    this.#fail(reason, `no answer within ${this.#context.limits.connectTimeout} ms`);
  }

  #connected(): void {
    const target = this.#target;
    if (target.kind === 'app' || (target.kind === 'peer' && target.endpoint.tls === 'DISABLE')) {
      this.#succeed(this.#socket, null, null);
      return;
    }
    if (target.kind === 'tunnel') {
      // ztunnel sends no server name either: who is meant is in each CONNECT.
      this.#originate({ sni: null, expectedIdentities: target.expectedIdentities }, target.protocol);
      return;
    }
    const { tls, protocol, endpoint } = target;
    if (endpoint.tls === 'ISTIO_MUTUAL') {
      this.#originate(tls, protocol);
      return;
    }
    if (tls.credentialName !== null) {
      this.#fail(
        'bad_tls_files',
        `credentialName ${tls.credentialName} is a Kubernetes secret; name files instead`,
      );
      return;
    }
    try {
      const files = this.#context.readTlsFiles(tls);
      originateExternal(this.#socket, { tls, protocol, files }, this.#context.handshakeCounts, this);
      this.#asked = tls;
    } catch (error) {
      this.#fail('bad_tls_files', (error as Error).message);
    }
  }

  #originate(tls: AskedTls, protocol: UpstreamProtocol | 'hbone'): void {
    const outbound = this.#context.outboundTls;
    if (outbound === null) this.#fail('no_credentials', '');
    else if (Date.now() >= outbound.credentials.notAfter) this.#fail('no_credentials', 'ours have expired');
    else {
      this.#asked = tls;
      outbound.originate(this.#socket, { tls, protocol, address: addressText(this.#address) }, this);
    }
  }

  #succeed(stream: Duplex, peer: VerifiedPeer | null, external: CertificateLife | null): void {
    if (!this.#settle()) return;
    this.#socket.off('close', this.#onClose);
    const upstream = new Upstream({
      stream,
      socket: this.#socket,
      target: this.#target,
      peer,
      address: addressText(this.#address),
      generation: this.#generation,
    });
    this.#upstream = upstream;
    register(this.#context.links, upstream, external);
    this.#done.connected(upstream);
  }

  /** @returns false where it was over before */
  #settle(): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    clearTimeout(this.#timer);
    return true;
  }

  #fail(reason: ReasonCode, detail: string, facts: HandshakeFacts | null = null): void {
    if (!this.#settle()) return;
    this.#socket.destroy();
    const address = addressText(this.#address);
    if (this.#asked !== null) this.#context.handshakeFailed(address, this.#asked, { reason, detail, facts });
    this.#done.failed(reason, detail === '' ? address : `${address}: ${detail}`);
  }
}

/** As `net.connect` takes it. */
function whereTo({ bindFrom }: DialContext, address: AppAddress): NetConnectOpts {
  if ('path' in address || address.from === undefined) return address;
  const { host, port, from } = address;
  const fd = bindFrom?.(from) ?? null;
  // Where none was made, libuv comes to the same end, and says why.
  return fd === null ? { host, port, localAddress: from } : ({ host, port, fd } as NetConnectOpts);
}

function describe(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message;
}
