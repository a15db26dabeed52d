/** Joins two streams, for the peers that only move bytes. */
import type { Duplex } from 'node:stream';

/** What one says the other hears; where one breaks or closes, so does the other. */
export function join(a: Duplex, b: Duplex): void {
  a.pipe(b);
  b.pipe(a);
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    one.on('error', () => other.destroy());
    one.on('close', () => other.destroy());
  }
}
