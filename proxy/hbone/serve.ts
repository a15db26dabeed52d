/** The inbound HBONE port: mutual TLS always, then a tunnel, each of whose streams is served as a connection of its own. */
import type { Socket } from 'node:net';
import type { ReasonCode } from '../../mesh/reasons.ts';
import { ingressOf, listenerAt } from '../captured-inbound.ts';
import { ConnectionLink, type LinkOwner } from '../connection-link.ts';
import { type Carrier, type Connection, unmapped } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import { detect, firstByteClass } from '../detect.ts';
import { FirstBytes } from '../first-bytes.ts';
import { type InboundListener, serveTunnelled } from '../inbound.ts';
import { seenBytes } from '../seen-handshake.ts';
import { refuseConnection } from '../tcp.ts';
import type { VerifiedPeer } from '../verify-peer.ts';
import { type ConnectHead, readAddress } from './connect.ts';
import type { StreamAddresses, TunnelStream } from './stream.ts';
import { Tunnel, type TunnelEnd, type TunnelKeeper } from './tunnel.ts';

/** Where HBONE is taken. */
export interface HboneListener {
  /** As peers know it. */
  readonly port: number;
  /** Rules of capture stand: the app is dialled as they let pass. */
  readonly captures: boolean;
  /** True for a port that a listener of ours has: what is sent there would come back to us. */
  isOurs(port: number): boolean;
}

/** Takes an accepted socket to its end. */
export function serveHbone(path: DataPath, listener: HboneListener, socket: Socket): void {
  const connection = path.connections.open('inbound', socket, listener.port);
  if (connection === null) {
    path.turnAway(socket, 'inbound', listener.port, 'too_many_connections');
    return;
  }
  new HboneConnection(path, listener, connection, socket).start();
}

class HboneConnection implements Carrier, TunnelKeeper, LinkOwner {
  readonly #path: DataPath;
  readonly #listener: HboneListener;
  readonly #connection: Connection;
  readonly #socket: Socket;
  #looking: FirstBytes | null = null;
  #handshaking = false;
  #tunnel: Tunnel | null = null;
  #peer: VerifiedPeer | null = null;
  #link: ConnectionLink | null = null;

  constructor(path: DataPath, listener: HboneListener, connection: Connection, socket: Socket) {
    this.#path = path;
    this.#listener = listener;
    this.#connection = connection;
    this.#socket = socket;
  }

  start(): void {
    const connection = this.#connection;
    this.#socket.on('error', ignore);
    this.#socket.once('close', () => this.#closed());
    this.#looking = new FirstBytes(
      this.#socket,
      (bytes) => this.#detect(bytes),
      (bytes) => this.#refuse(bytes.length === 0 ? 'closed_unused' : 'bad_client_hello', 'closed too early'),
    );
    this.#looking.start();
    connection.expire(this.#path.limits.handshakeTimeout, () => this.#refuse('tls_handshake_timeout', ''));
  }

  retire(): void {
    this.#tunnel?.retire();
  }

  drain(): void {
    this.#tunnel?.retire();
  }

  abort(): void {
    this.#tunnel?.abort('closed by us');
    // TLS may be at work on what the socket read: closing it now would pull that away from under it.
    setImmediate(() => this.#connection.abort());
  }

  /** @returns true once the bytes say enough */
  #detect(bytes: Buffer): boolean {
    const detected = detect(bytes);
    if (detected.kind === 'more' && bytes.length <= this.#path.limits.maxClientHello) return false;
    this.#looking = null;
    if (detected.kind === 'tls') queueMicrotask(() => this.#terminate(detected.alpn));
    else if (detected.kind === 'more') this.#refuse('bad_client_hello', 'ClientHello too long');
    else {
      const kind = firstByteClass(bytes);
      this.#connection.handshake = seenBytes(kind);
      this.#refuse('plaintext_to_hbone', `first bytes: ${kind}`);
    }
    return true;
  }

  #terminate(alpn: readonly string[]): void {
    const { inboundTls } = this.#path;
    const connection = this.#connection;
    if (connection.closed) return;
    connection.deadline = Number.POSITIVE_INFINITY;
    if (inboundTls === null || Date.now() >= inboundTls.credentials.notAfter) {
      this.#refuse('no_credentials', inboundTls === null ? '' : 'ours have expired');
      return;
    }
    this.#handshaking = true;
    inboundTls.terminateHbone(this.#socket, alpn, {
      terminated: (stream, peer) => {
        this.#handshaking = false;
        if (connection.closed) return;
        connection.stream = stream;
        connection.tls = true;
        connection.peer = peer.identity;
        this.#peer = peer;
        this.#serve(peer);
      },
      refused: (reason, detail, facts) => {
        this.#handshaking = false;
        connection.handshake = { ...facts, firstBytes: 'TLS' };
        this.#refuse(reason, detail);
      },
    });
  }

