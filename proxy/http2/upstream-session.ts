/** One HTTP/2 connection to an upstream: how many streams run on it, and whether it takes more. */
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { Limits } from '../../mesh/limits.ts';
import type { DialTarget, Reached, Upstream } from '../dial.ts';
import type { Told } from '../told.ts';
import type { VerifiedPeer } from '../verify-peer.ts';

/** A session's window is as many of its streams': one that is not read must not stop the others. */
export const WINDOWS_A_SESSION = 16;
/**
 * MB that `node:http2` may count for a session before it refuses streams: no bound. What waited on a stream that was
 * cut it goes on counting, so that a session would end up refusing all; windows, streams and back-pressure bound what
 * one does hold.
 */
export const SESSION_MEMORY = 2 ** 32 - 1;

/**
 * Bytes of answers that an app wrote and we cut. One on `node:http2` counts them as held (see `SESSION_MEMORY`) and by
 * default refuses all streams of a session at 10 MB.
 */
const MAX_LOST = 4_000_000;
/** Of an answer that does not tell its length: what an app writes ahead. */
const LOST_UNTOLD = 65_536;

/** Half of the 2^30 that there are ids for. */
const MAX_STREAMS_EVER = 2 ** 29;

/** What a session tells whoever keeps it. */
export interface SessionKeeper {
  /** A stream ended, or the peer allows more or fewer. */
  roomChanged(session: UpstreamSession): void;
  closed(session: UpstreamSession): void;
}

export class UpstreamSession implements Reached {
  readonly key: string;
  readonly target: DialTarget;
  readonly upstream: Upstream;
  readonly generation: number;
  readonly #session: ClientHttp2Session;
  readonly #keeper: SessionKeeper;
  readonly #maxStreams: number;
  #peerMaxStreams = Number.POSITIVE_INFINITY;
  /** Streams under way, those promised included. */
  #open = 0;
  #entered = 0;
  /** Streams that we reset, and how many at most. */
  #resets = 0;
  readonly #maxResets: number;
  #lost = 0;
  #retired = false;
  /** What the peer's GOAWAY says of the streams that it has looked at, or will. */
  #lastStream = Number.POSITIVE_INFINITY;
  idleSince: number = performance.now();

  constructor(upstream: Upstream, target: DialTarget, limits: Limits, keeper: SessionKeeper) {
    this.key = upstream.key;
    this.target = target;
    this.upstream = upstream;
    this.generation = upstream.generation;
    this.#keeper = keeper;
    this.#maxStreams = limits.maxUpstreamStreams;
    this.#maxResets = limits.maxStreamResets / 2;
    const options = {
      createConnection: () => upstream.stream,
      settings: {
        enablePush: false,
        initialWindowSize: limits.streamWindow,
        maxHeaderListSize: limits.maxHeadBytes,
      },
      maxHeaderListPairs: 2 * limits.maxHeadFields,
      maxSessionMemory: SESSION_MEMORY,
      strictSingleValueFields: false,
    };
    endWithPeer(upstream.stream, upstream.socket);
    const session = connect('http://upstream', options);
    this.#session = session;
    session.on('error', ignore);
    session.on('remoteSettings', ({ maxConcurrentStreams }) => {
      this.#peerMaxStreams = maxConcurrentStreams ?? Number.POSITIVE_INFINITY;
      keeper.roomChanged(this);
    });
    session.on('connect', () => session.setLocalWindowSize(WINDOWS_A_SESSION * limits.streamWindow));
    session.on('goaway', (_code, lastStream) => {
      this.#lastStream = lastStream;
      this.retire();
    });
    session.on('close', () => {
      this.#retired = true;
      keeper.closed(this);
    });
  }

  get peer(): VerifiedPeer | null {
    return this.upstream.peer;
  }

  get address(): string {
    return this.upstream.address;
  }

  get localAddress(): string {
    return this.upstream.localAddress;
  }

  get told(): Told {
    return this.upstream.told;
  }

  /** Streams before the one that entered last. */
  get uses(): number {
    return this.#entered - 1;
  }

  get open(): number {
    return this.#open;
  }

  get usable(): boolean {
    return !this.#retired && !this.#session.closed && !this.#session.destroyed;
  }

  /** How many more streams it takes now. */
  get room(): number {
    return this.usable ? Math.min(this.#maxStreams, this.#peerMaxStreams) - this.#open : 0;
  }

  /** The connection itself is gone: what broke a stream broke all of them. */
  get gone(): boolean {
    return this.#session.destroyed;
  }

  /** Its peer has not looked at this stream, nor will (RFC 9113 §6.8): the same request may be sent elsewhere. */
  passedOver({ id }: ClientHttp2Stream): boolean {
    return id !== undefined && id > this.#lastStream;
  }

  /** Promises a stream. Each is given back by `leave`, once. */
  enter(): void {
    this.#open++;
    // Stream ids run out (RFC 9113 §5.1.1).
    if (++this.#entered >= MAX_STREAMS_EVER) this.retire();
  }

  leave(): void {
    this.#open--;
    this.idleSince = performance.now();
    if (!this.#retired) this.#keeper.roomChanged(this);
    else if (this.#open === 0) this.#session.close();
  }

  /** @param raw a header block */
  request(raw: string[], ended: boolean): ClientHttp2Stream {
    return this.#session.request(raw, { endStream: ended, waitForTrailers: !ended });
  }

  /**
   * We reset one of its streams. Peers count resets and end a session with all on it when they have had enough
   * (CVE-2023-44487): one that many of our downstreams shared and left takes no new streams before that.
   * @param lost bytes that were to come of an answer; NaN: it does not tell
   */
  reset(lost: number): void {
    this.#resets++;
    if (this.ofApp) this.#lost += Number.isNaN(lost) ? LOST_UNTOLD : lost;
    if (this.#resets >= this.#maxResets || this.#lost > MAX_LOST) this.retire();
  }

  /** Its peer is no other sidecar but whoever answers. */
  get ofApp(): boolean {
    return this.upstream.peer === null;
  }

  /** Takes no new streams; ends when those it has do. */
  retire(): void {
    if (this.#retired) return;
    this.#retired = true;
    this.#keeper.closed(this);
    if (this.#open === 0) this.#session.close();
  }
}

/** HTTP/2 knows no half-closed connection: one whose peer ended it is over. */
export function endWithPeer(stream: Duplex, socket: Duplex): void {
  stream.allowHalfOpen = false;
  socket.allowHalfOpen = false;
}

function ignore(): void {}
