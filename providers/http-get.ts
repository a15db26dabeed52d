/** GET of a document from outside, over HTTP or HTTPS: bounded in time, size and redirects, and never of a metadata service. */
import { lookup as dnsLookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { getCACertificates } from 'node:tls';
import type { Agent } from 'undici';

export interface Got {
  readonly text: string;
  /** Where it was in the end. */
  readonly uri: string;
}

/** Rejects with an Error whose message says why not. */
export type Get = (uri: string, signal: AbortSignal) => Promise<Got>;

/** A key set or a bundle is some KiB; whoever has more of them is none we could serve. */
const MAX_BYTES = 1024 * 1024;
const MAX_REDIRECTS = 5;

/**
 * Addresses that hold none: link-local ones, where clouds keep the credentials of their machines, and their
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
 * A getter that trusts the system's roots and Node's own.
 * @param ca PEM roots instead of these.
 */
export function createGetter(ca?: readonly string[]): Get {
  let agent: Agent | null = null;
  return async (uri, signal) => {
    // By `default`: the bundle gives a CommonJS package no other name.
    const { Agent, request } = (await import('undici')).default;
    agent ??= new Agent({
      connect: { lookup: guardedLookup, ca: [...(ca ?? systemRoots())] },
      maxResponseSize: MAX_BYTES,
      // A connection a document: minutes lie between two.
      pipelining: 0,
    });
    let url = new URL(uri);
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const host = url.hostname.replace(/^\[|\]$/g, '');
      if (isIP(host) !== 0 && isBlocked(host))
        throw new Error(`${shown(url)}: a link-local or metadata address`);
      const { statusCode, body, headers } = await request(`${url.origin}${url.pathname}${url.search}`, {
        dispatcher: agent,
        signal,
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
}

/**
 * Calls `work` with a signal that ends it after `patienceMs`.
 * @throws Error that says so where its time was over
 */
export async function within<T>(
  patienceMs: number,
  signal: AbortSignal,
  work: (deadline: AbortSignal) => Promise<T>,
): Promise<T> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]);
  try {
    return await work(deadline);
  } catch (error) {
    if (deadline.aborted && !signal.aborted) throw new Error(`no answer within ${patienceMs} ms`);
    throw error;
  }
}

/** User and password of a URL, as Go's client sends them (RFC 7617). */
function basic({ username, password }: URL): { authorization?: string } {
  if (username === '') return {};
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { authorization: `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** Where one answer sends us: HTTP only, and never from HTTPS to less. */
export function redirected(from: URL, to: string): URL {
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
