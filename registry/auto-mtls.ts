/** Auto mTLS: what is spoken to an endpoint where no DestinationRule says, as Istio infers it. */
import type { TlsMode } from '../mesh/route.ts';
import type { Mode } from '../mesh/snapshot.ts';
import type { Workload } from '../mesh/workload.ts';
import type { ServiceEndpoint } from './endpoints.ts';
import type { Service } from './registry.ts';
import type { ServiceEntry } from './service-entry.ts';
import { TLS_MODE_LABEL } from './workload-entry.ts';

/** What it depends on. */
export interface AutoMtlsContext {
  /** MeshConfig `enableAutoMtls`. */
  readonly autoMtls: boolean;
  /** Effective PeerAuthentication mode of a workload's port; without labels that of its namespace. */
  readonly modeOf: (namespace: string, labels: ReadonlyMap<string, string>, port: number) => Mode;
}

const NO_LABELS: ReadonlyMap<string, string> = new Map();

/** By it a Pod asks for a sidecar. */
const INJECT_LABEL = 'sidecar.istio.io/inject';

/**
 * What auto mTLS gives each endpoint of a service.
 * @param instances of a service that is passed through: all it has; null: endpoints are judged one by one
 */
export function autoMtls(
  context: AutoMtlsContext,
  service: Service,
  entry: ServiceEntry,
  instances: readonly ServiceEndpoint[] | null,
): (endpoint: ServiceEndpoint) => TlsMode {
  const off = !context.autoMtls || entry.location !== 'MESH_INTERNAL' || isNamespaceOpen(context, service);
  if (off) return () => 'DISABLE';
  if (instances === null) {
    return (endpoint) => (speaksMtls(context, endpoint) ? 'ISTIO_MUTUAL' : 'DISABLE');
  }
  // "For passthrough traffic (headless service …), we look at the instances. If ALL instances have a sidecar, we
  // enable TLS, otherwise we disable" (Istio: BestEffortInferServiceMTLSMode).
  const whole =
    instances.length > 0 && instances.every(({ workload }) => workload !== null && inMesh(workload));
  return () => (whole ? 'ISTIO_MUTUAL' : 'DISABLE');
}

/**
 * A DISABLE of the service's namespace, or of the mesh, switches clients to plaintext for every endpoint, despite a
 * workload's own STRICT (Istio: BestEffortInferServiceMTLSMode sees namespace and mesh policies only).
 */
function isNamespaceOpen(context: AutoMtlsContext, service: Service): boolean {
  return context.modeOf(service.namespace, NO_LABELS, 0) === 'DISABLE';
}

/** Whether a workload takes mutual TLS at a port; Istio's checkMtlsEnabled: not where that port has mode DISABLE. */
export function speaksMtls(
  context: AutoMtlsContext,
  { workload, port }: Pick<ServiceEndpoint, 'workload' | 'port'>,
): boolean {
  if (workload === null || !inMesh(workload)) return false;
  return context.modeOf(workload.namespace, workload.labels, port) !== 'DISABLE';
}

/**
 * Istio's getTLSModeFromWorkloadEntry ("Use security.istio.io/tlsMode if its present. If not, set TLS mode if
 * ServiceAccount is specified") and PodTLSMode, which knows the label only. A Pod that asks for injection is taken as
 * what the injector makes of it.
 */
function inMesh({ kind, labels, serviceAccount }: Workload): boolean {
  const label = labels.get(TLS_MODE_LABEL);
  if (label !== undefined) return label === 'istio';
  return kind === 'Pod' ? labels.get(INJECT_LABEL) === 'true' : serviceAccount !== '';
}
