/** Sidecar: the local ports in front of an app and those by which it reaches others. */
import { isIP } from 'node:net';
import type { FieldPath, Problem, Resource } from '../mesh/resource.ts';
import type { Decoder } from '../mesh/schema.ts';
import { enumOf, integer, listOf, object, Reporter, unsupported } from '../mesh/schema.ts';
import type { AppAddress } from '../mesh/snapshot.ts';
import type { Protocol } from '../mesh/workload.ts';
import { protocolOf } from '../mesh/workload.ts';
import {
  isDnsLabel,
  isUnixAddress,
  isWildcardHostName,
  portName,
  protocolName,
  requireField,
  selectorOf,
  someOf,
  stringThat,
} from './checks.ts';
import type { Aged } from './hosts.ts';
import { connectionPool } from './unhonoured.ts';

export type CaptureMode = 'DEFAULT' | 'IPTABLES' | 'NONE';

/** The workload's own IPv4 or IPv6 address. */
export type Instance = 'instance' | 'instance6';

export interface SidecarIngress {
  readonly port: number;
  readonly protocol: Protocol;
  readonly bind: string | null;
  readonly captureMode: CaptureMode;
  /** Null: `127.0.0.1` at the same port. */
  readonly defaultEndpoint: AppAddress | Instance | null;
  /** The port of an `Instance`. */
  readonly instancePort: number;
}

/** `ns/host`, taken apart: `*` for any, `.` for the workload's namespace, `~` before it to exclude. */
export interface EgressHost {
  readonly excluded: boolean;
  readonly namespace: string;
  /** In lower case. */
  readonly host: string;
}

export interface SidecarEgress {
  /** Null: a catch-all that only says what is visible. */
  readonly port: number | null;
  readonly protocol: Protocol;
  readonly bind: string | null;
  readonly captureMode: CaptureMode;
  readonly hosts: readonly EgressHost[];
}

export interface Sidecar extends Aged {
  /** Null: all workloads of the namespace. */
  readonly workloadSelector: ReadonlyMap<string, string> | null;
  readonly ingress: readonly SidecarIngress[];
  readonly egress: readonly SidecarEgress[];
  readonly outboundTrafficPolicy: 'ALLOW_ANY' | 'REGISTRY_ONLY' | null;
}

const captureMode = enumOf('DEFAULT', 'IPTABLES', 'NONE');

const sidecarPort = object({
  // 0 goes with a unix bind, which is refused as not supported, not as a wrong number.
  number: integer(0, 65535),
  protocol: protocolName,
  name: (value, path, reporter) => (value === '' ? undefined : portName(value, path, reporter)),
  targetPort: (_value, path, reporter) =>
    reporter.report(path, 'badValue', 'targetPort has no meaning in a Sidecar; use defaultEndpoint'),
});

const bindAddress: Decoder<string> = (value, path, reporter) => {
  // Protobuf's absent text.
  if (value === '') return undefined;
  if (typeof value === 'string' && isUnixAddress(value)) {
    reporter.report(path, 'unsupported', 'binding a unix socket is not supported yet');
    return undefined;
  }
  return stringThat((text) => isIP(text) !== 0, 'an IP address')(value, path, reporter);
};

const LOCAL_HOSTS = new Set(['', '127.0.0.1', '::1', '0.0.0.0', '::']);

interface DefaultEndpoint {
  readonly address: AppAddress | Instance;
  readonly port: number;
}

/** "127.0.0.1:PORT, [::1]:PORT (localhost), 0.0.0.0:PORT, [::]:PORT (the instance IP), or unix:///path/to/socket". */
const defaultEndpoint: Decoder<DefaultEndpoint> = (value, path, reporter) => {
  const wrong = (): undefined => {
    const forms = '127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///path';
    reporter.report(path, 'badValue', `must be ${forms}, not ${JSON.stringify(value)}`);
    return undefined;
  };
  if (typeof value !== 'string') return wrong();
  if (value === '') return undefined;
  if (value.startsWith('unix://')) {
    return isUnixAddress(value) ? { address: { path: value.slice('unix://'.length) }, port: 0 } : wrong();
  }
  const parts = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(value);
  if (parts === null) return wrong();
  const host = parts[1] ?? parts[2] ?? '';
  const port = Number(parts[3]);
  if (!LOCAL_HOSTS.has(host) || port < 1 || port > 65535) return wrong();
  if (host === '0.0.0.0') return { address: 'instance', port };
  if (host === '::') return { address: 'instance6', port };
  return { address: { host: host === '' ? '127.0.0.1' : host, port }, port };
};

const egressHost: Decoder<EgressHost> = (value, path, reporter) => {
  const slash = typeof value === 'string' ? value.indexOf('/') : -1;
  if (typeof value !== 'string' || slash < 0) {
    reporter.report(path, 'badValue', `must be namespace/host, not ${JSON.stringify(value)}`);
    return undefined;
  }
  const excluded = value.startsWith('~');
  const namespace = value.slice(excluded ? 1 : 0, slash);
  const host = value.slice(slash + 1);
  const anyHost = host === '*';
  const nameIsFine = namespace === '*' || namespace === '.' || isDnsLabel(namespace);
  // A bare `~` is "no namespace": `~/*` imports nothing.
  if (!nameIsFine && !(excluded && namespace === '')) {
    reporter.report(path, 'badValue', `the namespace must be a name, * or ., each perhaps after ~: ${value}`);
    return undefined;
  }
  const partial = host.startsWith('*') && !anyHost && !host.startsWith('*.');
  if (!anyHost && (!host.includes('.') || !isWildcardHostName(host) || partial)) {
    reporter.report(path, 'badValue', `the host must be *, *.domain or a full name with a dot: ${value}`);
    return undefined;
  }
  return { excluded, namespace, host: host.toLowerCase() };
};

