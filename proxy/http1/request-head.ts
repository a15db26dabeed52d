/** An HTTP/1 request's head: strictly read (RFC 9112), judged by strings, passed on in the bytes it came in. */
import { Buffer } from 'node:buffer';
import type { Claims } from '../../mesh/tokens.ts';
import {
  type Field,
  type Framing,
  HeadError,
  isAuthority,
  type NormalizeTarget,
  type RequestHead,
} from '../http/head.ts';
import { canonicalValue, LastText, type Rewriter, ScannedFields, writeField } from './fields.ts';
import { DROP, FIELD, HeadScan, REWRITE } from './scan.ts';

const CR = 0x0d;
const LF = 0x0a;
const NO_BODY: Framing = { kind: 'none' };
const CHUNKED: Framing = { kind: 'chunked' };
/** Methods that need no string of their own each time. */
const METHODS = ['GET', 'POST', 'PUT', 'HEAD', 'DELETE', 'OPTIONS', 'PATCH'].map((name) => ({
  name,
  bytes: Buffer.from(name),
}));

/** What is remembered of a connection's last request: the next one nearly always has the same host, often the same path. */
export class LastRequest {
  /** Of the Host field; the last that was found to be an authority. */
  readonly named = new LastText();
  host: string | null = null;
  /** As it came; and the one that `path` was made of. */
  readonly asked = new LastText();
  target = '';
  path = '';
  readonly userAgent = new LastText();
  readonly contentType = new LastText();
  normalize: NormalizeTarget | null = null;
}

export class Http1Request implements RequestHead, Rewriter {
  readonly method: string;
  readonly minor: 0 | 1;
  readonly host: string;
  path: string;
  readonly framing: Framing;
  /** The downstream wants the connection kept after the answer. */
  readonly keepAlive: boolean;
  expectsContinue: boolean;
  /** A WebSocket handshake: `Upgrade: websocket`, named in Connection, GET in HTTP/1.1 without a body. */
  readonly upgrade: boolean;
  claims: Claims | null = null;
  remoteIp: string | null = null;
  readonly #fields: ScannedFields;
  /** The request target as it came; the request line is rewritten where `path` is another. */
  readonly #target: string;
  readonly #length: number | null;
  #materialized: readonly Field[] | null = null;
  /** Somebody set `fields`: they are what goes on. */
  #replaced = false;
  #added: Field[] | null = null;
  readonly userAgent: string;
  readonly forwardedFor: string;
  requestId: string;
  readonly contentType: string;
  readonly #certs: boolean;

