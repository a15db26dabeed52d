/** Credentials from three files in a folder, under any of the names their usual writers give them, watched. */
import { basename, join } from 'node:path';
import type { Credentials } from '../mesh/credentials.ts';
import { checkCredentials } from './check.ts';
import { MAX_PEM_BYTES, splitCertificates } from './pem.ts';
import { type CredentialSource, CredentialsError, RefusedSet } from './source.ts';
import { type FileContent, watchedFiles } from './watch-files.ts';

export interface FileOptions {
  /** Folder with one of the schemes below. */
  readonly dir: string;
  /** How often the contents are compared, in milliseconds, default 1 s. */
  readonly pollMs?: number;
  /** Told, once each, of what works but should not stay so: a key others may read, two sets in one folder. */
  readonly onWarning?: (message: string) => void;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

/** How one kind of writer names its three files. */
interface Scheme {
  readonly chain: string;
  readonly key: string;
  readonly roots: string;
  /** Ends the error where only the roots are missing. */
  readonly rootsHint?: string;
}

/** Where several are complete, the first of them is used. */
const SCHEMES: readonly Scheme[] = [
  // Istio's agent with OUTPUT_CERTS, and the files of a VM
  { chain: 'cert-chain.pem', key: 'key.pem', roots: 'root-cert.pem' },
  // a Secret of type kubernetes.io/tls as cert-manager fills it, and csi-driver-spiffe's --file-name-* defaults
  {
    chain: 'tls.crt',
    key: 'tls.key',
    roots: 'ca.crt',
    rootsHint:
      'it holds the roots to trust; cert-manager writes it where the issuer tells its CA, ' +
      'csi-driver-spiffe where it is given a sourceCABundle',
  },
  // spiffe-helper's example configuration
  { chain: 'svid.pem', key: 'svid_key.pem', roots: 'svid_bundle.pem' },
];

/**
 * A whole set that cannot be used may be half-way to another: each file is replaced by itself. One that stays so for
 * longer is refused, which raises an alarm.
 */
const HALFWAY_MS = 5_000;

/** The three files of one scheme as they were read. */
interface FileSet {
  readonly chain: FileContent;
  readonly key: FileContent;
  readonly roots: FileContent;
}

/**
 * The source for a folder, which may come later than we. The first set's identity is adopted; that later ones keep
 * it is the keeper's care. Half a set fails checkCredentials, so the keeper stays with the one before, and the watch
 * tells when it is whole.
 */
export function fileSource(options: FileOptions): CredentialSource {
  const { dir, pollMs, now = Date.now } = options;
  const origin = `files ${dir}`;
  const warned = new Set<string>();
  /** What is wrong with a whole set, and since when. */
  let fault = '';
  let faultSince = 0;
  const paths = SCHEMES.flatMap(({ chain, key, roots }) =>
    [chain, key, roots].map((name) => join(dir, name)),
  );
  const files = watchedFiles({ paths, pollMs, maxBytes: MAX_PEM_BYTES });

  function warnOnce(message: string): void {
    if (warned.has(message)) return;
    warned.add(message);
    options.onWarning?.(message);
  }

  async function obtain(): Promise<Credentials> {
    const sets = setsOf(await files.read());
    let whole = false;
    try {
      const { chain, key, roots } = choose(sets);
      whole = true;
      warnOfSeveral(sets, dir, warnOnce);
      if ((key.mode & 0o007) !== 0) warnOnce(readableByOthers(key));
      const credentials = checkCredentials({
        chain: splitCertificates(textOf(chain), chain.path),
        keyPem: unencrypted(textOf(key), key.path),
        roots: splitCertificates(textOf(roots), roots.path),
        origin,
        expected: null,
        now: now(),
      });
      fault = '';
      return credentials;
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      const message = `files ${dir}: ${error.message}`;
      if (!whole || message !== fault) {
        fault = whole ? message : '';
        faultSince = now();
      }
      const settled = whole && now() - faultSince >= HALFWAY_MS;
      throw settled ? new RefusedSet(message) : new CredentialsError(message);
    }
  }
  return { origin, obtain, watch: files.watch };
}

/** The folder's files by scheme, in the schemes' order. */
function setsOf(contents: readonly FileContent[]): readonly FileSet[] {
  return SCHEMES.map((_scheme, i) => {
    const [chain, key, roots] = contents.slice(3 * i);
    if (chain === undefined || key === undefined || roots === undefined)
      throw new Error('a file was not read');
    return { chain, key, roots };
  });
}

/** The first complete set, else a word on what the one that has most lacks. */
function choose(sets: readonly FileSet[]): FileSet {
  const complete = sets.find((set) => missing(set).length === 0);
  if (complete !== undefined) return complete;
  const nearest = sets.toSorted((a, b) => missing(a).length - missing(b).length)[0];
  const lacking = nearest === undefined ? [] : missing(nearest);
  const first = lacking[0];
  if (nearest === undefined || first === undefined || lacking.length === 3) {
    const names = SCHEMES.map(({ chain, key, roots }) => `${chain}, ${key} and ${roots}`);
    throw new CredentialsError(`none of its files is there (yet): it must hold ${names.join(', or ')}`);
  }
  const scheme = SCHEMES[sets.indexOf(nearest)];
  const hint = first === nearest.roots && scheme?.rootsHint !== undefined ? `: ${scheme.rootsHint}` : '';
  const names = lacking.map(({ path }) => basename(path)).join(' and ');
  throw new CredentialsError(`${names} ${lacking.length === 1 ? 'is' : 'are'} not there (yet)${hint}`);
}

function missing({ chain, key, roots }: FileSet): readonly FileContent[] {
  return [chain, key, roots].filter(({ bytes, problem }) => bytes === null && problem === null);
}

function warnOfSeveral(sets: readonly FileSet[], dir: string, warn: (message: string) => void): void {
  const names = sets.filter((set) => missing(set).length === 0).map(({ chain }) => chain.path);
  if (names.length < 2) return;
  warn(`${dir} holds ${names.length} whole sets: ${names[0]} is used, not ${names.slice(1).join(' nor ')}`);
}

function readableByOthers({ path, mode }: FileContent): string {
  return (
    `everyone on this machine may open the private key ${path} (mode ${mode.toString(8).padStart(4, '0')}): ` +
    "take it away with chmod o=, or a Secret volume's defaultMode"
  );
}

function textOf({ bytes, path, problem }: FileContent): string {
  if (bytes === null) throw new CredentialsError(`${path} cannot be used: ${problem ?? 'it is not there'}`);
  return bytes.toString('utf8');
}

/** PKCS#8 says so in its label, the older notations in a header (RFC 7468 §11, RFC 1421 §4.6.1.1). */
function unencrypted(pem: string, path: string): string {
  if (/BEGIN ENCRYPTED PRIVATE KEY|Proc-Type: *4, *ENCRYPTED/.test(pem)) {
    throw new CredentialsError(
      `${path} is encrypted, and there is nobody here to ask for its passphrase: ` +
        'store it without one (openssl pkey -in … -out …) where only this process may read it',
    );
  }
  return pem;
}
