/** The identity side of `run`: where credentials come from and who keeps them, revocation lists, fetched roots; what is told of them. */
import { X509Certificate } from 'node:crypto';
import type { Logger } from 'pino';
import { type CrlFile, watchCrl } from '../ca-client/crl-file.ts';
import { CredentialKeeper } from '../ca-client/keeper.ts';
import { splitCertificates } from '../ca-client/pem.ts';
import type { CredentialSource } from '../ca-client/source.ts';
import type { RunOptions } from '../config/options.ts';
import type { Credentials } from '../mesh/credentials.ts';
import { RevocationLists } from '../mesh/crl.ts';
import type { Identity } from '../mesh/identity.ts';
import { openCertificate } from '../mesh/path-rules.ts';
import type { ListIssuer } from '../mesh/revocation-list.ts';
import type { MeshSettings, Snapshot } from '../mesh/snapshot.ts';
import { type BundleStatus, type BundleStore, createBundleStore } from '../providers/spiffe-bundles.ts';
import { tlsPolicyOf } from '../proxy/mesh-tls.ts';
import { rehearse } from '../proxy/rehearse.ts';
import { Trust } from '../proxy/trust.ts';
import { type CertsView, type CrlView, certsView } from '../telemetry/certs-view.ts';
import { alarmKinds } from '../telemetry/daemon-metrics.ts';
import type { MeshMetrics } from '../telemetry/mesh-metrics.ts';
import { countStates, type DataPlane, type TrustUpdate } from './data-plane.ts';

export interface OwnIdentityParts {
  readonly options: RunOptions;
  readonly plane: DataPlane;
  readonly log: Logger;
  readonly metrics: MeshMetrics;
  /** A first or a new set is in force. */
  readonly onChange: () => void;
}

/** So often it is looked whether the wall clock was set, and by so much it must have been. */
const CLOCK_LOOK_MS = 1_000;
const CLOCK_JUMP_MS = 2_000;

/** Not ready any more, so that load goes elsewhere, for this share of a certificate's life before its end. */
const LAST_SHARE = 0.05;
const LEAST_LAST_MS = 1_000;
const MOST_LAST_MS = 60_000;

export class OwnIdentity {
  readonly #options: RunOptions;
  readonly #plane: DataPlane;
  readonly #log: Logger;
  readonly #metrics: MeshMetrics;
  readonly #onChange: () => void;
  readonly #bundles: BundleStore;
  #mesh: MeshSettings | null = null;
  /** What the data plane was told last. */
  #trust: TrustUpdate = { crl: null, fetched: new Map() };
  #crl: CrlFile | null = null;
  readonly #clockWatch: NodeJS.Timeout;
  #keeper: CredentialKeeper | null = null;
  /** URI of the identity the keeper was started for. */
  #keptFor = '';
  #credentials: Credentials | null = null;
  #stopped = false;

