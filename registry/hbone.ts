/** Which endpoints take HBONE, at which port, and as whom: HTTP/2 CONNECT over mutual TLS. */
import type { Workload } from '../mesh/workload.ts';

/** Where HBONE is taken unless a WorkloadEntry says otherwise (Istio's HBoneInboundListenPort). */
export const HBONE_PORT = 15_008;

/** The name by which a WorkloadEntry's `ports` give another one. */
export const HBONE_PORT_NAME = 'hbone';

/** Where peers dial a workload's HBONE: its WorkloadEntry's port named `hbone`, else 15008. */
export function hbonePort({ kind, ports }: Workload): number {
  return (kind === 'Pod' ? undefined : ports.get(HBONE_PORT_NAME)) ?? HBONE_PORT;
}

/** The ports a workload names as its app's own: those of its WorkloadEntry, or its Pod's containers. */
export function appPorts({ kind, ports }: Workload): ReadonlySet<number> {
  return new Set(
    [...ports].flatMap(([name, port]) => (kind !== 'Pod' && name === HBONE_PORT_NAME ? [] : [port])),
  );
}
