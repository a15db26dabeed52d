/** Reads a few files as one set, and tells of every later change to them, however they are replaced. */
import { createHash } from 'node:crypto';
import { type FSWatcher, statSync, watch as watchFolder } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';

export interface WatchedFilesOptions {
  readonly paths: readonly string[];
  /** How often they are looked at without a notice from the file system, in milliseconds, default 1 s. */
  readonly pollMs?: number | undefined;
  /** A longer file is a problem, not read: it is the wrong one. */
  readonly maxBytes: number;
}

export interface FileContent {
  readonly path: string;
  /** Null where the file is absent (then `problem` is null as well) or cannot be used. */
  readonly bytes: Buffer | null;
  /** Permission bits, 0 where there are no bytes. */
  readonly mode: number;
  /** Why a file that is there cannot be used, for people. */
  readonly problem: string | null;
}

export interface WatchedFiles {
  /** The files as they are now, in the order of the paths, all from one moment if the writer allows. Never throws. */
  read(): Promise<readonly FileContent[]>;
  /**
   * Calls back whenever the contents have come to rest and are not those that `read` gave last; again at each look
   * until they are read. @returns what stops it.
   */
  watch(onChange: () => void): () => void;
}

/** A set is believed complete once it has not changed for this long: writers replace the files one by one. */
const SETTLE_MS = 100;
/** Files that never come to rest must not put the reading off for ever: at the latest after this many looks. */
const MAX_LOOKS = 20;
/**
 * So many looks after a file's times moved, its content is compared although they have not moved again: two writes
 * within one tick of a file system's clock (up to 2 s) leave the same times.
 */
const LOOKS_AFTER_CHANGE = 3;
/** A read during which a file was replaced is done again, so often. */
const READ_TRIES = 3;

/**
 * Changes are found by comparing contents, so that a rename, a write in place and a swap of Kubernetes' `..data`
 * link all count, each time. The poll cannot miss one; the file system's own notices, which not every one gives and
 * which follow an inode instead of a name, only make it quicker.
 */
export function watchedFiles({ paths, pollMs = 1_000, maxBytes }: WatchedFilesOptions): WatchedFiles {
  /** Hash of what was read last, good or bad; null before the first read. */
  let seen: string | null = null;

  async function read(): Promise<readonly FileContent[]> {
    const contents = await readAll(paths, maxBytes);
    seen = hashOf(contents);
    return contents;
  }

  function watch(onChange: () => void): () => void {
    let stopped = false;
    let looking = false;
    let soon: NodeJS.Timeout | null = null;
    let signature = '';
    let compare = 0;
    let hash: string | null = null;
    let pending: string | null = null;
    let looks = 0;

    function lookSoon(): void {
      if (stopped) return;
      soon ??= setTimeout(() => {
        soon = null;
        if (looking) lookSoon();
        else void look();
      }, SETTLE_MS);
    }

    async function look(): Promise<void> {
      if (looking) return;
      looking = true;
      const now = await signatureOf(paths);
      if (now !== signature) compare = LOOKS_AFTER_CHANGE;
      if (compare > 0 || hash === null) {
        hash = hashOf(await readAll(paths, maxBytes));
        signature = now;
        compare--;
      }
      looking = false;
      if (!stopped) judge(hash);
    }

    function judge(found: string): void {
      if (found === seen || seen === null) {
        pending = null;
        looks = 0;
      } else if (found === pending || looks >= MAX_LOOKS) {
        looks = 0;
        onChange();
      } else {
        pending = found;
        looks++;
        lookSoon();
      }
    }

    const notices = new Notices(new Set(paths.map((path) => dirname(path))), lookSoon);
    const poll = setInterval(() => {
      notices.renew();
      void look();
    }, pollMs);
    return () => {
      stopped = true;
      clearInterval(poll);
      if (soon !== null) clearTimeout(soon);
      notices.close();
    };
  }
  return { read, watch };
}

/** The file system's notices for some folders, taken anew where a folder came later or is another one now. */
class Notices {
  readonly #dirs: ReadonlySet<string>;
  readonly #onNotice: () => void;
  readonly #watchers = new Map<string, { readonly inode: bigint; readonly watcher: FSWatcher }>();

  constructor(dirs: ReadonlySet<string>, onNotice: () => void) {
    this.#dirs = dirs;
    this.#onNotice = onNotice;
    this.renew();
  }

  renew(): void {
    for (const dir of this.#dirs) {
      const inode = inodeOf(dir);
      const known = this.#watchers.get(dir);
      if (known?.inode === inode) continue;
      known?.watcher.close();
      this.#watchers.delete(dir);
      if (inode !== undefined) this.#add(dir, inode);
    }
  }

  /** The folder, not the files: a watch on a file follows its inode and misses every replacement after the first. */
  #add(dir: string, inode: bigint): void {
    try {
      const watcher = watchFolder(dir, { persistent: false }, this.#onNotice);
      watcher.on('error', () => watcher.close());
      this.#watchers.set(dir, { inode, watcher });
    } catch {
      // gone again, or out of inotify watches: polling does it
    }
  }

  close(): void {
    for (const { watcher } of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }
}

function inodeOf(dir: string): bigint | undefined {
  try {
    return statSync(dir, { bigint: true }).ino;
  } catch {
    return undefined;
  }
}

async function readAll(paths: readonly string[], maxBytes: number): Promise<readonly FileContent[]> {
  for (let left = READ_TRIES - 1; ; left--) {
    const before = await signatureOf(paths);
    const contents = await Promise.all(paths.map((path) => readOne(path, maxBytes)));
    if (left === 0 || (await signatureOf(paths)) === before) return contents;
  }
}

async function readOne(path: string, maxBytes: number): Promise<FileContent> {
  try {
    const { size, mode } = await stat(path).then((found) => {
      // to open a pipe or a device may block for ever
      if (!found.isFile()) throw new Error(`${path} is no regular file`);
      return found;
    });
    if (size > maxBytes) throw new Error(`${path} is longer than ${maxBytes} bytes`);
    return { path, bytes: await readFile(path), mode: mode & 0o777, problem: null };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const absent = code === 'ENOENT' || code === 'ENOTDIR';
    return { path, bytes: null, mode: 0, problem: absent ? null : message };
  }
}

async function signatureOf(paths: readonly string[]): Promise<string> {
  const signatures = await Promise.all(
    paths.map(async (path) => {
      try {
        const { dev, ino, size, mode, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
        return [dev, ino, size, mode, mtimeNs, ctimeNs].join(' ');
      } catch (error) {
        return (error as NodeJS.ErrnoException).code ?? 'unreadable';
      }
    }),
  );
  return signatures.join('\n');
}

function hashOf(contents: readonly FileContent[]): string {
  const hash = createHash('sha256');
  for (const { bytes, problem } of contents) {
    hash.update(`${bytes?.length ?? 'none'} ${problem ?? ''}\n`);
    if (bytes !== null) hash.update(bytes);
  }
  return hash.digest('base64');
}
