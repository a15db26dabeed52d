/** The revocation lists of one file (`--crl`), watched: the last good ones stay in force. */
import { CrlError, MAX_CRL_BYTES, RevocationLists } from '../mesh/crl.ts';
import { CredentialsError } from './source.ts';
import { type FileContent, watchedFiles } from './watch-files.ts';

export interface CrlFileOptions {
  readonly file: string;
  /** The file holds other lists: they are in force from now on. */
  readonly onLists: (current: ReadLists) => void;
  /** The file went away or holds nothing usable, once each time that changes; the last good lists stay. */
  readonly onProblem: (message: string) => void;
  /** The file is usable again after a problem. */
  readonly onRecovered?: () => void;
  /** How often the file is looked at without a notice from the file system, in milliseconds, default 1 s. */
  readonly pollMs?: number;
}

export interface ReadLists {
  readonly lists: RevocationLists;
  /** The text or DER they were read from, for whoever reads them in another thread. */
  readonly bytes: Buffer;
}

export interface CrlFile {
  /** What is in force. */
  readonly current: ReadLists;
  /** What is wrong with the file now; null: nothing. */
  readonly problem: string | null;
  close(): void;
}

/**
 * Reads the file and watches it from then on. At the start a file that is missing or not usable is an error: to go
 * on would be to let the revoked in. Later the last good lists stay in force, however long, and the problem is told.
 * @throws CredentialsError
 */
export async function watchCrl(options: CrlFileOptions): Promise<CrlFile> {
  const { file, pollMs } = options;
  const files = watchedFiles({ paths: [file], pollMs, maxBytes: MAX_CRL_BYTES });
  const first = await files.read();
  let current = readLists(first, file);
  let problem: string | null = null;
  let closed = false;

  async function reload(): Promise<void> {
    const contents = await files.read();
    if (closed) return;
    try {
      const read = readLists(contents, file);
      const changed = !read.bytes.equals(current.bytes);
      current = read;
      if (problem !== null) options.onRecovered?.();
      problem = null;
      if (changed) options.onLists(read);
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      const message = `${error.message}; the lists read before stay in force`;
      if (message !== problem) options.onProblem(message);
      problem = message;
    }
  }

  const stop = files.watch(() => void reload());
  return {
    get current() {
      return current;
    },
    get problem() {
      return problem;
    },
    close() {
      closed = true;
      stop();
    },
  };
}

function readLists([content]: readonly FileContent[], file: string): ReadLists {
  const bytes = content?.bytes ?? null;
  if (bytes === null) {
    throw new CredentialsError(
      `revocation lists: ${content?.problem ?? `${file} is not there: create it, or leave out --crl`}`,
    );
  }
  try {
    return { lists: RevocationLists.read(bytes), bytes };
  } catch (error) {
    if (!(error instanceof CrlError)) throw error;
    throw new CredentialsError(`revocation lists: ${file} cannot be used: ${error.message}`);
  }
}
