/** Times a function in rounds of many calls. */
import type { Figures } from './figures.ts';

/** Long enough for the clock and the compiler, short enough to interleave. */
const BATCH_MS = 100;
const WARM_UP_MS = 200;

/** A function to time; whatever it returns is looked at, so that it cannot be compiled away. */
export interface Timed {
  readonly name: string;
  readonly run: () => unknown;
}

/** Where results go to be looked at. */
let sink: unknown;

function timeOf(run: () => unknown, calls: number): number {
  const began = performance.now();
  for (let i = 0; i < calls; i++) sink = run();
  return performance.now() - began;
}

/** Calls that take about a batch's time, found while the compiler warms up. */
function callsIn(run: () => unknown): number {
  let calls = 1;
  let spent = 0;
  for (;;) {
    const ms = timeOf(run, calls);
    spent += ms;
    if (spent >= WARM_UP_MS && ms >= BATCH_MS / 10) return Math.max(1, Math.round((calls * BATCH_MS) / ms));
    if (ms < BATCH_MS) calls *= 2;
  }
}

/** Nanoseconds a call, each function once a round. */
export function timeAll(table: string, functions: readonly Timed[], rounds: number, figures: Figures): void {
  const calls = functions.map(({ run }) => callsIn(run));
  for (let round = 0; round < rounds; round++) {
    for (const [i, { name, run }] of functions.entries()) {
      const count = calls[i] ?? 1;
      const ns = (timeOf(run, count) * 1e6) / count;
      figures.add(table, name, 'ns', ns);
      figures.add(table, name, 'a second', 1e9 / ns);
    }
  }
  if (sink === timeAll) throw new Error('cannot happen');
}
