/** Gives memory back to the system once a start or a peak is over and nobody waits for us. */
import { performance } from 'node:perf_hooks';
import { loadMemory, type Memory } from './memory.ts';

/** How often to look, ms. */
const LOOK_MS = 2_000;
/** Quiet: this share of the time at work at most. A collection stops the thread: some 30 ms, with 100 MB of heap 140. */
const QUIET = 0.03;
/** Worth it: so many bytes, and this share of what we had after the last time, for a collection takes the longer for it. */
const WORTH = 16 * 2 ** 20;
const WORTH_SHARE = 1 / 4;

interface Log {
  debug(fields: object, text: string): void;
}
/** Of commands that keep no log. */
const SILENT: Log = { debug: () => {} };

/** What the looks stand on; a test has its own. */
export interface Look extends Memory {
  /** Share of the time this thread was at work since the last call, 0 to 1. */
  busy(): number;
}

/**
 * Looks now and then whether this thread is quiet and there is something to give back, and does so: after the start,
 * where the process has grown since the last time, and where much was freed that malloc keeps. Neither V8 nor glibc
 * does so by itself: after a start a fourth of our memory is garbage, after a peak more than half.
 * Each thread has one, for each has a heap of its own.
 */
export class GiveBack {
  readonly #memory: Look;
  readonly #log: Log;
  /** Our own memory after the last time, or the least seen since; null before the first. */
  #floor: number | null = null;
  /** The most that malloc had given out since the last time. */
  #peak = 0;

  constructor(memory: Look, log: Log) {
    this.#memory = memory;
    this.#log = log;
  }

  /** Never throws: out of descriptors, for one, nothing can be read of ourselves, and all else goes on. */
  look(): void {
    try {
      this.#look();
    } catch (error) {
      this.#log.debug({ error: (error as Error).message }, 'memory could not be given back');
    }
  }

  #look(): void {
    const memory = this.#memory;
    if (memory.busy() > QUIET) return;
    const own = memory.own();
    const allocated = memory.allocated();
    this.#peak = Math.max(this.#peak, allocated);
    const first = this.#floor === null;
    // Another thread may have given back what malloc kept of ours.
    this.#floor = Math.min(this.#floor ?? 0, own);
    const worth = Math.max(WORTH, this.#floor * WORTH_SHARE);
    if (!first && own - this.#floor < worth && this.#peak - allocated < worth) return;
    // Were it to fail halfway, it has been done for now: not at each look again.
    this.#floor = own;
    this.#peak = allocated;
    const begin = performance.now();
    memory.collect();
    memory.trim();
    // Once is enough: what runs later is the same code.
    if (first) memory.forgetFiles();
    this.#floor = memory.own();
    this.#peak = memory.allocated();
    const mb = Math.round((own - this.#floor) / 2 ** 20);
    this.#log.debug({ mb, ms: Math.round(performance.now() - begin) }, 'gave memory back');
  }
}

/** To be called once a thread has all it needs to serve. Does nothing where the system is not Linux. */
export async function giveBackWhenQuiet(log: Log = SILENT): Promise<void> {
  const memory = await loadMemory().catch((error: Error) => {
    log.debug({ error: error.message }, 'memory cannot be given back here');
    return null;
  });
  if (memory === null) return;
  let last = performance.eventLoopUtilization();
  const giveBack = new GiveBack(
    {
      ...memory,
      busy: () => {
        const now = performance.eventLoopUtilization();
        const { utilization } = performance.eventLoopUtilization(now, last);
        last = now;
        return utilization;
      },
    },
    log,
  );
  setInterval(() => giveBack.look(), LOOK_MS).unref();
}
