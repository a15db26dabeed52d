/** A request's head as both HTTP versions hand it to judges: its fields, its framing, and what may be changed of it. */
import { isIPv6 } from 'node:net';
import type { RequestFacts } from '../../mesh/facts.ts';
import type { Claims } from '../../mesh/tokens.ts';

/** One header field as it will be passed on; `key` is the name in lower case. */
export interface Field {
  readonly name: string;
  readonly key: string;
  readonly value: string;
  /** `name: value` and CRLF, of fields that many requests get: see `standing`. */
  readonly line?: Uint8Array;
}

/** A field that is added to many requests: its line is made once. @param name in lower case */
export function standing(name: string, value: string): Field {
  return { name, key: name, value, line: Uint8Array.from(Buffer.from(`${name}: ${value}\r\n`, 'latin1')) };
}

/** How a body's end is found (RFC 9112 §6.3). HTTP/2 frames what has no length by itself: `chunked` stands for that too. */
export type Framing =
  | { readonly kind: 'none' }
  | { readonly kind: 'length'; readonly length: number }
  | { readonly kind: 'chunked' }
  | { readonly kind: 'close' };

/** A request's head. Who judges it may change what is not readonly: what is judged next is what goes on. */
export interface RequestHead extends RequestFacts {
  path: string;
  fields: readonly Field[];
  /** Set once the token is verified. */
  claims: Claims | null;
  remoteIp: string | null;
  /** What the downstream sent as X-Forwarded-Client-Cert, joined; never among `fields`. Null where it sent none. */
  readonly forwardedCert: string | null;
  readonly framing: Framing;
  /** Adds a field behind those there are; cheaper than setting `fields`. */
  add(field: Field): void;
}

/** Normalizes a request target to what is matched and forwarded; null refuses it. */
export type NormalizeTarget = (target: string) => string | null;

/** Why a head was refused: the status to answer with (requests), and what was wrong. */
type HeadStatus = 400 | 404 | 405 | 414 | 431 | 505;

export class HeadError extends Error {
  readonly status: HeadStatus;
  constructor(status: HeadStatus, message: string) {
    super(message);
    this.status = status;
  }
}

export const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
export const BAD_TARGET = /[\0-\x20\x7f-\xff#]/;
const HOST = /^(?:(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$/;

/** Fields that end at each hop (RFC 9110 §7.6.1) besides those that Connection nominates. */
export const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'upgrade',
  'http2-settings',
]);
/** Nomination never removes these: the message would change its meaning or its author. */
export const NEVER_NOMINATED = new Set(['host', 'content-length', 'transfer-encoding', 'authorization']);
/** The identity header is ours alone; apps that map `_` to `-` must not be fooled either. */
export const XFCC = /^x[-_]forwarded[-_]client[-_]cert$/;
export const FORWARDED_CERT = 'x-forwarded-client-cert';
/** What makes a message's framing, its addressee or its author: nobody we ask may change these. */
const NEVER_CHANGED = new Set([...HOP_BY_HOP, 'host', 'content-length', 'transfer-encoding', 'expect']);

/**
 * What must not come behind a body, where nobody judged it (RFC 9110 §6.5.1): framing, routing, authors, and how
 * the body is to be read.
 */
const NOT_IN_TRAILERS = new Set([
  ...HOP_BY_HOP,
  'transfer-encoding',
  'content-length',
  'content-encoding',
  'content-type',
  'content-range',
  'trailer',
  'host',
  'expect',
  'max-forwards',
  'authorization',
  'proxy-authorization',
  'proxy-authenticate',
  'www-authenticate',
  'cookie',
  'set-cookie',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
]);

/** @param key a name in lower case @returns whether it may go on among the trailers */
export function isTrailer(key: string): boolean {
  return !NOT_IN_TRAILERS.has(key) && !XFCC.test(key) && !key.startsWith(':');
}

/** All values of a field, each alone, in order. */
export function valuesOf(fields: readonly Field[], key: string): readonly string[] {
  const values: string[] = [];
  for (const field of fields) if (field.key === key) values.push(field.value);
  return values;
}

/** All values of a field as one, the way Envoy joins repeated ones; null where it is absent. */
export function joinedValues(fields: readonly Field[], key: string): string | null {
  let joined: string | null = null;
  for (const field of fields) {
    if (field.key === key) joined = joined === null ? field.value : `${joined},${field.value}`;
  }
  return joined;
}

/** True where a name and a value may stand in a head as they are: one character a byte, no control characters. */
export function isField(name: string, value: string): boolean {
  return TOKEN.test(name) && VALUE.test(value);
}

/** True where a target may stand in a request line as it is. */
export function isTarget(target: string): boolean {
  return target.startsWith('/') && !BAD_TARGET.test(target);
}

/** @param key a name in lower case */
export function mayChange(key: string): boolean {
  return !NEVER_CHANGED.has(key) && !XFCC.test(key) && !key.startsWith(':');
}

/** RFC 3986 §3.2 without user info: `host[:port]`, never empty, never a list. */
export function isAuthority(text: string): boolean {
  if (!HOST.test(text)) return false;
  const bracket = text.indexOf(']');
  const colon = text.indexOf(':', bracket + 1);
  if (colon >= 0 && Number(text.slice(colon + 1)) > 65_535) return false;
  return bracket < 0 || isIPv6(text.slice(1, bracket));
}

/** RFC 9110 §9.2.2: these may be sent again when a kept connection turns out to be dead. */
export const REPLAYABLE: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);
