/** Addresses that made us work as no honest peer does: for a while no handshake is made with them. */
import { performance } from 'node:perf_hooks';
import { unmapped } from './connections.ts';

/** Entries of each table; with more, the oldest goes. */
const MAX_ADDRESSES = 1_024;
/** The first time, and doubled with each further one. */
const FIRST_MS = 30_000;
const LONGEST_MS = 600_000;
/** So long after the last good handshake an address is not shunned: whoever is honest there must not suffer for others. */
const TRUSTED_MS = 3_600_000;

/** Handshakes broken off within ten minutes for which an address is shunned. */
const MAX_STRIKES = 3;

interface Tally {
  readonly until: number;
  readonly times: number;
}

/**
 * OpenSSL verifies every signature of a presented chain, whoever made it up, before we are asked, and Node has no bound
 * for that: one handshake of a stranger may stop a thread for half a second. What it costs is seen afterwards alone,
 * so the next one is not made. An address at which a peer was verified within the hour is let be: many may share it.
 */
export class Shunned {
  readonly #now: () => number;
  /** Oldest first, all of them. */
  readonly #shunned = new Map<string, Tally>();
  readonly #strikes = new Map<string, Tally>();
  /** Until when its last good handshake counts. */
  readonly #trusted = new Map<string, number>();

  /** @param now milliseconds of a clock that never goes back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** How long an address is still shunned, in milliseconds; 0: it is not. */
  left(address: string): number {
    // Nobody is, nearly always.
    if (this.#shunned.size === 0) return 0;
    const entry = this.#shunned.get(address);
    return entry === undefined ? 0 : Math.max(0, entry.until - this.#now());
  }

  /** A peer was verified there within the hour. */
  trusts(address: string): boolean {
    return (this.#trusted.get(address) ?? 0) > this.#now();
  }

  /** A peer at the address was verified. */
  trust(address: string): void {
    put(this.#trusted, address, this.#now() + TRUSTED_MS);
  }

  /**
   * The address made us work for nothing.
   * @returns for how long it is shunned, in milliseconds; 0: a peer was verified there of late, and it is not
   */
  shun(address: string): number {
    const now = this.#now();
    if (this.trusts(address)) return 0;
    const before = this.#shunned.get(address);
    // Forgotten after as long as it may last.
    const times = before === undefined || now > before.until + LONGEST_MS ? 0 : before.times;
    const ms = Math.min(LONGEST_MS, FIRST_MS * 2 ** times);
    put(this.#shunned, address, { until: now + ms, times: times + 1 });
    return ms;
  }

  /**
   * A handshake was broken off amid its certificates. Once a network does so; whoever means to be verified and not to be
   * seen does it always.
   * @returns as `shun`, the third time within ten minutes; else 0
   */
  strike(address: string): number {
    const now = this.#now();
    const before = this.#strikes.get(address);
    const known = before !== undefined && now <= before.until;
    const { until, times } = known ? before : { until: now + LONGEST_MS, times: 0 };
    if (times + 1 < MAX_STRIKES) {
      put(this.#strikes, address, { until, times: times + 1 });
      return 0;
    }
    this.#strikes.delete(address);
    return this.shun(address);
  }
}

function put<T>(table: Map<string, T>, address: string, value: T): void {
  table.delete(address);
  if (table.size >= MAX_ADDRESSES) {
    const oldest = table.keys().next().value;
    if (oldest !== undefined) table.delete(oldest);
  }
  table.set(address, value);
}

/** The ends of a connection; undefined: not known any more, or a Unix socket's. */
export interface Ends {
  readonly remoteAddress?: string | undefined;
  readonly localAddress?: string | undefined;
}

/**
 * By what a caller is shunned: an IPv4 address, or the /64 of an IPv6 address, which one host has for itself (RFC 7421).
 * @returns null for whoever is on this machine, be it a proxy before us: it stands for all callers, and does not need TLS
 *   to keep the machine busy
 */
export function callerOf({ remoteAddress = '', localAddress = '' }: Ends): string | null {
  const address = unmapped(remoteAddress);
  if (address === '' || address === '::1' || address.startsWith('127.') || remoteAddress === localAddress)
    return null;
  return networkOf(address);
}

/** @param address without a zone, as the kernel writes it */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address;
  const [head = '', tail = null] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  const last = tail === null || tail === '' ? [] : tail.split(':');
  const zeros = Array.from({ length: Math.max(0, 8 - groups.length - last.length) }, () => '0');
  return `${[...groups, ...zeros, ...last].slice(0, 4).join(':')}::/64`;
}

/** For people. */
export function seconds(ms: number): string {
  return `${Math.ceil(ms / 1_000)} s`;
}
