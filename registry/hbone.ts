/** Which endpoints are reached by HBONE (HTTP/2 CONNECT over mutual TLS), at which port, and who may answer there. */
import { identityOf } from '../mesh/identity.ts';
import type { EndpointTunnel } from '../mesh/route.ts';
import type { Workload } from '../mesh/workload.ts';
import { isUnixAddress } from './checks.ts';
import type { ServiceEndpoint } from './endpoints.ts';
import type { ClientTls } from './traffic-policy.ts';

/** Where HBONE is taken unless a WorkloadEntry gives another port (Istio's HBoneInboundListenPort). */
export const HBONE_PORT = 15_008;

/** The label by which a workload says how it can be tunnelled to. */
export const TUNNEL_LABEL = 'networking.istio.io/tunnel';

/** Its value for HBONE. */
export const HTTP_TUNNEL = 'http';

/** Whether a workload says that it takes HBONE. The label is a list (Istio: SupportsTunnel). */
export function takesHbone({ labels }: Workload): boolean {
  return labels.get(TUNNEL_LABEL)?.split(',').includes(HTTP_TUNNEL) ?? false;
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
 * The tunnel to an endpoint whose workload takes HBONE; null: it does not, or its address is a socket path, which a
 * CONNECT cannot name. A host name will do: it is resolved before anyone is asked to connect there.
 * @param expectedOf who may answer in the place of the workload of that identity
 */
export function tunnelTo(
  { workload, address }: ServiceEndpoint,
  trustDomain: string,
  expectedOf: (identity: string) => readonly string[],
): EndpointTunnel | null {
  if (workload === null || !takesHbone(workload) || isUnixAddress(address)) return null;
  const { uri } = identityOf(trustDomain, workload.namespace, workload.serviceAccount || 'default');
  return { port: workload.hbonePort ?? HBONE_PORT, identity: uri, expectedIdentities: expectedOf(uri) };
}
