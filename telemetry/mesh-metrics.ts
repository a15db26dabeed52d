/** Istio's standard metrics: who looks up a peer's record, how many there may be, and what a scrape reads. */
import { DaemonMetrics } from './daemon-metrics.ts';
import type { HistogramRecord } from './histogram.ts';
import { istioLabels, type PeerLabels } from './peer-labels.ts';
import { PeerSeries, type RequestSeries, type SeriesRoom } from './peer-series.ts';
import { type Labels, pushHistogram, registerScraped, type Sample, sample } from './scraped-metric.ts';

export type { PeerLabels, PeerSeries };

export interface MeshMetricsOptions {
  /** Series kept at once: one a peer, one more for each outcome of its requests. */
  readonly seriesCap: number;
  /** A series that no connection holds vanishes when unused for so long. */
  readonly idleExpiryMs: number;
  /** Milliseconds, steady. */
  readonly now: () => number;
  /** Milliseconds since the epoch, for the time left of a certificate; `Date.now` unless told. */
  readonly wallClock?: () => number;
  /** Our cluster's name in `source_cluster` or `destination_cluster`; `unknown` unless told. */
  readonly cluster?: string;
}

/**
 * The defaults. 1,000 series: each request outcome is 67 lines of about 900 bytes, so a scrape stays within
 * tens of megabytes at the very worst. Ten minutes: long enough for a scraper to miss several turns and for
 * a rate to see a job's last requests, short enough that yesterday's jobs are gone.
 */
export const defaultSeriesBounds = { seriesCap: 1_000, idleExpiryMs: 600_000 } as const;

/** Sweeps in one expiry time: a record lives at most a tenth longer than promised. */
const SWEEPS_PER_EXPIRY = 10;

/** The metrics of one data-path thread. */
export class MeshMetrics extends DaemonMetrics {
  readonly #options: MeshMetricsOptions;
  readonly #peers: Map<string, PeerSeries>;
  /** At most one for each reporter and security policy. */
  readonly #overflow: Map<string, PeerSeries>;
  readonly #room: SeriesRoom;
  #seriesCount: number;
  #overflowed: number;
  #sweptAt: number;

