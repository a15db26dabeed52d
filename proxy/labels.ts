/** Istio's metric labels for the two ends of a connection, put together once a connection. */
import type { Identity } from '../mesh/identity.ts';
import type { ServiceName, Workload } from '../mesh/workload.ts';
import type { PeerLabels } from '../telemetry/mesh-metrics.ts';

const UNKNOWN = 'unknown';

/** One end as labels tell it. */
export interface LabelledEnd {
  readonly workload: Workload | null;
  readonly identity: Identity | null;
}

/** @param service null: the port or host belongs to no known service; `fallback` then names Istio's cluster for that */
export function peerLabels(fields: {
  reporter: 'source' | 'destination';
  source: LabelledEnd;
  destination: LabelledEnd;
  service: ServiceName | null;
  fallback: string;
  /** What the destination saw; the source does not report it. */
  security: 'mutual_tls' | 'none' | 'unknown';
}): PeerLabels {
  const { source, destination, service } = fields;
  return {
    reporter: fields.reporter,
    sourceWorkload: source.workload?.name ?? UNKNOWN,
    sourceCanonicalService: canonicalService(source.workload),
    sourceCanonicalRevision: canonicalRevision(source.workload),
    sourceNamespace: source.workload?.namespace ?? source.identity?.namespace ?? UNKNOWN,
    sourcePrincipal: source.identity?.uri ?? UNKNOWN,
    sourceApp: label(source.workload, 'app'),
    sourceVersion: label(source.workload, 'version'),
    destinationWorkload: destination.workload?.name ?? UNKNOWN,
    destinationNamespace: destination.workload?.namespace ?? destination.identity?.namespace ?? UNKNOWN,
    destinationPrincipal: destination.identity?.uri ?? UNKNOWN,
    destinationApp: label(destination.workload, 'app'),
    destinationVersion: label(destination.workload, 'version'),
    destinationService: service?.host ?? UNKNOWN,
    destinationCanonicalService: canonicalService(destination.workload),
    destinationCanonicalRevision: canonicalRevision(destination.workload),
    destinationServiceName: service?.name ?? fields.fallback,
    destinationServiceNamespace: service?.namespace ?? UNKNOWN,
    connectionSecurityPolicy: fields.security,
  };
}

function label(workload: Workload | null, name: string): string {
  return workload?.labels.get(name) ?? UNKNOWN;
}

/** Istio's canonical service: its own label, else the recommended or plain app label, else the workload's name. */
export function canonicalService(workload: Workload | null): string {
  if (workload === null) return UNKNOWN;
  const { labels } = workload;
  return (
    labels.get('service.istio.io/canonical-name') ??
    labels.get('app.kubernetes.io/name') ??
    labels.get('app') ??
    workload.name
  );
}

/** Its label, else the recommended or plain version label, else `latest`. */
export function canonicalRevision(workload: Workload | null): string {
  if (workload === null) return 'latest';
  const { labels } = workload;
  return (
    labels.get('service.istio.io/canonical-revision') ??
    labels.get('app.kubernetes.io/version') ??
    labels.get('version') ??
    'latest'
  );
}
