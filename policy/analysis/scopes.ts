/** Checks of what policies hold for: selectors that match nobody, ports nobody has, policies that are not enforced. */
import { finding, type Located, unmatchedSelector } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { annotationPath, DRY_RUN } from '../webhook.ts';
import { listsOf } from './fields.ts';
import { wrongPort } from './peer-authentications.ts';
import { type PolicyCheck, type PolicySet, subjectsOf } from './set.ts';

interface Selecting {
  readonly namespace: string;
  readonly matchLabels: ReadonlyMap<string, string>;
}

/** As `istioctl analyze` tells of policies whose labels no pod has (IST0127). */
export const selectors: PolicyCheck = (set) => {
  // A selector in the root namespace is told by a check of its own.
  const peers = set.peerAuthentications.filter(({ item }) => item.namespace !== set.mesh.rootNamespace);
  const policies = set.authorizationPolicies.filter(({ item }) => item.targets.length === 0);
  const requests = set.requestAuthentications.filter(({ item }) => item.targets.length === 0);
  return [...peers, ...policies, ...requests].flatMap((policy) => selectorOf(set, policy));
};

function selectorOf(set: PolicySet, { item, resource }: Located<Selecting>): readonly Problem[] {
  if (subjectsOf(set, item).some(({ known }) => known)) return [];
  const { namespace, matchLabels } = item;
  const everywhere = namespace === set.mesh.rootNamespace;
  if (matchLabels.size > 0) {
    const scope = everywhere ? 'any namespace' : `namespace ${namespace}`;
    return [unmatchedSelector(resource, ['spec', 'selector'], matchLabels, scope, set.knowsWorkloads)];
  }
  if (everywhere || !set.knowsWorkloads) return [];
  const message = `no known workload is in namespace ${namespace}: the policy holds for nobody`;
  return [finding(resource, ['metadata', 'namespace'], 'emptyNamespace', message)];
}

/** `ports` are the workload's, not the service's. */
export const policyPorts: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of set.authorizationPolicies) {
    if (item.targets.length > 0) continue;
    const lists = item.rules.flatMap((rule, i) => listsOf(rule, i)).filter(({ topic }) => topic === 'ports');
    if (lists.length === 0) continue;
    const subjects = subjectsOf(set, item).filter(({ ports }) => ports.size > 0);
    for (const list of lists) {
      list.values.forEach((value, i) => {
        const wrong = wrongPort(subjects, Number(value));
        if (wrong !== null) problems.push(finding(resource, [...list.path, i], ...wrong));
      });
    }
  }
  return problems;
};

/** Policies that are valid and change nothing at a sidecar. */
export const notEnforced: PolicyCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of [...set.authorizationPolicies, ...set.requestAuthentications]) {
    if (item.targets.length === 0) continue;
    const field = Object.hasOwn(resource.spec as object, 'targetRefs') ? 'targetRefs' : 'targetRef';
    const message = `${field} attaches the policy to gateways and waypoints: no sidecar enforces it; use selector`;
    problems.push(finding(resource, ['spec', field], 'forGateways', message));
  }
  for (const { item, resource } of set.authorizationPolicies) {
    if (!item.dryRun) continue;
    const message = 'the policy is only tried (dry-run): it is reported and never enforced';
    problems.push(finding(resource, annotationPath(DRY_RUN), 'dryRun', message));
  }
  return problems;
};
