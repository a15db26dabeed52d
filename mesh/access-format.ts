/** The language of access log formats: Envoy's command operators in text, or in the values of a JSON object. */

/** `%NAME(argument):length%` */
export interface Operator {
  readonly name: string;
  readonly argument: string | null;
  /** Characters kept of the value; null: all that the log keeps of any. */
  readonly length: number | null;
}

/** Text as it is, or an operator. */
export type FormatPart = string | Operator;

/** A JSON value: text with operators (one operator alone keeps its type: number, null), an object, or JSON as it is. */
export type JsonValue = readonly FormatPart[] | JsonTemplate | { readonly json: string };
export type JsonTemplate = ReadonlyMap<string, JsonValue>;

export type AccessFormat =
  | { readonly encoding: 'text'; readonly parts: readonly FormatPart[] }
  | { readonly encoding: 'json'; readonly fields: JsonTemplate };

/** What mesh config says of the access log. */
export interface MeshAccessLog {
  /** `accessLogFile`; null: not given. */
  readonly file: string | null;
  /** Null: none of its fields is given. */
  readonly encoding: AccessFormat['encoding'] | null;
  /** `accessLogFormat`; null: Istio's default of that encoding. */
  readonly format: AccessFormat | null;
}

/** Envoy's operators that take no argument, and ours. */
export const PLAIN_OPERATORS = [
  ...(['PROTOCOL', 'RESPONSE_CODE', 'RESPONSE_FLAGS', 'RESPONSE_CODE_DETAILS'] as const),
  ...(['CONNECTION_TERMINATION_DETAILS', 'UPSTREAM_TRANSPORT_FAILURE_REASON'] as const),
  ...(['BYTES_RECEIVED', 'BYTES_SENT', 'DURATION', 'RESPONSE_DURATION'] as const),
  ...(['UPSTREAM_HOST', 'UPSTREAM_REMOTE_ADDRESS', 'UPSTREAM_LOCAL_ADDRESS'] as const),
  ...(['UPSTREAM_CLUSTER', 'UPSTREAM_CLUSTER_RAW', 'UPSTREAM_PEER_URI_SAN'] as const),
  ...([
    'DOWNSTREAM_LOCAL_ADDRESS',
    'DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT',
    'DOWNSTREAM_LOCAL_PORT',
  ] as const),
  ...([
    'DOWNSTREAM_REMOTE_ADDRESS',
    'DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT',
    'DOWNSTREAM_REMOTE_PORT',
  ] as const),
  ...(['DOWNSTREAM_DIRECT_REMOTE_ADDRESS', 'DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT'] as const),
  ...(['DOWNSTREAM_PEER_URI_SAN', 'DOWNSTREAM_LOCAL_URI_SAN'] as const),
  ...(['REQUESTED_SERVER_NAME', 'ROUTE_NAME'] as const),
  ...(['OARLOCK_DIRECTION', 'OARLOCK_SOURCE_PRINCIPAL', 'OARLOCK_DESTINATION_PRINCIPAL'] as const),
  ...(['OARLOCK_CONNECTION_SECURITY_POLICY', 'OARLOCK_POLICY', 'OARLOCK_REASON'] as const),
] as const;
export type PlainOperator = (typeof PLAIN_OPERATORS)[number];

/** The one answer's header whose value we have: it is ours to tell. */
export const SERVICE_TIME_HEADER = 'x-envoy-upstream-service-time';
/** Operators with an argument. Nothing here writes dynamic metadata or filter state, so `-` is what Envoy would print. */
const OTHERS = [
  ...['START_TIME', 'REQ', 'REQ_WITHOUT_QUERY', 'GRPC_STATUS', 'GRPC_STATUS_NUMBER'],
  ...['DYNAMIC_METADATA', 'FILTER_STATE'],
];
const KNOWN: ReadonlySet<string> = new Set([...PLAIN_OPERATORS, ...OTHERS]);

/** A format that cannot be read. */
export class AccessFormatError extends Error {}

const OPERATOR = /%([A-Z0-9_]+)(?:\(([^)]*)\))?(?::([0-9]{1,5}))?%/y;

/**
 * Reads a text with operators; `%%` is a percent sign.
 * @throws AccessFormatError where a `%` begins no operator
 */
export function parseFormat(text: string): FormatPart[] {
  const parts: FormatPart[] = [];
  let literal = '';
  let at = 0;
  while (at < text.length) {
    const percent = text.indexOf('%', at);
    literal += text.slice(at, percent < 0 ? undefined : percent);
    if (percent < 0) break;
    if (text[percent + 1] === '%') {
      literal += '%';
      at = percent + 2;
      continue;
    }
    OPERATOR.lastIndex = percent;
    const match = OPERATOR.exec(text);
    if (match === null)
      throw new AccessFormatError(`no operator begins at "${text.slice(percent, percent + 24)}"`);
    if (literal !== '') parts.push(literal);
    literal = '';
    const [whole, name = '', argument, length] = match;
    parts.push({ name, argument: argument ?? null, length: length === undefined ? null : Number(length) });
    at = percent + whole.length;
  }
  if (literal !== '') parts.push(literal);
  return parts;
}

/**
 * Reads a JSON object whose texts hold operators.
 * @throws AccessFormatError where it is none
 */
export function parseJsonFormat(text: string): JsonTemplate {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new AccessFormatError(`is not JSON: ${(error as Error).message}`);
  }
  const template = templateOf(value);
  if (template === null) throw new AccessFormatError('is not a JSON object');
  return template;
}

function templateOf(value: unknown): JsonTemplate | null {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  return new Map(
    Object.entries(value).map(([name, member]): [string, JsonValue] => [
      name,
      typeof member === 'string'
        ? parseFormat(member)
        : (templateOf(member) ?? { json: JSON.stringify(member) }),
    ]),
  );
}

/** The operators of a format that always print `-` here: those we do not know. */
export function unknownOperators(format: AccessFormat): string[] {
  const parts = format.encoding === 'text' ? format.parts : partsOf(format.fields);
  const unknown = parts.flatMap((part) => (typeof part === 'string' || isKnown(part) ? [] : [textOf(part)]));
  return [...new Set(unknown)];
}

function partsOf(template: JsonTemplate): FormatPart[] {
  return [...template.values()].flatMap((value) =>
    value instanceof Map ? partsOf(value) : Array.isArray(value) ? (value as FormatPart[]) : [],
  );
}

function isKnown({ name, argument }: Operator): boolean {
  return name === 'RESP' ? argument?.toLowerCase() === SERVICE_TIME_HEADER : KNOWN.has(name);
}

function textOf({ name, argument }: Operator): string {
  return argument === null ? `%${name}%` : `%${name}(${argument})%`;
}
