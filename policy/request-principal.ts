/** `requestPrincipals` and `request.auth.principal`: a token's issuer and subject, `ISSUER/SUBJECT`. */
import type { Claims } from '../mesh/tokens.ts';

type Match = (text: string) => boolean;

/** A regular expression's `.+`, as Istio writes it: a line break is no character to it. */
const any: Match = (text) => text !== '' && !text.includes('\n');

const exact =
  (wanted: string): Match =>
  (text) =>
    text === wanted;
const prefix =
  (wanted: string): Match =>
  (text) =>
    text.startsWith(wanted);
const suffix =
  (wanted: string): Match =>
  (text) =>
    text.endsWith(wanted);

/**
 * Compiles values as Istio's `requestPrincipalGenerator` does: "split at the last `/`. Without a slash: `abc*` is
 * an issuer prefix, `*abc` a subject suffix, `abc` that issuer with an empty subject."
 */
export function compileRequestPrincipals(values: readonly string[]): (claims: Claims) => boolean {
  const pairs = values.map(pairOf);
  return ({ iss, sub }) => {
    if (typeof iss !== 'string' || typeof sub !== 'string') return false;
    for (const pair of pairs) if (pair.iss(iss) && pair.sub(sub)) return true;
    return false;
  };
}

function pairOf(value: string): { readonly iss: Match; readonly sub: Match } {
  const slash = value.lastIndexOf('/');
  const issuer = slash < 0 ? value : value.slice(0, slash);
  const subject = slash < 0 ? '' : value.slice(slash + 1);
  if (value === '*') return { iss: any, sub: any };
  if (value.startsWith('*')) {
    if (slash < 0) return { iss: any, sub: suffix(value.slice(1)) };
    return { iss: issuer === '*' ? any : suffix(issuer.slice(1)), sub: exact(subject) };
  }
  if (value.endsWith('*')) {
    if (slash < 0) return { iss: prefix(value.slice(0, -1)), sub: any };
    return { iss: exact(issuer), sub: subject === '*' ? any : prefix(subject.slice(0, -1)) };
  }
  return { iss: exact(issuer), sub: exact(subject) };
}

/** `ISSUER/SUBJECT` of a token; null where it lacks one of them. */
export function requestPrincipalKey({ iss, sub }: Claims): string | null {
  return typeof iss === 'string' && typeof sub === 'string' ? `${iss}/${sub}` : null;
}
