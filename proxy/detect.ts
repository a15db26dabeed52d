/** What a connection speaks, read from its first bytes without consuming any. */
import { METHODS } from 'node:http';

/** What the first bytes say. `more`: too few to tell. */
export type Detected =
  | { readonly kind: 'more' }
  | { readonly kind: 'plaintext' }
  | { readonly kind: 'tls'; readonly sni: string | null; readonly alpn: readonly string[] };

const MORE: Detected = { kind: 'more' };
const PLAINTEXT: Detected = { kind: 'plaintext' };

const HANDSHAKE_RECORD = 0x16;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const ALPN = 16;
/** RFC 8446 §5.1: a record's payload is at most 2^14 bytes. */
const MAX_RECORD = 16_384;

/** ALPNs that mean "an Istio sidecar's mTLS". */
const ISTIO_ALPNS = new Set(['istio', 'istio-http/1.0', 'istio-http/1.1', 'istio-h2', 'istio-peer-exchange']);

/** True where the ClientHello comes from a mesh peer rather than from the app's own TLS client. */
export function offersIstio(alpn: readonly string[]): boolean {
  for (const name of alpn) if (ISTIO_ALPNS.has(name)) return true;
  return false;
}

/**
 * Tells TLS from plaintext and reads SNI and ALPN of a ClientHello (RFC 8446 §4.1.2), however it is cut
 * into records and reads.
 * @param bytes everything received so far, from the first byte on
 * @returns `plaintext` as soon as no ClientHello can come of it, even where it begins like one
 */
export function detect(bytes: Buffer): Detected {
  if (bytes.length === 0) return MORE;
  if (bytes[0] !== HANDSHAKE_RECORD) return PLAINTEXT;
  if (bytes.length > 1 && bytes[1] !== 3) return PLAINTEXT;
  const { header, length, over } = handshakeSoFar(bytes);
  const unfinished = over ? PLAINTEXT : MORE;
  if (length > 0 && header >>> 24 !== CLIENT_HELLO) return PLAINTEXT;
  if (length < 4) return unfinished;
  const bodyLength = header & 0xff_ffff;
  if (bodyLength < 42) return PLAINTEXT;
  if (length < 4 + bodyLength) return unfinished;
  return readExtensions(joinRecords(bytes).subarray(4, 4 + bodyLength));
}

interface HandshakeSoFar {
  /** The message's first four bytes (type and length) as far as they are there, left-aligned. */
  readonly header: number;
  /** Bytes of the message so far. */
  readonly length: number;
  /** What follows is no handshake record: no more bytes of this message will come. */
  readonly over: boolean;
}

/** Adds up the records without joining them: many small ones, looked at again with each read, must stay cheap. */
function handshakeSoFar(bytes: Buffer): HandshakeSoFar {
  let header = 0;
  let length = 0;
  let at = 0;
  while (at + 5 <= bytes.length) {
    const size = bytes.readUInt16BE(at + 3);
    // Bytes after a complete ClientHello (early data) are not ours to judge.
    if (!isHandshakeRecord(bytes, at, size)) return { header, length, over: true };
    const end = Math.min(bytes.length, at + 5 + size);
    for (let i = at + 5; i < end && length + (i - at - 5) < 4; i++) {
      header = (header | ((bytes[i] ?? 0) << (24 - 8 * (length + i - at - 5)))) >>> 0;
    }
    length += end - at - 5;
    at += 5 + size;
  }
  return { header, length, over: false };
}

function isHandshakeRecord(bytes: Buffer, at: number, size: number): boolean {
  return bytes[at] === HANDSHAKE_RECORD && bytes[at + 1] === 3 && size > 0 && size <= MAX_RECORD;
}

/** The handshake bytes of all records. Nearly always that is one record: no copy then. */
function joinRecords(bytes: Buffer): Buffer {
  const first = bytes.readUInt16BE(3);
  if (bytes.length <= 5 + first) return bytes.subarray(5);
  const parts: Buffer[] = [];
  for (let at = 0; at + 5 <= bytes.length; ) {
    const size = bytes.readUInt16BE(at + 3);
    if (!isHandshakeRecord(bytes, at, size)) break;
    parts.push(bytes.subarray(at + 5, at + 5 + size));
    at += 5 + size;
  }
  return Buffer.concat(parts);
}

