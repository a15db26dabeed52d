/** The embedded CA's bearer tokens: who holds one gets certificates of the service account it names. */

import type { webcrypto } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeJwt, errors, type JWTPayload, jwtVerify, SignJWT } from 'jose';
import { createOnce, readIfThere, SECRET } from './file-store.ts';
import { newKeys, privateKeyPem, readKeys } from './keys.ts';

export interface ServiceAccount {
  readonly namespace: string;
  readonly serviceAccount: string;
}

/** The token is refused; one sentence for its sender. */
export class TokenError extends Error {
  override name = 'TokenError';
}

const ISSUER = 'oarlock-ca';
/** Istio's audience, so that one setting serves both CAs. */
export const TOKEN_AUDIENCE = 'istio-ca';
/** As Kubernetes writes it; names by RFC 1123, as its API server demands of namespaces and service accounts. */
const SUBJECT =
  /^system:serviceaccount:([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?):([a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?)$/;

/** The key a CA folder's tokens are signed with; made at first use, mode 0600. Not the root's. */
export async function openTokenKey(dir: string): Promise<webcrypto.CryptoKeyPair> {
  const file = join(dir, 'token-key.pem');
  await mkdir(dir, { recursive: true });
  const text =
    (await readIfThere(file)) ?? (await createOnce(file, await privateKeyPem(await newKeys()), SECRET));
  return readKeys(text, file);
}

/** @returns as a token names it. @throws TokenError where namespace or account is no name Kubernetes would take */
export function subjectOf({ namespace, serviceAccount }: ServiceAccount): string {
  const subject = `system:serviceaccount:${namespace}:${serviceAccount}`;
  if (SUBJECT.test(subject)) return subject;
  throw new TokenError(
    `${namespace}/${serviceAccount} is no service account: names are lower-case letters, digits and dashes`,
  );
}

/**
 * A token (JWT, ES256) for a service account, good for `ttlMs` from `now` (milliseconds since the epoch).
 * @throws TokenError where namespace or account is no name Kubernetes would take.
 */
export async function signToken(
  keys: webcrypto.CryptoKeyPair,
  account: ServiceAccount,
  ttlMs: number,
  now: number,
): Promise<string> {
  const subject = subjectOf(account);
  return new SignJWT()
    .setProtectedHeader({ alg: 'ES256', typ: 'JWT' })
    .setIssuer(ISSUER)
    .setAudience(TOKEN_AUDIENCE)
    .setSubject(subject)
    .setIssuedAt(Math.floor(now / 1000))
    .setExpirationTime(Math.ceil((now + ttlMs) / 1000))
    .sign(keys.privateKey);
}

/**
 * Whose token this is. Signature, algorithm, issuer, audience, expiry and the subject's form are checked; `now` is
 * milliseconds since the epoch.
 * @throws TokenError saying which of them failed, never quoting the token.
 */
export async function verifyToken(
  keys: webcrypto.CryptoKeyPair,
  token: string,
  now: number,
): Promise<ServiceAccount> {
  let payload: JWTPayload;
  try {
    const expected = { issuer: ISSUER, audience: TOKEN_AUDIENCE, requiredClaims: ['exp', 'sub'] };
    const options = { ...expected, algorithms: ['ES256'], currentDate: new Date(now) };
    ({ payload } = await jwtVerify(token, keys.publicKey, options));
  } catch (error) {
    throw new TokenError(refusal(error));
  }
  const account = accountOf(payload.sub ?? '');
  if (account !== null) return account;
  throw new TokenError('the token names no service account: its subject must be system:serviceaccount:NS:SA');
}

/** `system:serviceaccount:NS:SA` taken apart; null: it is none. */
export function accountOf(subject: string): ServiceAccount | null {
  const [, namespace, serviceAccount] = SUBJECT.exec(subject) ?? [];
  return namespace === undefined || serviceAccount === undefined ? null : { namespace, serviceAccount };
}

/** Whether the token says that this CA signed it. Unverified: it only tells who is to check it. */
export function claimsOurs(token: string): boolean {
  try {
    return decodeJwt(token).iss === ISSUER;
  } catch {
    return true;
  }
}

function refusal(error: unknown): string {
  if (error instanceof errors.JWTExpired) return 'the token has expired';
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'the token was not signed by this CA';
  if (error instanceof errors.JOSEAlgNotAllowed) return 'the token is not signed with ES256';
  if (error instanceof errors.JWTClaimValidationFailed) {
    return `the token's claim ${error.claim} is ${error.reason === 'missing' ? 'missing' : 'not what this CA issues'}`;
  }
  return 'the token is not a signed JWT';
}
