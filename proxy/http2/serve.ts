/** Serves a downstream that speaks HTTP/2: one session, a judged and reported exchange a stream, floods bounded. */
import {
  constants,
  performServerHandshake,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Carrier, Connection } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import type { HttpSideBase } from '../http/side-base.ts';
import { asRaw, type RawFields } from './head.ts';
import { ServerStream, type StreamOwner } from './server-stream.ts';
import { endWithPeer, SESSION_MEMORY, WINDOWS_A_SESSION } from './upstream-session.ts';

/** How often streams that do not move are looked for, ms. */
const SWEEP_MS = 500;
/** Between the GOAWAY that warns and the one that counts: what was on its way has come by then. The next sweep looks. */
const LAST_CALL_MS = 400;
/** No stream has a higher one. */
const MAX_STREAM_ID = 2 ** 31 - 1;
/** Frames that are wrong, and streams beyond their bound, before the session is ended. */
const MAX_INVALID_FRAMES = 100;
/** `node:http2` ends a session, and all on it, at 1,000 resets and then 33 a second, whatever they were of. `#reset` judges them. */
const UNCOUNTED = 2 ** 31;

/**
 * Serves all streams of a connection whose `stream` speaks HTTP/2 from its first byte on. Sets its carrier and its
 * deadlines.
 * @param makeSide called once a stream
 */
export function serveHttp2(path: DataPath, connection: Connection, makeSide: () => HttpSideBase): void {
  if (connection.closed) return;
  connection.carrier = new ServerSession(path, connection, makeSide);
}

class ServerSession implements Carrier, StreamOwner {
  readonly connection: Connection;
  readonly #path: DataPath;
  readonly #makeSide: () => HttpSideBase;
  readonly #session: ServerHttp2Session;
  readonly #streams = new Set<ServerStream>();
  /** The peer's SETTINGS came: it does speak HTTP/2. */
  #settled = false;
  #idleSince = performance.now();
  #opened = 0;
  #resets = 0;
  /** When the GOAWAY goes that counts; Infinity: none has gone. */
  #lastCallAt = Number.POSITIVE_INFINITY;
  /** It was told to calm down, and ends. */
  #calmed = false;

  constructor(path: DataPath, connection: Connection, makeSide: () => HttpSideBase) {
    this.connection = connection;
    this.#path = path;
    this.#makeSide = makeSide;
    const { limits } = path;
    endWithPeer(connection.stream, connection.socket);
    const session = performServerHandshake(connection.stream, {
      settings: {
        initialWindowSize: limits.streamWindow,
        maxConcurrentStreams: limits.maxStreams,
        maxHeaderListSize: limits.maxHeadBytes,
      },
      // Up to twice as many are answered, more are reset.
      maxHeaderListPairs: 2 * limits.maxHeadFields,
      maxSessionInvalidFrames: MAX_INVALID_FRAMES,
      maxSessionRejectedStreams: MAX_INVALID_FRAMES,
      streamResetBurst: UNCOUNTED,
      streamResetRate: UNCOUNTED,
      maxSessionMemory: SESSION_MEMORY,
      strictSingleValueFields: false,
    });
    this.#session = session;
    session.setLocalWindowSize(WINDOWS_A_SESSION * limits.streamWindow);
    session.on('error', ignore);
    session.on('remoteSettings', () => {
      this.#settled = true;
    });
    session.on('stream', (stream, headers, flags, raw) => this.#onStream(stream, flags, asRaw(raw, headers)));
    session.on('close', () => connection.abort());
    this.#arm();
  }

  /** RFC 9113 §6.8: a GOAWAY that says how it will be, a moment for what is on its way, and one that counts. */
  retire(): void {
    const session = this.#session;
    if (this.#lastCallAt !== Number.POSITIVE_INFINITY || session.closed || session.destroyed) return;
    this.#lastCallAt = performance.now() + LAST_CALL_MS;
    session.goaway(constants.NGHTTP2_NO_ERROR, MAX_STREAM_ID);
  }

  drain(): void {
    this.retire();
  }

  abort(): void {
    for (const stream of [...this.#streams]) stream.abort();
    // RST_STREAM goes first: behind GOAWAY, Node's http2 takes an answer whose connection breaks for complete. And the
    // session may be at work on what the socket read: closing it now would pull that away from under it.
    setImmediate(() => {
      this.#session.destroy();
      this.connection.abort();
    });
  }

  streamOver(stream: ServerStream, premature: boolean): void {
    this.#streams.delete(stream);
    this.#idleSince = performance.now();
    if (premature) this.#reset();
  }

  #onStream(stream: ServerHttp2Stream, flags: number, raw: RawFields): void {
    this.#opened++;
    this.connection.active = true;
    const side = this.#makeSide();
    const serving = new ServerStream(this, stream, side);
    side.carrier = serving;
    this.#streams.add(serving);
    serving.start(flags, raw);
    if (this.#path.draining[this.connection.direction]) this.retire();
  }

  /**
   * A peer that asks and takes it back makes us and the app work for nothing (CVE-2023-44487). Envoy's measure: so
   * many, and most of all it asked for; but one that waited for a while and left is no such peer.
   */
  #reset(): void {
    const { maxStreamResets } = this.#path.limits;
    if (++this.#resets <= maxStreamResets || 2 * this.#resets <= this.#opened) return;
    if (this.#calmed) return;
    this.#calmed = true;
    this.#path.refused(this.connection, 'too_many_resets', {
      detail: `${this.#resets} of ${this.#opened} streams`,
    });
    // Destroying it with that code would say NO_ERROR.
    this.#session.goaway(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    for (const stream of [...this.#streams]) stream.abort();
    setImmediate(() => this.#session.destroy());
  }

  #arm(): void {
    this.connection.expire(SWEEP_MS, () => this.#sweep());
  }

  #sweep(): void {
    const now = performance.now();
    const { limits } = this.#path;
    for (const stream of [...this.#streams]) stream.look(now);
    const idle = this.#streams.size === 0 ? now - this.#idleSince : 0;
    if (!this.#settled && now - this.connection.startedTick > limits.handshakeTimeout) this.abort();
    else if (now > this.#lastCallAt) this.#session.close();
    else if (this.connection.retiring || idle > limits.idleTimeout) this.retire();
    this.#arm();
  }
}

function ignore(): void {}