/** Walks `legacy_version … extensions` of a complete ClientHello; a length that lies makes it plaintext. */
function readExtensions(body: Buffer): Detected {
  let at = 2 + 32;
  const skip = (sizeBytes: 1 | 2): boolean => {
    if (at + sizeBytes > body.length) return false;
    at += sizeBytes + body.readUIntBE(at, sizeBytes);
    return at <= body.length;
  };
  // legacy_session_id, cipher_suites, legacy_compression_methods
  if (!skip(1) || !skip(2) || !skip(1)) return PLAINTEXT;
  let sni: string | null = null;
  let alpn: readonly string[] = [];
  if (at === body.length) return { kind: 'tls', sni, alpn };
  if (at + 2 > body.length) return PLAINTEXT;
  const end = at + 2 + body.readUInt16BE(at);
  at += 2;
  if (end !== body.length) return PLAINTEXT;
  while (at + 4 <= end) {
    const type = body.readUInt16BE(at);
    const length = body.readUInt16BE(at + 2);
    at += 4;
    if (at + length > end) return PLAINTEXT;
    const value = body.subarray(at, at + length);
    if (type === SERVER_NAME) sni = readServerName(value);
    else if (type === ALPN) alpn = readAlpn(value);
    at += length;
  }
  return at === end ? { kind: 'tls', sni, alpn } : PLAINTEXT;
}

/** RFC 6066 §3: the first host_name entry. */
function readServerName(value: Buffer): string | null {
  if (value.length < 5 || value[2] !== 0) return null;
  const length = value.readUInt16BE(3);
  // Names are without regard to case; Envoy keeps them in lower case, and so policy matches them.
  return 5 + length <= value.length ? value.toString('latin1', 5, 5 + length).toLowerCase() : null;
}

