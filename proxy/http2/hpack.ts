/** Header compression of HTTP/2 (RFC 7541): blocks are read in full, and written without a table to remember. */
import { HpackError } from './hpack-error.ts';
import { BlockReader } from './hpack-reader.ts';
import { type HeaderField, STATIC_TABLE } from './hpack-static.ts';
import { FieldTable, fieldBytes } from './hpack-table.ts';

/** One header block. */
export interface DecodedHeaders {
  /** In their order; empty where they were too large. */
  readonly fields: readonly HeaderField[];
  readonly tooLarge: boolean;
}

/** "At most two dynamic table size updates" (RFC 7541 §4.2): the smallest in between, and the last. */
const MAX_SIZE_UPDATES = 2;

/** Decodes the header blocks of one direction of one connection, all of them, in their order. */
export class HpackDecoder {
  readonly #table: FieldTable;
  readonly #maxListBytes: number;

  /**
   * @param options.maxTableBytes SETTINGS_HEADER_TABLE_SIZE as the peer was told. With less than 4096, what every peer
   * begins with, blocks written before it had our SETTINGS may be refused.
   * @param options.maxListBytes of one block's fields (RFC 9113 §6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE)
   */
  constructor({ maxTableBytes, maxListBytes }: { maxTableBytes: number; maxListBytes: number }) {
    this.#table = new FieldTable(maxTableBytes);
    this.#maxListBytes = maxListBytes;
  }

  /**
   * Decodes one block. Fields beyond `maxListBytes` are dropped with all before them, but read to the end: later blocks
   * refer to what this one leaves in the table. What a block makes us hold is thus bounded by `maxListBytes` and the
   * table, however often it refers to a large entry; what it makes us do, by its own length, which the caller bounds.
   * Names and values are octets, not yet judged by RFC 9113 §8.2. That a field must never be indexed (RFC 7541 §7.1.3)
   * is not told: these fields go no further.
   * @param block a whole one: HEADERS and all CONTINUATION put together; not kept
   * @throws HpackError for what RFC 7541 calls a decoding error; the decoder is of no use then
   */
  decode(block: Buffer): DecodedHeaders {
    const reader = new BlockReader(block);
    this.#readSizeUpdates(reader);
    const fields: HeaderField[] = [];
    let bytes = 0;
    while (!reader.ended) {
      const field = this.#readField(reader);
      bytes += fieldBytes(field);
      if (bytes <= this.#maxListBytes) fields.push(field);
    }
    const tooLarge = bytes > this.#maxListBytes;
    return { fields: tooLarge ? [] : fields, tooLarge };
  }

  /** RFC 7541 §6.3: they stand at a block's beginning (§4.2). */
  #readSizeUpdates(reader: BlockReader): void {
    for (let updates = 0; isSizeUpdate(reader.peek()); updates += 1) {
      if (updates === MAX_SIZE_UPDATES) throw new HpackError('more than two table size updates in a block');
      this.#table.resize(reader.integer(5));
    }
  }

  #readField(reader: BlockReader): HeaderField {
    const first = reader.peek();
    // RFC 7541 §6.1: indexed.
    if ((first & 0x80) !== 0) return this.#table.at(reader.integer(7));
    // §6.2.1: a literal with incremental indexing.
    if ((first & 0x40) !== 0) {
      const field = this.#readLiteral(reader, 6);
      this.#table.add(field);
      return field;
    }
    if (isSizeUpdate(first)) throw new HpackError('a table size update behind a field');
    // §6.2.2 and §6.2.3: a literal without indexing, or never to be indexed.
    return this.#readLiteral(reader, 4);
  }

  /** @param prefix bits of the first octet that tell the name's index, 0 for a name that follows as text */
  #readLiteral(reader: BlockReader, prefix: number): HeaderField {
    const index = reader.integer(prefix);
    const name = index === 0 ? reader.text() : this.#table.at(index).name;
    return { name, value: reader.text() };
  }
}

function isSizeUpdate(first: number): boolean {
  return (first & 0xe0) === 0x20;
}

/** A name of the static table. */
interface StaticName {
  /** The first of its entries. */
  readonly index: number;
  readonly indexOf: Map<string, number>;
}

const STATIC_NAMES = new Map<string, StaticName>();
for (const [i, { name, value }] of STATIC_TABLE.entries()) {
  const index = i + 1;
  const known = STATIC_NAMES.get(name);
  if (known === undefined) STATIC_NAMES.set(name, { index, indexOf: new Map([[value, index]]) });
  else known.indexOf.set(value, index);
}

/**
 * The peer's dynamic table gets the size 0: it is never used, and whatever size its SETTINGS have come to, this is the
 * update that RFC 7541 §4.2 asks for.
 */
const NO_TABLE = 0x20;
/** Octets that an integer of ours can take at most, its prefix among them. */
const INTEGER_OCTETS = 6;
const BEYOND_LATIN1 = /[^\0-\xff]/;

/**
 * Writes a block that leaves nothing in the peer's table: indexed where the static table has the field, else a literal
 * without indexing and without Huffman coding.
 * @param fields latin1, the names in lower case as RFC 9113 §8.2 has them
 * @throws TypeError for characters that are not in latin1: cut to an octet, they could become others
 */
export function encodeHeaders(fields: readonly (readonly [name: string, value: string])[]): Buffer {
  let room = 1;
  for (const [name, value] of fields) room += name.length + value.length + 3 * INTEGER_OCTETS;
  const block = Buffer.allocUnsafe(room);
  block[0] = NO_TABLE;
  let at = 1;
  for (const [name, value] of fields) {
    const known = STATIC_NAMES.get(name);
    const index = known?.indexOf.get(value);
    if (index !== undefined) {
      at = writeInteger(block, at, 0x80, 7, index);
      continue;
    }
    at = writeInteger(block, at, 0, 4, known?.index ?? 0);
    if (known === undefined) at = writeText(block, at, name);
    at = writeText(block, at, value);
  }
  return block.subarray(0, at);
}

/** @returns where the next octet goes */
function writeText(block: Buffer, at: number, text: string): number {
  if (BEYOND_LATIN1.test(text)) throw new TypeError('a header field with characters beyond latin1');
  const start = writeInteger(block, at, 0, 7, text.length);
  return start + block.write(text, start, 'latin1');
}

/**
 * RFC 7541 §5.1.
 * @param first the bits before the prefix
 * @returns where the next octet goes
 */
function writeInteger(block: Buffer, at: number, first: number, prefix: number, value: number): number {
  const mask = 2 ** prefix - 1;
  if (value < mask) {
    block[at] = first | value;
    return at + 1;
  }
  block[at] = first | mask;
  let next = at + 1;
  let rest = value - mask;
  for (; rest >= 0x80; rest >>>= 7) {
    block[next] = (rest & 0x7f) | 0x80;
    next += 1;
  }
  block[next] = rest;
  return next + 1;
}
