/** Strict reading and canonical writing of HTTP/1.1 heads (RFC 9112), requests and answers. */
import {
  BAD_TARGET,
  type Field,
  FORWARDED_CERT,
  type Framing,
  HeadError,
  HOP_BY_HOP,
  HOST,
  joinedValues,
  NEVER_NOMINATED,
  type NormalizeTarget,
  type RequestHead,
  TOKEN,
  valuesOf,
  XFCC,
} from '../http/head.ts';

/** An HTTP/1 request's head. */
export interface Http1Request extends RequestHead {
  readonly minor: 0 | 1;
  /** The downstream wants the connection kept after the answer. */
  readonly keepAlive: boolean;
  readonly expectsContinue: boolean;
}

export interface ResponseHead {
  readonly minor: 0 | 1;
  readonly status: number;
  readonly phrase: string;
  readonly fields: readonly Field[];
  readonly framing: Framing;
  readonly keepAlive: boolean;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: RFC 9110 §5.5 forbids exactly these in a value
const BAD_VALUE = /[\0-\x08\x0a-\x1f\x7f]/;
const DIGITS = /^[0-9]{1,16}$/;
const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?$/;

interface HeadBounds {
  readonly maxFields: number;
}

/**
 * Parses a request head, without its final empty line.
 * @param text the head as latin1, CRLF between lines
 * @throws HeadError naming what was wrong
 */
export function parseRequest(text: string, bounds: HeadBounds, normalize: NormalizeTarget): Http1Request {
  const lines = text.split('\r\n');
  const parts = (lines[0] ?? '').split(' ');
  const [method = '', target = '', version = ''] = parts;
  if (parts.length !== 3 || !TOKEN.test(method)) throw new HeadError(400, 'malformed request line');
  const minor = minorVersion(version);
  const fields = parseFields(lines, bounds);
  const host = single(fields, 'host', 'Host');
  if (host === null) throw new HeadError(400, 'no Host field');
  if (!HOST.test(host)) throw new HeadError(400, 'bad Host field');
  if (method === 'CONNECT') throw new HeadError(405, 'CONNECT is not served here');
  const { path, authority } = readTarget(method, target, normalize);
  const framing = requestFraming(fields, minor);
  const connection = listOfValues(fields, 'connection');
  const forwarded = passedOn(fields, connection);
  const head: Http1Request = {
    method,
    minor,
    path,
    host: authority ?? host,
    fields: authority === null ? forwarded : withHost(forwarded, authority),
    forwardedCert: forwarded.length === fields.length ? null : joinedValues(fields, FORWARDED_CERT),
    framing,
    // RFC 9112 §9.3: a proxy keeps no persistent connection with an HTTP/1.0 client.
    keepAlive: minor === 1 && !connection.includes('close'),
    expectsContinue:
      minor === 1 && (single(fields, 'expect', 'Expect') ?? '').toLowerCase() === '100-continue',
    headerValues: (name) => valuesOf(head.fields, name),
    add: (field) => {
      head.fields = [...head.fields, field];
    },
    claims: null,
    remoteIp: null,
  };
  return head;
}

/**
 * Parses an answer's head, without its final empty line.
 * @param method the request's method: HEAD has no body
 * @throws HeadError naming what was wrong
 */
export function parseResponse(text: string, bounds: HeadBounds, method: string): ResponseHead {
  const lines = text.split('\r\n');
  const match = STATUS_LINE.exec(lines[0] ?? '');
  if (match === null) throw new HeadError(400, 'malformed status line');
  const minor = match[1] === '1' ? 1 : 0;
  const status = Number(match[2]);
  const fields = parseFields(lines, bounds);
  const connection = listOfValues(fields, 'connection');
  const framing = responseFraming(fields, { minor, status, method });
  const kept = minor === 1 ? !connection.includes('close') : connection.includes('keep-alive');
  return {
    minor,
    status,
    phrase: match[3] ?? '',
    fields: withoutFraming(passedOn(fields, connection), status),
    framing,
    keepAlive: kept && framing.kind !== 'close',
  };
}

function minorVersion(version: string): 0 | 1 {
  if (version === 'HTTP/1.1') return 1;
  if (version === 'HTTP/1.0') return 0;
  throw new HeadError(
    /^HTTP\/[0-9.]+$/.test(version) ? 505 : 400,
    'only HTTP/1.0 and HTTP/1.1 are spoken here',
  );
}

function parseFields(lines: readonly string[], bounds: HeadBounds): readonly Field[] {
  if (lines.length - 1 > bounds.maxFields) throw new HeadError(431, 'too many header fields');
  const fields: Field[] = [];
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i] ?? '';
    const colon = line.indexOf(':');
    // A space before the colon or at the line's start (obs-fold) makes the name no token.
    const name = line.slice(0, Math.max(colon, 0));
    if (!TOKEN.test(name)) throw new HeadError(400, 'malformed header field name');
    const value = trim(line, colon + 1);
    if (BAD_VALUE.test(value)) throw new HeadError(400, `control byte in the value of ${name}`);
    fields.push({ name, key: name.toLowerCase(), value });
  }
  return fields;
}

/** Strips optional white space (SP, HTAB) only: String.trim would also take NBSP, which latin1 heads may carry. */
function trim(line: string, from: number): string {
  let start = from;
  let end = line.length;
  while (start < end && (line[start] === ' ' || line[start] === '\t')) start++;
  while (end > start && (line[end - 1] === ' ' || line[end - 1] === '\t')) end--;
  return line.slice(start, end);
}

