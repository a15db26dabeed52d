/** The tokens of `authz check`: verified by the data path's verifier, without fetching any key. */
import type { JwtRule, TokenRules, TokenVerdict } from '../mesh/tokens.ts';
import { JwksStore } from '../providers/jwks.ts';
import { tokenFaults } from '../providers/jwt.ts';
import { claimsForPolicy } from '../providers/token-output.ts';
import { createTokenVerifier } from '../providers/tokens.ts';
import { badChange, changeFields, removeFields } from '../proxy/http/change-fields.ts';
import { isTarget, type RequestHead } from '../proxy/http/head.ts';

/** Why a token was not taken. */
export interface TokenRefusal {
  readonly status: 401 | 403;
  readonly message: string;
}

export interface CheckTokens {
  /**
   * Verifies what tokens a request carries and leaves its claims and changed fields in it; claims given directly
   * stand in for a token. @returns null where it may go on
   */
  judge(request: RequestHead): TokenRefusal | null | Promise<TokenRefusal | null>;
}

const NO_FETCH = 'this command fetches no keys: give the RequestAuthentication its jwks inline';

/** Makes the judge of the tokens of one workload's requests. */
export function checkTokens(tokens: TokenRules): CheckTokens {
  const verifier = createTokenVerifier(tokens, new JwksStore({ fetch: null }));
  return {
    judge(request) {
      if (request.claims !== null) {
        request.claims = claimsForPolicy(request.claims, ruleOf(tokens.rules, request.claims.iss));
        return null;
      }
      const verdict = verifier.verify(request);
      return verdict instanceof Promise
        ? verdict.then((late) => apply(request, late))
        : apply(request, verdict);
    },
  };
}

const NO_RULE = { spaceDelimitedClaims: [] };

function ruleOf(rules: readonly JwtRule[], issuer: unknown): Pick<JwtRule, 'spaceDelimitedClaims'> {
  return rules.find((rule) => rule.issuer === '' || rule.issuer === issuer) ?? NO_RULE;
}

function apply(request: RequestHead, verdict: TokenVerdict): TokenRefusal | null {
  if (verdict.kind === 'refused') {
    const { status, message } = verdict;
    return { status, message: message === tokenFaults.fetchFailed ? `${message}; ${NO_FETCH}` : message };
  }
  const { claims, remove, set, path } = verdict;
  // As the data path: what could not be sent on is no verified request.
  if (badChange(set) !== null || (path !== null && !isTarget(path))) {
    return { status: 401, message: tokenFaults.badSignature };
  }
  request.fields = changeFields(removeFields(request.fields, remove), set);
  request.path = path ?? request.path;
  request.claims = claims;
  return null;
}
