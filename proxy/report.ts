/** What is over goes here: one access log line, the metrics, and the refusal where there was one. */
import { performance } from 'node:perf_hooks';
import { type ReasonCode, reasons } from '../mesh/reasons.ts';
import { hostPort } from '../mesh/text.ts';
import {
  type AccessRecord,
  connectionRecord,
  LoggedConnection,
  LoggedUpstream,
  NO_HEADERS,
} from '../telemetry/access-record.ts';
import type { Connection } from './connections.ts';
import { type DataPath, type Explainer, type RefusalFacts, remoteOf } from './data-path.ts';
import type { Reached } from './dial.ts';
import type { Exchange } from './http/exchange.ts';
import type { RequestHead } from './http/head.ts';
import { hostNotReached, responseDetails, TRANSPORT, transportFailure } from './response-details.ts';

/** Reports a finished request. */
export function reportExchange(
  path: DataPath,
  connection: Connection,
  exchange: Exchange,
  explainer: Explainer,
): void {
  const { decision, grpcStatus } = exchange;
  const reason = exchange.reason ?? connection.refusal?.reason ?? null;
  const durationMs = performance.now() - exchange.startedTick;
  const flags = flagsOf(connection, reason);
  const policy =
    decision === null || decision.allowed ? exchange.policy : deniedBy(decision.policy, decision.missed);
  exchange.series?.request(
    exchange.grpc ? 'grpc' : 'http',
    exchange.status,
    flags,
    durationMs,
    exchange.requestHeadBytes + exchange.requestBodyBytes,
    exchange.responseHeadBytes + exchange.responseBodyBytes,
    grpcStatus === null ? '' : String(grpcStatus),
  );
  if (exchange.reason !== null)
    path.refused(connection, exchange.reason, {
      detail: exchange.detail,
      policy,
      request: requestOf(exchange),
      explainer,
    });
  if (path.accessLog === null) return;
  // A head that was refused took no route.
  const routeName = exchange.method === '' ? null : routeNameOf(connection, exchange.cluster);
  const failed = failedUpstream(connection, reason);
  const host = failed ? hostNotReached(exchange.detail) : null;
  const record = recordOf(path, connection);
  record.upstream = loggedUpstreamOf(path, connection, exchange.upstream, exchange.cluster, routeName, host);
  record.startTime = exchange.startedAt;
  record.durationMs = durationMs;
  record.bytesReceived = exchange.requestBodyBytes;
  record.bytesSent = exchange.responseBodyBytes;
  record.responseFlags = flags;
  record.connectionTerminationDetails = null;
  record.upstreamTransportFailureReason = failed ? transportFailure(reason, exchange.detail) : null;
  record.policy = decision?.allowed === true ? decision.policy : policy;
  record.reason = reason;
  record.method = exchange.method || null;
  record.path = exchange.path || null;
  record.protocol = exchange.protocol;
  record.responseCode = exchange.status;
  record.responseCodeDetails = responseDetails(exchange, reason);
  record.upstreamServiceTime =
    exchange.upstreamFirstByte === 0 || exchange.ownAnswer
      ? null
      : exchange.upstreamFirstByte - exchange.startedTick;
  record.xForwardedFor = exchange.forwardedFor || null;
  record.userAgent = exchange.userAgent || null;
  record.requestId = exchange.requestId || null;
  record.authority = exchange.authority || null;
  record.grpcStatus = grpcStatus;
  record.requestHeaders = exchange.loggedHeaders;
  path.accessLog.write(record);
}

/** Reports a connection that carried TCP, or that ended before anything could be carried. */
export function reportConnection(
  path: DataPath,
  connection: Connection,
  upstream: Reached | null,
  reason: ReasonCode | null,
  facts: RefusalFacts,
): void {
  if (path.accessLog === null) return;
  const { detail = '', policy = null } = facts;
  const failed = failedUpstream(connection, reason);
  const host = failed ? hostNotReached(detail) : null;
  const record = recordOf(path, connection);
  record.upstream = loggedUpstreamOf(path, connection, upstream, connection.cluster, null, host);
  record.startTime = connection.startedAt;
  record.durationMs = performance.now() - connection.startedTick;
  record.bytesReceived = connection.bytesReceived;
  record.bytesSent = connection.bytesSent;
  record.responseFlags = flagsOf(connection, reason);
  record.connectionTerminationDetails = reason === null ? null : detail || reason;
  record.upstreamTransportFailureReason = failed ? transportFailure(reason, detail) : null;
  record.policy = policy;
  record.reason = reason;
  record.method = null;
  record.path = null;
  record.protocol = null;
  record.responseCode = 0;
  record.responseCodeDetails = null;
  record.upstreamServiceTime = null;
  record.xForwardedFor = null;
  record.userAgent = null;
  record.requestId = null;
  record.authority = null;
  record.grpcStatus = null;
  record.requestHeaders = NO_HEADERS;
  path.accessLog.write(record);
}

