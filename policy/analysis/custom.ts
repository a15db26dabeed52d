/** Checks of CUSTOM policies: who is asked, and where nobody can be. */
import { fewOf, finding, type Located } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import type { AuthorizationPolicy } from '../authorization-policy.ts';
import { enforced, type PolicyCheck, type PolicySet, portName, type Subject, subjectsOf } from './set.ts';

type Policy = Located<AuthorizationPolicy>;

const PROVIDER = ['spec', 'provider', 'name'];

function customPolicies(set: PolicySet): readonly Policy[] {
  return enforced(set).filter(({ item }) => item.action === 'CUSTOM');
}

/** A provider that mesh config does not define, or that cannot be used: what would ask it is denied. */
export const unknownProviders: PolicyCheck = (set) => {
  const { providers } = set;
  if (providers === null) return [];
  return customPolicies(set).flatMap(({ item, resource }) => {
    const provider = providers.get(item.provider);
    if (provider !== undefined && provider.fault === null) return [];
    const what =
      provider === undefined
        ? `mesh config's extensionProviders do not define ${item.provider}`
        : `provider ${item.provider} cannot be used: ${provider.fault}`;
    return [finding(resource, PROVIDER, 'unknownProvider', `${what}; what this policy matches is denied`)];
  });
};

/** "Two providers matching is DENY." */
export const severalProviders: PolicyCheck = (set) => {
  const asked = new Map<Subject, Policy[]>();
  for (const policy of customPolicies(set)) {
    for (const subject of subjectsOf(set, policy.item)) {
      const list = asked.get(subject) ?? [];
      asked.set(subject, list);
      list.push(policy);
    }
  }
  const clashes = new Map<Policy, { readonly others: Set<string>; readonly names: string[] }>();
  for (const [subject, policies] of asked) {
    const names = new Set(policies.map(({ item }) => item.provider));
    if (names.size < 2) continue;
    for (const policy of policies) {
      const clash = clashes.get(policy) ?? { others: new Set(), names: [] };
      clashes.set(policy, clash);
      for (const name of names) if (name !== policy.item.provider) clash.others.add(name);
      clash.names.push(subject.name);
    }
  }
  return [...clashes].map(([{ resource }, { others, names }]) =>
    finding(
      resource,
      PROVIDER,
      'twoProviders',
      `${fewOf(names)} would ask ${fewOf([...others])} too: with several providers on a workload, what their ` +
        'policies match is denied; keep one',
    ),
  );
};

/** "On TCP only `envoyExtAuthzGrpc` providers count." */
export const providersOnTcp: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of customPolicies(set)) {
    if (set.providers?.get(item.provider)?.protocol !== 'http') continue;
    for (const subject of subjectsOf(set, item)) {
      const tcp = [...subject.ports].find(([, protocol]) => protocol === 'tcp');
      if (tcp === undefined) continue;
      const message =
        `${item.provider} is asked by HTTP, which ${portName(tcp[0])} of ${subject.name} does not carry: nobody is ` +
        'asked on TCP ports; use envoyExtAuthzGrpc';
      problems.push(finding(resource, PROVIDER, 'providerNotForTcp', message));
      break;
    }
  }
  return problems;
};
