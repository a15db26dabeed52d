/** Trust-domain aliases: which principals a principal in a policy stands for. */

/** Stands for the local trust domain in policies, whatever that is. */
const LOCAL = 'cluster.local';

/**
 * Expands the principals of a policy over the trust domain and its aliases, as Istio's
 * `ReplaceTrustDomainAliases` does.
 *
 * "Trust-domain aliases apply only to five-part principals. In a principal `cluster.local` stands for the local
 * trust domain and its aliases: with trust domain `td1`, a peer that literally is `cluster.local/…` no longer
 * matches."
 * @param principals as written: exact, `prefix*`, `*suffix` or `*`.
 * @param trustDomains the local trust domain first, then its aliases.
 */
export function expandPrincipals(principals: readonly string[], trustDomains: readonly string[]): string[] {
  const expanded: string[] = [];
  for (const principal of principals) {
    const parts = principal.split('/');
    const trustDomain = parts[0] ?? '';
    if (parts.length !== 5 || trustDomain === '*') {
      expanded.push(principal);
    } else if (trustDomain === LOCAL || trustDomains.some((ours) => overlaps(trustDomain, ours))) {
      const rest = principal.slice(trustDomain.length);
      for (const ours of trustDomains) {
        // A pattern such as `*-td` that already covers one of ours stays as it is for that one.
        const one = matchesSuffix(ours, trustDomain) ? principal : ours + rest;
        if (!expanded.includes(one)) expanded.push(one);
      }
    } else {
      expanded.push(principal);
    }
  }
  return expanded;
}

/**
 * Expands `trustDomains`, as Istio's `ExpandTrustDomainAliases` does: one of ours stands for all of ours; there is
 * no `cluster.local` that points to them.
 */
export function expandTrustDomains(values: readonly string[], trustDomains: readonly string[]): string[] {
  return [...new Set(values.flatMap((value) => (trustDomains.includes(value) ? trustDomains : [value])))];
}

/** Either may be a pattern: `book*` or `*-td`. */
function overlaps(a: string, b: string): boolean {
  return (
    a === b ||
    b === '*' ||
    matchesPrefix(a, b) ||
    matchesPrefix(b, a) ||
    matchesSuffix(a, b) ||
    matchesSuffix(b, a)
  );
}

function matchesPrefix(text: string, pattern: string): boolean {
  return pattern.endsWith('*') && text.startsWith(pattern.slice(0, -1));
}

function matchesSuffix(text: string, pattern: string): boolean {
  return pattern.startsWith('*') && text.endsWith(pattern.slice(1));
}
