/** Strict reading of HTTP/2 heads (RFC 9113 §8), and writing them the way `node:http2` takes them. */
import { type IncomingHttpHeaders, sensitiveHeaders } from 'node:http2';
import type { Claims } from '../../mesh/tokens.ts';
import {
  BAD_TARGET,
  type Field,
  FORWARDED_CERT,
  type Framing,
  HeadError,
  HOP_BY_HOP,
  isAuthority,
  isField,
  isTrailer,
  joinedValues,
  type NormalizeTarget,
  type RequestHead,
  TOKEN,
  valuesOf,
  XFCC,
} from '../http/head.ts';

/** An HTTP/2 request's head; `fields` begin with `host`, the `:authority`, as HTTP/1 would tell it. */
export class Http2Request implements RequestHead {
  readonly method: string;
  readonly scheme: string;
  readonly host: string;
  path: string;
  fields: readonly Field[];
  readonly forwardedCert: string | null;
  readonly framing: Framing;
  readonly sensitive: readonly string[];
  claims: Claims | null = null;
  remoteIp: string | null = null;

  constructor(read: {
    method: string;
    scheme: string;
    host: string;
    path: string;
    fields: readonly Field[];
    forwardedCert: string | null;
    framing: Framing;
    sensitive: readonly string[];
  }) {
    this.method = read.method;
    this.scheme = read.scheme;
    this.host = read.host;
    this.path = read.path;
    this.fields = read.fields;
    this.forwardedCert = read.forwardedCert;
    this.framing = read.framing;
    this.sensitive = read.sensitive;
  }

  headerValues(name: string): readonly string[] {
    return valuesOf(this.fields, name);
  }

  add(field: Field): void {
    this.fields = [...this.fields, field];
  }
}

/** What a request's head says to its upstream. */
export type Asked = Pick<RequestHead, 'method' | 'host' | 'path' | 'fields'>;

/** An answer's head, as both HTTP versions of an upstream tell it. */
export interface AnswerHead {
  readonly status: number;
  readonly fields: readonly Field[];
  /** See `RawFields`; absent: none. */
  readonly sensitive?: readonly string[];
}

interface HeadBounds {
  readonly maxHeadFields: number;
  readonly maxHeadBytes: number;
}

const DIGITS = /^[0-9]{1,16}$/;
const UPPER = /[A-Z]/;
const STATUS = /^[1-5][0-9]{2}$/;
/** RFC 9113 §8.2.2: fields of an HTTP/1 connection make a message malformed. */
export const OF_A_CONNECTION = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
]);

/** What `node:http2` tells of a header block. */
export interface RawFields {
  /** Names and values in turn, pseudo-fields among them. */
  readonly flat: readonly string[];
  /** Names of fields that no table may remember (RFC 7541 §7.1.3): they go on so. */
  readonly sensitive: readonly string[];
}

const NO_NAMES: readonly string[] = [];

/** @param headers the same block, where `node:http2` tells which of its fields are sensitive */
export function asRaw(flat: readonly string[], headers: IncomingHttpHeaders): RawFields {
  const sensitive: unknown = Reflect.get(headers, sensitiveHeaders);
  return { flat, sensitive: Array.isArray(sensitive) && sensitive.length > 0 ? sensitive : NO_NAMES };
}

/** Bytes of a head, names and values alone. */
export function headBytes(flat: readonly string[]): number {
  let bytes = 0;
  for (const text of flat) bytes += text.length;
  return bytes;
}

/**
 * Reads a request's header block.
 * @param ended END_STREAM came with it: there is no body
 * @throws HeadError naming what was wrong
 */
export function readRequest(
  { flat, sensitive }: RawFields,
  ended: boolean,
  bounds: HeadBounds,
  normalize: NormalizeTarget,
): Http2Request {
  const pseudo = { ':method': '', ':scheme': '', ':authority': '', ':path': '' };
  if (flat.length / 2 > bounds.maxHeadFields + 4) throw new HeadError(431, 'too many header fields');
  if (headBytes(flat) > bounds.maxHeadBytes) throw new HeadError(431, 'request head too large');
  const received = readFields(flat, pseudo);
  const { ':method': method, ':scheme': scheme, ':path': target } = pseudo;
  if (!TOKEN.test(method)) throw new HeadError(400, 'malformed :method');
  if (method === 'CONNECT') throw new HeadError(405, 'CONNECT is not served here');
  if (scheme !== 'http' && scheme !== 'https') throw new HeadError(400, 'bad :scheme');
  const host = readAuthority(pseudo[':authority'], received);
  const fields = [{ name: 'host', key: 'host', value: host }, ...passedOn(received)];
  return new Http2Request({
    method,
    scheme,
    host,
    path: readPath(method, target, normalize),
    fields,
    forwardedCert: joinedValues(received, FORWARDED_CERT),
    framing: framingOf(received, ended),
    sensitive,
  });
}

/**
 * Reads an answer's header block, interim ones included.
 * @throws HeadError naming what was wrong
 */
export function readAnswer({ flat, sensitive }: RawFields, bounds: HeadBounds): AnswerHead {
  const pseudo = { ':status': '' };
  if (flat.length / 2 > bounds.maxHeadFields + 1) throw new HeadError(431, 'too many header fields');
  if (headBytes(flat) > bounds.maxHeadBytes) throw new HeadError(431, 'answer head too large');
  const fields = readFields(flat, pseudo);
  // Beyond 599 `node:http2` could not pass it on.
  if (!STATUS.test(pseudo[':status'])) throw new HeadError(400, 'bad :status');
  return { status: Number(pseudo[':status']), fields: fields.filter(({ key }) => goesOn(key)), sensitive };
}

