/** Reads DER (X.690 §8–10) strictly: the ground on which certificates and revocation lists are read. */

/** The bytes are not DER, or not what belongs there. Readers of whole documents turn it into an error of their own. */
export class DerError extends Error {
  override name = 'DerError';
}

/** The tags we meet, X.690 §8 and X.680 §8.6. */
export const BOOLEAN = 0x01;
export const INTEGER = 0x02;
export const BIT_STRING = 0x03;
export const OCTET_STRING = 0x04;
export const OID = 0x06;
export const ENUMERATED = 0x0a;
export const UTC_TIME = 0x17;
export const GENERALIZED_TIME = 0x18;
export const SEQUENCE = 0x30;

const MAX_SERIAL_BYTES = 64;

/** A position in DER bytes with an end it cannot pass. */
export class Cursor {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  #at: number;

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
  }

  /** Bytes not yet read. */
  get length(): number {
    return this.#end - this.#at;
  }

  /** The next tag without reading it; -1 at the end. */
  peek(): number {
    return this.#at < this.#end ? (this.#bytes[this.#at] ?? -1) : -1;
  }

  byte(): number {
    if (this.#at >= this.#end) throw new DerError('ends too early');
    return this.#bytes[this.#at++] ?? 0;
  }

  /** Reads an element of exactly this tag, answers its content and moves behind it (X.690 §8.1, §10.1). */
  enter(tag: number): Cursor {
    this.#expect(tag);
    return this.#content();
  }

  /** Reads an element of exactly this tag and answers it whole, tag and length included; no copy. */
  element(tag: number): Buffer {
    const start = this.#at;
    this.enter(tag);
    return this.#slice(start, this.#at);
  }

  /** Reads an element whatever its tag. Tags of several bytes do not occur in what we read. */
  any(): { readonly tag: number; readonly content: Cursor } {
    const tag = this.byte();
    if ((tag & 0x1f) === 0x1f) throw new DerError('tag of several bytes');
    return { tag, content: this.#content() };
  }

  /** The bytes not yet read, without reading them; no copy. */
  rest(): Buffer {
    return this.#slice(this.#at, this.#end);
  }

  /** Nothing may be left. */
  finish(): void {
    if (this.#at !== this.#end) throw new DerError('bytes left over');
  }

  hex(): string {
    const text = this.rest().toString('hex');
    this.#at = this.#end;
    return text;
  }

  /** Visible ASCII only: what a URI, DNS name or time can be written in, so no NUL can cut it short. */
  ascii(): string {
    let text = '';
    while (this.#at < this.#end) {
      const code = this.byte();
      if (code < 0x21 || code > 0x7e) throw new DerError(`byte ${hexByte(code)} in a name or time`);
      text += String.fromCharCode(code);
    }
    return text;
  }

  /** Reads an object identifier, in dots (X.690 §8.19). Arcs may be of any size: some are made of UUIDs. */
  oid(): string {
    const content = this.enter(OID);
    if (content.length === 0) throw new DerError('empty object identifier');
    const arcs: bigint[] = [];
    while (content.length > 0) {
      if (content.peek() === 0x80) throw new DerError('object identifier not minimal');
      let arc = 0n;
      let byte: number;
      do {
        byte = content.byte();
        arc = (arc << 7n) | BigInt(byte & 0x7f);
      } while (byte >= 0x80);
      arcs.push(arc);
    }
    const first = arcs.shift() ?? 0n;
    const top = first < 80n ? first / 40n : 2n;
    return [top, first - top * 40n, ...arcs].join('.');
  }

  /** Reads a BOOLEAN: DER knows but two of them (X.690 §11.1). */
  boolean(): boolean {
    const content = this.enter(BOOLEAN);
    const value = content.byte();
    content.finish();
    if (value !== 0 && value !== 0xff) throw new DerError('neither true nor false');
    return value === 0xff;
  }

  /** Reads an INTEGER of 0 to 2³¹-1. */
  smallNumber(): number {
    const content = this.enter(INTEGER);
    if (content.length === 0 || content.length > 4 || content.peek() >= 0x80) {
      throw new DerError('no small number');
    }
    let value = 0;
    while (content.length > 0) value = value * 256 + content.byte();
    return value;
  }

  /** Reads a certificate's serial number: hex in lower case, without leading zero bytes. */
  serial(): string {
    const number = this.enter(INTEGER);
    if (number.length === 0 || number.length > MAX_SERIAL_BYTES) throw new DerError('serial of odd length');
    while (number.length > 1 && number.peek() === 0) number.byte();
    return number.hex();
  }

  /**
   * RFC 5280 §4.1.2.5: UTCTime with two digits for the year, split at 50, or GeneralizedTime; both to seconds, in Z.
   * @returns milliseconds since the epoch
   */
  time(): number {
    const { tag, content } = this.any();
    if (tag !== UTC_TIME && tag !== GENERALIZED_TIME) throw new DerError('neither kind of time');
    if (content.length !== (tag === UTC_TIME ? 13 : 15)) throw new DerError('time of odd length');
    return readTime(content.ascii(), tag === UTC_TIME);
  }

  #expect(tag: number): void {
    const found = this.byte();
    if (found !== tag) throw new DerError(`tag ${hexByte(found)} where ${hexByte(tag)} belongs`);
  }

  #content(): Cursor {
    let length = this.byte();
    if (length === 0x80) throw new DerError('indefinite length');
    if (length > 0x80) {
      const count = length & 0x7f;
      if (count > 3) throw new DerError('length of more than three bytes');
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + this.byte();
      if (length < 0x80 || length < 256 ** (count - 1)) throw new DerError('length not minimal');
    }
    const start = this.#at;
    if (length > this.#end - start) throw new DerError('length beyond its parent');
    this.#at = start + length;
    return new Cursor(this.#bytes, start, start + length);
  }

  #slice(start: number, end: number): Buffer {
    return Buffer.from(this.#bytes.buffer, this.#bytes.byteOffset + start, end - start);
  }
}

export function hexByte(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}

const TIME = /^(\d{2}|\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z$/;

function readTime(text: string, shortYear: boolean): number {
  const digits = TIME.exec(text);
  if (digits === null) throw new DerError('time not in seconds and Z');
  const [, yearText, month, day, hour, minute, second] = digits;
  let year = Number(yearText);
  if (shortYear) year += year >= 50 ? 1900 : 2000;
  // Date.UTC takes years under 100 for 19xx, and rolls 31 February over into March
  const date = new Date(
    Date.UTC(2000, Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second)),
  );
  date.setUTCFullYear(year, Number(month) - 1, Number(day));
  const rolled =
    date.getUTCMonth() !== Number(month) - 1 ||
    date.getUTCDate() !== Number(day) ||
    date.getUTCHours() !== Number(hour) ||
    date.getUTCMinutes() !== Number(minute) ||
    date.getUTCSeconds() !== Number(second);
  if (rolled) throw new DerError('no such time');
  return date.getTime();
}
