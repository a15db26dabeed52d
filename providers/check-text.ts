/** Bytes that came over HTTP as the UTF-8 that Envoy tells an authorizer: what is no UTF-8 becomes `!`. */
import { isUtf8 } from 'node:buffer';

const ASCII = /^[\0-\x7f]*$/;
const REPLACEMENT = 0x21;

/** Each byte that belongs to no well-formed sequence is replaced (Envoy's `sanitizeUtf8String`). */
export function cleanBytes(bytes: Uint8Array): Uint8Array {
  if (isUtf8(bytes)) return bytes;
  const cleaned = Buffer.from(bytes);
  let at = 0;
  while (at < cleaned.length) {
    const length = sequenceLength(cleaned[at] ?? 0);
    if (length > 0 && at + length <= cleaned.length && isUtf8(cleaned.subarray(at, at + length))) {
      at += length;
    } else {
      cleaned[at++] = REPLACEMENT;
    }
  }
  return cleaned;
}

/** How long the sequence is that this byte begins (RFC 3629 §3); 0: it begins none. */
function sequenceLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

/** The same for a string with one character a byte, given back in the same form. */
export function cleanLatin1(text: string): string {
  return ASCII.test(text) ? text : Buffer.from(cleanBytes(Buffer.from(text, 'latin1'))).toString('latin1');
}

/** A string as it stands in a message, with one character a byte, as heads carry it. */
export function toLatin1(text: string): string {
  return ASCII.test(text) ? text : Buffer.from(text, 'utf8').toString('latin1');
}
