/** One log line in the making: text and numbers go straight into the bytes that will be written. */

/** The bytes of a text that never changes. */
export function ascii(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'utf8'));
}

/** How text from the wire is made harmless: as the inside of a JSON string, or printable and without quotes. */
export type Escaping = 'json' | 'text';

/** An escaped UTF-16 unit takes six bytes at most: `\u001f`. */
export const MAX_BYTES_A_UNIT = 6;

const ZERO = 0x30;
const SPACE = 0x20;
const DEL = 0x7f;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
/** Up to here a loop over the text is quicker than a call into the engine. */
const SHORT = 48;
const NO_BYTES = Buffer.alloc(0);
const NO_PIECE = new Uint8Array(0);

/** What JSON.stringify leaves and a terminal might obey, or a reader take for the end of a line. */
const JSON_LEFT = /[\u007f-\u009f\u2028\u2029]/g;
/** What stands in no text line: controls, and what would end a quoted field (as nginx escapes). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const TEXT_UNSAFE = /["\\\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

/**
 * A cursor over bytes. It checks no bounds: whoever sets `bytes` sees to it that there is room for the longest line,
 * so that the hot path compares nothing.
 */
export class LineBytes {
  bytes: Buffer = NO_BYTES;
  at = 0;
  #second = -1;
  /** `2026-08-09T10:11:12.` of `#second`. */
  #secondText: Uint8Array = NO_PIECE;

  /** Adds bytes as they are. */
  piece(piece: Uint8Array): void {
    this.bytes.set(piece, this.at);
    this.at += piece.length;
  }

  /** A whole number, as Envoy writes milliseconds and bytes: fractions cut off; never NaN, which is no JSON. */
  number(value: number): void {
    let rest = value > 0 ? Math.floor(value) : 0;
    if (rest === Number.POSITIVE_INFINITY) rest = 0;
    let digits = 1;
    for (let bound = 10; rest >= bound; bound *= 10) digits++;
    const { bytes } = this;
    let at = this.at + digits;
    this.at = at;
    for (; digits > 0; digits--) {
      const tens = Math.floor(rest / 10);
      bytes[--at] = ZERO + rest - tens * 10;
      rest = tens;
    }
  }

  /**
   * Text from the wire, escaped where it needs to be.
   * @param limit UTF-16 units kept of it
   */
  text(value: string, limit: number, escaping: Escaping): void {
    const { bytes, at } = this;
    const { length } = value;
    if (length <= limit) {
      const end = at + length;
      let i = at;
      if (length <= SHORT) {
        for (; i < end; i++) {
          const unit = value.charCodeAt(i - at);
          if (!isPlain(unit)) break;
          bytes[i] = unit;
        }
      } else if (bytes.write(value, at, 'utf8') === length) {
        // A byte a unit: all of it is ASCII.
        while (i < end && isPlain(bytes[i] as number)) i++;
      }
      if (i === end) {
        this.at = end;
        return;
      }
    }
    const bounded = length <= limit ? value : value.slice(0, limit);
    this.at = at + bytes.write(escaping === 'json' ? jsonEscaped(bounded) : textEscaped(bounded), at, 'utf8');
  }

  /** `2026-08-09T10:11:12.007Z`, with the part up to the second kept from one line to the next. */
  time(epochMs: number): void {
    const second = Math.floor(epochMs / 1000);
    if (second !== this.#second) {
      this.#secondText = ascii(new Date(second * 1000).toISOString().slice(0, 20));
      this.#second = second;
    }
    this.piece(this.#secondText);
    const ms = Math.floor(epochMs) - second * 1000;
    const { bytes, at } = this;
    bytes[at] = ZERO + Math.floor(ms / 100);
    bytes[at + 1] = ZERO + (Math.floor(ms / 10) % 10);
    bytes[at + 2] = ZERO + (ms % 10);
    bytes[at + 3] = 0x5a;
    this.at = at + 4;
  }
}

/** Printable ASCII that ends no quoted field and escapes nothing. */
function isPlain(unit: number): boolean {
  return unit >= SPACE && unit < DEL && unit !== QUOTE && unit !== BACKSLASH;
}

/** JSON.stringify also escapes the half of a pair that a cut may leave. */
function jsonEscaped(text: string): string {
  return JSON.stringify(text).slice(1, -1).replace(JSON_LEFT, escapeUnit);
}

function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

function textEscaped(text: string): string {
  return text.toWellFormed().replace(TEXT_UNSAFE, escapeByte);
}

function escapeByte(unit: string): string {
  const code = unit.charCodeAt(0);
  return code > 0xff ? escapeUnit(unit) : `\\x${code.toString(16).padStart(2, '0')}`;
}
