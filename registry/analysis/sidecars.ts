/** Checks of Sidecars: two for one workload, and egress hosts or ports that nobody has. */
import { fewOf, finding, type Located, resourceName } from '../../mesh/analysis.ts';
import type { Problem } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import { byAge, isWildcard } from '../hosts.ts';
import type { Sidecar } from '../sidecar.ts';
import { portsOf, type RegistryCheck, servicesOf } from './set.ts';

/** "The oldest of each": of two without selector in a namespace, of two that select a workload (IST0110, IST0111). */
export const sidecarConflicts: RegistryCheck = (set) => {
  const sorted = [...set.sidecars].sort((a, b) => byAge(a.item, b.item));
  const problems: Problem[] = [];
  const workloads = Map.groupBy(set.workloads, ({ namespace }) => namespace);
  for (const [namespace, sidecars] of Map.groupBy(sorted, ({ item }) => item.namespace)) {
    const [first, ...others] = sidecars.filter(({ item }) => item.workloadSelector === null);
    for (const { resource } of others) {
      if (first === undefined) continue;
      const message = `has no effect: ${resourceName(first.resource)} has no workloadSelector either and comes first; keep one`;
      problems.push(finding(resource, ['metadata', 'name'], 'scopeConflict', message));
    }
    const selecting = sidecars.filter(({ item }) => item.workloadSelector !== null);
    const lost = new Map<Located<Sidecar>, { readonly winner: Located<Sidecar>; readonly names: string[] }>();
    if (selecting.length < 2) continue;
    for (const workload of workloads.get(namespace) ?? []) {
      const [winner, ...losers] = selecting.filter(({ item }) =>
        selects(item.workloadSelector ?? new Map(), workload.labels),
      );
      for (const loser of losers) {
        if (winner === undefined) continue;
        const known = lost.get(loser) ?? { winner, names: [] };
        lost.set(loser, known);
        known.names.push(workload.name);
      }
    }
    for (const [{ resource }, { winner, names }] of lost) {
      const message = `has no effect on ${fewOf(names)}: ${resourceName(winner.resource)} selects it too and comes first; keep one`;
      problems.push(finding(resource, ['spec', 'workloadSelector'], 'workloadConflict', message));
    }
  }
  return problems;
};

/** Egress hosts that no service has, and listeners on ports that a service does not have. */
export const egressHosts: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of set.sidecars) {
    item.egress.forEach((entry, i) => {
      entry.hosts.forEach(({ excluded, namespace, host }, j) => {
        if (excluded || isWildcard(host)) return;
        const wanted = namespace === '.' ? item.namespace : namespace;
        const services = servicesOf(set, host).filter((one) => wanted === '*' || one.namespace === wanted);
        const path = ['spec', 'egress', i, 'hosts', j];
        if (services.length === 0) {
          const where = wanted === '*' ? '' : ` in namespace ${wanted}`;
          problems.push(finding(resource, path, 'unknownHost', `nothing defines the host ${host}${where}`));
        } else if (entry.port !== null && !services.some((one) => portsOf(one).includes(entry.port ?? 0))) {
          const known = services.flatMap(portsOf).join(', ');
          const message = `${host} has no port ${entry.port} (it has ${known}), so the listener reaches nothing`;
          problems.push(finding(resource, path, 'portNotOfService', message));
        }
      });
    });
  }
  return problems;
};
