/** What the daemon tells of itself in `/metrics`: refusals, certificate, configuration, open connections, process. */
import { collectDefaultMetrics, Registry } from 'prom-client';
import { type ReasonCode, reasonCodes } from '../mesh/reasons.ts';
import { renderExposition } from './exposition.ts';
import { Observations } from './policy-metrics.ts';
import { type Labels, registerScraped, sample } from './scraped-metric.ts';

export type Direction = 'inbound' | 'outbound';
const directions: readonly Direction[] = ['inbound', 'outbound'];

/** A value from elsewhere, read when scraped. */
export interface Watched {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  /** How threads are merged; `sum` unless told. */
  readonly aggregator?: 'sum' | 'first' | 'min' | 'max' | 'average' | 'omit';
  readonly read: () => number | readonly { readonly labels: Labels; readonly value: number }[];
}

/** What `/metrics` tells of our certificate. Times are milliseconds since the epoch. */
export interface CertificateExpiry {
  readonly identity: string;
  readonly serial: string;
  readonly notAfter: number;
  /** When the first root of the trust bundle expires; null where unknown. */
  readonly rootNotAfter: number | null;
}

/** What can be wrong with our credentials or their renewal: the keeper's alarms. */
export const alarmKinds = ['renewal_failing', 'set_refused', 'clock_skew', 'expiring'] as const;
export type CredentialAlarm = (typeof alarmKinds)[number];

/** TLS handshakes with peers: all of it done, resumed from an earlier one, or failed. */
export type HandshakeResult = 'full' | 'resumed' | 'failed';

/** Plain counters: the fields are for everyone to write, a scrape reads them. */
export class DaemonMetrics {
  readonly registry: Registry;
  /** Connections open now; the data path counts up and down. */
  readonly openConnections: Record<Direction, number>;
  /** Generation of the snapshot in force. */
  snapshotGeneration: number;
  /** 1 while the resources last read were good and are in force, 0 while an older set is kept. */
  configValid: 0 | 1;
  readonly configReloads: Record<'applied' | 'rejected', number>;
  readonly credentialRenewals: Record<'success' | 'failure', number>;
  /** 1 while an alarm is up. */
  readonly credentialAlarms: Record<CredentialAlarm, 0 | 1>;
  /** How far our clock is ahead of the CA's (negative: behind); null while nobody told. */
  clockSkewSeconds: number | null;
  readonly handshakes: Record<Direction, Record<HandshakeResult, number>>;
  /** Answers of external authorizers. */
  readonly externalChecks: Record<'allowed' | 'denied' | 'failed', number>;
  /** Matches of policies that change no answer. */
  readonly observations: Observations;

  readonly #wallClock: () => number;
  readonly #refusals: Record<Direction, Record<ReasonCode, number>>;
  #certificate: CertificateExpiry | null;

  /** @param wallClock milliseconds since the epoch */
  constructor(wallClock: () => number) {
    this.registry = new Registry();
    this.openConnections = { inbound: 0, outbound: 0 };
    this.snapshotGeneration = 0;
    this.configValid = 1;
    this.configReloads = { applied: 0, rejected: 0 };
    this.credentialRenewals = { success: 0, failure: 0 };
    this.credentialAlarms = { renewal_failing: 0, set_refused: 0, clock_skew: 0, expiring: 0 };
    this.clockSkewSeconds = null;
    this.handshakes = {
      inbound: { full: 0, resumed: 0, failed: 0 },
      outbound: { full: 0, resumed: 0, failed: 0 },
    };
    this.externalChecks = { allowed: 0, denied: 0, failed: 0 };
    this.observations = new Observations();
    this.#wallClock = wallClock;
    this.#refusals = { inbound: zeroReasons(), outbound: zeroReasons() };
    this.#certificate = null;
    this.#register();
    this.#registerIdentity();
  }

  /** Counts one refusal or failure in `oarlock_refusals_total{reason,direction}`. */
  refused(reason: ReasonCode, direction: Direction): void {
    this.#refusals[direction][reason]++;
  }

  /** Tells which certificate is in use; null when there is none. */
  setCertificateExpiry(certificate: CertificateExpiry | null): void {
    this.#certificate = certificate;
  }

  /**
   * Registers a value that someone else keeps, e.g. the access log's dropped lines.
   * @throws Error where the name is taken.
   */
  watch(watched: Watched): void {
    registerScraped(this.registry, {
      name: watched.name,
      help: watched.help,
      type: watched.type,
      aggregator: watched.aggregator ?? 'sum',
      read: (samples) => {
        const read = watched.read();
        if (typeof read === 'number') samples.push(sample(read));
        else for (const { labels, value } of read) samples.push(sample(value, labels));
      },
    });
  }

