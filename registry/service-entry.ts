/** ServiceEntry: the hosts, ports and endpoints of a service, checked as Istio's webhook checks them. */
import { isIP } from 'node:net';
import type { Cidr } from '../mesh/cidr.ts';
import { canonicalCidr, onlyAddress } from '../mesh/cidr.ts';
import type { Problem, Resource } from '../mesh/resource.ts';
import type { Decoder } from '../mesh/schema.ts';
import { enumOf, listOf, object, portNumber, Reporter, string } from '../mesh/schema.ts';
import type { Protocol, Workload } from '../mesh/workload.ts';
import { protocolOf } from '../mesh/workload.ts';
import {
  checkExportTo,
  isHostName,
  isSubnet,
  isUnixAddress,
  isWildcardHostName,
  portName,
  protocolName,
  requireField,
  selectorOf,
  someOf,
  stringThat,
  tellsHostsApart,
} from './checks.ts';
import type { Aged } from './hosts.ts';
import { endpointOf } from './workload-entry.ts';

export interface ServicePort {
  readonly number: number;
  readonly name: string;
  readonly protocol: Protocol;
  /** The endpoints' port where it differs; null: the same number. */
  readonly targetPort: number | null;
  /** Kubernetes: the name of a container port; null: `targetPort` holds. */
  readonly targetPortName: string | null;
  /** Declared as TLS or HTTPS: where nothing else tells services apart, its SNI does. */
  readonly tls: boolean;
}

/** HEADLESS is a Kubernetes Service without cluster IP: its pods, each reached at its own address. */
export type Resolution = 'NONE' | 'STATIC' | 'DNS' | 'DNS_ROUND_ROBIN' | 'DYNAMIC_DNS' | 'HEADLESS';

/** What only a Kubernetes Service says. */
export interface KubernetesFacts {
  /** Of type ExternalName: the host it stands for, in lower case. */
  readonly externalName: string | null;
  readonly publishNotReady: boolean;
  /** Accounts of its namespace that may serve it, besides those of its endpoints. */
  readonly serviceAccounts: readonly string[];
}

export interface ServiceEntry extends Aged {
  readonly hosts: readonly string[];
  readonly ports: readonly ServicePort[];
  /** What it claims for itself: single addresses and blocks. Empty: any address may be its. */
  readonly addresses: readonly Cidr[];
  readonly location: 'MESH_EXTERNAL' | 'MESH_INTERNAL';
  readonly resolution: Resolution;
  /** Null: the endpoints are inline, or the host itself. */
  readonly workloadSelector: ReadonlyMap<string, string> | null;
  readonly endpoints: readonly Workload[];
  /** Empty: the mesh's default. */
  readonly exportTo: readonly string[];
  readonly subjectAltNames: readonly string[];
  /** Null: it is a ServiceEntry. */
  readonly kubernetes: KubernetesFacts | null;
}

const host = stringThat(
  (text) => text !== '*' && isWildcardHostName(text),
  'a host name, its first label perhaps a wildcard (* alone is not allowed)',
);

const port = object({
  number: portNumber,
  protocol: protocolName,
  name: portName,
  targetPort: portNumber,
});

const resolution = enumOf('NONE', 'STATIC', 'DNS', 'DNS_ROUND_ROBIN', 'DYNAMIC_DNS');

/** Bounds of Istio's schema. */
const MAX_ITEMS = 256;
const MAX_ENDPOINTS = 4096;

/** A list no longer than Istio's schema lets it be. */
function atMost<T>(max: number, list: Decoder<readonly T[]>): Decoder<readonly T[]> {
  return (value, path, reporter) => {
    if (Array.isArray(value) && value.length > max) {
      reporter.report(path, 'badValue', `has ${value.length} items; ${max} are allowed`);
    }
    return list(value, path, reporter);
  };
}

/** One item at a time, because an inline endpoint is named by its index. */
function endpointsOf(resource: Resource): Decoder<readonly Workload[]> {
  const noLabels = new Map<string, string>();
  return (value, path, reporter) => {
    // Istio's convertServiceEntryToInstances names an inline endpoint by the entry's name and its index,
    // and gives it the entry's namespace.
    const member: Decoder<Workload> = (item, itemPath, itemReporter) =>
      endpointOf({
        name: `${resource.name}-${itemPath.at(-1)}`,
        namespace: resource.namespace,
        labels: noLabels,
      })(item, itemPath, itemReporter);
    return listOf(member)(value, path, reporter);
  };
}

/**
 * ServiceEntry (networking.istio.io) → its decoded form.
 * @returns null where it cannot be used; all faults are added to `problems`.
 */
