/** Reads a distinguished name's DER (RFC 5280 §4.1.2.4): for people, and for comparing names that were written differently. */
import { Cursor, DerError, SEQUENCE } from './der.ts';

const SET = 0x31;
/** Strings whose bytes can be read as text: UTF8, Printable, Teletex and IA5 (X.680 §41). */
const TEXT_TAGS = new Set([0x0c, 0x13, 0x14, 0x16]);
const SHORT_NAMES: Readonly<Record<string, string>> = {
  '2.5.4.3': 'CN',
  '2.5.4.5': 'serialNumber',
  '2.5.4.6': 'C',
  '2.5.4.7': 'L',
  '2.5.4.8': 'ST',
  '2.5.4.10': 'O',
  '2.5.4.11': 'OU',
  '0.9.2342.19200300.100.1.25': 'DC',
  '1.2.840.113549.1.9.1': 'emailAddress',
};
const MAX_TEXT = 256;

/** One line of printable characters, cut to a bound: `O=cluster.local, CN=Root`. Nothing is decided by it. */
export function describeName(der: Uint8Array): string {
  try {
    const text = attributesOf(der)
      .map(({ type, value }) => `${SHORT_NAMES[type] ?? type}=${value}`)
      .join(', ')
      .replace(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, '?');
    return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
  } catch (error) {
    if (error instanceof DerError) return 'an unreadable name';
    throw error;
  }
}

/**
 * The same text for all names that RFC 5280 §7.1 calls equal, and for some more: kinds of string, case, and spaces
 * at the ends or several together make no difference. For finding candidates whose keys are then asked.
 * @throws DerError
 */
export function comparableName(der: Uint8Array): string {
  const attributes = attributesOf(der).map(({ type, value }) => [
    type,
    value.trim().replace(/\s+/g, ' ').toLowerCase(),
  ]);
  return JSON.stringify(attributes);
}

interface Attribute {
  /** Object identifier in dots. */
  readonly type: string;
  /** Its text, or `#` and its bytes in hex. */
  readonly value: string;
}

function attributesOf(der: Uint8Array): readonly Attribute[] {
  const attributes: Attribute[] = [];
  const name = new Cursor(der).enter(SEQUENCE);
  while (name.length > 0) {
    const set = name.enter(SET);
    while (set.length > 0) {
      const attribute = set.enter(SEQUENCE);
      const type = attribute.oid();
      const { tag, content } = attribute.any();
      const value = TEXT_TAGS.has(tag) ? content.rest().toString('utf8') : `#${content.hex()}`;
      attributes.push({ type, value });
    }
  }
  return attributes;
}
