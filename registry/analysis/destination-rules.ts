/** Checks of DestinationRules: hosts, subsets and ports that nobody has, and rules that are not reached. */
import {
  fewOf,
  finding,
  type Located,
  labelText,
  resourceName,
  unmatchedSelector,
} from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import type { DestinationRule } from '../destination-rule.ts';
import { byAge, isCoveredBy, isWildcard } from '../hosts.ts';
import { endpointsOn, portsOf, type RegistryCheck, servicesOf } from './set.ts';
import { portSettingPath } from './tls.ts';

/** As `istioctl analyze` tells of hosts that match no service (IST0174). */
export const ruleHosts: RegistryCheck = (set) =>
  set.destinationRules
    .filter(({ item }) => servicesOf(set, item.host).length === 0)
    .map(({ item, resource }) => {
      const message = `nothing defines the host ${item.host}: the rule holds for no connection`;
      return finding(resource, ['spec', 'host'], 'unknownHost', message);
    });

/** As `istioctl analyze` tells of subsets that select no pod (IST0173). */
export const subsets: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of set.destinationRules) {
    const services = item.subsets.length === 0 ? [] : servicesOf(set, item.host);
    if (services.length === 0) continue;
    const workloads = new Set(endpointsOn(set, services).flatMap(({ endpoint }) => endpoint.workload ?? []));
    item.subsets.forEach(({ name, labels }, i) => {
      if ([...workloads].some((workload) => selects(labels, workload.labels))) return;
      const path = ['spec', 'subsets', i, 'labels'];
      if (workloads.size === 0 && set.workloads.length === 0) {
        problems.push(unmatchedSelector(resource, path, labels, item.host, false));
        return;
      }
      const message = `subset ${name} has no endpoint: none of ${item.host} has the labels ${labelText(labels)}`;
      problems.push(finding(resource, path, 'emptySubset', message));
    });
  }
  return problems;
};

/** `portLevelSettings` are keyed by the service's port. */
export const settingPorts: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of set.destinationRules) {
    const services = servicesOf(set, item.host);
    if (services.length === 0) continue;
    const known = new Set(services.flatMap(portsOf));
    const policies = [
      { policy: item.trafficPolicy, path: ['spec', 'trafficPolicy'] },
      ...item.subsets.map(({ trafficPolicy }, i) => ({
        policy: trafficPolicy,
        path: ['spec', 'subsets', i, 'trafficPolicy'],
      })),
    ];
    for (const { policy, path } of policies) {
      for (const number of policy?.ports.keys() ?? []) {
        if (known.has(number)) continue;
        const message = `${item.host} has no port ${number} (it has ${[...known].join(', ')}): the setting never holds`;
        problems.push(
          finding(resource, portSettingPath(resource, path, number), 'portNotOfService', message),
        );
      }
    }
  }
  return problems;
};

/**
 * Rules of one host, namespace and selector count as one: "the traffic policy of the first, and of subsets of one
 * name the first".
 */
export const duplicateRules: RegistryCheck = (set) => {
  const sorted = [...set.destinationRules].sort((a, b) => byAge(a.item, b.item));
  const groups = Map.groupBy(sorted, ({ item }) =>
    [item.namespace, item.host, labelText(item.workloadSelector ?? new Map()), item.exportTo.join()].join(
      ' ',
    ),
  );
  return [...groups.values()].flatMap(lost);
};

function lost(rules: readonly Located<DestinationRule>[]): readonly Problem[] {
  const problems: Problem[] = [];
  const taken = new Map<string, Located<DestinationRule>>();
  for (const located of rules) {
    const { item, resource } = located;
    const parts = [
      ...(item.trafficPolicy === null
        ? []
        : [{ key: '', what: 'trafficPolicy', path: ['spec', 'trafficPolicy'] }]),
      ...item.subsets.map(({ name }, i) => ({
        key: `subset ${name}`,
        what: `subset ${name}`,
        path: ['spec', 'subsets', i],
      })),
    ];
    for (const { key, what, path } of parts) {
      const before = taken.get(key);
      if (before === undefined) {
        taken.set(key, located);
        continue;
      }
      if (before === located) continue;
      const message = `${what} has no effect: ${resourceName(before.resource)} sets it for ${item.host} already and comes first; keep one`;
      problems.push(finding(resource, path, 'scopeConflict', message));
    }
  }
  return problems;
}

/** "A wildcard host in the client's namespace beats an exact one in the service's." */
export const hiddenRules: RegistryCheck = (set) => {
  const { rootNamespace } = set.mesh;
  const exact = set.destinationRules.filter(({ item }) => !isWildcard(item.host));
  const hosts = new Set(exact.map(({ item }) => `${item.namespace} ${item.host}`));
  return set.destinationRules.flatMap(({ item, resource }) => {
    if (!isWildcard(item.host) || item.namespace === rootNamespace) return [];
    const hidden = exact.filter(
      ({ item: { namespace, host } }) =>
        namespace !== item.namespace &&
        isCoveredBy(host, item.host) &&
        !hosts.has(`${item.namespace} ${host}`) &&
        servicesOf(set, host).some((service) => service.namespace === namespace),
    );
    if (hidden.length === 0) return [];
    const names = fewOf(hidden.map((one) => resourceName(one.resource)));
    const message = `clients of namespace ${item.namespace} go by this rule, not by ${names}: their own namespace is looked at first`;
    return [finding(resource, ['spec', 'host'], 'hidesRule', message)];
  });
};