export function decodeServiceEntry(resource: Resource, problems: Problem[]): ServiceEntry | null {
  const reporter = new Reporter(resource, problems);
  const spec = object({
    hosts: atMost(MAX_ITEMS, someOf(host, 'host')),
    addresses: atMost(MAX_ITEMS, listOf(stringThat(isSubnet, 'an IP address or CIDR block'))),
    ports: atMost(MAX_ITEMS, listOf(port)),
    location: enumOf('MESH_EXTERNAL', 'MESH_INTERNAL'),
    resolution,
    endpoints: atMost(MAX_ENDPOINTS, endpointsOf(resource)),
    workloadSelector: selectorOf('labels'),
    exportTo: listOf(string),
    subjectAltNames: listOf(string),
  })(resource.spec, ['spec'], reporter);
  if (spec === undefined) return null;

  requireField(spec, 'hosts', ['spec'], reporter);
  checkExportTo(spec.exportTo ?? [], ['spec', 'exportTo'], reporter, true);

  const ports: ServicePort[] = [];
  (spec.ports ?? []).forEach((item, i) => {
    requireField(item, 'number', ['spec', 'ports', i], reporter);
    requireField(item, 'name', ['spec', 'ports', i], reporter);
    if (item.number === undefined || item.name === undefined) return;
    ports.push({
      number: item.number,
      name: item.name,
      protocol: protocolOf(item.protocol === '' ? undefined : item.protocol, item.name),
      targetPort: item.targetPort ?? null,
      targetPortName: null,
      tls: isTlsWord(item.protocol || item.name),
    });
  });
  const entry: ServiceEntry = {
    name: resource.name,
    namespace: resource.namespace,
    createdAt: resource.creationTimestamp,
    hosts: spec.hosts ?? [],
    ports,
    addresses: claimedAddresses(spec.addresses ?? []),
    location: spec.location ?? 'MESH_EXTERNAL',
    resolution: spec.resolution ?? 'NONE',
    workloadSelector: spec.workloadSelector ?? null,
    endpoints: spec.endpoints ?? [],
    exportTo: spec.exportTo ?? [],
    subjectAltNames: spec.subjectAltNames ?? [],
    kubernetes: null,
  };
  checkPorts(entry, reporter);
  const given = { endpoints: spec.endpoints !== undefined, addresses: (spec.addresses ?? []).length > 0 };
  checkEndpoints(entry, given.endpoints, reporter);
  if (entry.resolution === 'DYNAMIC_DNS') {
    const words = (spec.ports ?? []).map(({ protocol: word }) => word?.toLowerCase() ?? '');
    checkDynamic(entry, words, given.addresses, reporter);
  } else checkHosts(entry.hosts, reporter);
  // Istio's shouldV2AutoAllocateIPFromPieces.
  const optedOut =
    resource.labels.get('networking.istio.io/enable-autoallocate-ip')?.toLowerCase() === 'false';
  const bare = (spec.ports ?? []).findIndex(({ protocol: word }) => !word || word === 'TCP');
  if (!given.addresses && (entry.resolution === 'NONE' || optedOut) && bare >= 0) {
    const why = 'without addresses a TCP port is only known by its number; add addresses';
    reporter.report(['spec', 'ports', bare, 'protocol'], 'badValue', why, 'Warning');
  }
  const cidr = (spec.addresses ?? []).some((text) => text.includes('/'));
  if (cidr && entry.resolution !== 'NONE' && entry.resolution !== 'STATIC') {
    reporter.report(['spec', 'addresses'], 'badValue', 'CIDR blocks go with resolution NONE or STATIC only');
  }
  const merged = (spec.ports ?? []).some((item) => !tellsHostsApart(item.protocol));
  if (entry.resolution !== 'NONE' && entry.hosts.length > 1 && merged) {
    reporter.report(
      ['spec', 'hosts'],
      'badValue',
      'several hosts need HTTP or TLS ports: nothing else tells them apart',
    );
  }
  return entry;
}

/** Whether Istio's `IsTLS` holds for a port's protocol, as `protocolOf` finds its word. */
export function isTlsWord(declaredOrName: string): boolean {
  return /^(?:tls|https)(?:-|$)/i.test(declaredOrName);
}

/** Addresses and blocks as they are looked up; 0.0.0.0 and :: claim nothing (Istio: UnspecifiedIP). */
export function claimedAddresses(texts: readonly string[]): readonly Cidr[] {
  return texts.flatMap((text) => {
    const cidr = canonicalCidr(text);
    const only = cidr === null ? null : onlyAddress(cidr);
    return cidr === null || only === '0.0.0.0' || only === '::' ? [] : [cidr];
  });
}

