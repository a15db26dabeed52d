/** The last handshakes that failed, for `GET /handshakes`: bounded whatever strangers send, and cheap under a flood of them. */
import type { FailedHandshake } from '../mesh/handshake.ts';
import { reasons } from '../mesh/reasons.ts';
import { present } from './present.ts';
import { printable } from './printable.ts';

/** A failed handshake as the data path has it; it becomes a `FailedHandshake` when somebody asks. */
export interface HandshakeFailure extends Omit<FailedHandshake, 'time' | 'chain'> {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
}

/** What one thread remembers; plain data. */
export interface FlightLog {
  /** Newest first. */
  readonly failures: readonly FailedHandshake[];
  /** How many there ever were, those no longer remembered with them. */
  readonly total: number;
}

export const flightLimits = {
  records: 100,
  chain: 10,
  /** Of a record's chain: certificates that would go beyond it, and those behind, are left out. */
  chainBytes: 16_384,
  detail: 500,
  text: 300,
  list: 20,
} as const;

/**
 * The last 100 items. Where there are more, the oldest one of the largest group goes: whoever floods us pushes out
 * their own records, and the one that explains another fault stays.
 */
class FairRing<T> {
  /** Oldest first. */
  readonly #kept: { readonly item: T; readonly group: string }[] = [];
  readonly #groups = new Map<string, number>();

  push(item: T, group: string): void {
    if (this.#kept.length === flightLimits.records) this.#makeRoom();
    this.#kept.push({ item, group });
    this.#groups.set(group, (this.#groups.get(group) ?? 0) + 1);
  }

  newestFirst(): T[] {
    return this.#kept.map(({ item }) => item).reverse();
  }

  #makeRoom(): void {
    const most = Math.max(...this.#groups.values());
    const at = this.#kept.findIndex(({ group }) => this.#groups.get(group) === most);
    const [gone] = this.#kept.splice(at, 1);
    if (gone === undefined) return;
    if (most === 1) this.#groups.delete(gone.group);
    else this.#groups.set(gone.group, most - 1);
  }
}

export class FlightRecorder {
  readonly #ring = new FairRing<HandshakeFailure>();
  /** Certificates are read once, however often somebody asks: a hundred chains take ten milliseconds. */
  readonly #shown = new WeakMap<HandshakeFailure, FailedHandshake>();
  #total = 0;

  /** Copies what it keeps; nothing is parsed. Microseconds, whatever the peer sent. */
  record(failure: HandshakeFailure): void {
    this.#total++;
    this.#ring.push(bounded(failure), groupOf(failure));
  }

  list(): FlightLog {
    return { failures: this.#ring.newestFirst().map((one) => this.#show(one)), total: this.#total };
  }

  #show(failure: HandshakeFailure): FailedHandshake {
    let view = this.#shown.get(failure);
    if (view === undefined) {
      view = shown(failure);
      this.#shown.set(failure, view);
    }
    return view;
  }
}

/** The logs of several threads as one, by time and by the same rule. */
export function mergeFlightLogs(logs: readonly FlightLog[]): FlightLog {
  const failures = logs.flatMap((log) => log.failures.toReversed());
  // ISO times sort as texts; equal ones keep their thread's order.
  failures.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  const ring = new FairRing<FailedHandshake>();
  for (const failure of failures) ring.push(failure, groupOf(failure));
  return { failures: ring.newestFirst(), total: logs.reduce((sum, log) => sum + log.total, 0) };
}

/** A failure with what would have to change. */
export type HandshakeRow = FailedHandshake & { readonly hint: string };

/** `GET /handshakes`. */
export interface HandshakesView {
  readonly total: number;
  /** Newest first. */
  readonly failures: readonly HandshakeRow[];
}

export function handshakesView({ total, failures }: FlightLog): HandshakesView {
  return { total, failures: failures.map((one) => ({ ...one, hint: reasons[one.reason].hint })) };
}

/** Who failed, and why. */
function groupOf({ remote, direction, reason }: HandshakeFailure | FailedHandshake): string {
  return `${addressOf(remote)} ${direction} ${reason}`;
}

/** `address:port` without the port; of IPv6 the first 64 bits, as one host has all that follow. */
function addressOf(remote: string): string {
  const address = remote.slice(0, remote.lastIndexOf(':'));
  return address.startsWith('[') ? address.split(':', 4).join(':') : address;
}

/** What strangers choose is cut here; the rest is ours and short. */
function bounded(failure: HandshakeFailure): HandshakeFailure {
  return {
    ...failure,
    detail: cut(failure.detail, flightLimits.detail),
    openssl: failure.openssl === null ? null : cut(failure.openssl, flightLimits.text),
    sni: failure.sni === null ? null : cut(failure.sni, flightLimits.text),
    alpn: failure.alpn.slice(0, flightLimits.list).map((name) => cut(name, flightLimits.text)),
    firstBytes: failure.firstBytes === null ? null : cut(failure.firstBytes, flightLimits.text),
    expectedIdentities: failure.expectedIdentities.slice(0, flightLimits.list),
    chain: boundedChain(failure.chain),
  };
}

/** One character more than is shown, so that the cut is told. */
function cut(text: string, most: number): string {
  return text.length > most ? text.slice(0, most + 1) : text;
}

function boundedChain(chain: readonly Uint8Array[]): readonly Uint8Array[] {
  const kept: Uint8Array[] = [];
  let bytes = 0;
  for (const der of chain.slice(0, flightLimits.chain)) {
    bytes += der.length;
    if (bytes > flightLimits.chainBytes) break;
    // A copy: the original may be a small part of a large buffer.
    kept.push(new Uint8Array(der));
  }
  return kept;
}

function shown({ at, chain, ...failure }: HandshakeFailure): FailedHandshake {
  const { detail, text } = flightLimits;
  return {
    time: new Date(at).toISOString(),
    ...failure,
    remote: printable(failure.remote, text),
    detail: printable(failure.detail, detail),
    openssl: failure.openssl === null ? null : printable(failure.openssl, text),
    sni: failure.sni === null ? null : printable(failure.sni, text),
    alpn: failure.alpn.map((name) => printable(name, text)),
    firstBytes: failure.firstBytes === null ? null : printable(failure.firstBytes, text),
    expectedIdentities: failure.expectedIdentities.map((identity) => printable(identity, text)),
    chain: present(chain),
  };
}
