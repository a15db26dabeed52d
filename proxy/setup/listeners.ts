/** The ports we accept on: opened and closed as snapshots ask, all or none. */
import { createServer, type Server, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import type { IngressListener, Snapshot } from '../../mesh/snapshot.ts';
import { fromSidecar, listenerAt } from '../captured-inbound.ts';
import { CapturedRoutes } from '../captured-outbound.ts';
import type { Direction } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import { type HboneListener, serveHbone } from '../hbone/serve.ts';
import { serveInbound } from '../inbound.ts';
import { serveOutbound } from '../outbound.ts';
import { EgressRoutes } from '../outbound-listener.ts';
import { loadBindFrom } from './bound-socket.ts';
import { Capture } from './capture.ts';
import { Held } from './held.ts';
import { LocalAddresses } from './local-addresses.ts';
import {
  type AskOriginalDestination,
  loadOriginalDestination,
  type OriginalDestination,
} from './original-destination.ts';

/** A port that could not be opened: names it and what to do. */
export class ListenError extends Error {}

/**
 * @param bind `''`: all addresses
 * @param asks who wants it
 */
export function listenError(
  { bind, port }: { readonly bind: string; readonly port: number },
  { code }: NodeJS.ErrnoException,
  asks: string,
): ListenError {
  const where = bind === '' ? `port ${port}` : `${bind}:${port}`;
  const why = code === 'EADDRINUSE' ? 'is in use by another process' : `cannot be opened: ${code}`;
  return new ListenError(`${where} ${why}; ${asks} asks for it`);
}

/** What is said where a port that nothing needs is another's. */
export function withoutHbone({ message }: ListenError): string {
  return `${message}; going on without HBONE, which nothing else asks for`;
}

type Wanted =
  | {
      readonly kind: 'ingress';
      readonly entry: IngressListener;
      readonly bind: string;
      readonly port: number;
    }
  | { readonly kind: 'egress'; readonly routes: EgressRoutes; readonly bind: string; readonly port: number }
  /** Ports of capture. */
  | { readonly kind: 'outbound' | 'inbound'; readonly bind: string; readonly port: number }
  | { readonly kind: 'hbone'; readonly entry: HboneListener; readonly bind: string; readonly port: number };

/** Where rules of capture redirect to. 0: the kernel's choice; null: nothing is captured that way. */
export interface CapturePorts {
  readonly outbound: number | null;
  readonly inbound: number | null;
  /** What a canary of this process hears at the inbound port. */
  readonly nonce: string;
}

/** The process's ports that no resource asks for. */
export interface OwnPorts {
  /** Null: nothing is captured. */
  readonly capture: CapturePorts | null;
  /** HBONE; 0: the kernel's choice; null: off. */
  readonly hbone: number | null;
  /** It must be there; else it is done without where another process has it. */
  readonly hboneNeeded: boolean;
  /** Admin, metrics, health: no tunnel leads there. */
  readonly others: readonly number[];
}

/** An open port. What it serves may change with a snapshot; the port itself stays open. */
interface Open {
  readonly server: Server;
  wanted: Wanted;
}

/** Their keys among what is open: no resource closes them. */
const HBONE = 'hbone';
const CAPTURE = ['outbound', 'inbound'] as const;
const OWN: ReadonlySet<string> = new Set([HBONE, ...CAPTURE]);
/** Pending connections the kernel keeps for us: a burst must not meet a full queue. */
const BACKLOG = 1_024;

export class Listeners {
  readonly #path: DataPath;
  readonly #bind: string;
  readonly #reusePort: boolean;
  readonly #open = new Map<string, Open>();
  #hboneMissed = false;
  #inboundClosed = false;
  /** Connections accepted from outside. */
  #inboundAccepted = 0;
  #ownPorts: OwnPorts = { capture: null, hbone: null, hboneNeeded: false, others: [] };
  /** Null while nothing is captured. */
  #capture: Capture | null = null;
  /** Of capture; known before their first connection is accepted. */
  readonly #capturePorts = new Set<number>();
  #ask: AskOriginalDestination | null;
  readonly #held = new Held();

  /**
   * @param options `bind`: address of our own ports and of ingress entries that name none; `''` means all addresses,
   *   both families. `ask`: who tells original destinations; the kernel unless told
   */
  constructor(
    path: DataPath,
    options: { readonly bind: string; readonly reusePort: boolean; readonly ask?: AskOriginalDestination },
  ) {
    this.#path = path;
    this.#ask = options.ask ?? null;
    this.#bind = options.bind;
    this.#reusePort = options.reusePort;
  }

  /** Open ports by name, for the ready line: `ingress:8080`, `egress:127.0.0.1:9080`, `hbone`, `outbound`, `inbound`. */
  ports(): Record<string, number> {
    const ports: Record<string, number> = {};
    for (const { wanted } of this.#open.values()) {
      if (OWN.has(wanted.kind)) {
        ports[wanted.kind] = wanted.port;
        continue;
      }
      const where = wanted.bind === '' ? '' : `${wanted.bind}:`;
      ports[`${wanted.kind}:${where}${wanted.port}`] = wanted.port;
    }
    return ports;
  }

  /**
   * Opens the ports of capture, HBONE's and what the snapshot asks for and is not open, then closes what it no longer asks for. Live
   * connections of a closed port stay.
   * @throws ListenError; nothing has changed then
   */
  async apply(snapshot: Snapshot, own: OwnPorts): Promise<void> {
    await this.listen(own);
    const wanted = this.#wanted(snapshot);
    const opened: [string, Open][] = [];
    try {
      const hbone = await this.#openHbone(own);
      if (hbone !== null) opened.push([HBONE, hbone]);
      for (const [key, want] of wanted) {
        if (!this.#open.has(key)) opened.push([key, await this.#listen(want)]);
      }
    } catch (error) {
      for (const [, { server }] of opened) server.close();
      throw error;
    }
    for (const [key, open] of opened) this.#open.set(key, open);
    for (const [key, open] of this.#open) {
      if (OWN.has(key)) continue;
      const want = wanted.get(key);
      if (want !== undefined) {
        open.wanted = want;
        continue;
      }
      open.server.close();
      this.#open.delete(key);
    }
  }

  /**
   * Opens the ports of capture, which may be before there is a snapshot: what the app asks for is held until there is.
   * They stay open.
   * @throws ListenError
   */
  async listen(own: OwnPorts): Promise<void> {
    this.#ownPorts = own;
    for (const kind of CAPTURE) {
      const open = await this.#openCapture(kind, own.capture?.[kind] ?? null);
      if (open !== null) this.#open.set(kind, open);
    }
  }

  /** Serves what was held, once there are credentials and a snapshot. */
  release(): void {
    if (this.#ready()) this.#held.release();
  }

  /** Stops accepting from outside; no later set opens such a port again. */
  async closeInbound(): Promise<void> {
    this.#inboundClosed = true;
    await this.#takeQueued();
    for (const [key, { server, wanted }] of this.#open) {
      if (directionOf(wanted) === 'outbound') continue;
      server.close();
      this.#open.delete(key);
    }
  }

  /**
   * Takes what the kernel has accepted for us already, one of each port a turn, as libuv does: a port that is closed
   * resets all that wait there.
   */
  async #takeQueued(): Promise<void> {
    // What is left of this turn may be behind its accepting.
    await setImmediate();
    for (let turns = 0, before = -1; before !== this.#inboundAccepted && turns < BACKLOG; turns++) {
      before = this.#inboundAccepted;
      await setImmediate();
    }
  }

  /** Stops accepting. */
  close(): void {
    this.#held.close();
    for (const { server } of this.#open.values()) server.close();
    this.#open.clear();
  }

  #wanted(snapshot: Snapshot): Map<string, Wanted> {
    const wanted = new Map<string, Wanted>();
    for (const entry of this.#inboundClosed ? [] : snapshot.ingress) {
      const bind = entry.bind ?? this.#bind;
      wanted.set(`${bind} ${entry.port}`, { kind: 'ingress', entry, bind, port: entry.port });
    }
    for (const entry of snapshot.egress) {
      const key = `${entry.bind} ${entry.port}`;
      if (wanted.has(key))
        throw new ListenError(`Sidecar: ingress and egress both ask for ${key.replace(' ', ':')}`);
      wanted.set(key, {
        kind: 'egress',
        routes: new EgressRoutes(entry),
        bind: entry.bind,
        port: entry.port,
      });
    }
    return wanted;
  }

  /** Loads what Node itself has not: before the first connection, for it takes its time. @throws ListenError */
  async #askKernel(): Promise<AskOriginalDestination> {
    try {
      this.#path.bindFrom = await loadBindFrom();
      return await loadOriginalDestination();
    } catch (error) {
      throw new ListenError(`--intercept redirect: koffi cannot be loaded: ${(error as Error).message}`);
    }
  }

  /** Once. @returns null where it is open or off @throws ListenError */
  async #openCapture(kind: 'outbound' | 'inbound', port: number | null): Promise<Open | null> {
    const closed = port === null || (kind === 'inbound' && this.#inboundClosed);
    if (closed || this.#open.has(kind)) return null;
    this.#ask ??= await this.#askKernel();
    this.#capture ??= new Capture({
      path: this.#path,
      ask: this.#ask,
      addresses: new LocalAddresses(),
      isOurs: (asked) => this.#isOurs(asked),
      isCapture: (asked) => this.#capturePorts.has(asked),
      nonce: () => this.#ownPorts.capture?.nonce ?? '',
    });
    const open = await this.#listen({ kind, bind: this.#bind, port });
    this.#capturePorts.add(open.wanted.port);
    return open;
  }

  /** Once. @returns null where it is open, off, or another's and not needed */
  async #openHbone({ hbone, hboneNeeded }: OwnPorts): Promise<Open | null> {
    // It is tried once: a port that comes free later, unasked for, is nothing to start using in the midst of things.
    const closed = hbone === null || this.#inboundClosed;
    if (closed || this.#open.has(HBONE) || (this.#hboneMissed && !hboneNeeded)) return null;
    const entry: HboneListener = {
      port: hbone,
      captures: this.#captures,
      isOurs: (port) => this.#isOurs(port),
    };
    try {
      return await this.#listen({ kind: 'hbone', entry, bind: this.#bind, port: hbone });
    } catch (error) {
      if (hboneNeeded || !(error instanceof ListenError)) throw error;
      this.#hboneMissed = true;
      this.#path.log.warn(withoutHbone(error));
      return null;
    }
  }

  /** Rules of capture lead what comes for the app to us. */
  get #captures(): boolean {
    return (this.#ownPorts.capture?.inbound ?? null) !== null;
  }

  /** Ports that we listen on, or the process does: what a tunnel brings there would come back to us, or reach the admin API. */
  #isOurs(port: number): boolean {
    if (this.#ownPorts.others.includes(port)) return true;
    for (const { wanted } of this.#open.values()) if (wanted.port === port) return true;
    return false;
  }

  #listen(wanted: Wanted): Promise<Open> {
    const { bind, port } = wanted;
    const open: Open = {
      server: createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: false }),
      wanted,
    };
    open.server.on('connection', (socket: Socket) => this.#accepted(open, socket));
    return new Promise((resolve, reject) => {
      open.server.once('error', (error: NodeJS.ErrnoException) => {
        reject(listenError({ bind, port }, error, whoAsks(wanted.kind)));
      });
      open.server.listen(
        { port, backlog: BACKLOG, reusePort: this.#reusePort, ...(bind === '' ? {} : { host: bind }) },
        () => {
          // Running out of descriptors must not end the process; the kernel's queue holds the rest.
          open.server.removeAllListeners('error');
          open.server.on('error', (error) =>
            this.#path.log.error({ error: error.message, port }, 'accept failed'),
          );
          const bound = open.server.address();
          if (bound !== null && typeof bound === 'object') open.wanted = boundTo(wanted, bound.port);
          resolve(open);
        },
      );
    });
  }

  #accepted(open: Open, socket: Socket): void {
    const { kind, port } = open.wanted;
    if (directionOf(open.wanted) === 'inbound') this.#inboundAccepted++;
    let original: OriginalDestination | null = null;
    if (kind === 'outbound' || kind === 'inbound') {
      original = this.#capture?.admit(kind, port, socket) ?? null;
      if (original === null) return;
    }
    if (this.#ready()) {
      this.#serve(open.wanted, socket, original);
      return;
    }
    const serve = (): void => this.#serve(open.wanted, socket, original);
    const turnAway = (): void => this.#turnAway(open, socket);
    if (!this.#held.take(directionOf(open.wanted), socket, { serve, turnAway })) turnAway();
  }

  #ready(): boolean {
    return this.#path.outboundTls !== null && this.#path.snapshot !== null;
  }

  #turnAway({ wanted }: Open, socket: Socket): void {
    this.#path.turnAway(socket, directionOf(wanted), wanted.port, 'no_credentials');
  }

  #serve(wanted: Wanted, socket: Socket, original: OriginalDestination | null): void {
    const path = this.#path;
    if (wanted.kind === 'egress') serveOutbound(path, wanted.routes, socket);
    else if (wanted.kind === 'hbone') serveHbone(path, wanted.entry, socket);
    else if (wanted.kind === 'ingress') {
      const { port, protocol, defaultEndpoint } = wanted.entry;
      const app = this.#captures ? fromSidecar(defaultEndpoint) : defaultEndpoint;
      serveInbound(path, { port, protocol, app }, socket);
    } else if (original !== null && path.snapshot !== null) {
      if (wanted.kind === 'outbound')
        serveOutbound(path, new CapturedRoutes(path.snapshot, original), socket, original);
      else serveInbound(path, listenerAt(path.snapshot, original, true), socket, original);
    }
  }
}

function directionOf({ kind }: Wanted): Direction {
  return kind === 'egress' || kind === 'outbound' ? 'outbound' : 'inbound';
}

/** Whose wish a port is, for an error. */
export function whoAsks(kind: 'ingress' | 'egress' | 'hbone' | 'outbound' | 'inbound'): string {
  if (kind === 'hbone') return 'HBONE (--hbone-port, --bind)';
  if (kind === 'outbound' || kind === 'inbound') return `${kind} capture (--${kind}-port, --bind)`;
  return `the Sidecar resource's ${kind} entry`;
}

/** As it is where the kernel has chosen its port. */
function boundTo(wanted: Wanted, port: number): Wanted {
  return wanted.kind === 'hbone'
    ? { ...wanted, port, entry: { ...wanted.entry, port } }
    : { ...wanted, port };
}
