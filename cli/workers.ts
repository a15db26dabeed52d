/** Several data-path threads as one data plane: the kernel spreads connections over them by SO_REUSEPORT. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { createSecureContext } from 'node:tls';
import { Worker } from 'node:worker_threads';
import type { Logger } from 'pino';
import { AggregatorRegistry, type Registry } from 'prom-client';
import type { SnapshotInput } from '../config/snapshot.ts';
import type { Credentials } from '../mesh/credentials.ts';
import { RevocationLists } from '../mesh/crl.ts';
import type { MeshSettings, Snapshot } from '../mesh/snapshot.ts';
import type { Direction } from '../proxy/connections.ts';
import { contextOptions, tlsPolicyOf } from '../proxy/mesh-tls.ts';
import {
  type CapturePorts,
  ListenError,
  listenError,
  type OwnPorts,
  whoAsks,
  withoutHbone,
} from '../proxy/setup/listeners.ts';
import { Trust, type TrustAdditions } from '../proxy/trust.ts';
import { mergeFlightLogs } from '../telemetry/flight-recorder.ts';
import type { DataPlane, IdentityReport, PlaneOptions, TrustUpdate } from './data-plane.ts';
import type { Order, WorkerAnswer, WorkerOptions, WorkerRequest } from './worker-messages.ts';

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** In a checkout the source runs as it is; the bundle has its worker beside it. */
const WORKER = import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js';

/** One thread, asked by message. A thread that dies takes the process with it: half a sidecar is none. */
class Thread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;

  constructor(options: WorkerOptions, onDeath: (error: Error) => void) {
    this.#worker = new Worker(new URL(WORKER, import.meta.url), { workerData: options });
    this.#worker.on('message', (answer: WorkerAnswer) => {
      const waiting = this.#waiting.get(answer.id);
      this.#waiting.delete(answer.id);
      if ('error' in answer) waiting?.reject(new ListenError(answer.error));
      else waiting?.resolve(answer.value);
    });
    this.#worker.on('error', onDeath);
    this.#worker.on('exit', (code) => onDeath(new Error(`a data-path thread ended with ${code}`)));
  }

  ask(order: Order): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...order, id } satisfies WorkerRequest);
    });
  }
}

export class WorkerPlane implements DataPlane {
  readonly #threads: readonly Thread[];
  readonly #onDeath: (error: Error) => void;
  readonly #options: PlaneOptions;
  #mesh: MeshSettings | null = null;
  #credentials: Credentials | null = null;
  #additions: TrustAdditions = { fetched: new Map(), revoked: RevocationLists.none };
  readonly #log: Logger;
  #ports: Record<string, number> = {};
  #hboneMissed = false;
  #inboundClosed = false;

  constructor(count: number, options: WorkerOptions, log: Logger, onDeath: (error: Error) => void) {
    this.#log = log;
    this.#onDeath = onDeath;
    this.#options = options.plane;
    this.#threads = Array.from({ length: count }, () => new Thread(options, onDeath));
  }

  async listen(own: OwnPorts): Promise<void> {
    if (own.capture === null) return;
    const capture = await this.#capturePorts(own.capture);
    const answers = await this.#all({ kind: 'listen', own: { ...own, capture } });
    this.#ports = answers[0] as Record<string, number>;
  }

