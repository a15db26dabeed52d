/** The port numbers Istio gives a sidecar, as in docs/ARCHITECTURE.md's table. */
export const ports = {
  /** Admin API, loopback only. */
  admin: 15000,
  /** Outbound capture. */
  outbound: 15001,
  /** Inbound capture. */
  inbound: 15006,
  /** Inbound HBONE. */
  hbone: 15008,
  /** CA: Istio's CreateCertificate. */
  ca: 15012,
  /** Prometheus metrics. */
  metrics: 15020,
  /** Readiness. */
  health: 15021,
} as const;

/** Where Envoy has its metrics, and ours would be looked for. */
const TELEMETRY = 15090;
const SSH = 22;

/** Never captured coming in: probes, metrics and readiness, which are for everybody, and a remote shell. */
export const uncapturedInbound: readonly number[] = [TELEMETRY, ports.health, ports.metrics, SSH];
