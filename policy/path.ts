/** Normalizes a request target as Envoy does for Istio, so that what policy matches is what the app receives. */
import type { PathNormalization } from '../mesh/snapshot.ts';

const SLASH = 0x2f;
const BACKSLASH = 0x5c;
const DOT = 0x2e;
const PERCENT = 0x25;
const SEMICOLON = 0x3b;
const TWO = 0x32;
const FIVE = 0x35;

/** What canonical form does with a byte of the path: leave it as it is, write it as `%XX`, or undo its `%XX`. */
const PASS = 0;
const ESCAPE = 1;
const UNESCAPE = 2;
const treatment = new Uint8Array(256).fill(ESCAPE);
for (const char of "!$%&'()*+,/:;=@[]\\.") treatment[char.charCodeAt(0)] = PASS;
// RFC 3986 §2.3, the unreserved characters (the dot is told apart before this table is asked).
for (let c = 0x30; c <= 0x7a; c++) {
  if (/[0-9A-Za-z]/.test(String.fromCharCode(c))) treatment[c] = UNESCAPE;
}
for (const char of '-_~') treatment[char.charCodeAt(0)] = UNESCAPE;

/** Control bytes, space, DEL and `#`, and what is no byte at all: refused wherever they stand. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the bytes it is there to find.
const REFUSED = /[\x00-\x20#\x7f]|[^\x00-\xff]/;

/**
 * Normalizes a raw request target, query included, by MeshConfig's `pathNormalization`.
 *
 * - NONE: as it came.
 * - BASE: RFC 3986 normalization as Envoy's `normalize_path` does it (Chromium's path canonicalization): dot
 *   segments removed, escaped unreserved characters decoded, `\` made `/`, unsafe bytes escaped.
 * - MERGE_SLASHES: then runs of `/` become one.
 * - DECODE_AND_MERGE_SLASHES: before all that `%2F` and `%5C`, in either case, are decoded.
 *
 * The query is never changed.
 * @param target origin form (starts with `/`); one character a byte, as HTTP parsers give it.
 * @returns what is matched and forwarded; null: refuse with 400.
 */
export function normalizeTarget(target: string, mode: PathNormalization): string | null {
  if (target.charCodeAt(0) !== SLASH || REFUSED.test(target)) return null;
  if (mode === 'NONE') return target;
  const merge = mode !== 'BASE';
  const query = target.indexOf('?');
  const end = query < 0 ? target.length : query;
  if (isNormal(target, end, merge)) return target;

  let path = target.slice(0, end);
  if (mode === 'DECODE_AND_MERGE_SLASHES') path = path.replace(/%2f/gi, '/').replace(/%5c/gi, '\\');
  const canonical = canonicalize(path);
  if (canonical === null) return null;
  return (merge ? mergeSlashes(canonical) : canonical) + target.slice(end);
}

/** True where nothing of `target`'s first `end` characters would change: the common case, without allocation. */
function isNormal(target: string, end: number, merge: boolean): boolean {
  let previous = 0;
  for (let i = 0; i < end; i++) {
    const c = target.charCodeAt(i);
    if (c === PERCENT || c === BACKSLASH || treatment[c] === ESCAPE) return false;
    if (previous === SLASH && (c === DOT || (merge && c === SLASH))) return false;
    previous = c;
  }
  return true;
}

