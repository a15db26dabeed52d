/** Makes a writer of an access log format: what stays the same is rendered once, the rest goes straight into bytes. */
import {
  type AccessFormat,
  type FormatPart,
  type JsonTemplate,
  type Operator,
  parseFormat,
} from '../mesh/access-format.ts';
import { type Get, type Lifetime, type LoggedValue, operatorValue } from './access-operators.ts';
import { type AccessRecord, LoggedConnection, type LoggedUpstream } from './access-record.ts';
import { ascii, type Escaping, type LineBytes, MAX_BYTES_A_UNIT } from './line-bytes.ts';

type Write = (line: LineBytes, record: AccessRecord) => void;

/** One place of a format: bytes that never change, or a value. */
interface Step {
  readonly lifetime: Lifetime | 'literal';
  /** Bytes it takes at most. */
  readonly longest: number;
  readonly write: Write;
  readonly literal: Uint8Array;
  readonly get: Get<string | number> | null;
}

/** A format that lines are written by. */
export interface LineFormat {
  /** Bytes of the longest line. */
  readonly longest: number;
  /** Lower-case names of the request headers it shows that no record has by itself. */
  readonly requestHeaders: readonly string[];
  /** Adds a line with its line feed. */
  write(line: LineBytes, record: AccessRecord): void;
}

const NULL = ascii('null');
const DASH = 0x2d;
const QUOTE = 0x22;
const NO_PIECE = new Uint8Array(0);
/** Digits of the largest number that counts exactly. */
const LONGEST_NUMBER = 16;
const LONGEST_TIME = 24;

/** Makes a line format. */
export function compileFormat(format: AccessFormat): LineFormat {
  const headers: string[] = [];
  const steps =
    format.encoding === 'json'
      ? jsonSteps(format.fields, headers)
      : format.parts.map((part) => (typeof part === 'string' ? literal(part) : textStep(part, headers)));
  const last = format.encoding === 'text' ? format.parts.at(-1) : '';
  if (typeof last !== 'string' || !last.endsWith('\n')) steps.push(literal('\n'));
  const self = {};
  const writes = joined(steps, self);
  let longest = 0;
  for (const step of steps) longest += step.longest;
  return {
    longest,
    requestHeaders: headers,
    write(line, record) {
      for (let i = 0; i < writes.length; i++) (writes[i] as Write)(line, record);
    },
  };
}

function literal(text: string): Step {
  const bytes = ascii(text);
  return {
    lifetime: 'literal',
    longest: bytes.length,
    literal: bytes,
    write: (line) => line.piece(bytes),
    get: null,
  };
}

/** `{"name":value,…}`: literals between the values. */
function jsonSteps(fields: JsonTemplate, headers: string[]): Step[] {
  const steps: Step[] = [];
  let before = '{';
  for (const [name, value] of fields) {
    steps.push(literal(`${before}${JSON.stringify(name)}:`));
    before = ',';
    if (value instanceof Map) steps.push(...jsonSteps(value, headers));
    else if ('json' in value) steps.push(literal(value.json));
    else steps.push(...jsonValue(value as readonly FormatPart[], headers));
  }
  steps.push(literal(before === '{' ? '{}' : '}'));
  return steps;
}

function jsonValue(parts: readonly FormatPart[], headers: string[]): Step[] {
  const [only] = parts;
  if (parts.length === 1 && typeof only === 'object') return [jsonStep(only, headers)];
  const steps = parts.map((part) =>
    typeof part === 'string'
      ? literal(JSON.stringify(part).slice(1, -1))
      : bareStep(operatorValue(part, headers), part.length, 'json'),
  );
  return [literal('"'), ...steps, literal('"')];
}

