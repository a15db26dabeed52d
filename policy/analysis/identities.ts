/** Checks of the identities that AuthorizationPolicies name: values that no workload can have, or none has. */
import { finding } from '../../mesh/analysis.ts';
import { identityOf } from '../../mesh/identity.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { AuthorizationPolicy } from '../authorization-policy.ts';
import { compileNamespaces, compilePrincipals, compileServiceAccounts } from '../matchers.ts';
import { expandPrincipals } from '../trust-domain.ts';
import { listsOf, type ValueList } from './fields.ts';
import type { PolicyCheck, PolicySet } from './set.ts';

/** Stands for the local trust domain in principals. */
const LOCAL = 'cluster.local';

type Report = (list: ValueList, value: number, ...what: Wrong) => void;
type Wrong = [check: Parameters<typeof finding>[2], message: string];

function eachList(
  set: PolicySet,
  look: (list: ValueList, policy: AuthorizationPolicy, report: Report) => void,
): readonly Problem[] {
  const problems: Problem[] = [];
  for (const { item, resource } of set.authorizationPolicies) {
    const report: Report = (list, value, check, message) =>
      problems.push(finding(resource, [...list.path, value], check, message));
    item.rules.forEach((rule, i) => {
      for (const list of listsOf(rule, i)) look(list, item, report);
    });
  }
  return problems;
}

/** Principals that no certificate can carry. */
export const principalForms: PolicyCheck = (set) =>
  eachList(set, (list, _policy, report) => {
    if (list.topic !== 'principals') return;
    list.values.forEach((value, i) => {
      const wrong = wrongPrincipal(value);
      if (wrong !== null) report(list, i, ...wrong);
    });
  });

function wrongPrincipal(value: string): Wrong | null {
  if (value.startsWith('spiffe://')) {
    const right = value.slice('spiffe://'.length);
    return ['principalScheme', `never matches: a principal goes without spiffe://; write ${right}`];
  }
  // A star counts first or last; what is left between the ends is compared letter by letter.
  if (value.slice(1, -1).includes('*')) {
    return ['malformedPrincipal', `${value} never matches: a star counts only at one end`];
  }
  if (value.startsWith('*') || value.endsWith('*')) return null;
  const parts = value.split('/');
  if (parts.length === 5 && parts[1] === 'ns' && parts[3] === 'sa' && !parts.includes('')) return null;
  if (parts.length > 5) return null;
  const form = 'TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT';
  return ['malformedPrincipal', `${value} is no service account's identity; those are ${form}`];
}

/** Trust domains that are neither ours nor an alias, and none that `caCertificates` has roots for. */
export const trustDomains: PolicyCheck = (set) => {
  const { trustDomain, trustDomainAliases, caCertificates } = set.mesh;
  const ours = [trustDomain, ...trustDomainAliases];
  const trusted = [...ours, ...caCertificates.flatMap((roots) => roots.trustDomains)];
  return eachList(set, (list, _policy, report) => {
    if (list.topic !== 'principals' && list.topic !== 'trustDomains') return;
    list.values.forEach((value, i) => {
      const named = list.topic === 'trustDomains' ? value : trustDomainOf(value);
      // In `trustDomains` nothing points to the local one: `cluster.local` is only itself there.
      const pointer = list.topic === 'principals' && named === LOCAL;
      if (named === null || pointer || trusted.some((one) => covers(named, one))) return;
      report(
        list,
        i,
        'unknownTrustDomain',
        `${named} is not a trust domain of this mesh (${trusted.join(', ')}), so no peer has that identity; correct it, ` +
          'or list it in trustDomainAliases, or in caCertificates with its own roots',
      );
    });
  });
};

/** The trust domain of a principal; null where a star leaves it open. */
function trustDomainOf(principal: string): string | null {
  const value = principal.startsWith('spiffe://') ? principal.slice('spiffe://'.length) : principal;
  const slash = value.indexOf('/');
  if (value.startsWith('*') || slash < 1) return null;
  return value.slice(0, slash);
}

function covers(pattern: string, text: string): boolean {
  if (pattern.startsWith('*')) return text.endsWith(pattern.slice(1));
  if (pattern.endsWith('*')) return text.startsWith(pattern.slice(0, -1));
  return pattern === text;
}

/** Namespaces and accounts of this mesh that no known workload has. */
export const unknownIdentities: PolicyCheck = (set) => {
  if (!set.knowsWorkloads) return [];
  const { trustDomain, trustDomainAliases } = set.mesh;
  const ours = [trustDomain, ...trustDomainAliases];
  const known = new Map(
    [...set.subjects.values()].flat().flatMap(({ known: isKnown, namespace, serviceAccount }) => {
      if (!isKnown) return [];
      const account = serviceAccount === '' ? 'default' : serviceAccount;
      return ours.map((domain) => {
        const identity = identityOf(domain, namespace, account);
        return [identity.uri, identity] as const;
      });
    }),
  );
  const peers = [...known.values()];
  const namespaces = new Set(peers.map(({ namespace }) => namespace ?? ''));
  const memory = new Map<string, boolean>();
  const unknown = (kind: string, value: string, test: () => boolean): boolean => {
    const key = `${kind} ${value}`;
    const before = memory.get(key);
    if (before !== undefined) return before;
    const answer = test();
    memory.set(key, answer);
    return answer;
  };
  return eachList(set, (list, policy, report) => {
    list.values.forEach((value, i) => {
      if (list.topic === 'namespaces') {
        const none = unknown('namespace', value, () => {
          if (namespaces.has(value)) return false;
          const test = compileNamespaces([value]);
          return !peers.some(test);
        });
        if (none) report(list, i, 'unknownNamespace', `no known workload is in namespace ${value}`);
      } else if (list.topic === 'principals') {
        if (wrongPrincipal(value) !== null) return;
        const domain = trustDomainOf(value);
        if (domain !== null && domain !== LOCAL && !ours.some((one) => covers(domain, one))) return;
        const expanded = expandPrincipals([value], ours);
        if (expanded.some((one) => known.has(`spiffe://${one}`))) return;
        const none = unknown('principal', value, () => {
          const test = compilePrincipals(expanded);
          return !peers.some(test);
        });
        if (none) report(list, i, 'unknownPrincipal', `no known workload has the identity ${value}`);
      } else if (list.topic === 'serviceAccounts') {
        const full = value.includes('/') ? value : `${policy.namespace}/${value}`;
        const none = unknown('account', full, () => {
          const test = compileServiceAccounts([full], policy.namespace);
          return !peers.some(test);
        });
        if (none) report(list, i, 'unknownPrincipal', `no known workload has the service account ${full}`);
      }
    });
  });
};
