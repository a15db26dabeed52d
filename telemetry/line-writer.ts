/** Where log lines go: written in batches off the event loop, bounded, dropped and counted when the reader is slow. */
import { closeSync, constants, fstatSync, openSync, write, writeSync } from 'node:fs';

export type LineDestination = 'stderr' | { readonly path: string } | { readonly fd: number };

/** Characters held while the destination is slow: some thousands of lines, no burden beside 64 KiB a connection. */
const MAX_PENDING_CHARS = 1_048_576;
/** Lines of so much time go out as one write: a system call and a thread's round trip a line would cost more than the line. */
const BATCH_MS = 20;
/** Don't wait for the timer with more than this. Docker reads logs in pieces of 16 KiB, a pipe holds 64 KiB. */
const BATCH_CHARS = 32_768;
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

/** A sink for whole lines. Has the `write` that pino asks of a destination. */
export class LineWriter {
  readonly #fd: number;
  readonly #owned: boolean;
  readonly #afterTimer: () => void;
  readonly #afterWrite: (error: NodeJS.ErrnoException | null, written: number) => void;
  #pending: string;
  #pendingLines: number;
  /** What is left of the batch being written, and its lines; `#writing` while the thread pool has it. */
  #batch: Buffer | null;
  #batchLines: number;
  #writing: boolean;
  #dropped: number;
  #timer: NodeJS.Timeout | null;
  #idle: (() => void)[];
  #closed: boolean;

  /**
   * @param destination a file is opened for appending, mode 0600
   * @throws the system's error where it cannot be opened
   */
  constructor(destination: LineDestination) {
    const { fd, owned } = open(destination);
    this.#fd = fd;
    this.#owned = owned;
    this.#afterTimer = () => this.#start();
    this.#afterWrite = (error, written) => this.#written(error, written);
    this.#pending = '';
    this.#pendingLines = 0;
    this.#batch = null;
    this.#batchLines = 0;
    this.#writing = false;
    this.#dropped = 0;
    this.#timer = null;
    this.#idle = [];
    this.#closed = false;
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
    const held = this.#pending.length + (this.#batch === null ? 0 : this.#batch.length);
    if (this.#closed || held + line.length > MAX_PENDING_CHARS) {
      this.#dropped++;
      return false;
    }
    this.#pending += line;
    this.#pendingLines++;
    if (this.#batch === null) {
      if (this.#pending.length >= BATCH_CHARS) this.#start();
      else if (this.#timer === null) this.#timer = setTimeout(this.#afterTimer, BATCH_MS).unref();
    }
    return true;
  }

  /** Resolves once every line taken so far is written or lost, or after half a second of a stuck destination. */
  flush(): Promise<void> {
    if (this.#batch === null && this.#pending === '') return Promise.resolve();
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
    let rest = Buffer.from(this.#pending);
    let lines = this.#pendingLines;
    this.#pending = '';
    this.#pendingLines = 0;
    // A batch that the thread pool has is left to it: Node joins the pool on exit.
    if (this.#batch !== null && !this.#writing) {
      rest = Buffer.concat([this.#batch, rest]);
      lines += this.#batchLines;
      this.#batch = null;
      this.#batchLines = 0;
      if (this.#timer !== null) clearTimeout(this.#timer);
      this.#timer = null;
    }
    const deadline = Date.now() + EXIT_MS;
    while (rest.length > 0) {
      try {
        rest = rest.subarray(writeSync(this.#fd, rest));
      } catch (error) {
        if (!isBusy(error) || Date.now() >= deadline) {
          this.#dropped += lines;
          break;
        }
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
      }
    }
    if (this.#batch === null) this.#resolveIdle();
  }

  /** Writes what is left and closes the file, if it was ours to open. */
  async close(): Promise<void> {
    if (this.#closed) return;
    await this.flush();
    this.#closed = true;
    openWriters.delete(this);
    this.#dropped += this.#pendingLines + this.#batchLines;
    // A write still with the thread pool must not meet another file under the same number.
    if (this.#owned && !this.#writing) closeSync(this.#fd);
  }

  #start(): void {
    if (this.#closed) return;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#batch === null) {
      if (this.#pending === '') return;
      this.#batch = Buffer.from(this.#pending);
      this.#batchLines = this.#pendingLines;
      this.#pending = '';
      this.#pendingLines = 0;
    }
    this.#writing = true;
    write(this.#fd, this.#batch, 0, this.#batch.length, null, this.#afterWrite);
  }

  #written(error: NodeJS.ErrnoException | null, written: number): void {
    this.#writing = false;
    if (this.#closed) return;
    if (error !== null && isBusy(error)) {
      this.#timer = setTimeout(this.#afterTimer, RETRY_MS).unref();
      return;
    }
    if (error === null && this.#batch !== null && written < this.#batch.length) {
      this.#batch = this.#batch.subarray(written);
      this.#start();
      return;
    }
    // A full disk or a reader that is gone: these lines are lost, later ones may fare better.
    if (error !== null) this.#dropped += this.#batchLines;
    this.#batch = null;
    this.#batchLines = 0;
    if (this.#pending !== '') {
      this.#start();
      return;
    }
    this.#resolveIdle();
  }

  #resolveIdle(): void {
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }
}

function isBusy(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'EAGAIN' || code === 'EBUSY';
}

function open(destination: LineDestination): { fd: number; owned: boolean } {
  if (destination === 'stderr') return nonBlocking(2);
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
