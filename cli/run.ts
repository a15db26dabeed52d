/** `oarlock run`: puts the daemon together from its parts, and takes it down in order. The only file that knows everyone. */
import { randomUUID } from 'node:crypto';
import { writeSync } from 'node:fs';
import type { Logger } from 'pino';
import type { ResourceSet } from '../config/folder.ts';
import { type RunOptions, readRunOptions } from '../config/options.ts';
import { compileSnapshot, type SnapshotInput, type WorkloadChoice } from '../config/snapshot.ts';
import { UsageError } from '../config/usage-error.ts';
import { type FolderWatcher, watchFolders } from '../config/watcher.ts';
import { problemLine } from '../mesh/resource.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import { ProbeServer } from '../probes/serve.ts';
import { Canary, rulesGone } from '../proxy/setup/canary.ts';
import type { OwnPorts } from '../proxy/setup/listeners.ts';
import { takesHbone } from '../registry/hbone.ts';
import { snapshotView } from '../telemetry/admin-views.ts';
import { createLogger } from '../telemetry/log.ts';
import { defaultSeriesBounds, MeshMetrics } from '../telemetry/mesh-metrics.ts';
import { type Readiness, type Servers, startServers } from '../telemetry/servers.ts';
import { AppProcesses } from './app-processes.ts';
import { AppSockets } from './app-sockets.ts';
import { type DataPlane, LocalPlane } from './data-plane.ts';
import { giveBackWhenQuiet } from './give-back.ts';
import { OwnIdentity } from './own-identity.ts';
import { keepMemoryPrivate } from './private-memory.ts';
import { type AppWatch, LAST_WORDS, leave, type StopTimes, untilGone } from './stop.ts';
import { WorkerPlane } from './workers.ts';

/** Runs until a signal or `/quitquitquit`. @throws UsageError and the like before it is up: exit status 2 */
export async function run(parsed: Record<string, unknown>): Promise<void> {
  const daemon = new Daemon(readRunOptions(parsed));
  await daemon.start();
}

const RULES_BACK = 'the rules of capture stand again';
const UNDEFINED_HOST =
  'no ServiceEntry defines this host and port: ALLOW_ANY passes it through in plaintext, REGISTRY_ONLY refuses it';
/** How soon a set that could not be put in force, though valid, is tried again. */
const RETRY_MS = 5_000;
/** How long callers have to go elsewhere where nothing says how long we stay: Istio's terminationDrainDuration. */
const ANNOUNCE_MS = 5_000;

class Daemon {
  readonly #options: RunOptions;
  readonly #log: Logger;
  readonly #metrics: MeshMetrics;
  readonly #plane: DataPlane;
  /** Set where the data path runs in threads of its own: their metrics must be fetched. */
  readonly #workers: WorkerPlane | null;
  readonly #identity: OwnIdentity;
  /** What tells of the app at the end; null: nothing but its connections to us. */
  readonly #app: AppWatch | null;
  /** The app's processes, where we are to leave with them. */
  readonly #processes: AppProcesses | null;
  #snapshot: Snapshot | null = null;
  #servers: Servers | null = null;
  #watcher: FolderWatcher | null = null;
  #waitingFor: string | null = 'a valid snapshot';
  /** What the set last read lacks, though it is valid: `WorkloadEntry NS/NAME`. */
  #missing: string | null = null;
  /** Why the resources last read are not in force. */
  #problems: readonly string[] = [];
  #retry: NodeJS.Timeout | undefined;
  /** By what canaries know that they came to this process. */
  readonly #canaryNonce = randomUUID();
  /** Null where no rules are to lead to us, or not yet. */
  #canary: Canary | null = null;
  #announced = false;
  #stopping = false;
  /** By `performance.now()`; null: nobody has told us that we shall leave. */
  #leavingSince: number | null = null;
  /** The stop has come to its end: nothing is put in force any more. */
  #left = false;
  /** Aborted when we stop. */
  readonly #over = new AbortController();
  /** Snapshots are put in force one after the other. */
  #applying: Promise<void> = Promise.resolve();