  #serve(peer: VerifiedPeer): void {
    const connection = this.#connection;
    const { links } = this.#path;
    const refused = links.refuses(peer);
    if (refused !== null) {
      this.#refuse(refused.reason, refused.detail);
      return;
    }
    connection.rejudge = () => this.#rejudge();
    if (!this.#rejudge()) return;
    this.#link = new ConnectionLink(connection, peer, this);
    links.add(this.#link);
    const tunnel = new Tunnel('server', connection.stream, this.#path.limits, this);
    // Nobody is let in any more by a certificate of ours that has expired.
    tunnel.notAfter = this.#path.inboundTls?.credentials.notAfter ?? 0;
    this.#tunnel = tunnel;
    connection.carrier = this;
    this.#path.tunnels.keep(tunnel);
    tunnel.start();
    if (this.#path.draining.inbound) tunnel.retire();
  }

  /** The trust it was let in by may be another now; its streams are judged as connections. */
  #rejudge(): boolean {
    const { peer, closed } = this.#connection;
    if (closed || peer === null) return false;
    if (this.#path.trusts(peer)) return true;
    this.#refuse('untrusted_trust_domain', peer.uri);
    return false;
  }

  // ---- LinkOwner

  linkRetires(): void {
    this.#tunnel?.retire();
  }

  linkEnds(reason: ReasonCode, detail: string): void {
    this.#refuse(reason, detail);
  }

  // ---- TunnelKeeper

  addressesOf({ authority }: ConnectHead): StreamAddresses {
    const { remoteAddress, remotePort } = this.#connection;
    const meant = readAddress(authority);
    return {
      remoteAddress,
      remotePort,
      localAddress: meant?.host ?? '',
      localPort: meant?.port ?? 0,
    };
  }

  asked(_tunnel: Tunnel, stream: TunnelStream, head: ConnectHead): void {
    const listener = this.#listenerFor(stream, head);
    const peer = this.#peer;
    if (typeof listener === 'string' || peer === null) {
      this.#path.refused(this.#connection, 'bad_connect', {
        detail: String(listener),
        request: `${head.method} ${head.authority}`.slice(0, 300),
      });
      stream.refuse(400);
    } else serveTunnelled(this.#path, listener, stream, peer, head.alpn);
  }

  roomChanged(): void {}

  closed(tunnel: Tunnel, { fault, detail }: TunnelEnd): void {
    this.#path.tunnels.release(tunnel);
    if (fault !== null) this.#path.refused(this.#connection, 'tunnel_broken', { detail });
  }

  /** Where a CONNECT leads; a string says why nowhere. */
  #listenerFor({ localAddress, localPort }: TunnelStream, { method }: ConnectHead): InboundListener | string {
    const { snapshot } = this.#path;
    if (method !== 'CONNECT') return 'nothing but CONNECT is served here';
    if (snapshot === null || localPort === 0) return 'the authority is no address and port';
    const port = localPort;
    const ours = snapshot.workload.addresses.some((address) => sameAddress(address, localAddress));
    if (!ours && !sameAddress(this.#connection.localAddress, localAddress))
      return `${localAddress} is not this workload's: it has ${snapshot.workload.addresses.join(', ')}`;
    const { captures } = this.#listener;
    if (ingressOf(snapshot, port) === null) {
      if (this.#listener.isOurs(port)) return `port ${port} is the sidecar's own`;
      // Others may live at this address, too: on one machine every workload is at 127.0.0.1. What is captured is ours.
      const shared =
        isLoopback(localAddress) || (!captures && snapshot.workloadByAddress(localAddress) === null);
      if (shared && !snapshot.declaresPort(port))
        return `port ${port} is declared by no service of this workload, and others share its address`;
    }
    return listenerAt(snapshot, { address: localAddress, port }, captures);
  }

  #refuse(reason: ReasonCode, detail: string): void {
    this.#looking?.giveUp();
    this.#looking = null;
    refuseConnection(this.#path, this.#connection, reason, { detail });
  }

  #closed(): void {
    if (this.#handshaking) this.#refuse('tls_handshake_failed', 'the peer left during the handshake');
    else if (this.#looking !== null) this.#refuse('bad_client_hello', 'reset');
    if (this.#link !== null) this.#path.links.remove(this.#link);
    this.#path.connections.close(this.#connection);
  }
}

function sameAddress(one: string, other: string): boolean {
  return unmapped(one) === unmapped(other);
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

function ignore(): void {}
