/** Tokens verified a moment ago, so that the same one costs no second signature: bounded in number and size. */
import type { Claims, FieldChange } from '../mesh/tokens.ts';
import type { Jwt } from './jwt.ts';
import type { KeySet } from './key-set.ts';

/** What one rule made of a good token. */
export interface VerifiedToken {
  /** The set that verified it: with another one in force this counts no more. */
  readonly keySet: KeySet;
  readonly claims: Claims;
  /** Null: a claim cannot be written as a header field. */
  readonly fields: readonly FieldChange[] | null;
}

interface Entry {
  readonly jwt: Jwt;
  /** By rule. */
  readonly verified: Map<object, VerifiedToken>;
}

const MAX_TOKENS = 1_000;
/** Longer ones are verified each time: with the number above this bounds the memory at some 20 MiB. */
const MAX_TOKEN_LENGTH = 8_192;

/** Least recently used goes first. Only good tokens come in, so nobody without one can push others out. */
export class TokenCache {
  readonly #entries = new Map<string, Entry>();

  /** A token already taken apart; undefined where it is not known. */
  jwt(token: string): Jwt | undefined {
    return this.#entries.get(token)?.jwt;
  }

  /** What a rule made of a token under this key set; null where that is not known. */
  verified(token: string, rule: object, keySet: KeySet): VerifiedToken | null {
    const entry = this.#entries.get(token);
    const verified = entry?.verified.get(rule);
    if (entry === undefined || verified?.keySet !== keySet) return null;
    this.#entries.delete(token);
    this.#entries.set(token, entry);
    return verified;
  }

  add(jwt: Jwt, rule: object, verified: VerifiedToken): void {
    if (jwt.token.length > MAX_TOKEN_LENGTH) return;
    const entry = this.#entries.get(jwt.token) ?? { jwt, verified: new Map() };
    entry.verified.set(rule, verified);
    this.#entries.set(jwt.token, entry);
    if (this.#entries.size <= MAX_TOKENS) return;
    for (const oldest of this.#entries.keys()) {
      this.#entries.delete(oldest);
      return;
    }
  }

  delete(token: string): void {
    this.#entries.delete(token);
  }
}
