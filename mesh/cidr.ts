/** IP addresses and CIDR blocks: reading them as Go's `netip` does, testing whether an address is in one, and their one canonical form. */

/** A parsed block: the address's numbers (one of 32 bits for IPv4, eight of 16 for IPv6) and the prefix length. */
export interface Cidr {
  readonly words: readonly number[];
  readonly bits: number;
}

const DECIMAL = /^(0|[1-9][0-9]{0,2})$/;

/** Reads `10.0.0.0/8`, `10.1.2.3`, `2001:db8::/32` or `::1`; null for anything else. Host bits may be set. */
export function parseCidr(text: string): Cidr | null {
  const slash = text.lastIndexOf('/');
  const address = slash < 0 ? withoutZone(text) : text.slice(0, slash);
  const words = parseAddress(address);
  if (words === null) return null;
  const width = widthOf(words);
  if (slash < 0) return { words, bits: width };
  const length = text.slice(slash + 1);
  if (!DECIMAL.test(length) || Number(length) > width) return null;
  return { words, bits: Number(length) };
}

/** A bare IPv6 address may name a zone, which takes no part; a block may not. */
function withoutZone(address: string): string {
  const zone = address.indexOf('%');
  return zone > 0 && zone < address.length - 1 && address.includes(':') ? address.slice(0, zone) : address;
}

/**
 * Compiles blocks, which validation has checked, to a test of an address as text. An IPv4 address is in no IPv6
 * block, not even in one of IPv4-mapped addresses: Envoy compares like with like.
 */
export function compileCidrs(blocks: readonly string[]): (address: string) => boolean {
  const cidrs: Cidr[] = [];
  for (const block of blocks) {
    const cidr = parseCidr(block);
    if (cidr === null) throw new TypeError(`not a CIDR block: ${block}`);
    cidrs.push(cidr);
  }
  // One connection carries many requests, so the last answer is kept and its address parsed once.
  let lastAddress = '';
  let lastAnswer = false;
  return (address) => {
    if (address !== lastAddress) {
      // With its zone, `fe80::1%eth0` would be in no block at all: a DENY would not see it.
      const words = parseAddress(withoutZone(address));
      lastAnswer = words !== null && cidrs.some((cidr) => contains(cidr, words));
      lastAddress = address;
    }
    return lastAnswer;
  };
}

function contains(cidr: Cidr, words: readonly number[]): boolean {
  if (cidr.words.length !== words.length) return false;
  const size = words.length === 1 ? 32 : 16;
  let left = cidr.bits;
  for (let i = 0; left > 0; i++, left -= size) {
    const differing = (cidr.words[i] ?? 0) ^ (words[i] ?? 0);
    // The bits of this word that are behind the prefix do not count.
    if (differing >>> Math.max(size - left, 0) !== 0) return false;
  }
  return true;
}

/** An address's numbers as `Cidr.words` has them; null for anything else. No zone. */
function parseAddress(text: string): readonly number[] | null {
  if (!text.includes(':')) {
    const v4 = parseV4(text);
    return v4 === null ? null : [v4];
  }
  return parseV6(text);
}

/**
 * An address in the one form that is compared and looked up: IPv4 as four numbers, IPv6 as RFC 5952 §4 writes it, one that
 * is IPv4-mapped as the IPv4 address it is, a zone left out. Null where it is no address.
 */
export function canonicalAddress(text: string): string | null {
  const words = parseAddress(withoutZone(text));
  return words === null ? null : addressOf(unmapped(words));
}

/** A block as `parseCidr` reads it, one of IPv4-mapped addresses as the IPv4 block it is; null for anything else. */
export function canonicalCidr(text: string): Cidr | null {
  const cidr = parseCidr(text);
  if (cidr === null) return null;
  const words = cidr.bits < MAPPED_BITS ? cidr.words : unmapped(cidr.words);
  return words.length === cidr.words.length ? cidr : { words, bits: cidr.bits - MAPPED_BITS };
}

/** The address in a block that has just that one, in canonical form; null where it has more. */
export function onlyAddress({ words, bits }: Cidr): string | null {
  return bits === widthOf(words) ? addressOf(words) : null;
}

/** The same text for all addresses that share their first `bits`; `words` as a Cidr has them, of a canonical address. */
export function prefixKey(words: readonly number[], bits: number): string {
  const size = words.length === 1 ? 32 : 16;
  const kept = words.map((word, i) => {
    const behind = Math.min(Math.max(size * (i + 1) - bits, 0), size);
    // A shift by all of 32 bits would be one by none.
    return behind === size ? 0 : (word >>> behind) * 2 ** behind;
  });
  return `${bits} ${kept.join(':')}`;
}

function widthOf(words: readonly number[]): number {
  return words.length === 1 ? 32 : 128;
}

/** `::ffff:0:0/96`. */
const MAPPED_BITS = 96;

function unmapped(words: readonly number[]): readonly number[] {
  const [a = 0, b = 0, ...others] = words.slice(-3);
  const mapped = words.length === 8 && a === 0xffff && words.slice(0, 5).every((word) => word === 0);
  return mapped ? [(b << 16) | (others[0] ?? 0)] : words;
}

/** Words of a `Cidr` as text. */
function addressOf(words: readonly number[]): string {
  if (words.length === 1) {
    const [word = 0] = words;
    return [word >>> 24, (word >>> 16) & 0xff, (word >>> 8) & 0xff, word & 0xff].join('.');
  }
  // §4.2.3: the longest run of zeros, the first of equals; §4.2.2: never a single one.
  let start = 0;
  let length = 1;
  for (let i = 0; i < words.length; i++) {
    let end = i;
    while (words[end] === 0) end++;
    if (end - i > length) [start, length] = [i, end - i];
  }
  const groups = (list: readonly number[]): string => list.map((word) => word.toString(16)).join(':');
  if (length < 2) return groups(words);
  return `${groups(words.slice(0, start))}::${groups(words.slice(start + length))}`;
}

/** Four decimal numbers without leading zeros, as one of 32 bits (signed, as bit operations are). */
function parseV4(text: string): number | null {
  const parts = text.split('.');
  if (parts.length !== 4) return null;
  let word = 0;
  for (const part of parts) {
    const byte = DECIMAL.test(part) ? Number(part) : 256;
    if (byte > 255) return null;
    word = (word << 8) | byte;
  }
  return word;
}

/** RFC 4291 §2.2: eight groups, one run of zeros as `::`, the last two groups perhaps as IPv4. */
function parseV6(text: string): readonly number[] | null {
  const halves = text.split('::');
  if (halves.length > 2) return null;
  const head = parseGroups(halves[0] ?? '', halves.length === 1);
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : [];
  if (head === null || tail === null) return null;
  const missing = 8 - head.length - tail.length;
  // netip: "the double colon must stand for at least one group".
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  return [...head, ...new Array<number>(missing).fill(0), ...tail];
}

function parseGroups(text: string, last: boolean): number[] | null {
  if (text === '') return [];
  const groups: number[] = [];
  const parts = text.split(':');
  for (const [i, part] of parts.entries()) {
    if (last && i === parts.length - 1 && part.includes('.')) {
      const v4 = parseV4(part);
      if (v4 === null) return null;
      groups.push(v4 >>> 16, v4 & 0xffff);
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return null;
      groups.push(Number.parseInt(part, 16));
    }
  }
  return groups;
}
