/** Sends frames: all that is ready in one turn of the event loop leaves as one write, streams take turns at a frame each. */
import { Buffer } from 'node:buffer';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { ConnectionFault, FRAME_HEADER, flag, frameType, INITIAL_WINDOW } from './frame.ts';

/**
 * Payload of a DATA frame: with its header it fills a TLS record, so that a frame is neither split over two of them
 * nor waits for the second.
 */
export const MAX_PAYLOAD = 16_384 - FRAME_HEADER;
/** What one write takes of DATA at most: so many records. */
const DATA_BYTES = 8 * 16_384;
/** Room behind it for frames that can wait, and in all. */
const LATE_BYTES = 4_096;
const BATCH_BYTES = 12_288 + DATA_BYTES + LATE_BYTES;
/** Frames that are not DATA and wait for a peer that does not read: more are a flood of what asks for an answer. */
const MAX_CONTROL = 262_144;

/** After so many writes for one stream alone the next one is expected to be so, too. */
const ALONE = 16;

/** One for all connections of a thread: OpenSSL has taken what is in it when `write` returns. */
const batch = Buffer.allocUnsafeSlow(BATCH_BYTES);

/** A stream that has something to send. */
export interface Sender {
  readonly streamId: number;
  /** Octets it has and its own window allows. */
  readonly sendable: number;
  /** It has nothing more to send and its end is still to be said: END_STREAM goes with what is taken next. */
  readonly endsBehind: boolean;
  /** In the writer's ring; who comes after it there. Links are cheaper than arrays that shrink and grow with each write. */
  queued: boolean;
  next: Sender | null;
  /** Something of it was taken for the write at hand; who else's was, after it. */
  taken: boolean;
  nextTaken: Sender | null;
  /** Copies `octets` of what it has. */
  copyOut(to: Buffer, at: number, octets: number): void;
  /** END_STREAM goes with what was taken. Calls nobody: the write is still being put together. */
  endSent(): void;
  /** What was taken has been handed to TLS: its callers may go on. Called once a write, and may queue more. */
  sent(): void;
}

/** Writers that have something to send in this turn. */
let dirty: FrameWriter[] = [];

function flushAll(): void {
  const writers = dirty;
  dirty = [];
  for (const writer of writers) writer.flush();
}

export class FrameWriter {
  readonly #stream: Duplex;
  readonly #onFault: (fault: ConnectionFault) => void;
  /** The connection's send window (§6.9.1). */
  window = INITIAL_WINDOW;
  #sentBytes = 0;
  /** Frames that are not DATA: those that go before it, and those that go behind it. */
  #control: Buffer[] = [];
  #late: Buffer[] = [];
  #controlBytes = 0;
  /** Those that have something to send, in the order of their turns. */
  #first: Sender | null = null;
  #last: Sender | null = null;
  #firstTaken: Sender | null = null;
  #scheduled = false;
  /** TLS has one write and no more under way. */
  #writing = false;
  /** So many writes in a row were for one stream alone. */
  #alone = 0;
  #over = false;
  /** Called once all control frames have left, when it is closed. */
  #onDrained: (() => void) | null = null;
  readonly #written = (): void => {
    this.#writing = false;
    if (this.#over) this.#finish();
    else this.flush();
  };

  constructor(stream: Duplex, onFault: (fault: ConnectionFault) => void) {
    this.#stream = stream;
    this.#onFault = onFault;
  }

  /** Octets of DATA sent since it was last asked. */
  takeSentBytes(): number {
    const sent = this.#sentBytes;
    this.#sentBytes = 0;
    return sent;
  }

  /** Queues a frame that is not DATA. */
  control(bytes: Buffer): void {
    this.#queueControl(this.#control, bytes);
  }

  /** Queues one whose place does not matter: before DATA it would cut every frame behind it over two TLS records. */
  late(bytes: Buffer): void {
    this.#queueControl(this.#late, bytes);
  }

  #queueControl(queue: Buffer[], bytes: Buffer): void {
    if (this.#over) return;
    this.#controlBytes += bytes.length;
    if (this.#controlBytes > MAX_CONTROL) {
      this.#dropControl();
      this.#onFault(new ConnectionFault('ENHANCE_YOUR_CALM', 'it asks for answers and does not read them'));
      return;
    }
    queue.push(bytes);
    this.#schedule();
  }

