/** One fetch of a key set over HTTP, OpenID discovery included: bounded in time, size and redirects. */
import { lookup as dnsLookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { getCACertificates } from 'node:tls';
import type { Agent } from 'undici';

/** Where a rule's keys are. */
export interface KeyPlace {
  /** Null: discovered at the issuer. */
  readonly uri: string | null;
  readonly issuer: string;
}

export interface FetchedKeys {
  readonly text: string;
  /** Where they were in the end. */
  readonly uri: string;
}

/** Fetches a key set's text. Rejects with an Error whose message says why not. */
export type FetchKeys = (place: KeyPlace, timeoutMs: number, signal: AbortSignal) => Promise<FetchedKeys>;

/** A key set is some KiB; an identity provider with hundreds of keys is none we could serve. */
const MAX_BYTES = 1024 * 1024;
const MAX_REDIRECTS = 5;
/** Requests wait for the first fetch; whatever a rule's `timeout` says, not longer. */
const MAX_WAIT_MS = 60_000;

/** OpenID Connect Discovery 1.0 §4. */
const DISCOVERY = '/.well-known/openid-configuration';

/**
 * Addresses that hold no keys: link-local ones, where clouds keep the credentials of their machines, and their
 * other metadata services (Istio's `jwksBlockedIP`). Looked at after DNS, on every hop.
 */
const blocked = new BlockList();
blocked.addSubnet('169.254.0.0', 16);
blocked.addSubnet('224.0.0.0', 24);
blocked.addAddress('100.100.100.200');
blocked.addSubnet('fe80::', 10, 'ipv6');
blocked.addSubnet('ff02::', 16, 'ipv6');
blocked.addSubnet('fd00:ec2::', 32, 'ipv6');

function isBlocked(address: string): boolean {
  return blocked.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

const guardedLookup: LookupFunction = (hostname, options, callback) => {
  dnsLookup(hostname, options, (error, address, family) => {
    const addresses = typeof address === 'string' ? [address] : (address ?? []).map((one) => one.address);
    const refused = error === null ? addresses.find(isBlocked) : undefined;
    if (refused === undefined) callback(error, address, family);
    else callback(new Error(`${hostname} is ${refused}, a link-local or metadata address`), address, family);
  });
};

/**
 * A fetcher that trusts the system's roots and Node's own.
 * @param ca PEM roots instead of these.
 */
export function createKeyFetcher(ca?: readonly string[]): FetchKeys {
  let agent: Agent | null = null;
  return async (place, timeoutMs, signal) => {
    const { Agent, request } = await import('undici');
    agent ??= new Agent({
      connect: { lookup: guardedLookup, ca: [...(ca ?? systemRoots())] },
      maxResponseSize: MAX_BYTES,
      // A connection a fetch: minutes lie between two.
      pipelining: 0,
    });
    const dispatcher = agent;
    const patience = Math.min(timeoutMs, MAX_WAIT_MS);
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(patience)]);

    const get = async (uri: string): Promise<FetchedKeys> => {
      let url = new URL(uri);
      for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
        const host = url.hostname.replace(/^\[|\]$/g, '');
        if (isIP(host) !== 0 && isBlocked(host))
          throw new Error(`${shown(url)}: a link-local or metadata address`);
        const { statusCode, body, headers } = await request(`${url.origin}${url.pathname}${url.search}`, {
          dispatcher,
          signal: deadline,
          headers: { accept: 'application/json', ...basic(url) },
        });
        const { location } = headers;
        if (statusCode >= 300 && statusCode < 400 && typeof location === 'string') {
          await body.dump({ limit: MAX_BYTES });
          url = redirected(url, location);
          continue;
        }
        const text = await body.text();
        if (statusCode < 200 || statusCode >= 300) throw new Error(`${shown(url)} answered ${statusCode}`);
        return { text, uri: url.href };
      }
      throw new Error(`${shown(new URL(uri))} redirects more than ${MAX_REDIRECTS} times`);
    };

    try {
      return await get(place.uri ?? (await discover(place.issuer, get)));
    } catch (error) {
      if (deadline.aborted && !signal.aborted) throw new Error(`no answer within ${patience} ms`);
      throw error;
    }
  };
}

/** User and password of a URL, as Go's client sends them (RFC 7617). */
function basic({ username, password }: URL): { authorization?: string } {
  if (username === '') return {};
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { authorization: `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** The issuer's `jwks_uri`. */
async function discover(issuer: string, get: (uri: string) => Promise<FetchedKeys>): Promise<string> {
  const base = issuer.replace(/\/$/, '');
  if (!/^https?:\/\//i.test(base)) throw new Error('the issuer is no URL to discover keys at; give jwksUri');
  const { text, uri } = await get(base + DISCOVERY);
  const found: unknown = JSON.parse(text);
  const { jwks_uri: jwksUri, issuer: named } = (found ?? {}) as Readonly<Record<string, unknown>>;
  if (typeof jwksUri !== 'string') throw new Error(`${shown(new URL(uri))} names no jwks_uri`);
  // §4.3: "The issuer value returned MUST be identical to the Issuer URL".
  if (typeof named === 'string' && named.replace(/\/$/, '') !== base) {
    throw new Error(`${shown(new URL(uri))} speaks for another issuer, ${named}`);
  }
  return redirected(new URL(uri), jwksUri).href;
}

/** Where one answer sends us: HTTP only, and never from HTTPS to less. */
function redirected(from: URL, to: string): URL {
  const url = new URL(to, from);
  if (url.protocol !== 'https:' && (url.protocol !== 'http:' || from.protocol === 'https:')) {
    throw new Error(`${shown(from)} leads to ${url.protocol}//, which does not protect the keys as it does`);
  }
  return url;
}

/** A URL for people: no password, no query. */
export function shown(url: URL): string {
  return `${url.origin}${url.pathname}`;
}

function systemRoots(): readonly string[] {
  return [...new Set([...getCACertificates('default'), ...getCACertificates('system')])];
}
