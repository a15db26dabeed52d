/** Body readers: where a body ends, and what of it is passed on. A broken body is never turned into a clean end. */
import { type Limits, limitsWith } from '../../mesh/limits.ts';
import { type Field, type Framing, HeadError, isTrailer } from '../http/head.ts';
import { ScannedFields } from './fields.ts';
import { DROP, HeadScan } from './scan.ts';

/** Takes pieces of a body as they go on. */
export type BodySink = (piece: Buffer) => void;

export interface BodyReader {
  /** True once the last byte of the body has been fed. */
  readonly done: boolean;
  /** What came behind the body, once it is done; only what may go on. */
  readonly trailers: readonly Field[];
  /**
   * Feeds received bytes; passes body pieces, framed for the other side, to `sink`.
   * @returns how many of them belong to the body
   * @throws BodyError where the framing is broken; what was passed on before is cut short then
   */
  feed(bytes: Buffer, sink: BodySink): number;
  /** The stream ended. @returns true where that is the body's clean end */
  ended(): boolean;
}

/** Broken framing: the message is aborted, never ended. */
export class BodyError extends Error {}

export type BodyBounds = Pick<Limits, 'maxChunkLine' | 'maxTrailerBytes' | 'maxHeadFields'>;

const TABLE: BodyBounds = limitsWith({});
const NO_TRAILERS: readonly Field[] = [];
const NOTHING = Buffer.alloc(0);
export const CRLF = Buffer.from('\r\n');
const LAST_CHUNK = Buffer.from('0\r\n\r\n');

/** @param plain pass data on without chunk framing: HTTP/1.0 downstreams do not know it, HTTP/2 has its own */
export function bodyReader(framing: Framing, plain = false, bounds: BodyBounds = TABLE): BodyReader {
  switch (framing.kind) {
    case 'none':
      return NO_BODY;
    case 'length':
      return new LengthBody(framing.length);
    case 'chunked':
      return new ChunkedBody(plain, bounds);
    case 'close':
      return new CloseBody();
  }
}

/** No body, or one that is over. */
export const NO_BODY: BodyReader = { done: true, trailers: NO_TRAILERS, feed: () => 0, ended: () => true };

class LengthBody implements BodyReader {
  readonly trailers = NO_TRAILERS;
  #left: number;
  constructor(length: number) {
    this.#left = length;
  }
  get done(): boolean {
    return this.#left === 0;
  }
  feed(bytes: Buffer, sink: BodySink): number {
    if (bytes.length === 0) return 0;
    const piece = bytes.length > this.#left ? bytes.subarray(0, this.#left) : bytes;
    this.#left -= piece.length;
    sink(piece);
    return piece.length;
  }
  ended(): boolean {
    return this.done;
  }
}

/** Ends with the connection (answers only, RFC 9112 §6.3 case 8). */
class CloseBody implements BodyReader {
  readonly done = false;
  readonly trailers = NO_TRAILERS;
  feed(bytes: Buffer, sink: BodySink): number {
    if (bytes.length > 0) sink(bytes);
    return bytes.length;
  }
  ended(): boolean {
    return true;
  }
}

/** @returns `data` as one chunk, none where it is empty; behind it, where it is the `last`, the end of the body */
export function frameChunk(data: Buffer, last: boolean): Buffer[] {
  const framed = data.length === 0 ? [] : [sizeLine(data.length), data, CRLF];
  if (last) framed.push(LAST_CHUNK);
  return framed;
}

/** @returns what stands before a chunk of that many bytes; `CRLF` stands behind it */
export function sizeLine(bytes: number): Buffer {
  return Buffer.from(`${bytes.toString(16)}\r\n`, 'latin1');
}

/** @returns the last chunk and what comes behind it */
export function lastChunk(trailers: readonly Field[]): Buffer {
  if (trailers.length === 0) return LAST_CHUNK;
  let text = '0\r\n';
  for (const { name, value } of trailers) text += `${name}: ${value}\r\n`;
  return Buffer.from(`${text}\r\n`, 'latin1');
}

type ChunkState = 'size' | 'data' | 'data-cr' | 'data-lf' | 'trailers' | 'done';

const CR = 0x0d;
const LF = 0x0a;
const SEMICOLON = 0x3b;
const ZERO = 0x30;

/**
 * RFC 9112 §7.1, strictly: hex sizes only, CRLF only. What is canonical goes on in the bytes it came in; a size
 * line with an extension is written anew without it. The last chunk goes on only once all behind it has come.
 */
class ChunkedBody implements BodyReader {
  readonly #plain: boolean;
  readonly #bounds: BodyBounds;
  #state: ChunkState = 'size';
  /** A size line, or trailers, of which the end is still to come. */
  #held: Buffer = NOTHING;
  #left = 0;
  #scan: HeadScan | null = null;
  trailers: readonly Field[] = NO_TRAILERS;

  constructor(plain: boolean, bounds: BodyBounds) {
    this.#plain = plain;
    this.#bounds = bounds;
  }

  get done(): boolean {
    return this.#state === 'done';
  }

  ended(): boolean {
    return this.done;
  }

