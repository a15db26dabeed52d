/** The modes by which our ports take connections: the ones in force and, for a grace time after a switch, the ones before. */
import { performance } from 'node:perf_hooks';
import type { EffectiveMode, Mode, Snapshot } from '../mesh/snapshot.ts';

/** One port's mode has become another. */
export interface ModeSwitch {
  readonly port: number;
  readonly from: Mode;
  readonly to: EffectiveMode;
}

/** A mode that is still honoured. */
interface Former {
  readonly mode: Mode;
  /** `performance.now()`: till then. */
  readonly until: number;
}

const NONE: readonly Mode[] = [];

/**
 * Peers learn of a switch at other moments than we do. Until all have, whoever goes by the old mode is let in by it,
 * and whoever goes by the new one by that.
 */
export class PortModes {
  readonly #graceMs: number;
  readonly #now: () => number;
  readonly #onEnd: () => void;
  /** Ports that connections have come by. Those of listeners: they are few. */
  readonly #seen = new Set<number>();
  readonly #former = new Map<number, Former[]>();
  #timer: NodeJS.Timeout | null = null;

  /** @param onEnd called when a grace time is over: some who are in may be refused now */
  constructor(graceMs: number, onEnd: () => void, now: () => number = () => performance.now()) {
    this.#graceMs = graceMs;
    this.#onEnd = onEnd;
    this.#now = now;
  }

  /** Modes still honoured on a port beside the one in force; nearly always none. */
  former(port: number): readonly Mode[] {
    this.#seen.add(port);
    const former = this.#former.get(port);
    if (former === undefined) return NONE;
    const now = this.#now();
    return former.filter(({ until }) => now < until).map(({ mode }) => mode);
  }

  /**
   * A snapshot replaces another: what its modes admitted is admitted on, for the grace time.
   * @param before null: there was none, and so nobody who goes by it
   * @returns ports whose mode is another now
   */
  replace(before: Snapshot | null, after: Snapshot): readonly ModeSwitch[] {
    if (before === null) return [];
    const switches: ModeSwitch[] = [];
    for (const port of new Set([...this.#seen, ...before.ingress.map(({ port }) => port)])) {
      const { mode } = before.modeOf(port);
      const to = after.modeOf(port);
      if (mode === to.mode) continue;
      switches.push({ port, from: mode, to });
      this.#honour(port, mode, to.mode);
    }
    return switches;
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #honour(port: number, mode: Mode, inForce: Mode): void {
    if (this.#graceMs === 0) return;
    const now = this.#now();
    const still = (this.#former.get(port) ?? []).filter(
      (former) => now < former.until && former.mode !== mode && former.mode !== inForce,
    );
    this.#former.set(port, [...still, { mode, until: now + this.#graceMs }]);
    this.#wake();
  }

  #wake(): void {
    const next = Math.min(...[...this.#former.values()].flat().map(({ until }) => until));
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer =
      next === Number.POSITIVE_INFINITY ? null : setTimeout(() => this.#ring(), next - this.#now() + 1);
    this.#timer?.unref();
  }

  #ring(): void {
    const now = this.#now();
    for (const [port, former] of this.#former) {
      const still = former.filter(({ until }) => now < until);
      if (still.length === 0) this.#former.delete(port);
      else this.#former.set(port, still);
    }
    this.#wake();
    this.#onEnd();
  }
}
