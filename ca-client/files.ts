/** Credentials from three files under Istio's names, watched. */
import { createHash } from 'node:crypto';
import { type FSWatcher, watch as watchFolder } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Credentials } from '../mesh/credentials.ts';
import { checkCredentials } from './check.ts';
import { splitCertificates } from './pem.ts';
import { type CredentialSource, CredentialsError } from './source.ts';

export interface FileOptions {
  /** Folder with `cert-chain.pem`, `key.pem` and `root-cert.pem`. */
  readonly dir: string;
  /** How often the contents are compared, in milliseconds, default 1 s. */
  readonly pollMs?: number;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

/** A set is believed complete once it has not changed for this long: writers replace the files one by one. */
const SETTLE_MS = 100;

interface Texts {
  readonly chain: string;
  readonly key: string;
  readonly roots: string;
}

/**
 * The source for a folder. The first set's identity is adopted; that later ones keep it is the keeper's care.
 * Changes are found by comparing contents, so that a rename, a write in place and a swap of Kubernetes' `..data`
 * link all count, each time; the file system's own notice only makes it quicker, for not every one gives it.
 */
export function fileSource({ dir, pollMs = 1_000, now = Date.now }: FileOptions): CredentialSource {
  const origin = `files ${dir}`;
  /** Hash of what was last obtained from, good or bad; the keeper itself tries the bad again. */
  let seen: string | null = null;

  async function obtain(): Promise<Credentials> {
    const { chain, key, roots } = await readTexts(dir, (hash) => {
      seen = hash;
    });
    try {
      return checkCredentials({
        chain: splitCertificates(chain, 'cert-chain.pem'),
        keyPem: key,
        roots: splitCertificates(roots, 'root-cert.pem'),
        origin,
        expected: null,
        now: now(),
      });
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      throw new CredentialsError(`files ${dir}: ${error.message}`);
    }
  }

  function watch(onChange: () => void): () => void {
    let pending: string | null = null;
    let looking = false;
    let soon: NodeJS.Timeout | null = null;
    function lookSoon(): void {
      soon ??= setTimeout(() => {
        soon = null;
        void look();
      }, SETTLE_MS);
    }
    async function look(): Promise<void> {
      if (looking) return;
      looking = true;
      const hash = await hashNow(dir);
      looking = false;
      if (stopped || hash === seen) pending = null;
      else if (hash === pending) onChange();
      else {
        pending = hash;
        lookSoon();
      }
    }
    let stopped = false;
    const poll = setInterval(() => void look(), pollMs);
    const notices = noticesOf(dir, lookSoon);
    return () => {
      stopped = true;
      clearInterval(poll);
      if (soon !== null) clearTimeout(soon);
      notices?.close();
    };
  }
  return { origin, obtain, watch };
}

/** The folder, not the files: a watch on a file follows its inode and misses every replacement after the first. */
function noticesOf(dir: string, onNotice: () => void): FSWatcher | null {
  try {
    const watcher = watchFolder(dir, { persistent: false }, onNotice);
    watcher.on('error', () => watcher.close());
    return watcher;
  } catch {
    return null; // not there yet, or out of inotify watches: polling does it
  }
}

async function readTexts(dir: string, onRead: (hash: string) => void): Promise<Texts> {
  try {
    const [chain, key, roots] = await Promise.all(
      ['cert-chain.pem', 'key.pem', 'root-cert.pem'].map((name) => readFile(join(dir, name), 'utf8')),
    );
    const texts = { chain: chain ?? '', key: key ?? '', roots: roots ?? '' };
    onRead(hashOf(texts));
    return texts;
  } catch (error) {
    const reason =
      (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'is not there (yet)' : 'cannot be read';
    const file = (error as NodeJS.ErrnoException).path ?? dir;
    onRead(hashOf(null));
    throw new CredentialsError(`files ${dir}: ${file} ${reason}: ${(error as Error).message}`);
  }
}

async function hashNow(dir: string): Promise<string> {
  let hash = '';
  await readTexts(dir, (found) => {
    hash = found;
  }).catch(() => {});
  return hash;
}

function hashOf(texts: Texts | null): string {
  return texts === null ? 'incomplete' : createHash('sha256').update(JSON.stringify(texts)).digest('base64');
}
