/** Runs a token case: the rules it names, the request it makes, and what the app would get. */
import type { Test } from 'tap';
import type { Problem } from '../../mesh/resource.ts';
import type { Json, TokenRequest, TokenRules, TokenVerdict } from '../../mesh/tokens.ts';
import { compileTokenRules, decodeRequestAuthentication } from '../../policy/request-authentication.ts';
import { resource } from '../policy/helper.ts';
import { named, rsa, ruleSets, type TokenCase } from './token-cases.ts';
import { keySet } from './token-mint.ts';

/** What came of a request, whoever answered it. */
export interface Outcome {
  readonly status: number;
  readonly body: string;
  readonly challenge: string | null;
  readonly path: string;
  /** What the app got of a header, by its name in lower case. */
  readonly headers: ReadonlyMap<string, readonly string[]>;
  readonly claims: { readonly [name: string]: Json } | null;
}

/** The compiled rules of a set; keys of a rule without issuer, which Istio takes from a URI only, are inline too. */
export function rulesOf(name: string): TokenRules {
  return compile([{ jwtRules: ruleSets[name] }], (rules) =>
    rules.map((rule) =>
      rule.issuer === '' ? { ...rule, jwksUri: null, jwks: keySet(named(rsa, 'a')) } : rule,
    ),
  );
}

/** The rules of policies in namespace foo, given by their specs. */
export function compile(
  specs: readonly unknown[],
  change: (rules: TokenRules['rules']) => TokenRules['rules'] = (rules) => rules,
): TokenRules {
  const policies = specs.map((spec, i) => {
    const problems: Problem[] = [];
    const one = resource({ kind: 'RequestAuthentication', name: `p${i}`, spec });
    const policy = decodeRequestAuthentication(one, problems);
    if (policy === null)
      throw new Error(problems.map(({ field, message }) => `${field}: ${message}`).join('; '));
    return policy;
  });
  const compiled = compileTokenRules(policies, { namespace: 'foo', labels: new Map() }, 'istio-system');
  return { ...compiled, rules: change(compiled.rules) };
}

export const HOST = 'app.foo';

export function request(
  parts: Pick<TokenCase, 'method' | 'path' | 'headers'>,
): TokenRequest & { headers: Map<string, string[]> } {
  const headers = new Map<string, string[]>([['host', [HOST]]]);
  for (const [name, value] of parts.headers ?? []) {
    const key = name.toLowerCase();
    headers.set(key, [...(headers.get(key) ?? []), value]);
  }
  return {
    method: parts.method ?? 'GET',
    path: parts.path ?? '/',
    headers,
    headerValues: (name) => headers.get(name) ?? [],
  };
}

/** What the app would get of a request after a verdict. */
export function applied(one: Pick<TokenCase, 'method' | 'path' | 'headers'>, verdict: TokenVerdict): Outcome {
  const { headers, path } = request(one);
  if (verdict.kind === 'refused') {
    const { status, message, challenge } = verdict;
    return { status, body: message, challenge, path, headers, claims: null };
  }
  for (const name of verdict.remove) headers.delete(name);
  for (const { name, value, append } of verdict.set) {
    headers.set(name, append ? [...(headers.get(name) ?? []), value] : [value]);
  }
  const { claims } = verdict;
  return { status: 200, body: '', challenge: null, path: verdict.path ?? path, headers, claims };
}

/** Holds an outcome against what a case expects. */
export function check(t: Test, one: TokenCase, outcome: Outcome): void {
  const { name, path = '/', body, fields = {}, claims } = one;
  t.equal(outcome.status, one.status, `${name}: status (${outcome.body})`);
  if (one.status === 200) {
    t.equal(outcome.path, one.pathAfter ?? path, `${name}: path`);
    if (claims !== undefined) t.strictSame(outcome.claims, withoutUndefined(claims), `${name}: claims`);
    for (const [field, values] of Object.entries(fields)) {
      t.strictSame(outcome.headers.get(field) ?? null, values, `${name}: ${field}`);
    }
  } else {
    t.equal(outcome.body, body, `${name}: body`);
    const error = body === 'Jwt is missing' ? '' : ', error="invalid_token"';
    t.equal(
      outcome.challenge,
      `Bearer realm="${one.scheme ?? 'http'}://${HOST}${path.slice(0, 256)}"${error}`,
      `${name}: challenge`,
    );
  }
}

function withoutUndefined(claims: TokenCase['claims']): unknown {
  return claims == null ? claims : JSON.parse(JSON.stringify(claims));
}
