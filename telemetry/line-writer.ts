/** Where log lines go: written in batches off the event loop, bounded, dropped and counted when the reader is slow. */
import { closeSync, constants, fstatSync, openSync, write, writeSync } from 'node:fs';
import type { LineBytes } from './line-bytes.ts';

export type LineDestination = 'stderr' | 'stdout' | { readonly path: string } | { readonly fd: number };

/** Bytes held while the destination is slow: some thousands of lines, no burden beside 64 KiB a connection. */
const MAX_HELD = 1_048_576;
/** Lines of so much time go out as one write: a system call and a thread's round trip a line would cost more than the line. */
const BATCH_MS = 50;
/**
 * Don't wait for the timer with more than this. A pipe holds as much; a file takes any number, and each write costs a
 * thread's round trip.
 */
const PIPE_BATCH = 65_536;
const FILE_BATCH = 262_144;
/** Buffers kept for later batches: one is filled while another is written. */
const SPARES = 2;
/** How soon a full pipe is tried again. */
const RETRY_MS = 50;
/** How long the last lines may keep a process from exiting when nobody reads them. */
const EXIT_MS = 500;

/** Every writer still open: one exit listener serves them all. */
const openWriters = new Set<LineWriter>();
let exitHooked = false;

function flushAll(): void {
  for (const writer of openWriters) writer.flushSync();
}

/** Lines that are written together. */
class Batch {
  readonly bytes: Buffer;
  used = 0;
  /** Bytes of it that are out. */
  written = 0;
  lines = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get rest(): Buffer {
    return this.bytes.subarray(this.written, this.used);
  }
}

/** A sink for whole lines. Has the `write` that pino asks of a destination. */
export class LineWriter {
  readonly #destination: LineDestination;
  /** Of a buffer: a batch, and behind it room for the line that makes it full. */
  readonly #size: number;
  readonly #full: number;
  readonly #spares: Buffer[] = [];
  readonly #afterTimer: () => void;
  readonly #afterWrite: (error: NodeJS.ErrnoException | null, written: number) => void;
  #fd: number;
  #owned: boolean;
  #filling: Batch | null = null;
  /** Full ones, behind `#batch`. */
  readonly #waiting: Batch[] = [];
  /** The one being written; `#writing` while the thread pool has it. */
  #batch: Batch | null = null;
  #writing = false;
  #held = 0;
  #dropped = 0;
  #reopening = false;
  #timer: NodeJS.Timeout | null = null;
  #idle: (() => void)[] = [];
  #closed = false;

  /**
   * @param destination a file is opened for appending, mode 0600
   * @param longestLine bytes; longer ones are taken by `write` alone
   * @throws the system's error where it cannot be opened
   */
  constructor(destination: LineDestination, longestLine = 16_384) {
    const { fd, owned } = open(destination);
    this.#destination = destination;
    this.#full = typeof destination === 'object' && 'path' in destination ? FILE_BATCH : PIPE_BATCH;
    this.#size = this.#full + longestLine;
    this.#fd = fd;
    this.#owned = owned;
    this.#afterTimer = () => this.#start();
    this.#afterWrite = (error, written) => this.#written(error, written);
    openWriters.add(this);
    if (!exitHooked) {
      exitHooked = true;
      process.on('exit', flushAll);
    }
  }

