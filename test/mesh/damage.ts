/** Random damage to bytes, the same on every run. */

/** One to three bytes changed, put in or cut off. */
export function damaged(der: Uint8Array, random: (below: number) => number): Uint8Array {
  let bytes = new Uint8Array(der);
  for (let times = 1 + random(3); times > 0; times--) {
    const at = random(bytes.length);
    const kind = random(4);
    if (kind === 0) bytes[at] = random(256);
    else if (kind === 1) bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8));
    else if (kind === 2) bytes = bytes.slice(0, at);
    else bytes = new Uint8Array([...bytes.slice(0, at), random(256), ...bytes.slice(at)]);
    if (bytes.length === 0) break;
  }
  return bytes;
}

/** Mulberry32: the same numbers on every run, each below the bound asked for. */
export function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) % below;
  };
}
