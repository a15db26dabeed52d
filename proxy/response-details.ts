/** Why a request ended as it did, in the words Envoy has for it: `%RESPONSE_CODE_DETAILS%` and its like. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Exchange } from './http/exchange.ts';

/**
 * Envoy's `%RESPONSE_CODE_DETAILS%`; where it has no word for a reason, ours. No spaces, as there.
 * @returns null where no answer was sent and nothing is known to be wrong
 */
export function responseDetails(exchange: Exchange, reason: ReasonCode | null): string | null {
  const { decision, detail, status } = exchange;
  if (decision !== null && !decision.allowed) return decision.detail;
  if (reason === null) return status === 0 ? null : 'via_upstream';
  if (reason === 'token_invalid') return `jwt_authn_access_denied{${underscored(detail)}}`;
  if (reason === 'bad_request' || reason === 'head_too_large') return protocolError(exchange, reason);
  if (reason === 'downstream_closed' && exchange.protocol === 'HTTP/2') return 'http2.remote_reset';
  const how = RESETS.get(reason);
  if (how !== undefined) return upstreamReset(exchange, how);
  if (TRANSPORT.has(reason)) return upstreamReset(exchange, connectFailure(reason, detail));
  return NAMES.get(reason) ?? (detail === '' ? reason : `${reason}{${underscored(detail)}}`);
}

const NAMES: ReadonlyMap<ReasonCode, string> = new Map([
  ['ext_authz_denied', 'ext_authz_denied'],
  ['ext_authz_failed', 'ext_authz_error'],
  ['body_too_large', 'request_payload_too_large'],
  ['no_route', 'route_not_found'],
  ['no_endpoint', 'no_healthy_upstream'],
  ['downstream_closed', 'downstream_remote_disconnect'],
  ['idle_timeout', 'stream_idle_timeout'],
  ['request_timeout', 'request_header_timeout'],
]);

/** What Envoy says in braces of an upstream that broke off. */
const RESETS: ReadonlyMap<ReasonCode, string> = new Map([
  ['upstream_closed', 'connection_termination'],
  ['upstream_reset', 'remote_reset'],
  ['bad_response', 'protocol_error'],
  ['too_many_waiting', 'overflow'],
]);

/** Reasons why an upstream could not be reached, TLS included. */
export const TRANSPORT: ReadonlySet<ReasonCode> = new Set([
  'connect_failed',
  'app_unreachable',
  'identity_mismatch',
  'untrusted_issuer',
  'untrusted_trust_domain',
  'no_peer_certificate',
  'bad_certificate',
  'revoked',
  'tunnel_refused',
  'expired',
  'bad_spiffe_id',
  'tls_handshake_failed',
  'tls_handshake_timeout',
  'resumption_refused',
  'shunned',
  'bad_tls_files',
  'no_credentials',
]);

function upstreamReset({ ownAnswer, status }: Exchange, how: string): string {
  const begun = status !== 0 && !ownAnswer;
  return `upstream_reset_${begun ? 'after' : 'before'}_response_started{${how}}`;
}

function connectFailure(reason: ReasonCode, detail: string): string {
  if (/: no answer within [0-9]+ ms$/.test(detail)) return 'connection_timeout';
  return `remote_connection_failure|${transportFailure(reason, detail) ?? ''}`;
}

function protocolError({ protocol, detail }: Exchange, reason: ReasonCode): string {
  const http2 = protocol === 'HTTP/2';
  if (/^no (Host|:authority)/.test(detail)) return 'missing_host_header';
  if (reason === 'bad_request') return http2 ? 'http2.violation.of.messaging.rule' : 'http1.codec_error';
  if (detail === 'too many header fields') return http2 ? 'http2.too_many_headers' : 'http1.too_many_headers';
  return http2 ? 'http2.header_list_size_too_large' : 'http1.headers_too_large';
}

/** A detail of a failed dial: `ADDRESS: what went wrong`. */
const DIAL_FAILURE = /^(unix:\/\/\S+?|\S+:[0-9]+)(?:: (.*))?$/s;

/** Who could not be reached, as the dial's detail tells; null where it does not. */
export function hostNotReached(detail: string): string | null {
  return DIAL_FAILURE.exec(detail)?.[1] ?? null;
}

/** Envoy's `%UPSTREAM_TRANSPORT_FAILURE_REASON%`; null where it was not the transport. */
export function transportFailure(reason: ReasonCode | null, detail: string): string | null {
  if (reason === null || !TRANSPORT.has(reason)) return null;
  const [, , why = detail] = DIAL_FAILURE.exec(detail) ?? [];
  const failed = CONNECT_ERRORS.get(why);
  if (failed !== undefined) return `delayed_connect_error:_${failed}`;
  return underscored(why) || reason;
}

/** The C library's words, as Envoy prints them. */
const CONNECT_ERRORS: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', 'Connection_refused'],
  ['ECONNRESET', 'Connection_reset_by_peer'],
  ['EHOSTUNREACH', 'No_route_to_host'],
  ['ENETUNREACH', 'Network_is_unreachable'],
  ['ETIMEDOUT', 'Connection_timed_out'],
]);

function underscored(text: string): string {
  return text.replaceAll(/\s/g, '_');
}
