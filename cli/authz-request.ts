/** One request of `authz check`: its JSON checked field by field and made into the facts the data path would have. */

import { isIP } from 'node:net';
import { parseCidr } from '../mesh/cidr.ts';
import type { ConnectionFacts } from '../mesh/facts.ts';
import { type Identity, parseIdentity } from '../mesh/identity.ts';
import { limitTable } from '../mesh/limits.ts';
import { isObject } from '../mesh/schema.ts';
import type { PathNormalization, Snapshot } from '../mesh/snapshot.ts';
import type { Claims } from '../mesh/tokens.ts';
import { normalizeTarget } from '../policy/path.ts';
import { addFields } from '../proxy/http/added-fields.ts';
import { forwardedCert, peersCert } from '../proxy/http/forwarded-cert.ts';
import { forwardedFor } from '../proxy/http/forwarded-for.ts';
import { HeadError, type RequestHead } from '../proxy/http/head.ts';
import { parseRequest } from '../proxy/http1/request-head.ts';

/** What is wrong with a request, for its answer. */
export class RequestError extends Error {}

export interface CheckFacts {
  readonly connection: ConnectionFacts;
  /** Null: a TCP connection. `claims` are those given. */
  readonly request: RequestHead | null;
}

/** What a request is read by: the mesh's settings and the sidecar's own identity. */
export type Sidecar = Pick<Snapshot, 'mesh' | 'identity'>;

/** A JSON object as it was read. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** A port that no rule names, for a request that names none. */
const NO_PORT = 0;
/** In X-Forwarded-Client-Cert: a request names its caller, not the caller's certificate. */
const UNKNOWN_HASH = '0'.repeat(64);
const LINE_BREAK = /[\r\n]/;
const NOT_A_NAME = /[\r\n:]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: what is outside must be told apart
const ASCII = /^[\x00-\x7f]*$/;

/**
 * Makes facts of a request.
 *
 * An HTTP request is written as HTTP/1.1 and read by the data path's own reader, so that what it would refuse is
 * refused, and what it would not pass on no policy sees.
 * @throws RequestError naming the field and what is wrong with it
 */
export function readCheckRequest(given: JsonObject, { mesh, identity }: Sidecar): CheckFacts {
  const protocol = text(given, 'protocol') ?? 'http';
  if (protocol !== 'http' && protocol !== 'tcp') {
    throw new RequestError(`protocol must be "http" or "tcp", not ${JSON.stringify(protocol)}`);
  }
  const port = portOf(given.port);
  if (protocol === 'tcp' && port === null) throw new RequestError('a tcp request needs port');
  const sourceIp = address(given, 'sourceIp') ?? '';
  const remoteIp = address(given, 'remoteIp');
  const connection: ConnectionFacts = {
    peer: peerOf(text(given, 'principal')),
    sourceIp,
    remoteIp: remoteIp ?? sourceIp,
    destinationIp: address(given, 'destinationIp') ?? '',
    destinationPort: port ?? NO_PORT,
    // Envoy keeps the requested server name in lower case.
    sni: text(given, 'sni')?.toLowerCase() ?? null,
  };
  if (protocol === 'tcp') return { connection, request: null };
  const request = requestOf(given, mesh.pathNormalization);
  // Who says it outright is believed before the header.
  if (remoteIp === null) request.remoteIp = forwardedFor(request.fields);
  const { peer } = connection;
  const cert = forwardedCert({
    how: mesh.forwardedClientCert,
    sent: request.forwardedCert,
    peers: peer === null ? null : peersCert(identity.uri, UNKNOWN_HASH, peer.uri),
  });
  addFields(request, peer !== null);
  if (cert !== null) request.add(cert);
  return { connection, request };
}

function requestOf(given: JsonObject, normalization: PathNormalization): RequestHead {
  const method = needed(given, 'method');
  const host = needed(given, 'host');
  const path = needed(given, 'path');
  const token = text(given, 'token');
  const claims = claimsOf(given.claims);
  if (token !== null && claims !== null) throw new RequestError('give claims or token, not both');
  let head = `${method} ${path} HTTP/1.1\r\nhost: ${host}\r\n`;
  if (token !== null) head += `authorization: Bearer ${token}\r\n`;
  head = onTheWire(head + headerLines(given.headers, host, token !== null));
  if (head.length > limitTable.maxHeadBytes.value) {
    throw new RequestError(
      `the sidecar answers 431: the head is longer than ${limitTable.maxHeadBytes.value} bytes`,
    );
  }
  const bounds = { maxFields: limitTable.maxHeadFields.value };
  try {
    const read = parseRequest(head.slice(0, -2), bounds, (target) => normalizeTarget(target, normalization));
    read.claims = claims;
    return read;
  } catch (error) {
    if (!(error instanceof HeadError)) throw error;
    throw new RequestError(`the sidecar answers ${error.status}: ${error.message}`);
  }
}

