/** What memory of this process is its own, and ways to hand it back to the system: V8's, malloc's and the kernel's. */
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

export interface Memory {
  /** Memory that is this process's alone, bytes. */
  own(): number;
  /** What malloc has given out just now, bytes; 0 where it does not tell. */
  allocated(): number;
  /** Collects the calling thread's garbage, and with it what can be made again. Stops the thread meanwhile. */
  collect(): void;
  /** Hands to the system what malloc keeps free. */
  trim(): void;
  /** Lets go of the pages of files, our program's first, that only the start has used: the kernel brings back the rest. */
  forgetFiles(): void;
}

/** From sys/mman.h: the same on every machine. */
const MADV_DONTNEED = 4;
/** glibc's `struct mallinfo2`, malloc.h. */
const MALLINFO2 = [
  'arena',
  'ordblks',
  'smblks',
  'hblks',
  'hblkhd',
  'usmblks',
  'fsmblks',
  'uordblks',
  'fordblks',
  'keepcost',
] as const;

/**
 * @returns null where nothing can be given back: a system other than Linux, or one that lets no native library be
 *   loaded, as Node's permission model without --allow-addons
 */
export async function loadMemory(): Promise<Memory | null> {
  if (process.platform !== 'linux') return null;
  const koffi = await import('koffi').then((module) => module.default).catch(() => null);
  if (koffi === null) return null;
  // The program itself: libc, of whichever make, is in it.
  const libc = koffi.load(null);
  const madvise = libc.func('int madvise(uint64_t, size_t, int)');
  const info = koffi.struct(Object.fromEntries(MALLINFO2.map((name) => [name, 'size_t'])));
  // musl has neither: it keeps little.
  const mallinfo2 = orNull(() => libc.func('mallinfo2', info, []));
  const trim = orNull(() => libc.func('int malloc_trim(size_t)'));
  return {
    own: ownMemory,
    allocated: () => {
      const { uordblks = 0, hblkhd = 0 }: Record<string, number> = mallinfo2?.() ?? {};
      return uordblks + hblkhd;
    },
    collect: collectGarbage,
    trim: () => trim?.(0),
    forgetFiles: () => {
      for (const { start, bytes } of untouchedMappings(readFileSync('/proc/self/smaps', 'utf8'))) {
        madvise(start, bytes, MADV_DONTNEED);
      }
    },
  };
}

function orNull<T>(make: () => T): T | null {
  try {
    return make();
  } catch {
    return null;
  }
}

function ownMemory(): number {
  const [, kb = '0'] = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return Number(kb) * 1024;
}

/** As V8 does when memory is running out: code that has not run for long and spare pages of the heap go too. */
function collectGarbage(): void {
  // For good: flags are the whole process's, and another thread may be between these two lines.
  setFlagsFromString('--expose-gc');
  // A context of its own, for ours was made without it; it is garbage itself afterwards.
  const gc: NodeJS.GCFunction = runInNewContext('gc');
  gc({ type: 'major', execution: 'sync', flavor: 'last-resort' });
}

interface Mapping {
  readonly start: bigint;
  readonly bytes: bigint;
}

/**
 * The mappings of files that nobody has written to and nobody can: whoever lets go of theirs loses nothing. What the
 * dynamic linker wrote before it was made read-only counts as written to, also where it is swapped out by now.
 * @param smaps as proc(5) describes /proc/PID/smaps
 */
export function untouchedMappings(smaps: string): Mapping[] {
  const found: Mapping[] = [];
  let mapping: Mapping | null = null;
  for (const line of smaps.split('\n')) {
    const head = /^([\da-f]+)-([\da-f]+) r-[x-]p [\da-f]+ \S+ ([1-9]\d*) +\//.exec(line);
    if (head !== null) {
      const [, from, to] = head;
      mapping = { start: BigInt(`0x${from}`), bytes: BigInt(`0x${to}`) - BigInt(`0x${from}`) };
    } else if (/^[\da-f]+-[\da-f]+ /.test(line) || /^(?:Anonymous|Swap): +[1-9]/.test(line)) {
      mapping = null;
    } else if (mapping !== null && /^Swap: +0 kB$/.test(line)) {
      found.push(mapping);
    }
  }
  return found;
}
