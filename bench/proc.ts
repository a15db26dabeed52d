/** CPU time and memory of other processes, as Linux tells them under /proc. */
import { readFileSync } from 'node:fs';

/** USER_HZ, the unit of times in /proc/PID/stat, is 100 on every architecture Node runs on: steps of 10 ms. */
const MS_PER_TICK = 10;

/** User and system time of all threads of these processes, in milliseconds; null where there is no /proc. */
export function cpuMsOf(pids: readonly number[]): number | null {
  if (process.platform !== 'linux') return null;
  let ticks = 0;
  for (const pid of pids) {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The second field is the program's name, in parentheses, and may hold anything: count from behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks * MS_PER_TICK;
}

export interface Memory {
  readonly rssMb: number;
  /** Without pages shared with other processes or backed by files. */
  readonly rssAnonMb: number;
}

/** Resident memory now; null where there is no /proc. */
export function memoryOf(pid: number): Memory | null {
  if (process.platform !== 'linux') return null;
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const mb = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024;
  return { rssMb: mb('VmRSS'), rssAnonMb: mb('RssAnon') };
}

/** Resident memory, and what of it is no other process's: its own pages and those of files that nobody else has mapped. */
export interface OwnMemory {
  readonly rssMb: number;
  readonly privateMb: number;
}

/** From /proc/PID/smaps_rollup (proc(5)); null where there is no /proc. */
export function ownMemoryOf(pid: number): OwnMemory | null {
  if (process.platform !== 'linux') return null;
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  const mb = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1]) / 1024;
  return { rssMb: mb('Rss'), privateMb: mb('Private_Clean') + mb('Private_Dirty') };
}

/** Connections that are open to a port, of the network namespace that this process is in; null where there is no /proc. */
export function connectionsTo(port: number, pid: number): number | null {
  if (process.platform !== 'linux') return null;
  const remotePort = port.toString(16).toUpperCase().padStart(4, '0');
  const open = new RegExp(`: [0-9A-F]+:[0-9A-F]{4} [0-9A-F]+:${remotePort} 01 `, 'g');
  const all = ['tcp', 'tcp6'].map((file) => readFileSync(`/proc/${pid}/net/${file}`, 'latin1')).join('');
  return all.match(open)?.length ?? 0;
}
