/** What each command operator of an access log format stands for. */
import { type Operator, type PlainOperator, SERVICE_TIME_HEADER } from '../mesh/access-format.ts';
import type { AccessRecord } from './access-record.ts';

/**
 * How long a value stays the same, and with it the bytes made of it. `repeated`: nothing says it must, but from one
 * request of a connection to the next it mostly does.
 */
export type Lifetime = 'connection' | 'upstream' | 'repeated' | 'request';

/** A value as the line shows it. `null`: absent. */
export type LoggedValue =
  | { readonly kind: 'text'; readonly lifetime: Lifetime; readonly limit: number; readonly get: Get<string> }
  | { readonly kind: 'number'; readonly lifetime: Lifetime; readonly get: Get<number> }
  | { readonly kind: 'time' };

export type Get<T> = (record: AccessRecord) => T | null;

/** What the wire may make long is cut: characters kept of a path, and of any other text. */
const MAX_PATH = 1_024;
const MAX_TEXT = 512;

const text = (lifetime: Lifetime, get: Get<string>, limit = MAX_TEXT): LoggedValue => ({
  kind: 'text',
  lifetime,
  limit,
  get,
});
const number = (lifetime: Lifetime, get: Get<number>): LoggedValue => ({ kind: 'number', lifetime, get });
const absent = text('connection', () => null);

const path = text('request', (record) => record.path, MAX_PATH);
const remoteAddress: Get<string> = ({ connection }) => connection.downstreamRemoteAddress;
const localAddress: Get<string> = ({ connection }) => connection.downstreamLocalAddress;
const upstreamHost: Get<string> = ({ upstream }) => upstream.host;
const inbound: (get: Get<string>) => Get<string> = (get) => (record) =>
  record.connection.direction === 'inbound' ? get(record) : null;
const outbound: (get: Get<string>) => Get<string> = (get) => (record) =>
  record.connection.direction === 'outbound' ? get(record) : null;
const source: Get<string> = ({ connection }) => connection.sourcePrincipal;
const destination: Get<string> = ({ upstream }) => upstream.destinationPrincipal;

const PLAIN: Readonly<Record<PlainOperator, LoggedValue>> = {
  PROTOCOL: text('repeated', (record) => record.protocol),
  RESPONSE_CODE: number('repeated', (record) => record.responseCode),
  RESPONSE_FLAGS: text('repeated', (record) => record.responseFlags),
  RESPONSE_CODE_DETAILS: text('repeated', (record) => record.responseCodeDetails),
  CONNECTION_TERMINATION_DETAILS: text('repeated', (record) => record.connectionTerminationDetails),
  UPSTREAM_TRANSPORT_FAILURE_REASON: text('repeated', (record) => record.upstreamTransportFailureReason),
  BYTES_RECEIVED: number('request', (record) => record.bytesReceived),
  BYTES_SENT: number('request', (record) => record.bytesSent),
  DURATION: number('request', (record) => record.durationMs),
  RESPONSE_DURATION: number('request', (record) => record.upstreamServiceTime),
  UPSTREAM_HOST: text('upstream', upstreamHost),
  UPSTREAM_REMOTE_ADDRESS: text('upstream', upstreamHost),
  UPSTREAM_CLUSTER: text('upstream', ({ upstream }) => upstream.cluster),
  UPSTREAM_CLUSTER_RAW: text('upstream', ({ upstream }) => upstream.cluster),
  UPSTREAM_LOCAL_ADDRESS: text('upstream', ({ upstream }) => upstream.localAddress),
  UPSTREAM_PEER_URI_SAN: text('upstream', outbound(destination)),
  DOWNSTREAM_LOCAL_ADDRESS: text('connection', localAddress),
  DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT: text('connection', hostOf(localAddress)),
  DOWNSTREAM_LOCAL_PORT: text('connection', portOf(localAddress)),
  DOWNSTREAM_REMOTE_ADDRESS: text('connection', remoteAddress),
  DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT: text('connection', hostOf(remoteAddress)),
  DOWNSTREAM_REMOTE_PORT: text('connection', portOf(remoteAddress)),
  DOWNSTREAM_DIRECT_REMOTE_ADDRESS: text('connection', remoteAddress),
  DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT: text('connection', hostOf(remoteAddress)),
  DOWNSTREAM_PEER_URI_SAN: text('connection', inbound(source)),
  DOWNSTREAM_LOCAL_URI_SAN: text('upstream', inbound(destination)),
  REQUESTED_SERVER_NAME: text('connection', ({ connection }) => connection.requestedServerName),
  ROUTE_NAME: text('upstream', ({ upstream }) => upstream.routeName),
  OARLOCK_DIRECTION: text('connection', ({ connection }) => connection.direction),
  OARLOCK_SOURCE_PRINCIPAL: text('connection', source),
  OARLOCK_DESTINATION_PRINCIPAL: text('upstream', destination),
  OARLOCK_CONNECTION_SECURITY_POLICY: text(
    'connection',
    ({ connection }) => connection.connectionSecurityPolicy,
  ),
  OARLOCK_POLICY: text('repeated', (record) => record.policy),
  OARLOCK_REASON: text('repeated', (record) => record.reason),
};

