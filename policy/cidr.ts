/** IP addresses and CIDR blocks: reading them as Go's `netip` does, and testing whether an address is in one. */

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
  const width = words.length === 1 ? 32 : 128;
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
