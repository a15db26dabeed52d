/** The ports we accept on: opened and closed as snapshots ask, all or none. */
import { createServer, type Server, type Socket } from 'node:net';
import type { EgressListener, IngressListener, Snapshot } from '../../mesh/snapshot.ts';
import type { DataPath } from '../data-path.ts';
import { type HboneListener, serveHbone } from '../hbone/serve.ts';
import { serveInbound } from '../inbound.ts';
import { serveOutbound } from '../outbound.ts';

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
  | { readonly kind: 'egress'; readonly entry: EgressListener; readonly bind: string; readonly port: number }
  | { readonly kind: 'hbone'; readonly entry: HboneListener; readonly bind: string; readonly port: number };

/** The process's ports that no resource asks for. */
export interface OwnPorts {
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

/** Its key among what is open. */
const HBONE = 'hbone';
/** Pending connections the kernel keeps for us: a burst must not meet a full queue. */
const BACKLOG = 1_024;
/** Connections held until credentials arrive. */
const MAX_HELD = 1_024;
/** How long one is held: longer than a CA's restart, shorter than anyone's patience. */
const HOLD_MS = 60_000;

/** A connection that waits for credentials. */
interface Held {
  readonly open: Open;
  readonly forget: () => void;
  readonly timer: NodeJS.Timeout;
}

function ignore(): void {}

export class Listeners {
  readonly #path: DataPath;
  readonly #bind: string;
  readonly #reusePort: boolean;
  readonly #open = new Map<string, Open>();
  #hboneMissed = false;
  #ownPorts: OwnPorts = { hbone: null, hboneNeeded: false, others: [] };
  /** Accepted before we had credentials: held, not refused, so that an app may start before its sidecar is ready. */
  readonly #held = new Map<Socket, Held>();

  /** @param options `bind`: address of ingress entries that name none; `''` means all addresses, both families */
  constructor(path: DataPath, options: { readonly bind: string; readonly reusePort: boolean }) {
    this.#path = path;
    this.#bind = options.bind;
    this.#reusePort = options.reusePort;
  }

  /** Open ports by name, for the ready line: `ingress:8080`, `egress:127.0.0.1:9080`, `hbone`. */
  ports(): Record<string, number> {
    const ports: Record<string, number> = {};
    for (const { wanted } of this.#open.values()) {
      if (wanted.kind === 'hbone') {
        ports.hbone = wanted.port;
        continue;
      }
      const where = wanted.bind === '' ? '' : `${wanted.bind}:`;
      ports[`${wanted.kind}:${where}${wanted.port}`] = wanted.port;
    }
    return ports;
  }

  /**
   * Opens HBONE's port and what the snapshot asks for and is not open, then closes what it no longer asks for. Live
   * connections of a closed port stay.
   * @throws ListenError; nothing has changed then
   */
  async apply(snapshot: Snapshot, own: OwnPorts): Promise<void> {
    this.#ownPorts = own;
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
      if (key === HBONE) continue;
      const want = wanted.get(key);
      if (want !== undefined) {
        open.wanted = want;
        continue;
      }
      open.server.close();
      this.#open.delete(key);
    }
  }

  /** Credentials are there: serves what was held for them. */
  release(): void {
    for (const [socket, { open, forget, timer }] of this.#held) {
      clearTimeout(timer);
      socket.off('end', forget).off('close', forget);
      this.#serve(open.wanted, socket);
    }
    this.#held.clear();
  }

  /** Stops accepting. */
  close(): void {
    for (const socket of this.#held.keys()) socket.destroy();
    for (const { server } of this.#open.values()) server.close();
    this.#open.clear();
  }

  #wanted(snapshot: Snapshot): Map<string, Wanted> {
    const wanted = new Map<string, Wanted>();
    for (const entry of snapshot.ingress) {
      const bind = entry.bind ?? this.#bind;
      wanted.set(`${bind} ${entry.port}`, { kind: 'ingress', entry, bind, port: entry.port });
    }
    for (const entry of snapshot.egress) {
      const key = `${entry.bind} ${entry.port}`;
      if (wanted.has(key))
        throw new ListenError(`Sidecar: ingress and egress both ask for ${key.replace(' ', ':')}`);
      wanted.set(key, { kind: 'egress', entry, bind: entry.bind, port: entry.port });
    }
    return wanted;
  }

  /** Once. @returns null where it is open, off, or another's and not needed */
  async #openHbone({ hbone, hboneNeeded }: OwnPorts): Promise<Open | null> {
    // It is tried once: a port that comes free later, unasked for, is nothing to start using in the midst of things.
    if (hbone === null || this.#open.has(HBONE) || (this.#hboneMissed && !hboneNeeded)) return null;
    const entry: HboneListener = { port: hbone, isOurs: (port) => this.#isOurs(port) };
    try {
      return await this.#listen({ kind: 'hbone', entry, bind: this.#bind, port: hbone });
    } catch (error) {
      if (hboneNeeded || !(error instanceof ListenError)) throw error;
      this.#hboneMissed = true;
      this.#path.log.warn(withoutHbone(error));
      return null;
    }
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
        const asks =
          wanted.kind === 'hbone'
            ? 'HBONE (--hbone-port, --bind)'
            : `the Sidecar resource's ${wanted.kind} entry`;
        reject(listenError({ bind, port }, error, asks));
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
          if (wanted.kind === 'hbone' && bound !== null && typeof bound === 'object')
            open.wanted = { ...wanted, port: bound.port, entry: { ...wanted.entry, port: bound.port } };
          resolve(open);
        },
      );
    });
  }

  #accepted(open: Open, socket: Socket): void {
    if (this.#path.outboundTls !== null) this.#serve(open.wanted, socket);
    else if (this.#held.size < MAX_HELD) this.#hold(open, socket);
    else this.#turnAway(open, socket);
  }

  /** One that leaves or has waited too long makes room. */
  #hold(open: Open, socket: Socket): void {
    const forget = (): void => {
      const held = this.#held.get(socket);
      // It ended its side and said nothing, or it is gone: nobody waits any more.
      if (held === undefined || (!socket.destroyed && socket.readableLength > 0)) return;
      clearTimeout(held.timer);
      this.#held.delete(socket);
      socket.destroy();
    };
    const timer = setTimeout(() => {
      this.#held.delete(socket);
      this.#turnAway(open, socket);
    }, HOLD_MS);
    socket.on('error', ignore);
    socket.on('end', forget).on('close', forget);
    this.#held.set(socket, { open, forget, timer });
  }

  #turnAway({ wanted }: Open, socket: Socket): void {
    const direction = wanted.kind === 'egress' ? 'outbound' : 'inbound';
    this.#path.turnAway(socket, direction, wanted.port, 'no_credentials');
  }

  #serve(wanted: Wanted, socket: Socket): void {
    if (wanted.kind === 'egress') {
      serveOutbound(this.#path, wanted.entry, socket);
      return;
    }
    if (wanted.kind === 'hbone') {
      serveHbone(this.#path, wanted.entry, socket);
      return;
    }
    const { port, protocol, defaultEndpoint } = wanted.entry;
    serveInbound(this.#path, { port, protocol, app: defaultEndpoint }, socket);
  }
}
