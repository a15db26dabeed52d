/** Time and chance as the keeper sees them, so that a test can bring its own. */

export interface Clock {
  /** The wall clock: milliseconds since the epoch. It may be set, forward or back, at any moment. */
  now(): number;
  /** Milliseconds since some moment of the past. Never set; it may stand still while the machine is suspended. */
  tick(): number;
  /** Calls back once after `ms` of `tick`, under 2^31; answers what cancels it. */
  setTimeout(callback: () => void, ms: number): () => void;
  /** From 0 to below 1. */
  random(): number;
}

export const systemClock: Clock = {
  now: Date.now,
  tick: () => performance.now(),
  setTimeout(callback, ms) {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
  random: Math.random,
};
