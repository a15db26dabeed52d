/** Which Sidecar resource a workload has, the listeners it makes, and which services it lets the workload see. */
import { isIP } from 'node:net';
import { selects } from '../mesh/schema.ts';
import type { AppAddress, EgressListener, IngressListener } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import { byAge, isCoveredBy } from './hosts.ts';
import type { EgressHost, Sidecar, SidecarEgress, SidecarIngress } from './sidecar.ts';

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
  if (typeof entry.defaultEndpoint !== 'string') return entry.defaultEndpoint;
  const family = entry.defaultEndpoint === 'instance' ? 4 : 6;
  const ip = workload.addresses.find((address) => isIP(address) === family);
  return { host: ip ?? (family === 4 ? '127.0.0.1' : '::1'), port: entry.instancePort };
}

/** With capture off the kernel hands us nothing, so a DEFAULT entry is bound like a NONE one. */
function isBound({ captureMode }: SidecarIngress, intercept: Intercept): boolean {
  return captureMode === 'NONE' || (captureMode === 'DEFAULT' && intercept === 'none');
}

/** The ingress entries that are local ports of ours. */
export function ingressListeners(
  sidecar: Sidecar | null,
  workload: Workload,
  intercept: Intercept,
): readonly IngressListener[] {
  return (sidecar?.ingress ?? [])
    .filter((entry) => isBound(entry, intercept))
    .map((entry) => ingressListener(entry, workload));
}

/** Those that say where captured connections go, by port: without a `defaultEndpoint` that is where they were going. */
export function capturedIngress(
  sidecar: Sidecar | null,
  workload: Workload,
): ReadonlyMap<number, IngressListener> {
  const captured = (sidecar?.ingress ?? []).filter(
    (entry) => entry.defaultEndpoint !== null && !isBound(entry, 'redirect'),
  );
  return new Map(captured.map((entry) => [entry.port, ingressListener(entry, workload)]));
}

function ingressListener(entry: SidecarIngress, workload: Workload): IngressListener {
  const { bind, port, protocol } = entry;
  return { bind, port, protocol, defaultEndpoint: appAddress(entry, workload) };
}

/**
 * Whether an egress entry is a local port of ours. Under capture that is one with an address to bind, or one that is not
 * captured; the others say what capture may reach.
 */
function isSocket({ port, bind, captureMode }: SidecarEgress, intercept: Intercept): boolean {
  if (port === null || captureMode === 'IPTABLES') return false;
  return captureMode === 'NONE' || intercept === 'none' || bind !== null;
}

/** Whether a workload may see a service's port. */
export type Imports = (namespace: string, host: string, port: number) => boolean;

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
  intercept: Intercept,
): readonly EgressListener[] {
  const listeners: EgressListener[] = [];
  for (const entry of sidecar?.egress ?? []) {
    if (entry.port === null || !isSocket(entry, intercept)) continue;
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
export function compileImports(sidecar: Sidecar | null, workloadNamespace: string): Imports {
  if (sidecar === null || sidecar.egress.length === 0) return () => true;
  return (namespace, host, port) => {
    const name = host.toLowerCase();
    return sidecar.egress.some(
      (entry) =>
        (entry.port === null || entry.port === port) && sees(entry, namespace, name, workloadNamespace),
    );
  };
}

/**
 * What a captured connection to a port may reach: what the egress entry of that port lists, "a trimmed set of services",
 * or else what the one without a port does. Entries that are local ports of ours have no part in it (Istio:
 * buildSidecarOutboundListeners, GetEgressListenerForRDS).
 */
export function compileCapturedImports(sidecar: Sidecar | null, workloadNamespace: string): Imports {
  if (sidecar === null || sidecar.egress.length === 0) return () => true;
  const entries = sidecar.egress.filter((entry) => !isSocket(entry, 'redirect'));
  const byPort = new Map(entries.map((entry) => [entry.port, entry]));
  return (namespace, host, port) => {
    const entry = byPort.get(port) ?? byPort.get(null);
    return entry !== undefined && sees(entry, namespace, host.toLowerCase(), workloadNamespace);
  };
}
