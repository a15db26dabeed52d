/** One HBONE connection, of either side: an HTTP/2 session that carries CONNECT streams and nothing else (RFC 9113 §8.5). */
import { Buffer } from 'node:buffer';
import { performance } from 'node:perf_hooks';
import type { Duplex } from 'node:stream';
import type { Limits } from '../../mesh/limits.ts';
import { hear } from '../hear.ts';
import {
  ConnectionFault,
  type ErrorName,
  errorCode,
  errorName,
  flag,
  frame,
  frameType,
  goawayFrame,
  headersFrames,
  INITIAL_WINDOW,
  MAX_FRAME,
  MAX_WINDOW,
  PREFACE,
  pingFrame,
  rstStreamFrame,
  setting,
  settingsFrame,
  windowUpdateFrame,
} from '../http2/frame.ts';
import { FrameReader, type FrameSink } from '../http2/frame-reader.ts';
import { FrameWriter, MAX_PAYLOAD } from '../http2/frame-writer.ts';
import { encodeHeaders, HpackDecoder } from '../http2/hpack.ts';
import { HpackError } from '../http2/hpack-error.ts';
import type { HeaderField } from '../http2/hpack-static.ts';
import { type ConnectHead, isTrailers, readConnect, readStatus } from './connect.ts';
import { FairUse } from './fair-use.ts';
import { Liveness, TICK_MS } from './liveness.ts';
import { type StreamAddresses, type StreamOwner, TunnelStream } from './stream.ts';

/** Why a tunnel ended. */
export interface TunnelEnd {
  /** Ours: what the peer did wrong; null: it did nothing wrong, or the connection broke. */
  readonly fault: ErrorName | null;
  readonly detail: string;
}

/** Whoever keeps a tunnel. */
export interface TunnelKeeper {
  /** Of a server's: the ends a stream is to show. */
  addressesOf(head: ConnectHead): StreamAddresses;
  /** Of a server's: a peer asks for a stream; `accept` or `refuse` on it is the answer. */
  asked(tunnel: Tunnel, stream: TunnelStream, head: ConnectHead): void;
  /** A stream ended, or the peer allows another number of them. */
  roomChanged(tunnel: Tunnel): void;
  /** It is over; its streams are gone. Called once. */
  closed(tunnel: Tunnel, end: TunnelEnd): void;
}

/** Whoever asked for a stream. One call. */
export interface OpenDone {
  opened(stream: TunnelStream): void;
  /** The peer's answer was another than 200. */
  refused(status: number): void;
  /** It never got an answer. @param retriable the peer has not looked at it: another tunnel may be asked (§8.7) */
  lost(detail: string, retriable: boolean): void;
}

/** Dynamic table the peer may use (SETTINGS_HEADER_TABLE_SIZE's default). */
const HPACK_TABLE = 4_096;
/** Octets under way on all streams together: 16 MiB, as ztunnel has it. */
const CONNECTION_WINDOW = wholeFrames(16 * 1_048_576);
/** A CONNECT has a handful of fields. */
const MAX_FIELDS_BYTES = 16_384;
/** Streams whose end is remembered: what is still on its way for them is told from what never was. */
const REMEMBERED = 256;
/** What a change of the streams' windows weighs for each of them. */
const SETTING_COST = 16;
/** How long one that we closed may go on sending before its stream is reset. */
const LINGER_MS = 5_000;
/** Between the GOAWAY that warns and the one that counts: what was on its way has come by then. */
const LAST_CALL_MS = 1_000;

const PING_OPAQUE = Buffer.from('oarlock!', 'latin1');