function checkPorts(entry: ServiceEntry, reporter: Reporter): void {
  const names = new Set<string>();
  const numbers = new Set<number>();
  if (entry.ports.length === 0 && entry.resolution !== 'NONE') {
    reporter.report(['spec', 'ports'], 'missing', 'without ports nothing can be reached', 'Warning');
  }
  entry.ports.forEach((port, i) => {
    if (names.has(port.name)) {
      reporter.report(['spec', 'ports', i, 'name'], 'duplicate', `port name ${port.name} is used twice`);
    }
    if (numbers.has(port.number)) {
      reporter.report(['spec', 'ports', i, 'number'], 'duplicate', `port ${port.number} is listed twice`);
    }
    names.add(port.name);
    numbers.add(port.number);
  });
}

function checkHosts(hosts: readonly string[], reporter: Reporter): void {
  hosts.forEach((name, i) => {
    if (!name.startsWith('*') || name.startsWith('*.')) return;
    const why = `a wildcard stands for whole labels: *.${name.slice(1)}, not ${name}`;
    reporter.report(['spec', 'hosts', i], 'badValue', why, 'Warning');
  });
}

/** What can be asked for by name: "only HTTP, TLS, GRPC, and HTTP2 protocols are supported". */
const NAMED_PROTOCOLS = new Set(['http', 'tls', 'grpc', 'http2']);

/** What Istio's ValidateServiceEntry demands where the host asked for is resolved for each connection. */
function checkDynamic(
  entry: ServiceEntry,
  protocols: readonly string[],
  addressed: boolean,
  reporter: Reporter,
): void {
  entry.hosts.forEach((name, i) => {
    if (name.startsWith('*')) return;
    reporter.report(['spec', 'hosts', i], 'badValue', 'resolution DYNAMIC_DNS takes wildcard hosts only');
  });
  const why = 'resolution DYNAMIC_DNS goes without it: the host asked for is resolved';
  if (entry.endpoints.length > 0) reporter.report(['spec', 'endpoints'], 'badValue', why);
  if (addressed) reporter.report(['spec', 'addresses'], 'badValue', why);
  protocols.forEach((word, i) => {
    if (NAMED_PROTOCOLS.has(word)) return;
    const message = 'resolution DYNAMIC_DNS takes HTTP, HTTP2, GRPC or TLS only';
    reporter.report(['spec', 'ports', i, 'protocol'], 'badValue', message);
  });
}

/** What Istio's ValidateServiceEntry demands of endpoints by `resolution`. */
function checkEndpoints(entry: ServiceEntry, given: boolean, reporter: Reporter): void {
  const { endpoints, resolution: how } = entry;
  const at = ['spec', 'endpoints'];
  // "only one of WorkloadSelector or Endpoints can be set": an empty list is set, too.
  if (entry.workloadSelector !== null && given) {
    reporter.report(['spec', 'workloadSelector'], 'badValue', 'only one of workloadSelector and endpoints');
  }
  if (how === 'NONE' && given) {
    reporter.report(at, 'badValue', 'resolution NONE goes without endpoints; use STATIC or DNS');
  }
  if (how === 'NONE' && entry.workloadSelector !== null) {
    const why = 'resolution NONE does not use it; use STATIC or DNS';
    reporter.report(['spec', 'workloadSelector'], 'badValue', why, 'Warning');
  }
  if (how === 'DNS_ROUND_ROBIN' && endpoints.length > 1) {
    reporter.report(at, 'badValue', 'resolution DNS_ROUND_ROBIN takes at most one endpoint');
  }
  const dns = how === 'DNS' || how === 'DNS_ROUND_ROBIN';
  if (dns && endpoints.length === 0 && !entry.hosts.every(isHostName)) {
    reporter.report(
      ['spec', 'hosts'],
      'badValue',
      `resolution ${how} without endpoints needs full host names`,
    );
  }
  endpoints.forEach((endpoint, i) => {
    const address = endpoint.addresses[0] ?? '';
    const unix = isUnixAddress(address);
    if (how === 'STATIC' && !unix && isIP(address) === 0) {
      reporter.report(
        [...at, i, 'address'],
        'badValue',
        `resolution STATIC needs IP addresses, not ${address}`,
      );
    }
    if (dns && unix) {
      reporter.report([...at, i, 'address'], 'badValue', `resolution ${how} takes no unix address`);
    }
    if (unix && entry.ports.length !== 1) {
      reporter.report([...at, i, 'address'], 'badValue', 'a unix endpoint needs exactly one service port');
    }
    for (const name of endpoint.ports.keys()) {
      if (entry.ports.some((port) => port.name === name)) continue;
      reporter.report([...at, i, 'ports', name], 'badValue', `no port of this ServiceEntry is named ${name}`);
    }
  });
}