function readTarget(
  method: string,
  target: string,
  normalize: NormalizeTarget,
): { path: string; authority: string | null } {
  if (target === '' || BAD_TARGET.test(target)) throw new HeadError(400, 'bad request target');
  // Envoy answers so, before any policy, to what has no path (`absolute_path_rejected`).
  if (target === '*' && method === 'OPTIONS') throw new HeadError(404, 'OPTIONS * is not served here');
  let authority: string | null = null;
  let origin = target;
  if (!target.startsWith('/')) {
    // RFC 9112 §3.2.2: an absolute-form authority beats Host, and Host is rewritten to it.
    const match = /^http:\/\/([^/?]*)(.*)$/i.exec(target);
    authority = match?.[1] ?? '';
    if (!HOST.test(authority)) throw new HeadError(400, 'bad request target');
    const rest = match?.[2] ?? '';
    origin = rest.startsWith('/') ? rest : `/${rest}`;
  }
  const path = normalize(origin);
  if (path === null) throw new HeadError(400, 'the path cannot be normalized');
  return { path, authority };
}

/** RFC 9112 §6: exactly one way to tell where the body ends, or the message is refused. */
function requestFraming(fields: readonly Field[], minor: 0 | 1): Framing {
  const coding = transferCoding(fields);
  const length = contentLength(fields);
  if (coding === null) return length === null || length === 0 ? { kind: 'none' } : { kind: 'length', length };
  if (length !== null) throw new HeadError(400, 'both Content-Length and Transfer-Encoding');
  if (minor === 0) throw new HeadError(400, 'Transfer-Encoding in HTTP/1.0');
  return { kind: 'chunked' };
}

interface AnswerKind {
  readonly minor: 0 | 1;
  readonly status: number;
  readonly method: string;
}

function responseFraming(fields: readonly Field[], { minor, status, method }: AnswerKind): Framing {
  const coding = transferCoding(fields);
  const length = contentLength(fields);
  if (coding !== null && (length !== null || minor === 0)) throw new HeadError(400, 'ambiguous body length');
  if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return { kind: 'none' };
  if (coding !== null) return { kind: 'chunked' };
  if (length === null) return { kind: 'close' };
  return length === 0 ? { kind: 'none' } : { kind: 'length', length };
}

function transferCoding(fields: readonly Field[]): 'chunked' | null {
  const value = single(fields, 'transfer-encoding', 'Transfer-Encoding');
  if (value === null) return null;
  if (value.toLowerCase() !== 'chunked') throw new HeadError(400, 'Transfer-Encoding other than chunked');
  return 'chunked';
}

function contentLength(fields: readonly Field[]): number | null {
  let found: string | null = null;
  for (const field of fields) {
    if (field.key !== 'content-length') continue;
    if (!DIGITS.test(field.value)) throw new HeadError(400, 'bad Content-Length');
    if (found !== null && found !== field.value) throw new HeadError(400, 'differing Content-Length');
    found = field.value;
  }
  if (found === null) return null;
  const length = Number(found);
  if (!Number.isSafeInteger(length)) throw new HeadError(400, 'bad Content-Length');
  return length;
}

/** The value of a field that may stand once; null where it is absent. */
function single(fields: readonly Field[], key: string, name: string): string | null {
  let value: string | null = null;
  for (const field of fields) {
    if (field.key !== key) continue;
    if (value !== null) throw new HeadError(400, `more than one ${name} field`);
    value = field.value;
  }
  return value;
}

function listOfValues(fields: readonly Field[], key: string): readonly string[] {
  const list: string[] = [];
  for (const field of fields) {
    if (field.key === key) for (const part of field.value.split(',')) list.push(part.trim().toLowerCase());
  }
  return list;
}

/** The fields that go on to the other side: no hop-by-hop field, no XFCC, framing once. */
function passedOn(fields: readonly Field[], nominated: readonly string[]): readonly Field[] {
  const kept: Field[] = [];
  let framed = false;
  for (const field of fields) {
    const { key } = field;
    if (HOP_BY_HOP.has(key) || XFCC.test(key)) continue;
    if (nominated.includes(key) && !NEVER_NOMINATED.has(key)) continue;
    if (key === 'content-length') {
      if (framed) continue;
      framed = true;
      // As it was understood: an app must not read `010` as eight.
      kept.push({ ...field, value: String(Number(field.value)) });
      continue;
    }
    kept.push(field);
  }
  return kept;
}

/** RFC 9112 §6.1, RFC 9110 §8.6: answers that cannot have a body carry no framing that a lenient reader would wait by. */
function withoutFraming(fields: readonly Field[], status: number): readonly Field[] {
  if (status >= 200 && status !== 204 && status !== 304) return fields;
  return fields.filter(
    ({ key }) => key !== 'transfer-encoding' && (key !== 'content-length' || status === 304),
  );
}

function withHost(fields: readonly Field[], authority: string): readonly Field[] {
  return fields.map((field) => (field.key === 'host' ? { ...field, value: authority } : field));
}

/** Writes a request head in canonical form. */
export function writeRequest(head: RequestHead): string {
  let text = `${head.method} ${head.path} HTTP/1.1\r\n`;
  for (const { name, value } of head.fields) text += `${name}: ${value}\r\n`;
  return `${text}\r\n`;
}

/**
 * Writes an answer's head in canonical form.
 * @param close tell the downstream that this connection ends with the answer
 * @param plain the body goes on without its chunk framing (HTTP/1.0 downstream)
 */
export function writeResponse(head: ResponseHead, close: boolean, plain = false): string {
  let text = `HTTP/1.1 ${head.status} ${head.phrase}\r\n`;
  for (const { name, key, value } of head.fields) {
    if (!plain || key !== 'transfer-encoding') text += `${name}: ${value}\r\n`;
  }
  return close ? `${text}connection: close\r\n\r\n` : `${text}\r\n`;
}
