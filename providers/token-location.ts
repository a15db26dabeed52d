/** Where a request carries its tokens: finding them as Envoy's jwt_authn does, and a target without one. */
import { decodedParam } from '../mesh/query.ts';
import type { JwtRule, TokenRequest } from '../mesh/tokens.ts';

/** A token as found in a request, not yet looked at. */
export interface FoundToken {
  readonly token: string;
  readonly kind: 'header' | 'param' | 'cookie';
  /** Of the header (lower case), parameter or cookie. */
  readonly name: string;
}

export interface Locations {
  readonly headers: readonly { readonly name: string; readonly prefix: string }[];
  readonly params: readonly string[];
  readonly cookies: readonly string[];
}

const NONE: readonly FoundToken[] = [];

/** The characters of a token: what stands between a prefix and the first of them is skipped. */
const TOKEN_CHARACTER = /[A-Za-z0-9\-_.]/;

/**
 * The places a rule looks at, in Envoy's order: headers, then parameters, then cookies, each sorted by name.
 * "If no explicit location is specified": `Authorization: Bearer …` and the parameter `access_token`.
 */
export function locationsOf(rule: JwtRule): Locations {
  const { fromHeaders, fromParams, fromCookies } = rule;
  if (fromHeaders.length === 0 && fromParams.length === 0 && fromCookies.length === 0) {
    return {
      headers: [{ name: 'authorization', prefix: 'Bearer ' }],
      params: ['access_token'],
      cookies: [],
    };
  }
  const byKey = new Map(fromHeaders.map((header) => [header.name + header.prefix, header]));
  return {
    headers: [...byKey.keys()].sort().flatMap((key) => byKey.get(key) ?? []),
    params: [...new Set(fromParams)].sort(),
    cookies: [...new Set(fromCookies)].sort(),
  };
}

/**
 * Every token a request carries at these places. Nothing is allocated where there is none.
 * @param hidden headers taken for absent: whatever the downstream sent in them is dropped.
 */
export function findTokens(
  request: TokenRequest,
  locations: Locations,
  hidden: ReadonlySet<string>,
): readonly FoundToken[] {
  let found = NONE;
  for (const { name, prefix } of locations.headers) {
    if (hidden.has(name)) continue;
    for (const value of joined(name, request.headerValues(name))) {
      const token = tokenIn(value, prefix);
      if (token !== null) found = [...found, { token, kind: 'header', name }];
    }
  }
  if (locations.params.length > 0 && request.path.includes('?')) {
    for (const name of locations.params) {
      const token = paramValue(request.path, name);
      if (token !== null) found = [...found, { token, kind: 'param', name }];
    }
  }
  if (locations.cookies.length > 0 && !hidden.has('cookie')) {
    const values = request.headerValues('cookie');
    for (const name of values.length === 0 ? [] : locations.cookies) {
      const token = cookieValue(values, name);
      if (token !== null) found = [...found, { token, kind: 'cookie', name }];
    }
  }
  return found;
}

/** Envoy holds some headers once and joins their copies; of those that carry tokens that is `authorization`. */
function joined(name: string, values: readonly string[]): readonly string[] {
  if (name !== 'authorization' || values.length < 2) return values;
  return [values.filter((value) => value !== '').join(',')];
}

/** "If the header doesn't have this exact prefix" there is no token; Envoy finds it anywhere in the value. */
function tokenIn(value: string, prefix: string): string | null {
  if (prefix === '') return value;
  const at = value.indexOf(prefix);
  if (at === -1) return null;
  const rest = value.slice(at + prefix.length);
  const start = rest.search(TOKEN_CHARACTER);
  return start === -1 ? value : rest.slice(start);
}

function paramValue(path: string, name: string): string | null {
  for (const segment of path.slice(path.indexOf('?') + 1).split('&')) {
    const equals = segment.indexOf('=');
    const key = equals === -1 ? segment : segment.slice(0, equals);
    if (decodedParam(key) === name) return equals === -1 ? '' : decodedParam(segment.slice(equals + 1));
  }
  return null;
}

/**
 * A target without a parameter. Envoy sorts and decodes the others on the way, which can change what they mean
 * and break the request; here they stay as they are.
 */
export function withoutParam(path: string, name: string): string {
  const question = path.indexOf('?');
  if (question === -1) return path;
  const kept = path
    .slice(question + 1)
    .split('&')
    .filter((segment) => {
      const equals = segment.indexOf('=');
      return decodedParam(equals === -1 ? segment : segment.slice(0, equals)) !== name;
    });
  return kept.length === 0 ? path.slice(0, question) : `${path.slice(0, question)}?${kept.join('&')}`;
}

/** The first cookie of that name. Blanks before the name or around the value and a pair of quotes are no part of them. */
function cookieValue(headers: readonly string[], name: string): string | null {
  for (const header of headers) {
    for (const pair of header.split(';')) {
      const equals = pair.indexOf('=');
      if (equals === -1 || pair.slice(0, equals).replace(/^ +/, '') !== name) continue;
      const value = pair.slice(equals + 1).trim();
      return value.length >= 2 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value;
    }
  }
  return null;
}
