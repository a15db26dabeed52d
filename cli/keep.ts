/** Work that is done again and again, to keep something as it should be. */
import type { Logger } from '../telemetry/log.ts';

export interface Keeping {
  /** Ends it, once the last time is through. */
  stop(): Promise<void>;
}

/**
 * Does the work now, and `everyMs` after it was done, one time after another. What goes wrong is logged when it begins,
 * and when it is another thing; then that it works again.
 * @param what for the log: `caBundle`
 */
export function keep(what: string, everyMs: number, log: Logger, work: () => Promise<void>): Keeping {
  let trouble: string | null = null;
  let stopped = false;
  let timer: NodeJS.Timeout | null = null;
  let running = Promise.resolve();

  async function once(): Promise<void> {
    try {
      await work();
      if (trouble !== null) log.info({ event: 'kept', what }, `${what}: works again`);
      trouble = null;
    } catch (error) {
      const { message } = error as Error;
      if (message !== trouble)
        log.warn({ event: 'not-kept', what, error: message }, `${what}: will try again`);
      trouble = message;
    }
    if (!stopped) timer = setTimeout(start, everyMs);
  }

  function start(): void {
    running = once();
  }

  start();
  return {
    stop() {
      stopped = true;
      if (timer !== null) clearTimeout(timer);
      return running;
    },
  };
}
