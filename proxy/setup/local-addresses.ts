/** The addresses of this machine's interfaces, read anew where one is asked for that was not there. */
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';

/** A stranger's address is not looked for more often. */
const REREAD_MS = 1_000;

export class LocalAddresses {
  readonly #read: () => NodeJS.Dict<NetworkInterfaceInfo[]>;
  #known: ReadonlySet<string> = new Set();
  #readAt = Number.NEGATIVE_INFINITY;

  constructor(read: () => NodeJS.Dict<NetworkInterfaceInfo[]> = networkInterfaces) {
    this.#read = read;
  }

  /** True for an address of ours; IPv4's whole loopback block is. Never throws: it is asked as a connection comes. */
  has(address: string): boolean {
    if (address.startsWith('127.') || this.#known.has(address)) return true;
    const now = performance.now();
    if (now - this.#readAt < REREAD_MS) return false;
    this.#readAt = now;
    try {
      const found = Object.values(this.#read()).flatMap((addresses) => addresses ?? []);
      this.#known = new Set(found.map((one) => one.address));
    } catch {
      // Out of descriptors it cannot be read. What was known holds, and what was not is taken for a stranger's.
    }
    return this.#known.has(address);
  }
}
