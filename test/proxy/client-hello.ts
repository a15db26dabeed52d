/** Real ClientHellos, made by Node's TLS client without a socket, and their cutting into records. */
import { duplexPair } from 'node:stream';
import { type ConnectionOptions, connect } from 'node:tls';

/** The first flight of a TLS client with these options. */
export async function helloOf(options: ConnectionOptions): Promise<Buffer> {
  const [near, far] = duplexPair();
  const tls = connect({ socket: near, ...options });
  tls.on('error', () => {});
  const parts: Buffer[] = [];
  for await (const chunk of far) {
    parts.push(chunk as Buffer);
    const all = Buffer.concat(parts);
    if (all.length > 5 && all.length >= 5 + all.readUInt16BE(3)) break;
  }
  tls.destroy();
  return Buffer.concat(parts);
}

/** The same handshake message in records whose payloads end at these offsets. */
export function inRecords(hello: Buffer, ...cuts: readonly number[]): Buffer {
  const message = hello.subarray(5);
  const parts: Buffer[] = [];
  let from = 0;
  for (const to of [...cuts, message.length]) {
    parts.push(record(message.subarray(from, to)));
    from = to;
  }
  return Buffer.concat(parts);
}

/** One record of that content type. */
export function record(payload: Buffer, type = 0x16): Buffer {
  const header = Buffer.of(type, 3, 1, 0, 0);
  header.writeUInt16BE(payload.length, 3);
  return Buffer.concat([header, payload]);
}

/** Small, seeded and good enough for tests: the same numbers in every run (mulberry32). */
export function seededRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296) * below);
  };
}
