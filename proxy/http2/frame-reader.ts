/** Takes a stream of bytes apart into HTTP/2 frames: sizes, order and padding checked, DATA passed on in the pieces it came in (RFC 9113 §4, §6). */
import { Buffer } from 'node:buffer';
import { inherit, LARGE } from '../hear.ts';
import { ConnectionFault, FRAME_HEADER, flag, frameType, MAX_FRAME } from './frame.ts';

/** Who takes the frames. What it throws goes through to whoever feeds the reader. */
export interface FrameSink {
  /** A frame of whatever type begins. @param payload its length, octets */
  frameBegins(type: number, payload: number): void;
  /** A DATA frame begins. @param length of its payload with padding: what both windows count */
  dataBegins(stream: number, length: number): void;
  /** Of that frame, as it came: a view of what was read. */
  dataPiece(piece: Buffer): void;
  /** @param end END_STREAM is set */
  dataEnds(end: boolean): void;
  /** A whole header block, still compressed. */
  headers(stream: number, block: Buffer, end: boolean): void;
  rstStream(stream: number, code: number): void;
  settings(payload: Buffer): void;
  settingsAcked(): void;
  ping(opaque: Buffer, ack: boolean): void;
  goaway(lastStream: number, code: number, detail: Buffer): void;
  /** @param stream 0: of the connection */
  windowUpdate(stream: number, octets: number): void;
  /** A fault that costs its stream and no more. */
  streamFault(stream: number, code: 'PROTOCOL_ERROR' | 'FRAME_SIZE_ERROR', detail: string): void;
}

const NOTHING = Buffer.alloc(0);

export class FrameReader {
  readonly #sink: FrameSink;
  readonly #maxBlock: number;
  /** The beginning of a frame that is not DATA, or of a frame's header. */
  #stash: Buffer = NOTHING;
  /** Of the DATA frame under way: payload and padding to come. */
  #dataLeft = 0;
  #padLeft = 0;
  #dataEnd = false;
  #inData = false;
  /** Of what is being read: somebody has a view of a small part; one large part has taken its memory over. */
  #lent = false;
  #owned = false;
  /** The header block under way (HEADERS without END_HEADERS): nothing but its CONTINUATION may come (§6.10). */
  #blockStream = 0;
  #block: Buffer[] = [];
  #blockBytes = 0;
  #blockEnd = false;

  /** @param maxBlock octets of a compressed header block */
  constructor(sink: FrameSink, maxBlock: number) {
    this.#sink = sink;
    this.#maxBlock = maxBlock;
  }

  /** A frame other than DATA, or a header block, has begun and is not complete. */
  get waits(): boolean {
    return this.#stash.length > 0 || this.#blockStream !== 0;
  }

