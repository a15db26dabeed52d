/** PeerAuthentication: reading the resource, and merging all of them into the mode of each port of one workload. */
import type { Problem, Resource } from '../mesh/resource.ts';
import { type Decoder, enumOf, mapOf, object, Reporter, selects } from '../mesh/schema.ts';
import type { EffectiveMode, Mode } from '../mesh/snapshot.ts';
import { checkAnnotations, hasErrors, selector } from './webhook.ts';

/** One valid PeerAuthentication. */
export interface PeerAuthentication {
  readonly namespace: string;
  readonly name: string;
  /** Milliseconds since the epoch; null where the document has none. */
  readonly creationTimestamp: number | null;
  /** `selector.matchLabels`; empty where the policy selects its whole scope. */
  readonly matchLabels: ReadonlyMap<string, string>;
  /** `UNSET` inherits from the wider scope. */
  readonly mode: Mode | 'UNSET';
  /** `portLevelMtls`, by the workload's port. */
  readonly portModes: ReadonlyMap<number, Mode | 'UNSET'>;
}

const mutualTls = object({ mode: enumOf('UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT') });

const portModes: Decoder<ReadonlyMap<number, Mode | 'UNSET'>> = (value, path, reporter) => {
  const byName = mapOf(mutualTls)(value, path, reporter);
  if (byName === undefined) return undefined;
  if (byName.size === 0) reporter.report(path, 'badValue', 'must have at least one port, or be left out');
  const modes = new Map<number, Mode | 'UNSET'>();
  for (const [key, mtls] of byName) {
    const port = /^[0-9]+$/.test(key) ? Number(key) : 0;
    if (port < 1 || port > 65535) {
      reporter.report(
        [...path, key],
        'badValue',
        `must be a port from 1 to 65535, not ${JSON.stringify(key)}`,
      );
    }
    modes.set(port, mtls.mode ?? 'UNSET');
  }
  return modes;
};

const spec = object({ selector, mtls: mutualTls, portLevelMtls: portModes });

/**
 * Reads a PeerAuthentication by Istio's schema and webhook.
 * @returns null after reporting at least one Error; Warnings may accompany a valid one.
 */
export function decodePeerAuthentication(resource: Resource, problems: Problem[]): PeerAuthentication | null {
  const reporter = new Reporter(resource, problems);
  const before = problems.length;
  checkAnnotations(resource, reporter);
  const decoded = spec(resource.spec ?? {}, ['spec'], reporter);
  const matchLabels = decoded?.selector ?? new Map<string, string>();
  if (decoded?.portLevelMtls !== undefined && matchLabels.size === 0) {
    // Istio: "mesh/namespace peer authentication cannot have port level mTLS".
    reporter.report(['spec', 'portLevelMtls'], 'badValue', 'needs a selector with labels');
  }
  if (decoded === undefined || hasErrors(reporter, before)) return null;
  return {
    namespace: resource.namespace,
    name: resource.name,
    creationTimestamp: resource.creationTimestamp,
    matchLabels,
    mode: decoded.mtls?.mode ?? 'UNSET',
    portModes: decoded.portLevelMtls ?? new Map(),
  };
}

/**
 * Merges every PeerAuthentication of the mesh for one workload, as Istio's `ComposePeerAuthentication` does.
 * @param policies of all namespaces, in any order.
 * @param namespace the workload's.
 * @param labels the workload's.
 * @returns the mode of an inbound port of the workload; constant time, the same record for the same answer.
 */
export function compileModes(
  policies: readonly PeerAuthentication[],
  namespace: string,
  labels: ReadonlyMap<string, string>,
  rootNamespace: string,
): (port: number) => EffectiveMode {
  let mesh: PeerAuthentication | null = null;
  let scope: PeerAuthentication | null = null;
  let workload: PeerAuthentication | null = null;
  for (const policy of policies) {
    if (policy.matchLabels.size === 0) {
      if (policy.namespace === rootNamespace) mesh = older(mesh, policy);
      else if (policy.namespace === namespace) scope = older(scope, policy);
    } else if (policy.namespace === namespace && namespace !== rootNamespace) {
      // "A PeerAuthentication with a selector in the root namespace never holds, not even for workloads of
      // that namespace."
      if (selects(policy.matchLabels, labels)) workload = older(workload, policy);
    }
  }

  // "If there is no mesh policy, the default is PERMISSIVE"; UNSET leaves what the wider scope said.
  let merged: EffectiveMode = Object.freeze({ mode: 'PERMISSIVE', source: null });
  for (const policy of [mesh, scope, workload]) {
    if (policy !== null) merged = effective(policy, policy.mode, merged);
  }
  const byPort = new Map<number, EffectiveMode>();
  if (workload !== null) {
    // "UNSET port-level config will be replaced with config from workload-level."
    for (const [port, mode] of workload.portModes) byPort.set(port, effective(workload, mode, merged));
  }
  return (port) => byPort.get(port) ?? merged;
}

/**
 * "When there are more than one policy in the same scope, the oldest one win"; of two of one age the one whose
 * name sorts first. Kubernetes' zero time, which a document without a timestamp has, is older than any other.
 */
export function older(held: PeerAuthentication | null, other: PeerAuthentication): PeerAuthentication {
  if (held === null) return other;
  const heldTime = held.creationTimestamp ?? Number.NEGATIVE_INFINITY;
  const otherTime = other.creationTimestamp ?? Number.NEGATIVE_INFINITY;
  if (heldTime !== otherTime) return heldTime < otherTime ? held : other;
  return held.name <= other.name ? held : other;
}

function effective(
  policy: PeerAuthentication,
  mode: Mode | 'UNSET',
  inherited: EffectiveMode,
): EffectiveMode {
  return mode === 'UNSET' ? inherited : Object.freeze({ mode, source: `${policy.namespace}/${policy.name}` });
}
