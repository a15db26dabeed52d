/** A thread that wakes the load generator on time: a timer of the event loop counts whole milliseconds, and late. */
import { parentPort, workerData } from 'node:worker_threads';

/** Ticks at `startNs + n * everyNs`, on the clock of process.hrtime. */
export interface Ticks {
  readonly startNs: bigint;
  readonly everyNs: bigint;
}

const { startNs, everyNs } = workerData as Ticks;
const never = new Int32Array(new SharedArrayBuffer(4));
for (let next = startNs; ; next += everyNs) {
  const waitNs = next - process.hrtime.bigint();
  if (waitNs > 0n) Atomics.wait(never, 0, 0, Number(waitNs) / 1e6);
  parentPort?.postMessage(0);
}
