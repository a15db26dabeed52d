/** The beginning of a request's body, held back until somebody who wants to see it has judged the request. */
import { type BodyReader, bodyReader } from './body.ts';
import type { Framing } from './head.ts';

export interface HeldBounds {
  readonly maxBytes: number;
  /** True: that many bytes are enough. False: more than that many are too many. */
  readonly partial: boolean;
}

export class HeldBody {
  /** As it goes on to the upstream, framed. At most `maxBytes` and one read more, and the framing. */
  readonly pieces: Buffer[] = [];
  readonly #bounds: HeldBounds;
  /** Reads the same bytes once more, for the data alone. */
  readonly #reader: BodyReader;
  readonly #data: Buffer[] = [];
  #length = 0;

  constructor(framing: Framing, bounds: HeldBounds) {
    this.#bounds = bounds;
    this.#reader = bodyReader(framing, true);
  }

  /**
   * @param body the request's own reader, which frames what goes on
   * @returns how many bytes belonged to the body
   * @throws BodyError where the framing is broken
   */
  feed(bytes: Buffer, body: BodyReader): number {
    const taken = body.feed(bytes, (piece) => void this.pieces.push(piece));
    this.#reader.feed(bytes, (piece) => {
      this.#data.push(piece);
      this.#length += piece.length;
    });
    return taken;
  }

  get tooLong(): boolean {
    return !this.#bounds.partial && this.#length > this.#bounds.maxBytes;
  }

  /** Nothing more needs to be waited for. */
  get enough(): boolean {
    const { maxBytes, partial } = this.#bounds;
    return this.#reader.done || this.tooLong || (partial && this.#length >= maxBytes);
  }

  /** There is more of the body than `data` shows. */
  get truncated(): boolean {
    return !this.#reader.done || this.#length > this.#bounds.maxBytes;
  }

  data(): Buffer {
    return Buffer.concat(this.#data, Math.min(this.#length, this.#bounds.maxBytes));
  }
}
