/** Verifies the tokens of one workload's requests, as Envoy's jwt_authn filter does with the configuration Istio gives it. */
import type {
  Claims,
  FieldChange,
  JwtRule,
  TokenRequest,
  TokenRules,
  TokenVerdict,
  TokenVerifier,
} from '../mesh/tokens.ts';
import type { JwksStore, KeySource } from './jwks.ts';
import { audienceKey, type Jwt, parseJwt, type TokenFault, timeFault, tokenFaults } from './jwt.ts';
import { signatureFault } from './key-set.ts';
import { TokenCache, type VerifiedToken } from './token-cache.ts';
import { type FoundToken, findTokens, type Locations, locationsOf, withoutParam } from './token-location.ts';
import { claimsForPolicy, outputFields } from './token-output.ts';

/** A rule made ready. */
interface Provider {
  readonly rule: JwtRule;
  readonly locations: Locations;
  /** Names of the header fields it sets. */
  readonly outputs: ReadonlySet<string>;
  readonly audiences: ReadonlySet<string>;
  readonly keys: KeySource;
}

/** What verifying found out so far in one request; a second look at it needs no second verification. */
interface Known {
  readonly jwts: Map<string, Jwt | TokenFault>;
  readonly signatures: Map<Provider, Map<string, TokenFault | VerifiedToken>>;
}

/** A signature has to be computed, or keys be fetched, before anything can be said. */
class Pending {
  readonly done: Promise<void>;
  constructor(done: Promise<void>) {
    this.done = done;
  }
}

type Outcome = 'ok' | TokenFault | Pending;

/** A request as the rules so far have left it: the next one looks for its tokens in this. */
class Changed implements TokenRequest {
  readonly method: string;
  readonly #request: TokenRequest;
  readonly #outputs: ReadonlySet<string>;
  claims: Claims | null = null;
  /** Null: as it came. */
  newPath: string | null = null;
  removed: readonly string[] = [];
  set: readonly FieldChange[] = [];

  /** @param outputs header fields dropped before anything else. */
  constructor(request: TokenRequest, outputs: ReadonlySet<string>) {
    this.method = request.method;
    this.#request = request;
    this.#outputs = outputs;
  }

  get path(): string {
    return this.newPath ?? this.#request.path;
  }

  headerValues(name: string): readonly string[] {
    const isDropped = this.#outputs.has(name) || this.removed.includes(name);
    if (!isDropped) return this.#request.headerValues(name);
    return this.set.filter((field) => field.name === name).map(({ value }) => value);
  }

  remove(token: FoundToken): void {
    if (token.kind === 'param') this.newPath = withoutParam(this.path, token.name);
    if (token.kind !== 'header') return; // A cookie stays: Envoy does not remove it.
    this.removed = [...this.removed, token.name];
    this.set = this.set.filter(({ name }) => name !== token.name);
  }
}

const NO_NAMES: ReadonlySet<string> = new Set();

/** Envoy's `MaximumUriLength` of a challenge's realm. */
const MAX_REALM_PATH = 256;

const NOTHING = { kind: 'passed', claims: null, remove: [], set: [], path: null } as const;

/**
 * A verifier of the rules that hold for a workload (RequestAuthentication). With several rules any one of them
 * may verify the request; a token that none verifies is refused, a missing one is not unless a rule is `required`
 * (Istio's `convertToEnvoyJwtConfig`). A request's headers and path are read until its verdict is there.
 * @param now milliseconds since the epoch.
 */
export function createTokenVerifier(
  rules: TokenRules,
  keys: JwksStore,
  now: () => number = Date.now,
): TokenVerifier {
  if (rules.rules.length === 0) return { verify: () => NOTHING };
  return new Verifier(rules.rules, keys, now);
}

class Verifier implements TokenVerifier {
  readonly #providers: readonly Provider[];
  readonly #anyRequired: boolean;
  readonly #now: () => number;
  readonly #cache = new TokenCache();
  /** Fields that only a verified token may set: what the downstream sent in them is dropped, always. */
  readonly #outputs: ReadonlySet<string>;
  readonly #noToken: TokenVerdict;