const ingressFields = object({
  port: sidecarPort,
  bind: bindAddress,
  captureMode,
  defaultEndpoint,
  tls: unsupported('TLS termination with own certificates on an ingress listener'),
  connectionPool,
});

const egressFields = object({
  port: sidecarPort,
  bind: bindAddress,
  captureMode,
  hosts: (value, path, reporter) => {
    checkEgressHosts(value, path, reporter);
    return someOf(egressHost, 'host')(value, path, reporter);
  },
});

/** What Istio's webhook warns of: a host listed twice, or beside all of its namespace, or beside everything. */
function checkEgressHosts(value: unknown, path: FieldPath, reporter: Reporter): void {
  const seen = new Map<string, Set<string>>();
  for (const entry of Array.isArray(value) ? value : []) {
    const slash = typeof entry === 'string' ? entry.indexOf('/') : -1;
    if (slash < 0 || entry.startsWith('~')) continue;
    const given = entry.slice(0, slash);
    const namespace = given === '.' ? reporter.resource.namespace : given;
    const host = entry.slice(slash + 1);
    const hosts = seen.get(namespace) ?? new Set<string>();
    seen.set(namespace, hosts);
    if (hosts.has(host) || hosts.has('*') || (host === '*' && hosts.size > 0)) {
      reporter.report(path, 'duplicate', `egress host ${entry} is listed already`, 'Warning');
    }
    hosts.add(host);
  }
  if (seen.get('*')?.has('*') && seen.size > 1) {
    reporter.report(path, 'badValue', '*/* is everything: no other host is needed', 'Warning');
  }
}

const fields = object({
  workloadSelector: selectorOf('labels'),
  ingress: listOf(ingressFields),
  egress: listOf(egressFields),
  inboundConnectionPool: connectionPool,
  outboundTrafficPolicy: object({
    mode: enumOf('REGISTRY_ONLY', 'ALLOW_ANY'),
    egressProxy: unsupported('egressProxy'),
  }),
});

type Port = {
  readonly number: number | undefined;
  readonly protocol: string | undefined;
  readonly name: string | undefined;
};

function protocolOfPort(port: Port | undefined): Protocol {
  return protocolOf(port?.protocol === '' ? undefined : port?.protocol, port?.name);
}

/** The port's number if it is one that can be bound and is not taken; else undefined, after a report. */
function checkedPort(
  port: Port | undefined,
  path: FieldPath,
  reporter: Reporter,
  taken: Set<number>,
): number | undefined {
  if (port?.number === undefined) {
    requireField(port ?? {}, 'number', [...path, 'port'], reporter);
    return undefined;
  }
  if (port.number === 0) {
    reporter.report(
      [...path, 'port', 'number'],
      'unsupported',
      'port 0 (a unix socket) is not supported yet',
    );
    return undefined;
  }
  if (taken.has(port.number)) {
    reporter.report([...path, 'port', 'number'], 'duplicate', `port ${port.number} has a listener already`);
  }
  taken.add(port.number);
  return port.number;
}

/**
 * Sidecar (networking.istio.io) → its decoded form.
 * @returns null where it is no object; all faults are added to `problems`.
 */
export function decodeSidecar(resource: Resource, problems: Problem[]): Sidecar | null {
  const reporter = new Reporter(resource, problems);
  const spec = fields(resource.spec, ['spec'], reporter);
  if (spec === undefined) return null;
  const empty =
    (spec.ingress ?? []).length === 0 &&
    (spec.egress ?? []).length === 0 &&
    spec.outboundTrafficPolicy === undefined &&
    spec.inboundConnectionPool === undefined;
  if (empty) reporter.report(['spec'], 'missing', 'an empty Sidecar says nothing');

  const ingress: SidecarIngress[] = [];
  const ingressPorts = new Set<number>();
  (spec.ingress ?? []).forEach((item, i) => {
    const port = checkedPort(item.port, ['spec', 'ingress', i], reporter, ingressPorts);
    if (port === undefined) return;
    ingress.push({
      port,
      protocol: protocolOfPort(item.port),
      bind: item.bind ?? null,
      captureMode: item.captureMode ?? 'DEFAULT',
      defaultEndpoint: item.defaultEndpoint?.address ?? null,
      instancePort: item.defaultEndpoint?.port ?? port,
    });
  });

  const egress: SidecarEgress[] = [];
  const egressPorts = new Set<number>();
  const entries = spec.egress ?? [];
  entries.forEach((item, i) => {
    const path = ['spec', 'egress', i];
    requireField(item, 'hosts', path, reporter);
    if (item.port === undefined && i < entries.length - 1) {
      reporter.report(path, 'badValue', 'an egress listener without port must be the last');
    }
    const port =
      item.port === undefined ? null : (checkedPort(item.port, path, reporter, egressPorts) ?? null);
    egress.push({
      port,
      protocol: protocolOfPort(item.port),
      bind: item.bind ?? null,
      captureMode: item.captureMode ?? 'DEFAULT',
      hosts: item.hosts ?? [],
    });
  });
  return {
    name: resource.name,
    namespace: resource.namespace,
    createdAt: resource.creationTimestamp,
    workloadSelector: spec.workloadSelector ?? null,
    ingress,
    egress,
    // Protobuf's default of the mode is REGISTRY_ONLY, so an empty outboundTrafficPolicy says that.
    outboundTrafficPolicy:
      spec.outboundTrafficPolicy === undefined ? null : (spec.outboundTrafficPolicy.mode ?? 'REGISTRY_ONLY'),
  };
}
