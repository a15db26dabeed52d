/** PeerAuthentication: reading the resource, and merging all of them into the mode of each port of one workload. */
import type { Problem, Resource } from '../mesh/resource.ts';
import type { EffectiveMode, Mode } from '../mesh/snapshot.ts';

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

/** Reads a PeerAuthentication; null after reporting at least one Error. */
export function decodePeerAuthentication(
  _resource: Resource,
  _problems: Problem[],
): PeerAuthentication | null {
  throw new Error('to come');
}

/** Merges every PeerAuthentication of the mesh for one workload. The result is constant time per port. */
export function compileModes(
  _policies: readonly PeerAuthentication[],
  _namespace: string,
  _labels: ReadonlyMap<string, string>,
  _rootNamespace: string,
): (port: number) => EffectiveMode {
  throw new Error('to come');
}