/** `{name: value or [values]}` as field lines. */
function headerLines(headers: unknown, host: string, withToken: boolean): string {
  if (headers === undefined || headers === null) return '';
  if (!isObject(headers)) throw wrongType('headers', 'an object', headers);
  let lines = '';
  for (const [name, given] of Object.entries(headers)) {
    const field = `headers[${JSON.stringify(name)}]`;
    if (name === '' || NOT_A_NAME.test(name)) throw new RequestError(`${field} is no header name`);
    const values = typeof given === 'string' ? [given] : given;
    if (!Array.isArray(values)) throw wrongType(field, 'a string or a list of strings', given);
    const key = name.toLowerCase();
    if (key === 'authorization' && withToken) {
      throw new RequestError('give token or the header authorization, not both');
    }
    for (const value of values as readonly unknown[]) {
      if (typeof value !== 'string') throw wrongType(field, 'a string or a list of strings', value);
      if (LINE_BREAK.test(value)) throw new RequestError(`${field} has a line break`);
      // Said twice, as one value: a request has one Host field.
      if (key === 'host' && value === host) continue;
      if (key === 'host') throw new RequestError(`${field} is not what host says`);
      lines += `${name}: ${value}\r\n`;
    }
  }
  return lines;
}

/** As heads are read: one character a byte. */
function onTheWire(value: string): string {
  return ASCII.test(value) ? value : Buffer.from(value, 'utf8').toString('latin1');
}

function needed(given: JsonObject, field: string): string {
  const value = text(given, field);
  if (value === null) throw new RequestError(`an http request needs ${field}`);
  return value;
}

/** A text of one line; null where the field is absent or null. */
function text(given: JsonObject, field: string): string | null {
  const value = given[field];
  if (value === undefined || value === null) return null;
  if (typeof value !== 'string') throw wrongType(field, 'a string', value);
  if (LINE_BREAK.test(value)) throw new RequestError(`${field} has a line break`);
  return value;
}

function portOf(value: unknown): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65_535) return value;
  throw wrongType('port', 'a whole number from 1 to 65535', value);
}

function claimsOf(value: unknown): Claims | null {
  if (value === undefined || value === null) return null;
  if (!isObject(value)) throw wrongType('claims', 'an object', value);
  return value as Claims;
}

/** Peers read before: requests come from few callers. Forgotten all at once where they become many. */
const peers = new Map<string, Identity>();
const MAX_PEERS = 10_000;

function peerOf(principal: string | null): Identity | null {
  if (principal === null) return null;
  const known = peers.get(principal);
  if (known !== undefined) return known;
  if (principal === '' || principal.startsWith('spiffe://')) {
    throw new RequestError(
      `principal must be an identity without spiffe://, as cluster.local/ns/foo/sa/sleep, not ${shown(principal)}`,
    );
  }
  const identity = parseIdentity(`spiffe://${principal}`) ?? foreignIdentity(principal);
  if (peers.size >= MAX_PEERS) peers.clear();
  peers.set(principal, identity);
  return identity;
}

/**
 * A peer whose certificate names it otherwise, such as `sleep.example`. No sidecar of ours lets one in, but rules
 * can be asked about it: it has a name, and neither namespace nor account.
 */
function foreignIdentity(principal: string): Identity {
  const [trustDomain = ''] = principal.split('/', 1);
  return { uri: `spiffe://${principal}`, principal, trustDomain, namespace: null, serviceAccount: null };
}

/** An IP address as the data path has it: no zone, IPv4-mapped IPv6 as IPv4. Null where the field is absent. */
function address(given: JsonObject, field: string): string | null {
  const value = text(given, field);
  if (value === null) return null;
  const family = isIP(value);
  if (family === 4) return value;
  const words = family === 6 ? parseCidr(value)?.words : undefined;
  if (words === undefined) throw new RequestError(`${field} must be an IP address, not ${shown(value)}`);
  const mapped = words[5] === 0xffff && words.slice(0, 5).every((word) => word === 0);
  if (!mapped) return value.split('%', 1)[0] ?? value;
  const [high = 0, low = 0] = words.slice(6);
  return `${high >>> 8}.${high & 255}.${low >>> 8}.${low & 255}`;
}

function wrongType(field: string, wanted: string, value: unknown): RequestError {
  return new RequestError(`${field} must be ${wanted}, not ${shown(value)}`);
}

/** A value as an error shows it: short, whatever it is. */
function shown(value: unknown): string {
  const json = JSON.stringify(value);
  return json.length > 80 ? `${json.slice(0, 80)}…` : json;
}
