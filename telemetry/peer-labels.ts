/** Istio's labels: what is said of a connection's two ends, and their names and order in the exposition. */
import type { Labels } from './scraped-metric.ts';

/**
 * What Istio's labels say of a connection's two ends. Principals are full SPIFFE URIs. An unknown value is
 * `unknown`; an unknown canonical revision of a peer is `latest`, as in Istio.
 */
export interface PeerLabels {
  readonly reporter: 'source' | 'destination';
  readonly sourceWorkload: string;
  readonly sourceCanonicalService: string;
  readonly sourceCanonicalRevision: string;
  readonly sourceNamespace: string;
  readonly sourcePrincipal: string;
  readonly sourceApp: string;
  readonly sourceVersion: string;
  readonly destinationWorkload: string;
  readonly destinationNamespace: string;
  readonly destinationPrincipal: string;
  readonly destinationApp: string;
  readonly destinationVersion: string;
  /** Service's host; `unknown` where there is none. */
  readonly destinationService: string;
  readonly destinationCanonicalService: string;
  readonly destinationCanonicalRevision: string;
  /** Short name; Istio's `PassthroughCluster`, `BlackHoleCluster`, `InboundPassthroughCluster` where no service. */
  readonly destinationServiceName: string;
  readonly destinationServiceNamespace: string;
  /** `unknown` where the reporter is `source`, by Istio's documentation: the record enforces it. */
  readonly connectionSecurityPolicy: 'mutual_tls' | 'none' | 'unknown';
}

/** How a request ended, as its labels tell it. */
export interface RequestOutcome {
  readonly protocol: 'http' | 'grpc';
  readonly responseCode: number;
  readonly responseFlags: string;
  readonly grpcStatus: string;
}

/** No status code has this number: it stands for `other`. */
export const OTHER_CODE = -1;

/** A label longer than this is cut: a Host header may become one, and the cap counts series, not bytes. */
const MAX_LABEL_CHARS = 512;

/** Istio's label names in the order its stats filter writes them. */
export function istioLabels(labels: PeerLabels, cluster: string): Labels {
  const source = labels.reporter === 'source';
  return {
    reporter: labels.reporter,
    source_workload: bounded(labels.sourceWorkload),
    source_canonical_service: bounded(labels.sourceCanonicalService),
    source_canonical_revision: bounded(labels.sourceCanonicalRevision),
    source_workload_namespace: bounded(labels.sourceNamespace),
    source_principal: bounded(labels.sourcePrincipal),
    source_app: bounded(labels.sourceApp),
    source_version: bounded(labels.sourceVersion),
    source_cluster: source ? cluster : 'unknown',
    destination_workload: bounded(labels.destinationWorkload),
    destination_workload_namespace: bounded(labels.destinationNamespace),
    destination_principal: bounded(labels.destinationPrincipal),
    destination_app: bounded(labels.destinationApp),
    destination_version: bounded(labels.destinationVersion),
    destination_service: bounded(labels.destinationService),
    destination_canonical_service: bounded(labels.destinationCanonicalService),
    destination_canonical_revision: bounded(labels.destinationCanonicalRevision),
    destination_service_name: bounded(labels.destinationServiceName),
    destination_service_namespace: bounded(labels.destinationServiceNamespace),
    destination_cluster: source ? 'unknown' : cluster,
    connection_security_policy: source ? 'unknown' : labels.connectionSecurityPolicy,
  };
}

function bounded(label: string): string {
  return label.length <= MAX_LABEL_CHARS ? label : label.slice(0, MAX_LABEL_CHARS);
}

/** Istio's order: `request_protocol`, `response_code`, `grpc_response_status`, `response_flags`, security policy. */
export function requestLabelsOf(labels: Labels, outcome: RequestOutcome): Labels {
  const { connection_security_policy: policy = 'unknown', ...rest } = labels;
  return {
    ...rest,
    request_protocol: outcome.protocol,
    response_code: outcome.responseCode === OTHER_CODE ? 'other' : String(outcome.responseCode),
    grpc_response_status: outcome.grpcStatus,
    response_flags: outcome.responseFlags,
    connection_security_policy: policy,
  };
}

/**
 * Istio fixes a TCP connection's labels when it reports the opening, so `response_flags` is `-` there for
 * any connection that came to life.
 */
export function tcpLabelsOf(labels: Labels): Labels {
  const { connection_security_policy: policy = 'unknown', ...rest } = labels;
  return { ...rest, request_protocol: 'tcp', response_flags: '-', connection_security_policy: policy };
}
