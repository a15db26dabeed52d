/** The data path of one thread with its listeners, log and metrics: what `run` steers, in its own thread or in others. */
import { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import { TlsFileCache } from '../ca-client/tls-files.ts';
import type { SnapshotInput } from '../config/snapshot.ts';
import type { MeshAccessLog } from '../mesh/access-format.ts';
import type { Credentials, TrustBundle } from '../mesh/credentials.ts';
import { RevocationLists } from '../mesh/crl.ts';
import type { Limits } from '../mesh/limits.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import { DnsCache } from '../providers/dns.ts';
import { createExtAuthz, type ExtAuthzClient } from '../providers/ext-authz.ts';
import { JwksStore, type KeySourceStatus } from '../providers/jwks.ts';
import { createTokenVerifier } from '../providers/tokens.ts';
import { connectProvider } from '../proxy/connect-provider.ts';
import type { Connection, Direction } from '../proxy/connections.ts';
import { DataPath } from '../proxy/data-path.ts';
import { Listeners, type OwnPorts } from '../proxy/setup/listeners.ts';
import { refuseConnection } from '../proxy/tcp.ts';
import { type AccessLogFlags, AccessLogKeeper } from '../telemetry/access-log.ts';
import type { PeerCertificate } from '../telemetry/certs-view.ts';
import type { FlightLog } from '../telemetry/flight-recorder.ts';
import type { MeshMetrics } from '../telemetry/mesh-metrics.ts';
import { Announcement, QUIET_MS } from './announcement.ts';

/** What `run` asks of the data path, however many threads it has. */
export interface DataPlane {
  /**
   * Opens the ports of capture, before there is a snapshot: what comes there is held until there is one, and credentials.
   * @throws ListenError
   */
  listen(own: OwnPorts): Promise<void>;
  /**
   * Opens the listeners a snapshot asks for and puts it in force.
   * @param own the ports that the process has beside those of the snapshot
   * @param input what it was compiled from, for threads that compile their own
   * @throws ListenError; the set in force has not changed then
   */
  apply(snapshot: Snapshot, own: OwnPorts, input: SnapshotInput): Promise<void>;
  /** Puts credentials in force. @throws where OpenSSL cannot use them; the old ones stay then */
  useCredentials(credentials: Credentials): void;
  /** Puts revocation lists and fetched roots in force; live connections of those they refuse are closed. */
  useTrust(additions: TrustUpdate): void;
  /** Whom we trust, are connected to, and could not shake hands with. */
  report(): Promise<IdentityReport>;
  /** Opens the access log's file anew: whoever rotates logs has moved it. */
  reopenLogs(): void;
  /** Open listeners by name, for the ready line. */
  ports(): Record<string, number>;
  /**
   * Tells callers, one after the other, that their connections end, and serves on: new ones are taken. Again: nothing.
   * @param ms how long they have to go elsewhere
   */
  announce(ms: number): void;
  /**
   * Ends a side: what runs on it may finish, and says so to its peers where it can. From outside nothing new is taken
   * any more; the app's new connections are, until `stop`.
   * @returns when none of its connections is left, and none of the app's has been there for a moment
   */
  drain(direction: Direction): Promise<void>;
  /** Closes all. @param why told of the connections that are left */
  stop(why: string): Promise<void>;
}

/** What trust rests on beside credentials and resources. Plain data: it also crosses to a thread. */
export interface TrustUpdate {
  /** Revocation lists, PEM or DER, as `RevocationLists.read` takes them; null: none. */
  readonly crl: Uint8Array | null;
  /** Roots by the `spiffeBundleUrl` they were fetched from, PEM. */
  readonly fetched: ReadonlyMap<string, readonly string[]>;
}

/** Plain data, of one thread or of all. */
export interface IdentityReport {
  /** Ours first. */
  readonly bundles: readonly TrustBundle[];
  readonly peers: readonly PeerCertificate[];
  readonly flights: FlightLog;
}

/** Plain data: it also crosses to a thread. */
export interface PlaneOptions {
  readonly limits: Limits;
  readonly bind: string;
  readonly accessLog: AccessLogFlags;
  /** Several threads listen on the same port, and the kernel spreads connections over them. */
  readonly reusePort: boolean;
}

const NOT_SAID: MeshAccessLog = { file: null, encoding: null, format: null };

/** The data path in the calling thread. */
export class LocalPlane implements DataPlane {
  readonly #log: Logger;
  readonly #metrics: MeshMetrics;
  readonly #accessLog: AccessLogKeeper;
  readonly #path: DataPath;
  readonly #listeners: Listeners;
  readonly #keys: JwksStore;
  readonly #extAuthz: ExtAuthzClient;
  #announcement: Announcement | null = null;
  /** Those that look for idle connections of a side that ends. */
  readonly #looking: NodeJS.Timeout[] = [];

  /** @throws where the access log's file cannot be opened */
  constructor(options: PlaneOptions, log: Logger, metrics: MeshMetrics) {
    const { limits, bind, accessLog, reusePort } = options;
    const files = new TlsFileCache();
    this.#log = log;
    this.#metrics = metrics;
    this.#accessLog = new AccessLogKeeper(accessLog);
    this.#keys = new JwksStore({ onChange: (status) => this.#keysChanged(status) });
    this.#extAuthz = createExtAuthz((service, port) => connectProvider(this.#path, service, port));
    this.#path = new DataPath({
      limits,
      log,
      // A file that a flag names must be there to be opened, whatever mesh config says later.
      accessLog: accessLog.accessLog === null ? null : this.#accessLog.use(NOT_SAID),
      metrics,
      readTlsFiles: (tls) => files.read(tls),
      names: new DnsCache({
        refresh: limits.dnsRefresh,
        maxNames: limits.dnsNames,
        timeout: limits.connectTimeout,
      }),
      verifierOf: (rules) => createTokenVerifier(rules, this.#keys),
      extAuthz: this.#extAuthz,
    });
    this.#listeners = new Listeners(this.#path, { bind, reusePort });
    metrics.watch({
      name: 'oarlock_access_log_dropped_total',
      help: 'Access log lines lost because their destination was slow, full or gone.',
      type: 'counter',
      read: () => this.#accessLog.dropped,
    });
    metrics.watch({
      name: 'oarlock_key_sets',
      help: 'Places that keys of tokens are fetched from: fresh, stale (the last fetch failed) or missing.',
      type: 'gauge',
      read: () => countStates(this.#keys.status().map(({ keys, failures }) => ({ has: keys, failures }))),
    });
    metrics.watch({
      name: 'oarlock_tunnels',
      help: 'HBONE tunnels open now: outbound, those to peers; inbound, those that peers made to us.',
      type: 'gauge',
      read: () => this.#perSide('tunnels'),
    });
    metrics.watch({
      name: 'oarlock_handshakes_waiting',
      help: 'Inbound TLS handshakes that wait for their turn: as many as --max-handshakes are under way.',
      type: 'gauge',
      read: () => this.#path.handshakes.waiting,
    });
    metrics.watch({
      name: 'oarlock_tunnel_streams',
      help: 'Connections that HBONE tunnels carry now.',
      type: 'gauge',
      read: () => this.#perSide('streams'),
    });
  }

  listen(own: OwnPorts): Promise<void> {
    return this.#listeners.listen(own);
  }

  async apply(snapshot: Snapshot, own: OwnPorts): Promise<void> {
    // First: a file that cannot be opened keeps the set out of force, and one that can does no harm to the old set.
    this.#path.accessLog = this.#accessLog.use(snapshot.accessLog);
    await this.#listeners.apply(snapshot, own);
    this.#keys.retain(snapshot.tokens.rules);
    this.#path.applySnapshot(snapshot);
    this.#listeners.release();
    this.#metrics.snapshotGeneration = snapshot.generation;
  }

  useCredentials(credentials: Credentials): void {
    this.#path.applyCredentials(credentials);
    this.#listeners.release();
  }

  useTrust({ crl, fetched }: TrustUpdate): void {
    const revoked = crl === null ? RevocationLists.none : RevocationLists.read(crl);
    this.#path.applyTrust({ fetched, revoked });
  }

  report(): Promise<IdentityReport> {
    const { trust, links, flights } = this.#path;
    return Promise.resolve({ bundles: trust?.bundles ?? [], peers: links.list(), flights: flights.list() });
  }

  reopenLogs(): void {
    try {
      this.#accessLog.current?.reopen();
    } catch (error) {
      this.#log.error({ error: (error as Error).message }, 'the access log could not be opened anew');
    }
  }

  ports(): Record<string, number> {
    return this.#listeners.ports();
  }

  announce(ms: number): void {
    const { connections } = this.#path;
    const inbound = (): Connection[] =>
      [...connections.list()].filter(({ direction }) => direction === 'inbound');
    this.#announcement ??= new Announcement(inbound, ms);
  }

  async drain(direction: Direction): Promise<void> {
    this.#announcement?.stop();
    const { connections, draining } = this.#path;
    draining[direction] = true;
    if (direction === 'inbound') await this.#listeners.closeInbound();
    const since = performance.now();
    for (const connection of connections.list())
      if (connection.direction === direction) connection.carrier?.retire?.();
    const looking = setInterval(() => this.#endIdle(direction, since), QUIET_MS / 2);
    this.#looking.push(looking);
    await connections.emptied(direction);
    // The app was told that its connections end: it makes a new one for what it asks next.
    while (direction === 'outbound' && connections.quiet(direction) < QUIET_MS) {
      await pause(QUIET_MS - connections.quiet(direction));
      await connections.emptied(direction);
    }
    clearInterval(looking);
  }

  /**
   * Ends what has had its time to be used once more: an answer would have said that the connection ends, and a request
   * that meets the end of an idle one on its way would be lost.
   */
  #endIdle(direction: Direction, since: number): void {
    const before = performance.now() - QUIET_MS;
    for (const connection of this.#path.connections.list()) {
      const { socket, carrier, startedTick } = connection;
      if (connection.direction !== direction || Math.max(since, startedTick) > before) continue;
      if (carrier !== null) carrier.drain();
      else if (socket instanceof Socket && socket.bytesRead === 0)
        refuseConnection(this.#path, connection, 'draining', { detail: 'nothing was said on it' });
    }
  }

  async stop(why: string): Promise<void> {
    const { connections } = this.#path;
    this.#listeners.close();
    for (const looking of this.#looking) clearInterval(looking);
    if (connections.size > 0) {
      this.#log.warn({ connections: connections.size, why }, 'closing what has not finished');
      for (const connection of connections.list())
        refuseConnection(this.#path, connection, 'draining', { detail: why });
    }
    this.#path.stop();
    this.#keys.close();
    this.#extAuthz.close();
    await this.#accessLog.close();
  }

  #perSide(what: 'tunnels' | 'streams'): { labels: { direction: string }; value: number }[] {
    const { tunnels } = this.#path;
    return [
      { labels: { direction: 'inbound' }, value: tunnels.counts('server')[what] },
      { labels: { direction: 'outbound' }, value: tunnels.counts('client')[what] },
    ];
  }

  #keysChanged({ place, uri, keys, failures, lastError }: KeySourceStatus): void {
    if (lastError === null)
      this.#log.info({ place, uri, count: keys }, 'keys that tokens are verified with were fetched');
    else
      this.#log.warn({ place, failures, count: keys, error: lastError }, 'no new keys to verify tokens with');
  }
}

/** One count for each state there is of what is fetched, so that an alarm can be written before the first failure. */
export function countStates(
  places: readonly { readonly has: number; readonly failures: number }[],
): { labels: { state: string }; value: number }[] {
  const counts = { fresh: 0, stale: 0, missing: 0 };
  for (const { has, failures } of places) counts[has === 0 ? 'missing' : failures > 0 ? 'stale' : 'fresh']++;
  return Object.entries(counts).map(([state, value]) => ({ labels: { state }, value }));
}
