/** Looks for a program where a shell would, and where Debian keeps its daemons. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** @returns its path, or null */
export function findProgram(name: string): string | null {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return folders.map((folder) => join(folder, name)).find(isExecutable) ?? null;
}

export function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
