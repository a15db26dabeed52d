/** One fetch of a key set over HTTP, OpenID discovery included. */
import { createGetter, type Get, type Got, redirected, shown, within } from './http-get.ts';

/** Where a rule's keys are. */
export interface KeyPlace {
  /** Null: discovered at the issuer. */
  readonly uri: string | null;
  readonly issuer: string;
}

/** Fetches a key set's text. Rejects with an Error whose message says why not. */
export type FetchKeys = (place: KeyPlace, timeoutMs: number, signal: AbortSignal) => Promise<Got>;

/** Requests wait for the first fetch; whatever a rule's `timeout` says, not longer. */
const MAX_WAIT_MS = 60_000;

/** OpenID Connect Discovery 1.0 §4. */
const DISCOVERY = '/.well-known/openid-configuration';

/**
 * A fetcher that trusts the system's roots and Node's own.
 * @param ca PEM roots instead of these.
 */
export function createKeyFetcher(ca?: readonly string[]): FetchKeys {
  const get = createGetter(ca);
  return ({ uri, issuer }, timeoutMs, signal) =>
    within(Math.min(timeoutMs, MAX_WAIT_MS), signal, async (deadline) =>
      get(uri ?? (await discover(issuer, get, deadline)), deadline),
    );
}

/** The issuer's `jwks_uri`. */
async function discover(issuer: string, get: Get, deadline: AbortSignal): Promise<string> {
  const base = issuer.replace(/\/$/, '');
  if (!/^https?:\/\//i.test(base)) throw new Error('the issuer is no URL to discover keys at; give jwksUri');
  const { text, uri } = await get(base + DISCOVERY, deadline);
  const found: unknown = JSON.parse(text);
  const { jwks_uri: jwksUri, issuer: named } = (found ?? {}) as Readonly<Record<string, unknown>>;
  if (typeof jwksUri !== 'string') throw new Error(`${shown(new URL(uri))} names no jwks_uri`);
  // §4.3: "The issuer value returned MUST be identical to the Issuer URL".
  if (typeof named === 'string' && named.replace(/\/$/, '') !== base) {
    throw new Error(`${shown(new URL(uri))} speaks for another issuer, ${named}`);
  }
  return redirected(new URL(uri), jwksUri).href;
}
