/** Keeps what is in our memory, keys above all, out of what the system or Node write of it to disk. */
import { writeFileSync } from 'node:fs';

/** core(5): which mappings go into a core dump, a bit each. None: registers and the list of mappings are left. */
const CORE_FILTER = '/proc/self/coredump_filter';

/**
 * From here on a core of this process, be it the kernel's or gcore's, has no memory in it, and a diagnostic report
 * has no environment. To be called before the first key is there; threads share it.
 * Whoever needs a whole core writes 0x33 to `/proc/PID/coredump_filter`: it takes the rights of this process.
 * @returns why not, for the log; null: it holds, or this system has no such filter
 */
export function keepMemoryPrivate(): string | null {
  process.report.excludeEnv = true;
  if (process.platform !== 'linux') return null;
  try {
    writeFileSync(CORE_FILTER, '0');
    return null;
  } catch (error) {
    return `a core dump of this process would hold its key: ${(error as Error).message}; set ulimit -c 0`;
  }
}