  constructor({ options, plane, log, metrics, onChange }: OwnIdentityParts) {
    this.#options = options;
    this.#plane = plane;
    this.#log = log;
    this.#metrics = metrics;
    this.#onChange = onChange;
    this.#clockWatch = this.#watchClock();
    this.#bundles = createBundleStore({ onChange: (status) => this.#bundleChanged(status) });
    metrics.watch({
      name: 'oarlock_trust_bundles',
      help: 'SPIFFE bundles that mesh config names by URL: fresh, stale (the last fetch failed) or missing.',
      type: 'gauge',
      read: () =>
        countStates(this.#bundles.status().map(({ roots, failures }) => ({ has: roots, failures }))),
    });
  }

  /** The keeper goes by a clock that is never set and stands still while the machine sleeps; certificates do not. */
  #watchClock(): NodeJS.Timeout {
    let before = Date.now() - performance.now();
    const timer = setInterval(() => {
      const now = Date.now() - performance.now();
      const jumped = Math.abs(now - before) > CLOCK_JUMP_MS;
      before = now;
      // Not all of a machine's sidecars, nor all that were stopped with it, in the same moment.
      if (jumped) setTimeout(() => this.#keeper?.wake(), CLOCK_JUMP_MS * Math.random()).unref();
    }, CLOCK_LOOK_MS);
    timer.unref();
    return timer;
  }

  /**
   * Reads the revocation lists, if there are to be any: before the first handshake, for a list that cannot be read
   * revokes nobody.
   * @throws CredentialsError
   */
  async start(): Promise<void> {
    const { crlFile } = this.#options;
    if (crlFile === null) return;
    this.#crl = await watchCrl({
      file: crlFile,
      authorities: () => this.#authorities(),
      onLists: () => {
        this.#log.info({ file: crlFile }, 'revocation lists are in force');
        this.#useTrust();
      },
      onProblem: (problem) => this.#log.error({ file: crlFile }, problem),
      onRecovered: () => this.#log.info({ file: crlFile }, 'revocation lists can be read again'),
    });
    this.#useTrust();
  }

  /** The CAs above our own certificate and every root we trust, for whomever; none before the first credentials. */
  #authorities(): readonly ListIssuer[] {
    const credentials = this.#credentials;
    if (credentials === null) return [];
    const above = splitCertificates(credentials.chainPem, 'our chain').slice(1);
    const sources = {
      credentials,
      mesh: this.#mesh,
      fetched: this.#fetched(),
      revoked: RevocationLists.none,
    };
    return [...above, ...new Trust(sources).rootsPem].map((pem) => openCertificate(pem));
  }

  /** Goes by the resources now in force: who we are, whose roots are fetched. */
  follow({ identity, mesh }: Snapshot): void {
    this.#mesh = mesh;
    this.#bundles.retain(bundleUrls(mesh));
    this.#crl?.look();
    this.#obtainFor(identity);
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#clockWatch);
    this.#keeper?.stop();
    this.#crl?.close();
    this.#bundles.close();
  }

  /** The set in force, expired or not. */
  get credentials(): Credentials | null {
    return this.#credentials;
  }

  /** What is missing before we can be ready, for people; empty: nothing. */
  waitingFor(now: number): readonly string[] {
    const credentials = this.#credentials;
    if (credentials === null) {
      const reason = this.#keeper?.state.waitingFor ?? null;
      return [reason === null ? 'credentials' : `credentials: ${reason}`];
    }
    if (now >= credentials.notAfter) return ['credentials: ours have expired'];
    const { notBefore, notAfter } = credentials;
    const last = Math.min(Math.max((notAfter - notBefore) * LAST_SHARE, LEAST_LAST_MS), MOST_LAST_MS);
    return now >= notAfter - last
      ? [`credentials: ours expire at ${new Date(notAfter).toISOString()}, and there are no newer ones`]
      : [];
  }

  /** What is wrong though we may be ready. */
  warnings(): readonly string[] {
    const state = this.#keeper?.state;
    const alarms = (state?.alarms ?? []).map(({ message }) => message);
    const lastError = state?.lastError ?? null;
    const problem = this.#crl?.problem ?? null;
    const unfetched = this.#bundles.status().filter(({ lastError: fault }) => fault !== null);
    return [
      ...alarms,
      ...(lastError === null || alarms.some((text) => text.includes(lastError)) ? [] : [lastError]),
      ...(problem === null ? [] : [problem]),
      ...unfetched.map(({ url, lastError: fault }) => `no new roots from ${url}: ${fault}`),
    ];
  }

  /** `GET /certs`. */
  async view(): Promise<CertsView> {
    const { bundles, peers } = await this.#plane.report();
    return certsView(
      {
        credentials: this.#credentials,
        bundles,
        fetched: this.#bundles.status(),
        crl: this.#crl === null ? null : crlView(this.#crl, String(this.#options.crlFile), Date.now()),
        rotation: this.#keeper?.state ?? null,
        peers,
      },
      Date.now(),
    );
  }

  /** Starts the keeper, or another one where our identity has become another. */
  #obtainFor(identity: Identity): void {
    const { credentials } = this.#options;
    // A CA is asked for an identity; the other sources have one.
    if (this.#keeper !== null && (credentials.kind !== 'ca' || this.#keptFor === identity.uri)) return;
    this.#keptFor = identity.uri;
    this.#keeper?.stop();
    // A keeper that was stopped tells nothing more.
    for (const kind of alarmKinds) this.#metrics.credentialAlarms[kind] = 0;
    void this.#source(identity).then(
      (source) => {
        if (this.#stopped || this.#keptFor !== identity.uri) return;
        this.#keeper = this.#keep(source, identity);
        this.#keeper.start();
      },
      (error: Error) => this.#log.error(error.message),
    );
  }

  #keep(source: CredentialSource, identity: Identity): CredentialKeeper {
    const { limits } = this.#options;
    return new CredentialKeeper({
      source,
      rehearse: (fresh, signal) => rehearse(fresh, tlsPolicyOf(this.#mesh), limits, signal),
      onCredentials: (fresh) => this.#renewed(fresh, identity),
      onFailure: (error, { attempt, nextRetryMs, kind }) => {
        this.#metrics.credentialRenewals.failure++;
        this.#tellSkew();
        this.#log.error(
          { origin: source.origin, attempt, nextRetryMs, kind },
          `no new credentials: ${error.message}`,
        );
      },
      onAlarm: (kind, raised, message) => {
        this.#metrics.credentialAlarms[kind] = raised ? 1 : 0;
        if (raised) this.#log.error({ alarm: kind }, message);
        else this.#log.info({ alarm: kind }, `over: ${message}`);
      },
    });
  }

  async #source(identity: Identity): Promise<CredentialSource> {
    const { credentials, clusterId } = this.#options;
    if (credentials.kind === 'files') {
      const { fileSource } = await import('../ca-client/files.ts');
      return fileSource({ dir: credentials.dir, onWarning: (message) => this.#log.warn(message) });
    }
    if (credentials.kind === 'spiffe') {
      const { workloadApiSource } = await import('../ca-client/workload-api.ts');
      const { socket, hint, spiffeId } = credentials;
      return workloadApiSource({
        socket,
        identity: null,
        preferred: identity,
        ...(hint === null ? {} : { hint }),
        ...(spiffeId === null ? {} : { spiffeId }),
      });
    }
    const { istioCaSource } = await import('../ca-client/istio-ca.ts');
    const { address, rootFile, tokenFile, keyType, ttlMs } = credentials;
    return istioCaSource({ address, caRootFile: rootFile, tokenFile, identity, clusterId, keyType, ttlMs });
  }

  #renewed(credentials: Credentials, expected: Identity): void {
    this.#plane.useCredentials(credentials);
    this.#credentials = credentials;
    const { origin, serial, notAfter, identity, rootsPem } = credentials;
    this.#metrics.credentialRenewals.success++;
    this.#tellSkew();
    this.#metrics.setCertificateExpiry({
      identity: identity.uri,
      serial,
      notAfter,
      rootNotAfter: Math.min(...rootsPem.map((pem) => new X509Certificate(pem).validToDate.getTime())),
    });
    const facts = { origin, serial, identity: identity.uri, notAfter: new Date(notAfter).toISOString() };
    this.#log.info(facts, 'new credentials are in force');
    if (identity.uri !== expected.uri) {
      this.#log.warn(
        { identity: identity.uri, expected: expected.uri },
        "the identity of the credentials is not the workload's",
      );
    }
    // Only now it is known whose lists count.
    this.#crl?.look();
    this.#onChange();
  }

  #tellSkew(): void {
    const skewMs = this.#keeper?.state.clockSkewMs ?? null;
    this.#metrics.clockSkewSeconds = skewMs === null ? null : skewMs / 1000;
  }

  #bundleChanged({ url, roots, failures, lastError }: BundleStatus): void {
    if (lastError === null) this.#log.info({ url, count: roots }, 'roots of a trust domain were fetched');
    else this.#log.warn({ url, failures, count: roots, error: lastError }, 'no new roots of a trust domain');
    this.#crl?.look();
    this.#useTrust();
  }

  /** By the URL they come from. */
  #fetched(): ReadonlyMap<string, readonly string[]> {
    const fetched = new Map<string, readonly string[]>();
    for (const url of this.#mesh === null ? [] : bundleUrls(this.#mesh)) {
      const roots = this.#bundles.bundles(url);
      if (roots !== null) fetched.set(url, roots);
    }
    return fetched;
  }

  #useTrust(): void {
    const fetched = this.#fetched();
    const crl = this.#crl?.current.bytes ?? null;
    // A fetch that failed, or brought the same roots, must not make TLS anew: sessions, tunnels and pools would go.
    const same =
      crl === this.#trust.crl && JSON.stringify([...fetched]) === JSON.stringify([...this.#trust.fetched]);
    if (same) return;
    try {
      this.#plane.useTrust({ crl, fetched });
      this.#trust = { crl, fetched };
    } catch (error) {
      this.#log.error({ error: (error as Error).message }, 'the trust before stays in force');
    }
  }
}

function bundleUrls({ caCertificates }: MeshSettings): readonly string[] {
  return caCertificates.flatMap(({ spiffeBundleUrl: url }) => (url === null ? [] : [url]));
}

function crlView({ current: { lists }, problem }: CrlFile, file: string, now: number): CrlView {
  return {
    file,
    lists: lists.summaries.map(({ issuer, entries, nextUpdate }) => ({
      issuer,
      entries,
      nextUpdate: nextUpdate === null ? null : new Date(nextUpdate).toISOString(),
      stale: nextUpdate !== null && now > nextUpdate,
    })),
    error: problem,
  };
}