export class Tunnel implements FrameSink, StreamOwner {
  readonly role: 'client' | 'server';
  readonly streamWindow: number;
  /** From then on it takes no new streams, ms since the epoch: our certificate, by which it was made, has expired. */
  notAfter = Number.POSITIVE_INFINITY;
  readonly #stream: Duplex;
  readonly #limits: Limits;
  readonly #keeper: TunnelKeeper;
  readonly #reader: FrameReader;
  readonly #writer: FrameWriter;
  readonly #hpack = new HpackDecoder({ maxTableBytes: HPACK_TABLE, maxListBytes: MAX_FIELDS_BYTES });
  readonly #streams = new Map<number, TunnelStream>();
  /** A client's: asked for and not answered. */
  readonly #opening = new Map<number, OpenDone>();
  /** A client's: those nobody wants any more, and that have no answer yet. */
  readonly #unwanted = new Set<number>();
  /** A server's: asked for, and their answer has not left. */
  readonly #asked = new Set<number>();
  /** Those of them that were answered in this turn of the event loop. */
  readonly #answering: number[] = [];
  /** The last streams to end; true: we reset it, so the peer may still send what it had begun. */
  readonly #ended = new Map<number, boolean>();
  /** Of the preface: what is still to come, a server's only. */
  #preface: string;
  /** The peer's first frame, which is SETTINGS, has come. */
  #settled = false;
  #peerWindow = INITIAL_WINDOW;
  #peerStreams = Number.POSITIVE_INFINITY;
  /** A client's: it has answered. */
  #proved = false;
  /** It refused one beside so many. Forgotten after a while: the peer may have been busy with something else. */
  #refusedAt = Number.POSITIVE_INFINITY;
  readonly #maxUnread: number;
  /** Come and not given back of that. */
  #uncredited = 0;
  /** Lies in streams whose readers have not taken it. */
  #unread = 0;
  /** The DATA frame under way goes there; null: nowhere. */
  #receiving: TunnelStream | null = null;
  #nextId = 1;
  #lastPeerId = 0;
  /** No new streams: we or the peer said GOAWAY. */
  #retired = false;
  /** The last of the peer's that we take, said in GOAWAY; Infinity: any. */
  #lastTaken = Number.POSITIVE_INFINITY;
  #closed = false;
  readonly #startedAt = performance.now();
  /** Half a frame or header block has waited since. */
  #waitsSince = 0;
  #idleSince = this.#startedAt;
  #lastCallAt = Number.POSITIVE_INFINITY;
  readonly #liveness: Liveness;
  readonly #fairUse: FairUse;

  constructor(role: 'client' | 'server', stream: Duplex, limits: Limits, keeper: TunnelKeeper) {
    this.role = role;
    this.#stream = stream;
    this.#limits = limits;
    this.#keeper = keeper;
    // So much a peer may send before it knows of less (§6.9.2).
    this.streamWindow = Math.max(limits.streamWindow, INITIAL_WINDOW);
    this.#maxUnread = limits.maxTunnelStreams * this.streamWindow;
    this.#liveness = new Liveness(limits.tunnelPing, this.#startedAt);
    this.#fairUse = new FairUse(limits.maxStreamResets, this.#startedAt);
    this.#preface = role === 'server' ? PREFACE : '';
    this.#reader = new FrameReader(this, MAX_FIELDS_BYTES);
    this.#writer = new FrameWriter(stream, (fault) => this.#fault(fault));
  }

