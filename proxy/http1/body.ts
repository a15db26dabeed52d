/** Body readers: where a body ends, and what of it is passed on. A broken body is never turned into a clean end. */
import type { Framing } from '../http/head.ts';

/** Takes pieces of a body as they go on. */
export type BodySink = (piece: Buffer) => void;

export interface BodyReader {
  /** True once the last byte of the body has been fed. */
  readonly done: boolean;
  /**
   * Feeds received bytes; passes body pieces, framed for the other side, to `sink`.
   * @returns how many bytes belonged to this body
   * @throws BodyError where the framing is broken
   */
  feed(bytes: Buffer, sink: BodySink): number;
  /** The stream ended: true where that is a proper end of this body. */
  ended(): boolean;
}

export class BodyError extends Error {}

/** Bounds one chunk-size line and one trailer section (bytes). */
const MAX_CHUNK_LINE = 256;
const MAX_TRAILERS = 8_192;
const CRLF = Buffer.from('\r\n');
const NO_DATA = Buffer.alloc(0);
const LAST_CHUNK = Buffer.from('0\r\n\r\n');

/** @param plain pass chunked data on without chunk framing: HTTP/1.0 downstreams do not know it */
export function bodyReader(framing: Framing, plain = false): BodyReader {
  switch (framing.kind) {
    case 'none':
      return EMPTY;
    case 'length':
      return new LengthBody(framing.length);
    case 'chunked':
      return new ChunkedBody(plain);
    case 'close':
      return new CloseBody();
  }
}

const EMPTY: BodyReader = { done: true, feed: () => 0, ended: () => true };

class LengthBody implements BodyReader {
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
  const size = Buffer.from(`${data.length.toString(16)}\r\n`, 'latin1');
  const framed = data.length === 0 ? [] : [size, data, CRLF];
  if (last) framed.push(LAST_CHUNK);
  return framed;
}

type ChunkState = 'size' | 'data' | 'data-end' | 'trailer' | 'done';

/**
 * RFC 9112 §7.1, strictly: hex sizes only, CRLF only. Each piece of data is framed anew, so extensions end
 * here; so do trailers, which RFC 9110 §6.5.1 lets an intermediary drop.
 */
class ChunkedBody implements BodyReader {
  readonly #plain: boolean;
  #state: ChunkState = 'size';
  #line = '';
  #left = 0;
  #trailerBytes = 0;

  constructor(plain: boolean) {
    this.#plain = plain;
  }

  get done(): boolean {
    return this.#state === 'done';
  }

  feed(bytes: Buffer, sink: BodySink): number {
    const pieces: Buffer[] = [];
    let at = 0;
    while (at < bytes.length && this.#state !== 'done') {
      if (this.#state === 'data') at = this.#data(bytes, at, pieces);
      else at = this.#lineByte(bytes, at);
    }
    this.#pass(pieces, sink);
    return at;
  }

  ended(): boolean {
    return this.done;
  }

  /** Passes the data of one read on as one chunk: chunks of a byte each must not become three writes each. */
  #pass(pieces: readonly Buffer[], sink: BodySink): void {
    const [first = NO_DATA] = pieces;
    const data = pieces.length <= 1 ? first : Buffer.concat(pieces);
    if (!this.#plain) for (const piece of frameChunk(data, this.done)) sink(piece);
    else if (data.length > 0) sink(data);
  }

  #data(bytes: Buffer, at: number, pieces: Buffer[]): number {
    const piece = bytes.subarray(at, Math.min(bytes.length, at + this.#left));
    this.#left -= piece.length;
    pieces.push(piece);
    if (this.#left === 0) this.#state = 'data-end';
    return at + piece.length;
  }

  /** Collects one line up to its CRLF; a bare LF, a bare CR or a NUL is an error. */
  #lineByte(bytes: Buffer, at: number): number {
    let i = at;
    while (i < bytes.length) {
      const byte = bytes[i++] ?? 0;
      const afterCr = this.#line.endsWith('\r');
      if (byte === 0x0a) {
        if (!afterCr) throw new BodyError('bare LF in a chunk line');
        const line = this.#line.slice(0, -1);
        this.#line = '';
        this.#endLine(line);
        return i;
      }
      if (afterCr || byte === 0) throw new BodyError('bare CR or NUL in a chunk line');
      this.#line += String.fromCharCode(byte);
      if (this.#state === 'data-end' && byte !== 0x0d) throw new BodyError('chunk data longer than its size');
      if (this.#line.length > MAX_CHUNK_LINE && this.#state !== 'trailer')
        throw new BodyError('chunk line too long');
      if (this.#state === 'trailer' && ++this.#trailerBytes > MAX_TRAILERS)
        throw new BodyError('trailers too long');
    }
    return i;
  }

  #endLine(line: string): void {
    if (this.#state === 'data-end') {
      this.#state = 'size';
      return;
    }
    if (this.#state === 'trailer') {
      if (line !== '') return;
      this.#state = 'done';
      return;
    }
    // chunk-ext is dropped, but must begin where RFC 9112 §7.1.1 lets it.
    const match = /^([0-9A-Fa-f]{1,13})(?:[ \t]*;.*)?$/.exec(line);
    if (match === null) throw new BodyError('bad chunk size');
    this.#left = Number.parseInt(match[1] ?? '', 16);
    this.#state = this.#left === 0 ? 'trailer' : 'data';
  }
}
