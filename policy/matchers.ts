/** Compiles a field's list of values to one test of a fact: strings, identities and ports. */
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
    // Istio writes this star as the regular expression `.+`, to which a line break is no character.
    return any && text !== '' && !text.includes('\n');
  };
}

/** The same without regard to the case of ASCII letters, for hosts. */
export function compileHosts(values: readonly string[]): (host: string) => boolean {
  const test = compileStrings(values.map(lowerAscii), 'present');
  return (host) => test(lowerAscii(host));
}

/**
 * Values as the bytes of an HTTP head are read, one character a byte: what a policy writes as `é` arrives as two.
 */
export function asOnTheWire(values: readonly string[]): readonly string[] {
  return values.map((value) => Buffer.from(value, 'utf8').toString('latin1'));
}

/** True for a value that matches itself alone: no star at either end. */
export function isExact(value: string): boolean {
  return !value.startsWith('*') && !value.endsWith('*');
}

/** Lower case of ASCII letters alone: Envoy compares bytes, and some other letters have ASCII lower cases. */
export function lowerAscii(text: string): string {
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

/**
 * Compiles service accounts, `NAME` or `NAMESPACE/NAME`. "A short name belongs to the policy's namespace; any trust
 * domain matches; further path segments are allowed": before `/sa/` and behind the name.
 */
export function compileServiceAccounts(
  values: readonly string[],
  policyNamespace: string,
): (peer: Identity | null) => boolean {
  const full = new Set<string>();
  const accounts: { readonly namespace: string; readonly name: string }[] = [];
  for (const value of values) {
    const slash = value.indexOf('/');
    const namespace = slash < 0 ? policyNamespace : value.slice(0, slash);
    const name = value.slice(slash + 1);
    full.add(`${namespace}/${name}`);
    accounts.push({ namespace, name });
  }
  return (peer) => {
    if (peer === null) return false;
    if (peer.namespace !== null && full.has(`${peer.namespace}/${peer.serviceAccount}`)) return true;
    return accounts.some(({ namespace, name }) => hasAccount(peer.principal, namespace, name));
  };
}

/** Istio's `.+/ns/NAMESPACE/(.+/|)sa/NAME(/.+)?`. A SPIFFE path has no empty segments. */
function hasAccount(principal: string, namespace: string, name: string): boolean {
  const scope = `/ns/${namespace}/`;
  const account = `/sa/${name}`;
  for (let at = principal.indexOf(scope, 1); at >= 0; at = principal.indexOf(scope, at + 1)) {
    // The slash that ends the namespace may be the one before `sa`.
    let found = principal.indexOf(account, at + scope.length - 1);
    while (found >= 0) {
      const end = found + account.length;
      if (end === principal.length || principal[end] === '/') return true;
      found = principal.indexOf(account, found + 1);
    }
  }
  return false;
}

/** Compiles trust domains, aliases already expanded: exact, `prefix*`, `*suffix` or `*`. */
export function compileTrustDomains(values: readonly string[]): (peer: Identity | null) => boolean {
  return (peer) => peer !== null && values.some((value) => hasTrustDomain(peer.principal, value));
}

/**
 * Istio asks for a prefix `VALUE/` of the principal, the star standing for anything but a slash. So a value with a
 * slash in it, which only `when` lets pass, reaches into the path.
 */
function hasTrustDomain(principal: string, value: string): boolean {
  if (value === '*') return true;
  if (value.endsWith('*')) {
    const head = value.slice(0, -1);
    return principal.startsWith(head) && principal.indexOf('/', head.length) >= 0;
  }
  if (!value.startsWith('*')) return principal.startsWith(`${value}/`);
  const tail = `${value.slice(1)}/`;
  const end = principal.indexOf('/');
  for (let at = 0; at <= end; at++) if (principal.startsWith(tail, at)) return true;
  return false;
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
