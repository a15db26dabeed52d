/** Checks of services and workloads: hosts defined twice, ports of two minds, services that nobody serves. */
import { fewOf, finding, type Located, resourceName, unmatchedSelector } from '../../mesh/analysis.ts';
import type { Problem, Resource } from '../../mesh/resource.ts';
import { selects } from '../../mesh/schema.ts';
import { isHttp, type Protocol, type Workload } from '../../mesh/workload.ts';
import { takesHbone } from '../hbone.ts';
import { byAge } from '../hosts.ts';
import type { ServiceEntry } from '../service-entry.ts';
import { allServices, endpointsOn, type RegistryCheck, type RegistrySet, rawAt } from './set.ts';

type Entry = Located<ServiceEntry>;

/** Of the selectors of ServiceEntries, Services, DestinationRules and Sidecars (IST0101, IST0127). */
export const selectors: RegistryCheck = (set) => {
  const byNamespace = Map.groupBy(set.workloads, ({ namespace }) => namespace);
  const problems: Problem[] = [];
  const look = (
    resource: Resource,
    labels: ReadonlyMap<string, string> | null,
    path: readonly string[],
  ): void => {
    const { namespace } = resource;
    if (labels === null || labels.size === 0) return;
    if ((byNamespace.get(namespace) ?? []).some((workload) => selects(labels, workload.labels))) return;
    const scope = `namespace ${namespace}`;
    problems.push(unmatchedSelector(resource, path, labels, scope, set.workloads.length > 0));
  };
  for (const { item, resource } of set.serviceEntries) {
    // What a Service's EndpointSlices say goes before its selector.
    if (item.kubernetes !== null && set.registry.slices.has(`${item.namespace}/${item.name}`)) continue;
    look(resource, item.workloadSelector, [
      'spec',
      item.kubernetes === null ? 'workloadSelector' : 'selector',
    ]);
  }
  for (const { item, resource } of set.destinationRules) {
    look(resource, item.workloadSelector, ['spec', 'workloadSelector']);
  }
  for (const { item, resource } of set.sidecars) {
    look(resource, item.workloadSelector, ['spec', 'workloadSelector']);
  }
  return problems;
};

/** One host in several namespaces: which of them a client sees depends on where it is. */
export const sameHosts: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const [host, entries] of byHost(set)) {
    const [first, ...others] = entries;
    if (first === undefined) continue;
    for (const entry of others) {
      if (entry.item.namespace === first.item.namespace || !meet(entry.item, first.item)) continue;
      const message =
        `${host} is defined by ${resourceName(first.resource)} too: clients of a third namespace get that one, those ` +
        'of a namespace that defines it their own; limit one by exportTo, or remove it';
      problems.push(finding(entry.resource, ['spec', 'hosts'], 'sameHost', message));
    }
  }
  return problems;
};

/** Two entries, one port, two protocols (IST0177). */
export const protocols: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const [host, entries] of byHost(set)) {
    const [first, ...others] = entries;
    if (first === undefined) continue;
    for (const { item, resource } of others) {
      if (!meet(item, first.item)) continue;
      item.ports.forEach(({ number, protocol }, i) => {
        const other = first.item.ports.find((port) => port.number === number);
        if (other === undefined || other.protocol === protocol) return;
        const message =
          `port ${number} of ${host} is ${protocolText(protocol)} here and ${protocolText(other.protocol)} in ` +
          `${resourceName(first.resource)}, which comes first; declare one protocol`;
        problems.push(finding(resource, ['spec', 'ports', i], 'protocolConflict', message));
      });
    }
  }
  return problems;
};

/** Entries of a host, in the order in which they count. */
function byHost(set: RegistrySet): ReadonlyMap<string, readonly Entry[]> {
  const hosts = new Map<string, Entry[]>();
  const sorted = [...set.serviceEntries].sort(
    (a, b) =>
      Number(a.item.kubernetes === null) - Number(b.item.kubernetes === null) || byAge(a.item, b.item),
  );
  for (const entry of sorted) {
    for (const host of new Set(entry.item.hosts.map((name) => name.toLowerCase()))) {
      const list = hosts.get(host);
      if (list === undefined) hosts.set(host, [entry]);
      else list.push(entry);
    }
  }
  return hosts;
}

/** Whether some client may see both. */
function meet(a: ServiceEntry, b: ServiceEntry): boolean {
  const seenBy = ({ exportTo, namespace }: ServiceEntry): ReadonlySet<string> | null => {
    if (exportTo.length === 0 || exportTo.includes('*')) return null;
    if (exportTo.includes('~')) return new Set();
    return new Set(exportTo.map((scope) => (scope === '.' ? namespace : scope)));
  };
  const one = seenBy(a);
  const other = seenBy(b);
  if (one === null) return other === null || other.size > 0;
  return other === null ? one.size > 0 : !one.isDisjointFrom(other);
}