/**
 * Reads trailers.
 * @returns those that may go on
 * @throws HeadError naming what was wrong
 */
export function readTrailers(flat: readonly string[], bounds: HeadBounds): readonly Field[] {
  if (flat.length / 2 > bounds.maxHeadFields) throw new HeadError(431, 'too many trailer fields');
  if (headBytes(flat) > bounds.maxHeadBytes) throw new HeadError(431, 'trailers too large');
  return readFields(flat, {}).filter(({ key }) => isTrailer(key));
}

/** @param pseudo the pseudo-fields that may stand there, filled in */
function readFields(flat: readonly string[], pseudo: Record<string, string>): Field[] {
  const fields: Field[] = [];
  for (let i = 0; i + 1 < flat.length; i += 2) {
    const name = flat[i] ?? '';
    const value = flat[i + 1] ?? '';
    if (name.startsWith(':')) {
      if (pseudo[name] !== '')
        throw new HeadError(400, `bad pseudo-field ${JSON.stringify(name.slice(0, 64))}`);
      pseudo[name] = value;
      continue;
    }
    if (!isField(name, value) || UPPER.test(name)) {
      throw new HeadError(400, `malformed field ${JSON.stringify(name.slice(0, 64))}`);
    }
    if (OF_A_CONNECTION.has(name) || (name === 'te' && value.toLowerCase() !== 'trailers')) {
      throw new HeadError(400, `${name} is no field of HTTP/2`);
    }
    fields.push({ name, key: name, value });
  }
  return fields;
}

/** RFC 9113 §8.3.1: `:authority`, or Host from who converted HTTP/1; never two that differ. */
function readAuthority(authority: string, fields: readonly Field[]): string {
  let host = authority;
  for (const { key, value } of fields) {
    if (key !== 'host') continue;
    if (host === '') host = value;
    else if (value.toLowerCase() !== host.toLowerCase()) {
      throw new HeadError(400, 'Host differs from :authority');
    }
  }
  if (host === '') throw new HeadError(400, 'no :authority');
  if (!isAuthority(host)) throw new HeadError(400, 'bad :authority');
  return host;
}

function readPath(method: string, target: string, normalize: NormalizeTarget): string {
  // Envoy answers so, before any policy, to what has no path (`absolute_path_rejected`).
  if (target === '*' && method === 'OPTIONS') throw new HeadError(404, 'OPTIONS * is not served here');
  if (!target.startsWith('/') || BAD_TARGET.test(target)) throw new HeadError(400, 'bad :path');
  const path = normalize(target);
  if (path === null) throw new HeadError(400, 'the path cannot be normalized');
  return path;
}

function framingOf(fields: readonly Field[], ended: boolean): Framing {
  let found: string | null = null;
  for (const { key, value } of fields) {
    if (key !== 'content-length') continue;
    if (!DIGITS.test(value) || (found !== null && found !== value)) {
      throw new HeadError(400, 'bad Content-Length');
    }
    found = value;
  }
  const length = found === null ? null : Number(found);
  if (length !== null && !Number.isSafeInteger(length)) throw new HeadError(400, 'bad Content-Length');
  if (ended) {
    if (length !== null && length > 0) throw new HeadError(400, 'Content-Length without a body');
    return { kind: 'none' };
  }
  return length === null ? { kind: 'chunked' } : { kind: 'length', length };
}

/** False for what the peer must not say: the identity header, and `te`, which HTTP/2 alone passes on. */
function goesOn(key: string): boolean {
  return !XFCC.test(key) && (key === 'te' || !HOP_BY_HOP.has(key));
}

/** Without Host, which `:authority` stands for; cookie crumbs joined (RFC 9113 §8.2.3); Content-Length once. */
function passedOn(fields: readonly Field[]): Field[] {
  const kept: Field[] = [];
  let crumb = -1;
  let framed = false;
  for (const field of fields) {
    const { key, value } = field;
    if (key === 'host' || !goesOn(key)) continue;
    if (key === 'content-length') {
      // As it was understood: an app must not read `010` as eight.
      if (!framed) kept.push({ name: key, key, value: String(Number(value)) });
      framed = true;
      continue;
    }
    const joined = key === 'cookie' ? kept[crumb] : undefined;
    if (joined !== undefined) {
      kept[crumb] = { name: key, key, value: `${joined.value}; ${value}` };
      continue;
    }
    if (key === 'cookie') crumb = kept.length;
    kept.push(field);
  }
  return kept;
}

/** A request's header block for `ClientHttp2Session.request`. */
export function writeRequest(head: Asked): string[] {
  const scheme = head instanceof Http2Request ? head.scheme : 'http';
  const raw = [':method', head.method, ':scheme', scheme, ':authority', head.host, ':path', head.path];
  pushFields(raw, head.fields);
  return head instanceof Http2Request ? marked(raw, head.sensitive) : raw;
}

/** An answer's header block for `ServerHttp2Stream.respond`. */
export function writeAnswer({ status, fields, sensitive = NO_NAMES }: AnswerHead): string[] {
  const raw = [':status', String(status)];
  pushFields(raw, fields);
  return marked(raw, sensitive);
}

/** The way `node:http2` is told which fields are sensitive: by a property of the block. */
function marked(raw: string[], sensitive: readonly string[]): string[] {
  if (sensitive.length > 0) Reflect.set(raw, sensitiveHeaders, sensitive);
  return raw;
}

/** HTTP/1's framing and connection fields have no place in HTTP/2. */
function pushFields(raw: string[], fields: readonly Field[]): void {
  for (const { key, value } of fields) {
    if (key === 'host' || OF_A_CONNECTION.has(key)) continue;
    if (key === 'te' && value.toLowerCase() !== 'trailers') continue;
    raw.push(key, value);
  }
}
