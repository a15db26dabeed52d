/** The record behind one set of Istio's labels: what the hot path increments for one peer. */
import { HistogramRecord } from './histogram.ts';
import { OTHER_CODE, type RequestOutcome, requestLabelsOf, tcpLabelsOf } from './peer-labels.ts';
import type { Labels } from './scraped-metric.ts';

/** Requests of one peer that ended alike. */
export class RequestSeries {
  readonly protocol: string;
  /** 0 where no answer was sent, as in Istio. */
  readonly responseCode: number;
  readonly responseFlags: string;
  readonly grpcStatus: string;
  readonly labels: Labels;
  count: number;
  readonly duration: HistogramRecord;
  readonly requestBytes: HistogramRecord;
  readonly responseBytes: HistogramRecord;

  constructor(outcome: RequestOutcome, labels: Labels) {
    this.protocol = outcome.protocol;
    this.responseCode = outcome.responseCode;
    this.responseFlags = outcome.responseFlags;
    this.grpcStatus = outcome.grpcStatus;
    this.labels = labels;
    this.count = 0;
    this.duration = new HistogramRecord();
    this.requestBytes = new HistogramRecord();
    this.responseBytes = new HistogramRecord();
  }
}

/** Where a peer's record asks for room: the series of all peers share one cap. */
export interface SeriesRoom {
  /** True where one more series fits; it is then counted. */
  take(): boolean;
  /** The record that counts for `series` once the cap is reached. */
  overflowOf(series: PeerSeries): PeerSeries;
}

/**
 * Outcomes told apart for one peer. Twice what a busy service shows; an app that answers with hundreds of
 * made-up codes must not use up the cap alone: further ones share `response_code="other"`.
 */
const MAX_OUTCOMES = 32;
/**
 * The counters of one peer. Look it up once a connection with `MeshMetrics.peer`, `retain` it while the
 * connection lives, write its fields, `release` it at the end: a record nobody holds vanishes when idle.
 */
export class PeerSeries {
  /** Istio's labels without those of a request; `connection_security_policy` included. */
  readonly labels: Labels;
  /** `labels` plus those every TCP metric has. */
  readonly tcpLabels: Labels;
  readonly requests: RequestSeries[];
  /** Every connection, whatever it carries: `oarlock_connections_opened_total`. */
  connectionsOpened: number;
  /** The next four are for connections forwarded as TCP, not for HTTP. */
  tcpOpened: number;
  tcpClosed: number;
  /** Bytes we sent to the downstream (the answer's direction), on either side. */
  tcpSentBytes: number;
  /** Bytes we received from the downstream (the request's direction), on either side. */
  tcpReceivedBytes: number;
  /** Connections that hold this record now. */
  live: number;
  /** For the sweep alone: when it was last found in use, milliseconds, and its activity then. */
  lastUsed: number;
  seenActivity: number;
  /** Expired: no scrape reads it any more, and it takes no room. */
  retired: boolean;

  readonly #room: SeriesRoom;
  #releases: number;
  #last: RequestSeries | null;

  constructor(labels: Labels, room: SeriesRoom, now: number) {
    this.labels = labels;
    this.tcpLabels = tcpLabelsOf(labels);
    this.requests = [];
    this.connectionsOpened = 0;
    this.tcpOpened = 0;
    this.tcpClosed = 0;
    this.tcpSentBytes = 0;
    this.tcpReceivedBytes = 0;
    this.live = 0;
    this.lastUsed = now;
    this.seenActivity = 0;
    this.retired = false;
    this.#room = room;
    this.#releases = 0;
    this.#last = null;
  }

  /** Keeps this record from expiring until `release`. */
  retain(): void {
    this.live++;
  }

  release(): void {
    if (this.live > 0) this.live--;
    this.#releases++;
  }

  /**
   * Counts one finished request in `istio_requests_total` and its three histograms. Allocates nothing,
   * unless this is the peer's first request with that outcome.
   * @param responseCode 0 where no answer was sent
   * @param responseFlags Envoy's flags, `-` for none: see mesh/reasons.ts
   * @param durationMs from the first byte of the request to the last of the answer
   * @param requestBytes on the wire from the downstream, head included, as Istio's filter counts
   * @param responseBytes on the wire to the downstream, head included
   * @param grpcStatus gRPC only; `''` for HTTP
   */
  request(
    protocol: 'http' | 'grpc',
    responseCode: number,
    responseFlags: string,
    durationMs: number,
    requestBytes: number,
    responseBytes: number,
    grpcStatus = '',
  ): void {
    let series = this.#last;
    if (
      series === null ||
      series.responseCode !== responseCode ||
      series.responseFlags !== responseFlags ||
      series.protocol !== protocol ||
      series.grpcStatus !== grpcStatus
    ) {
      series = this.#outcome(protocol, responseCode, responseFlags, grpcStatus);
    }
    series.count++;
    series.duration.observe(durationMs);
    series.requestBytes.observe(requestBytes);
    series.responseBytes.observe(responseBytes);
  }

  /** Grows whenever the record is used in any way: the sweep compares it with what it saw last. */
  activity(): number {
    let sum =
      this.#releases +
      this.connectionsOpened +
      this.tcpOpened +
      this.tcpClosed +
      this.tcpSentBytes +
      this.tcpReceivedBytes;
    for (const series of this.requests) sum += series.count;
    return sum;
  }

  #outcome(
    protocol: 'http' | 'grpc',
    responseCode: number,
    responseFlags: string,
    grpcStatus: string,
  ): RequestSeries {
    for (const series of this.requests) {
      if (
        series.responseCode === responseCode &&
        series.responseFlags === responseFlags &&
        series.protocol === protocol &&
        series.grpcStatus === grpcStatus
      ) {
        this.#last = series;
        return series;
      }
    }
    const full = this.requests.length >= MAX_OUTCOMES;
    if (full && responseCode !== OTHER_CODE) {
      // The catch-all itself may be one more than the bound.
      return this.#outcome(protocol, OTHER_CODE, 'other', '');
    }
    const overflow = this.#room.overflowOf(this);
    if (overflow !== this && !this.retired && !this.#room.take()) {
      return overflow.#outcome(protocol, responseCode, responseFlags, grpcStatus);
    }
    const outcome = { protocol, responseCode, responseFlags, grpcStatus };
    const series = new RequestSeries(outcome, requestLabelsOf(this.labels, outcome));
    this.requests.push(series);
    this.#last = series;
    return series;
  }
}
