/** Notices every change of the resources under some folders: by a poll that cannot miss one, and sooner by hints. */
import { createHash } from 'node:crypto';
import type { FSWatcher } from 'node:fs';
import { realpathSync, statSync, watch } from 'node:fs';
import { dirname } from 'node:path';
import type { Contents, ResourceSet } from './folder.ts';
import { listFiles, parseContents, readContents } from './folder.ts';

export interface WatcherOptions {
  /** Folders and files, as for `readFolders`. */
  readonly paths: readonly string[];
  /** Called with the whole set after each change of content; first for a change after `watchFolders` was called. */
  readonly onChange: (set: ResourceSet) => void;
  /** Milliseconds between two looks. Default 1000. */
  readonly pollInterval?: number;
  /** Milliseconds for which nothing may move before a change is read, so that a half-written file is not. Default 50. */
  readonly quiet?: number;
}

export interface FolderWatcher {
  /** The set as last read. */
  readonly current: ResourceSet;
  /** Ends every watcher and timer; `onChange` is not called again. */
  close(): void;
}

/** Files that never come to rest must not put the reading off for ever: at the latest after this many looks. */
const MAX_LOOKS = 20;

/**
 * Reads the set and goes on watching it. The process stays up until `close()`.
 *
 * The poll compares each file's real path, inode, size and times, and reads only where one of them moved and all
 * came to rest; the content's hash then says whether anything changed. fs.watch alone is not enough: it follows an
 * inode, so it loses a file that an editor renames over, a folder that is replaced, and a `..data` link after its
 * first swap. Rest matters because a file caught between truncation and writing is a valid, empty set of policies.
 */
export function watchFolders(options: WatcherOptions): FolderWatcher {
  const { paths, onChange, pollInterval = 1000, quiet = 50 } = options;
  const hints = new Map<string, FSWatcher>();
  let timer: NodeJS.Timeout | null = null;
  let closed = false;
  /** The signature of what was read, and of what was seen since and may still move. */
  let read = signatureOf(paths);
  let seen: string | null = null;
  let looks = 0;
  const first = readContents(paths);
  let hash = hashOf(first);
  let current = parseContents(first);

  const lookSoon = (): void => {
    if (closed || timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      look();
    }, quiet);
  };
  const look = (): void => {
    if (closed) return;
    const now = signatureOf(paths);
    renewHints(now.folders);
    if (now.text === read.text) {
      seen = null;
      looks = 0;
    } else if (now.text === seen || looks >= MAX_LOOKS) {
      accept(now);
    } else {
      seen = now.text;
      looks++;
      lookSoon();
    }
  };
  const accept = (signature: Signature): void => {
    const contents = readContents(paths);
    if (looks < MAX_LOOKS && signatureOf(paths).text !== signature.text) {
      looks++;
      lookSoon();
      return;
    }
    read = signature;
    seen = null;
    looks = 0;
    const next = hashOf(contents);
    if (next === hash) return;
    hash = next;
    current = parseContents(contents);
    onChange(current);
  };

  /** Watches the folders that are there now, and no others. A watch that failed is no loss: the poll remains. */
  const renewHints = (folders: ReadonlyMap<string, string>): void => {
    for (const [key, watcher] of hints) {
      if (folders.has(key)) continue;
      watcher.close();
      hints.delete(key);
    }
    for (const [key, folder] of folders) {
      if (hints.has(key)) continue;
      try {
        const watcher = watch(folder, lookSoon);
        watcher.on('error', () => {
          watcher.close();
          hints.delete(key);
        });
        hints.set(key, watcher);
      } catch {
        // Out of inotify watches, or gone between the look and now.
      }
    }
  };

  renewHints(read.folders);
  const poll = setInterval(() => {
    // A look that is due says more than one come too soon.
    if (timer === null) look();
  }, pollInterval);
  return {
    get current() {
      return current;
    },
    close() {
      closed = true;
      clearInterval(poll);
      if (timer !== null) clearTimeout(timer);
      for (const watcher of hints.values()) watcher.close();
      hints.clear();
    },
  };
}

interface Signature {
  /** Changes whenever a file may have. */
  readonly text: string;
  /** Folder with its inode, so that one replaced by another of the same name is watched anew → its path. */
  readonly folders: ReadonlyMap<string, string>;
}

function signatureOf(paths: readonly string[]): Signature {
  const listing = listFiles(paths);
  const lines = listing.problems.map(({ file, message }) => `${file} ${message}`);
  for (const file of listing.files) lines.push(`${file} ${stateOf(file)}`);
  const folders = new Map<string, string>();
  const watched = new Set([...listing.folders, ...listing.files.map((file) => dirname(file))]);
  for (const folder of watched) {
    const stat = statSync(folder, { bigint: true, throwIfNoEntry: false });
    // With the birth time, because a freed inode is soon used again.
    if (stat !== undefined) folders.set(`${folder} ${stat.dev} ${stat.ino} ${stat.birthtimeNs}`, folder);
  }
  return { text: lines.join('\n'), folders };
}

/** Nanosecond times: two saves in one millisecond differ. The real path: a `..data` swap may keep all the rest. */
function stateOf(file: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs, mode } = statSync(file, { bigint: true });
    return [realpathSync(file), dev, ino, size, mtimeNs, ctimeNs, mode].join(' ');
  } catch (error) {
    return String(error);
  }
}

function hashOf(contents: Contents): string {
  const hash = createHash('sha256');
  for (const { file, message } of contents.problems) hash.update(`${file}\0${message}\0`);
  for (const content of contents.files) {
    hash.update(`${content.file}\0${'text' in content ? content.text : content.reason}\0`);
  }
  return hash.digest('hex');
}
