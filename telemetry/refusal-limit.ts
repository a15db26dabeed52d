/** Keeps a flood of refusals from filling the disk: few lines a second for each reason, then how many more there were. */
import type { Logger } from 'pino';
import { type ReasonCode, reasonCodes } from '../mesh/reasons.ts';

/** Reasons of refusals, and what else may come in a flood. */
export type LineCode = ReasonCode | 'dry_run_denied' | 'ext_authz_failed_open';
const lineCodes: readonly LineCode[] = [...reasonCodes, 'dry_run_denied', 'ext_authz_failed_open'];

/** Lines of one reason in one second, all peers together. */
const LINES_PER_REASON = 10;
/** Of these, lines of one peer: half, so that a noisy peer does not hide a second one. */
const LINES_PER_PEER = 5;
/** Peers remembered in one second; further ones share one entry. */
const MAX_PEERS = 1_024;
const WINDOW_MS = 1_000;

export interface RefusalLimitOptions {
  /** Where the summary lines go. */
  readonly log: Logger;
  /** Milliseconds, steady. */
  readonly now: () => number;
}

/** Decides which refusals get a line of their own. Counters are not its business: they stay exact. */
export class RefusalLimit {
  readonly #options: RefusalLimitOptions;
  readonly #lines: Record<LineCode, number>;
  readonly #suppressed: Record<LineCode, number>;
  readonly #peers: Map<string, number>;
  readonly #onTimer: () => void;
  #windowStart: number;
  #timer: NodeJS.Timeout | null;

  constructor(options: RefusalLimitOptions) {
    this.#options = options;
    this.#lines = zeroes();
    this.#suppressed = zeroes();
    this.#peers = new Map();
    this.#onTimer = () => this.flush();
    this.#windowStart = options.now();
    this.#timer = null;
  }

  /**
   * True where this refusal may have its line. Otherwise it is counted for the summary
   * `{reason, suppressed: N}` that follows within a second.
   * @param peer who was refused: an identity, else an address without its port
   */
  admits(reason: LineCode, peer: string): boolean {
    if (this.#options.now() - this.#windowStart >= WINDOW_MS) this.flush();
    const key = `${reason} ${peer}`;
    const known = this.#peers.has(key) || this.#peers.size < MAX_PEERS ? key : '';
    const seen = this.#peers.get(known) ?? 0;
    if (this.#lines[reason] < LINES_PER_REASON && seen < LINES_PER_PEER) {
      this.#lines[reason]++;
      this.#peers.set(known, seen + 1);
      return true;
    }
    this.#suppressed[reason]++;
    if (this.#timer === null) this.#timer = setTimeout(this.#onTimer, WINDOW_MS).unref();
    return false;
  }

  /** Writes the summaries and begins a new second. Call it before exit, so that the last count is not lost. */
  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    for (const reason of lineCodes) {
      const suppressed = this.#suppressed[reason];
      if (suppressed > 0) {
        this.#options.log.info({ reason, suppressed }, `${suppressed} more of this reason not logged`);
      }
      this.#suppressed[reason] = 0;
      this.#lines[reason] = 0;
    }
    this.#peers.clear();
    this.#windowStart = this.#options.now();
  }
}

function zeroes(): Record<LineCode, number> {
  const counts = {} as Record<LineCode, number>;
  for (const reason of lineCodes) counts[reason] = 0;
  return counts;
}
