/** Scans the bytes of an HTTP/1 head strictly (RFC 9112 §2.2–§5), resumable at any byte, into a table of positions. */
import { HeadError } from '../http/head.ts';

/** RFC 9110 §5.6.2 */
const TOKEN = table((byte) => /[!#$%&'*+\-.^_`|~0-9A-Za-z]/.test(String.fromCharCode(byte)));
/** Visible bytes of a request target; `#` begins a fragment, which is never sent. */
const TARGET = table((byte) => byte > 0x20 && byte < 0x7f && byte !== 0x23);
/** RFC 9110 §5.5: what a field value may hold, obs-text included. */
const VALUE = table((byte) => byte === 0x09 || (byte >= 0x20 && byte !== 0x7f));
/** Lower case, and `_` as `-`: some apps read both as one. */
const FOLD = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte === 0x5f ? 0x2d : byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte,
);

function table(holds: (byte: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, byte) => (holds(byte) ? 1 : 0));
}

/** Fields that mean something to us, by number; 0 is any other. */
export const FIELD = {
  other: 0,
  host: 1,
  contentLength: 2,
  transferEncoding: 3,
  connection: 4,
  keepAlive: 5,
  proxyConnection: 6,
  te: 7,
  upgrade: 8,
  expect: 9,
  forwardedCert: 10,
  userAgent: 11,
  requestId: 12,
  forwardedFor: 13,
  contentType: 14,
} as const;
export type FieldId = (typeof FIELD)[keyof typeof FIELD];

const NAMES: readonly (readonly [string, FieldId])[] = [
  ['host', FIELD.host],
  ['content-length', FIELD.contentLength],
  ['transfer-encoding', FIELD.transferEncoding],
  ['connection', FIELD.connection],
  ['keep-alive', FIELD.keepAlive],
  ['proxy-connection', FIELD.proxyConnection],
  ['te', FIELD.te],
  ['upgrade', FIELD.upgrade],
  ['expect', FIELD.expect],
  ['x-forwarded-client-cert', FIELD.forwardedCert],
  ['user-agent', FIELD.userAgent],
  ['x-request-id', FIELD.requestId],
  ['x-forwarded-for', FIELD.forwardedFor],
  ['content-type', FIELD.contentType],
];

interface Known {
  readonly id: FieldId;
  readonly name: string;
}
const KNOWN: ReadonlyMap<number, Known> = new Map(NAMES.map(([name, id]) => [hashOf(name), { id, name }]));

function step(hash: number, folded: number): number {
  return (Math.imul(hash, 31) + folded) | 0;
}

function hashOf(name: string): number {
  let hash = 0;
  for (let i = 0; i < name.length; i++) hash = step(hash, FOLD[name.charCodeAt(i)] ?? 0);
  return hash;
}

/** What becomes of a field when the head is written. */
export const KEEP = 0;
export const DROP = 1;
/** Its name or value is not written as it came. */
export const REWRITE = 2;
export type Fate = typeof KEEP | typeof DROP | typeof REWRITE;

export interface ScanBounds {
  readonly maxHeadBytes: number;
  readonly maxHeadFields: number;
  readonly maxTargetBytes: number;
}

type State =
  | 'method'
  | 'target'
  | 'version'
  | 'status'
  | 'start-lf'
  | 'line'
  | 'name'
  | 'space'
  | 'value'
  | 'value-lf'
  | 'end-lf'
  | 'done';

const CR = 0x0d;
const LF = 0x0a;
const SP = 0x20;
const HTAB = 0x09;
const COLON = 0x3a;

/**
 * One head after the other of one direction of a connection. The bytes given to `scan` always begin at the head's
 * first byte; positions count from there. Whatever it throws, the message is to be refused.
 */
export class HeadScan {
  readonly #bounds: ScanBounds;
  readonly #first: State;
  #state: State;
  #at = 0;
  #hash = 0;
  /** Where the method (of a request) ends, the target ends, and the start line's CR stands. */
  methodEnd = 0;
  targetEnd = 0;
  lineEnd = 0;
  /** Where the fields begin, and the final empty line. */
  fieldsAt = 0;
  fieldsEnd = 0;
  count = 0;
  /** Four a field: name from, name to, value from, value to. */
  readonly at: Int32Array;
  readonly ids: Uint8Array;
  readonly fates: Uint8Array;

  constructor(kind: 'request' | 'response' | 'trailers', bounds: ScanBounds) {
    this.#bounds = bounds;
    this.#first = kind === 'request' ? 'method' : kind === 'response' ? 'status' : 'line';
    this.#state = this.#first;
    this.at = new Int32Array(4 * bounds.maxHeadFields);
    this.ids = new Uint8Array(bounds.maxHeadFields);
    this.fates = new Uint8Array(bounds.maxHeadFields);
  }

  /** Forgets the last head. */
  reset(): void {
    this.#state = this.#first;
    this.#at = 0;
    this.count = 0;
    this.fieldsAt = 0;
  }