  constructor(options: MeshMetricsOptions) {
    super(options.wallClock ?? Date.now);
    this.#options = options;
    this.#peers = new Map();
    this.#overflow = new Map();
    this.#room = {
      take: () => this.#take(),
      overflowOf: (series) => this.#overflowOf(series.labels),
    };
    this.#seriesCount = 0;
    this.#overflowed = 0;
    this.#sweptAt = options.now();
    this.#registerRequests();
    this.#registerConnections();
    this.#registerBounds();
  }

  /** Name of our cluster; `unknown` unless told. */
  get cluster(): string {
    return this.#options.cluster ?? 'unknown';
  }

  /** Series kept now, the overflow's few not counted. */
  get seriesCount(): number {
    return this.#seriesCount;
  }

  /**
   * The record of these labels, made at first sight. Past the cap it is a shared one whose labels say
   * `other`. Look it up once a connection and `retain` it: increments of an expired record are lost.
   */
  peer(labels: PeerLabels): PeerSeries {
    const istio = istioLabels(labels, this.cluster);
    // NUL stands in no label: SPIFFE URIs and Kubernetes names have none, a header cannot carry it.
    const key = Object.values(istio).join('\0');
    const known = this.#peers.get(key);
    if (known !== undefined) return known;
    if (!this.#take()) return this.#overflowOf(istio);
    const series = new PeerSeries(istio, this.#room, this.#options.now());
    this.#peers.set(key, series);
    return series;
  }

  /** Drops what nobody has used for `idleExpiryMs`. Scrapes and growth call it when due, so no timer does. */
  sweep(): void {
    const now = this.#options.now();
    this.#sweptAt = now;
    for (const [key, series] of this.#peers) {
      const activity = series.activity();
      if (series.live > 0 || activity !== series.seenActivity) {
        series.seenActivity = activity;
        series.lastUsed = now;
      } else if (now - series.lastUsed >= this.#options.idleExpiryMs) {
        this.#peers.delete(key);
        series.retired = true;
        this.#seriesCount -= 1 + series.requests.length;
      }
    }
  }

  #sweepIfDue(): void {
    if (this.#options.now() - this.#sweptAt >= this.#options.idleExpiryMs / SWEEPS_PER_EXPIRY) this.sweep();
  }

  #take(): boolean {
    this.#sweepIfDue();
    if (this.#seriesCount >= this.#options.seriesCap) {
      this.#overflowed++;
      return false;
    }
    this.#seriesCount++;
    return true;
  }

  /** Keeps apart what is few and matters most: which side reports, and whether it was mutual TLS. */
  #overflowOf(labels: Labels): PeerSeries {
    const { reporter = '', connection_security_policy: policy = '' } = labels;
    const key = `${reporter} ${policy}`;
    let series = this.#overflow.get(key);
    if (series === undefined) {
      const other: Record<string, string | number> = {};
      for (const name of Object.keys(labels)) other[name] = 'other';
      other.reporter = reporter;
      other.connection_security_policy = policy;
      // The record bounds its own outcomes, so it needs no room of the others'.
      const room: SeriesRoom = { take: () => true, overflowOf: (self) => self };
      series = new PeerSeries(other, room, this.#options.now());
      this.#overflow.set(key, series);
    }
    return series;
  }

  *#everySeries(): Generator<PeerSeries> {
    yield* this.#peers.values();
    yield* this.#overflow.values();
  }

  #registerRequests(): void {
    this.#registerRead('istio_requests_total', 'Requests handled.', 'counter', (samples, series) => {
      for (const request of series.requests) samples.push(sample(request.count, request.labels));
    });
    const histogram = (name: string, help: string, of: (request: RequestSeries) => HistogramRecord) =>
      this.#registerRead(name, help, 'histogram', (samples, series) => {
        for (const request of series.requests) pushHistogram(samples, name, request.labels, of(request));
      });
    histogram('istio_request_duration_milliseconds', 'Duration of requests.', (request) => request.duration);
    histogram('istio_request_bytes', 'Size of requests on the wire.', (request) => request.requestBytes);
    histogram('istio_response_bytes', 'Size of responses on the wire.', (request) => request.responseBytes);
  }

  #registerConnections(): void {
    const tcp = (name: string, help: string, of: (series: PeerSeries) => number) =>
      this.#registerRead(name, help, 'counter', (samples, series) => {
        // A peer that never spoke TCP has no TCP series, as in Istio.
        if (series.tcpOpened > 0) samples.push(sample(of(series), series.tcpLabels));
      });
    tcp('istio_tcp_connections_opened_total', 'TCP connections opened.', (series) => series.tcpOpened);
    tcp('istio_tcp_connections_closed_total', 'TCP connections closed.', (series) => series.tcpClosed);
    tcp('istio_tcp_sent_bytes_total', 'TCP bytes sent to the downstream.', (series) => series.tcpSentBytes);
    tcp(
      'istio_tcp_received_bytes_total',
      'TCP bytes received from the downstream.',
      (series) => series.tcpReceivedBytes,
    );
    this.#registerRead(
      'oarlock_connections_opened_total',
      'Connections opened, whatever they carry.',
      'counter',
      (samples, series) => {
        if (series.connectionsOpened > 0) samples.push(sample(series.connectionsOpened, series.labels));
      },
    );
  }

  #registerBounds(): void {
    this.watch({
      name: 'oarlock_metrics_series',
      help: 'Peers and request outcomes with counters of their own.',
      type: 'gauge',
      read: () => this.#seriesCount,
    });
    this.watch({
      name: 'oarlock_metrics_overflow_total',
      help: 'Look-ups answered with the shared record of `other` because the cap of series was reached.',
      type: 'counter',
      read: () => this.#overflowed,
    });
  }

  #registerRead(
    name: string,
    help: string,
    type: 'counter' | 'histogram',
    push: (samples: Sample[], series: PeerSeries) => void,
  ): void {
    registerScraped(this.registry, {
      name,
      help,
      type,
      read: (samples) => {
        this.#sweepIfDue();
        for (const series of this.#everySeries()) push(samples, series);
      },
    });
  }
}
