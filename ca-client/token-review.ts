/** Asks the Kubernetes API whose token it is: a pod's projected service account token (TokenReview). */
import { decodeJwt } from 'jose';
import { accountOf, type ServiceAccount, TOKEN_AUDIENCE, TokenError } from './ca-token.ts';
import { type KubernetesApi, refusalOf } from './kubernetes-api.ts';

/** The token may be good: the API server could not be asked, or not now. */
export class ReviewUnavailableError extends Error {
  override name = 'ReviewUnavailableError';
}

/**
 * Says whose token it is.
 * @throws TokenError where it is nobody's; it never quotes the token
 * @throws ReviewUnavailableError where nobody can tell now
 */
export type TokenReview = (token: string) => Promise<ServiceAccount>;

const PATH = '/apis/authentication.k8s.io/v1/tokenreviews';
/** Reviews at once: strangers must not make us flood the API server. */
const MAX_REVIEWS = 32;
/** Every service account's groups (Kubernetes, "Authenticating"). */
const GROUP = 'system:serviceaccounts';

/** Reviews tokens of the audience `istio-ca`; what cannot be one is not asked about. */
export function tokenReview(api: KubernetesApi): TokenReview {
  let running = 0;
  return async (token) => {
    checkShape(token);
    if (running >= MAX_REVIEWS)
      throw new ReviewUnavailableError('too many tokens are being checked; ask again');
    running++;
    try {
      return await review(api, token);
    } finally {
      running--;
    }
  };
}

async function review(api: KubernetesApi, token: string): Promise<ServiceAccount> {
  const spec = { token, audiences: [TOKEN_AUDIENCE] };
  const answer = await api
    .ask('POST', PATH, { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview', spec })
    .catch((error: Error) => {
      throw new ReviewUnavailableError(`the Kubernetes API does not answer: ${error.message}`);
    });
  if (answer.status !== 200 && answer.status !== 201) {
    throw new ReviewUnavailableError(`the Kubernetes API checks no token for us: ${refusalOf(answer)}`);
  }
  const { authenticated, audiences, user } = (answer.body.status ?? {}) as ReviewStatus;
  if (authenticated !== true) throw new TokenError('the token is not one of this cluster, or has expired');
  // An API server that knows no audiences answers without: the token may be anybody's then.
  if (!Array.isArray(audiences) || !audiences.includes(TOKEN_AUDIENCE)) {
    throw new TokenError(`the token is not for the audience ${TOKEN_AUDIENCE}`);
  }
  const groups = Array.isArray(user?.groups) ? user.groups : [];
  const account = accountOf(typeof user?.username === 'string' ? user.username : '');
  if (account === null || !groups.includes(GROUP)) throw new TokenError("the token is no service account's");
  return account;
}

interface ReviewStatus {
  readonly authenticated?: unknown;
  readonly audiences?: unknown;
  readonly user?: { readonly username?: unknown; readonly groups?: unknown } | undefined;
}

/** Unverified: only what is refused here is believed. */
function checkShape(token: string): void {
  let aud: unknown;
  try {
    ({ aud } = decodeJwt(token));
  } catch {
    throw new TokenError('the token is not a signed JWT');
  }
  if (aud !== TOKEN_AUDIENCE && !(Array.isArray(aud) && aud.includes(TOKEN_AUDIENCE))) {
    throw new TokenError(`the token is not for the audience ${TOKEN_AUDIENCE}`);
  }
}
