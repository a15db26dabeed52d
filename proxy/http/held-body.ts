/** The beginning of a request's body, held back until somebody who wants to see it has judged the request. */
import { type BodyReader, frameChunk, lastChunk } from '../http1/body.ts';
import type { Framing } from './head.ts';

/** The bytes that all connections together may hold back. */
export class HeldRoom {
  readonly #max: number;
  #used = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get used(): number {
    return this.#used;
  }

  /** @returns false, and takes nothing, where there is no room for them */
  take(bytes: number): boolean {
    if (this.#used + bytes > this.#max) return false;
    this.#used += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#used -= bytes;
  }
}

export interface HeldBounds {
  readonly maxBytes: number;
  /** True: that many bytes are enough. False: more than that many are too many. */
  readonly partial: boolean;
  readonly room: HeldRoom;
}

/** Allocated for the first bytes of a body whose length is not known. */
const FIRST_BYTES = 1_024;
const EMPTY = Buffer.alloc(0);

export class HeldBody {
  readonly #framing: Framing;
  readonly #bounds: HeldBounds;
  /** All of it has come. */
  #done = false;
  /**
   * The data, copied: a slice for each read would cost hundreds of bytes where a read brings one. At most twice
   * what came, and no more than `maxBytes` and one read.
   */
  #buffer: Buffer = EMPTY;
  #length = 0;
  #crowdedOut = false;

  constructor(framing: Framing, bounds: HeldBounds) {
    this.#framing = framing;
    this.#bounds = bounds;
  }

  /**
   * @param body the request's own reader, which passes on data alone
   * @returns how many bytes belonged to the body
   * @throws BodyError where the framing is broken
   */
  feed(bytes: Buffer, body: BodyReader): number {
    const taken = body.feed(bytes, this.#keep);
    this.#done = body.done;
    return taken;
  }

  readonly #keep = (piece: Buffer): void => {
    const needed = this.#length + piece.length;
    if (needed > this.#buffer.length && !this.#grow(needed)) {
      this.#crowdedOut = true;
      return;
    }
    piece.copy(this.#buffer, this.#length);
    this.#length = needed;
  };

  #grow(needed: number): boolean {
    const { maxBytes, room } = this.#bounds;
    const known = this.#framing.kind === 'length' ? this.#framing.length : maxBytes;
    const ahead = Math.min(Math.max(2 * this.#buffer.length, FIRST_BYTES), known, maxBytes);
    const size = Math.max(needed, ahead);
    if (!room.take(size - this.#buffer.length)) return false;
    // Not of Node's pool: a byte kept must not keep all its neighbours.
    const grown = Buffer.allocUnsafeSlow(size);
    this.#buffer.copy(grown, 0, 0, this.#length);
    this.#buffer = grown;
    return true;
  }

  get tooLong(): boolean {
    return !this.#bounds.partial && this.#length > this.#bounds.maxBytes;
  }

  /** There was no room for it beside those of other requests. */
  get crowdedOut(): boolean {
    return this.#crowdedOut;
  }

  /** Nothing more needs to be waited for. */
  get enough(): boolean {
    const { maxBytes, partial } = this.#bounds;
    return this.#crowdedOut || this.#done || this.tooLong || (partial && this.#length >= maxBytes);
  }

  /** There is more of the body than `data` shows. */
  get truncated(): boolean {
    return !this.#done || this.#length > this.#bounds.maxBytes;
  }

  data(): Buffer {
    return this.#buffer.subarray(0, Math.min(this.#length, this.#bounds.maxBytes));
  }

  /** All of it as it goes on to the upstream. @param body see `feed` */
  framed(body: BodyReader): Buffer[] {
    const data = this.#buffer.subarray(0, this.#length);
    if (this.#framing.kind !== 'chunked') return [data];
    const framed = frameChunk(data, false);
    return this.#done ? [...framed, lastChunk(body.trailers)] : framed;
  }

  /** Nobody needs it any more: gives its room back. Safe to call twice. */
  release(): void {
    this.#bounds.room.give(this.#buffer.length);
    this.#buffer = EMPTY;
    this.#length = 0;
  }
}