  #dropControl(): void {
    this.#control = [];
    this.#late = [];
    this.#controlBytes = 0;
  }

  /** A stream has something to send, or may send again. */
  ready(sender: Sender): void {
    if (this.#over || sender.queued) return;
    this.#queue(sender);
    if (this.#writing) this.#alone = 0;
    // Nobody else will have something to send in this turn: waiting for its end would cost time and gain nothing.
    else if (this.#alone >= ALONE && !this.#scheduled) this.flush();
    else if (this.window > 0 || sender.endsBehind) this.#schedule();
  }

  /** The connection's window has grown. */
  grow(octets: number): void {
    const shut = this.window <= 0;
    this.window += octets;
    if (shut && this.#first !== null) this.#schedule();
  }

  /** Writes what is queued of control frames, then nothing any more. @param then called when it has left */
  close(then: () => void): void {
    if (this.#over) return;
    this.#over = true;
    this.#first = null;
    this.#onDrained = then;
    if (!this.#writing) this.#finish();
  }

  /** Nothing is written any more. */
  stop(): void {
    this.#over = true;
    this.#first = null;
    this.#dropControl();
  }

  /** Behind the write that is under way: what is left of control frames, and no more. */
  #finish(): void {
    const used = this.#takeLate(this.#takeControl(0));
    if (used > 0) {
      this.#write(used);
      return;
    }
    const then = this.#onDrained;
    this.#onDrained = null;
    then?.();
  }

  #schedule(): void {
    if (this.#scheduled || this.#writing) return;
    this.#scheduled = true;
    if (dirty.push(this) === 1) setImmediate(flushAll);
  }

  flush(): void {
    this.#scheduled = false;
    if (this.#writing || this.#over) return;
    let used = this.#takeControl(0);
    // Where one of those found no room nothing goes past it: it may be the answer that opens a stream.
    if (this.#control.length === 0) used = this.#takeData(used);
    used = this.#takeLate(used);
    if (used === 0) return;
    this.#write(used);
    this.#alone = this.#firstTaken?.nextTaken === null ? this.#alone + 1 : 0;
    // What their callers queue now goes with the next write.
    let sender = this.#firstTaken;
    this.#firstTaken = null;
    while (sender !== null) {
      const { nextTaken } = sender;
      sender.taken = false;
      sender.nextTaken = null;
      sender.sent();
      sender = nextTaken;
    }
  }

  #queue(sender: Sender): void {
    sender.queued = true;
    sender.next = null;
    if (this.#first === null) this.#first = sender;
    else if (this.#last !== null) this.#last.next = sender;
    this.#last = sender;
  }

  #dequeue(sender: Sender): void {
    sender.queued = false;
    this.#first = sender.next;
    sender.next = null;
  }

  #write(used: number): void {
    this.#writing = true;
    // The view is new, the memory is not: with no other write under way TLS encrypts it before this returns. Whatever
    // else it may be in a test keeps what it cannot send at once.
    const bytes = batch.subarray(0, used);
    this.#stream.write(this.#stream instanceof TLSSocket ? bytes : Buffer.from(bytes), this.#written);
  }

  #takeControl(from: number): number {
    if (this.#control.length === 0) return from;
    const [used, taken] = this.#copyAll(this.#control, from, BATCH_BYTES - LATE_BYTES);
    this.#control = taken === this.#control.length ? [] : this.#control.slice(taken);
    return used;
  }

  #takeLate(from: number): number {
    if (this.#late.length === 0) return from;
    const [used, taken] = this.#copyAll(this.#late, from, BATCH_BYTES);
    this.#late = taken === this.#late.length ? [] : this.#late.slice(taken);
    return used;
  }

  /** @returns where the batch goes on, and how many of them are in it */
  #copyAll(frames: readonly Buffer[], from: number, to: number): readonly [used: number, taken: number] {
    let used = from;
    let taken = 0;
    for (const bytes of frames) {
      if (used + bytes.length > to) break;
      bytes.copy(batch, used);
      used += bytes.length;
      taken++;
    }
    this.#controlBytes -= used - from;
    return [used, taken];
  }

  /** A frame of each stream in turn, until there is none that may send or no room. */
  #takeData(from: number): number {
    const end = Math.min(from + DATA_BYTES, BATCH_BYTES - LATE_BYTES);
    let used = from;
    let sender = this.#first;
    while (sender !== null && used + FRAME_HEADER <= end) {
      const octets = Math.max(Math.min(sender.sendable, this.window, MAX_PAYLOAD), 0);
      if (octets === 0 && !sender.endsBehind) {
        // Shut by the connection's window it stays in its place; by its own it comes back when that grows.
        if (sender.sendable > 0) break;
        this.#dequeue(sender);
      } else {
        // A frame that does not fit whole waits: cut, it would fill no record.
        if (used + FRAME_HEADER + octets > end) break;
        used = this.#takeFrame(sender, used, octets);
        this.#dequeue(sender);
        if (sender.sendable > 0 || sender.endsBehind) this.#queue(sender);
      }
      sender = this.#first;
    }
    return used;
  }

  #takeFrame(sender: Sender, at: number, octets: number): number {
    const payload = at + FRAME_HEADER;
    if (octets > 0) sender.copyOut(batch, payload, octets);
    const ends = sender.endsBehind;
    const stream = sender.streamId;
    batch[at] = 0;
    batch[at + 1] = octets >>> 8;
    batch[at + 2] = octets;
    batch[at + 3] = frameType.data;
    batch[at + 4] = ends ? flag.endStream : 0;
    batch[at + 5] = stream >>> 24;
    batch[at + 6] = stream >>> 16;
    batch[at + 7] = stream >>> 8;
    batch[at + 8] = stream;
    this.window -= octets;
    this.#sentBytes += octets;
    if (!sender.taken) {
      sender.taken = true;
      sender.nextTaken = this.#firstTaken;
      this.#firstTaken = sender;
    }
    if (ends) sender.endSent();
    return payload + octets;
  }
}
