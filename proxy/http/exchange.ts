/** What is known of one request and its answer: the record that metrics and the access log are written from. */
import { performance } from 'node:perf_hooks';
import type { Decision } from '../../mesh/decision.ts';
import type { AnswerChange } from '../../mesh/ext-authz.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import { NO_HEADERS } from '../../telemetry/access-record.ts';
import type { PeerSeries } from '../../telemetry/mesh-metrics.ts';
import type { Reached } from '../dial.ts';

/** One request with its answer. All fields set at birth. */
export class Exchange {
  readonly startedAt: number = Date.now();
  readonly startedTick: number = performance.now();
  method = '';
  path = '';
  authority = '';
  protocol = 'HTTP/1.1';
  userAgent = '';
  requestId = '';
  forwardedFor = '';
  /** Bodies and heads as they crossed the downstream, bytes. */
  requestHeadBytes = 0;
  requestBodyBytes = 0;
  responseHeadBytes = 0;
  responseBodyBytes = 0;
  /** 0: no answer was sent (the downstream left first). */
  status = 0;
  /** The answer is ours, not the upstream's. */
  ownAnswer = false;
  /** Of a gRPC call: the status it ended with, as its trailers tell; null: none was told, or it is no gRPC call. */
  grpcStatus: number | null = null;
  /** A gRPC call, by its Content-Type: refused in gRPC's own words, counted as `grpc`. */
  grpc = false;
  reason: ReasonCode | null = null;
  detail = '';
  decision: Decision | null = null;
  /** `NS/NAME` of whoever refused where it was no decision: RequestAuthentications, a CUSTOM policy. */
  policy: string | null = null;
  /** What an external authorizer wants in whatever answer the downstream gets. */
  answerFields: readonly AnswerChange[] | null = null;
  /** Who was reached last; null: nobody. */
  upstream: Reached | null = null;
  /** Istio's cluster name: `outbound|9080||host`, `inbound|8080||`. */
  cluster = '';
  /** `performance.now()` when the upstream's answer began; 0: never. */
  upstreamFirstByte = 0;
  /** Values of the request's headers that the access log's format asks for, in its order. */
  loggedHeaders: readonly (string | null)[] = NO_HEADERS;
  /** Outbound: the labels' record of whoever answered, set by the side; inbound: the connection's. */
  series: PeerSeries | null = null;
}
