/** Checks whom clients expect at the other end of mutual TLS. */
import { finding } from '../../mesh/analysis.ts';
import type { Problem, Resource } from '../../mesh/resource.ts';
import { routeTo } from '../route.ts';
import { allServices, portsOf, type RegistryCheck } from './set.ts';

/**
 * "An empty list means any in Istio: we say so in a warning." Looked at as a client of the service's own namespace
 * would, once a service.
 */
export const anyIdentity: RegistryCheck = (set) => {
  const { registry, rules, mesh } = set;
  const entries = new Map(set.serviceEntries.map(({ item, resource }) => [item, resource]));
  const destinationRules = new Map(
    set.destinationRules.map(({ item, resource }) => [`${item.namespace}/${item.name}`, resource]),
  );
  const problems: Problem[] = [];
  for (const service of allServices(set)) {
    const client = { namespace: service.namespace, labels: new Map<string, string>() };
    const context = {
      registry,
      rules,
      client,
      mesh,
      autoMtls: set.meshConfig.enableAutoMtls,
      defaultExportTo: [],
      imports: () => true,
      modeOf: (namespace: string, labels: ReadonlyMap<string, string>, port: number) =>
        set.modeOf({ namespace, labels }, port).mode,
    };
    const routes = portsOf(service).map((port) => routeTo(context, service, port));
    const open = routes.find(
      (route) =>
        route?.tls.mode === 'ISTIO_MUTUAL' &&
        route.endpoints.some((endpoint) => endpoint.tls === 'ISTIO_MUTUAL' && endpoint.tunnel === null) &&
        route.tls.expectedIdentities.length === 0,
    );
    if (open === undefined || open === null) continue;
    const rule = destinationRules.get(open.tls.source ?? '');
    const [first] = service.entries;
    const resource: Resource | undefined = rule ?? (first === undefined ? undefined : entries.get(first));
    if (resource === undefined) continue;
    const path = rule === undefined ? ['spec'] : ['spec', 'trafficPolicy'];
    const message =
      `${service.host}: no endpoint has a service account and no subjectAltNames are given, so any identity of the ` +
      'mesh may answer in its place; name the accounts, or subjectAltNames';
    problems.push(finding(resource, path, 'anyIdentity', message));
  }
  return problems;
};
