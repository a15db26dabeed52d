/** The fields that a header block refers to by index: the static table, and behind it the connection's own. */
import { HpackError } from './hpack-error.ts';
import { type HeaderField, STATIC_TABLE } from './hpack-static.ts';

/** What both ends begin with (RFC 9113 §6.5.2, SETTINGS_HEADER_TABLE_SIZE). */
const FIRST_LIMIT = 4096;
const PER_FIELD = 32;

/** A field's size as tables (RFC 7541 §4.1) and lists (RFC 9113 §6.5.2) count it. */
export function fieldBytes({ name, value }: HeaderField): number {
  return name.length + value.length + PER_FIELD;
}

/** One direction of a connection: static entries first, then dynamic ones, the newest first (RFC 7541 §2.3.3). */
export class FieldTable {
  readonly #maxBytes: number;
  /** The oldest first, so that adding and evicting move none of them. */
  readonly #dynamic: HeaderField[] = [];
  /** What the peer has last set, up to `#maxBytes`. */
  #limit: number;
  #bytes = 0;

  /** @param maxBytes of dynamic entries, which the peer was told as SETTINGS_HEADER_TABLE_SIZE */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#limit = Math.min(FIRST_LIMIT, maxBytes);
  }

  /** @throws HpackError where the index is 0 or beyond both tables (RFC 7541 §2.3.3, §6.1) */
  at(index: number): HeaderField {
    const field =
      index <= STATIC_TABLE.length
        ? STATIC_TABLE[index - 1]
        : this.#dynamic[this.#dynamic.length - (index - STATIC_TABLE.length)];
    if (field === undefined) {
      const entries = STATIC_TABLE.length + this.#dynamic.length;
      throw new HpackError(`no field has the index ${index} in a table of ${entries}`);
    }
    return field;
  }

  /** Makes it the newest entry; what is larger than the whole table only empties it (RFC 7541 §4.4). */
  add(field: HeaderField): void {
    const bytes = fieldBytes(field);
    this.#evict(this.#limit - bytes);
    if (bytes > this.#limit) return;
    this.#dynamic.push(field);
    this.#bytes += bytes;
  }

  /** @throws HpackError for more than the peer was told it may have (RFC 7541 §6.3) */
  resize(bytes: number): void {
    if (bytes > this.#maxBytes) {
      throw new HpackError(`a dynamic table of ${bytes} bytes, where at most ${this.#maxBytes} are allowed`);
    }
    this.#limit = bytes;
    this.#evict(bytes);
  }

  /** Drops the oldest until the rest takes at most so many bytes (RFC 7541 §4.3, §4.4). */
  #evict(bytes: number): void {
    while (this.#bytes > bytes) {
      const oldest = this.#dynamic.shift();
      if (oldest === undefined) return;
      this.#bytes -= fieldBytes(oldest);
    }
  }
}
