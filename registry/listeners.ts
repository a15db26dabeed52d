/** Which Sidecar resource a workload has, the listeners it makes, and which services it lets the workload see. */
import { isIP } from 'node:net';
import { selects } from '../mesh/schema.ts';
import type { AppAddress, EgressListener, IngressListener } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import { byAge, isCoveredBy } from './hosts.ts';
import type { CaptureMode, EgressHost, Sidecar, SidecarEgress, SidecarIngress } from './sidecar.ts';

/** `--intercept`: whether connections are captured by the kernel, or only explicit listeners serve. */
export type Intercept = 'none' | 'redirect';

/**
 * The Sidecar of a workload: of its namespace with a matching selector, then without one, then the root
 * namespace's without one; the oldest of each (Istio: PushContext.getSidecarScope, initSidecarScopes).
 */
export function selectSidecar(
  sidecars: readonly Sidecar[],
  workload: { readonly namespace: string; readonly labels: ReadonlyMap<string, string> },
  rootNamespace: string,
): Sidecar | null {
  const sorted = [...sidecars].sort(byAge);
  const own = sorted.filter(({ namespace }) => namespace === workload.namespace);
  return (
    own.find((s) => s.workloadSelector !== null && selects(s.workloadSelector, workload.labels)) ??
    own.find((s) => s.workloadSelector === null) ??
    sorted.find((s) => s.namespace === rootNamespace && s.workloadSelector === null) ??
    null
  );
}

function appAddress(entry: SidecarIngress, workload: Workload): AppAddress {
  if (entry.defaultEndpoint === null) return { host: '127.0.0.1', port: entry.port };
  if (entry.defaultEndpoint !== 'instance') return entry.defaultEndpoint;
  const ip = workload.addresses.find((address) => isIP(address) !== 0);
  return { host: ip ?? '127.0.0.1', port: entry.instancePort };
}

/** With capture off the kernel hands us nothing, so a DEFAULT entry is bound like a NONE one. */
function isBound(mode: CaptureMode, intercept: Intercept): boolean {
  return mode === 'NONE' || (mode === 'DEFAULT' && intercept === 'none');
}

/** The ingress entries that are local ports of ours. */
export function ingressListeners(
  sidecar: Sidecar | null,
  workload: Workload,
  intercept: Intercept,
): readonly IngressListener[] {
  return (sidecar?.ingress ?? [])
    .filter((entry) => isBound(entry.captureMode, intercept))
    .map((entry) => ({
      bind: entry.bind,
      port: entry.port,
      protocol: entry.protocol,
      defaultEndpoint: appAddress(entry, workload),
    }));
}

/** A service host as the registry lists it. */
export interface KnownHost {
  readonly host: string;
  readonly namespace: string;
  readonly ports: readonly number[];
}

/**
 * The egress entries with a port, each with the hosts it reaches: a full name as it is written, a wildcard as the
 * known services it covers that have that port, sorted.
 */
export function egressListeners(
  sidecar: Sidecar | null,
  workloadNamespace: string,
  known: readonly KnownHost[],
): readonly EgressListener[] {
  const listeners: EgressListener[] = [];
  for (const entry of sidecar?.egress ?? []) {
    // IPTABLES: the port only narrows what capture sees; nothing is bound.
    if (entry.port === null || entry.captureMode === 'IPTABLES') continue;
    listeners.push({
      bind: entry.bind ?? '127.0.0.1',
      port: entry.port,
      protocol: entry.protocol,
      hosts: hostsOf(entry, entry.port, workloadNamespace, known),
    });
  }
  return listeners;
}

function hostsOf(
  entry: SidecarEgress,
  port: number,
  workloadNamespace: string,
  known: readonly KnownHost[],
): readonly string[] {
  const hosts = new Set<string>();
  for (const pattern of entry.hosts) {
    if (pattern.excluded) continue;
    // A name that no ServiceEntry defines yet stays: its listener then says no_route instead of being absent.
    if (!pattern.host.startsWith('*')) hosts.add(pattern.host);
    else {
      for (const service of known) {
        const name = service.host.toLowerCase();
        const covered = matches(pattern, service.namespace, name, workloadNamespace);
        const seen = covered && sees(entry, service.namespace, name, workloadNamespace);
        if (seen && service.ports.includes(port)) hosts.add(service.host);
      }
    }
  }
  return [...hosts];
}

function sees(entry: SidecarEgress, namespace: string, host: string, workloadNamespace: string): boolean {
  const covering = entry.hosts.filter((pattern) => matches(pattern, namespace, host, workloadNamespace));
  return covering.length > 0 && !covering.some(({ excluded }) => excluded);
}

function matches(pattern: EgressHost, namespace: string, host: string, workloadNamespace: string): boolean {
  const wanted = pattern.namespace === '.' ? workloadNamespace : pattern.namespace;
  return (wanted === '*' || wanted === namespace) && isCoveredBy(host, pattern.host);
}

/**
 * Whether the workload may see a service on a port: one egress entry lists it, on this port or on all, and does
 * not exclude it with `~`. Without egress entries: everything.
 */
export function compileImports(
  sidecar: Sidecar | null,
  workloadNamespace: string,
): (namespace: string, host: string, port: number) => boolean {
  if (sidecar === null || sidecar.egress.length === 0) return () => true;
  return (namespace, host, port) => {
    const name = host.toLowerCase();
    return sidecar.egress.some(
      (entry) =>
        (entry.port === null || entry.port === port) && sees(entry, namespace, name, workloadNamespace),
    );
  };
}
