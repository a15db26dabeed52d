/** Lets one process at a time, and one task of it, change an embedded CA's folder. */
import { chmodSync, closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { SECRET } from './file-store.ts';
import { CredentialsError } from './source.ts';

/** A batch of a hundred signatures takes a fifth of a second; who holds it for longer is stuck. */
const LONGEST_WAIT_MS = 30_000;
const LOOK_MS = 10;
const SQLITE_BUSY = 5;

/**
 * Does the work while nobody else does work in that folder. Node has no lock on files that dies with its process;
 * SQLite's does, for the kernel holds it: so an empty database's lock is taken, and nothing is ever stored in it.
 * Not reentrant.
 * @param dir must exist.
 * @throws CredentialsError where another process holds the folder for 30 s, or no lock can be had there.
 */
export async function withLock<T>(dir: string, work: () => Promise<T>): Promise<T> {
  const file = join(dir, '.lock');
  const database = open(file);
  try {
    const until = performance.now() + LONGEST_WAIT_MS;
    while (!taken(database, file)) {
      if (performance.now() > until) {
        throw new CredentialsError(
          `another process has held ${file} for ${LONGEST_WAIT_MS / 1000} s; end it`,
        );
      }
      await sleep(LOOK_MS * (0.5 + Math.random()));
    }
    return await work();
  } finally {
    database.close(); // ends the transaction, and so the lock
  }
}

function open(file: string): DatabaseSync {
  try {
    make(file);
    chmodSync(file, SECRET);
    return new DatabaseSync(file, { timeout: 0 });
  } catch (error) {
    throw new CredentialsError(`${file} cannot be opened: ${(error as Error).message}`);
  }
}

/**
 * Made by us: whoever may read the file may lock it, and SQLite makes it readable for all. One that is there is not
 * opened: closing any descriptor of it would end the locks that this process has there (fcntl(2)).
 */
function make(file: string): void {
  try {
    closeSync(openSync(file, 'ax', SECRET));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

function taken(database: DatabaseSync, file: string): boolean {
  try {
    database.exec('BEGIN EXCLUSIVE');
    return true;
  } catch (error) {
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return false;
    throw new CredentialsError(`${file} cannot be locked: ${(error as Error).message}`);
  }
}
