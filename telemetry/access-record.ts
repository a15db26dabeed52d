/** What an access log line tells of: a connection, an upstream, and one request or the connection's end. */

/** A part of many lines, with the bytes that a format makes of it once. */
class Part {
  /** One for each place of it in the format `of`. */
  pieces: Uint8Array[] = [];
  /** The format that made them; null: none yet. */
  of: object | null = null;
}

/** Bytes made of values that were the same in the line before. */
export interface Repeated {
  values: (string | number | null)[];
  piece: Uint8Array;
}

/** What stays the same as long as a connection does. */
export class LoggedConnection extends Part {
  /** Of the last request, for each place in the format `of`. */
  repeated: Repeated[] = [];
  readonly direction: 'inbound' | 'outbound';
  /** `address:port` of our end and of the peer. */
  readonly downstreamLocalAddress: string | null;
  readonly downstreamRemoteAddress: string | null;
  readonly requestedServerName: string | null;
  /** SPIFFE URI; null for plaintext. */
  readonly sourcePrincipal: string | null;
  readonly connectionSecurityPolicy: 'mutual_tls' | 'none' | 'unknown';

  constructor(fields: Omit<LoggedConnection, keyof Part | 'repeated'>) {
    super();
    this.direction = fields.direction;
    this.downstreamLocalAddress = fields.downstreamLocalAddress;
    this.downstreamRemoteAddress = fields.downstreamRemoteAddress;
    this.requestedServerName = fields.requestedServerName;
    this.sourcePrincipal = fields.sourcePrincipal;
    this.connectionSecurityPolicy = fields.connectionSecurityPolicy;
  }
}

/** Where it went: the same for all requests of one cluster over one upstream connection. */
export class LoggedUpstream extends Part {
  /** `address:port` of the endpoint, and of our end; null where none was dialled. */
  readonly host: string | null;
  readonly localAddress: string | null;
  /** Istio's cluster name: `outbound|9080||host`, `inbound|8080||`, `PassthroughCluster`. */
  readonly cluster: string | null;
  /** Istio's name of the route a request took; null for connections. */
  readonly routeName: string | null;
  /** SPIFFE URI of the callee; null for plaintext. */
  readonly destinationPrincipal: string | null;

  constructor(fields: Omit<LoggedUpstream, keyof Part>) {
    super();
    this.host = fields.host;
    this.localAddress = fields.localAddress;
    this.cluster = fields.cluster;
    this.routeName = fields.routeName;
    this.destinationPrincipal = fields.destinationPrincipal;
  }
}

/** One line's facts. Whoever writes lines fills one record again and again: nothing is allocated for a line. */
export interface AccessRecord {
  connection: LoggedConnection;
  upstream: LoggedUpstream;
  /** Milliseconds since the epoch. */
  startTime: number;
  durationMs: number;
  /** Bodies for requests, all bytes for connections; from and to the downstream. */
  bytesReceived: number;
  bytesSent: number;
  /** Envoy's flags, `-` for none. */
  responseFlags: string;
  connectionTerminationDetails: string | null;
  upstreamTransportFailureReason: string | null;
  /** `NS/NAME` of the policy that decided; null where none did. */
  policy: string | null;
  /** A code of mesh/reasons.ts where it was refused or failed; else null. */
  reason: string | null;
  /** From here on a request's; for a connection null, and 0 for the code. */
  method: string | null;
  /** As the downstream sent it, query included. */
  path: string | null;
  /** `HTTP/1.1` */
  protocol: string | null;
  /** 0 where no answer was sent. */
  responseCode: number;
  responseCodeDetails: string | null;
  /** Milliseconds until the upstream's first byte; null where there was none. */
  upstreamServiceTime: number | null;
  xForwardedFor: string | null;
  userAgent: string | null;
  requestId: string | null;
  authority: string | null;
  /** Of a gRPC call, as its trailers told; null: none, or no gRPC. */
  grpcStatus: number | null;
  /** Values of the request's headers that the format asks for, in its order: see `AccessLog.requestHeaders`. */
  requestHeaders: readonly (string | null)[];
}

/** A record of a connection without any request. */
export function connectionRecord(connection: LoggedConnection, upstream: LoggedUpstream): AccessRecord {
  return {
    connection,
    upstream,
    startTime: 0,
    durationMs: 0,
    bytesReceived: 0,
    bytesSent: 0,
    responseFlags: '-',
    connectionTerminationDetails: null,
    upstreamTransportFailureReason: null,
    policy: null,
    reason: null,
    method: null,
    path: null,
    protocol: null,
    responseCode: 0,
    responseCodeDetails: null,
    upstreamServiceTime: null,
    xForwardedFor: null,
    userAgent: null,
    requestId: null,
    authority: null,
    grpcStatus: null,
    requestHeaders: NO_HEADERS,
  };
}

export const NO_HEADERS: readonly (string | null)[] = [];
