/** Waiting with a bound: for an event, or by asking again where nothing tells of the change. */

/** How long anything may take on a busy machine before a test gives it up (ms). */
export const PATIENCE = 30_000;

/** Resolves with the promise; rejects naming `what` once `ms` have passed. */
export async function within<T>(what: string, promise: Promise<T>, ms = PATIENCE): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks until the answer is neither false, null nor undefined. A throw is an answer not yet given. */
export async function until<T>(
  what: string,
  ask: () => T | Promise<T>,
  ms = PATIENCE,
): Promise<Exclude<T, false | null | undefined>> {
  const end = performance.now() + ms;
  let last: unknown;
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== false && answer !== null && answer !== undefined) {
        return answer as Exclude<T, false | null | undefined>;
      }
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) throw new Error(`waited ${ms} ms for ${what}`, { cause: last });
    await pause(25);
  }
}

/** For what must NOT happen, and between two questions; never a substitute for an event. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
