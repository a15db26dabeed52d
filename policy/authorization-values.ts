/** The values an AuthorizationPolicy's fields may have, each checked as Istio's webhook and schema do. */

import { parseCidr } from '../mesh/cidr.ts';
import { type Decoder, listOf, string } from '../mesh/schema.ts';
import { wrongTemplate } from './path-template.ts';
import { boundedList } from './webhook.ts';
import { claimPath, headerName } from './when-key.ts';

/** What is wrong with a value, or null. */
type Check = (value: string) => string | null;

/** Bounds of Istio's schema. */
const MAX_ACCOUNTS = 16;
const MAX_ACCOUNT_LENGTH = 320;

/** One value: not empty, and as `check` asks. */
function text(check: Check): Decoder<string> {
  return (value, path, reporter) => {
    const decoded = string(value, path, reporter);
    if (decoded === undefined) return undefined;
    const wrong = decoded === '' ? 'an empty value is not allowed' : check(decoded);
    if (wrong !== null) reporter.report(path, 'badValue', wrong);
    return decoded;
  };
}

const anything: Check = () => null;

/** Istio's `ValidatePorts`: a decimal number up to 65535, 0 included. */
const wrongPort: Check = (value) =>
  /^[0-9]+$/.test(value) && Number(value) <= 65535
    ? null
    : `must be a port number from 0 to 65535, not ${JSON.stringify(value)}`;

/** Istio's `ValidateIPs`. */
const wrongBlock: Check = (value) =>
  parseCidr(value) === null ? `must be an IP address or CIDR block, not ${JSON.stringify(value)}` : null;

/** Istio's `CheckServiceAccount`. */
const wrongAccount: Check = (value) => {
  if (value.includes('*')) return 'a service account takes no wildcard';
  if (value.length > MAX_ACCOUNT_LENGTH) return `has at most ${MAX_ACCOUNT_LENGTH} characters`;
  const parts = value.split('/');
  return parts.length > 2 || parts.includes('') ? 'must be ACCOUNT or NAMESPACE/ACCOUNT' : null;
};

/** Istio's `CheckWildcardValues`. */
const wrongWildcard: Check = (value) => {
  const stars = value.split('*').length - 1;
  if (stars > 1) return 'at most one * is allowed';
  return stars === 0 || value.startsWith('*') || value.endsWith('*')
    ? null
    : 'a * is allowed only at the start or the end';
};

/** Istio's `CheckTrustDomainValues`. */
const wrongTrustDomain: Check = (value) =>
  wrongWildcard(value) ?? (value.includes('/') ? 'a trust domain has no slash' : null);

export const plainValues = listOf(text(anything));
export const portValues = listOf(text(wrongPort));
export const blockValues = listOf(text(wrongBlock));
export const pathValues = listOf(text(wrongTemplate));
export const accountValues = boundedList(text(wrongAccount), MAX_ACCOUNTS);
export const trustDomainValues = listOf(text(wrongTrustDomain));

/** The fixed keys of `when`, with what their values must be. */
const KEYS: ReadonlyMap<string, Decoder<readonly string[]>> = new Map([
  ['source.ip', blockValues],
  ['remote.ip', blockValues],
  ['source.namespace', plainValues],
  ['source.serviceAccount', accountValues],
  ['source.principal', plainValues],
  ['source.trustDomain', listOf(text(wrongWildcard))],
  ['request.auth.principal', plainValues],
  ['request.auth.audiences', plainValues],
  ['request.auth.presenter', plainValues],
  ['destination.ip', blockValues],
  ['destination.port', portValues],
  ['connection.sni', plainValues],
]);

/** Keys of Istio's first authorization API, each with what its webhook says of it. */
const GONE: readonly (readonly [prefix: string, message: string])[] = [
  ['destination.namespace', "is gone: a policy holds in its own resource's namespace"],
  ['destination.labels', 'is gone: use selector'],
  ['destination.name', 'is gone: use selector'],
  ['destination.user', 'is gone: use selector'],
];

/**
 * What the values of a `when` key must be (Istio's `ValidateAttribute`).
 * @returns a decoder, or what is wrong with the key and whether that is only our own limit
 */
export function valuesOfKey(
  key: string,
): Decoder<readonly string[]> | { readonly wrong: string; readonly unsupported: boolean } {
  const fixed = KEYS.get(key);
  if (fixed !== undefined) return fixed;
  const open = key.indexOf('[');
  const bracketed = key.endsWith(']') && open > 0 && open < key.length - 2;
  if (key.startsWith('experimental.envoy.filters.')) {
    const wrong = bracketed ? "there is no Envoy here whose filters' metadata it could read" : BRACKETS;
    return { wrong, unsupported: bracketed };
  }
  if (key.startsWith('request.headers') || key.startsWith('request.auth.claims')) {
    if (!bracketed) return { wrong: BRACKETS, unsupported: false };
    // Istio's webhook lets these pass, and its generator then drops the rule (ALLOW) or the condition (DENY).
    const readable = key.startsWith('request.headers') ? headerName(key) : claimPath(key);
    if (readable !== null) return plainValues;
    return { wrong: 'must be request.headers[NAME] or request.auth.claims[NAME]', unsupported: true };
  }
  const gone = GONE.find(
    ([prefix]) => key === prefix || (prefix.endsWith('labels') && key.startsWith(prefix)),
  );
  const known = [...KEYS.keys(), 'request.headers[NAME]', 'request.auth.claims[NAME]'].join(', ');
  return { wrong: gone?.[1] ?? `is not known; use one of ${known}`, unsupported: false };
}

const BRACKETS = 'must name something in brackets, such as request.headers[x-user]';
