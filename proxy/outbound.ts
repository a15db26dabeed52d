/** The outbound side: serveOutbound → chooseRoute → dial → forward. */
import type { Socket } from 'node:net';
import type { ReasonCode } from '../mesh/reasons.ts';
import { isHttp } from '../mesh/workload.ts';
import type { Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import { detect, spokenIn } from './detect.ts';
import { FirstBytes } from './first-bytes.ts';
import { OutboundHttp } from './http/outbound-http.ts';
import type { OutboundListener } from './outbound-listener.ts';
import { OutboundTcp } from './outbound-tcp.ts';
import { serveHttp } from './serve-http.ts';
import { outboundRace, ServerFirst } from './server-first.ts';
import type { OriginalDestination } from './setup/original-destination.ts';
import { refuseConnection } from './tcp.ts';

/**
 * Takes a socket the app opened to its end.
 * @param original of a captured one
 */
export function serveOutbound(
  path: DataPath,
  listener: OutboundListener,
  socket: Socket,
  original: OriginalDestination | null = null,
): void {
  const connection = path.connections.open('outbound', socket, listener.port, original);
  if (connection === null) {
    path.turnAway(socket, 'outbound', listener.port, 'too_many_connections');
    return;
  }
  new OutboundConnection(path, listener, connection).start();
}

class OutboundConnection {
  readonly #path: DataPath;
  readonly #listener: OutboundListener;
  readonly #connection: Connection;
  readonly #tcp: OutboundTcp;
  /** Set while first bytes are looked at. */
  #looking: FirstBytes | null = null;
  /** Set where the upstream may speak first. */
  #race: ServerFirst | null = null;
  /** The upstream was reached for before the app spoke. */
  #raced = false;

  constructor(path: DataPath, listener: OutboundListener, connection: Connection) {
    this.#path = path;
    this.#listener = listener;
    this.#connection = connection;
    this.#tcp = new OutboundTcp(path, connection, listener, {
      refused: (reason, detail) => this.#refuse(reason, detail),
      spoke: () => this.#race?.spoke(),
    });
  }

  start(): void {
    const { socket } = this.#connection;
    socket.on('error', ignore);
    socket.once('close', () => this.#closed());
    const { protocol, certain } = this.#listener;
    if (isHttp(protocol)) this.#serveHttp(null);
    // One way and no HTTP: a server-first protocol must not wait for the app's first byte.
    else if (protocol === 'tcp' && certain) this.#serveTcp(null);
    else this.#look();
  }

  #look(): void {
    const connection = this.#connection;
    const { limits, snapshot } = this.#path;
    const ended = (bytes: Buffer): void => {
      this.#looking = null;
      this.#race?.stop();
      connection.early = bytes;
      if (bytes.length === 0 && !this.#raced) connection.socket.end();
      else this.#serveTcp(null);
    };
    this.#looking = new FirstBytes(connection.socket, (bytes) => this.#detect(bytes), ended);
    this.#looking.start();
    connection.expire(limits.handshakeTimeout, () => this.#late());
    // Where nothing but the app's bytes can choose the host, nobody can be asked to speak first.
    if (this.#listener.tcpRoute(snapshot, null) === null) return;
    this.#race = new ServerFirst(outboundRace(limits.serverFirstHold), connection.startedTick, {
      silent: () => this.#looking?.length === 0 && !connection.closed,
      prepare: () => {
        this.#raced = true;
        this.#tcp.prepare();
      },
      greet: () => {
        this.#looking?.giveUp();
        this.#serveTcp(null);
      },
    });
    this.#race.start();
  }

  /** The app has not said enough in time. */
  #late(): void {
    const silent = this.#looking?.length === 0;
    if (silent && this.#raced && !this.#tcp.failed) {
      // Whoever speaks next decides; an HTTP client may have opened it long before its first request.
      this.#connection.expireIdle(this.#path.limits.idleTimeout, () => this.#refuse('idle_timeout', ''));
      return;
    }
    // One with a short first line. Unlike inbound no policy is passed by: this only picks a route for our own app.
    this.#looking?.giveUp();
    this.#serveTcp(null);
  }

  #detect(bytes: Buffer): boolean {
    const { maxClientHello, handshakeTimeout } = this.#path.limits;
    this.#race?.stop();
    const detected = detect(bytes);
    const auto = detected.kind === 'plaintext' && this.#listener.protocol === 'auto';
    // A word that waits for its answer, as ZooKeeper's `ruok`, must not wait here: this only picks a route.
    const spoken = auto ? spokenIn(bytes, 'in use') : 'tcp';
    if (spoken === 'more' || (detected.kind === 'more' && bytes.length <= maxClientHello)) {
      // It was let be silent for as long as it liked; now that it speaks it has to end.
      if (this.#connection.idleMs > 0) this.#connection.expire(handshakeTimeout, () => this.#late());
      return false;
    }
    const sni = detected.kind === 'tls' ? detected.sni : null;
    queueMicrotask(() => {
      if (spoken === 'tcp') this.#serveTcp(sni);
      else this.#serveHttp(spoken);
    });
    return true;
  }

  #serveHttp(version: 'http1' | 'http2' | null): void {
    this.#looking = null;
    this.#tcp.drop();
    const makeSide = (): OutboundHttp => new OutboundHttp(this.#path, this.#connection, this.#listener);
    serveHttp(this.#path, this.#connection, makeSide, version);
  }

  #serveTcp(sni: string | null): void {
    const connection = this.#connection;
    this.#looking = null;
    if (connection.closed) return;
    connection.sni = sni;
    connection.socket.pause();
    connection.expireIdle(this.#path.limits.idleTimeout, () => this.#refuse('idle_timeout', ''));
    this.#tcp.commit(sni);
  }

  #refuse(reason: ReasonCode, detail: string): void {
    this.#race?.stop();
    // Every connection is counted, also one that reached nobody.
    if (this.#connection.refusal === null) this.#tcp.countUnreached();
    refuseConnection(this.#path, this.#connection, reason, { detail });
    this.#tcp.drop();
  }

  #closed(): void {
    const { carrier, refusal } = this.#connection;
    this.#race?.stop();
    if (carrier === null && refusal === null && this.#tcp.committed)
      this.#refuse('downstream_closed', 'before an endpoint was reached');
    this.#tcp.drop();
    if (this.#path.connections.close(this.#connection)) this.#connection.series?.release();
  }
}

function ignore(): void {}