  constructor(options: RunOptions) {
    const { limits, bind, concurrency, logLevel, clusterId } = options;
    this.#options = options;
    this.#log = createLogger(logLevel);
    this.#metrics = new MeshMetrics({
      ...defaultSeriesBounds,
      now: () => performance.now(),
      cluster: clusterId,
    });
    this.#metrics.collectProcess();
    const { accessLog, accessLogEncoding } = options;
    const plane = { limits, bind, accessLog: { accessLog, accessLogEncoding }, reusePort: concurrency > 1 };
    const dead = (error: Error): void => this.#broken(error);
    this.#workers =
      concurrency > 1 ? new WorkerPlane(concurrency, { plane, logLevel, clusterId }, this.#log, dead) : null;
    this.#plane = this.#workers ?? new LocalPlane(plane, this.#log, this.#metrics);
    this.#processes = options.exitWithApp === null ? null : new AppProcesses(options.exitWithApp);
    this.#app = watchOf(options.intercept === 'redirect' ? new AppSockets() : null, this.#processes);
    this.#identity = new OwnIdentity({
      options,
      plane: this.#plane,
      log: this.#log,
      metrics: this.#metrics,
      onChange: () => this.#announceOnce(),
    });
  }

  async start(): Promise<void> {
    const leak = keepMemoryPrivate();
    if (leak !== null) this.#log.warn(leak);
    // First: a container's pid 1 is deaf to signals that it has no ear for.
    process.on('SIGTERM', () => this.#signalled('SIGTERM'));
    process.on('SIGINT', () => this.#signalled('SIGINT'));
    process.on('SIGHUP', () => this.#signalled('SIGHUP'));
    // Envoy's signal for it. Node would else open its debugger's port.
    process.on('SIGUSR1', () => this.#plane.reopenLogs());
    process.on('uncaughtException', (error) => this.#broken(error));
    this.#servers = await this.#startServers();
    // Before all that takes its time: the app may be there already, and the rules of capture send it here.
    await this.#plane.listen(this.#ownPorts(null));
    this.#watcher = watchFolders({ paths: this.#options.config, onChange: (set) => this.#changed(set) });
    const input = this.#inputOf(this.#watcher.current);
    const snapshot = this.#compile(input);
    if (this.#problems.length > 0) {
      throw new UsageError(`the resources are not valid:\n${this.#problems.join('\n')}`);
    }
    await this.#identity.start();
    if (this.#processes !== null) void this.#leaveWith(this.#processes);
    if (snapshot !== null) await this.#putInForce(snapshot, input);
    if (this.#waitingFor !== null) this.#log.warn({ waitingFor: this.#waitingFor }, 'waiting, not ready');
  }

  // ---- resources

  #inputOf(set: ResourceSet): SnapshotInput {
    const { rootNamespace, trustDomain, trustDomainAliases, intercept } = this.#options;
    return {
      ...set,
      workload: choiceOf(this.#options),
      overrides: {
        rootNamespace: rootNamespace ?? undefined,
        trustDomain: trustDomain ?? undefined,
        trustDomainAliases: trustDomainAliases ?? undefined,
      },
      intercept,
      generation: (this.#snapshot?.generation ?? 0) + 1,
    };
  }

  /** @returns null where the set has an Error (then `#problems` says so) or our workload is not there yet */
  #compile(input: SnapshotInput): Snapshot | null {
    const { snapshot, waitingFor, problems } = compileSnapshot(input);
    this.#problems = problems.filter(({ severity }) => severity === 'Error').map(problemLine);
    if (snapshot !== null) this.#warn(snapshot);
    this.#missing = waitingFor;
    if (this.#snapshot === null) this.#waitingFor = waitingFor;
    return snapshot;
  }

  /** What Istio would do silently and a reader should know, the routes' included. */
  #warn({ warnings, egress, route, mesh: { outboundTrafficPolicy } }: Snapshot): void {
    for (const warning of warnings) this.#log.warn(warning);
    for (const { hosts, port } of egress) {
      for (const host of hosts) {
        const known = route(host, port);
        if (known === null) this.#log.warn({ host, port, outboundTrafficPolicy }, UNDEFINED_HOST);
        for (const warning of known?.warnings ?? []) this.#log.warn({ host, port }, warning);
      }
    }
  }

  #changed(set: ResourceSet): void {
    clearTimeout(this.#retry);
    this.#applying = this.#applying.then(async () => {
      if (this.#left) return;
      const input = this.#inputOf(set);
      const snapshot = this.#compile(input);
      if (snapshot !== null) {
        try {
          await this.#putInForce(snapshot, input);
        } catch (error) {
          // A port in use may become free without any file changing.
          this.#problems = [(error as Error).message];
          this.#retry = setTimeout(() => this.#changed(set), RETRY_MS);
        }
      } else if (this.#problems.length === 0 && this.#snapshot !== null) {
        this.#problems = [`${this.#missing ?? 'our workload'} is gone`];
      }
      if (this.#problems.length === 0) return;
      this.#metrics.configValid = 0;
      this.#metrics.configReloads.rejected++;
      this.#log.error(
        { problems: this.#problems, generation: this.#snapshot?.generation ?? 0 },
        'the changed resources are not valid: the last good set stays in force',
      );
    });
  }

  /** @throws ListenError; the set in force has not changed then */
  async #putInForce(snapshot: Snapshot, input: SnapshotInput): Promise<void> {
    await this.#plane.apply(snapshot, this.#ownPorts(snapshot), input);
    if (!this.#stopping) this.#warnOfHbone(snapshot);
    this.#watchRules();
    this.#snapshot = snapshot;
    this.#waitingFor = null;
    this.#metrics.snapshotGeneration = snapshot.generation;
    this.#metrics.configValid = 1;
    this.#metrics.configReloads.applied++;
    this.#log.info(
      { generation: snapshot.generation, identity: snapshot.identity.uri },
      'resources are in force',
    );
    this.#identity.follow(snapshot);
    this.#announceOnce();
  }

  /** @param snapshot null: there is none yet, and HBONE waits for it */
  #ownPorts(snapshot: Snapshot | null): OwnPorts {
    const { hbonePort, hboneAsked, outboundPort: outbound, inboundPort: inbound } = this.#options;
    return {
      capture: outbound === null && inbound === null ? null : { outbound, inbound, nonce: this.#canaryNonce },
      hbone: hbonePort,
      hboneNeeded: hboneAsked || (snapshot !== null && takesHbone(snapshot.workload)),
      others: Object.values(this.#servers?.ports ?? {}).filter((port) => port !== null),
    };
  }

  /** From when the inbound port of capture is open. */
  #watchRules(): void {
    const { inboundPort, limits } = this.#options;
    if (inboundPort === null || limits.canaryInterval === 0 || this.#canary !== null || this.#stopping)
      return;
    const canary = new Canary({
      intervalMs: limits.canaryInterval,
      nonce: this.#canaryNonce,
      changed: (family, why) => {
        if (why === null) this.#log.info({ family }, RULES_BACK);
        else this.#log.error({ family, detail: why }, rulesGone(family, why));
      },
      proven: () => this.#announceOnce(),
    });
    this.#canary = canary;
    this.#metrics.watch({
      name: 'oarlock_capture_rules',
      help: 'Whether the rules of capture stand, 1 or 0, by family: as the last canary found.',
      type: 'gauge',
      read: () => canary.gauge(),
    });
  }

  /** Peers go by the resources, whatever our flag says. */
  #warnOfHbone({ workload, hbonePort: dialled }: Snapshot): void {
    const bound = this.#plane.ports().hbone ?? null;
    if (!takesHbone(workload) || bound === dialled) return;
    const ours = bound === null ? 'off' : `on port ${bound}`;
    this.#log.warn(
      `peers dial HBONE on port ${dialled} of ${workload.namespace}/${workload.name}, and ours is ${ours}: ` +
        "set --hbone-port, or the WorkloadEntry's port named hbone",
    );
  }

  // ---- readiness

  #readiness(): Readiness {
    const waitingFor = [...this.#identity.waitingFor(Date.now()), ...(this.#canary?.waitingFor() ?? [])];
    if (this.#waitingFor !== null) waitingFor.unshift(this.#waitingFor);
    if (this.#stopping) waitingFor.push('nothing: it is stopping');
    else if (this.#leavingSince !== null) waitingFor.push('nothing: it is about to leave');
    return {
      ready: waitingFor.length === 0,
      waitingFor,
      warnings: [...this.#problems, ...this.#identity.warnings(), ...(this.#canary?.warnings() ?? [])],
    };
  }

  #announceOnce(): void {
    if (this.#announced || this.#servers === null || !this.#readiness().ready) return;
    this.#announced = true;
    void giveBackWhenQuiet(this.#log);
    const identity = this.#identity.credentials?.identity.uri;
    const ports = { ...this.#servers.ports, ...this.#plane.ports() };
    writeSync(1, `${JSON.stringify({ ready: true, identity, ports })}\n`);
  }

  #startServers(): Promise<Servers> {
    const { adminPort, healthPort, metricsPort } = this.#options;
    const listen = (port: number | null) => (port === null ? null : { host: null, port });
    return startServers(
      { health: listen(healthPort), metrics: listen(metricsPort), admin: listen(adminPort) },
      {
        readiness: () => this.#readiness(),
        metrics: async () => ({
          contentType: this.#metrics.registry.contentType,
          text: await (this.#workers?.metrics(this.#metrics.registry) ?? this.#metrics.text()),
        }),
        certs: () => this.#identity.view(),
        handshakes: async () => (await this.#plane.report()).flights,
        snapshot: () => snapshotView(this.#snapshot, this.#problems),
        probes: this.#probes(),
        drain: () => this.#announceEnd(),
        quit: () => this.#signalled('/quitquitquit'),
        failed: (error, path) =>
          this.#log.error({ path, error: String(error) }, 'the answer could not be made'),
      },
    );
  }

  #probes(): ProbeServer | null {
    const { appProbes, workload, intercept } = this.#options;
    if (appProbes.size === 0) return null;
    const captured = intercept === 'redirect';
    return new ProbeServer({
      probes: appProbes,
      // Without capture our own listeners are at the pod's address.
      address: captured && workload.kind === 'pod' ? (workload.addresses[0] ?? null) : null,
      captured,
      turned: (path, failure) => {
        if (failure === null) this.#log.info({ path }, "the app's probe succeeds again");
        else this.#log.warn({ path, failure }, "the app's probe fails");
      },
    });
  }

  // ---- the end

  /** A Job is complete when all its containers are: ours has nothing to do once the app's processes have come and gone. */
  async #leaveWith(app: AppProcesses): Promise<void> {
    const { signal } = this.#over;
    this.#log.info({ processes: this.#options.exitWithApp }, 'waiting for the app, to leave with it');
    await app.come(signal);
    if (!signal.aborted) this.#log.info('the app runs: we leave when it is gone');
    await untilGone(app, this.#log, signal);
    if (!this.#stopping) this.#end('the app is gone', LAST_WORDS, null);
  }

  /** The app is about to be told to stop, and serves on meanwhile: callers go elsewhere before. */
  #announceEnd(): void {
    if (this.#stopping || this.#leavingSince !== null) return;
    this.#leavingSince = performance.now();
    const ms = this.#options.limits.drainDelay || ANNOUNCE_MS;
    this.#log.info({ ms }, 'about to leave: callers are told to go elsewhere');
    this.#plane.announce(ms);
  }

  #signalled(cause: string): void {
    if (this.#stopping) {
      this.#log.warn({ cause }, 'told to stop again: leaving at once');
      process.exit(0);
    }
    this.#end(cause, this.#options.limits, this.#app);
  }

  #end(cause: string, times: StopTimes, app: AppWatch | null): void {
    this.#stopping = true;
    this.#over.abort();
    this.#canary?.stop();
    void this.#stop(cause, times, app).finally(() => process.exit(0));
  }

  /**
   * In order: what runs may finish, by resources and credentials that are kept up to the end; then nothing new is
   * learned; the servers that tell of it go last.
   */
  async #stop(cause: string, times: StopTimes, app: AppWatch | null): Promise<void> {
    const { drain, drainDelay: delay } = times;
    // Callers were told before: that time is theirs no second time.
    const told = this.#leavingSince === null ? 0 : performance.now() - this.#leavingSince;
    const drainDelay = Math.max(0, delay - told);
    this.#log.info({ cause, drainDelayMs: Math.round(drainDelay), drainMs: drain }, 'stopping');
    const why = await leave({ plane: this.#plane, times: { drain, drainDelay }, log: this.#log, app });
    this.#left = true;
    clearTimeout(this.#retry);
    this.#watcher?.close();
    this.#identity.stop();
    await this.#plane.stop(why);
    await this.#servers?.close();
    this.#log.info('stopped');
    this.#log.flush();
  }

  /** Something that cannot be mended from within: say so and let the supervisor start us anew. */
  #broken(error: Error): void {
    if (this.#stopping) return;
    this.#log.fatal({ error: error.stack ?? error.message }, 'the data path broke');
    this.#log.flush();
    process.exit(1);
  }
}

/** The app is there while one of them says so. */
function watchOf(...watches: readonly (AppWatch | null)[]): AppWatch | null {
  const real = watches.filter((watch) => watch !== null);
  if (real.length === 0) return null;
  return {
    sees: async () => {
      for (const watch of real) if (await watch.sees()) return true;
      return false;
    },
  };
}

function choiceOf({ workload }: RunOptions): WorkloadChoice {
  if (workload.kind === 'entry') return { entry: `${workload.namespace}/${workload.name}` };
  const { namespace, name, labels, serviceAccount, addresses, ports } = workload;
  return { namespace, name, labels, serviceAccount, addresses, ports };
}
