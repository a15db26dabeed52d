/** The outbound side: serveOutbound → chooseRoute → dial → forward. */
import type { Socket } from 'node:net';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Route } from '../mesh/route.ts';
import type { EgressListener } from '../mesh/snapshot.ts';
import type { PeerSeries } from '../telemetry/mesh-metrics.ts';
import { chooseRoute, clusterName, reachEndpoint } from './choose-route.ts';
import type { Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import { detect, looksLikeHttp } from './detect.ts';
import { FirstBytes } from './first-bytes.ts';
import { OutboundHttp, outboundSeries } from './http/outbound-http.ts';
import { HttpForwarder } from './http1/forward.ts';
import { pipeConnection, refuseConnection } from './tcp.ts';

/** Takes a socket the app opened to its end. */
export function serveOutbound(path: DataPath, listener: EgressListener, socket: Socket): void {
  const connection = path.connections.open('outbound', socket, listener.port);
  if (connection === null) {
    path.turnAway(socket, 'outbound', listener.port, 'too_many_connections');
    return;
  }
  new OutboundConnection(path, listener, connection).start();
}

class OutboundConnection {
  #route: Route | null = null;
  readonly #path: DataPath;
  readonly #listener: EgressListener;
  readonly #connection: Connection;
  constructor(path: DataPath, listener: EgressListener, connection: Connection) {
    this.#path = path;
    this.#listener = listener;
    this.#connection = connection;
  }

  start(): void {
    const { socket } = this.#connection;
    socket.on('error', ignore);
    socket.once('close', () => this.#closed());
    const { protocol, hosts } = this.#listener;
    if (protocol === 'http') this.#serveHttp();
    // One host and no HTTP: a server-first protocol must not wait for the app's first byte.
    else if (protocol === 'tcp' && hosts.length === 1) this.#serveTcp(null);
    else {
      const ended = (bytes: Buffer): void => {
        this.#connection.early = bytes;
        if (bytes.length === 0) socket.end();
        else this.#serveTcp(null);
      };
      const looking = new FirstBytes(socket, (bytes) => this.#detect(bytes), ended);
      looking.start();
      this.#connection.expire(this.#path.limits.handshakeTimeout, () => {
        // An app that waits for a server-first protocol, or one with a short first line. Unlike inbound no
        // policy is passed by: this only picks a route for our own app.
        looking.giveUp();
        this.#serveTcp(null);
      });
    }
  }

  #detect(bytes: Buffer): boolean {
    const detected = detect(bytes);
    const { maxClientHello } = this.#path.limits;
    if (detected.kind === 'more' && bytes.length <= maxClientHello) return false;
    if (detected.kind === 'plaintext' && this.#listener.protocol === 'auto') {
      const said = looksLikeHttp(bytes);
      if (said === 'more') return false;
      if (said === 'http') {
        queueMicrotask(() => this.#serveHttp());
        return true;
      }
    }
    const sni = detected.kind === 'tls' ? detected.sni : null;
    queueMicrotask(() => this.#serveTcp(sni));
    return true;
  }

  #serveHttp(): void {
    const connection = this.#connection;
    if (connection.closed) return;
    const side = new OutboundHttp(this.#path, connection, this.#listener);
    const forwarder = new HttpForwarder(connection, side);
    side.carrier = forwarder;
    connection.carrier = forwarder;
  }

  #serveTcp(sni: string | null): void {
    const connection = this.#connection;
    if (connection.closed) return;
    connection.sni = sni;
    connection.socket.pause();
    connection.expireIdle(this.#path.limits.idleTimeout, () => this.#refuse('idle_timeout', ''));
    const route = chooseRoute(this.#path.snapshot, this.#listener, sni);
    if (route === null) {
      this.#refuse('no_route', `${sni ?? this.#listener.hosts.join(', ')} port ${this.#listener.port}`);
      return;
    }
    this.#route = route;
    connection.cluster = clusterName(route);
    reachEndpoint(
      this.#path,
      { route, http: false, fresh: true },
      {
        connected: (upstream, endpoint) => {
          const series = outboundSeries(this.#path, route, endpoint.workload, upstream);
          this.#label(series);
          pipeConnection(this.#path, connection, upstream);
        },
        failed: (reason, detail) => this.#refuse(reason, detail),
      },
    );
  }

  #label(series: PeerSeries): void {
    series.retain();
    series.connectionsOpened++;
    this.#connection.series = series;
  }

  #refuse(reason: ReasonCode, detail: string): void {
    const connection = this.#connection;
    if (this.#route !== null && connection.series === null && connection.refusal === null) {
      // Every connection is counted, also one that reached nobody.
      this.#label(outboundSeries(this.#path, this.#route, null, null));
    }
    refuseConnection(this.#path, this.#connection, reason, { detail });
  }

  #closed(): void {
    if (this.#path.connections.close(this.#connection)) this.#connection.series?.release();
  }
}

function ignore(): void {}
