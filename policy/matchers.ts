/** Compiles a field's list of values to one test of a fact: strings, namespaces and ports. */
import type { Identity } from '../mesh/identity.ts';

/** What `*` asks of a string: to be there at all, or to have at least one character. */
export type Presence = 'present' | 'nonEmpty';

/**
 * Compiles values to a test that holds where any of them matches. Istio's four forms, and no others: "exact,
 * `prefix*`, `*suffix`, `*` (present)"; a star anywhere else is an ordinary character. Upper and lower case
 * differ.
 */
export function compileStrings(values: readonly string[], presence: Presence): (text: string) => boolean {
  const exact = new Set<string>();
  const prefixes: string[] = [];
  const suffixes: string[] = [];
  let any = false;
  for (const value of values) {
    // The order is Istio's: `*` first, then the suffix form, so that `*a*` ends with `a*`.
    if (value === '*') any = true;
    else if (value.startsWith('*')) suffixes.push(value.slice(1));
    else if (value.endsWith('*')) prefixes.push(value.slice(0, -1));
    else exact.add(value);
  }
  if (any && presence === 'present') return () => true;
  return (text) => {
    if (exact.has(text)) return true;
    for (const prefix of prefixes) if (text.startsWith(prefix)) return true;
    for (const suffix of suffixes) if (text.endsWith(suffix)) return true;
    return any && text !== '';
  };
}

/** The same without regard to the case of ASCII letters, for hosts. */
export function compileHosts(values: readonly string[]): (host: string) => boolean {
  const test = compileStrings(values.map(lowerAscii), 'present');
  return (host) => test(lowerAscii(host));
}

/** Lower case of ASCII letters alone: Envoy compares bytes, and some other letters have ASCII lower cases. */
function lowerAscii(text: string): string {
  return /[A-Z]/.test(text) ? text.replace(/[A-Z]+/g, (upper) => upper.toLowerCase()) : text;
}

/** Compiles port numbers, which validation has checked. */
export function compilePorts(values: readonly string[]): (port: number) => boolean {
  const ports = new Set(values.map(Number));
  return (port) => ports.has(port);
}

/** Compiles principals, aliases already expanded. Plaintext has none, so not even `*` matches it. */
export function compilePrincipals(values: readonly string[]): (peer: Identity | null) => boolean {
  const test = compileStrings(values, 'nonEmpty');
  return (peer) => peer !== null && test(peer.principal);
}

/**
 * Compiles namespaces. Istio looks for `/ns/NAMESPACE/` anywhere in the peer's URI, a star in the value standing
 * for any characters: so an identity of more than five parts has a namespace too, and one without `/ns/` none.
 */
export function compileNamespaces(values: readonly string[]): (peer: Identity | null) => boolean {
  const exact = new Set<string>();
  const patterns: string[][] = [];
  for (const value of values) {
    exact.add(value);
    patterns.push(`/ns/${value}/`.split('*'));
  }
  return (peer) => {
    if (peer === null) return false;
    // Istio's own form of identity, the common case, is answered by the set: where it holds, so would the search.
    if (peer.namespace !== null && exact.has(peer.namespace)) return true;
    for (const pieces of patterns) if (containsInOrder(peer.uri, pieces)) return true;
    return false;
  };
}

/** True where `text` has all pieces, one behind the other. The first place of each is as good as any. */
function containsInOrder(text: string, pieces: readonly string[]): boolean {
  let from = 0;
  for (const piece of pieces) {
    const at = text.indexOf(piece, from);
    if (at < 0) return false;
    from = at + piece.length;
  }
  return true;
}
