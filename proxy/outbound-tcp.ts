/** An app's TCP connection on its way to an endpoint: routed, dialled, counted; kept back until it is known to be TCP. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Endpoint, Route } from '../mesh/route.ts';
import type { Workload } from '../mesh/workload.ts';
import { blackHole, clusterName, reachEndpoint } from './choose-route.ts';
import type { Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import type { Reaching, Upstream } from './dial.ts';
import { outboundSeries } from './http/outbound-http.ts';
import type { OutboundListener } from './outbound-listener.ts';
import { holdBack, letFlow, pipeConnection } from './tcp.ts';
import { closeUpstream, WaitingUpstream } from './waiting-upstream.ts';

export interface OutboundTcpEvents {
  /** Only once it was committed to. */
  refused(reason: ReasonCode, detail: string): void;
  /** The upstream said something, or ended, before anybody committed. What it said is kept. */
  spoke(): void;
}

export class OutboundTcp {
  readonly #path: DataPath;
  readonly #connection: Connection;
  readonly #listener: OutboundListener;
  readonly #events: OutboundTcpEvents;
  #route: Route | null = null;
  #endpoint: Endpoint | null = null;
  committed = false;
  #dialling = false;
  #reaching: Reaching | null = null;
  #over = false;
  /** Reached before anybody committed. */
  #waiting: WaitingUpstream | null = null;
  /** Nobody was reached, before anybody committed. */
  failed = false;

  constructor(path: DataPath, connection: Connection, listener: OutboundListener, events: OutboundTcpEvents) {
    this.#path = path;
    this.#connection = connection;
    this.#listener = listener;
    this.#events = events;
  }

  /** Reaches for the upstream before anybody knows what is spoken: nothing moves either way. */
  prepare(): void {
    this.#open(null);
  }

  /**
   * It is TCP: joins both sides as soon as somebody is reached.
   * @param sni chooses among several hosts
   */
  commit(sni: string | null): void {
    const connection = this.#connection;
    this.committed = true;
    const waiting = this.#waiting;
    if (waiting !== null) {
      this.#join(waiting.take(), waiting.said);
      return;
    }
    // One that leaves while somebody is reached for is noticed at once.
    holdBack(connection.stream);
    if (!this.#dialling) this.#open(sni);
  }

  /** It is something else, or over. */
  drop(): void {
    this.#over = true;
    this.#reaching?.cancel();
    this.#waiting?.close();
  }

  /** Counts a connection that reached nobody under the service it was for. */
  countUnreached(): void {
    if (this.committed && this.#route !== null && this.#connection.series === null)
      this.#label(this.#route, null, null);
  }

  #open(sni: string | null): void {
    const listener = this.#listener;
    const route = listener.tcpRoute(this.#path.snapshot, sni);
    this.#route = route ?? blackHole('unknown', listener.port);
    if (route === null) {
      this.#refuse('no_route', listener.describe(sni));
      return;
    }
    this.#dialling = true;
    this.#reaching = reachEndpoint(
      this.#path,
      { route, protocol: 'tcp', fresh: true, lost: null },
      {
        connected: (upstream, endpoint) => this.#connected(upstream, endpoint),
        failed: (reason, detail) => this.#refuse(reason, detail),
      },
    );
  }

  #connected(upstream: Upstream, endpoint: Endpoint): void {
    this.#dialling = false;
    this.#endpoint = endpoint;
    if (this.#over || this.#connection.closed || this.#connection.refusal !== null) closeUpstream(upstream);
    else if (this.committed) this.#join(upstream, null);
    else {
      this.#waiting = new WaitingUpstream(upstream, {
        spoke: () => this.#events.spoke(),
        lost: () => {
          this.#waiting = null;
        },
      });
      this.#waiting.start();
    }
  }

  #join(upstream: Upstream, said: Buffer | null): void {
    const route = this.#route;
    this.#waiting = null;
    if (route === null) return;
    this.#label(route, this.#endpoint?.workload ?? null, upstream);
    letFlow(this.#connection.stream);
    pipeConnection(this.#path, this.#connection, upstream, said);
  }

  #label(route: Route, workload: Workload | null, upstream: Upstream | null): void {
    const connection = this.#connection;
    const series = outboundSeries(this.#path, route, workload, upstream);
    connection.cluster = clusterName(route);
    series.retain();
    series.connectionsOpened++;
    connection.series = series;
  }

  #refuse(reason: ReasonCode, detail: string): void {
    this.#dialling = false;
    if (this.#over) return;
    if (this.committed) this.#events.refused(reason, detail);
    else this.failed = true;
  }
}
