/** Which endpoints are reached by HBONE (HTTP/2 CONNECT over mutual TLS), at which port, and who may answer there. */
import type { EndpointTunnel } from '../mesh/route.ts';
import type { Workload } from '../mesh/workload.ts';
import { isUnixAddress } from './checks.ts';
import type { ServiceEndpoint } from './endpoints.ts';
import { workloadIdentity } from './secure-naming.ts';
import type { ClientTls } from './traffic-policy.ts';

/** Where HBONE is taken unless a WorkloadEntry gives another port (Istio's HBoneInboundListenPort). */
export const HBONE_PORT = 15_008;

/** The label by which a workload says how it can be tunnelled to. */
export const TUNNEL_LABEL = 'networking.istio.io/tunnel';

/** Its value for HBONE. */
export const HTTP_TUNNEL = 'http';

/** Istio's own waypoints carry this label; they take nothing else. */
const WAYPOINT = { label: 'gateway.istio.io/managed', value: 'istio.io-mesh-controller' };

/**
 * Whether a workload takes HBONE: it says so, by a label that is a list; it is a waypoint; or a ztunnel stands before it
 * (Istio: supportTunnel).
 */
export function takesHbone({ labels, ambient }: Workload): boolean {
  if (labels.get(TUNNEL_LABEL)?.split(',').includes(HTTP_TUNNEL)) return true;
  return ambient === true || labels.get(WAYPOINT.label) === WAYPOINT.value;
}

/**
 * Whether a client that is told to speak so may use a tunnel: ISTIO_MUTUAL is what a tunnel gives, and so is whatever
 * auto mTLS would decide. A rule that asks for anything else gets that.
 * @param set the DestinationRule's; null: nobody set any
 */
export function allowsTunnel(set: ClientTls | null): boolean {
  return set === null || set.mode === 'ISTIO_MUTUAL';
}

/**
 * Whether an endpoint is one of a workload that takes HBONE, and has an address. A socket path is none that a CONNECT
 * can name; a host name is resolved before anyone is asked to connect there.
 */
export function canTunnel({ workload, address }: ServiceEndpoint): boolean {
  return workload !== null && takesHbone(workload) && !isUnixAddress(address);
}

/**
 * The tunnel to an endpoint; null: it has none.
 * @param expectedOf who may answer in the place of the workload of that identity
 */
export function tunnelTo(
  endpoint: ServiceEndpoint,
  trustDomain: string,
  expectedOf: (identity: string) => readonly string[],
): EndpointTunnel | null {
  const { workload } = endpoint;
  if (workload === null || !canTunnel(endpoint)) return null;
  const identity = workloadIdentity(trustDomain, workload);
  return { port: workload.hbonePort ?? HBONE_PORT, identity, expectedIdentities: expectedOf(identity) };
}
