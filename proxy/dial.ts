/** Reaching an upstream: the app beside us, or a peer over mTLS; a pool keeps what can be used again. */
import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Limits } from '../mesh/limits.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Endpoint, RouteTls } from '../mesh/route.ts';
import type { AppAddress } from '../mesh/snapshot.ts';
import { abortStream } from './connections.ts';
import { type OriginateDone, type OutboundTls, originateExternal, type TlsFiles } from './tls-outbound.ts';
import type { VerifiedPeer } from './verify-peer.ts';

/** A live upstream connection. */
export class Upstream {
  readonly stream: Duplex;
  readonly socket: Socket;
  /** Pool key; connections of one key are interchangeable. */
  readonly key: string;
  readonly peer: VerifiedPeer | null;
  /** `host:port` for the log. */
  readonly address: string;
  /** Our end, `host:port`, for the log. */
  readonly localAddress: string;
  /** Of the context when it was dialled: one of an older trust or registry is not pooled. */
  readonly generation: number;
  /** Exchanges served before this one. */
  uses = 0;
  idleSince = 0;
  /** Set while pooled: any event then retires it, through this one listener. */
  pooled = false;
  onIdleEvent: (() => void) | null = null;

  constructor(fields: {
    stream: Duplex;
    socket: Socket;
    key: string;
    peer: VerifiedPeer | null;
    address: string;
    generation: number;
  }) {
    this.stream = fields.stream;
    this.socket = fields.socket;
    this.key = fields.key;
    this.peer = fields.peer;
    this.address = fields.address;
    this.generation = fields.generation;
    const { localAddress, localPort } = fields.socket;
    this.localAddress =
      localPort === undefined ? '' : addressText({ host: localAddress ?? '', port: localPort });
  }

  abort(): void {
    abortStream(this.stream, this.socket);
  }
}

export interface DialDone {
  connected(upstream: Upstream): void;
  failed(reason: ReasonCode, detail: string): void;
}

/** What is dialled and how. */
export type DialTarget =
  | { readonly kind: 'app'; readonly address: AppAddress }
  | {
      readonly kind: 'peer';
      readonly endpoint: Endpoint;
      readonly tls: RouteTls;
      readonly http: boolean;
    };

export interface DialContext {
  /** Counts up with credentials and resources: see `Upstream.generation`. */
  readonly generation: number;
  readonly limits: Limits;
  /** Null while we have no credentials. */
  readonly outboundTls: OutboundTls | null;
  readTlsFiles(tls: RouteTls): TlsFiles;
}

/** Interchangeable connections have one key: same address, same TLS, same expectations. */
export function poolKey(target: DialTarget): string {
  if (target.kind === 'app') return `app ${addressText(target.address)}`;
  const { endpoint, tls, http } = target;
  const address = `${endpoint.tls} ${http ? 'http' : 'tcp'} ${endpoint.address}:${endpoint.port}`;
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
  if ('path' in address) return `unix://${address.path}`;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** Connects, speaks TLS where the endpoint asks for it, and verifies who answered; one call back, within the connect time-out. */
export function dial(context: DialContext, target: DialTarget, done: DialDone): void {
  const address = target.kind === 'app' ? target.address : endpointAddress(target.endpoint);
  const attempt = new Attempt(context, target, address, done);
  attempt.start();
}

class Attempt implements OriginateDone {
  readonly #context: DialContext;
  readonly #target: DialTarget;
  readonly #address: AppAddress;
  readonly #done: DialDone;
  readonly #timer: NodeJS.Timeout;
  readonly #socket: Socket;
  #settled = false;
  readonly #generation: number;
  readonly #onClose = (): void => this.#fail(this.#connectReason(), 'closed during the handshake');

  constructor(context: DialContext, target: DialTarget, address: AppAddress, done: DialDone) {
    this.#context = context;
    this.#generation = context.generation;
    this.#target = target;
    this.#address = address;
    this.#done = done;
    this.#socket = connect({ ...address, allowHalfOpen: true, noDelay: true });
    this.#timer = setTimeout(() => this.#timedOut(), context.limits.connectTimeout);
  }

  start(): void {
    this.#socket.once('connect', () => this.#connected());
    this.#socket.on('error', (error: NodeJS.ErrnoException) =>
      this.#fail(this.#connectReason(), describe(error)),
    );
    this.#socket.once('close', this.#onClose);
  }

  originated(stream: Duplex, peer: VerifiedPeer | null): void {
    this.#succeed(stream, peer);
  }

  refused(reason: ReasonCode, detail: string): void {
    this.#fail(reason, detail);
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
    if (target.kind === 'app' || target.endpoint.tls === 'DISABLE') {
      this.#succeed(this.#socket, null);
      return;
    }
    const { tls, http, endpoint } = target;
    if (endpoint.tls === 'ISTIO_MUTUAL') {
      const outbound = this.#context.outboundTls;
      if (outbound === null) this.#fail('no_credentials', '');
      else if (Date.now() >= outbound.credentials.notAfter) this.#fail('no_credentials', 'ours have expired');
      else outbound.originate(this.#socket, { tls, http, address: addressText(this.#address) }, this);
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
      originateExternal(this.#socket, { tls, http, files }, this);
    } catch (error) {
      this.#fail('bad_tls_files', (error as Error).message);
    }
  }

  #succeed(stream: Duplex, peer: VerifiedPeer | null): void {
    if (this.#settled) return;
    this.#settled = true;
    clearTimeout(this.#timer);
    this.#socket.off('close', this.#onClose);
    this.#done.connected(
      new Upstream({
        stream,
        socket: this.#socket,
        key: poolKey(this.#target),
        peer,
        address: addressText(this.#address),
        generation: this.#generation,
      }),
    );
  }

  #fail(reason: ReasonCode, detail: string): void {
    if (this.#settled) return;
    this.#settled = true;
    clearTimeout(this.#timer);
    this.#socket.destroy();
    this.#done.failed(
      reason,
      detail === '' ? addressText(this.#address) : `${addressText(this.#address)}: ${detail}`,
    );
  }
}

function describe(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message;
}
