/** What a CONNECT tells of its sender beside its certificate: for the receiver's metrics and logs, never for policy. */
import type { Workload } from '../../mesh/workload.ts';
import { canonicalRevision, canonicalService } from '../labels.ts';

/**
 * The W3C baggage that ztunnel sends of a workload (`baggage_header_val`): OpenTelemetry's names, what is unknown
 * left out.
 * @param cluster `unknown` where nobody named it
 */
export function baggageOf(workload: Workload, cluster: string): string {
  const items: readonly (readonly [name: string, value: string])[] = [
    ['k8s.cluster.name', cluster],
    ['k8s.namespace.name', workload.namespace],
    ['k8s.pod.name', workload.name],
    ['service.name', canonicalService(workload)],
    ['service.version', canonicalRevision(workload)],
  ];
  return items
    .filter(([, value]) => SAID.test(value))
    .map(([name, value]) => `${name}=${value}`)
    .join(',');
}

/** Names of Kubernetes need no quoting; what is none is better not said than misread. */
const SAID = /^[\w.:/-]{1,253}$/;

/** RFC 7239's `Forwarded` as ztunnel gives it: whom the bytes come from. */
export function forwardedFor(address: string): string {
  return `for="${address.includes(':') ? `[${address}]` : address}"`;
}