  /** Lines lost so far: the destination was slow, full or gone. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Takes a line with its line feed. Never blocks, never throws; false where the line was dropped. */
  write(line: string): boolean {
    if (!this.#admits(line.length)) return false;
    const batch = this.#room(line.length * 3);
    this.#took(batch, batch.used + batch.bytes.write(line, batch.used, 'utf8'));
    return true;
  }

  /**
   * Gives `line` room for the longest line; `end` takes it. Nothing else of this writer may be called between.
   * @returns false where the line must be dropped: it is counted
   */
  begin(line: LineBytes): boolean {
    if (!this.#admits(0)) return false;
    const batch = this.#room(this.#size - this.#full);
    line.bytes = batch.bytes;
    line.at = batch.used;
    return true;
  }

  /** Takes what stands in `line` since `begin`, its line feed included. */
  end(line: LineBytes): void {
    if (this.#filling !== null) this.#took(this.#filling, line.at);
  }

  /** Resolves once every line taken so far is written or lost, or after half a second of a stuck destination. */
  flush(): Promise<void> {
    if (this.#held === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const patience = setTimeout(resolve, EXIT_MS);
      this.#idle.push(() => {
        clearTimeout(patience);
        resolve();
      });
      if (this.#batch === null) this.#start();
    });
  }

  /** For the exit, and pino's `fatal`: writes what is left, for half a second at most. */
  flushSync(): void {
    // A batch that the thread pool has is left to it: Node joins the pool on exit.
    const left = this.#writing || this.#batch === null ? [] : [this.#batch];
    left.push(...this.#waiting);
    if (this.#filling !== null) left.push(this.#filling);
    if (!this.#writing) {
      this.#batch = null;
      this.#stopTimer();
    }
    this.#waiting.length = 0;
    this.#filling = null;
    const deadline = Date.now() + EXIT_MS;
    for (const batch of left) {
      this.#held -= batch.used;
      if (!writeAll(this.#fd, batch.rest, deadline)) this.#dropped += batch.lines;
    }
    if (this.#batch === null) this.#resolveIdle();
  }

  /**
   * Opens a file anew by its path, behind the batch being written: whoever rotates logs has renamed it.
   * @throws the system's error where it cannot be opened; the old one stays in use then
   */
  reopen(): void {
    if (this.#closed || typeof this.#destination === 'string' || !('path' in this.#destination)) return;
    if (this.#batch !== null) {
      this.#reopening = true;
      return;
    }
    const { fd, owned } = open(this.#destination);
    closeSync(this.#fd);
    this.#fd = fd;
    this.#owned = owned;
  }

  /** Writes what is left and closes the file, if it was ours to open. */
  async close(): Promise<void> {
    if (this.#closed) return;
    await this.flush();
    this.#closed = true;
    this.#stopTimer();
    openWriters.delete(this);
    for (const batch of [this.#batch, ...this.#waiting, this.#filling]) this.#dropped += batch?.lines ?? 0;
    // A write still with the thread pool must not meet another file under the same number.
    if (this.#owned && !this.#writing) closeSync(this.#fd);
  }

  #admits(bytes: number): boolean {
    if (!this.#closed && this.#held + bytes <= MAX_HELD) return true;
    this.#dropped++;
    return false;
  }

  /** The batch at hand, with so much room. */
  #room(bytes: number): Batch {
    const filling = this.#filling;
    if (filling !== null) {
      if (filling.used < this.#full && filling.bytes.length - filling.used >= bytes) return filling;
      this.#waiting.push(filling);
    }
    const spare = bytes > this.#size ? undefined : this.#spares.pop();
    const fresh = new Batch(spare ?? Buffer.allocUnsafeSlow(Math.max(this.#size, bytes)));
    this.#filling = fresh;
    return fresh;
  }

  #took(batch: Batch, used: number): void {
    this.#held += used - batch.used;
    batch.used = used;
    batch.lines++;
    if (this.#batch !== null) return;
    if (used >= this.#full || this.#waiting.length > 0) this.#start();
    else if (this.#timer === null) this.#timer = setTimeout(this.#afterTimer, BATCH_MS).unref();
  }

  #start(): void {
    if (this.#closed) return;
    this.#stopTimer();
    if (this.#batch === null) {
      this.#batch = this.#waiting.shift() ?? this.#filling;
      if (this.#batch === null) return;
      if (this.#batch === this.#filling) this.#filling = null;
    }
    const { bytes, written, used } = this.#batch;
    this.#writing = true;
    write(this.#fd, bytes, written, used - written, null, this.#afterWrite);
  }

  #written(error: NodeJS.ErrnoException | null, written: number): void {
    this.#writing = false;
    const batch = this.#batch;
    if (this.#closed || batch === null) return;
    if (error !== null && isBusy(error)) {
      this.#timer = setTimeout(this.#afterTimer, RETRY_MS).unref();
      return;
    }
    batch.written += written;
    if (error === null && batch.written < batch.used) {
      this.#start();
      return;
    }
    // A full disk or a reader that is gone: these lines are lost, later ones may fare better.
    if (error !== null) this.#dropped += batch.lines;
    this.#batch = null;
    this.#held -= batch.used;
    if (batch.bytes.length === this.#size && this.#spares.length < SPARES) this.#spares.push(batch.bytes);
    if (this.#reopening) this.#reopenLate();
    if (this.#held === 0) this.#resolveIdle();
    else if (this.#waiting.length > 0 || this.#idle.length > 0) this.#start();
    else if (this.#timer === null) this.#timer = setTimeout(this.#afterTimer, BATCH_MS).unref();
  }

  #reopenLate(): void {
    this.#reopening = false;
    try {
      this.reopen();
    } catch {
      // The old file is still there, under whatever name.
    }
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #resolveIdle(): void {
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }
}

/** @returns false where not all could be written by the deadline */
function writeAll(fd: number, bytes: Buffer, deadline: number): boolean {
  let rest = bytes;
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      if (!isBusy(error) || Date.now() >= deadline) return false;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
  return true;
}

function isBusy(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'EAGAIN' || code === 'EBUSY';
}

function open(destination: LineDestination): { fd: number; owned: boolean } {
  if (destination === 'stderr') return nonBlocking(2);
  if (destination === 'stdout') return nonBlocking(1);
  if ('fd' in destination) return nonBlocking(destination.fd);
  return { fd: openSync(destination.path, 'a', 0o600), owned: true };
}

/**
 * A pipe nobody reads would hold a thread of the pool for ever, and with it the exit, which waits for the
 * pool. Opened anew it has its own O_NONBLOCK, so that neither happens and whoever shares the old
 * descriptor notices nothing. Not for files: there a second position would overwrite what others append.
 */
function nonBlocking(fd: number): { fd: number; owned: boolean } {
  try {
    if (!fstatSync(fd).isFIFO()) return { fd, owned: false };
    return { fd: openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK), owned: true };
  } catch {
    // No /proc (macOS), or the pipe belongs to another user: blocking writes on a pool thread must do.
    return { fd, owned: false };
  }
}
