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

/** How long a count must stand still before whoever moves it counts as held back (ms). */
const STILL = 400;

/** Waits until a count has moved and stands still: its mover is held back, or through. */
export async function stalled(what: string, count: () => number, ms = PATIENCE): Promise<number> {
  let last = count();
  let since = performance.now();
  return until(
    `${what} to stand still`,
    () => {
      const now = count();
      if (now !== last || now === 0) since = performance.now();
      last = now;
      return performance.now() - since >= STILL ? now : null;
    },
    ms,
  );
}
