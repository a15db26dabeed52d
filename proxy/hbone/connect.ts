/** The head of a CONNECT and of its answer: what HTTP/2 allows in them (RFC 9113 §8.2, §8.3, §8.5). */
import { isIP } from 'node:net';
import type { HeaderField } from '../http2/hpack-static.ts';

/** A request as it came. */
export interface ConnectHead {
  readonly method: string;
  readonly authority: string;
  /** What is spoken in the stream, as the asker says (RFC 7639): the first protocol it names; null: it does not say. */
  readonly alpn: string | null;
}

/** Fields of one connection, which no HTTP/2 message may carry (§8.2.2). */
const CONNECTION_FIELDS = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
]);
/** A field's name: a token without capitals (RFC 9110 §5.1, RFC 9113 §8.2.1). */
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
/** What a value must not contain, nor begin or end with (§8.2.1). */
const BAD_VALUE = /[\0\r\n]|^[ \t]|[ \t]$/;
const REQUEST_PSEUDO = new Set([':method', ':scheme', ':authority', ':path']);

/**
 * Reads a request's head.
 * @returns null where it is malformed: its stream ends with PROTOCOL_ERROR (§8.1.1)
 */
export function readConnect(fields: readonly HeaderField[]): ConnectHead | null {
  const pseudo = readPseudo(fields, REQUEST_PSEUDO);
  if (pseudo === null) return null;
  const method = pseudo.get(':method');
  if (method === undefined) return null;
  const authority = pseudo.get(':authority') ?? '';
  if (method === 'CONNECT') {
    // §8.5: "The ':scheme' and ':path' pseudo-header fields MUST be omitted."
    const plain = authority !== '' && !pseudo.has(':scheme') && !pseudo.has(':path');
    return plain ? { method, authority, alpn: readAlpn(fields) } : null;
  }
  const path = pseudo.get(':path');
  const whole = pseudo.has(':scheme') && path !== undefined && path !== '';
  return whole ? { method, authority, alpn: null } : null;
}

/** RFC 7639 §2.2: protocols with commas between; of what it escapes, ALPN's own names have the slash alone. */
function readAlpn(fields: readonly HeaderField[]): string | null {
  const field = fields.find(({ name }) => name === 'alpn');
  return field?.value.split(',', 1)[0]?.trim().replace(/%2f/i, '/') ?? null;
}

/** The value of that field for one protocol. */
export function alpnField(protocol: string): string {
  return protocol.replace('/', '%2F');
}

/** @returns the status of an answer's head; null where it is malformed */
export function readStatus(fields: readonly HeaderField[]): number | null {
  const status = readPseudo(fields, RESPONSE_PSEUDO)?.get(':status');
  return status !== undefined && /^[1-9][0-9][0-9]$/.test(status) ? Number(status) : null;
}

const RESPONSE_PSEUDO = new Set([':status']);

/** True for a trailer section as it may be: fields, and no pseudo-header. */
export function isTrailers(fields: readonly HeaderField[]): boolean {
  return readPseudo(fields, new Set()) !== null;
}

function readPseudo(
  fields: readonly HeaderField[],
  allowed: ReadonlySet<string>,
): ReadonlyMap<string, string> | null {
  const pseudo = new Map<string, string>();
  let regular = false;
  for (const { name, value } of fields) {
    if (BAD_VALUE.test(value)) return null;
    if (name.startsWith(':')) {
      // §8.3: known, once, and before all others.
      if (regular || !allowed.has(name) || pseudo.has(name)) return null;
      pseudo.set(name, value);
      continue;
    }
    regular = true;
    if (!NAME.test(name) || CONNECTION_FIELDS.has(name)) return null;
    if (name === 'te' && value !== 'trailers') return null;
  }
  return pseudo;
}

/** An address and a port. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Reads `10.0.0.1:80` or `[::1]:80`; null for anything else, names included. */
export function readAddress(authority: string): HostPort | null {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})$/.exec(authority);
  if (match === null) return null;
  const [, v6, v4, digits] = match;
  const host = v6 ?? v4 ?? '';
  const port = Number(digits);
  if (isIP(host) !== (v6 === undefined ? 4 : 6) || port < 1 || port > 65_535) return null;
  return { host, port };
}
