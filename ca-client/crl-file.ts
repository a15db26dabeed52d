/** The revocation lists of one file (`--crl`), watched: the last good ones stay in force. */
import { CrlError, type ListIssuer, MAX_CRL_BYTES, RevocationLists } from '../mesh/crl.ts';
import { describeName } from '../mesh/distinguished-name.ts';
import { CredentialsError } from './source.ts';
import { type FileContent, watchedFiles } from './watch-files.ts';

export interface CrlFileOptions {
  readonly file: string;
  /** The file holds other lists: they are in force from now on. */
  readonly onLists: (current: ReadLists) => void;
  /**
   * The file went away, holds nothing usable, or a list in force should have had a successor by now: once each time
   * that changes. The last good lists stay.
   */
  readonly onProblem: (message: string) => void;
  /**
   * CAs we trust, as far as they are known by now: one whose list is in force must have one in the file that replaces
   * it, with its signature, or the file is none. Else a list of anybody's would let in whom the real one shuts out.
   */
  readonly authorities?: () => readonly ListIssuer[];
  /** All is well again after a problem. */
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
  /** Looks for problems again: other authorities are known. */
  look(): void;
  close(): void;
}

/** Node's longest timer. */
const MAX_TIMER_MS = 2_147_483_647;

/**
 * Reads the file and watches it from then on. At the start a file that is missing or not usable is an error: to go
 * on would be to let the revoked in. Later the last good lists stay in force, however long, and the problem is told.
 * @throws CredentialsError
 */
export async function watchCrl(options: CrlFileOptions): Promise<CrlFile> {
  const { file, pollMs } = options;
  const files = watchedFiles({ paths: [file], pollMs, maxBytes: MAX_CRL_BYTES });
  let current = readLists(await files.read(), file);
  /** Of the file as it is now; what is in force may be older. */
  let fault: string | null = null;
  let problem: string | null = null;
  let closed = false;
  let aging: NodeJS.Timeout | null = null;

  async function reload(): Promise<void> {
    const contents = await files.read();
    if (closed) return;
    try {
      const read = readLists(contents, file);
      checkSuccession(current.lists, read.lists, options.authorities?.() ?? [], file);
      const changed = !read.bytes.equals(current.bytes);
      current = read;
      fault = null;
      if (changed) options.onLists(read);
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      fault = `${error.message}; the lists read before stay in force`;
    }
    tell();
  }

  function tell(): void {
    const now = Date.now();
    const authorities = options.authorities?.() ?? [];
    const next =
      fault ?? strangeness(current.lists, authorities, file) ?? staleness(current.lists, file, now);
    if (next !== problem) {
      problem = next;
      if (next === null) options.onRecovered?.();
      else options.onProblem(next);
    }
    if (aging !== null) clearTimeout(aging);
    aging = setTimeout(tell, untilNextUpdate(current.lists, now)).unref();
  }

  tell();
  const stop = files.watch(() => void reload());
  return {
    get current() {
      return current;
    },
    get problem() {
      return problem;
    },
    look: tell,
    close() {
      closed = true;
      if (aging !== null) clearTimeout(aging);
      stop();
    },
  };
}

/** @throws CredentialsError where a CA's list would be gone */
function checkSuccession(
  before: RevocationLists,
  after: RevocationLists,
  authorities: readonly ListIssuer[],
  file: string,
): void {
  const lost = authorities.find((ca) => isListed(before, ca) && !isListed(after, ca));
  if (lost === undefined) return;
  throw new CredentialsError(
    `revocation lists: ${file} has no list any more that ${describeName(lost.facts.subject)} has signed: ` +
      'write one, without entries if it has revoked nothing',
  );
}

/** Lists that shut out nobody we would let in. */
function strangeness(
  lists: RevocationLists,
  authorities: readonly ListIssuer[],
  file: string,
): string | null {
  if (authorities.length === 0 || authorities.some((ca) => isListed(lists, ca))) return null;
  return (
    `revocation lists: ${file} has none that a CA we know has signed (${describeName(authorities[0]?.facts.subject ?? new Uint8Array())}): ` +
    'it shuts out nobody; is it the file of another CA?'
  );
}

/** No certificate has the serial number 0 (RFC 5280 §4.1.2.2): what is asked is whether there is a list. */
function isListed(lists: RevocationLists, ca: ListIssuer): boolean {
  return lists.check('00', ca) === 'good';
}

function staleness(lists: RevocationLists, file: string, now: number): string | null {
  const [first] = lists.stale(now);
  if (first === undefined) return null;
  const due = new Date(first.nextUpdate ?? now).toISOString();
  return (
    `revocation lists: that of ${first.issuer} in ${file} should have been renewed by ${due}; it stays in force, ` +
    'but knows nothing of what was revoked since: look whether its CA still writes it'
  );
}

/** Milliseconds until a list is due, and no more than a timer takes. */
function untilNextUpdate(lists: RevocationLists, now: number): number {
  const due = lists.summaries.map(({ nextUpdate }) => nextUpdate ?? Number.POSITIVE_INFINITY);
  return Math.min(...due.filter((at) => at > now).map((at) => at - now), MAX_TIMER_MS);
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