  /** @throws ConnectionFault */
  feed(piece: Buffer): void {
    this.#lent = false;
    this.#owned = false;
    let bytes = piece;
    let at = 0;
    if (this.#stash.length > 0) {
      at = this.#cutHeader(piece);
      if (at === 0) bytes = Buffer.concat([this.#stash, piece]);
      this.#stash = NOTHING;
    }
    while (at < bytes.length) {
      if (this.#inData) {
        at = this.#data(bytes, at);
        continue;
      }
      const next = this.#frame(bytes, at);
      if (next === at) break;
      at = next;
    }
    // A copy: it may wait long, and must not keep the memory it was read into.
    if (at < bytes.length) this.#stash = Buffer.from(bytes.subarray(at));
  }

  /**
   * Puts the header of a DATA frame together that two reads have cut: joining all of both would cost a copy of it all.
   * @returns where it goes on; 0 where it is something else
   */
  #cutHeader(piece: Buffer): number {
    const rest = FRAME_HEADER - this.#stash.length;
    if (rest <= 0 || piece.length <= rest) return 0;
    const header = Buffer.concat([this.#stash, piece.subarray(0, rest)]);
    if (header[3] !== frameType.data || ((header[4] as number) & flag.padded) !== 0) return 0;
    return this.#frame(header, 0) === FRAME_HEADER ? rest : 0;
  }

  /** @returns where it goes on; `at` where more bytes must come first */
  #frame(bytes: Buffer, at: number): number {
    const there = bytes.length - at;
    if (there < FRAME_HEADER) return at;
    const length =
      ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
    const type = bytes[at + 3] as number;
    const flags = bytes[at + 4] as number;
    const stream = bytes.readUInt32BE(at + 5) & 0x7fff_ffff;
    if (length > MAX_FRAME) throw new ConnectionFault('FRAME_SIZE_ERROR', `a frame of ${length} octets`);
    if (this.#blockStream !== 0 && (type !== frameType.continuation || stream !== this.#blockStream))
      throw new ConnectionFault('PROTOCOL_ERROR', 'a header block was interrupted');
    const from = at + FRAME_HEADER;
    if (type === frameType.data) {
      const padded = (flags & flag.padded) !== 0;
      if (padded && length > 0 && there < FRAME_HEADER + 1) return at;
      this.#sink.frameBegins(type, length);
      return this.#beginData(bytes, from, { length, flags, stream });
    }
    if (there < FRAME_HEADER + length) return at;
    this.#sink.frameBegins(type, length);
    this.#take(type, flags, stream, bytes.subarray(from, from + length));
    return from + length;
  }

  #beginData(
    bytes: Buffer,
    from: number,
    { length, flags, stream }: { length: number; flags: number; stream: number },
  ): number {
    if (stream === 0) throw new ConnectionFault('PROTOCOL_ERROR', 'DATA on stream 0');
    let pad = 0;
    let at = from;
    let left = length;
    if ((flags & flag.padded) !== 0) {
      if (length === 0) throw new ConnectionFault('FRAME_SIZE_ERROR', 'padded DATA without a pad length');
      pad = bytes[at++] as number;
      if (pad >= length) throw new ConnectionFault('PROTOCOL_ERROR', 'more padding than payload');
      left -= 1 + pad;
    }
    this.#dataLeft = left;
    this.#padLeft = pad;
    this.#dataEnd = (flags & flag.endStream) !== 0;
    this.#inData = true;
    this.#sink.dataBegins(stream, length);
    return this.#data(bytes, at);
  }

  #data(bytes: Buffer, from: number): number {
    let at = from;
    const taken = Math.min(this.#dataLeft, bytes.length - at);
    if (taken > 0) {
      const piece = this.#part(bytes, at, taken);
      this.#dataLeft -= taken;
      at += taken;
      this.#sink.dataPiece(piece);
    }
    if (this.#dataLeft > 0) return at;
    const skipped = Math.min(this.#padLeft, bytes.length - at);
    this.#padLeft -= skipped;
    if (this.#padLeft === 0) {
      this.#inData = false;
      this.#sink.dataEnds(this.#dataEnd);
    }
    return at + skipped;
  }

  /**
   * A view of what was read; where a large part takes that memory over, small ones are copied out of it. The end of a
   * frame that began in an earlier read mostly stands before such a part.
   */
  #part(bytes: Buffer, at: number, length: number): Buffer {
    const part = bytes.subarray(at, at + length);
    if (this.#owned || (at === 0 && length <= LARGE)) return Buffer.from(part);
    if (length > LARGE && !this.#lent) this.#owned = inherit(bytes, part);
    this.#lent = true;
    return part;
  }

  #take(type: number, flags: number, stream: number, payload: Buffer): void {
    switch (type) {
      case frameType.headers:
        this.#headers(flags, stream, payload);
        return;
      case frameType.continuation:
        if (this.#blockStream === 0)
          throw new ConnectionFault('PROTOCOL_ERROR', 'CONTINUATION without HEADERS');
        this.#blockPiece(payload, (flags & flag.endHeaders) !== 0);
        return;
      case frameType.priority:
        this.#priority(stream, payload);
        return;
      case frameType.rstStream:
        onStream(stream, 'RST_STREAM');
        sized(payload, 4, 'RST_STREAM');
        this.#sink.rstStream(stream, payload.readUInt32BE(0));
        return;
      case frameType.settings:
        this.#settings(flags, stream, payload);
        return;
      case frameType.pushPromise:
        // We never allow it (§6.6, §8.4), and no client may send it.
        throw new ConnectionFault('PROTOCOL_ERROR', 'PUSH_PROMISE');
      case frameType.ping:
        onConnection(stream, 'PING');
        sized(payload, 8, 'PING');
        this.#sink.ping(payload, (flags & flag.ack) !== 0);
        return;
      case frameType.goaway:
        onConnection(stream, 'GOAWAY');
        if (payload.length < 8) throw new ConnectionFault('FRAME_SIZE_ERROR', 'a short GOAWAY');
        this.#sink.goaway(
          payload.readUInt32BE(0) & 0x7fff_ffff,
          payload.readUInt32BE(4),
          payload.subarray(8),
        );
        return;
      case frameType.windowUpdate:
        this.#windowUpdate(stream, payload);
        return;
      default:
      // §5.5: unknown frames are passed over.
    }
  }

  #headers(flags: number, stream: number, payload: Buffer): void {
    onStream(stream, 'HEADERS');
    let from = 0;
    let pad = 0;
    if ((flags & flag.padded) !== 0) {
      if (payload.length < 1)
        throw new ConnectionFault('FRAME_SIZE_ERROR', 'padded HEADERS without a pad length');
      pad = payload[0] as number;
      from = 1;
    }
    const prioritised = (flags & flag.priority) !== 0;
    if (prioritised) from += 5;
    if (from + pad > payload.length)
      throw new ConnectionFault(
        from > payload.length ? 'FRAME_SIZE_ERROR' : 'PROTOCOL_ERROR',
        'HEADERS shorter than its padding and priority',
      );
    // RFC 7540 §5.3.1. Priority is history, but a stream that hangs on itself is still no stream.
    if (prioritised && (payload.readUInt32BE(from - 5) & 0x7fff_ffff) === stream)
      throw new ConnectionFault('PROTOCOL_ERROR', 'a stream that depends on itself');
    this.#blockStream = stream;
    this.#blockEnd = (flags & flag.endStream) !== 0;
    this.#blockPiece(payload.subarray(from, payload.length - pad), (flags & flag.endHeaders) !== 0);
  }

  #blockPiece(piece: Buffer, last: boolean): void {
    this.#blockBytes += piece.length;
    if (this.#blockBytes > this.#maxBlock)
      throw new ConnectionFault('ENHANCE_YOUR_CALM', `a header block of more than ${this.#maxBlock} octets`);
    if (!last && this.#block.length >= MAX_CONTINUATIONS)
      throw new ConnectionFault(
        'ENHANCE_YOUR_CALM',
        `a header block in more than ${MAX_CONTINUATIONS} frames`,
      );
    if (last && this.#block.length === 0) {
      this.#blockDone(piece);
      return;
    }
    this.#block.push(Buffer.from(piece));
    if (last) this.#blockDone(Buffer.concat(this.#block));
  }

  #blockDone(block: Buffer): void {
    const stream = this.#blockStream;
    this.#blockStream = 0;
    this.#block = [];
    this.#blockBytes = 0;
    this.#sink.headers(stream, block, this.#blockEnd);
  }

  #priority(stream: number, payload: Buffer): void {
    onStream(stream, 'PRIORITY');
    if (payload.length !== 5) this.#sink.streamFault(stream, 'FRAME_SIZE_ERROR', 'PRIORITY is not 5 octets');
    else if ((payload.readUInt32BE(0) & 0x7fff_ffff) === stream)
      this.#sink.streamFault(stream, 'PROTOCOL_ERROR', 'a stream that depends on itself');
  }

  #settings(flags: number, stream: number, payload: Buffer): void {
    onConnection(stream, 'SETTINGS');
    if ((flags & flag.ack) !== 0) {
      sized(payload, 0, 'the acknowledgement of SETTINGS');
      this.#sink.settingsAcked();
      return;
    }
    if (payload.length % 6 !== 0) throw new ConnectionFault('FRAME_SIZE_ERROR', 'SETTINGS not in sixes');
    this.#sink.settings(payload);
  }

  #windowUpdate(stream: number, payload: Buffer): void {
    sized(payload, 4, 'WINDOW_UPDATE');
    const octets = payload.readUInt32BE(0) & 0x7fff_ffff;
    if (octets > 0) this.#sink.windowUpdate(stream, octets);
    else if (stream === 0) throw new ConnectionFault('PROTOCOL_ERROR', 'WINDOW_UPDATE of 0');
    else this.#sink.streamFault(stream, 'PROTOCOL_ERROR', 'WINDOW_UPDATE of 0');
  }
}

/** Frames of one header block. With `maxBlock` it bounds what CONTINUATION can ask of us (CVE-2024-27316 and its kin). */
const MAX_CONTINUATIONS = 16;

function onStream(stream: number, what: string): void {
  if (stream === 0) throw new ConnectionFault('PROTOCOL_ERROR', `${what} on stream 0`);
}

function onConnection(stream: number, what: string): void {
  if (stream !== 0) throw new ConnectionFault('PROTOCOL_ERROR', `${what} on a stream`);
}

function sized(payload: Buffer, length: number, what: string): void {
  if (payload.length !== length)
    throw new ConnectionFault('FRAME_SIZE_ERROR', `${what} of ${payload.length} octets`);
}