/** Keeps what the access log's format asks for of a request's headers; most formats ask for none. */
export function keepLoggedHeaders(path: DataPath, head: RequestHead, exchange: Exchange): void {
  const names = path.accessLog?.requestHeaders;
  if (names === undefined || names.length === 0) return;
  exchange.loggedHeaders = names.map((name) => {
    const value = head.headerValues(name)[0] ?? null;
    return value !== null && path.hidesHeader(name) ? '[redacted]' : value;
  });
}

/** The one record of this thread, filled anew for each line. */
let shared: AccessRecord | null = null;

function recordOf(path: DataPath, connection: Connection): AccessRecord {
  const logged = loggedConnectionOf(path, connection);
  shared ??= connectionRecord(logged, NO_UPSTREAM);
  shared.connection = logged;
  return shared;
}

const NO_UPSTREAM = new LoggedUpstream({
  host: null,
  localAddress: null,
  cluster: null,
  routeName: null,
  destinationPrincipal: null,
});

/** What every line of a connection says; made anew when we become another. */
function loggedConnectionOf(path: DataPath, connection: Connection): LoggedConnection {
  const { identity } = path;
  if (connection.logged !== null && connection.loggedAs === identity) return connection.logged;
  const inbound = connection.direction === 'inbound';
  const logged = new LoggedConnection({
    direction: connection.direction,
    downstreamLocalAddress: hostPort(connection.localAddress, connection.localPort),
    downstreamRemoteAddress: remoteOf(connection),
    requestedServerName: connection.sni,
    sourcePrincipal: (inbound ? connection.peer : identity)?.uri ?? null,
    connectionSecurityPolicy: inbound ? (connection.tls ? 'mutual_tls' : 'none') : 'unknown',
  });
  connection.logged = logged;
  connection.loggedAs = identity;
  return logged;
}

/**
 * What every line of one cluster over an upstream says.
 * @param notReached who was dialled in vain, where nobody was reached
 */
function loggedUpstreamOf(
  path: DataPath,
  connection: Connection,
  upstream: Reached | null,
  cluster: string,
  routeName: string | null,
  notReached: string | null,
): LoggedUpstream {
  const destinationPrincipal = destination(path, connection, upstream?.peer?.identity.uri ?? null);
  const known = upstream?.told.logged ?? null;
  if (
    known !== null &&
    known.cluster === cluster &&
    known.destinationPrincipal === destinationPrincipal &&
    known.routeName === routeName
  )
    return known;
  const logged = new LoggedUpstream({
    host: upstream?.address ?? notReached,
    localAddress: upstream?.localAddress ?? null,
    cluster: cluster || null,
    routeName,
    destinationPrincipal,
  });
  if (upstream !== null) upstream.told.logged = logged;
  return logged;
}

/** True where the way to the upstream failed: inbound, TLS that fails is the downstream's. */
function failedUpstream({ direction }: Connection, reason: ReasonCode | null): boolean {
  return reason !== null && (direction === 'outbound' ? TRANSPORT.has(reason) : reason === 'app_unreachable');
}

/** Istio's names of the routes it makes by itself; none where there was no route. */
function routeNameOf({ direction }: Connection, cluster: string): string | null {
  if (direction === 'inbound') return 'default';
  if (cluster === '') return null;
  return cluster === 'PassthroughCluster' ? 'allow_any' : 'default';
}

/** Envoy's flags. An upstream that could not be reached is UF whatever went wrong on the way, TLS included. */
function flagsOf(connection: Connection, reason: ReasonCode | null): string {
  if (reason === null) return '-';
  return failedUpstream(connection, reason) ? 'UF' : reasons[reason].flag;
}

function destination(path: DataPath, connection: Connection, upstreamUri: string | null): string | null {
  if (connection.direction === 'outbound') return upstreamUri;
  return connection.tls ? (path.identity?.uri ?? null) : null;
}

/** Bounded: the path is the peer's. */
function requestOf({ method, path }: Exchange): string | null {
  return method === '' ? null : `${method} ${path}`.slice(0, 512);
}

/** The policy to name in a denial: the one that denied, else those that could have allowed it and did not. */
export function deniedBy(policy: string | null, missed: readonly string[]): string | null {
  return policy ?? (missed.length === 0 ? null : missed.join(','));
}
