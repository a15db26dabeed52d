/** Writes files that others read at any moment: whole or not at all, and secrets readable by their owner only. */
import { randomBytes } from 'node:crypto';
import { link, open, readFile, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Mode of private keys and tokens. */
export const SECRET = 0o600;
/** Mode of certificates. */
export const PUBLIC = 0o644;

/** Replaces a file in one step; readers see the old or the new text. */
export async function replaceFile(file: string, text: string, mode: number): Promise<void> {
  const temporary = await writeTemporary(file, text, mode);
  try {
    await rename(temporary, file);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
  await settle(file);
}

/** Gives a file another name, in one step, replacing whatever has it. */
export async function moveFile(from: string, to: string): Promise<void> {
  await rename(from, to);
  await settle(to);
}

/** Removes a file; one that is not there is none to remove. */
export async function removeFile(file: string): Promise<void> {
  await unlink(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}

/**
 * Makes a file unless it is there, and answers what it then holds. Of several processes that try at once all get
 * the first one's text: a hard link is made in one step and fails where the name is taken.
 */
export async function createOnce(file: string, text: string, mode: number): Promise<string> {
  const temporary = await writeTemporary(file, text, mode);
  try {
    await link(temporary, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    await unlink(temporary).catch(() => {});
  }
  return readFile(file, 'utf8');
}

/** The file's text, or null where there is none. */
export async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** A name is on the disk once its folder is. Not every file system takes that request. */
async function settle(file: string): Promise<void> {
  const folder = await open(dirname(file), 'r');
  try {
    await folder.sync().catch(() => {});
  } finally {
    await folder.close();
  }
}

/** In the same folder, for neither rename nor link crosses file systems. */
async function writeTemporary(file: string, text: string, mode: number): Promise<string> {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`;
  const handle = await open(temporary, 'wx', mode);
  try {
    await handle.chmod(mode); // the umask may have taken bits away
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return temporary;
}
