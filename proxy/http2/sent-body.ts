/** What was sent of a request's body, for as long as it may have to be sent again. */

/** Bytes. RFC 9113 §8.7 lets every request be sent again that was refused unread: up to so large a one is. */
const MAX_KEPT = 65_536;

export class SentBody {
  #pieces: Buffer[] | null = [];
  #bytes = 0;

  keep(data: Buffer): void {
    if (this.#pieces === null) return;
    this.#bytes += data.length;
    if (this.#bytes > MAX_KEPT) this.#pieces = null;
    else this.#pieces.push(data);
  }

  /** It will not be asked for. */
  forget(): void {
    this.#pieces = null;
  }

  /** All of it; null: it was too much, or is forgotten. */
  get pieces(): readonly Buffer[] | null {
    return this.#pieces;
  }
}