  async apply(snapshot: Snapshot, own: OwnPorts, input: SnapshotInput): Promise<void> {
    // SO_REUSEPORT would let us share a port with a stranger: ask for each new one alone first.
    const ingress = this.#inboundClosed ? [] : snapshot.ingress;
    for (const { bind, port } of [...ingress, ...snapshot.egress]) {
      if (!Object.values(this.#ports).includes(port)) await probe(bind, port, 'the Sidecar resource');
    }
    const resources = input.resources.map(({ origin, ...rest }) => ({ ...rest, file: origin.file }));
    const hbone = await this.#hbonePort(own);
    const capture = own.capture === null ? null : await this.#capturePorts(own.capture);
    if (this.#credentials !== null) this.#check(this.#credentials, snapshot.mesh, this.#additions);
    // The kernel may give a port of its choice to somebody's outgoing connection as soon as nobody has it.
    const keeper =
      own.hbone === 0 && hbone !== null ? await listening(this.#options.bind, hbone, true) : null;
    try {
      const answers = await this.#all({
        kind: 'apply',
        own: { ...own, capture, hbone },
        input: { ...input, resources, problems: [] },
      });
      this.#ports = answers[0] as Record<string, number>;
      this.#mesh = snapshot.mesh;
    } finally {
      keeper?.close();
    }
  }

  /** As `#hbonePort`. @throws ListenError */
  async #capturePorts({ outbound, inbound, nonce }: CapturePorts): Promise<CapturePorts> {
    const port = async (kind: 'outbound' | 'inbound', asked: number | null): Promise<number | null> =>
      asked === null || this.#ports[kind] !== undefined
        ? (this.#ports[kind] ?? null)
        : await probe(this.#options.bind, asked, whoAsks(kind));
    return {
      outbound: await port('outbound', outbound),
      inbound: this.#inboundClosed ? null : await port('inbound', inbound),
      nonce,
    };
  }

  /** One port for all threads, also where the kernel chooses it. @throws ListenError */
  async #hbonePort({ hbone, hboneNeeded }: OwnPorts): Promise<number | null> {
    if (hbone === null || this.#inboundClosed || this.#ports.hbone !== undefined)
      return this.#ports.hbone ?? null;
    if (this.#hboneMissed && !hboneNeeded) return null;
    try {
      return await probe(this.#options.bind, hbone, whoAsks('hbone'));
    } catch (error) {
      // Each thread would find it free for itself, beside whoever has it.
      if (hboneNeeded || !(error instanceof ListenError)) throw error;
      this.#hboneMissed = true;
      this.#log.warn(withoutHbone(error));
      return null;
    }
  }

  useCredentials(credentials: Credentials): void {
    this.#check(credentials, this.#mesh, this.#additions);
    this.#credentials = credentials;
    this.#all({ kind: 'credentials', credentials }).catch(this.#onDeath);
  }

  useTrust(update: TrustUpdate): void {
    const { crl, fetched } = update;
    const additions = { fetched, revoked: crl === null ? RevocationLists.none : RevocationLists.read(crl) };
    if (this.#credentials !== null) this.#check(this.#credentials, this.#mesh, additions);
    this.#additions = additions;
    this.#all({ kind: 'trust', additions: update }).catch(this.#onDeath);
  }

  /**
   * Makes here what each thread will make, so that what cannot be used is refused before any of them has it: one that
   * failed alone would leave half a sidecar.
   * @throws where OpenSSL or our own reading of certificates refuses it
   */
  #check(credentials: Credentials, mesh: MeshSettings | null, additions: TrustAdditions): void {
    const trust = new Trust({ credentials, mesh, ...additions });
    const policy = tlsPolicyOf(mesh);
    createSecureContext(contextOptions({ credentials, trust, policy }));
  }

  async report(): Promise<IdentityReport> {
    const reports = (await this.#all({ kind: 'report' })) as IdentityReport[];
    return {
      bundles: reports[0]?.bundles ?? [],
      peers: reports.flatMap(({ peers }) => peers),
      flights: mergeFlightLogs(reports.map(({ flights }) => flights)),
    };
  }

  reopenLogs(): void {
    this.#all({ kind: 'reopen-logs' }).catch(this.#onDeath);
  }

  ports(): Record<string, number> {
    return this.#ports;
  }

  announce(ms: number): void {
    this.#all({ kind: 'announce', ms }).catch(this.#onDeath);
  }

  async drain(direction: Direction): Promise<void> {
    if (direction === 'inbound') this.#inboundClosed = true;
    await this.#all({ kind: 'drain', direction });
  }

  async stop(why: string): Promise<void> {
    await this.#all({ kind: 'stop', why });
  }

  /** Prometheus text of all threads and `own`, merged as each metric says. */
  async metrics(own: Registry): Promise<string> {
    const sets = [await own.getMetricsAsJSON(), ...(await this.#all({ kind: 'metrics' }))];
    return AggregatorRegistry.aggregate(sets as object[]).metrics();
  }

  #all(order: Order): Promise<unknown[]> {
    return Promise.all(this.#threads.map((thread) => thread.ask(order)));
  }
}

/** @param bind null or '': all addresses @returns the port, the kernel's choice for 0 @throws ListenError */
async function probe(bind: string | null, port: number, asks: string): Promise<number> {
  let server: Server;
  try {
    server = await listening(bind ?? '', port, false);
  } catch (error) {
    throw listenError({ bind: bind ?? '', port }, error as NodeJS.ErrnoException, asks);
  }
  const bound = (server.address() as AddressInfo).port;
  server.close();
  await once(server, 'close');
  return bound;
}

/** @param reusePort shared with whoever asks alike */
async function listening(bind: string, port: number, reusePort: boolean): Promise<Server> {
  const server = createServer();
  server.listen({ port, reusePort, ...(bind === '' ? {} : { host: bind }) });
  await once(server, 'listening');
  return server;
}