/** A JSON value by itself: text in quotes, a number, or null. */
function jsonStep(operator: Operator, headers: string[]): Step {
  const value = operatorValue(operator, headers);
  if (value.kind === 'time') {
    const write: Write = (line, record) => {
      line.bytes[line.at++] = QUOTE;
      line.time(record.startTime);
      line.bytes[line.at++] = QUOTE;
    };
    return { lifetime: 'request', longest: LONGEST_TIME + 2, write, literal: NO_PIECE, get: null };
  }
  if (value.kind === 'number') {
    const { get, lifetime } = value;
    const write: Write = (line, record) => {
      const number = get(record);
      if (number === null) line.piece(NULL);
      else line.number(number);
    };
    return { lifetime, longest: LONGEST_NUMBER, write, literal: NO_PIECE, get };
  }
  const { get, lifetime } = value;
  const limit = Math.min(value.limit, operator.length ?? value.limit);
  const write: Write = (line, record) => {
    const text = get(record);
    if (text === null) {
      line.piece(NULL);
      return;
    }
    line.bytes[line.at++] = QUOTE;
    line.text(text, limit, 'json');
    line.bytes[line.at++] = QUOTE;
  };
  return { lifetime, longest: limit * MAX_BYTES_A_UNIT + 4, write, literal: NO_PIECE, get };
}

function textStep(operator: Operator, headers: string[]): Step {
  return bareStep(operatorValue(operator, headers), operator.length, 'text');
}

/** A value amid other text; `-` where it is absent. */
function bareStep(value: LoggedValue, length: number | null, escaping: Escaping): Step {
  if (value.kind === 'time') {
    const write: Write = (line, record) => line.time(record.startTime);
    return { lifetime: 'request', longest: LONGEST_TIME, write, literal: NO_PIECE, get: null };
  }
  if (value.kind === 'number') {
    const { get, lifetime } = value;
    const write: Write = (line, record) => {
      const number = get(record);
      if (number === null) line.bytes[line.at++] = DASH;
      else line.number(number);
    };
    return { lifetime, longest: LONGEST_NUMBER, write, literal: NO_PIECE, get };
  }
  const { get, lifetime } = value;
  const limit = Math.min(value.limit, length ?? value.limit);
  const write: Write = (line, record) => {
    const text = get(record);
    if (text === null) line.bytes[line.at++] = DASH;
    else line.text(text, limit, escaping);
  };
  return { lifetime, longest: limit * MAX_BYTES_A_UNIT + 1, write, literal: NO_PIECE, get };
}

/**
 * Joins neighbours of one lifetime: literals to literals, and what stays the same to one piece of bytes that is kept
 * with the connection or upstream it is told of.
 */
function joined(steps: readonly Step[], format: object): Write[] {
  const writes: Write[] = [];
  const places = { connection: 0, upstream: 0, repeated: 0 };
  let run: Step[] = [];
  let lifetime: 'literal' | 'connection' | 'upstream' | 'repeated' = 'literal';
  const flush = (): void => {
    if (run.length === 0) return;
    if (lifetime === 'literal') {
      const bytes = Uint8Array.from(Buffer.concat(run.map((step) => step.literal)));
      writes.push((line) => line.piece(bytes));
    } else if (lifetime === 'repeated') writes.push(repeated(run, places.repeated++, format));
    else writes.push(kept(run, lifetime, places[lifetime]++, format));
    run = [];
    lifetime = 'literal';
  };
  for (const step of steps) {
    if (step.lifetime === 'request') {
      flush();
      writes.push(step.write);
      continue;
    }
    if (step.lifetime !== 'literal') {
      if (lifetime !== 'literal' && lifetime !== step.lifetime) flush();
      lifetime = step.lifetime;
    }
    run.push(step);
  }
  flush();
  return writes;
}

/** Renders steps once for each connection or upstream. */
function kept(
  steps: readonly Step[],
  lifetime: 'connection' | 'upstream',
  place: number,
  format: object,
): Write {
  return (line, record) => {
    const part = record[lifetime];
    if (part.of !== format) forget(part, format);
    const piece = part.pieces[place];
    if (piece === undefined) part.pieces[place] = rendered(steps, line, record);
    else line.piece(piece);
  };
}

/** Renders steps anew where one of their values differs from the connection's request before. */
function repeated(steps: readonly Step[], place: number, format: object): Write {
  const gets = steps.flatMap(({ get }) => (get === null ? [] : [get]));
  return (line, record) => {
    const { connection } = record;
    if (connection.of !== format) forget(connection, format);
    const known = connection.repeated[place];
    if (known !== undefined && sameValues(gets, known.values, record)) {
      line.piece(known.piece);
      return;
    }
    const piece = rendered(steps, line, record);
    connection.repeated[place] = { values: gets.map((get) => unsliced(get(record))), piece };
  };
}

