/** One of RequestAuthentication's `jwtRules`: its fields, read and checked by the rules of Istio's schema and webhook. */
import { parseWholeMilliseconds } from '../mesh/duration.ts';
import type { FieldPath } from '../mesh/resource.ts';
import {
  boolean,
  type Decoder,
  enumOf,
  isObject,
  listOf,
  object,
  type Reporter,
  string,
} from '../mesh/schema.ts';
import type { JwtRule } from '../mesh/tokens.ts';
import { boundedList, hasErrors } from './webhook.ts';

/** Bounds of Istio's schema. */
const MAX_URI = 2048;
const MAX_SPACE_DELIMITED = 64;

/** Go's longest duration, 2^63 ns. */
const MAX_TIMEOUT_MS = 2 ** 63 / 1e6;
/** "Default is 5s." */
const DEFAULT_TIMEOUT_MS = 5_000;

/** Istio's `ValidateStrictHTTPHeaderName`. */
const STRICT_HEADER_NAME = /^[-_A-Za-z0-9]+$/;
/** A header name at all (RFC 9110 §5.6.2). */
const HEADER_NAME = /^[-!#$%&'*+.^_`|~0-9A-Za-z]+$/;
/** What Go's `url.Parse` and Istio's `ParseJwksURI` take: the scheme, and an authority in its form if there is one. */
const HTTP_URI =
  /^https?:(?:(?!\/\/)|\/\/(?:[^/?#@]*@)?(?:\[[^\]]*\]|[^\s:[\]/?#@"<>\\^`{|}]*)(?::[0-9]*)?(?=[/?#]|$))/i;
/** One that can be fetched. */
const HTTP_URL = /^https?:\/\/[^/?#]/i;

const filled: Decoder<string> = (value, path, reporter) => {
  const decoded = string(value, path, reporter);
  if (decoded !== '') return decoded;
  reporter.report(path, 'badValue', 'an empty value is not allowed');
  return undefined;
};

const filledList = listOf(filled);

function isFetchable(uri: string): boolean {
  return HTTP_URL.test(uri) && URL.canParse(uri);
}

const jwksUri: Decoder<string> = (value, path, reporter) => {
  const decoded = filled(value, path, reporter);
  if (decoded === undefined) return undefined;
  if (decoded.length > MAX_URI) {
    reporter.report(path, 'badValue', `has ${decoded.length} characters; Istio takes at most ${MAX_URI}`);
  } else if (!HTTP_URI.test(decoded)) {
    reporter.report(path, 'badValue', `must be an http:// or https:// URL, not ${JSON.stringify(decoded)}`);
  } else if (!isFetchable(decoded)) {
    reporter.report(path, 'badValue', 'nothing can be fetched there: no token will pass', 'Warning');
  }
  return decoded;
};

const timeout: Decoder<number> = (value, path, reporter) => {
  const decoded = string(value, path, reporter);
  if (decoded === undefined) return undefined;
  const ms = parseWholeMilliseconds(decoded);
  if (ms !== null && ms >= 1 && ms <= MAX_TIMEOUT_MS) return ms;
  reporter.report(
    path,
    'badValue',
    `must be a duration such as 5s or 1m30s, whole milliseconds and at least one, not ${JSON.stringify(decoded)}`,
  );
  return undefined;
};

const headerLocationFields = object({ name: filled, prefix: string });

const headerLocation: Decoder<{ name: string; prefix: string }> = (value, path, reporter) => {
  const decoded = headerLocationFields(value, path, reporter);
  if (decoded === undefined) return undefined;
  if (decoded.name === undefined) {
    reportMissing(value, 'name', path, reporter);
    return undefined;
  }
  return { name: decoded.name.toLowerCase(), prefix: decoded.prefix ?? '' };
};

const claimHeader: Decoder<string> = (value, path, reporter) => {
  const decoded = filled(value, path, reporter);
  if (decoded === undefined || STRICT_HEADER_NAME.test(decoded)) return decoded?.toLowerCase();
  reporter.report(
    path,
    'badValue',
    `a header name has letters, digits, - and _ only, not ${JSON.stringify(decoded)}`,
  );
  return undefined;
};

const claimOutputFields = object({ header: claimHeader, claim: filled });

const claimOutput: Decoder<{ header: string; claim: string }> = (value, path, reporter) => {
  const decoded = claimOutputFields(value, path, reporter);
  if (decoded === undefined) return undefined;
  const { header, claim } = decoded;
  if (header === undefined) reportMissing(value, 'header', path, reporter);
  if (claim === undefined) reportMissing(value, 'claim', path, reporter);
  return header === undefined || claim === undefined ? undefined : { header, claim };
};

/** Reports a field that is not there; one that is there and wrong has been reported. */
function reportMissing(value: unknown, name: string, path: FieldPath, reporter: Reporter): void {
  if (typeof value === 'object' && value !== null && (value as Record<string, unknown>)[name] == null) {
    reporter.report([...path, name], 'missing', 'must be given');
  }
}

const payloadHeader: Decoder<string> = (value, path, reporter) => {
  const decoded = string(value, path, reporter);
  if (decoded === undefined || decoded === '' || HEADER_NAME.test(decoded)) return decoded?.toLowerCase();
  const message = `${JSON.stringify(decoded)} is no header name; the payload goes nowhere`;
  reporter.report(path, 'badValue', message, 'Warning');
  return '';
};

/** What a key of each type must have besides `kty`. */
const KEY_FIELDS: ReadonlyMap<unknown, readonly string[]> = new Map([
  ['RSA', ['n', 'e']],
  ['EC', ['crv', 'x', 'y']],
  ['OKP', ['crv', 'x']],
  ['oct', ['k']],
]);
const TEXT_FIELDS = ['kid', 'alg', 'use', 'crv'];
const BASE64_FIELDS = ['n', 'e', 'x', 'y', 'k', 'd'];
const BASE64 = /^[A-Za-z0-9_+/-]*={0,2}$/;

/** `jwks`: a key set, or one key, as Istio's webhook parses it. A key that verifies nothing public is a Warning. */
const jwks: Decoder<string> = (value, path, reporter) => {
  const text = string(value, path, reporter);
  if (text === undefined || text === '') return text;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    reporter.report(path, 'badValue', 'must be a JSON Web Key Set; this is no JSON');
    return undefined;
  }
  const keys = keysOf(parsed);
  if (keys === null) {
    reporter.report(path, 'badValue', 'must be a JSON Web Key Set: an object with a list `keys`');
    return undefined;
  }
  for (const [i, key] of keys.entries()) {
    const wrong = wrongKey(key);
    if (wrong !== null) reporter.report(path, 'badValue', `key ${i} ${wrong}`);
    else if (key.kty === 'oct' || key.d !== undefined) {
      const message = `key ${i} is a secret; tokens are verified by public keys, and who reads this policy can sign`;
      reporter.report(path, 'badValue', message, 'Warning');
    }
  }
  return text;
};

type Key = Readonly<Record<string, unknown>>;

function keysOf(parsed: unknown): readonly Key[] | null {
  if (!isObject(parsed)) return null;
  if (!('keys' in parsed)) return [parsed];
  return Array.isArray(parsed.keys) ? parsed.keys.map((key) => (isObject(key) ? key : {})) : null;
}

function wrongKey(key: Key): string | null {
  const needed = KEY_FIELDS.get(key.kty);
  if (needed === undefined) return `has no kty out of ${[...KEY_FIELDS.keys()].join(', ')}`;
  for (const name of needed) if (key[name] === undefined) return `lacks ${name}`;
  for (const name of TEXT_FIELDS) {
    if (key[name] !== undefined && typeof key[name] !== 'string') return `has a ${name} that is no string`;
  }
  for (const name of BASE64_FIELDS) {
    const part = key[name];
    if (part !== undefined && (typeof part !== 'string' || !BASE64.test(part))) {
      return `has a ${name} that is no base64url`;
    }
  }
  return null;
}

const fields = object({
  issuer: filled,
  audiences: filledList,
  jwksUri,
  jwks_uri: jwksUri,
  jwks,
  fromHeaders: listOf(headerLocation),
  fromParams: filledList,
  fromCookies: filledList,
  outputPayloadToHeader: payloadHeader,
  outputClaimToHeaders: listOf(claimOutput),
  forwardOriginalToken: boolean,
  timeout,
  spaceDelimitedClaims: boundedList(filled, MAX_SPACE_DELIMITED),
  presence: enumOf('OPTIONAL', 'REQUIRED'),
});

/** A rule by Istio's schema and `validateJwtRule`; undefined after at least one Error. */
export const jwtRule: Decoder<JwtRule> = (value, path, reporter) => {
  const before = reporter.problems.length;
  const decoded = fields(value, path, reporter);
  if (decoded === undefined || hasErrors(reporter, before)) return undefined;
  const sources = (['jwksUri', 'jwks_uri', 'jwks'] as const).filter((name) => decoded[name] !== undefined);
  const [, second] = sources;
  if (second !== undefined) {
    reporter.report([...path, second], 'badValue', `only one of ${sources.join(' and ')} can be set`);
  }
  const uri = decoded.jwksUri ?? decoded.jwks_uri ?? null;
  const inline = decoded.jwks === '' ? null : (decoded.jwks ?? null);
  const issuer = decoded.issuer ?? '';
  if (issuer === '' && uri === null) {
    reporter.report([...path, 'issuer'], 'missing', 'must be given, or jwksUri must be');
  } else if (uri === null && inline === null && !isFetchable(issuer)) {
    const message =
      'without jwks or jwksUri keys are discovered at the issuer, which is no URL: no token will pass';
    reporter.report([...path, 'issuer'], 'badValue', message, 'Warning');
  }
  return {
    issuer,
    audiences: decoded.audiences ?? [],
    required: decoded.presence === 'REQUIRED',
    jwks: inline,
    jwksUri: uri,
    fromHeaders: decoded.fromHeaders ?? [],
    fromParams: decoded.fromParams ?? [],
    fromCookies: decoded.fromCookies ?? [],
    outputPayloadToHeader: decoded.outputPayloadToHeader || null,
    outputClaimToHeaders: decoded.outputClaimToHeaders ?? [],
    forwardOriginalToken: decoded.forwardOriginalToken ?? false,
    spaceDelimitedClaims: decoded.spaceDelimitedClaims ?? [],
    timeout: decoded.timeout ?? DEFAULT_TIMEOUT_MS,
  };
};
