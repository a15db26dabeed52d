/** The revocation lists of one file (`--crl`), watched: the last good ones stay in force. */
import { CrlError, MAX_CRL_BYTES, RevocationLists } from '../mesh/crl.ts';
import { describeName } from '../mesh/distinguished-name.ts';
import type { ListIssuer, RevocationList } from '../mesh/revocation-list.ts';
import { type Succession, succeed } from './crl-succession.ts';
import { CredentialsError } from './source.ts';
import { type FileContent, watchedFiles } from './watch-files.ts';

export interface CrlFileOptions {
  readonly file: string;
  /** The file holds other lists: they are in force from now on. */
  readonly onLists: (current: ReadLists) => void;
  /**
   * The file went away, holds nothing usable, an older edition or one of the future, has no list any more of a CA we
   * trust, or a list in force should have had a successor by now: once each time that changes. The last good lists stay.
   */
  readonly onProblem: (message: string) => void;
  /**
   * CAs we trust, as far as they are known by now: the list of one that the file has none of any more stays in force.
   * Else a list of anybody's would let in whom the real one shuts out.
   */
  readonly authorities?: () => readonly ListIssuer[];
  /** All is well again after a problem. */
  readonly onRecovered?: () => void;
  /** How often the file is looked at without a notice from the file system, in milliseconds, default 1 s. */
  readonly pollMs?: number;
}

export interface ReadLists {
  readonly lists: RevocationLists;
  /** The same as PEM or DER, for whoever reads them in another thread. */
  readonly bytes: Buffer;
}

export interface CrlFile {
  /** What is in force. */
  readonly current: ReadLists;
  /** What is wrong with the file now; null: nothing. */
  readonly problem: string | null;
  /** Goes by the file again: other authorities are known. */
  look(): void;
  close(): void;
}

const BEGIN = '-----BEGIN X509 CRL-----';
const END = '-----END X509 CRL-----';
/** Node's longest timer. */
const MAX_TIMER_MS = 2_147_483_647;

/**
 * Reads the file and watches it from then on. At the start a file that is missing, not usable, or ahead of its time is
 * an error: to go on would be to let the revoked in. Later the last good lists stay in force, however long, and the
 * problem is told; so does the newest edition of each CA's list. Only a start takes whatever edition is there.
 * @throws CredentialsError
 */
export async function watchCrl(options: CrlFileOptions): Promise<CrlFile> {
  const { file, pollMs } = options;
  const files = watchedFiles({ paths: [file], pollMs, maxBytes: MAX_CRL_BYTES });
  let contents = await files.read();
  let current = readLists(contents, file);
  const early = wordsOn(succeed([], current.lists.lists, [], Date.now()), file);
  if (early !== null) throw new CredentialsError(early);
  /** Of the file as it is now; what is in force may be older. */
  let fault: string | null = null;
  let problem: string | null = null;
  let closed = false;
  let aging: NodeJS.Timeout | null = null;
  /** When a list of the file that is of the future begins to count. */
  let nextStart = Number.POSITIVE_INFINITY;

  async function reload(): Promise<void> {
    contents = await files.read();
    if (!closed) use();
  }

  function use(): void {
    nextStart = Number.POSITIVE_INFINITY;
    const authorities = options.authorities?.() ?? [];
    try {
      const read = readLists(contents, file);
      const next = succeed(current.lists.lists, read.lists.lists, authorities, Date.now());
      const keeps = next.passedOver.length > 0 || next.vanished.length > 0;
      const heir = keeps ? made(next.lists, file) : read;
      checkSignatures(current.lists, heir.lists, authorities, file);
      nextStart = next.nextStart;
      fault = wordsOn(next, file);
      if (!areSame(current.lists.lists, heir.lists.lists)) {
        current = heir;
        options.onLists(heir);
      }
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      fault = `${error.message}; the lists read before stay in force`;
    }
    tell(authorities);
  }

  function tell(authorities: readonly ListIssuer[]): void {
    const now = Date.now();
    const next =
      fault ?? strangeness(current.lists, authorities, file) ?? staleness(current.lists, file, now);
    if (next !== problem) {
      problem = next;
      if (next === null) options.onRecovered?.();
      else options.onProblem(next);
    }
    if (aging !== null) clearTimeout(aging);
    const wait = Math.min(untilNextUpdate(current.lists, now), Math.max(nextStart - now, 0), MAX_TIMER_MS);
    aging = setTimeout(use, wait).unref();
  }

  tell(options.authorities?.() ?? []);
  const stop = files.watch(() => void reload());
  return {
    get current() {
      return current;
    },
    get problem() {
      return problem;
    },
    look: use,
    close() {
      closed = true;
      if (aging !== null) clearTimeout(aging);
      stop();
    },
  };
}

/** What the file should have had instead; null: nothing. */
function wordsOn({ passedOver, vanished }: Succession, file: string): string | null {
  const [first, ...others] = [
    ...passedOver.map((clause) => `in ${file} that of ${clause}`),
    ...vanished.map(
      ({ facts: { subject } }) =>
        `${file} has no list any more that ${describeName(subject)} has signed, whom we still trust; ` +
        'the one before stays in force: write one, without entries if it has revoked nothing',
    ),
  ];
  if (first === undefined) return null;
  const more = others.length === 0 ? '' : `; and ${others.length} more`;
  return `revocation lists: ${first}${more}`;
}

/** @throws CredentialsError where those of the file and those that stay are too much together */
function made(lists: readonly RevocationList[], file: string): ReadLists {
  const text = lists.map(({ facts }) => `${BEGIN}\n${facts.der.toString('base64')}\n${END}\n`).join('');
  return parse(Buffer.from(text), file);
}

function areSame(before: readonly RevocationList[], after: readonly RevocationList[]): boolean {
  return (
    before.length === after.length &&
    before.every(({ facts }, i) => after[i]?.facts.der.equals(facts.der) === true)
  );
}

/** @throws CredentialsError where a CA's list would give way to one that pretends to be its */
function checkSignatures(
  before: RevocationLists,
  after: RevocationLists,
  authorities: readonly ListIssuer[],
  file: string,
): void {
  const lost = authorities.find((ca) => isListed(before, ca) && !isListed(after, ca));
  if (lost === undefined) return;
  throw new CredentialsError(
    `revocation lists: ${file} has one that names the key of ${describeName(lost.facts.subject)} ` +
      'without its signature: it is damaged or forged',
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

/** Milliseconds until a list is due. */
function untilNextUpdate(lists: RevocationLists, now: number): number {
  const due = lists.summaries.map(({ nextUpdate }) => nextUpdate ?? Number.POSITIVE_INFINITY);
  return Math.min(...due.filter((at) => at > now).map((at) => at - now));
}

function readLists([content]: readonly FileContent[], file: string): ReadLists {
  const bytes = content?.bytes ?? null;
  if (bytes === null) {
    throw new CredentialsError(
      `revocation lists: ${content?.problem ?? `${file} is not there: create it, or leave out --crl`}`,
    );
  }
  return parse(bytes, file);
}

/** @throws CredentialsError */
function parse(bytes: Buffer, file: string): ReadLists {
  try {
    return { lists: RevocationLists.read(bytes), bytes };
  } catch (error) {
    if (!(error instanceof CrlError)) throw error;
    throw new CredentialsError(`revocation lists: ${file} cannot be used: ${error.message}`);
  }
}
