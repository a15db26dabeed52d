/** A JSON Web Token taken apart and checked for all but its signature, in the order and the words of Envoy's jwt_authn. */
import type { Claims, Json } from '../mesh/tokens.ts';
import { type JsonObject, parseObject } from './strict-json.ts';

/** What a token's check can end with, and Envoy's words for it. */
export const tokenFaults = {
  missing: 'Jwt is missing',
  unknownIssuer: 'Jwt issuer is not configured',
  badFormat: 'Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections',
  headerBase64: 'Jwt header is an invalid Base64url encoded',
  headerJson: 'Jwt header is an invalid JSON',
  headerAlg: 'Jwt header [alg] field is required and must be a string',
  unsupportedAlg: 'Jwt header [alg] is not supported',
  headerKid: 'Jwt header [kid] field is not a string',
  payloadBase64: 'Jwt payload is an invalid Base64url encoded',
  payloadJson: 'Jwt payload is an invalid JSON',
  iss: 'Jwt payload [iss] field is not a string',
  sub: 'Jwt payload [sub] field is not a string',
  jti: 'Jwt payload [jti] field is not a string',
  iatType: 'Jwt payload [iat] field is not an integer',
  nbfType: 'Jwt payload [nbf] field is not an integer',
  expType: 'Jwt payload [exp] field is not an integer',
  iatRange: 'Jwt payload [iat] field is not a positive 64 bit integer',
  nbfRange: 'Jwt payload [nbf] field is not a positive 64 bit integer',
  expRange: 'Jwt payload [exp] field is not a positive 64 bit integer',
  aud: 'Jwt payload [aud] field is not a string or string list',
  signatureBase64: 'Jwt signature is an invalid Base64url encoded',
  notYetValid: 'Jwt not yet valid',
  expired: 'Jwt is expired',
  audience: 'Audiences in Jwt are not allowed',
  noKeyMatches: "Jwks doesn't have key to match kid or alg from Jwt",
  badSignature: 'Jwt verification fails',
  edSignatureLength: 'Jwt ED25519 signature is wrong length',
  noKeys: "Jwks doesn't have any valid public key",
  fetchFailed: 'Jwks remote fetch is failed',
  /** Ours: Envoy answers 503 here. */
  badOutput: 'Jwt claim cannot be a header value',
} as const;

export type TokenFault = keyof typeof tokenFaults;

/** A well-formed token; nobody has verified it yet. */
export interface Jwt {
  readonly token: string;
  /** The token's second section as it stands. */
  readonly payloadPart: string;
  readonly alg: string;
  /** Empty: none. */
  readonly kid: string;
  readonly signatureBytes: number;
  readonly claims: Claims;
  /** Empty: none. */
  readonly issuer: string;
  readonly audiences: readonly string[];
  /** Seconds since the epoch; 0: none. */
  readonly notBefore: number;
  readonly expires: number;
}

const ALGORITHMS = new Set(
  'ES256 ES384 ES512 HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 EdDSA'.split(' '),
);

/** "Default is 60 seconds." Envoy's `clock_skew_seconds`, which Istio leaves alone. */
const CLOCK_SKEW_SECONDS = 60;

/** Takes a token apart; its fault where it is none. RFC 7519 §7.2, steps 1 to 10. */
export function parseJwt(token: string): Jwt | TokenFault {
  const [headerPart = '', payloadPart = '', signaturePart = '', ...rest] = token.split('.');
  if (headerPart === '' || payloadPart === '' || signaturePart === '' || rest.length > 0) return 'badFormat';

  const headerBytes = decodeBase64url(headerPart);
  if (headerBytes === null) return 'headerBase64';
  const header = parseObject(headerBytes);
  if (header === null) return 'headerJson';
  const alg = own(header, 'alg');
  if (typeof alg !== 'string') return 'headerAlg';
  if (!ALGORITHMS.has(alg)) return 'unsupportedAlg';
  const kid = own(header, 'kid') ?? (Object.hasOwn(header, 'kid') ? null : '');
  if (typeof kid !== 'string') return 'headerKid';

  const payloadBytes = decodeBase64url(payloadPart);
  if (payloadBytes === null) return 'payloadBase64';
  const claims = parseObject(payloadBytes);
  if (claims === null) return 'payloadJson';
  for (const name of ['iss', 'sub'] as const) if (!isText(own(claims, name))) return name;
  for (const name of ['iat', 'nbf', 'exp'] as const) {
    const wrong = wrongTime(own(claims, name));
    if (wrong !== null) return `${name}${wrong}`;
  }
  if (!isText(own(claims, 'jti'))) return 'jti';
  const audiences = audiencesOf(own(claims, 'aud'));
  if (audiences === null) return 'aud';

  const signature = decodeBase64url(signaturePart);
  if (signature === null) return 'signatureBase64';
  return {
    token,
    payloadPart,
    alg,
    kid,
    signatureBytes: signature.length,
    claims,
    issuer: (own(claims, 'iss') as string | undefined) ?? '',
    audiences,
    notBefore: Math.trunc(Number(own(claims, 'nbf') ?? 0)),
    expires: Math.trunc(Number(own(claims, 'exp') ?? 0)),
  };
}

/** @param now milliseconds since the epoch. */
export function timeFault(jwt: Jwt, now: number): TokenFault | null {
  const seconds = Math.floor(now / 1_000);
  if (seconds + CLOCK_SKEW_SECONDS < jwt.notBefore) return 'notYetValid';
  if (jwt.expires !== 0 && seconds > jwt.expires + CLOCK_SKEW_SECONDS) return 'expired';
  return null;
}

/**
 * An audience as Envoy compares it: "https://", "http://" and a slash at the end make no difference, so that a
 * service's name and its URL are the same audience.
 */
export function audienceKey(audience: string): string {
  const bare = audience.replace(/^https?:\/\//, '');
  return bare.endsWith('/') ? bare.slice(0, -1) : bare;
}

/** Strict base64url; white space is skipped and padding refused where it is not whole, as Envoy does. */
function decodeBase64url(part: string): Buffer | null {
  const text = part.replace(/[\t\n\v\f\r ]/g, '');
  const bare = text.length % 4 === 0 ? text.replace(/={1,2}$/, '') : text;
  if (!/^[A-Za-z0-9_-]*$/.test(bare) || bare.length % 4 === 1) return null;
  return Buffer.from(bare, 'base64url');
}

function own(object: JsonObject, name: string): Json | undefined {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

function isText(value: Json | undefined): boolean {
  return value === undefined || typeof value === 'string';
}

function wrongTime(value: Json | undefined): 'Type' | 'Range' | null {
  if (value === undefined) return null;
  if (typeof value !== 'number') return 'Type';
  return value >= 0 && value < 2 ** 64 ? null : 'Range';
}

function audiencesOf(value: Json | undefined): readonly string[] | null {
  if (value === undefined) return [];
  if (typeof value === 'string') return [value];
  if (!Array.isArray(value)) return null;
  return value.every((item) => typeof item === 'string') ? value : null;
}
