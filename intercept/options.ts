/** What is captured, as flags say it: the shapes, the defaults, and the reading of lists from text. */
import { isIP, SocketAddress } from 'node:net';
import { ports } from '../mesh/ports.ts';

/** An IP family, as it is written in `IPv4` and `IPv6`. */
export type Family = 4 | 6;
export const families: readonly Family[] = [4, 6];

/** A block of addresses, its host bits cleared, its address as the kernel's tools print it. */
export interface Block {
  readonly family: Family;
  readonly address: string;
  readonly bits: number;
}

/** The fields carry the names of Istio's `traffic.sidecar.istio.io/` annotations where there is one. */
export interface CaptureOptions {
  readonly outboundPort: number;
  readonly inboundPort: number;
  /** HBONE comes by itself, so it is neither captured coming in nor sent round again going out. */
  readonly hbonePort: number;
  /** Whose own connections pass: the sidecar's. */
  readonly uids: readonly number[];
  readonly gids: readonly number[];
  /** `*`: all but the excluded ones. A list: these alone, and the excluded ones do not count. Empty: none. */
  readonly includeInboundPorts: '*' | readonly number[];
  readonly excludeInboundPorts: readonly number[];
  /** `*`: all but the excluded ones. A list: these alone. Empty: none but `includeOutboundPorts`. */
  readonly includeOutboundBlocks: '*' | readonly Block[];
  readonly excludeOutboundBlocks: readonly Block[];
  /** Captured whatever their addresses, but not in excluded blocks. */
  readonly includeOutboundPorts: readonly number[];
  readonly excludeOutboundPorts: readonly number[];
  /** Neither what comes in here nor what goes out here is captured. */
  readonly excludeInterfaces: readonly string[];
  /** Behind these is a virtual machine: what comes in here is captured as outbound. */
  readonly kubevirtInterfaces: readonly string[];
}

/** The sidecar's uid and gid, as in Istio. */
export const SIDECAR_ID = 1337;
const DNS = 53;

/** Never captured going out, unless asked for: DNS over TCP goes where DNS over UDP does. */
export const outboundExempt: readonly number[] = [DNS];

export const defaultCapture: CaptureOptions = {
  outboundPort: ports.outbound,
  inboundPort: ports.inbound,
  hbonePort: ports.hbone,
  uids: [SIDECAR_ID],
  gids: [SIDECAR_ID],
  includeInboundPorts: '*',
  excludeInboundPorts: [],
  includeOutboundBlocks: '*',
  excludeOutboundBlocks: [],
  includeOutboundPorts: [],
  excludeOutboundPorts: [],
  excludeInterfaces: [],
  kubevirtInterfaces: [],
};

/** Every entry is a rule or two a family. */
const MAX_ENTRIES = 1_000;
const HIGHEST_PORT = 65_535;
/** The highest is (uid_t)-1, which means nobody. */
const HIGHEST_ID = 4_294_967_294;
/** What IFNAMSIZ leaves beside the closing zero. */
const INTERFACE_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/;

/** @throws RangeError that says what a port is */
export function readPort(text: string): number {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
  if (port >= 1 && port <= HIGHEST_PORT) return port;
  throw new RangeError(`${quoted(text)} is no port: it must be a number from 1 to ${HIGHEST_PORT}`);
}

/** `8080,9090` or nothing. @throws RangeError that names the entry */
export function readPorts(text: string): readonly number[] {
  return entries(text).map(readPort);
}

/** As `readPorts`, or `*`. @throws RangeError that names the entry */
export function readPortsOrAll(text: string): '*' | readonly number[] {
  return text.trim() === '*' ? '*' : readPorts(text);
}

/** `1337,1338`: of users or groups. @throws RangeError that names the entry */
export function readIds(text: string): readonly number[] {
  const ids = entries(text).map((entry) => {
    if (/^[0-9]{1,10}$/.test(entry) && Number(entry) <= HIGHEST_ID) return Number(entry);
    throw new RangeError(
      `${quoted(entry)} is no id: it must be a number, as 1337; names differ between images`,
    );
  });
  if (ids.length > 0) return ids;
  throw new RangeError(
    "it must name one id at least, the sidecar's: without it traffic would go round for ever",
  );
}

/** `10.0.0.0/8,fd00::/8` or nothing; an address alone is a block of one. @throws RangeError that names the entry */
export function readBlocks(text: string): readonly Block[] {
  return entries(text).map(readBlock);
}

/** As `readBlocks`, or `*`. @throws RangeError that names the entry */
export function readBlocksOrAll(text: string): '*' | readonly Block[] {
  return text.trim() === '*' ? '*' : readBlocks(text);
}

/** `eth1,net1` or nothing. @throws RangeError that names the entry */
export function readInterfaces(text: string): readonly string[] {
  return entries(text).map((entry) => {
    if (INTERFACE_NAME.test(entry)) return entry;
    throw new RangeError(
      `${quoted(entry)} is no interface name: up to 15 letters, digits, dots, dashes and underscores, no wildcard`,
    );
  });
}

function readBlock(text: string): Block {
  const [address = '', length, more] = text.split('/');
  const family = isIP(address);
  const width = family === 6 ? 128 : 32;
  const bits = length === undefined ? width : /^[0-9]{1,3}$/.test(length) ? Number(length) : -1;
  if (family === 0 || address.includes('%') || more !== undefined || bits < 0 || bits > width) {
    throw new RangeError(`${quoted(text)} is no CIDR block: it must be as 10.0.0.0/8 or fd00::/8`);
  }
  return family === 6
    ? { family: 6, address: withoutHostBits(address, 6, bits), bits }
    : { family: 4, address: withoutHostBits(address, 4, bits), bits };
}

/** `10.1.2.3`, 8 → `10.0.0.0`: the kernel keeps no host bits, and would show another block than was asked for. */
function withoutHostBits(address: string, family: Family, bits: number): string {
  const groups = family === 4 ? address.split('.').map(Number) : groupsOf(address);
  const size = family === 4 ? 8 : 16;
  const kept = groups.map((group, i) => {
    const host = size - Math.min(Math.max(bits - i * size, 0), size);
    return (group >>> host) << host;
  });
  if (family === 4) return kept.join('.');
  const text = kept.map((group) => group.toString(16)).join(':');
  return new SocketAddress({ address: text, family: 'ipv6' }).address;
}

/** The eight groups of an IPv6 address. */
function groupsOf(address: string): readonly number[] {
  // The URL parser writes an embedded IPv4 address as two groups.
  const [head = '', tail] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split('::');
  const groups = (text: string) =>
    text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16));
  if (tail === undefined) return groups(head);
  const [before, after] = [groups(head), groups(tail)];
  return [...before, ...Array<number>(8 - before.length - after.length).fill(0), ...after];
}

function entries(text: string): readonly string[] {
  const found = text
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '');
  if (found.length <= MAX_ENTRIES) return [...new Set(found)];
  throw new RangeError(`${found.length} entries are more than the ${MAX_ENTRIES} a list may have`);
}

/** What was given, bounded and without what could disturb a terminal. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}