  /**
   * Adds prom-client's metrics of the process (CPU, memory, file descriptors, event loop, garbage
   * collection). Once a process: its observers cannot be taken back.
   */
  collectProcess(): void {
    // 100 ms: the default of 10 wakes an idle process a hundred times a second.
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 100 });
  }

  /** Prometheus text, UTF-8. `registry.metrics()` says the same, but all in one turn of the event loop. */
  text(): Promise<Buffer> {
    return renderExposition(this.registry);
  }

  #register(): void {
    this.watch({
      name: 'oarlock_refusals_total',
      help: 'Connections and requests refused or failed, by reason.',
      type: 'counter',
      // All at 0 from the start: an alert on rate() would miss the step from absent to 1.
      read: () =>
        directions.flatMap((direction) =>
          reasonCodes.map((reason) => ({
            labels: { reason, direction },
            value: this.#refusals[direction][reason],
          })),
        ),
    });
    this.watch({
      name: 'oarlock_connections_open',
      help: 'Downstream connections open now.',
      type: 'gauge',
      read: () =>
        directions.map((direction) => ({ labels: { direction }, value: this.openConnections[direction] })),
    });
    this.watch({
      name: 'oarlock_snapshot_generation',
      help: 'Generation of the snapshot in force; counts up with each swap.',
      type: 'gauge',
      // Threads take a new snapshot one after the other: the slowest says what holds everywhere.
      aggregator: 'min',
      read: () => this.snapshotGeneration,
    });
    this.watch({
      name: 'oarlock_config_valid',
      help: '1 while the resources last read are in force, 0 while a broken set keeps an older one in force.',
      type: 'gauge',
      aggregator: 'min',
      read: () => this.configValid,
    });
    this.watch({
      name: 'oarlock_config_reloads_total',
      help: 'Sets of resources read, by result.',
      type: 'counter',
      read: () => byResult(this.configReloads),
    });
    this.watch({
      name: 'oarlock_ext_authz_checks_total',
      help: 'Requests and connections that an external authorizer was asked about, by result.',
      type: 'counter',
      read: () => byResult(this.externalChecks),
    });
    this.watch({
      name: 'oarlock_audit_matches_total',
      help: 'Requests and connections that an AUDIT policy matched.',
      type: 'counter',
      read: () => this.observations.audits,
    });
    this.watch({
      name: 'oarlock_dry_run_decisions_total',
      help: 'What dry-run policies would have decided where they match.',
      type: 'counter',
      read: () => this.observations.dryRuns,
    });
  }

  #registerIdentity(): void {
    this.watch({
      name: 'oarlock_credentials_renewals_total',
      help: 'Attempts to get a certificate, by result.',
      type: 'counter',
      read: () => byResult(this.credentialRenewals),
    });
    this.watch({
      name: 'oarlock_credentials_alarms',
      help: '1 while something is wrong with our credentials or their renewal, by kind.',
      type: 'gauge',
      aggregator: 'max',
      read: () => alarmKinds.map((kind) => ({ labels: { kind }, value: this.credentialAlarms[kind] })),
    });
    this.watch({
      name: 'oarlock_clock_skew_seconds',
      help: "How far our clock is ahead of the CA's; negative: behind.",
      type: 'gauge',
      // Only the thread that asks the CA knows.
      aggregator: 'max',
      read: () => (this.clockSkewSeconds === null ? [] : this.clockSkewSeconds),
    });
    this.watch({
      name: 'oarlock_handshakes_total',
      help: 'TLS handshakes with peers, by what came of them.',
      type: 'counter',
      read: () =>
        directions.flatMap((direction) =>
          Object.entries(this.handshakes[direction]).map(([result, value]) => ({
            labels: { direction, result },
            value,
          })),
        ),
    });
    this.watch({
      name: 'oarlock_certificate_expiry_seconds',
      help: 'When our certificate expires, seconds since the epoch.',
      type: 'gauge',
      aggregator: 'min',
      read: () => {
        if (this.#certificate === null) return [];
        const { identity, serial, notAfter } = this.#certificate;
        return [{ labels: { identity, serial }, value: notAfter / 1000 }];
      },
    });
    this.watch({
      name: 'istio_agent_cert_expiry_seconds',
      help: "Seconds left until our certificate expires, under the name and resource names of Istio's agent.",
      type: 'gauge',
      aggregator: 'min',
      read: () => this.#secondsLeft(),
    });
  }

  #secondsLeft(): { labels: Labels; value: number }[] {
    if (this.#certificate === null) return [];
    const { notAfter, rootNotAfter } = this.#certificate;
    const now = this.#wallClock();
    const left = [{ labels: { resource_name: 'default' }, value: (notAfter - now) / 1000 }];
    if (rootNotAfter !== null) {
      left.push({ labels: { resource_name: 'ROOTCA' }, value: (rootNotAfter - now) / 1000 });
    }
    return left;
  }
}

function byResult(counts: Readonly<Record<string, number>>): { labels: Labels; value: number }[] {
  return Object.entries(counts).map(([result, value]) => ({ labels: { result }, value }));
}

function zeroReasons(): Record<ReasonCode, number> {
  const counts = {} as Record<ReasonCode, number>;
  for (const reason of reasonCodes) counts[reason] = 0;
  return counts;
}