  /**
   * @param bytes the whole head, its final empty line included; not to be changed while the request lives
   * @param scan that scanned it
   * @throws HeadError naming what is wrong
   */
  constructor(bytes: Buffer, scan: HeadScan, normalize: NormalizeTarget, last: LastRequest) {
    const fields = new ScannedFields(bytes, scan);
    this.#fields = fields;
    this.minor = minorVersion(bytes, scan);
    this.method = methodOf(bytes, scan.methodEnd);
    const { ids, fates, count } = scan;
    let host: number = -1;
    let expect = -1;
    let upgrade = -1;
    let upgrades = 0;
    let userAgent = -1;
    let requestId = -1;
    let forwardedFor = '';
    let contentType = -1;
    let certs = false;
    for (let i = 0; i < count; i++) {
      switch (ids[i]) {
        case FIELD.host:
          if (host >= 0) throw new HeadError(400, 'more than one Host field');
          host = i;
          break;
        case FIELD.upgrade:
          upgrade = i;
          upgrades++;
          fields.readHop(i);
          break;
        case FIELD.contentLength:
        case FIELD.transferEncoding:
        case FIELD.connection:
        case FIELD.keepAlive:
        case FIELD.proxyConnection:
        case FIELD.te:
          fields.readHop(i);
          break;
        case FIELD.forwardedCert:
          fates[i] = DROP;
          certs = true;
          break;
        case FIELD.expect:
          if (expect >= 0) throw new HeadError(400, 'more than one Expect field');
          expect = i;
          break;
        case FIELD.userAgent:
          if (userAgent < 0) userAgent = i;
          break;
        case FIELD.requestId:
          if (requestId < 0) requestId = i;
          break;
        case FIELD.forwardedFor:
          forwardedFor = forwardedFor === '' ? fields.value(i) : `${forwardedFor},${fields.value(i)}`;
          break;
        case FIELD.contentType:
          contentType = i;
          break;
      }
    }
    if (host < 0) throw new HeadError(400, 'no Host field');
    const { length, coded, options } = fields;
    const named = fields.lastValue(host, last.named);
    if (named !== last.host) {
      if (!isAuthority(named)) throw new HeadError(400, 'bad Host field');
      last.host = named;
    }
    if (this.method === 'CONNECT') throw new HeadError(405, 'CONNECT is not served here');
    const target = last.asked.read(bytes, scan.methodEnd + 1, scan.targetEnd);
    this.#target = target;
    this.host = named;
    if (target === last.target && normalize === last.normalize) this.path = last.path;
    else {
      const { path, authority } = readTarget(this.method, target, normalize);
      this.path = path;
      if (authority === null) {
        last.target = target;
        last.path = path;
        last.normalize = normalize;
      } else {
        // RFC 9112 §3.2.2: it beats Host, and Host is rewritten to it.
        this.host = authority;
        if (authority !== named) fates[host] = REWRITE;
      }
    }
    if (coded && length !== null) throw new HeadError(400, 'both Content-Length and Transfer-Encoding');
    if (coded && this.minor === 0) throw new HeadError(400, 'Transfer-Encoding in HTTP/1.0');
    this.#length = length;
    this.framing = coded ? CHUNKED : length === null || length === 0 ? NO_BODY : { kind: 'length', length };
    if (options !== null && options.nominated !== null) {
      fields.dropNominated(options.nominated);
      // What was nominated is not there any more for whoever asks below.
      if (requestId >= 0 && fates[requestId] === DROP) requestId = -1;
      if (forwardedFor !== '') forwardedFor = fields.values('x-forwarded-for', this).join(',');
      if (expect >= 0 && fates[expect] === DROP) expect = -1;
    }
    // RFC 9112 §9.3: a proxy keeps no persistent connection with an HTTP/1.0 client.
    this.keepAlive = this.minor === 1 && options?.close !== true;
    this.expectsContinue =
      expect >= 0 && this.minor === 1 && fields.value(expect).toLowerCase() === '100-continue';
    this.upgrade =
      upgrades === 1 &&
      options?.upgrade === true &&
      this.minor === 1 &&
      this.method === 'GET' &&
      this.framing.kind === 'none' &&
      fields.value(upgrade).toLowerCase() === 'websocket';
    this.userAgent = userAgent < 0 ? '' : fields.lastValue(userAgent, last.userAgent);
    this.requestId = requestId < 0 ? '' : fields.value(requestId);
    this.contentType = contentType < 0 ? '' : fields.lastValue(contentType, last.contentType);
    this.forwardedFor = forwardedFor;
    // Policy sees them as the app will.
    if (this.upgrade) this.#added = [...UPGRADE];
    this.#certs = certs;
  }

  get forwardedCert(): string | null {
    return this.#certs ? this.#fields.joinedCerts() : null;
  }

  get fields(): readonly Field[] {
    if (this.#materialized === null) {
      const own = this.#fields.materialize(this);
      this.#materialized = this.#added === null ? own : own.concat(this.#added);
    }
    return this.#materialized;
  }

  set fields(fields: readonly Field[]) {
    this.#materialized = fields;
    this.#replaced = true;
  }