  /**
   * @param bytes all there is from the head's first byte on; what was scanned before is not read again
   * @returns where the head ends; 0: more bytes are needed
   * @throws HeadError as soon as no valid head can come of it
   */
  scan(bytes: Uint8Array): number {
    const { length } = bytes;
    let at = this.#at;
    while (at < length) {
      switch (this.#state) {
        case 'method':
          while (at < length && TOKEN[bytes[at] as number] === 1) at++;
          if (at === length) break;
          if (bytes[at] !== SP || at === 0) throw new HeadError(400, 'malformed request line');
          this.methodEnd = at++;
          this.#state = 'target';
          break;
        case 'target':
          while (at < length && TARGET[bytes[at] as number] === 1) at++;
          if (at - this.methodEnd - 1 > this.#bounds.maxTargetBytes)
            throw new HeadError(414, 'request target too long');
          if (at === length) break;
          if (bytes[at] === CR || bytes[at] === LF) throw new HeadError(400, 'malformed request line');
          if (bytes[at] !== SP || at === this.methodEnd + 1) throw new HeadError(400, 'bad request target');
          this.targetEnd = at++;
          this.#state = 'version';
          break;
        case 'version':
          while (at < length && TARGET[bytes[at] as number] === 1) at++;
          if (at - this.targetEnd > 16) throw new HeadError(400, 'malformed request line');
          if (at === length) break;
          if (bytes[at] !== CR) throw new HeadError(400, 'malformed request line');
          this.lineEnd = at++;
          this.#state = 'start-lf';
          break;
        case 'status':
          at = this.#statusLine(bytes, at);
          break;
        case 'start-lf':
          if (bytes[at] !== LF) throw new HeadError(400, 'bare CR in the start line');
          this.fieldsAt = ++at;
          this.#state = 'line';
          break;
        case 'line':
          if (bytes[at] === CR) {
            this.fieldsEnd = at++;
            this.#state = 'end-lf';
            break;
          }
          if (this.count === this.#bounds.maxHeadFields) throw new HeadError(431, 'too many header fields');
          this.at[4 * this.count] = at;
          this.#hash = 0;
          this.#state = 'name';
          break;
        case 'name':
          at = this.#name(bytes, at);
          break;
        case 'space':
          while (at < length && (bytes[at] === SP || bytes[at] === HTAB)) at++;
          if (at === length) break;
          this.at[4 * this.count + 2] = at;
          this.#state = 'value';
          break;
        case 'value':
          at = this.#value(bytes, at);
          break;
        case 'value-lf':
          if (bytes[at] !== LF) throw new HeadError(400, 'bare CR in a header field');
          at++;
          this.count++;
          this.#state = 'line';
          break;
        case 'end-lf':
          if (bytes[at] !== LF) throw new HeadError(400, 'bare CR in the head');
          at++;
          if (at > this.#bounds.maxHeadBytes) throw new HeadError(431, 'head too large');
          this.#state = 'done';
          this.#at = at;
          return at;
        case 'done':
          return this.#at;
      }
    }
    this.#at = at;
    if (at >= this.#bounds.maxHeadBytes) throw new HeadError(431, 'head too large');
    return 0;
  }

  /** `HTTP/1.x SP 3DIGIT [SP phrase]`, without its CR; read in full by `ResponseHead`. */
  #statusLine(bytes: Uint8Array, from: number): number {
    let at = from;
    const { length } = bytes;
    while (at < length && at < 8) {
      if (bytes[at] !== VERSION[at] && at !== 7) throw new HeadError(400, 'no HTTP/1 answer');
      at++;
    }
    while (at < length && VALUE[bytes[at] as number] === 1) at++;
    if (at === length) return at;
    if (bytes[at] !== CR) throw new HeadError(400, 'malformed status line');
    this.lineEnd = at++;
    this.#state = 'start-lf';
    return at;
  }

  #name(bytes: Uint8Array, from: number): number {
    const { length } = bytes;
    let at = from;
    let hash = this.#hash;
    while (at < length) {
      const byte = bytes[at] as number;
      if (TOKEN[byte] === 0) break;
      hash = step(hash, FOLD[byte] as number);
      at++;
    }
    this.#hash = hash;
    if (at === length) return at;
    const index = this.count;
    const start = this.at[4 * index] as number;
    // A space before the colon or at the line's start (obs-fold) is no part of a token.
    if (bytes[at] !== COLON || at === start) throw new HeadError(400, 'malformed header field name');
    this.at[4 * index + 1] = at;
    this.ids[index] = identify(bytes, start, at, hash);
    this.fates[index] = KEEP;
    this.#state = 'space';
    return at + 1;
  }

  #value(bytes: Uint8Array, from: number): number {
    const { length } = bytes;
    let at = from;
    while (at < length && VALUE[bytes[at] as number] === 1) at++;
    if (at === length) return at;
    if (bytes[at] !== CR) throw new HeadError(400, 'control byte in a header field');
    const index = this.count;
    const start = this.at[4 * index + 2] as number;
    let end = at;
    while (end > start && (bytes[end - 1] === SP || bytes[end - 1] === HTAB)) end--;
    this.at[4 * index + 3] = end;
    const colon = this.at[4 * index + 1] as number;
    if (end !== at || start !== colon + 2 || bytes[colon + 1] !== SP) this.fates[index] = REWRITE;
    this.#state = 'value-lf';
    return at + 1;
  }
}

const VERSION = Buffer.from('HTTP/1.1');

function identify(bytes: Uint8Array, from: number, to: number, hash: number): FieldId {
  const known = KNOWN.get(hash);
  if (known === undefined || known.name.length !== to - from) return FIELD.other;
  const { name, id } = known;
  const loose = id === FIELD.forwardedCert;
  for (let i = 0; i < name.length; i++) {
    const byte = bytes[from + i] as number;
    if (FOLD[byte] !== name.charCodeAt(i)) return FIELD.other;
    // `content_length` is another field than `content-length`; only the identity header counts in both spellings.
    if (byte === 0x5f && !loose) return FIELD.other;
  }
  return id;
}

/** True where the bytes are that name, whatever their case. @param key in lower case */
export function isNamed(bytes: Uint8Array, from: number, to: number, key: string): boolean {
  if (to - from !== key.length) return false;
  for (let i = 0; i < key.length; i++) {
    const byte = bytes[from + i] as number;
    const lower = byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte;
    if (lower !== key.charCodeAt(i)) return false;
  }
  return true;
}
