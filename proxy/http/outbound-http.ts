/** The outbound side of an HTTP connection: each request routed by the registry and carried over mTLS. */
import type { Route } from '../../mesh/route.ts';
import type { Workload } from '../../mesh/workload.ts';
import type { PeerSeries } from '../../telemetry/mesh-metrics.ts';
import { askedName, blackHole, clusterName, idleUpstream, reachEndpoint } from '../choose-route.ts';
import type { Connection } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import { type Reached, type Upstream, upstreamVersion } from '../dial.ts';
import { peerLabels } from '../labels.ts';
import type { OutboundListener } from '../outbound-listener.ts';
import type { Exchange } from './exchange.ts';
import type { RequestHead } from './head.ts';
import type { LocalAnswer } from './local-answer.ts';
import { HttpSideBase, type ReachDone } from './side-base.ts';

export class OutboundHttp extends HttpSideBase {
  readonly #listener: OutboundListener;
  #route: Route | null = null;
  #named: Route | null = null;
  #cluster = '';
  /** The upstream whose load is counted now. */
  #busy: Reached | null = null;

  constructor(path: DataPath, connection: Connection, listener: OutboundListener) {
    super(path, connection);
    this.#listener = listener;
  }

  override judge(head: RequestHead, exchange: Exchange): LocalAnswer | null {
    this.#route = this.#listener.requestRoute(this.path.snapshot, head.host);
    this.addFields(head, exchange, null);
    if (this.#route !== null) {
      exchange.cluster = this.#clusterOf(this.#route);
      return null;
    }
    const { unroutedStatus, port } = this.#listener;
    const host = head.host === null ? 'unknown' : askedName(head.host);
    countFor(exchange, outboundSeries(this.path, blackHole(host, port), null, null));
    const detail = this.#listener.describe(head.host);
    return { status: unroutedStatus, body: 'no route', reason: 'no_route', detail };
  }

  override reach(_head: RequestHead, exchange: Exchange, fresh: boolean, done: ReachDone): void {
    const route = this.#route;
    if (route === null) {
      done.failed('no_route', '');
      return;
    }
    const protocol = upstreamVersion(route.protocol, exchange.protocol);
    const idle = fresh || protocol === 'http2' ? null : idleUpstream(this.path, route);
    if (idle !== null) {
      const { target } = idle;
      this.#reached(route, target.kind === 'peer' ? target.endpoint.workload : null, idle, exchange);
      done.connected(idle);
      return;
    }
    reachEndpoint(
      this.path,
      { route, protocol, fresh, lost: fresh ? exchange.upstream : null },
      {
        connected: (upstream, endpoint) => {
          this.#reached(route, endpoint.workload, upstream, exchange);
          done.connected(upstream);
        },
        entered: (session, endpoint) =>
          this.entered(session, done, (upstream) =>
            this.#reached(route, endpoint.workload, upstream, exchange),
          ),
        failed: (reason, detail) => done.failed(reason, detail),
      },
    );
  }

  #reached(route: Route, workload: Workload | null, upstream: Reached, exchange: Exchange): void {
    const series = outboundSeries(this.path, route, workload, upstream);
    countFor(exchange, series);
    if (upstream.uses === 0) series.connectionsOpened++;
    this.#busy = upstream;
    this.path.addLoad(upstream.address, 1);
  }

  override release(upstream: Upstream, keepAliveMs: number): void {
    this.dropped(upstream);
    super.release(upstream, keepAliveMs);
  }

  override dropped(upstream: Reached): void {
    if (this.#busy !== upstream) return;
    this.#busy = null;
    this.path.addLoad(upstream.address, -1);
  }

  override finished(exchange: Exchange): void {
    // Routed, and nobody was reached: counted under the service that was asked for.
    if (exchange.series === null && exchange.cluster !== '' && this.#route !== null) {
      countFor(exchange, outboundSeries(this.path, this.#route, null, null));
    }
    super.finished(exchange);
    exchange.series?.release();
  }

  /** One text for all requests of a route. */
  #clusterOf(route: Route): string {
    if (this.#named !== route) {
      this.#named = route;
      this.#cluster = clusterName(route);
    }
    return this.#cluster;
  }
}

/** Holds the record until the exchange is over, however long that takes: one that nobody holds may expire. */
function countFor(exchange: Exchange, series: PeerSeries): void {
  series.retain();
  exchange.series?.release();
  exchange.series = series;
}

/** Labels of an outbound exchange or connection; `upstream` null: nobody was reached. */
export function outboundSeries(
  path: DataPath,
  route: Route,
  workload: Workload | null,
  upstream: Reached | null,
): PeerSeries {
  const { snapshot } = path;
  const identity = upstream?.peer ? path.identity : null;
  const told = upstream?.told ?? null;
  const kept = told?.series(route, workload, snapshot, identity) ?? null;
  if (kept !== null) return kept;
  const series = path.metrics.peer(
    peerLabels({
      reporter: 'source',
      source: { workload: snapshot?.workload ?? null, identity },
      destination: { workload, identity: upstream?.peer?.identity ?? null },
      service: route.service,
      fallback: 'unknown',
      security: 'unknown',
    }),
  );
  told?.keepSeries(series, { route, workload, snapshot, identity });
  return series;
}