function protocolText(protocol: Protocol): string {
  return protocol === 'auto' ? 'undeclared' : protocol.toUpperCase();
}

/** What a service's ports say of their protocol (IST0118, IST0134). */
export const portProtocols: RegistryCheck = (set) => {
  const problems: Problem[] = [];
  for (const { item, resource } of set.serviceEntries) {
    const addressed = item.kubernetes !== null || item.addresses.length > 0;
    item.ports.forEach(({ number, name, protocol }, i) => {
      const path = ['spec', 'ports', i];
      if (protocol === 'auto') {
        const message =
          `the protocol of port ${number}${name === '' ? '' : ` (${name})`} is not declared: it is told by the first bytes; declare it, or ` +
          'name the port by it, such as http-web or tcp-db';
        problems.push(finding(resource, path, 'portName', message));
      }
      if (addressed || isHttp(protocol) || item.hosts.every((host) => host.startsWith('*'))) return;
      const declared = String(rawAt(resource, [...path, 'protocol']) ?? '').toUpperCase();
      if (declared !== '' && declared !== 'TCP') return;
      const message =
        `without addresses every captured TCP connection to port ${number} that nobody else claims is taken for one to ` +
        `${item.hosts[0]}; add addresses`;
      problems.push(finding(resource, path, 'addressRequired', message));
    });
  }
  return problems;
};

/** Services of which it is plain that nobody serves them. */
export const withoutEndpoints: RegistryCheck = (set) =>
  set.serviceEntries
    .filter(
      ({ item }) =>
        item.kubernetes === null &&
        item.resolution === 'STATIC' &&
        item.workloadSelector === null &&
        item.endpoints.length === 0,
    )
    .map(({ item, resource }) => {
      const message = `${item.hosts[0]} has no endpoint: STATIC needs endpoints or a workloadSelector`;
      return finding(resource, ['spec', 'resolution'], 'noEndpoint', message);
    });

/** Peers tell by the account that a WorkloadEntry is in the mesh, and whom to expect there. */
export const accounts: RegistryCheck = (set) =>
  set.workloadEntries
    .filter(
      ({ item }) =>
        item.serviceAccount === '' && !item.labels.has('security.istio.io/tlsMode') && !takesHbone(item),
    )
    .map(({ item, resource }) => {
      const message = `no serviceAccount: clients speak plaintext to ${item.namespace}/${item.name}, as to a workload without sidecar`;
      return finding(resource, ['spec'], 'noAccount', message);
    });

/** One port of a workload that two services declare differently (IST0116, IST0137). */
export const workloadPorts: RegistryCheck = (set) => {
  interface Claim {
    readonly host: string;
    readonly protocol: Protocol;
  }
  const claims = new Map<Workload, Map<number, Claim>>();
  const clashes = new Map<string, { readonly text: string; readonly names: string[] }>();
  for (const { service, port, endpoint } of endpointsOn(set, allServices(set))) {
    const { workload } = endpoint;
    if (workload === null) continue;
    const declared = service.entries.flatMap(({ ports }) => ports).find(({ number }) => number === port);
    if (declared === undefined) continue;
    const ports = claims.get(workload) ?? new Map<number, Claim>();
    claims.set(workload, ports);
    const first = ports.get(endpoint.port);
    if (first === undefined) {
      ports.set(endpoint.port, { host: service.host, protocol: declared.protocol });
    } else if (first.host !== service.host && first.protocol !== declared.protocol) {
      const key = `${service.host} ${first.host} ${endpoint.port}`;
      const clash = clashes.get(key) ?? {
        text:
          `port ${endpoint.port} is ${protocolText(declared.protocol)} by ${service.host} and ` +
          `${protocolText(first.protocol)} by ${first.host}`,
        names: [],
      };
      clashes.set(key, clash);
      clash.names.push(`${workload.namespace}/${workload.name}`);
    }
  }
  const located = new Map(
    set.serviceEntries.flatMap(({ item, resource }) => item.hosts.map((host) => [host, resource] as const)),
  );
  return [...clashes].flatMap(([key, { text, names }]) => {
    const resource = located.get(key.split(' ', 1)[0] ?? '');
    const message = `${text}, for ${fewOf(names)}: the workload takes one of them; declare the same`;
    return resource === undefined
      ? []
      : [finding(resource, ['spec', 'ports'], 'workloadPortConflict', message)];
  });
};