/** RFC 7301 §3.1. */
function readAlpn(value: Buffer): readonly string[] {
  const names: string[] = [];
  let at = 2;
  while (at < value.length) {
    const length = value[at] ?? 0;
    if (length === 0 || at + 1 + length > value.length) return names;
    names.push(value.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return names;
}

/** RFC 9113 §3.4: what every HTTP/2 connection begins with. */
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

/**
 * Which HTTP a client speaks where it speaks HTTP. What departs from HTTP/2's preface is HTTP/1, whose parser
 * refuses all that began like it.
 * @returns `more` while it may still become the preface
 */
export function httpVersion(bytes: Buffer): 'more' | 'http1' | 'http2' {
  // Of nearly every request no more than these two bytes is looked at.
  if (bytes.length > 0 && bytes[0] !== PREFACE[0]) return 'http1';
  if (bytes.length > 1 && bytes[1] !== PREFACE[1]) return 'http1';
  const length = Math.min(bytes.length, PREFACE.length);
  if (bytes.compare(PREFACE, 0, length, 0, length) !== 0) return 'http1';
  return length === PREFACE.length ? 'http2' : 'more';
}

/** What is spoken over a connection, once that is known. */
export type Spoken = 'http1' | 'http2' | 'tcp';

/**
 * What undeclared plaintext is: `more` while that may still change.
 * @param methods as `looksLikeHttp` takes it
 */
export function spokenIn(bytes: Buffer, methods: Methods = 'any'): 'more' | Spoken {
  const version = httpVersion(bytes);
  if (version !== 'http1') return version;
  const said = looksLikeHttp(bytes, methods);
  return said === 'http' ? 'http1' : said;
}

/** As far as a request line is waited for before the parser is left to refuse it. */
const LONGEST_LINE = 4096;
/**
 * Empty lines and blanks, a method (RFC 9110 §9.1: a token, in any case), and what lenient servers split
 * words by.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python's http.server splits at these, too
const START = /^[\t\n\r ]*([!#$%&'*+\-.^_`|~0-9A-Za-z]*)([\t\v\f\r \x1c-\x1f\x85\xa0]*)/;
const HTTP_SCHEME = /^https?:/i;
// biome-ignore lint/suspicious/noControlCharactersInRegex: a line ends, and so does text
const REST_OF_LINE = /^[^\0-\x08\n\x0e-\x1b\x7f]*/;
/** Which words may still become a request line: any token, or the methods in use alone. */
type Methods = 'any' | 'in use';
const HTTP_VERSION = /HTTP\/[0-9]/i;

/**
 * Whether plaintext is HTTP/1: `more` while it may still become a request line. What no
 * policy for HTTP is to miss must not be `tcp`: the strict parser answers what is HTTP and wrong.
 * So Envoy's http_inspector decides (any token is a method; target and version tell HTTP from RTSP, SIP or
 * SMTP), but for three things that are HTTP here and TCP there, because apps are found that serve them:
 * a request behind empty lines or blanks, a GET of any target, and any target before an HTTP version.
 * @param methods `in use`: a word that is none of these, nor the beginning of one, is `tcp` as long as nothing behind
 *   it tells a request: nobody waits for more. Only where no policy is passed by, for a request may be cut in there
 */
export function looksLikeHttp(bytes: Buffer, methods: Methods = 'any'): 'more' | 'http' | 'tcp' {
  const text = bytes.toString('latin1', 0, LONGEST_LINE);
  const [start = '', method = '', gap = ''] = START.exec(text) ?? [];
  const target = text.slice(start.length);
  if (method === '' && gap !== '') return 'tcp';
  if (target === '') return undecided(text, methods, method, gap);
  if (gap === '' || target.startsWith('\n')) return 'tcp';
  if (method === 'GET' || target.startsWith('/') || target.startsWith('*')) return 'http';
  const [line = ''] = REST_OF_LINE.exec(target) ?? [];
  if (HTTP_SCHEME.test(line) || HTTP_VERSION.test(line)) return 'http';
  return line.length === target.length ? undecided(text, methods, method, gap) : 'tcp';
}

/** The line goes on, and says nothing yet. */
function undecided(text: string, methods: Methods, method: string, gap: string): 'more' | 'http' | 'tcp' {
  if (methods === 'in use' && !isInUse(method.toUpperCase(), gap !== '')) return 'tcp';
  return text.length < LONGEST_LINE ? 'more' : 'http';
}

/** @param whole the method does not go on */
function isInUse(method: string, whole: boolean): boolean {
  return whole ? METHODS.includes(method) : METHODS.some((one) => one.startsWith(method));
}

const STATUS_LINE = Buffer.from('HTTP/', 'latin1');
/** RFC 9113 §4.1: length, type, flags and stream of a frame. */
const FRAME_HEADER = 9;
const SETTINGS = 4;

/**
 * Whether an app that speaks first greets its client, as SMTP and MySQL do. One that speaks HTTP does not: what it says
 * unasked is an answer to silence (408), or HTTP/2's SETTINGS, which "the server connection preface" begins with
 * (RFC 9113 §3.4); the requests to come must not pass unread for it.
 * @returns `more`: too few bytes to tell
 */
export function isGreeting(bytes: Buffer): 'more' | boolean {
  const length = Math.min(bytes.length, STATUS_LINE.length);
  if (bytes.compare(STATUS_LINE, 0, length, 0, length) === 0)
    return length < STATUS_LINE.length ? 'more' : false;
  for (let at = 0; at < FRAME_HEADER && at < bytes.length; at++) {
    // Length below 256, no flags, stream 0.
    if (at !== 2 && bytes[at] !== (at === 3 ? SETTINGS : 0)) return true;
  }
  return bytes.length < FRAME_HEADER ? 'more' : false;
}

/** Class of the first bytes, for the line that explains a refusal. */
export function firstByteClass(bytes: Buffer): 'HTTP' | 'TLS' | 'binary' | 'text' | 'none' {
  const first = bytes[0];
  if (first === undefined) return 'none';
  if (first === HANDSHAKE_RECORD) return 'TLS';
  if (looksLikeHttp(bytes) === 'http') return 'HTTP';
  return first >= 0x20 && first < 0x7f ? 'text' : 'binary';
}
