/** The access log: one JSON line a request or connection, in the field names of Istio's default JSON format. */
import { type LineDestination, LineWriter } from './line-writer.ts';

/** What a line says of a connection, or of the connection below a request. */
export interface ConnectionEntry {
  readonly direction: 'inbound' | 'outbound';
  /** Milliseconds since the epoch. */
  readonly startTime: number;
  readonly durationMs: number;
  /** Bodies for requests, all bytes for connections; from and to the downstream. */
  readonly bytesReceived: number;
  readonly bytesSent: number;
  /** Envoy's flags, `-` for none. */
  readonly responseFlags: string;
  readonly connectionTerminationDetails: string | null;
  readonly upstreamTransportFailureReason: string | null;
  /** `address:port` of the endpoint; null where none was dialled. */
  readonly upstreamHost: string | null;
  /** Istio's cluster name: `outbound|9080||host`, `inbound|8080||`, `PassthroughCluster`. */
  readonly upstreamCluster: string | null;
  readonly upstreamLocalAddress: string | null;
  readonly downstreamLocalAddress: string | null;
  readonly downstreamRemoteAddress: string | null;
  readonly requestedServerName: string | null;
  readonly routeName: string | null;
  /** SPIFFE URIs; null for plaintext. */
  readonly sourcePrincipal: string | null;
  readonly destinationPrincipal: string | null;
  /** `NS/NAME` of the policy that decided; null where none did. */
  readonly policy: string | null;
  /** A code of mesh/reasons.ts where it was refused or failed; else null. */
  readonly reason: string | null;
  readonly connectionSecurityPolicy: 'mutual_tls' | 'none' | 'unknown';
}

export interface RequestEntry extends ConnectionEntry {
  readonly method: string | null;
  /** As the downstream sent it, query included. */
  readonly path: string | null;
  /** `HTTP/1.1` */
  readonly protocol: string | null;
  /** 0 where no answer was sent. */
  readonly responseCode: number;
  readonly responseCodeDetails: string | null;
  /** Milliseconds until the upstream's first byte; null where there was none. */
  readonly upstreamServiceTime: number | null;
  readonly xForwardedFor: string | null;
  readonly userAgent: string | null;
  readonly requestId: string | null;
  readonly authority: string | null;
}

export interface AccessLog {
  /** Writes one request's line. Never blocks, never throws. */
  request(entry: RequestEntry): void;
  /** Writes one connection's line: TCP, and what ended before it had a request. */
  connection(entry: ConnectionEntry): void;
  /** Lines lost because the destination was slow, full or gone: `oarlock_access_log_dropped_total`. */
  readonly dropped: number;
  /** Resolves once all lines so far are written. */
  flush(): Promise<void>;
  /** Writes what is left and closes the file. */
  close(): Promise<void>;
}

/** What the wire may make long is cut: characters kept of a path, and of any other text. */
const MAX_PATH = 1_024;
const MAX_TEXT = 512;

/**
 * @param destination stderr, or a file that is appended to
 * @throws the system's error where the file cannot be opened
 */
export function createAccessLog(destination: LineDestination): AccessLog {
  const writer = new LineWriter(destination);
  return {
    request: (entry) => {
      writer.write(`${requestHead(entry)}${tail(entry)}\n`);
    },
    connection: (entry) => {
      writer.write(`${CONNECTION_HEAD}${tail(entry)}\n`);
    },
    get dropped() {
      return writer.dropped;
    },
    flush: () => writer.flush(),
    close: () => writer.close(),
  };
}

/*
 * The line is put together by hand: see the figures in telemetry/README.md. Field names and null for
 * what is absent are those of Istio's EnvoyJSONLogFormatIstio.
 */

const CONNECTION_HEAD =
  '{"type":"access","method":null,"path":null,"protocol":null,"response_code":0,"response_code_details":null,' +
  '"upstream_service_time":null,"x_forwarded_for":null,"user_agent":null,"request_id":null,"authority":null';

function requestHead(entry: RequestEntry): string {
  const time = entry.upstreamServiceTime;
  return (
    `{"type":"access","method":${text(entry.method)},"path":${quoted(entry.path, MAX_PATH)}` +
    `,"protocol":${text(entry.protocol)},"response_code":${number(entry.responseCode)}` +
    `,"response_code_details":${text(entry.responseCodeDetails)}` +
    // A header's value in Envoy, so a string.
    `,"upstream_service_time":${time === null ? 'null' : `"${number(time)}"`}` +
    `,"x_forwarded_for":${text(entry.xForwardedFor)},"user_agent":${text(entry.userAgent)}` +
    `,"request_id":${text(entry.requestId)},"authority":${text(entry.authority)}`
  );
}

function tail(entry: ConnectionEntry): string {
  return (
    `,"start_time":"${isoTime(entry.startTime)}","duration":${number(entry.durationMs)}` +
    `,"direction":"${entry.direction}","response_flags":${text(entry.responseFlags)}` +
    `,"bytes_received":${number(entry.bytesReceived)},"bytes_sent":${number(entry.bytesSent)}` +
    `,"connection_termination_details":${text(entry.connectionTerminationDetails)}` +
    `,"upstream_transport_failure_reason":${text(entry.upstreamTransportFailureReason)}` +
    `,"upstream_host":${text(entry.upstreamHost)},"upstream_cluster":${text(entry.upstreamCluster)}` +
    `,"upstream_local_address":${text(entry.upstreamLocalAddress)}` +
    `,"downstream_local_address":${text(entry.downstreamLocalAddress)}` +
    `,"downstream_remote_address":${text(entry.downstreamRemoteAddress)}` +
    `,"requested_server_name":${text(entry.requestedServerName)},"route_name":${text(entry.routeName)}` +
    `,"source_principal":${text(entry.sourcePrincipal)}` +
    `,"destination_principal":${text(entry.destinationPrincipal)}` +
    `,"policy":${text(entry.policy)},"reason":${text(entry.reason)}` +
    `,"connection_security_policy":"${entry.connectionSecurityPolicy}"}`
  );
}

function text(value: string | null): string {
  return quoted(value, MAX_TEXT);
}

/** What JSON must escape, and what a terminal might obey: C1 controls, which JSON.stringify leaves. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const UNSAFE = /["\\\u0000-\u001f\u007f-\u009f\u2028\u2029\ud800-\udfff]/;
const CONTROLS = /[\u007f-\u009f\u2028\u2029]/g;

function quoted(value: string | null, limit: number): string {
  if (value === null) return 'null';
  const bounded = value.length <= limit ? value : value.slice(0, limit);
  if (!UNSAFE.test(bounded)) return `"${bounded}"`;
  // JSON.stringify also escapes the half of a pair that the cut may leave.
  return JSON.stringify(bounded).replace(CONTROLS, escapeUnit);
}

function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/** Whole numbers, as Envoy writes milliseconds and bytes; never NaN, which is no JSON. */
function number(value: number): number {
  return value > 0 ? Math.round(value) : 0;
}

let second = -1;
let secondText = '';

/** `toISOString`, with the text up to the second kept from one line to the next. */
function isoTime(time: number): string {
  const whole = Math.floor(time / 1000);
  if (whole !== second) {
    secondText = new Date(whole * 1000).toISOString().slice(0, 20);
    second = whole;
  }
  const ms = Math.floor(time) - whole * 1000;
  return `${secondText}${ms < 10 ? '00' : ms < 100 ? '0' : ''}${ms}Z`;
}