  feed(bytes: Buffer, sink: BodySink): number {
    const { length } = bytes;
    let at = 0;
    // What has not gone on yet, and goes on as it is, begins here.
    let run = 0;
    while (at < length && this.#state !== 'done') {
      switch (this.#state) {
        case 'data': {
          const end = Math.min(length, at + this.#left);
          if (this.#plain) sink(bytes.subarray(at, end));
          this.#left -= end - at;
          at = end;
          if (this.#left === 0) this.#state = 'data-cr';
          break;
        }
        case 'data-cr':
          if (bytes[at] !== CR) throw new BodyError('chunk data longer than its size');
          at++;
          this.#state = 'data-lf';
          break;
        case 'data-lf':
          if (bytes[at] !== LF) throw new BodyError('bare CR behind chunk data');
          at++;
          this.#state = 'size';
          break;
        case 'size': {
          const end = bytes.indexOf(LF, at) + 1;
          if (end === 0 || this.#held.length > 0) {
            this.#pass(bytes, run, at, sink);
            at = this.#sizeInPieces(bytes, at, end === 0 ? length : end, sink);
            run = at;
            break;
          }
          const canonical = this.#readSize(bytes, at, end);
          if (this.#left > 0) {
            if (!canonical) {
              this.#pass(bytes, run, at, sink);
              this.#passSize(sink);
              run = end;
            }
            this.#state = 'data';
          } else if (canonical && bytes[end] === CR && bytes[end + 1] === LF) {
            this.#state = 'done';
            at = end + 2;
            break;
          } else {
            this.#pass(bytes, run, at, sink);
            run = end;
            this.#state = 'trailers';
          }
          at = end;
          break;
        }
        case 'trailers':
          at = this.#readTrailers(bytes, at, sink);
          run = at;
          break;
      }
    }
    this.#pass(bytes, run, at, sink);
    return at;
  }

  /** Passes bytes on as they came. */
  #pass(bytes: Buffer, from: number, to: number, sink: BodySink): void {
    if (this.#plain || from === to) return;
    sink(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }

  #passSize(sink: BodySink): void {
    if (!this.#plain) sink(sizeLine(this.#left));
  }

  /** A size line that one read does not bring whole. @returns the position behind what was taken */
  #sizeInPieces(bytes: Buffer, from: number, to: number, sink: BodySink): number {
    this.#held = Buffer.concat([this.#held, bytes.subarray(from, to)]);
    const line = this.#held;
    if (line[line.length - 1] !== LF) {
      this.#checkSize(line, 0, line.length);
      return to;
    }
    this.#held = NOTHING;
    this.#readSize(line, 0, line.length);
    if (this.#left === 0) this.#state = 'trailers';
    else {
      this.#passSize(sink);
      this.#state = 'data';
    }
    return to;
  }

  /** Reads a whole size line. @returns whether it is in canonical form */
  #readSize(bytes: Buffer, from: number, to: number): boolean {
    if (bytes[to - 2] !== CR || to - from < 3) throw new BodyError('bare LF in a chunk line');
    const end = this.#checkSize(bytes, from, to - 2);
    let size = 0;
    for (let i = from; i < end; i++) size = size * 16 + hexDigit(bytes[i] as number);
    if (end === from || size > Number.MAX_SAFE_INTEGER) throw new BodyError('bad chunk size');
    this.#left = size;
    return end === to - 2 && (bytes[from] !== ZERO || end === from + 1);
  }

  /** Holds a size line, or the beginning of one, to its grammar. @returns where the digits end */
  #checkSize(bytes: Buffer, from: number, to: number): number {
    if (to - from > this.#bounds.maxChunkLine) throw new BodyError('chunk line too long');
    let end = from;
    while (end < to && hexDigit(bytes[end] as number) >= 0) end++;
    if (end - from > MAX_SIZE_DIGITS) throw new BodyError('bad chunk size');
    if (end === to) return end;
    // The CR of a line whose LF is still to come.
    const cut = bytes[to - 1] === CR && to === bytes.length ? to - 1 : to;
    if (end === cut) return end;
    if (end === from || bytes[end] !== SEMICOLON) throw new BodyError('bad chunk size');
    for (let i = end; i < cut; i++) {
      const byte = bytes[i] as number;
      if ((byte < 0x20 && byte !== 0x09) || byte === 0x7f)
        throw new BodyError('control byte in a chunk extension');
    }
    return end;
  }

  /** @returns the position behind what was taken */
  #readTrailers(bytes: Buffer, from: number, sink: BodySink): number {
    const before = this.#held.length;
    if (this.#scan === null) {
      const { maxTrailerBytes: maxHeadBytes, maxHeadFields } = this.#bounds;
      this.#scan = new HeadScan('trailers', { maxHeadBytes, maxHeadFields, maxTargetBytes: 0 });
    }
    const room = this.#bounds.maxTrailerBytes + 1 - before;
    this.#held = Buffer.concat([this.#held, bytes.subarray(from, Math.min(bytes.length, from + room))]);
    let end: number;
    try {
      end = this.#scan.scan(this.#held);
    } catch (error) {
      if (!(error instanceof HeadError)) throw error;
      throw new BodyError(`trailers: ${error.message}`);
    }
    if (end === 0) return bytes.length;
    this.trailers = allowed(new ScannedFields(this.#held, this.#scan));
    this.#held = NOTHING;
    this.#state = 'done';
    if (!this.#plain) sink(lastChunk(this.trailers));
    return from + end - before;
  }
}

/** 2^53 has 14 hexadecimal digits; zeros may lead. */
const MAX_SIZE_DIGITS = 16;

function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}

/** RFC 9110 §6.5.1: those fields of a trailer section that may go on. */
function allowed(fields: ScannedFields): readonly Field[] {
  const { scan } = fields;
  for (let i = 0; i < scan.count; i++) if (!isTrailer(fields.name(i).toLowerCase())) scan.fates[i] = DROP;
  return fields.materialize({ rewritten: () => null });
}