  constructor(rules: readonly JwtRule[], keys: JwksStore, now: () => number) {
    this.#providers = rules.map((rule) => ({
      rule,
      locations: locationsOf(rule),
      outputs: new Set(outputNames(rule)),
      audiences: new Set(rule.audiences.map(audienceKey)),
      keys: keys.source(rule),
    }));
    this.#anyRequired = rules.some((rule) => rule.required);
    this.#now = now;
    this.#outputs = new Set(rules.flatMap(outputNames));
    this.#noToken = { ...NOTHING, remove: [...this.#outputs] };
  }

  verify(request: TokenRequest): TokenVerdict | Promise<TokenVerdict> {
    // "The CORS preflight doesn't include user credentials, bypass regardless of JWT requirements."
    if (request.method === 'OPTIONS' && isPreflight(request)) return this.#noToken;
    const carriesToken = this.#providers.some(
      ({ locations }) => findTokens(request, locations, this.#outputs).length > 0,
    );
    if (!carriesToken) return this.#anyRequired ? refused('missing', request) : this.#noToken;
    const known: Known = { jwts: new Map(), signatures: new Map() };
    const verdict = this.#judge(request, known);
    return verdict instanceof Pending ? this.#settle(request, known, verdict) : verdict;
  }

  async #settle(request: TokenRequest, known: Known, first: Pending): Promise<TokenVerdict> {
    let verdict: TokenVerdict | Pending = first;
    // Each round knows one more signature than the one before.
    while (verdict instanceof Pending) {
      await verdict.done;
      verdict = this.#judge(request, known);
    }
    return verdict;
  }

  #judge(request: TokenRequest, known: Known): TokenVerdict | Pending {
    const changed = new Changed(request, this.#outputs);
    // A single rule is asked once: `requires_any` of "its token is good" and "is missing".
    const isOneByOne = this.#anyRequired || this.#providers.length === 1;
    const outcome = isOneByOne ? this.#requireAll(changed, known) : this.#requireAny(changed, known);
    if (outcome instanceof Pending) return outcome;
    if (outcome !== 'ok') return refused(outcome, request);
    const { claims, set, newPath } = changed;
    return { kind: 'passed', claims, remove: [...this.#outputs, ...changed.removed], set, path: newPath };
  }

  /** `requires_all`: every rule's tokens must be good, those of required rules be there. */
  #requireAll(changed: Changed, known: Known): Outcome {
    for (const provider of this.#providers) {
      const outcome = this.#verifyAll(provider, changed, known);
      if (outcome === 'ok' || (outcome === 'missing' && !provider.rule.required)) continue;
      return outcome;
    }
    return 'ok';
  }

  /** `requires_any` of each rule, and at last of "each rule's token is good or missing". */
  #requireAny(changed: Changed, known: Known): Outcome {
    let told: TokenFault = 'missing';
    const aggregate = (outcome: TokenFault): void => {
      // "Prefer errors which are not JwtMissed nor JwtUnknownIssuer."
      if ((outcome !== 'missing' && outcome !== 'unknownIssuer') || told === 'missing') told = outcome;
    };
    for (const provider of this.#providers) {
      const outcome = this.#verifyAll(provider, changed, known);
      if (outcome === 'ok' || outcome instanceof Pending) return outcome;
      aggregate(outcome);
    }
    const all = this.#requireAll(changed, known);
    if (all === 'ok' || all instanceof Pending) return all;
    aggregate(all);
    return told;
  }

  /**
   * One rule: "If a request has multiple tokens, all of them must be valid", the last found first, so that the
   * first one's claims remain.
   */
  #verifyAll(provider: Provider, changed: Changed, known: Known): Outcome {
    // A rule drops its own fields before it looks for tokens, whoever set them.
    changed.set = changed.set.filter(({ name }) => !provider.outputs.has(name));
    const tokens = findTokens(changed, provider.locations, NO_NAMES);
    if (tokens.length === 0) return 'missing';
    for (const token of tokens.toReversed()) {
      const outcome = this.#verifyOne(provider, token.token, known);
      if (outcome instanceof Pending || typeof outcome === 'string') return outcome;
      if (outcome.fields === null) return 'badOutput';
      changed.claims = outcome.claims;
      changed.set = [...changed.set, ...outcome.fields];
      if (!provider.rule.forwardOriginalToken) changed.remove(token);
    }
    return 'ok';
  }

  #verifyOne(provider: Provider, token: string, known: Known): VerifiedToken | TokenFault | Pending {
    const jwt = this.#cache.jwt(token) ?? known.jwts.get(token) ?? parseJwt(token);
    if (typeof jwt === 'string') return jwt;
    const { issuer } = provider.rule;
    if (issuer !== '' && jwt.issuer !== issuer) return 'unknownIssuer';
    const late = timeFault(jwt, this.#now());
    if (late !== null) {
      this.#cache.delete(token);
      return late;
    }
    if (!isAudience(jwt, provider.audiences)) return 'audience';
    const { current } = provider.keys;
    const verified = current === null ? null : this.#cache.verified(token, provider, current);
    if (verified !== null) return verified;
    const settled = known.signatures.get(provider)?.get(token);
    if (settled !== undefined) return settled;
    known.jwts.set(token, jwt);
    return new Pending(this.#verifySignature(provider, jwt, known));
  }

  async #verifySignature(provider: Provider, jwt: Jwt, known: Known): Promise<void> {
    const { keys, rule } = provider;
    if (keys.current === null) await (keys.waiting() ?? keys.refetch());
    let set = keys.current;
    let fault: TokenFault | null = set === null ? keys.fault : await signatureFault(jwt, set);
    // The issuer may have begun to sign with a key we do not have yet; without a `kid` any failure may mean that.
    if (set !== null && (fault === 'noKeyMatches' || (fault !== null && jwt.kid === ''))) {
      await keys.refetch();
      if (keys.current !== null && keys.current !== set) {
        set = keys.current;
        fault = await signatureFault(jwt, set);
      }
    }
    let settled: TokenFault | VerifiedToken;
    if (fault !== null || set === null) settled = fault ?? keys.fault;
    else {
      settled = { keySet: set, claims: claimsForPolicy(jwt.claims, rule), fields: outputFields(jwt, rule) };
      this.#cache.add(jwt, provider, settled);
    }
    const ofProvider = known.signatures.get(provider) ?? new Map<string, TokenFault | VerifiedToken>();
    known.signatures.set(provider, ofProvider.set(jwt.token, settled));
  }
}

