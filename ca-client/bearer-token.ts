/** The bearer token a CA is asked with: read anew for every request, and what it says of itself when it is refused. */
import { readFile } from 'node:fs/promises';
import { CredentialsError } from './source.ts';

const MAX_TOKEN_BYTES = 65_536;
/** The audience Istio's CA takes; its agent's projected token has it. */
const ISTIO_AUDIENCE = 'istio-ca';

/**
 * The token in a file, without the white space around it.
 * @throws CredentialsError naming the file; it never quotes what is in it.
 */
export async function readToken(file: string): Promise<string> {
  let token: string;
  try {
    token = (await readFile(file, 'utf8')).trim();
  } catch (error) {
    throw new CredentialsError(`the token for the CA cannot be read: ${(error as Error).message}`);
  }
  // checked here, for gRPC's error on an unfit header value would quote it
  if (token === '' || token.length > MAX_TOKEN_BYTES || !/^[!-~]+$/.test(token)) {
    throw new CredentialsError(
      `the token file ${file} ${token === '' ? 'is empty' : 'does not hold one bearer token'}`,
    );
  }
  return token;
}

/**
 * What to do about a token that a CA did not take, as far as the token itself tells (RFC 7519 §4.1: `exp`, `nbf`,
 * `aud`); its signature is the CA's care. Only times and audiences are quoted.
 * @param clusterId the name of a cluster that was sent with it; null: none was. @param now milliseconds since the epoch
 */
export function tokenAdvice(
  token: string,
  {
    file,
    clusterId,
    now,
  }: { readonly file: string; readonly clusterId: string | null; readonly now: number },
): string {
  const { exp, nbf, aud } = claimsOf(token);
  if (typeof exp === 'number' && exp * 1000 <= now) {
    return `the token in ${file} expired at ${iso(exp)} and it is ${iso(now / 1000)}: have it renewed`;
  }
  if (typeof nbf === 'number' && nbf * 1000 > now) {
    return `the token in ${file} is not valid before ${iso(nbf)} and it is ${iso(now / 1000)}: compare both clocks`;
  }
  const audiences = (Array.isArray(aud) ? aud : [aud]).filter((one) => typeof one === 'string');
  if (audiences.length > 0 && !audiences.includes(ISTIO_AUDIENCE)) {
    const shown = JSON.stringify(audiences.slice(0, 5).join(', ').slice(0, 200));
    return `the token in ${file} is for the audience ${shown}; Istio's CA takes ${ISTIO_AUDIENCE}`;
  }
  // istiod tells a cluster it does not know from a token it does not take in its own log only
  const cluster = clusterId === null ? '' : `, and that the CA knows a cluster ${JSON.stringify(clusterId)}`;
  return `check that ${file} holds a fresh token with the CA's audience${cluster}`;
}

function claimsOf(token: string): Record<string, unknown> {
  try {
    const claims: unknown = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8'));
    return typeof claims === 'object' && claims !== null ? { ...claims } : {};
  } catch {
    return {}; // not every token is a JWT
  }
}

function iso(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? `second ${seconds}` : date.toISOString();
}
