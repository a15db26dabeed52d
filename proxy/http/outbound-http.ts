/** The outbound side of an HTTP connection: each request routed by the registry and carried over mTLS. */
import type { Route } from '../../mesh/route.ts';
import type { EgressListener } from '../../mesh/snapshot.ts';
import type { Workload } from '../../mesh/workload.ts';
import type { PeerSeries } from '../../telemetry/mesh-metrics.ts';
import { chooseRoute, clusterName, reachEndpoint } from '../choose-route.ts';
import type { Connection } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import type { DialDone, Upstream } from '../dial.ts';
import { peerLabels } from '../labels.ts';
import type { Exchange } from './exchange.ts';
import type { RequestHead } from './head.ts';
import type { LocalAnswer } from './local-answer.ts';
import { HttpSideBase } from './side-base.ts';

export class OutboundHttp extends HttpSideBase {
  readonly #listener: EgressListener;
  #route: Route | null = null;
  /** The upstream whose load is counted now. */
  #busy: Upstream | null = null;

  constructor(path: DataPath, connection: Connection, listener: EgressListener) {
    super(path, connection);
    this.#listener = listener;
  }

  override judge(head: RequestHead, exchange: Exchange): LocalAnswer | null {
    this.#route = chooseRoute(this.path.snapshot, this.#listener, head.host);
    this.addFields(head, exchange, null);
    if (this.#route !== null) {
      exchange.cluster = clusterName(this.#route);
      return null;
    }
    const detail = `${head.host} on port ${this.#listener.port}`;
    return { status: 404, body: 'no route', reason: 'no_route', detail };
  }

  override reach(_head: RequestHead, exchange: Exchange, fresh: boolean, done: DialDone): void {
    const route = this.#route;
    if (route === null) {
      done.failed('no_route', '');
      return;
    }
    reachEndpoint(
      this.path,
      { route, http: true, fresh },
      {
        connected: (upstream, endpoint) => {
          const series = outboundSeries(this.path, route, endpoint.workload, upstream);
          exchange.series = series;
          if (upstream.uses === 0) series.connectionsOpened++;
          this.#busy = upstream;
          this.path.addLoad(upstream.address, 1);
          done.connected(upstream);
        },
        failed: (reason, detail) => done.failed(reason, detail),
      },
    );
  }

  override release(upstream: Upstream): void {
    this.dropped(upstream);
    super.release(upstream);
  }

  override dropped(upstream: Upstream): void {
    if (this.#busy !== upstream) return;
    this.#busy = null;
    this.path.addLoad(upstream.address, -1);
  }

  override finished(exchange: Exchange): void {
    // Routed, and nobody was reached: counted under the service that was asked for.
    if (exchange.series === null && exchange.cluster !== '' && this.#route !== null) {
      exchange.series = outboundSeries(this.path, this.#route, null, null);
    }
    super.finished(exchange);
  }
}

/** Labels of an outbound exchange or connection; `upstream` null: nobody was reached. */
export function outboundSeries(
  path: DataPath,
  route: Route,
  workload: Workload | null,
  upstream: Upstream | null,
): PeerSeries {
  const { snapshot } = path;
  return path.metrics.peer(
    peerLabels({
      reporter: 'source',
      source: {
        workload: snapshot?.workload ?? null,
        identity: upstream?.peer ? path.identity : null,
      },
      destination: { workload, identity: upstream?.peer?.identity ?? null },
      service: route.service,
      fallback: 'unknown',
      security: 'unknown',
    }),
  );
}
