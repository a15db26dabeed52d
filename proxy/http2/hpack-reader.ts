/** Reads what header blocks are made of: integers and texts (RFC 7541 §5). */
import { HpackError } from './hpack-error.ts';
import { decodeHuffman } from './huffman.ts';

/** Far above any index or length that a block of some KB has use for. */
const MAX_INTEGER = 2 ** 28;
/** As many octets behind the prefix as such an integer takes, and one of zeros. */
const MAX_CONTINUATIONS = 5;

export class BlockReader {
  readonly #block: Buffer;
  #at = 0;

  constructor(block: Buffer) {
    this.#block = block;
  }

  get ended(): boolean {
    return this.#at >= this.#block.length;
  }

  /** The next octet, which stays the next; 0 at the end. */
  peek(): number {
    return this.#block[this.#at] ?? 0;
  }

  /**
   * RFC 7541 §5.1.
   * @param prefix bits of the first octet that belong to the integer
   * @throws HpackError where it is cut off, above 2^28, or takes more than five octets behind the prefix
   */
  integer(prefix: number): number {
    const mask = 2 ** prefix - 1;
    let value = this.#octet() & mask;
    if (value < mask) return value;
    for (let octets = 0; octets < MAX_CONTINUATIONS; octets += 1) {
      const octet = this.#octet();
      value += (octet & 0x7f) * 2 ** (7 * octets);
      if (value > MAX_INTEGER) throw new HpackError('an integer above 2^28');
      if ((octet & 0x80) === 0) return value;
    }
    throw new HpackError('an integer of too many octets');
  }

  /**
   * RFC 7541 §5.2.
   * @returns the octets as latin1
   * @throws HpackError where it is longer than the rest of the block, or wrong in its Huffman code
   */
  text(): string {
    const huffman = (this.peek() & 0x80) !== 0;
    const length = this.integer(7);
    const start = this.#at;
    const end = start + length;
    if (end > this.#block.length) throw new HpackError('a text longer than the rest of its block');
    this.#at = end;
    return huffman ? decodeHuffman(this.#block, start, end) : this.#block.toString('latin1', start, end);
  }

  #octet(): number {
    const octet = this.#block[this.#at];
    if (octet === undefined) throw new HpackError('a block that ends within a field');
    this.#at += 1;
    return octet;
  }
}
