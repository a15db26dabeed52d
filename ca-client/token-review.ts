/** Asks the Kubernetes API whose token it is: a pod's projected service account token (TokenReview). */
import { decodeJwt, type JWTPayload } from 'jose';
import { accountOf, type ServiceAccount, TOKEN_AUDIENCE, TokenError } from './ca-token.ts';
import { type KubernetesApi, refusalOf } from './kubernetes-api.ts';

/** The token may be good: the API server could not be asked, or not now. */
export class ReviewUnavailableError extends Error {
  override name = 'ReviewUnavailableError';
}

/**
 * Says whose token it is.
 * @param peer HOST:PORT of whoever sent it
 * @throws TokenError where it is nobody's; it never quotes the token
 * @throws ReviewUnavailableError where nobody can tell now
 */
export type TokenReview = (token: string, peer: string) => Promise<ServiceAccount>;

const PATH = '/apis/authentication.k8s.io/v1/tokenreviews';
/** Reviews at once: strangers must not make us flood the API server. Others wait for their turn. */
const MAX_REVIEWS = 32;
const MAX_WAITING = 1_024;
/** Of one address, under way or waiting: a pod has one token, and forged ones must not use up everybody's turns. */
const MAX_OF_ONE_PEER = 4;
/** Clocks of a cluster may differ so much. */
const SKEW_MS = 60_000;
/** Every service account's groups (Kubernetes, "Authenticating"). */
const GROUP = 'system:serviceaccounts';

/** Reviews tokens of the audience `istio-ca`; what cannot be one is not asked about. */
export function tokenReview(api: KubernetesApi, now: () => number = Date.now): TokenReview {
  const turns = new Turns();
  return async (token, peer) => {
    checkShape(token, now());
    const end = await turns.take(peer.slice(0, peer.lastIndexOf(':')));
    try {
      return await review(api, token);
    } finally {
      end();
    }
  };
}

/** Who may ask the API server, and who comes next. */
class Turns {
  readonly #ofPeer = new Map<string, number>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  /** Waits for a turn. @returns what ends it. @throws ReviewUnavailableError where this peer has its share */
  async take(peer: string): Promise<() => void> {
    const own = this.#ofPeer.get(peer) ?? 0;
    if (own >= MAX_OF_ONE_PEER || this.#waiting.length >= MAX_WAITING) {
      throw new ReviewUnavailableError('too many tokens are being checked; ask again');
    }
    this.#ofPeer.set(peer, own + 1);
    if (this.#running < MAX_REVIEWS) this.#running++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return () => this.#end(peer);
  }

  #end(peer: string): void {
    const left = (this.#ofPeer.get(peer) ?? 1) - 1;
    if (left === 0) this.#ofPeer.delete(peer);
    else this.#ofPeer.set(peer, left);
    const next = this.#waiting.shift();
    if (next === undefined) this.#running--;
    else next();
  }
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
function checkShape(token: string, now: number): void {
  const { aud, exp, sub } = claimsOf(token);
  if (aud !== TOKEN_AUDIENCE && !(Array.isArray(aud) && aud.includes(TOKEN_AUDIENCE))) {
    throw new TokenError(`the token is not for the audience ${TOKEN_AUDIENCE}`);
  }
  if (accountOf(sub ?? '') === null) throw new TokenError("the token is no service account's");
  // Kubernetes signs none for istio-ca that does not expire.
  if (exp === undefined || exp * 1_000 < now - SKEW_MS) throw new TokenError('the token has expired');
}

function claimsOf(token: string): JWTPayload {
  try {
    return decodeJwt(token);
  } catch {
    throw new TokenError('the token is not a signed JWT');
  }
}
