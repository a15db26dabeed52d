/** Every bound and time-out of the data path in one table: value, unit, reason. Each has a flag of `oarlock run`. */

export interface LimitRow {
  readonly unit: 'ms' | 'bytes' | 'count';
  readonly value: number;
  /** Flag of `oarlock run`, without dashes; its environment name is OARLOCK_ and the flag in capitals. */
  readonly flag: string;
  readonly why: string;
  /** 0 may be asked for, and means at once, or never. */
  readonly mayBeZero?: true;
}

export const limitTable = {
  drain: {
    unit: 'ms',
    value: 5_000,
    flag: 'drain',
    why: 'how long running requests, and the app itself with its outbound connections, may take to end after SIGTERM and --drain-delay',
  },
  drainDelay: {
    unit: 'ms',
    value: 0,
    flag: 'drain-delay',
    mayBeZero: true,
    why: 'after SIGTERM we are not ready but serve as before so long: callers learn of it at other moments',
  },
  canaryInterval: {
    unit: 'ms',
    value: 10_000,
    flag: 'canary-interval',
    mayBeZero: true,
    why: 'how often a connection to ourselves proves that the rules of capture stand; we are not ready before the first has; 0s: never, and ready without',
  },
  handshakeTimeout: {
    unit: 'ms',
    value: 10_000,
    flag: 'handshake-timeout',
    why: 'first byte, ClientHello and TLS handshake together, or a held body without progress; a silent peer must not hold a socket',
  },
  maxHandshakes: {
    unit: 'count',
    value: 1_000,
    flag: 'max-handshakes',
    why: 'inbound TLS handshakes under way at once; others wait their turn within their time-out, and a stalled one gives way',
  },
  modeGrace: {
    unit: 'ms',
    value: 3_000,
    flag: 'mode-grace',
    mayBeZero: true,
    why: "after a switch of a port's mode, what the old mode or the new one accepts is accepted so long: peers learn of it at other moments",
  },
  connectTimeout: {
    unit: 'ms',
    value: 10_000,
    flag: 'connect-timeout',
    why: "TCP and TLS to an upstream; Istio's default",
  },
  requestHeadTimeout: {
    unit: 'ms',
    value: 10_000,
    flag: 'request-head-timeout',
    why: 'a request head must be complete by then: slow-loris bound',
  },
  idleTimeout: {
    unit: 'ms',
    value: 3_600_000,
    flag: 'idle-timeout',
    why: "no byte either way; Envoy's default for HTTP and TCP",
  },
  streamIdleTimeout: {
    unit: 'ms',
    value: 3_600_000,
    flag: 'stream-idle-timeout',
    why: 'a request under way on which no byte moves either way',
  },
  halfCloseGrace: {
    unit: 'ms',
    value: 1_000,
    flag: 'half-close-grace',
    why: 'a downstream that ended its side may still read its answer; with no byte of one so long it is taken as gone',
  },
  poolIdleTimeout: {
    unit: 'ms',
    value: 4_000,
    flag: 'pool-idle-timeout',
    why: 'an idle upstream connection is retired before a 5 s keep-alive server closes it under a request',
  },
  poolSize: {
    unit: 'count',
    value: 256,
    flag: 'pool-size',
    why: 'idle upstream connections kept an endpoint',
  },
  maxConnections: {
    unit: 'count',
    value: 20_000,
    flag: 'max-connections',
    why: 'open downstream connections, all listeners together',
  },
  dnsRefresh: {
    unit: 'ms',
    value: 5_000,
    flag: 'dns-refresh',
    why: "an endpoint's host name in use is asked for anew so often; the last answer serves meanwhile",
  },
  dnsNames: {
    unit: 'count',
    value: 1_000,
    flag: 'dns-names',
    why: 'host names of endpoints remembered, by each data-path thread',
  },
  maxHeadBytes: {
    unit: 'bytes',
    value: 61_440,
    flag: 'max-head-bytes',
    why: "request or answer head; Envoy's default of 60 KiB",
  },
  maxHeadFields: {
    unit: 'count',
    value: 100,
    flag: 'max-head-fields',
    why: "header fields; Envoy's default",
  },
  maxTargetBytes: {
    unit: 'bytes',
    value: 32_768,
    flag: 'max-target-bytes',
    why: 'request target: a longer one is answered 414',
  },
  maxChunkLine: {
    unit: 'bytes',
    value: 4_096,
    flag: 'max-chunk-line',
    why: 'chunk size with its extensions, which are dropped',
  },
  maxTrailerBytes: {
    unit: 'bytes',
    value: 8_192,
    flag: 'max-trailer-bytes',
    why: 'trailers of a body, held until they are complete',
  },
  maxInterimAnswers: {
    unit: 'count',
    value: 10,
    flag: 'max-interim-answers',
    why: '1xx answers passed on for one request',
  },
  maxUnreadBody: {
    unit: 'bytes',
    value: 65_536,
    flag: 'max-unread-body',
    why: "of an answered request's body read past before the connection is given up",
  },
  maxAhead: {
    unit: 'bytes',
    value: 65_536,
    flag: 'max-ahead',
    why: 'taken in advance of what is under way (pipelining); then reading stops',
  },
  maxHeldBody: {
    unit: 'bytes',
    value: 1_048_576,
    flag: 'max-held-body',
    why: 'of a request body held back for an external authorizer, whatever maxRequestBytes says',
  },
  maxHeldTotal: {
    unit: 'bytes',
    value: 67_108_864,
    flag: 'max-held-total',
    why: 'of such bodies, all connections of a data-path thread together',
  },
  maxClientHello: {
    unit: 'bytes',
    value: 16_384,
    flag: 'max-client-hello',
    why: 'bytes looked at before the ClientHello must be complete',
  },
  maxStreams: {
    unit: 'count',
    value: 1_000,
    flag: 'max-streams',
    why: 'requests under way on one HTTP/2 connection to us, or connections on one HBONE tunnel to us',
  },
  maxUpstreamStreams: {
    unit: 'count',
    value: 100,
    flag: 'max-upstream-streams',
    why: 'requests under way on one HTTP/2 connection of ours; the upstream may ask for fewer',
  },
  streamWindow: {
    unit: 'bytes',
    value: 262_144,
    flag: 'stream-window',
    why: 'that may wait on one HTTP/2 stream for a slow reader, each way',
  },
  maxStreamResets: {
    unit: 'count',
    value: 500,
    flag: 'max-stream-resets',
    why: 'streams the peer of an HTTP/2 connection resets within a second and before their answer; more, and most of its streams: it is closed; on an HBONE tunnel in its whole life. Our own take no new streams after half as many, so that no peer closes them',
  },
  maxWaitingStreams: {
    unit: 'count',
    value: 1_024,
    flag: 'max-waiting-streams',
    why: 'requests that wait for an HTTP/2 connection to one upstream to be made',
  },
  sessionIdleTimeout: {
    unit: 'ms',
    value: 300_000,
    flag: 'session-idle-timeout',
    why: 'an HTTP/2 connection of ours without a request, or a tunnel without a stream, is closed then',
  },
  maxTunnelStreams: {
    unit: 'count',
    value: 100,
    flag: 'max-tunnel-streams',
    why: "connections of ours on one HBONE tunnel, as ztunnel's pool has it; the peer may ask for fewer",
  },
  tunnelPing: {
    unit: 'ms',
    value: 10_000,
    flag: 'tunnel-ping',
    why: 'a tunnel on which nothing was heard so long is asked; with no answer in twice as long it is given up',
  },
  resumableSessions: {
    unit: 'count',
    value: 10_000,
    flag: 'resumable-sessions',
    why: 'TLS sessions and verified peers remembered, each side',
  },
  serverFirstHold: {
    unit: 'ms',
    value: 100,
    flag: 'server-first-hold',
    why: 'how long a side that speaks first is held back on a port whose protocol its bytes must tell: a slower TLS client loses there',
  },
} as const satisfies Record<string, LimitRow>;

export type LimitName = keyof typeof limitTable;
/** The limits in force: milliseconds, bytes, counts. */
export type Limits = Readonly<Record<LimitName, number>>;

/** The table's values, with some replaced. */
export function limitsWith(overrides: Partial<Record<LimitName, number>>): Limits {
  const limits = {} as Record<LimitName, number>;
  for (const name of Object.keys(limitTable) as LimitName[]) {
    limits[name] = overrides[name] ?? limitTable[name].value;
  }
  return Object.freeze(limits);
}
