/** What RequestAuthentication asks of a workload's requests, and the interface of whoever verifies their tokens. */

/** A JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

/** The payload of a verified token. */
export type Claims = { readonly [name: string]: Json };

/** One of RequestAuthentication's `jwtRules`, checked. */
export interface JwtRule {
  /** Empty: any issuer, as long as a key of `jwksUri` verifies. */
  readonly issuer: string;
  /** Empty: any audience. */
  readonly audiences: readonly string[];
  /** `presence: REQUIRED`: a request without this rule's token is refused. */
  readonly required: boolean;
  /** Inline key set, JSON; never beside `jwksUri`. */
  readonly jwks: string | null;
  /** Where to fetch the key set; null with `jwks` null: OpenID discovery from the issuer. */
  readonly jwksUri: string | null;
  /** Where the token is, all three lists empty: `Authorization: Bearer` and the parameter `access_token`. Names in lower case. */
  readonly fromHeaders: readonly { readonly name: string; readonly prefix: string }[];
  readonly fromParams: readonly string[];
  readonly fromCookies: readonly string[];
  /** Header names of outputs are in lower case. */
  readonly outputPayloadToHeader: string | null;
  readonly outputClaimToHeaders: readonly { readonly header: string; readonly claim: string }[];
  readonly forwardOriginalToken: boolean;
  readonly spaceDelimitedClaims: readonly string[];
  /** Of one fetch, milliseconds. */
  readonly timeout: number;
}

/** The rules of every RequestAuthentication that selects a workload, in Istio's order. */
export interface TokenRules {
  /** `NS/NAME` of the RequestAuthentications, sorted. */
  readonly policies: readonly string[];
  /** Empty: tokens are ignored. */
  readonly rules: readonly JwtRule[];
}

/** What a verifier may read of a request. */
export interface TokenRequest {
  readonly method: string;
  /** Normalized target, query included. */
  readonly path: string;
  /** Every value of a header, in order; `name` in lower case. */
  headerValues(name: string): readonly string[];
}

/** A change of a request's header fields before it goes on. */
export interface FieldChange {
  readonly name: string;
  readonly value: string;
  /** True: beside the fields of that name; false: in their place. */
  readonly append: boolean;
}

/** What became of a request's token. */
export type TokenVerdict =
  | {
      readonly kind: 'passed';
      /** Null: there was no token, or nobody asks for one. */
      readonly claims: Claims | null;
      /** Names, lower case: every field of that name goes before `set` is applied. */
      readonly remove: readonly string[];
      readonly set: readonly FieldChange[];
      /** The target without its token, where it carried one that is not forwarded; else null. */
      readonly path: string | null;
    }
  | {
      readonly kind: 'refused';
      /** 401, or 403 for an audience that does not match. */
      readonly status: 401 | 403;
      /** Envoy's words, such as `Jwt is expired`: the answer's body. */
      readonly message: string;
      /** Value of `www-authenticate`; null for none. */
      readonly challenge: string | null;
    };

/** Verifies the tokens of one workload's requests. */
export interface TokenVerifier {
  /** Answers at once where nothing has to be computed or fetched: no token, or one verified a moment ago. */
  verify(request: TokenRequest): TokenVerdict | Promise<TokenVerdict>;
}
