/** The record of a downstream connection, and the set of all of them: registered before judged, swept for deadlines. */
import { Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { ConnectionFacts } from '../mesh/facts.ts';
import type { Identity } from '../mesh/identity.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { LoggedConnection } from '../telemetry/access-record.ts';
import type { PeerSeries } from '../telemetry/mesh-metrics.ts';
import type { SeenHandshake } from './seen-handshake.ts';

export type Direction = 'inbound' | 'outbound';

/** What a connection came in by: an accepted socket, or a tunnel's stream that stands for one. */
export interface ConnectionSocket extends Duplex {
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
  readonly localAddress?: string | undefined;
  readonly localPort?: number | undefined;
  /** Ends it so that the peer sees an abort. */
  resetAndDestroy(): unknown;
}

/** What the downstream connected to. */
export interface LocalEnd {
  readonly address: string;
  readonly port: number;
}

/** Answers the CONNECT that opened a stream of a tunnel; what comes first counts. */
export interface ConnectAnswer {
  /** 200. Again: nothing. */
  accept(): void;
  /** Another status, and the end; where it was answered: a reset. */
  refuse(status: number): void;
}

/** What carries a connection's bytes once it is known; the set's owner steers it through this. */
export interface Carrier {
  /** It ends soon: says so where that can be said, and loses nothing by it. Absent where there is no place to say it. */
  retire?(): void;
  /** Finish what runs, take nothing new, then close. */
  drain(): void;
  /** Close now, both sides, as an abort: the connection too, whatever is still under way on it. */
  abort(): void;
}

/** Why we ended a connection. */
export interface Refusal {
  readonly reason: ReasonCode;
  readonly detail: string;
  /** `NS/NAME` of the policy or PeerAuthentication that asked for it; null where none did. */
  readonly policy: string | null;
}

/** One downstream connection. All fields are set at birth; the data path fills them in as it learns. */
export class Connection {
  readonly id: number;
  readonly direction: Direction;
  /** What was accepted. Its TLS, where there is any, is `stream`. */
  readonly socket: ConnectionSocket;
  /** Plaintext both ways: the socket itself, or its TLS. */
  stream: Duplex;
  /** All the downstream said before it ended its side, where that came while its first bytes were looked at. */
  early: Buffer | null = null;
  /** Inbound: the workload's port. Outbound: the egress listener's port, or the one it was going to. */
  readonly port: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  /** Wall clock for the log (ms since the epoch), monotonic for durations (ms). */
  readonly startedAt: number = Date.now();
  readonly startedTick: number = performance.now();
  /** Verified peer; null for plaintext and for the app's own connections. */
  peer: Identity | null = null;
  facts: ConnectionFacts | null = null;
  sni: string | null = null;
  /** What was seen of a TLS handshake that came to nothing; null: there was none, or nothing is known of it. */
  handshake: SeenHandshake | null = null;
  /** Of a tunnel's stream: answers its CONNECT. Null: it came as a connection of its own. */
  connect: ConnectAnswer | null = null;
  tls = false;
  series: PeerSeries | null = null;
  /** What the log says of it whatever it carries, made for the identity `loggedAs` of ours; null: nothing yet. */
  logged: LoggedConnection | null = null;
  loggedAs: Identity | null = null;
  /** Istio's cluster name, for the log: `outbound|9080||host`, `inbound|8080||`. */
  cluster = '';
  /** Host and port of our end, or of where a captured one was going: for the log. */
  readonly localPort: number;
  /** Held while the connection lives; null before detection ended. */
  carrier: Carrier | null = null;
  /** Bytes of plaintext from and to the downstream. */
  bytesReceived = 0;
  bytesSent = 0;
  /** `performance.now()` at which `onDeadline` is called; Infinity: never. */
  deadline: number = Number.POSITIVE_INFINITY;
  /** Called once by the sweep when the deadline passes. */
  onDeadline: ((connection: Connection) => void) | null = null;
  /** Judges this connection by the snapshot in force; closes it where that refuses it. Set once it is admitted. */
  rejudge: (() => void) | null = null;
  /** Bytes moved since the sweep last looked: an idle deadline is then put off. */
  active = false;
  /** Set while an idle deadline runs: activity moves it on instead of ending the connection. */
  idleMs = 0;
  closed = false;
  /** It ends soon: HTTP says so with its next answer. What cannot say so goes on. */
  retiring = false;
  /** Why we ended it, once we have: said once, and whatever falls apart after that is its consequence. */
  refusal: Refusal | null = null;

  /** @param local where it was going, of a captured one; null: to the socket's own address */
  constructor(
    id: number,
    direction: Direction,
    socket: ConnectionSocket,
    port: number,
    local: LocalEnd | null,
  ) {
    this.id = id;
    this.direction = direction;
    this.socket = socket;
    this.stream = socket;
    this.port = port;
    this.remoteAddress = unmapped(socket.remoteAddress ?? '');
    this.remotePort = socket.remotePort ?? 0;
    this.localAddress = local?.address ?? unmapped(socket.localAddress ?? '');
    this.localPort = local?.port ?? socket.localPort ?? port;
  }

  /** Gives the connection a fixed deadline. */
  expire(ms: number, onDeadline: (connection: Connection) => void): void {
    this.idleMs = 0;
    this.deadline = performance.now() + ms;
    this.onDeadline = onDeadline;
  }

  /** Lets the connection live while bytes move: it ends after `ms` to twice `ms` without any. */
  expireIdle(ms: number, onDeadline: (connection: Connection) => void): void {
    this.expire(ms, onDeadline);
    this.idleMs = ms;
  }

  /** Closes so that the peer sees an abort, never a clean end. */
  abort(): void {
    abortStream(this.stream, this.socket);
  }
}

/**
 * An address as policy compares it: IPv4-mapped IPv6 (`::ffff:10.0.0.1`, what a dual-stack listener reports) as
 * plain IPv4, and a link-local one without its zone (`fe80::1%eth0`), which is in no block of any policy.
 */
export function unmapped(address: string): string {
  const zone = address.indexOf('%');
  const bare = zone < 0 ? address : address.slice(0, zone);
  return bare.startsWith('::ffff:') && bare.includes('.') ? bare.slice(7) : bare;
}

/**
 * Closes a stream so that its peer sees an abort, never a clean end: RST under plaintext and TLS alike, RST_STREAM in a
 * tunnel. Where its end was said already, and is on its way, that is left to arrive.
 */
export function abortStream(stream: Duplex, socket: ConnectionSocket): void {
  // The socket first: a stream that is destroyed closes it in order.
  if (stream !== socket && beingShutDown(stream)) socket.destroy();
  else reset(socket);
  if (stream !== socket && !stream.destroyed) stream.destroy();
}

/** Resets a socket where it can be: a Unix socket has no reset (Node throws), there closing is all there is. */
export function reset(socket: ConnectionSocket): void {
  if (socket.destroyed) return;
  if (socket instanceof Socket && beingShutDown(socket)) {
    socket.destroy();
    return;
  }
  try {
    socket.resetAndDestroy();
  } catch {
    socket.destroy();
  }
}

/**
 * All was written and the FIN is on its way. libuv does not reset such a socket (EINVAL), and Node then forgets its
 * handle while it is open: the descriptor would leak, and nobody hear 'close'.
 */
function beingShutDown({ writableEnded, writableFinished, writableLength }: Duplex): boolean {
  return writableEnded && !writableFinished && writableLength === 0;
}

/** A sweep costs one comparison a connection; half a second is exact enough for every time-out we have. */
const SWEEP_MS = 500;

/** All downstream connections of this process. */
export class Connections {
  readonly #all = new Set<Connection>();
  readonly #max: number;
  readonly #sweeper: NodeJS.Timeout;
  readonly #open: Record<Direction, number>;
  readonly #sizes: Record<Direction, number> = { inbound: 0, outbound: 0 };
  /** When the last one went, `performance.now()`. */
  readonly #closedAt: Record<Direction, number> = {
    inbound: Number.NEGATIVE_INFINITY,
    outbound: Number.NEGATIVE_INFINITY,
  };
  #nextId = 1;
  /** Who waits for a side to be empty. */
  #waiting: { readonly direction: Direction; readonly resolve: () => void }[] = [];

  /** @param open counted up and down: the gauge of open connections */
  constructor(max: number, open: Record<Direction, number>) {
    this.#max = max;
    this.#open = open;
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
    this.#sweeper.unref();
  }

  get size(): number {
    return this.#all.size;
  }

  /** Registers an accepted socket; null where the limit is reached. */
  open(
    direction: Direction,
    socket: ConnectionSocket,
    port: number,
    local: LocalEnd | null = null,
  ): Connection | null {
    if (this.#all.size >= this.#max) return null;
    const connection = new Connection(this.#nextId++, direction, socket, port, local);
    this.#all.add(connection);
    this.#open[direction]++;
    this.#sizes[direction]++;
    return connection;
  }

  /** Forgets a connection; safe to call twice. */
  close(connection: Connection): boolean {
    if (!this.#all.delete(connection)) return false;
    this.#open[connection.direction]--;
    this.#sizes[connection.direction]--;
    this.#closedAt[connection.direction] = performance.now();
    connection.closed = true;
    connection.onDeadline = null;
    if (this.#waiting.length > 0) this.#tellEmpty();
    return true;
  }

  /** The live connections; safe against closing while walking. */
  list(): Iterable<Connection> {
    return [...this.#all];
  }

  /** For how long none of that side has been there, ms; Infinity: there never was one; 0: there is one. */
  quiet(direction: Direction): number {
    return this.#sizes[direction] > 0 ? 0 : performance.now() - this.#closedAt[direction];
  }

  /** Resolves when none of that side is left. */
  emptied(direction: Direction): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ direction, resolve });
      this.#tellEmpty();
    });
  }

  #tellEmpty(): void {
    this.#waiting = this.#waiting.filter(({ direction, resolve }) => {
      if (this.#sizes[direction] > 0) return true;
      resolve();
      return false;
    });
  }

  stop(): void {
    clearInterval(this.#sweeper);
  }

  #sweep(): void {
    const now = performance.now();
    for (const connection of this.#all) {
      if (connection.deadline > now) continue;
      if (connection.idleMs > 0 && connection.active) {
        connection.active = false;
        connection.deadline = now + connection.idleMs;
        continue;
      }
      const expired = connection.onDeadline;
      connection.deadline = Number.POSITIVE_INFINITY;
      expired?.(connection);
    }
  }
}

/** The TLS socket's accepted socket. Node keeps it under a name of its own; hidden here, null where it is gone. */
export function socketUnder(stream: TLSSocket): Socket | null {
  const parent: unknown = Reflect.get(stream, '_parent');
  return parent !== null && typeof parent === 'object' ? (parent as Socket) : null;
}
