/** Host names as Istio compares them: exact, wildcard, most specific first, oldest first. */

import { identityOf } from '../mesh/identity.ts';
import { compareText } from '../mesh/text.ts';

/** What orders resources of one kind: Istio's sortConfigByCreationTime. */
export interface Aged {
  readonly name: string;
  readonly namespace: string;
  /** Milliseconds since the epoch; null where the document has none, which Go reads as the year 1. */
  readonly createdAt: number | null;
}

/** Oldest first; ties and missing timestamps by name, then namespace. */
export function byAge(a: Aged, b: Aged): number {
  return (
    (a.createdAt ?? Number.NEGATIVE_INFINITY) - (b.createdAt ?? Number.NEGATIVE_INFINITY) ||
    compareText(a.name, b.name) ||
    compareText(a.namespace, b.namespace)
  );
}

export function isWildcard(host: string): boolean {
  return host.startsWith('*');
}

/**
 * Whether `host` (itself perhaps a wildcard) is covered by `pattern`: Istio's host.Name.SubsetOf.
 * Both in lower case. `*.foo.com` covers `a.foo.com` and `*.b.foo.com`, not `foo.com`.
 */
export function isCoveredBy(host: string, pattern: string): boolean {
  if (!isWildcard(pattern)) return host === pattern;
  if (!isWildcard(host)) return host.endsWith(pattern.slice(1));
  return host.length >= pattern.length && host.slice(1).endsWith(pattern.slice(1));
}

/**
 * The most specific of `patterns` that covers `host`: exact first, then the longest wildcard
 * (Istio: MostSpecificHostMatch). All in lower case.
 */
export function mostSpecific(host: string, patterns: Iterable<string>): string | null {
  let best: string | null = null;
  for (const pattern of patterns) {
    if (pattern === host) return pattern;
    if (!isWildcard(pattern)) continue;
    const needle = isWildcard(host) ? host.slice(1) : host;
    if (!needle.endsWith(pattern.slice(1))) continue;
    if (best === null || pattern.length > best.length) best = pattern;
  }
  return best;
}

/** A short name in a resource belongs to its namespace (Istio: ResolveShortnameToFQDN). */
export function fullHost(host: string, namespace: string): string {
  return host.includes('.') || isWildcard(host) ? host : `${host}.${namespace}.svc.cluster.local`;
}

/** `orders` of `orders.shop.svc.cluster.local`; any other host is its own name. */
export function shortName(host: string): string {
  return /^([^.]+)\.[^.]+\.svc\./.exec(host)?.[1] ?? host;
}

/**
 * Adds the same identities in each alias of the trust domain, sorted
 * (Istio: spiffe.ExpandWithTrustDomains; what is no `spiffe://td/ns/…/sa/…` stays as it is).
 */
export function withAliases(identities: Iterable<string>, aliases: readonly string[]): readonly string[] {
  const all = new Set(identities);
  for (const uri of [...all]) {
    const parts = /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(uri);
    if (parts === null) continue;
    for (const alias of aliases) all.add(identityOf(alias, parts[1] ?? '', parts[2] ?? '').uri);
  }
  return [...all].sort(compareText);
}