  add(field: Field): void {
    if (this.#materialized !== null) this.#materialized = [...this.#materialized, field];
    if (this.#added === null) this.#added = [];
    this.#added.push(field);
  }

  headerValues(key: string): readonly string[] {
    if (this.#materialized !== null) {
      const values: string[] = [];
      for (const field of this.#materialized) if (field.key === key) values.push(field.value);
      return values;
    }
    let values = this.#fields.values(key, this);
    if (this.#added !== null) {
      for (const field of this.#added) if (field.key === key) values = [...values, field.value];
    }
    return values;
  }

  /** The 100 (Continue) was said by us: nobody behind us is to say it again. */
  dropExpect(): void {
    this.expectsContinue = false;
    this.fields = this.fields.filter(({ key }) => key !== 'expect');
  }

  rewritten(index: number): string | null {
    const id = this.#fields.scan.ids[index] as number;
    return id === FIELD.host ? this.host : canonicalValue(id, this.#length);
  }

  /**
   * @param body what goes right behind the head, within the same buffer: one write instead of two
   * @returns the head as it goes on, in canonical form, and `body` behind it
   */
  write(body: Buffer | null): Buffer {
    const more = body === null ? 0 : body.length;
    const { bytes, scan } = this.#fields;
    const line =
      this.minor === 1 && this.path === this.#target && !this.#replaced
        ? ''
        : `${this.method} ${this.path} HTTP/1.1\r\n`;
    if (this.#replaced) {
      let head = line;
      for (const { name, value } of this.fields) head += `${name}: ${value}\r\n`;
      const out = Buffer.allocUnsafe(head.length + 2 + more);
      return finish(out, out.write(head, 0, 'latin1'), body);
    }
    const added = this.#added ?? NO_FIELDS;
    // A rewritten field may grow by the space behind its colon, Host by the length of the authority.
    let room = bytes.length + line.length + scan.count + this.host.length + 2 + more;
    for (const { name, value } of added) room += name.length + value.length + 4;
    const out = Buffer.allocUnsafe(room);
    const begin = line === '' ? 0 : out.write(line, 0, 'latin1');
    let at = this.#fields.write(out, line === '' ? 0 : scan.fieldsAt, begin, this);
    for (const field of added) at = writeField(out, at, field);
    return finish(out, at, body);
  }
}

const NO_FIELDS: readonly Field[] = [];

const UPGRADE: readonly Field[] = [
  { name: 'connection', key: 'connection', value: 'Upgrade' },
  { name: 'upgrade', key: 'upgrade', value: 'websocket' },
];

/** Ends a head with its empty line, puts `body` behind it, and cuts the buffer to what is in it. */
export function finish(out: Buffer, offset: number, body: Buffer | null): Buffer {
  out[offset] = CR;
  out[offset + 1] = LF;
  let at = offset + 2;
  if (body !== null) at += body.copy(out, at);
  return at === out.length ? out : out.subarray(0, at);
}

/** Writes any request's head in canonical form: for one that came in another version. */
export function writeRequest(head: RequestHead): string {
  let text = `${head.method} ${head.path} HTTP/1.1\r\n`;
  for (const { name, value } of head.fields) text += `${name}: ${value}\r\n`;
  return `${text}\r\n`;
}

/**
 * Reads a whole request head, without its final empty line.
 * @param text one character a byte, CRLF between lines
 * @throws HeadError naming what was wrong
 */
export function parseRequest(
  text: string,
  bounds: { readonly maxFields: number },
  normalize: NormalizeTarget,
): Http1Request {
  const bytes = Buffer.from(`${text}\r\n\r\n`, 'latin1');
  const scan = new HeadScan('request', {
    maxHeadBytes: Number.POSITIVE_INFINITY,
    maxHeadFields: bounds.maxFields,
    maxTargetBytes: Number.POSITIVE_INFINITY,
  });
  const end = scan.scan(bytes);
  if (end !== bytes.length) throw new HeadError(400, 'an empty line within the head');
  return new Http1Request(bytes, scan, normalize, new LastRequest());
}

function methodOf(bytes: Buffer, end: number): string {
  for (const method of METHODS) {
    if (method.bytes.length === end && bytes.compare(method.bytes, 0, end, 0, end) === 0) return method.name;
  }
  return bytes.toString('latin1', 0, end);
}

/** ` HTTP/1.` */
const VERSION = Buffer.from('HTTP/1.');

function minorVersion(bytes: Buffer, scan: HeadScan): 0 | 1 {
  const from = scan.targetEnd + 1;
  if (scan.lineEnd - from === 8 && bytes.compare(VERSION, 0, 7, from, from + 7) === 0) {
    const minor = bytes[from + 7];
    if (minor === 0x31) return 1;
    if (minor === 0x30) return 0;
  }
  throw new HeadError(
    /^HTTP\/[0-9.]+$/.test(bytes.toString('latin1', from, scan.lineEnd)) ? 505 : 400,
    'only HTTP/1.0 and HTTP/1.1 are spoken here',
  );
}

function readTarget(
  method: string,
  target: string,
  normalize: NormalizeTarget,
): { path: string; authority: string | null } {
  // Envoy answers so, before any policy, to what has no path (`absolute_path_rejected`).
  if (target === '*' && method === 'OPTIONS') throw new HeadError(404, 'OPTIONS * is not served here');
  let authority: string | null = null;
  let origin = target;
  if (!target.startsWith('/')) {
    const match = /^http:\/\/([^/?]*)(.*)$/i.exec(target);
    authority = match?.[1] ?? '';
    if (!isAuthority(authority)) throw new HeadError(400, 'bad request target');
    const rest = match?.[2] ?? '';
    origin = rest.startsWith('/') ? rest : `/${rest}`;
  }
  const path = normalize(origin);
  if (path === null) throw new HeadError(400, 'the path cannot be normalized');
  return { path, authority };
}
