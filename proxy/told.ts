/** What the log and the metrics keep with an upstream, so that they need not put it together for each request. */
import type { Identity } from '../mesh/identity.ts';
import type { Route } from '../mesh/route.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import type { LoggedUpstream } from '../telemetry/access-record.ts';
import type { PeerSeries } from '../telemetry/mesh-metrics.ts';

/** All that an outbound peer's labels are made of beside the peer itself. */
export interface CountedFor {
  readonly route: Route;
  readonly workload: Workload | null;
  readonly snapshot: Snapshot | null;
  readonly identity: Identity | null;
}

/** Of one upstream connection. Empty until its first exchange. */
export class Told {
  /** For the cluster served last. */
  logged: LoggedUpstream | null = null;
  #series: PeerSeries | null = null;
  #seriesFor: CountedFor | null = null;

  /** The peer's counters as long as nothing their labels are made of changed and they have not expired; else null. */
  series(
    route: Route,
    workload: Workload | null,
    snapshot: Snapshot | null,
    identity: Identity | null,
  ): PeerSeries | null {
    const series = this.#series;
    const known = this.#seriesFor;
    if (series === null || known === null || series.retired) return null;
    const same =
      known.route === route &&
      known.workload === workload &&
      known.snapshot === snapshot &&
      known.identity === identity;
    return same ? series : null;
  }

  keepSeries(series: PeerSeries, countedFor: CountedFor): void {
    this.#series = series;
    this.#seriesFor = countedFor;
  }
}