  /** Says its SETTINGS and listens. */
  start(): void {
    const settings = settingsFrame([
      [setting.headerTableSize, HPACK_TABLE],
      ...(this.role === 'client' ? [[setting.enablePush, 0] as const] : []),
      [setting.maxConcurrentStreams, this.role === 'client' ? 0 : this.#limits.maxStreams],
      [setting.initialWindowSize, this.streamWindow],
      [setting.maxHeaderListSize, MAX_FIELDS_BYTES],
    ]);
    const hello = this.role === 'client' ? [Buffer.from(PREFACE, 'latin1'), settings] : [settings];
    hello.push(windowUpdateFrame(0, CONNECTION_WINDOW - INITIAL_WINDOW));
    this.#writer.control(Buffer.concat(hello));
    const stream = this.#stream;
    stream.on('end', () => this.#gone('the peer closed the tunnel'));
    stream.on('error', (error) => this.#gone(error.message));
    stream.on('close', () => this.#gone('the tunnel broke'));
    hear(stream, (piece) => this.#hears(piece));
    stream.resume();
    if (stream.destroyed || stream.readableEnded)
      queueMicrotask(() => this.#gone('the peer closed the tunnel'));
  }

  // ---- for its keeper

  /** Streams open or asked for. */
  get size(): number {
    return this.#streams.size;
  }

  /** It takes no new streams, and those it has should not be used for anything new. */
  get leaving(): boolean {
    return this.#retired || this.#closed;
  }

  /** A client's: how many more may be asked for. */
  get room(): number {
    if (this.leaving || this.#nextId > MAX_WINDOW || Date.now() >= this.notAfter) return 0;
    return Math.min(this.#limits.maxTunnelStreams, this.#peerStreams, this.#refusedAt) - this.#streams.size;
  }

  /**
   * A client's: what another tunnel to the same peer has learned of how many it takes. Else each new one would be asked
   * for all that wait, and refuse most of them.
   */
  learnFrom(other: Tunnel): void {
    if (!this.#settled) this.#peerStreams = Math.min(this.#peerStreams, other.#peerStreams);
    this.#refusedAt = Math.min(this.#refusedAt, other.#refusedAt);
  }

  /**
   * Asks for a stream. Only where `room` is left.
   * @param fields after `:method`
   */
  open(
    fields: readonly (readonly [name: string, value: string])[],
    addresses: StreamAddresses,
    done: OpenDone,
  ): TunnelStream {
    const id = this.#nextId;
    this.#nextId += 2;
    const stream = new TunnelStream(this, id, this.#peerWindow, addresses);
    this.#streams.set(id, stream);
    this.#opening.set(id, done);
    const block = encodeHeaders([[':method', 'CONNECT'], ...fields]);
    // What is answered to it is no flood.
    this.#fairUse.carried(block.length);
    this.#writer.control(headersFrames(id, block, false));
    return stream;
  }

  /** Takes no new streams; those under way finish, then it closes. */
  retire(): void {
    if (this.#retired || this.#closed) return;
    this.#retired = true;
    if (this.role === 'server') {
      // §6.8: one that says how it will be, a moment for what is on its way, and one that counts.
      this.#writer.control(goawayFrame(MAX_WINDOW, 'NO_ERROR', ''));
      this.#writer.control(pingFrame(PING_OPAQUE, false));
      this.#lastCallAt = performance.now() + LAST_CALL_MS;
    } else this.#closeIfEmpty();
  }

  /** A client's: somebody waits for an answer, and waits. */
  probe(): void {
    if (!this.#closed && this.#liveness.ask()) this.#writer.control(pingFrame(PING_OPAQUE, false));
  }

  /** A client's: somebody waited so long for an answer. Where nothing else came either it may be dead: nobody new asks. */
  unanswered(ms: number): void {
    if (this.#liveness.silent(performance.now()) > ms - TICK_MS) this.retire();
  }

  /** Ends it at once, and all on it. */
  abort(detail: string): void {
    this.#end({ fault: null, detail }, 'NO_ERROR');
  }

  /** Its time-outs; called about twice a second. */
  tick(now: number): void {
    if (this.#closed) return;
    if (this.#fairUse.tick(now)) this.#refusedAt = Number.POSITIVE_INFINITY;
    if (!this.#settled && now - this.#startedAt > this.#limits.handshakeTimeout) {
      this.#fault(new ConnectionFault('SETTINGS_TIMEOUT', 'no SETTINGS in time'));
    } else if (this.#waitsSince > 0 && now - this.#waitsSince > this.#limits.requestHeadTimeout) {
      this.#fault(new ConnectionFault('ENHANCE_YOUR_CALM', 'a frame or header block came too slowly'));
    } else if (now > this.#lastCallAt) this.#lastCall();
    else this.#tickAlive(now);
  }

  #tickAlive(now: number): void {
    for (const stream of this.#streams.values())
      if (stream.lingersSince > 0 && now - stream.lingersSince > LINGER_MS) this.#reset(stream, 'CANCEL');
    const { sessionIdleTimeout, idleTimeout } = this.#limits;
    const life = this.#liveness.look(now);
    if (life === 'dead') {
      // Conntrack forgot it, or its machine is gone: nothing else would ever tell.
      this.abort(`the peer did not answer a PING for ${Math.round(this.#liveness.silent(now))} ms`);
      return;
    }
    if (life === 'ask') this.#writer.control(pingFrame(PING_OPAQUE, false));
    // We may have another one to show; the peer's own is `Links`' to watch.
    if (Date.now() >= this.notAfter) this.retire();
    const idle = this.#streams.size === 0 ? now - this.#idleSince : 0;
    if (idle > (this.role === 'client' ? sessionIdleTimeout : idleTimeout)) this.retire();
  }

  // ---- for its streams

  ready(stream: TunnelStream): void {
    this.#writer.ready(stream);
  }

  read(octets: number): void {
    this.#unread -= octets;
    this.#giveBack();
  }

  credits(stream: TunnelStream, octets: number): void {
    if (!stream.remoteEnded && !this.#closed) this.#writer.late(windowUpdateFrame(stream.streamId, octets));
  }

  answer(stream: TunnelStream, status: number, end: boolean): void {
    // A port of HTTP answers at once: a reset that came with the CONNECT has not waited for it.
    if (this.#answering.push(stream.streamId) === 1) setImmediate(this.#answersLeave);
    const block = encodeHeaders([[':status', String(status)]]);
    if (this.#closed) return;
    this.#writer.control(headersFrames(stream.streamId, block, end));
    // §8.1: the answer is whole, and nothing more of the request is wanted.
    if (end && !stream.remoteEnded) this.#reset(stream, 'NO_ERROR');
  }

  readonly #answersLeave = (): void => {
    for (const id of this.#answering) this.#asked.delete(id);
    this.#answering.length = 0;
  };

  left(stream: TunnelStream, aborted: boolean): void {
    const id = stream.streamId;
    if (this.#streams.get(id) !== stream) return;
    if (this.#opening.delete(id)) {
      // It waits for its answer: peers take many streams that are reset before it for an attack, and end the tunnel.
      this.#unwanted.add(id);
      stream.lingersSince = performance.now();
      return;
    }
    this.#asked.delete(id);
    // What an abort is called (§8.5). CANCEL, which is nearer at hand, is read as a clean end by ztunnel.
    if (aborted) this.#reset(stream, 'CONNECT_ERROR');
    else {
      if (!stream.localEnded) {
        stream.localEnded = true;
        this.#writer.control(frame(frameType.data, flag.endStream, id, 0));
      }
      if (stream.remoteEnded) this.#forget(stream, false);
      else stream.lingersSince = performance.now();
    }
  }

  // ---- frames

  #hears(piece: Buffer): void {
    if (this.#closed) return;
    this.#liveness.heard();
    this.#fairUse.came(piece.length);
    try {
      const bytes = this.#preface === '' ? piece : this.#readPreface(piece);
      if (bytes.length > 0) this.#reader.feed(bytes);
      if (!this.#reader.waits) this.#waitsSince = 0;
      else if (this.#waitsSince === 0) this.#waitsSince = performance.now();
      this.#fairUse.carried(this.#writer.takeSentBytes());
      this.#fairUse.weigh();
    } catch (error) {
      if (error instanceof ConnectionFault) this.#fault(error);
      else if (error instanceof HpackError)
        this.#fault(new ConnectionFault('COMPRESSION_ERROR', error.message));
      // A fault of ours on one tunnel ends that tunnel, not the process.
      else this.#fault(new ConnectionFault('INTERNAL_ERROR', (error as Error).stack ?? String(error)));
    }
  }

  #readPreface(piece: Buffer): Buffer {
    const taken = Math.min(this.#preface.length, piece.length);
    if (piece.toString('latin1', 0, taken) !== this.#preface.slice(0, taken))
      throw new ConnectionFault('PROTOCOL_ERROR', 'it does not speak HTTP/2');
    this.#preface = this.#preface.slice(taken);
    return piece.subarray(taken);
  }

  frameBegins(type: number): void {
    // Behind what ended it, in the same read: a stream that began now would never be closed.
    if (this.#closed) throw new ConnectionFault('NO_ERROR', 'it is over');
    // §3.4: SETTINGS is the first frame of either side.
    if (!this.#settled && type !== frameType.settings)
      throw new ConnectionFault('PROTOCOL_ERROR', 'the first frame is not SETTINGS');
  }

  dataBegins(id: number, length: number): void {
    this.#uncredited += length;
    if (this.#uncredited > CONNECTION_WINDOW)
      throw new ConnectionFault('FLOW_CONTROL_ERROR', 'more than the window of the connection');
    this.#giveBack();
    const stream = this.#streams.get(id);
    this.#receiving = null;
    if (stream === undefined) {
      this.#strayData(id);
      return;
    }
    if (stream.remoteEnded) {
      this.#faulted(stream, 'STREAM_CLOSED');
      return;
    }
    if (this.#opening.has(id)) {
      this.#malformed(stream, 'DATA before the answer');
      return;
    }
    if (length > stream.receiveWindow) {
      this.#faulted(stream, 'FLOW_CONTROL_ERROR');
      return;
    }
    this.#unread += length;
    stream.counts(length);
    // Nobody reads it any more: a socket would answer with RST.
    if (stream.lingersSince > 0 && length > 0) this.#reset(stream, 'CANCEL');
    else this.#receiving = stream;
  }

  dataPiece(piece: Buffer): void {
    this.#fairUse.carried(piece.length);
    this.#receiving?.received(piece);
  }

  dataEnds(end: boolean): void {
    const stream = this.#receiving;
    if (stream === null) return;
    if (end) this.#remoteEnds(stream);
    else stream.frameEnds();
  }

  /**
   * The connection's window is given back as it is used, not as its streams are read: one slow reader must not shut it
   * for all. Only where what lies unread is more than some slow readers account for it waits for them.
   */
  #giveBack(): void {
    if (2 * this.#uncredited < CONNECTION_WINDOW || this.#unread > this.#maxUnread || this.#closed) return;
    this.#writer.late(windowUpdateFrame(0, this.#uncredited));
    this.#uncredited = 0;
  }

  /** DATA for a stream that is not there. */
  #strayData(id: number): void {
    if (this.#isIdle(id)) throw new ConnectionFault('PROTOCOL_ERROR', 'DATA on an idle stream');
    // On its way when we reset it: passed over. The peer has ended the others itself.
    if (this.#ended.get(id) === false) this.#writer.control(rstStreamFrame(id, 'STREAM_CLOSED'));
  }

  headers(id: number, block: Buffer, end: boolean): void {
    // Whatever becomes of it: the table that later blocks rely on must have seen it.
    const { fields, tooLarge } = this.#hpack.decode(block);
    const stream = this.#streams.get(id);
    if (stream !== undefined) this.#moreHeaders(stream, fields, end);
    else if (this.role === 'client') {
      if (this.#isIdle(id)) throw new ConnectionFault('PROTOCOL_ERROR', 'HEADERS on an idle stream');
    } else if (this.#isIdle(id)) {
      this.#fairUse.carried(block.length);
      this.#newStream(id, fields, tooLarge, end);
    } else if (this.#ended.get(id) === false) {
      throw new ConnectionFault('STREAM_CLOSED', 'HEADERS on a closed stream');
    } else if (!this.#ended.has(id)) {
      // §5.1.1: identifiers count up; one that was passed over is closed.
      throw new ConnectionFault('PROTOCOL_ERROR', `stream ${id} after ${this.#lastPeerId}`);
    }
  }

  /** An answer, or trailers. */
  #moreHeaders(stream: TunnelStream, fields: readonly HeaderField[], end: boolean): void {
    const done = this.#opening.get(stream.streamId);
    if (this.#unwanted.has(stream.streamId)) this.#reset(stream, 'CANCEL');
    else if (done !== undefined) this.#answered(stream, done, readStatus(fields), end);
    else if (stream.remoteEnded) this.#faulted(stream, 'STREAM_CLOSED');
    // §8.1: trailers end their stream; a CONNECT has none to speak of, and what is in them goes nowhere.
    else if (!end || !isTrailers(fields)) this.#malformed(stream, 'bad trailers');
    else this.#remoteEnds(stream);
  }

  #answered(stream: TunnelStream, done: OpenDone, status: number | null, end: boolean): void {
    if (status === null || (status < 200 && end)) {
      this.#malformed(stream, 'a bad answer');
      return;
    }
    if (status < 200) return;
    this.#proved = true;
    this.#opening.delete(stream.streamId);
    stream.answered = true;
    if (status === 200) {
      if (end) this.#remoteEnds(stream);
      done.opened(stream);
      return;
    }
    stream.remoteEnded = end;
    done.refused(status);
    stream.resetAndDestroy();
  }

  #newStream(id: number, fields: readonly HeaderField[], tooLarge: boolean, end: boolean): void {
    if (id % 2 === 0) throw new ConnectionFault('PROTOCOL_ERROR', `a client's stream ${id}`);
    this.#lastPeerId = id;
    this.#fairUse.opened();
    const head = tooLarge ? null : readConnect(fields);
    const expired = Date.now() >= this.notAfter;
    if (id > this.#lastTaken || expired || this.#streams.size >= this.#limits.maxStreams) {
      this.#refuseStream(id, 'REFUSED_STREAM');
    } else if (tooLarge) {
      this.#writer.control(headersFrames(id, encodeHeaders([[':status', '431']]), true));
      this.#refuseStream(id, 'NO_ERROR');
    } else if (head === null) {
      this.#refuseStream(id, 'PROTOCOL_ERROR');
      this.#fairUse.reset();
    } else {
      const stream = new TunnelStream(this, id, this.#peerWindow, this.#keeper.addressesOf(head));
      this.#streams.set(id, stream);
      this.#asked.add(id);
      if (end) this.#remoteEnds(stream);
      this.#keeper.asked(this, stream, head);
    }
  }

  /** Of a stream that never came to be. */
  #refuseStream(id: number, code: ErrorName): void {
    this.#writer.control(rstStreamFrame(id, code));
    this.#remember(id, true);
  }

  rstStream(id: number, code: number): void {
    if (this.#isIdle(id)) throw new ConnectionFault('PROTOCOL_ERROR', 'RST_STREAM on an idle stream');
    const stream = this.#streams.get(id);
    if (stream === undefined) {
      // We had reset it, and now the peer has, too: nothing of it is under way any more.
      if (this.#ended.has(id)) this.#ended.set(id, false);
      return;
    }
    const done = this.#opening.get(id);
    const unanswered = this.#asked.has(id);
    const refused = done !== undefined && code === errorCode.REFUSED_STREAM;
    // It has a bound that it did not tell, or not in time.
    if (refused) this.#refusedAt = Math.max(this.#streams.size - 1, 1);
    this.#forget(stream, false);
    const detail = `the peer reset the stream: ${errorName(code)}`;
    done?.lost(detail, refused);
    // §8.1: all has come, and of ours it needs no more. Envoy ends a tunnel so whose server closed first.
    if (stream.remoteEnded && code === errorCode.NO_ERROR) stream.stopSending();
    else stream.destroy(new StreamReset(detail));
    if (unanswered) this.#fairUse.reset();
  }

  settings(payload: Buffer): void {
    const first = !this.#settled;
    if (first) this.#peerStreams = Number.POSITIVE_INFINITY;
    this.#settled = true;
    // Ahead of all that a larger window lets go at once: the peer counts by it from here on (§6.5.3).
    this.#writer.control(frame(frameType.settings, flag.ack, 0, 0));
    for (let at = 0; at < payload.length; at += 6)
      this.#set(payload.readUInt16BE(at), payload.readUInt32BE(at + 2));
    if (first) this.#keeper.roomChanged(this);
  }

  #set(name: number, value: number): void {
    if (name === setting.initialWindowSize) this.#setWindow(value);
    else if (name === setting.maxConcurrentStreams) {
      const grown = value > this.#peerStreams;
      this.#peerStreams = value;
      if (grown) {
        this.#refusedAt = Number.POSITIVE_INFINITY;
        this.#keeper.roomChanged(this);
      }
    } else if (name === setting.maxFrameSize) {
      if (value < MAX_FRAME || value > 0xff_ffff)
        throw new ConnectionFault('PROTOCOL_ERROR', `SETTINGS_MAX_FRAME_SIZE ${value}`);
    } else if (name === setting.enablePush && (value > 1 || (value === 1 && this.role === 'client')))
      throw new ConnectionFault('PROTOCOL_ERROR', `SETTINGS_ENABLE_PUSH ${value}`);
  }

  /** §6.9.2: it changes what streams already have, too. */
  #setWindow(value: number): void {
    if (value > MAX_WINDOW)
      throw new ConnectionFault('FLOW_CONTROL_ERROR', `SETTINGS_INITIAL_WINDOW_SIZE ${value}`);
    const change = value - this.#peerWindow;
    this.#peerWindow = value;
    // Six octets make us look at all streams (CVE-2020-11080): they weigh as much as that costs.
    this.#fairUse.came(SETTING_COST * this.#streams.size);
    for (const stream of this.#streams.values()) {
      if (stream.sendWindow + change > MAX_WINDOW)
        throw new ConnectionFault('FLOW_CONTROL_ERROR', 'a window beyond its bound');
      stream.sendWindow += change;
      if (stream.sendable > 0) this.#writer.ready(stream);
    }
  }

  settingsAcked(): void {}

  ping(opaque: Buffer, ack: boolean): void {
    if (!ack) this.#writer.late(pingFrame(opaque, true));
    else if (this.#lastCallAt !== Number.POSITIVE_INFINITY) this.#lastCall();
  }

  goaway(lastStream: number, code: number, debug: Buffer): void {
    this.#retired = true;
    const detail = `the peer goes away: ${errorName(code)} ${printable(debug)}`.trimEnd();
    if (this.role === 'client') {
      for (const stream of [...this.#streams.values()]) {
        if (stream.streamId <= lastStream) continue;
        const done = this.#opening.get(stream.streamId);
        this.#forget(stream, false);
        done?.lost(detail, true);
        stream.destroy(new StreamReset(detail));
      }
      this.#keeper.roomChanged(this);
    }
    this.#closeIfEmpty();
  }

  windowUpdate(id: number, octets: number): void {
    if (id === 0) {
      if (this.#writer.window + octets > MAX_WINDOW)
        throw new ConnectionFault('FLOW_CONTROL_ERROR', 'a window beyond its bound');
      this.#writer.grow(octets);
      return;
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) {
      if (this.#isIdle(id)) throw new ConnectionFault('PROTOCOL_ERROR', 'WINDOW_UPDATE on an idle stream');
    } else if (stream.sendWindow + octets > MAX_WINDOW) this.#faulted(stream, 'FLOW_CONTROL_ERROR');
    else {
      stream.sendWindow += octets;
      if (stream.sendable > 0) this.#writer.ready(stream);
    }
  }

  streamFault(id: number, code: 'PROTOCOL_ERROR' | 'FRAME_SIZE_ERROR'): void {
    const stream = this.#streams.get(id);
    if (stream !== undefined) this.#faulted(stream, code);
    else this.#writer.control(rstStreamFrame(id, code));
  }

  // ---- ends

  /** Never asked for. */
  #isIdle(id: number): boolean {
    if (this.role === 'client') return id % 2 === 0 || id >= this.#nextId;
    return id % 2 === 0 || id > this.#lastPeerId;
  }

  #remoteEnds(stream: TunnelStream): void {
    stream.remoteEnds();
    if (stream.destroyed && stream.localEnded) this.#forget(stream, false);
  }

  #malformed(stream: TunnelStream, detail: string): void {
    const done = this.#opening.get(stream.streamId);
    this.#faulted(stream, 'PROTOCOL_ERROR');
    done?.lost(detail, false);
  }

  /** A peer that makes us reset its streams makes us work as one that resets them itself (CVE-2025-8671). */
  #faulted(stream: TunnelStream, code: ErrorName): void {
    this.#reset(stream, code);
    if (this.role === 'server') this.#fairUse.reset();
  }

  #reset(stream: TunnelStream, code: ErrorName): void {
    this.#writer.control(rstStreamFrame(stream.streamId, code));
    this.#forget(stream, true);
    if (!stream.destroyed) stream.destroy(new StreamReset(`we reset the stream: ${code}`));
  }

  #forget(stream: TunnelStream, ours: boolean): void {
    const id = stream.streamId;
    if (!this.#streams.delete(id)) return;
    this.#opening.delete(id);
    this.#unwanted.delete(id);
    this.#asked.delete(id);
    if (this.#receiving === stream) this.#receiving = null;
    this.#remember(id, ours);
    if (this.#streams.size === 0) this.#idleSince = performance.now();
    this.#keeper.roomChanged(this);
    this.#closeIfEmpty();
  }

  #remember(id: number, ours: boolean): void {
    this.#ended.set(id, ours);
    if (this.#ended.size <= REMEMBERED) return;
    const oldest = this.#ended.keys().next().value;
    if (oldest !== undefined) this.#ended.delete(oldest);
  }

  /** The GOAWAY that counts: what comes after it is refused. */
  #lastCall(): void {
    this.#lastCallAt = Number.POSITIVE_INFINITY;
    this.#lastTaken = this.#lastPeerId;
    this.#writer.control(goawayFrame(this.#lastPeerId, 'NO_ERROR', ''));
    this.#closeIfEmpty();
  }

  #closeIfEmpty(): void {
    if (!this.#retired || this.#streams.size > 0 || this.#closed) return;
    // A server's peer may have asked before it heard of it.
    if (this.#lastCallAt !== Number.POSITIVE_INFINITY) return;
    this.#end({ fault: null, detail: 'retired' }, 'NO_ERROR');
  }

  #fault(fault: ConnectionFault): void {
    this.#end({ fault: fault.code, detail: fault.message }, fault.code);
  }

  /** The connection under it is over. */
  #gone(detail: string): void {
    if (this.#closed) return;
    this.#writer.stop();
    this.#over({ fault: null, detail });
    this.#stream.destroy();
  }

  #end(end: TunnelEnd, code: ErrorName): void {
    if (this.#closed) return;
    // Before anything is said: a full queue is a fault that would lead here again.
    this.#closed = true;
    // Without it Node's http2 takes a stream whose connection closes behind GOAWAY for one that has ended.
    for (const id of this.#streams.keys()) this.#writer.control(rstStreamFrame(id, 'CONNECT_ERROR'));
    // What a fault of ours is concerns our log.
    const said = end.fault === null || code === 'INTERNAL_ERROR' ? '' : end.detail.slice(0, 256);
    this.#writer.control(goawayFrame(this.#lastPeerId, code, said));
    this.#over(end);
    const stream = this.#stream;
    this.#writer.close(() => {
      stream.end();
      // Read on and dropped for a moment: what still comes must not turn the GOAWAY into a reset.
      setTimeout(() => stream.destroy(), LINGER_MS).unref();
    });
    // A peer that does not read will not see it.
    setTimeout(() => stream.destroy(), 2 * LINGER_MS).unref();
  }

  #over(end: TunnelEnd): void {
    this.#closed = true;
    // As with a kept connection that was closed meanwhile: whoever asked just then is none the wiser. Not an octet of
    // theirs had left.
    const stale = this.#proved;
    const opening = [...this.#opening.values()];
    // What both sides have ended needs it no more: a slow reader still has all that came.
    const streams = [...this.#streams.values()].filter(
      ({ remoteEnded, localEnded }) => !remoteEnded || !localEnded,
    );
    this.#opening.clear();
    this.#streams.clear();
    for (const done of opening) done.lost(end.detail, stale);
    for (const stream of streams) stream.destroy(new StreamReset(end.detail));
    this.#keeper.closed(this, end);
  }
}

/** What a stream is destroyed with when it or its tunnel was cut. */
export class StreamReset extends Error {
  readonly code = 'ECONNRESET';
}

/** A window that frames of the size we send fill: the last of them would else be cut, and the peer's next one, too. */
function wholeFrames(octets: number): number {
  return Math.max(octets - (octets % MAX_PAYLOAD), Math.min(octets, MAX_PAYLOAD));
}

/** What a peer says of its GOAWAY, fit for a log. */
function printable(debug: Buffer): string {
  return debug.toString('latin1', 0, 128).replaceAll(/[^\x20-\x7e]/g, '?');
}