/** Request headers that every record has, by lower-case name. */
const REQUEST: ReadonlyMap<string, LoggedValue> = new Map<string, LoggedValue>([
  [':method', text('repeated', (record) => record.method)],
  [':path', path],
  ['x-envoy-original-path', path],
  [':authority', text('repeated', (record) => record.authority)],
  ['user-agent', text('repeated', (record) => record.userAgent)],
  ['x-request-id', text('request', (record) => record.requestId)],
  ['x-forwarded-for', text('repeated', (record) => record.xForwardedFor)],
]);

/**
 * The value of an operator.
 * @param headers names of request headers asked for so far; another one is added
 */
export function operatorValue({ name, argument }: Operator, headers: string[]): LoggedValue {
  switch (name) {
    case 'START_TIME':
      return { kind: 'time' };
    case 'REQ':
      return headerOf(argument ?? '', headers);
    case 'REQ_WITHOUT_QUERY':
      return withoutQuery(headerOf(argument ?? '', headers));
    case 'RESP':
      return argument?.toLowerCase() === SERVICE_TIME_HEADER ? serviceTime : absent;
    case 'GRPC_STATUS':
      return argument === 'NUMBER' ? grpcNumber : argument === 'SNAKE_STRING' ? grpcSnake : grpcCamel;
    case 'GRPC_STATUS_NUMBER':
      return grpcNumber;
    default:
      return Object.hasOwn(PLAIN, name) ? PLAIN[name as PlainOperator] : absent;
  }
}

// A header's value in Envoy, so a string.
const serviceTime = text('request', ({ upstreamServiceTime: time }) =>
  time === null ? null : String(Math.floor(time)),
);
const grpcNumber = number('repeated', (record) => record.grpcStatus);
const grpcCamel = text('repeated', ({ grpcStatus }) => (grpcStatus === null ? null : grpcName(grpcStatus)));
const grpcSnake = text('repeated', ({ grpcStatus }) => (grpcStatus === null ? null : snakeName(grpcStatus)));

function withoutQuery(value: LoggedValue): LoggedValue {
  if (value.kind !== 'text') return value;
  return text(value.lifetime, (record) => value.get(record)?.replace(/\?.*$/s, '') ?? null, value.limit);
}

/** `NAME?OTHER`: the second where the first is absent. */
function headerOf(argument: string, headers: string[]): LoggedValue {
  const [first = '', second] = argument.toLowerCase().split('?', 2);
  const value = REQUEST.get(first) ?? capturedHeader(first, headers);
  if (second === undefined || value.kind !== 'text' || value === path) return value;
  const other = headerOf(second, headers);
  if (other.kind !== 'text') return value;
  return text(
    'request',
    (record) => value.get(record) ?? other.get(record),
    Math.max(value.limit, other.limit),
  );
}

function capturedHeader(name: string, headers: string[]): LoggedValue {
  if (!headers.includes(name)) headers.push(name);
  const index = headers.indexOf(name);
  return text('request', (record) => record.requestHeaders[index] ?? null);
}

function hostOf(get: Get<string>): Get<string> {
  return (record) => get(record)?.replace(/:[0-9]+$/, '') ?? null;
}

function portOf(get: Get<string>): Get<string> {
  return (record) => /:([0-9]+)$/.exec(get(record) ?? '')?.[1] ?? null;
}

/** Names as Envoy's `%GRPC_STATUS%` prints them: gRPC's codes in CamelCase. */
const GRPC_NAMES = [
  ...['OK', 'Canceled', 'Unknown', 'InvalidArgument', 'DeadlineExceeded', 'NotFound', 'AlreadyExists'],
  ...[
    'PermissionDenied',
    'ResourceExhausted',
    'FailedPrecondition',
    'Aborted',
    'OutOfRange',
    'Unimplemented',
  ],
  ...['Internal', 'Unavailable', 'DataLoss', 'Unauthenticated'],
];

function grpcName(status: number): string {
  return GRPC_NAMES[status] ?? String(status);
}

/** gRPC's own spelling, which has two l in CANCELLED. */
function snakeName(status: number): string {
  if (status === 1) return 'CANCELLED';
  return grpcName(status)
    .replace(/([a-z])([A-Z])/g, '$1_$2')
    .toUpperCase();
}