function sameValues(
  gets: readonly Get<string | number>[],
  values: readonly (string | number | null)[],
  record: AccessRecord,
): boolean {
  for (let i = 0; i < gets.length; i++) {
    if ((gets[i] as Get<string | number>)(record) !== values[i]) return false;
  }
  return true;
}

/** A copy: what was cut out of a request's head would keep all of it in memory. */
function unsliced(value: string | number | null): string | number | null {
  return typeof value === 'string' ? Buffer.from(value, 'utf16le').toString('utf16le') : value;
}

function forget(part: LoggedConnection | LoggedUpstream, format: object): void {
  part.of = format;
  part.pieces = [];
  if (part instanceof LoggedConnection) part.repeated = [];
}

/** Adds steps to a line. @returns what was added */
function rendered(steps: readonly Step[], line: LineBytes, record: AccessRecord): Uint8Array {
  const from = line.at;
  for (const { write } of steps) write(line, record);
  return Uint8Array.from(line.bytes.subarray(from, line.at));
}

/** Istio's EnvoyTextLogFormat (pilot/pkg/model/telemetry_logging.go): fields and order. */
export const istioText: AccessFormat = {
  encoding: 'text',
  parts: parseFormat(
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% ' +
      '%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ' +
      '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ' +
      '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ' +
      '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% ' +
      '%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ' +
      '%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n',
  ),
};

/** Names and values of Istio's EnvoyJSONLogFormatIstio, and ours; what stays the same stands together, so that it becomes one piece of bytes. */
const JSON_FIELDS: readonly (readonly [string, string])[] = [
  ['type', 'access'],
  ['start_time', '%START_TIME%'],
  ['path', '%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%'],
  ['request_id', '%REQ(X-REQUEST-ID)%'],
  ['bytes_received', '%BYTES_RECEIVED%'],
  ['bytes_sent', '%BYTES_SENT%'],
  ['duration', '%DURATION%'],
  ['upstream_service_time', '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%'],
  // Mostly as in the connection's request before.
  ['method', '%REQ(:METHOD)%'],
  ['protocol', '%PROTOCOL%'],
  ['response_code', '%RESPONSE_CODE%'],
  ['response_flags', '%RESPONSE_FLAGS%'],
  ['response_code_details', '%RESPONSE_CODE_DETAILS%'],
  ['connection_termination_details', '%CONNECTION_TERMINATION_DETAILS%'],
  ['upstream_transport_failure_reason', '%UPSTREAM_TRANSPORT_FAILURE_REASON%'],
  ['x_forwarded_for', '%REQ(X-FORWARDED-FOR)%'],
  ['user_agent', '%REQ(USER-AGENT)%'],
  ['authority', '%REQ(:AUTHORITY)%'],
  ['grpc_response_status', '%GRPC_STATUS_NUMBER%'],
  ['policy', '%OARLOCK_POLICY%'],
  ['reason', '%OARLOCK_REASON%'],
  // The upstream's.
  ['upstream_host', '%UPSTREAM_HOST%'],
  ['upstream_cluster', '%UPSTREAM_CLUSTER_RAW%'],
  ['upstream_local_address', '%UPSTREAM_LOCAL_ADDRESS%'],
  ['route_name', '%ROUTE_NAME%'],
  ['destination_principal', '%OARLOCK_DESTINATION_PRINCIPAL%'],
  // The connection's.
  ['downstream_local_address', '%DOWNSTREAM_LOCAL_ADDRESS%'],
  ['downstream_remote_address', '%DOWNSTREAM_REMOTE_ADDRESS%'],
  ['requested_server_name', '%REQUESTED_SERVER_NAME%'],
  ['direction', '%OARLOCK_DIRECTION%'],
  ['source_principal', '%OARLOCK_SOURCE_PRINCIPAL%'],
  ['connection_security_policy', '%OARLOCK_CONNECTION_SECURITY_POLICY%'],
];

export const istioJson: AccessFormat = {
  encoding: 'json',
  fields: new Map(JSON_FIELDS.map(([name, value]) => [name, parseFormat(value)])),
};
