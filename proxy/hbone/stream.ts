/** One CONNECT of a tunnel as a stream of bytes: what the data path reads and writes as if it were a socket. */
import { Buffer } from 'node:buffer';
import { Duplex } from 'node:stream';
import type { CopyingStream, DirectStream, Heard } from '../hear.ts';
import type { Sender } from '../http2/frame-writer.ts';

type WriteDone = (error?: Error | null) => void;

/** What a stream asks of its tunnel. */
export interface StreamOwner {
  /** It has something to send. */
  ready(stream: TunnelStream): void;
  /** The reader has taken so much of what came. */
  read(octets: number): void;
  /** So much of its window is given back. */
  credits(stream: TunnelStream, octets: number): void;
  /** Answers its CONNECT. @param end END_STREAM */
  answer(stream: TunnelStream, status: number, end: boolean): void;
  /** It is destroyed. @param aborted the other side must not take what came for all of it */
  left(stream: TunnelStream, aborted: boolean): void;
  /** Octets of the window each stream of ours is read by. */
  readonly streamWindow: number;
}

/** Addresses as a socket has them. */
export interface StreamAddresses {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly localPort: number;
}

/** Written and not yet taken over by TLS: as much as a socket of ours holds. */
const HIGH_WATER = 65_536;
/** Of that, what may go past Node's queue. */
const DIRECT = 32_768;
/** A piece takes some 100 octets to keep, whatever it holds: smaller ones that have to wait are put together. */
const SMALL_PIECE = 1_024;
const GATHERED = 4_096;

export class TunnelStream extends Duplex implements Sender, CopyingStream, DirectStream {
  readonly copies = true;
  readonly streamId: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly localAddress: string;
  readonly localPort: number;
  readonly #owner: StreamOwner;
  queued = false;
  next: Sender | null = null;
  taken = false;
  nextTaken: Sender | null = null;
  /** Octets that the peer lets us send. May be negative: its SETTINGS can take back what it gave (RFC 9113 §6.9.2). */
  sendWindow: number;
  #pending: Buffer[] = [];
  /** Of the first of them: what is sent already. */
  #offset = 0;
  #pendingBytes = 0;
  #onWritten: WriteDone | null = null;
  /** Callbacks of writes that went past Node's queue. */
  #onPassed: WriteDone[] = [];
  #onEnded: ((error?: Error | null) => void) | null = null;
  /** Whom `hear` has set; null: reads go by the stream's queue. */
  #heard: Heard | null = null;
  /** Small pieces that came last and wait behind others; from where to where they lie there. */
  #gathered: Buffer | null = null;
  #gatheredFrom = 0;
  #gatheredTo = 0;
  /** What has come of its window, what of that the reader has taken, and what of that was given back. */
  #received = 0;
  #read = 0;
  #credited = 0;
  /** The peer has said END_STREAM. */
  remoteEnded = false;
  /** We have. */
  localEnded = false;
  /** `performance.now()` since when nobody reads what still comes; 0: somebody does. */
  lingersSince = 0;
  /** Its CONNECT has its answer. */
  answered = false;
  #aborted = false;
  /** The peer takes no more. */
  #shut = false;

  constructor(owner: StreamOwner, streamId: number, sendWindow: number, addresses: StreamAddresses) {
    super({
      allowHalfOpen: true,
      readableHighWaterMark: HIGH_WATER,
      writableHighWaterMark: HIGH_WATER,
      decodeStrings: true,
    });
    this.#owner = owner;
    this.streamId = streamId;
    this.sendWindow = sendWindow;
    this.remoteAddress = addresses.remoteAddress;
    this.remotePort = addresses.remotePort;
    this.localAddress = addresses.localAddress;
    this.localPort = addresses.localPort;
    // An error that nobody hears ends the process.
    this.on('error', ignore);
  }

  /** Ends it so that the other side sees an abort: the counterpart of a socket's RST. */
  resetAndDestroy(): this {
    this.#aborted = true;
    this.destroy();
    return this;
  }

