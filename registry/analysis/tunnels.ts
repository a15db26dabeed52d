/** Checks of HBONE: workloads that ask for tunnels in a way nobody follows, and rules that turn tunnels off. */
import { fewOf, finding, type Located } from '../../mesh/analysis.ts';
import type { FieldPath, Problem, Resource } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import type { Workload } from '../../mesh/workload.ts';
import { isUnixAddress } from '../checks.ts';
import { allowsTunnel, HTTP_TUNNEL, TUNNEL_LABEL, takesHbone } from '../hbone.ts';
import { endpointsOn, isTunnelled, type RegistryCheck, type RegistrySet, servicesOf } from './set.ts';
import { settingsOf } from './tls.ts';

/** A label that no tunnel is made by. */
export const tunnelLabels: RegistryCheck = (set) =>
  labelled(set).flatMap(({ item, resource, path }) => {
    const value = item.labels.get(TUNNEL_LABEL);
    if (value === undefined) return [];
    if (!takesHbone(item)) {
      const message = `${JSON.stringify(value)} asks for no tunnel that is known: HBONE is ${HTTP_TUNNEL}`;
      return [finding(resource, path, 'tunnelLabel', message)];
    }
    const socket = item.addresses.find(isUnixAddress);
    if (socket === undefined) return [];
    const message = `${socket} is a socket path, which a tunnel cannot lead to: it is reached without`;
    return [finding(resource, path, 'tunnelLabel', message)];
  });

/** The port named `hbone` of a WorkloadEntry whose label asks for no tunnel, or that is its app's, too. */
export const tunnelPorts: RegistryCheck = (set) =>
  set.workloadEntries.flatMap(({ item, resource }) => {
    const port = item.hbonePort;
    if (port === undefined) return [];
    const path = ['spec', 'ports', 'hbone'];
    const problems: Problem[] = [];
    // Another value has been told of.
    if (!item.labels.has(TUNNEL_LABEL)) {
      const message =
        `no client dials port ${port}: HBONE is spoken to workloads with the label ${TUNNEL_LABEL}: ${HTTP_TUNNEL}; ` +
        'add it, or remove the port';
      problems.push(finding(resource, path, 'tunnelPortUnused', message));
    }
    const [name] = [...item.ports].find(([, number]) => number === port) ?? [];
    if (name !== undefined) {
      const message = `port ${port} is that of ${name} as well: tunnels need one of their own`;
      problems.push(finding(resource, path, 'tunnelPortShared', message));
    }
    return problems;
  });

/** Rules by which clients do without the tunnel that a workload asks for. */
export const tunnelsOff: RegistryCheck = (set) =>
  set.destinationRules.flatMap((located) => {
    const settings = settingsOf(located).filter(({ tls }) => !allowsTunnel(tls));
    const endpoints = settings.length === 0 ? [] : endpointsOn(set, servicesOf(set, located.item.host));
    return settings.flatMap((setting): Problem[] => {
      const { mode } = setting.tls;
      const names = new Set<string>();
      for (const { service, port, endpoint } of endpoints) {
        const { workload } = endpoint;
        if (workload === null || !setting.holdsOn(port) || !isTunnelled(service, endpoint)) continue;
        if (setting.subset !== null && !selects(setting.subset, workload.labels)) continue;
        // Plaintext, and TLS of another kind, to such a port fail, and are told as failing.
        if (mode !== 'MUTUAL' && set.modeOf(workload, endpoint.port).mode === 'STRICT') continue;
        names.add(`${workload.namespace}/${workload.name}`);
      }
      if (names.size === 0) return [];
      const message =
        `${mode} turns off the HBONE tunnel to ${fewOf([...names])}, whose label ${TUNNEL_LABEL} asks for one: ` +
        'use ISTIO_MUTUAL, or leave tls out';
      return [finding(located.resource, [...setting.path, 'mode'], 'tunnelOff', message)];
    });
  });

/** The workloads of the set and where the label of each stands. */
function labelled(
  set: RegistrySet,
): readonly { readonly item: Workload; readonly resource: Resource; readonly path: FieldPath }[] {
  const metadata: FieldPath = ['metadata', 'labels', TUNNEL_LABEL];
  const place = ({ item, resource }: Located<Workload>) => ({
    item,
    resource,
    path: resource.labels.has(TUNNEL_LABEL) ? metadata : ['spec', 'labels', TUNNEL_LABEL],
  });
  const inline = set.serviceEntries.flatMap(({ item: { endpoints }, resource }) =>
    endpoints.map((item, i) => ({ item, resource, path: ['spec', 'endpoints', i, 'labels', TUNNEL_LABEL] })),
  );
  return [...[...set.workloadEntries, ...set.pods].map(place), ...inline];
}
