/** Pods of a headless Service by name: `db-0.db.shop.svc.cluster.local`, as Kubernetes' DNS has it. */
import type { ServiceEndpoint } from './endpoints.ts';
import { endpointPort } from './endpoints.ts';
import type { Service } from './registry.ts';
import { isSelected, servicePort } from './registry.ts';
import type { ClientView } from './visible.ts';
import { findService } from './visible.ts';

/** One Pod of a service. */
export interface Member {
  readonly service: Service;
  readonly endpoint: ServiceEndpoint;
}

/**
 * The Pod that a host means, by its own name, as a StatefulSet's are. Istio leads all such names to where the caller connects (`*.` before a headless Service's
 * names); the name says as much, and must never lead to another Pod.
 * @param host in full and lower case
 * @returns null: it is no such name, or there is no such Pod with an address
 */
export function findMember(context: ClientView, host: string, port: number): Member | null {
  const dot = host.indexOf('.');
  const serviceHost = host.slice(dot + 1);
  if (dot <= 0 || !context.registry.services.has(serviceHost)) return null;
  const service = findService(context, serviceHost, port);
  const entry = service?.entries[0];
  const declared = service === null ? null : servicePort(service, port);
  if (service === null || entry?.resolution !== 'HEADLESS' || declared === null) return null;
  const pod = context.registry.pod(`${service.namespace}/${host.slice(0, dot)}`);
  const [address] = pod?.workload.addresses ?? [];
  if (pod === null || pod.finished || address === undefined || !isSelected(entry, pod.workload)) return null;
  const number = endpointPort(entry, pod.workload, declared);
  return number === null ? null : { service, endpoint: { workload: pod.workload, address, port: number } };
}
