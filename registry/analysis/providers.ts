/** Checks that the services of mesh config's external authorization providers are there. */
import { finding } from '../../mesh/analysis.ts';
import type { ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { FieldPath, Problem, Resource } from '../../mesh/resource.ts';
import { partsOfService } from '../extension-providers.ts';
import { portsOf, type RegistryCheck, rawAt, servicesOf } from './set.ts';

/** A provider whose service nobody defines cannot be asked: what its policies match is denied. */
export const providerServices: RegistryCheck = (set) => {
  const { resource } = set.meshConfig;
  // A set of policies alone names no service at all.
  if (resource === null || set.registry.services.size === 0) return [];
  const problems: Problem[] = [];
  for (const provider of set.providers?.values() ?? []) {
    if (provider.fault !== null) continue;
    const { namespace, host } = partsOfService(provider.service);
    const services = servicesOf(set, host.toLowerCase()).filter(
      (one) => namespace === null || one.namespace === namespace,
    );
    const path = pathOf(resource, provider);
    if (services.length === 0) {
      const message = `nothing defines ${provider.service}: provider ${provider.name} cannot be asked`;
      problems.push(finding(resource, [...path, 'service'], 'unknownHost', message));
    } else if (!services.some((one) => portsOf(one).includes(provider.port))) {
      const known = services.flatMap(portsOf).join(', ');
      const message = `${provider.service} has no port ${provider.port} (it has ${known}): provider ${provider.name} cannot be asked`;
      problems.push(finding(resource, [...path, 'port'], 'portNotOfService', message));
    }
  }
  return problems;
};

function pathOf(meshConfig: Resource, { name, protocol }: ExtAuthzProvider): FieldPath {
  const list = rawAt(meshConfig, ['extensionProviders']);
  const index = Array.isArray(list)
    ? list.findIndex((item: { name?: unknown } | null) => item?.name === name)
    : -1;
  const path = ['extensionProviders'];
  return index < 0 ? path : [...path, index, protocol === 'http' ? 'envoyExtAuthzHttp' : 'envoyExtAuthzGrpc'];
}