/** Canonical form of a path that starts with a slash; null where it carries an escaped NUL. */
function canonicalize(path: string): string | null {
  const end = path.length;
  const out: number[] = [];
  // Where in `out` the last percent sign stands that began no valid escape; -1: none.
  let strayPercent = -1;
  let i = 0;
  while (i < end) {
    const c = path.charCodeAt(i);
    const dot = dotLength(path, i);
    if (dot > 0) {
      if (out[out.length - 1] !== SLASH) {
        out.push(DOT);
        i += dot;
        continue;
      }
      const afterOne = segmentEnd(path, i + dot);
      if (afterOne >= 0) {
        i = afterOne;
        continue;
      }
      const second = dotLength(path, i + dot);
      const afterTwo = second > 0 ? segmentEnd(path, i + dot + second) : -1;
      if (afterTwo >= 0) {
        removeLastSegment(out);
        if (strayPercent >= out.length) strayPercent = -1;
        i = afterTwo;
        continue;
      }
      out.push(DOT);
      i += dot;
    } else if (c === BACKSLASH) {
      out.push(SLASH);
      i++;
    } else if (c === PERCENT) {
      const byte = escapedByte(path.charCodeAt(i + 1), path.charCodeAt(i + 2));
      if (byte < 0) {
        // Kept as it is, as browsers do.
        strayPercent = out.length;
        out.push(PERCENT);
        i++;
      } else if (byte === 0) {
        return null;
      } else if (treatment[byte] === UNESCAPE) {
        out.push(byte);
        i += 3;
        if (strayPercent >= 0 && strayPercent >= out.length - 3) guardNested(path, i, strayPercent, out);
      } else {
        // The case of the hex digits is kept: a server may care.
        out.push(PERCENT, path.charCodeAt(i + 1), path.charCodeAt(i + 2));
        i += 3;
      }
    } else {
      if (treatment[c] === ESCAPE) pushEscaped(out, c);
      else out.push(c);
      i++;
    }
  }
  return Buffer.from(out).toString('latin1');
}

/** Length of a dot at `at`: 1 for `.`, 3 for `%2e` in either case, 0 for anything else. */
function dotLength(path: string, at: number): number {
  const c = path.charCodeAt(at);
  if (c === DOT) return 1;
  return c === PERCENT && escapedByte(path.charCodeAt(at + 1), path.charCodeAt(at + 2)) === DOT ? 3 : 0;
}

/**
 * Where reading goes on after a dot segment whose dots end at `at`; -1 where the segment goes on, so is none.
 *
 * A segment's parameters go with its dots (`/a/..;x/b` is `/b`), as in Envoy since CVE-2026-73551: servlet
 * containers read it so. Envoy looks for them before `%2e` and `\` are decoded, and so leaves `/a/%2e%2e;/b` a
 * `/a/..;/b` that the next hop reads as `/b`; here one reading is the last one.
 */
function segmentEnd(path: string, at: number): number {
  if (at >= path.length) return at;
  const c = path.charCodeAt(at);
  if (c === SLASH || c === BACKSLASH) return at + 1;
  if (c !== SEMICOLON) return -1;
  const slash = path.indexOf('/', at);
  return slash < 0 ? path.length : slash + 1;
}

/** Takes the last segment off, but never the first slash. */
function removeLastSegment(out: number[]): void {
  if (out.length === 1) return;
  out.length = Math.max(out.lastIndexOf(SLASH, out.length - 2), 0) + 1;
}

/**
 * Keeps a stray percent sign from becoming an escape by what was just decoded behind it: `%%300` would turn
 * into `%00`, so it turns into `%2500`.
 */
function guardNested(path: string, next: number, percent: number, out: number[]): void {
  const length = out.length;
  const last = out[length - 1] ?? 0;
  const oneBehind = percent === length - 2;
  const first = out[percent + 1] ?? 0;
  const second = oneBehind ? path.charCodeAt(next) : last;
  if (escapedByte(first, second) < 0) return;
  out.length = percent + 1;
  out.push(TWO, FIVE, first);
  if (!oneBehind) out.push(last);
}

/** The byte that two hex digits stand for; -1 where one is none. */
function escapedByte(high: number, low: number): number {
  const h = hexValue(high);
  const l = hexValue(low);
  return h < 0 || l < 0 ? -1 : h * 16 + l;
}

function hexValue(c: number): number {
  if (c >= 0x30 && c <= 0x39) return c - 0x30;
  const lower = c | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}

function pushEscaped(out: number[], c: number): void {
  const hex = c.toString(16).toUpperCase().padStart(2, '0');
  out.push(PERCENT, hex.charCodeAt(0), hex.charCodeAt(1));
}

/** One slash for each run of them. Envoy's own quirk is kept: a path of slashes alone becomes `//`, not `/`. */
function mergeSlashes(path: string): string {
  if (!path.includes('//')) return path;
  const segments = path.split('/').filter((segment) => segment !== '');
  return `/${segments.join('/')}${path.endsWith('/') ? '/' : ''}`;
}

/** The part of a normalized target that `paths` are matched against: up to the query. */
export function pathOfTarget(target: string): string {
  const query = target.indexOf('?');
  return query < 0 ? target : target.slice(0, query);
}
