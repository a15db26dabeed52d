/** Gives the memory back that HTTP/2 sessions read into, before V8 looks at everything for its sake. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * Bytes read between two collections. `node:http2` reads into memory of its own for each read, outside of V8's heap:
 * the heap hardly grows meanwhile, so V8 collects young garbage, which is all that is needed, too seldom, and the whole
 * heap instead each time some 32 MB are held outside. That was a third of the CPU time of large transfers.
 */
const EVERY = 16_000_000;

let since = 0;
let collectYoung: (() => void) | null = null;

/** @param bytes of DATA that a session of this thread has read */
export function dataRead(bytes: number): void {
  since += bytes;
  if (since < EVERY) return;
  since = 0;
  // Only once there is something to collect: it takes a context of its own.
  collectYoung ??= youngCollector();
  collectYoung();
}

/** V8 has no other call for it; where it gives none, memory is given back when V8 thinks it time. */
function youngCollector(): () => void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('globalThis.gc');
  return typeof collect === 'function' ? () => void collect({ type: 'minor' }) : ignore;
}

function ignore(): void {}
