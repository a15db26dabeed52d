/** A connection to ourselves, now and then, that proves that rules of capture stand: by them it comes to the inbound port. */
import { connect, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { appSource } from '../../mesh/app-source.ts';
import { unmapped } from '../connections.ts';
import type { OriginalDestination } from './original-destination.ts';

export type Family = 'ipv4' | 'ipv6';

/**
 * Where a canary goes, and where from: Istio's addresses and port of the same test. Nobody listens there; the rules
 * redirect what the sidecar's own user sends over the loopback interface to any address but 127.0.0.1 or ::1.
 */
const TARGETS: Readonly<Record<Family, { readonly to: string; readonly from: string }>> = {
  ipv4: { to: appSource[4], from: '127.0.0.1' },
  ipv6: { to: appSource[6], from: '::1' },
};
const PORT = 15002;
/** Longer than any nonce. */
const MAX_ANSWER = 64;
/** Until the first have come back nothing is ready, and rules may be set at any moment. */
const UNPROVEN_MS = 500;
/** It does not leave the machine. */
const TIMEOUT_MS = 3_000;

/** True for a connection that a canary of whoever runs on this machine has made. */
export function isCanary({ address, port }: OriginalDestination, { remoteAddress = '' }: Socket): boolean {
  if (port !== PORT) return false;
  if (address === TARGETS.ipv4.to) return unmapped(remoteAddress) === TARGETS.ipv4.from;
  return address === TARGETS.ipv6.to && remoteAddress === TARGETS.ipv6.from;
}

/** Says what the canary wants to hear, and that is all. */
export function answerCanary(socket: Socket, nonce: string): void {
  socket.on('error', ignore);
  socket.end(nonce);
  socket.resume();
}

export interface CanaryOptions {
  readonly intervalMs: number;
  /** What our inbound port answers with, and no other program does. */
  readonly nonce: string;
  /** Those to try now; those that this machine has an address of unless told. */
  readonly families?: () => ReadonlySet<Family>;
  /** Called where a family's rules are found to stand or not, and that is news. @param why they do not; null: they do */
  changed(family: Family, why: string | null): void;
  /** Called once: the rules of every family that is up were found to stand. */
  proven(): void;
}

/** Sends a canary for each family that this machine has an address of, every so often. */
export class Canary {
  readonly #options: CanaryOptions;
  #timer: NodeJS.Timeout;
  /** Why each family's rules do not stand, null where they do; absent: not tried, or not up. */
  readonly #found = new Map<Family, string | null>();
  readonly #flying = new Map<Family, Socket>();
  #proven = false;
  /** Both until it was read: none would prove all. */
  #lastUp: ReadonlySet<Family> = new Set(['ipv4', 'ipv6']);
  #stopped = false;

  constructor(options: CanaryOptions) {
    this.#options = options;
    this.#timer = this.#every(Math.min(options.intervalMs, UNPROVEN_MS));
    this.#send();
  }

  /** 1 where a family's rules stand, 0 where not; families that are not up are left out. */
  gauge(): { readonly labels: { readonly family: Family }; readonly value: number }[] {
    return [...this.#found].map(([family, why]) => ({ labels: { family }, value: why === null ? 1 : 0 }));
  }

  /** The families whose rules were never found to stand; empty for ever once all that are up did. */
  waitingFor(): readonly string[] {
    if (this.#proven) return [];
    return [...this.#familiesUp()]
      .filter((family) => this.#found.get(family) !== null)
      .map((family) => `rules of capture for ${family} (oarlock iptables)`);
  }

  /** One line for each family whose rules do not stand. */
  warnings(): readonly string[] {
    return [...this.#found].flatMap(([family, why]) => (why === null ? [] : [rulesGone(family, why)]));
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
    for (const socket of this.#flying.values()) socket.destroy();
  }

  #every(ms: number): NodeJS.Timeout {
    return setInterval(() => this.#send(), ms).unref();
  }

  /** Out of descriptors it cannot be read: what was up is taken to be. */
  #familiesUp(): ReadonlySet<Family> {
    try {
      this.#lastUp = (this.#options.families ?? familiesUp)();
    } catch {
      // The canary itself will say what is wrong.
    }
    return this.#lastUp;
  }

  #send(): void {
    const up = this.#familiesUp();
    for (const family of ['ipv4', 'ipv6'] as const) {
      if (!up.has(family)) this.#found.delete(family);
      else if (!this.#flying.has(family)) this.#fly(family);
    }
    // Where no family is up there is nothing to prove.
    if (up.size === 0) this.#prove();
  }

  #prove(): void {
    if (this.#proven || this.waitingFor().length > 0) return;
    this.#proven = true;
    clearInterval(this.#timer);
    this.#timer = this.#every(this.#options.intervalMs);
    this.#options.proven();
  }

  #fly(family: Family): void {
    const { to, from } = TARGETS[family];
    const socket = connect({ host: to, port: PORT, localAddress: from });
    let heard = '';
    let error: string | null = null;
    this.#flying.set(family, socket);
    socket.setTimeout(TIMEOUT_MS, () => {
      error = 'no answer';
      socket.destroy();
    });
    socket.on('data', (piece: Buffer) => {
      heard += piece.toString('latin1').slice(0, MAX_ANSWER);
      if (heard.length > MAX_ANSWER) socket.destroy();
    });
    socket.on('error', ({ code, message }: NodeJS.ErrnoException) => {
      error ??= code ?? message;
    });
    socket.on('close', () => {
      this.#flying.delete(family);
      const stands = heard === this.#options.nonce;
      if (!this.#stopped) this.#landed(family, stands ? null : (error ?? 'another program answered'));
    });
  }

  #landed(family: Family, why: string | null): void {
    const before = this.#found.get(family);
    this.#found.set(family, why);
    const stood = before === undefined || before === null;
    if (stood !== (why === null)) this.#options.changed(family, why);
    this.#prove();
  }
}

/** What a reader should know and do. */
export function rulesGone(family: Family, why: string): string {
  return `the rules of capture for ${family} do not stand (${why}): its traffic may go past the sidecar; see oarlock iptables --check`;
}

/** Of which families an interface that leads somewhere has an address; link-local ones lead nowhere by themselves. */
function familiesUp(): ReadonlySet<Family> {
  const up = new Set<Family>();
  for (const { internal, family, address } of Object.values(networkInterfaces()).flatMap(
    (all) => all ?? [],
  )) {
    if (internal || /^fe[89ab]/.test(address)) continue;
    up.add(family === 'IPv4' ? 'ipv4' : 'ipv6');
  }
  return up;
}

function ignore(): void {}
