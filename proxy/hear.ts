/** Reads of sockets that bypass Node's stream queue: all of a thread's sockets read into one buffer, and what came is copied out in its own size. */
import { Buffer } from 'node:buffer';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';

/**
 * What one read takes at most: libuv's own size, less what makes it four DATA frames that fill a TLS record each. A
 * tunnel would else carry 36 octets behind every four frames, and the peer write them to its app by themselves.
 */
const READ_BYTES = 4 * (16_384 - 9);
/** Small pieces are cut from blocks of so much. */
const RECORD_BYTES = 16_384;
const BLOCK_BYTES = 32_768;
/** A piece larger than this gets memory of its own. */
export const LARGE = 8_192;

/** Every read of this thread lands here, and is copied out before the next. */
const landing = Buffer.allocUnsafeSlow(READ_BYTES);
let block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
let used = 0;

/** Free memory of large pieces, by size: what one read of TLS brings (a record), and one of plaintext. */
const records: Memory[] = [];
const blocks: Memory[] = [];
/** Free ones kept of a size: 1 MiB of records, 4 MiB of blocks. */
const MAX_FREE = 64;

/** Memory of a large piece. What is known of it is said by itself: a WeakMap costs more than what it saves. */
interface Memory extends ArrayBuffer {
  /** All of it. */
  whole: Buffer;
  /** Who has it. */
  owner: Buffer | null;
}

function newMemory(length: number): Memory {
  const whole = Buffer.allocUnsafeSlow(length);
  return Object.assign(whole.buffer, { whole, owner: null });
}

/** The memory that a piece owns; null: it shares its memory, or somebody else sees to it. */
function memoryOf(piece: Buffer): Memory | null {
  const memory = piece.buffer as Memory;
  return memory.owner === piece ? memory : null;
}

/** A large piece: its memory is used again if `pass` wrote it, else it is garbage as any. */
function takenLarge(length: number): Buffer {
  const small = length <= RECORD_BYTES;
  const memory = (small ? records : blocks).pop() ?? newMemory(small ? RECORD_BYTES : READ_BYTES);
  landing.copy(memory.whole, 0, 0, length);
  const piece = memory.whole.subarray(0, length);
  memory.owner = piece;
  return piece;
}

/**
 * Hands the memory of a piece that `hear` brought to a large part of it: `pass` frees it with that. Nobody else may keep
 * a view of the piece.
 * @returns false where it has no memory of its own, or another part has it
 */
export function inherit(piece: Buffer, part: Buffer): boolean {
  const memory = memoryOf(piece);
  if (memory === null) return false;
  memory.owner = part;
  return true;
}

function free(memory: Memory): void {
  const all = memory.whole.length === RECORD_BYTES ? records : blocks;
  if (all.length < MAX_FREE) all.push(memory);
}

/** A stream whose writes call back when the bytes have been copied, as a socket's do: to the kernel, or into TLS. */
export interface CopyingStream extends Duplex {
  readonly copies: true;
}

function copies(stream: Duplex): boolean {
  return stream instanceof Socket || 'copies' in stream;
}

/**
 * Writes a piece that `hear` brought, as it came, and that nobody looks at any more: once it is out its memory is used
 * again.
 * @returns false where the stream wants a pause, as `write` does
 */
export function pass(piece: Buffer, to: Duplex): boolean {
  // Any other stream may call back when it has only taken it over.
  const memory = piece.length > LARGE && copies(to) ? memoryOf(piece) : null;
  if (memory === null) return to.write(piece);
  memory.owner = null;
  const written = (error: Error | null | undefined): void => {
    if (error == null) free(memory);
  };
  if (!(to instanceof Socket)) return to.write(piece, written);
  corkForTurn(to);
  const flowing = to.write(piece, written);
  if (to.writableLength < GATHERED) return flowing;
  to.uncork();
  return !to.writableNeedDrain;
}

/** So much leaves at once: less than a socket takes before it asks for a pause. */
const GATHERED = 49_000;
/** Sockets that large pieces go to in this turn of the event loop. */
let corked: Socket[] = [];

/**
 * Lets what goes to a socket in this turn leave together: TLS brings its records one by one, four of them with each
 * read.
 */
function corkForTurn(socket: Socket): void {
  if (socket.writableCorked > 0) return;
  socket.cork();
  if (corked.push(socket) === 1) setImmediate(uncorkAll);
}

function uncorkAll(): void {
  const sockets = corked;
  corked = [];
  for (const socket of sockets) socket.uncork();
}

function taken(length: number): Buffer {
  if (length > LARGE) return takenLarge(length);
  if (used + length > BLOCK_BYTES) {
    block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
    used = 0;
  }
  const piece = block.subarray(used, used + length);
  landing.copy(block, used, 0, length);
  used += length;
  return piece;
}

export type Heard = (piece: Buffer) => void;

/** A stream of ours: while it flows and nothing waits in its queue, what arrives may go past that. */
export interface DirectStream extends Duplex {
  hearDirectly(heard: Heard): void;
}

/** What Node keeps of `onread` (`net.connect`'s option) in a socket: the names of its symbols. */
const NAMES = ['kBuffer', 'kBufferCb'] as const;
let symbols: readonly [symbol, symbol] | null = null;

/**
 * Passes all that arrives on a stream to `heard`; called again, to another. `pause`, `resume`, 'end', 'error' and
 * 'close' are the stream's as ever.
 *
 * Why not 'data': where reads of plaintext and TLS take turns, Node gives each a fresh block of 64 KiB. At 1,000
 * requests a second these are 60 MB of garbage a second and a full collection each 200 ms, which cost more than
 * the forwarding. Node's own cure is the option `onread`, which takes a buffer for all reads, but only for sockets
 * that `net.connect` makes; accepted sockets and TLS over a socket get here by hand what that option sets. Where a
 * Node has it otherwise, 'data' serves.
 */
export function hear(stream: Duplex, heard: Heard): void {
  stream.removeAllListeners('data');
  // What lies in the stream's queue comes this way, and all of it where the other way is closed.
  stream.on('data', heard);
  if ('hearDirectly' in stream) {
    (stream as DirectStream).hearDirectly(heard);
    return;
  }
  if (!(stream instanceof Socket)) return;
  const handle: unknown = Reflect.get(stream, '_handle');
  if (!hasUserBuffer(handle)) return;
  symbols ??= findSymbols(stream);
  if (symbols === null) return;
  const [buffer, callback] = symbols;
  Reflect.set(stream, callback, (length: number) => {
    heard(taken(length));
    return true;
  });
  if (Reflect.get(stream, buffer) === landing) return;
  Reflect.set(stream, buffer, landing);
  handle.useUserBuffer(landing);
}

interface UserBufferHandle {
  useUserBuffer(buffer: Uint8Array): void;
}

function hasUserBuffer(handle: unknown): handle is UserBufferHandle {
  return typeof handle === 'object' && handle !== null && 'useUserBuffer' in handle;
}

function findSymbols(socket: Socket): [symbol, symbol] | null {
  const own = Object.getOwnPropertySymbols(socket);
  const [buffer, callback] = NAMES.map((name) => own.find(({ description }) => description === name));
  return buffer === undefined || callback === undefined ? null : [buffer, callback];
}
