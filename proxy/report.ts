/** What is over goes here: one access log line, the metrics, and the refusal where there was one. */
import { type ReasonCode, reasons } from '../mesh/reasons.ts';
import type { ConnectionEntry } from '../telemetry/access-log.ts';
import type { Connection } from './connections.ts';
import { type DataPath, type Explainer, type RefusalFacts, remoteOf } from './data-path.ts';
import type { Upstream } from './dial.ts';
import type { Exchange } from './http/exchange.ts';

/** Reports a finished request. */
export function reportExchange(
  path: DataPath,
  connection: Connection,
  exchange: Exchange,
  explainer: Explainer,
): void {
  const { decision } = exchange;
  const reason = exchange.reason ?? connection.refusal?.reason ?? null;
  const durationMs = performance.now() - exchange.startedTick;
  const flags = flagsOf(connection, reason);
  const policy =
    decision === null || decision.allowed ? exchange.policy : deniedBy(decision.policy, decision.missed);
  exchange.series?.request(
    'http',
    exchange.status,
    flags,
    durationMs,
    exchange.requestHeadBytes + exchange.requestBodyBytes,
    exchange.responseHeadBytes + exchange.responseBodyBytes,
  );
  if (exchange.reason !== null)
    path.refused(connection, exchange.reason, {
      detail: exchange.detail,
      policy,
      request: requestOf(exchange),
      explainer,
    });
  if (path.accessLog === null) return;
  const served = exchange.upstreamFirstByte === 0 ? null : exchange.upstreamFirstByte - exchange.startedTick;
  path.accessLog.request({
    ...connectionEntry(path, connection),
    startTime: exchange.startedAt,
    durationMs: Math.round(durationMs),
    bytesReceived: exchange.requestBodyBytes,
    bytesSent: exchange.responseBodyBytes,
    responseFlags: flags,
    upstreamTransportFailureReason: transportFailure(reason, exchange.detail),
    upstreamHost: exchange.upstreamAddress || null,
    upstreamLocalAddress: exchange.upstreamLocalAddress || null,
    upstreamCluster: exchange.cluster || null,
    destinationPrincipal: destination(path, connection, exchange.upstreamPrincipal),
    policy: decision?.allowed === true ? decision.policy : policy,
    reason,
    method: exchange.method || null,
    path: exchange.path || null,
    protocol: exchange.protocol,
    responseCode: exchange.status,
    responseCodeDetails: details(exchange, reason),
    upstreamServiceTime: served === null ? null : Math.round(served),
    xForwardedFor: exchange.forwardedFor || null,
    userAgent: exchange.userAgent || null,
    requestId: exchange.requestId || null,
    authority: exchange.authority || null,
  });
}

/** Reports a connection that carried TCP, or that ended before anything could be carried. */
export function reportConnection(
  path: DataPath,
  connection: Connection,
  upstream: Upstream | null,
  reason: ReasonCode | null,
  facts: RefusalFacts,
): void {
  path.accessLog?.connection({
    ...connectionEntry(path, connection),
    responseFlags: flagsOf(connection, reason),
    connectionTerminationDetails: reason === null ? null : (facts.detail ?? null) || reason,
    upstreamTransportFailureReason: transportFailure(reason, facts.detail ?? ''),
    upstreamHost: upstream?.address ?? null,
    upstreamLocalAddress: upstream?.localAddress ?? null,
    destinationPrincipal: destination(path, connection, upstream?.peer?.identity.uri ?? ''),
    policy: facts.policy ?? null,
    reason,
  });
}

/** Envoy's flags. An upstream that could not be reached is UF whatever went wrong on the way, TLS included. */
function flagsOf({ direction }: Connection, reason: ReasonCode | null): string {
  if (reason === null) return '-';
  return direction === 'outbound' && TRANSPORT.has(reason) ? 'UF' : reasons[reason].flag;
}

/** What a line says whatever the connection carries. */
function connectionEntry(path: DataPath, connection: Connection): ConnectionEntry {
  const inbound = connection.direction === 'inbound';
  return {
    direction: connection.direction,
    startTime: connection.startedAt,
    durationMs: Math.round(performance.now() - connection.startedTick),
    bytesReceived: connection.bytesReceived,
    bytesSent: connection.bytesSent,
    responseFlags: '-',
    connectionTerminationDetails: null,
    upstreamTransportFailureReason: null,
    upstreamHost: null,
    upstreamCluster: connection.cluster || null,
    upstreamLocalAddress: null,
    downstreamLocalAddress: `${connection.localAddress}:${connection.localPort}`,
    downstreamRemoteAddress: remoteOf(connection),
    requestedServerName: connection.sni,
    routeName: inbound ? 'default' : null,
    sourcePrincipal: inbound ? (connection.peer?.uri ?? null) : (path.identity?.uri ?? null),
    destinationPrincipal: null,
    policy: null,
    reason: null,
    connectionSecurityPolicy: inbound ? (connection.tls ? 'mutual_tls' : 'none') : 'unknown',
  };
}

function destination(path: DataPath, connection: Connection, upstreamUri: string): string | null {
  if (connection.direction === 'outbound') return upstreamUri || null;
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

/** Envoy's `%RESPONSE_CODE_DETAILS%`. */
function details(exchange: Exchange, reason: ReasonCode | null): string | null {
  const { decision, detail, status } = exchange;
  if (decision !== null && !decision.allowed) return decision.detail;
  if (reason === 'token_invalid') return `jwt_authn_access_denied{${detail.replaceAll(' ', '_')}}`;
  const envoys = reason === null ? undefined : ENVOY_DETAILS.get(reason);
  if (envoys !== undefined) return envoys;
  if (reason !== null) return detail === '' ? reason : `${reason}{${detail}}`;
  return status === 0 ? null : 'via_upstream';
}

const ENVOY_DETAILS: ReadonlyMap<ReasonCode, string> = new Map([
  ['ext_authz_denied', 'ext_authz_denied'],
  ['ext_authz_failed', 'ext_authz_error'],
  ['body_too_large', 'request_payload_too_large'],
]);

const TRANSPORT: ReadonlySet<ReasonCode> = new Set([
  'connect_failed',
  'app_unreachable',
  'identity_mismatch',
  'untrusted_issuer',
  'untrusted_trust_domain',
  'expired',
  'bad_spiffe_id',
  'tls_handshake_failed',
  'tls_handshake_timeout',
  'resumption_refused',
  'bad_tls_files',
  'no_credentials',
]);

function transportFailure(reason: ReasonCode | null, detail: string): string | null {
  return reason !== null && TRANSPORT.has(reason) ? detail || reason : null;
}