function outputNames(rule: JwtRule): readonly string[] {
  const names = rule.outputClaimToHeaders.map(({ header }) => header);
  return rule.outputPayloadToHeader === null ? names : [rule.outputPayloadToHeader, ...names];
}

function isPreflight(request: TokenRequest): boolean {
  return isFilled(request, 'origin') && isFilled(request, 'access-control-request-method');
}

function isFilled(request: TokenRequest, name: string): boolean {
  return request.headerValues(name).some((value) => value !== '');
}

function isAudience(jwt: Jwt, allowed: ReadonlySet<string>): boolean {
  return allowed.size === 0 || jwt.audiences.some((audience) => allowed.has(audienceKey(audience)));
}

/** RFC 6750 §3, as Envoy words it. */
function refused(fault: TokenFault, request: TokenRequest): TokenVerdict {
  const host = request.headerValues('host')[0] ?? '';
  const isHttps = request.headerValues('x-forwarded-proto')[0]?.toLowerCase() === 'https';
  const realm = `${isHttps ? 'https' : 'http'}://${host}${request.path.slice(0, MAX_REALM_PATH)}`;
  return {
    kind: 'refused',
    status: fault === 'audience' ? 403 : 401,
    message: tokenFaults[fault],
    challenge: `Bearer realm="${realm}"${fault === 'missing' ? '' : ', error="invalid_token"'}`,
  };
}