  /** Answers its CONNECT with 200. Safe to call again. */
  accept(): void {
    if (this.answered || this.destroyed) return;
    this.answered = true;
    this.#owner.answer(this, 200, false);
  }

  /** Answers its CONNECT with another status and ends it; one that was answered is reset. */
  refuse(status: number): void {
    if (this.answered || this.destroyed) {
      this.resetAndDestroy();
      return;
    }
    this.answered = true;
    this.localEnded = true;
    this.#owner.answer(this, status, true);
    this.destroy();
  }

  // ---- towards the peer

  get sendable(): number {
    return Math.min(this.#pendingBytes, this.sendWindow);
  }

  get endsBehind(): boolean {
    return this.#onEnded !== null && this.#pendingBytes === 0 && !this.localEnded;
  }

  copyOut(to: Buffer, from: number, octets: number): void {
    let at = from;
    let left = octets;
    while (left > 0) {
      const first = this.#pending[0] as Buffer;
      const taken = Math.min(left, first.length - this.#offset);
      first.copy(to, at, this.#offset, this.#offset + taken);
      at += taken;
      left -= taken;
      this.#offset += taken;
      if (this.#offset < first.length) break;
      this.#pending.shift();
      this.#offset = 0;
    }
    this.#pendingBytes -= octets;
    this.sendWindow -= octets;
  }

  endSent(): void {
    this.localEnded = true;
  }

  sent(): void {
    const ended = this.localEnded ? this.#onEnded : null;
    if (this.#pendingBytes === 0) {
      if (this.#onPassed.length > 0) this.#passed(null);
      const written = this.#onWritten;
      this.#onWritten = null;
      written?.();
    }
    if (ended === null) return;
    this.#onEnded = null;
    ended();
  }

  /** What went past Node's queue is sent, or never will be. */
  #passed(error: Error | null): void {
    const passed = this.#onPassed;
    this.#onPassed = [];
    for (const done of passed) done(error);
  }

  /** The peer takes no more of it: what is written goes nowhere, what came is still read. */
  stopSending(): void {
    this.#shut = true;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.localEnded = true;
    this.sent();
  }

  /** A socket is reset that goes on writing; here no sooner than all that came has been read. */
  #writtenInVain(written: (error?: Error | null) => void): void {
    written(this.readableEnded ? new Error('the peer takes no more') : null);
  }

  /**
   * A small write that nothing stands before goes past Node's queue of writes, which would hold it for the callback at
   * the end of this turn. What is too much at once takes the way through the queue, which knows 'drain'.
   */
  override write(chunk: unknown, encoding?: BufferEncoding | WriteDone, callback?: WriteDone): boolean {
    const direct = chunk instanceof Buffer && this.#pendingBytes + chunk.length <= DIRECT;
    const free = this.writableLength === 0 && this.writableCorked === 0 && !this.#shut;
    if (!direct || !free || chunk.length === 0 || this.writableEnded || this.destroyed)
      return super.write(chunk, encoding as BufferEncoding, callback);
    const done = typeof encoding === 'function' ? encoding : callback;
    if (done !== undefined) this.#onPassed.push(done);
    this.#pending.push(chunk);
    this.#pendingBytes += chunk.length;
    this.#owner.ready(this);
    return true;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, written: (error?: Error | null) => void): void {
    if (this.#shut) {
      this.#writtenInVain(written);
      return;
    }
    this.#pending.push(chunk);
    this.#pendingBytes += chunk.length;
    this.#onWritten = written;
    this.#toSend();
  }

  override _writev(
    chunks: { chunk: Buffer; encoding: BufferEncoding }[],
    written: (error?: Error | null) => void,
  ): void {
    if (this.#shut) {
      this.#writtenInVain(written);
      return;
    }
    for (const { chunk } of chunks) {
      this.#pending.push(chunk);
      this.#pendingBytes += chunk.length;
    }
    this.#onWritten = written;
    this.#toSend();
  }

  /** A write of nothing is through at once: no frame would ever tell. */
  #toSend(): void {
    if (this.#pendingBytes === 0) this.sent();
    else this.#owner.ready(this);
  }

  override _final(ended: (error?: Error | null) => void): void {
    this.#onEnded = ended;
    if (this.#shut) this.sent();
    else this.#owner.ready(this);
  }

  // ---- from the peer

  /** What the window has room for. */
  get receiveWindow(): number {
    return this.#owner.streamWindow - this.#received + this.#credited;
  }

  /** @param octets what it counts against the window, padding included */
  counts(octets: number): void {
    this.#received += octets;
    if (this.destroyed) this.#dropUnread();
  }

  received(piece: Buffer): void {
    if (this.destroyed) return;
    if (this.#heard !== null && this.readableFlowing === true && this.readableLength === 0)
      this.#heard(piece);
    else if (this.readableLength > 0 && piece.length < SMALL_PIECE) this.#gather(piece);
    else {
      this.#queueGathered();
      this.push(piece);
    }
  }

  /** Keeps a piece that has to wait with others like it: the window bounds octets, not how many pieces they come in. */
  #gather(piece: Buffer): void {
    if (this.#gathered === null || this.#gatheredTo + piece.length > GATHERED) {
      this.#queueGathered();
      this.#gathered = Buffer.allocUnsafeSlow(GATHERED);
      this.#gatheredFrom = 0;
      this.#gatheredTo = 0;
    }
    piece.copy(this.#gathered, this.#gatheredTo);
    this.#gatheredTo += piece.length;
  }

  /** What was put together goes behind all that waits. */
  #queueGathered(): void {
    if (this.#gathered === null || this.#gatheredTo === this.#gatheredFrom) return;
    const pieces = this.#gathered.subarray(this.#gatheredFrom, this.#gatheredTo);
    this.#gatheredFrom = this.#gatheredTo;
    this.push(pieces);
  }

  /** Whoever reads what waits takes what was put together behind it, too, and gives its room back. */
  override read(octets?: number): unknown {
    this.#queueGathered();
    const piece: unknown = super.read(octets);
    if (piece !== null) this.#credit();
    return piece;
  }

  hearDirectly(heard: Heard): void {
    this.#heard = heard;
  }

  /** A frame is through. */
  frameEnds(): void {
    if (!this.destroyed) this.#credit();
  }

  remoteEnds(): void {
    this.remoteEnded = true;
    if (this.destroyed) return;
    this.#credit();
    this.#queueGathered();
    this.push(null);
  }

  /** What comes, comes; and this is called before what is read has left the queue, not each time: `read` sees it. */
  override _read(): void {}

  /** Half a window is given back at once: WINDOW_UPDATE for each piece would cost as much as the pieces. */
  #credit(): void {
    const read = this.#received - this.readableLength - (this.#gatheredTo - this.#gatheredFrom);
    if (read > this.#read) {
      this.#owner.read(read - this.#read);
      this.#read = read;
    }
    const due = read - this.#credited;
    if (2 * due < this.#owner.streamWindow) return;
    this.#credited += due;
    this.#owner.credits(this, due);
  }

  /** Nobody will read what is left. */
  #dropUnread(): void {
    this.#owner.read(this.#received - this.#read);
    this.#read = this.#received;
  }

  // ---- the end

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const written = this.#onWritten;
    this.#onWritten = null;
    this.#onEnded = null;
    // A socket that ended its side and is closed then has sent all and sends FIN, also while nobody reads it any more.
    const whole = this.#pendingBytes === 0 && (this.localEnded || this.writableEnded);
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#gathered = null;
    this.#dropUnread();
    this.#owner.left(this, error !== null || this.#aborted || !whole);
    done(error);
    // Whoever waits for it holds memory for it.
    const unsent = error ?? new Error('closed before it was sent');
    this.#passed(unsent);
    written?.(unsent);
  }
}

function ignore(): void {}
