/** `oarlock certs`: our certificates, their renewal, whom we trust and our peers, of a running sidecar or of files. */
import { Command } from 'commander';
import { UsageError } from '../config/usage-error.ts';
import type { CertificateView, CertsView, FetchedView, RotationView } from '../telemetry/certs-view.ts';
import { addAdminOptions, adminAddress, askAdmin } from './admin.ts';
import { addOutputOption, printJson } from './query.ts';
import { columns, span, timeLeft } from './table.ts';

/** What the answer of a check that is negative ends with (CLI.md). */
const NEGATIVE = 1;

/** The `certs` command. What goes wrong is thrown, for the caller to say. */
export function certsCommand(): Command {
  const command = new Command('certs')
    .description(
      "a running sidecar's certificates, their renewal, its trust and its peers; or those of files",
    )
    .option('--cert-dir <dir>', 'look at the files that run --cert-dir would read, and ask no sidecar')
    .option('--file <file>', 'look at the certificates of one PEM file, and ask no sidecar');
  addOutputOption(addAdminOptions(command));
  return command.action((parsed: Record<string, unknown>) => run(parsed));
}

async function run(parsed: Readonly<Record<string, unknown>>): Promise<void> {
  const { certDir: dir, file, output } = parsed as { certDir?: string; file?: string; output?: string };
  if (dir !== undefined && file !== undefined)
    throw new UsageError('--cert-dir and --file exclude each other');
  const now = Date.now();
  let answer: { readonly value: unknown; readonly lines: readonly string[]; readonly good: boolean };
  if (dir === undefined && file === undefined) {
    const view = (await askAdmin(adminAddress(parsed), '/certs', 'peers')) as CertsView;
    answer = { value: view, lines: page(view, now), good: isGood(view) };
  } else {
    // A look at files needs what reads and checks them; a look at a sidecar does not.
    const { viewFile, viewFolder } = await import('./cert-files.ts');
    const view = dir === undefined ? viewFile(String(file), now) : await viewFolder(dir, now);
    answer = { value: view, lines: filesPage(view.files, view.problem, now), good: view.problem === null };
  }
  if (output === 'json') printJson(answer.value);
  else process.stdout.write(`${answer.lines.join('\n')}\n`);
  if (!answer.good) process.exitCode = NEGATIVE;
}

/** Valid, and nothing that needs a look. */
function isGood({ state, rotation, crl, fetched }: CertsView): boolean {
  if (state !== 'valid' || (rotation?.alarms.length ?? 0) > 0) return false;
  return (crl?.error ?? null) === null && fetched.every(({ failures }) => failures === 0);
}

function page(view: CertsView, now: number): readonly string[] {
  const { chain, roots, trust, fetched, peers, rotation, crl } = view;
  return [
    'Own',
    ...columns([
      ['identity', view.identity ?? 'none yet'],
      ['state', stateText(view, now)],
      ['source', view.origin ?? rotation?.source ?? 'none'],
      ...(rotation === null ? [] : rotationRows(rotation, now)),
      ...(crl === null ? [] : crlRows(crl)),
      ...fetched.map((one) => ['bundle', bundleText(one, now)]),
    ]),
    'Chain',
    ...table(certificateRows(chain, roots, now), ['ROLE', 'NAME', 'EXPIRES IN', 'SERIAL', 'ISSUER']),
    'Trust',
    ...table(
      trust.flatMap(({ trustDomain, roots: theirs }) =>
        theirs.map((root) => [trustDomain, root.subject, timeLeft(root.notAfter, now), root.serial]),
      ),
      ['TRUST DOMAIN', 'ROOT', 'EXPIRES IN', 'SERIAL'],
    ),
    'Peers',
    ...table(
      peers.map((peer) => [
        peer.identity,
        peer.direction,
        String(peer.connections),
        timeLeft(peer.notAfter, now),
        peer.serial,
        peer.root,
      ]),
      ['IDENTITY', 'DIRECTION', 'CONNECTIONS', 'EXPIRES IN', 'SERIAL', 'ROOT'],
    ),
  ];
}

function stateText({ state, chain, secondsLeft }: CertsView, now: number): string {
  const [leaf] = chain;
  if (leaf === undefined || secondsLeft === null) return state;
  return state === 'valid'
    ? `valid for ${span(secondsLeft)}, until ${leaf.notAfter}`
    : `${state}: ${timeLeft(leaf.notAfter, now)}`;
}

function rotationRows(rotation: RotationView, now: number): readonly (readonly string[])[] {
  const { phase, waitingFor, rotations, failures, lastError, nextAttempt, clockSkewSeconds, alarms } =
    rotation;
  const next =
    nextAttempt === null
      ? ''
      : `, next attempt in ${span(Math.max(0, Date.parse(nextAttempt) - now) / 1000)}`;
  // The last failure has a row of its own.
  const told = lastError !== null && waitingFor?.includes(lastError);
  const why = waitingFor === null || told ? '' : `: ${waitingFor}`;
  const rows: (readonly string[])[] = [['rotation', `${phase}${why}; ${rotations} so far${next}`]];
  if (failures > 0) rows.push(['failing', `${failures} in a row, last: ${lastError ?? ''}`]);
  if (clockSkewSeconds !== null) {
    const side = clockSkewSeconds < 0 ? 'behind' : 'ahead of';
    rows.push(['clock', `${Math.abs(clockSkewSeconds)} s ${side} the issuer's`]);
  }
  for (const { kind, message } of alarms) rows.push(['ALARM', `${kind}: ${message}`]);
  return rows;
}

function bundleText({ url, roots, fetchedAt, failures, lastError }: FetchedView, now: number): string {
  const age =
    fetchedAt === null ? 'never fetched' : `fetched ${span((now - Date.parse(fetchedAt)) / 1000)} ago`;
  const failing = failures === 0 ? '' : `; failing ${failures} in a row: ${lastError ?? ''}`;
  return `${url}: ${roots} roots, ${age}${failing}`;
}

function crlRows({ file, lists, error }: NonNullable<CertsView['crl']>): readonly (readonly string[])[] {
  const entries = lists.reduce((sum, list) => sum + list.entries, 0);
  const stale = lists.filter((list) => list.stale).length;
  const counted = `${file}: ${lists.length} ${lists.length === 1 ? 'list' : 'lists'}, ${entries} revoked`;
  const rows = [['revocation', stale === 0 ? counted : `${counted}; ${stale} stale`]];
  // It says itself whether the file, or what is in force, is meant.
  if (error !== null) rows.push(['problem', error]);
  return rows;
}

/** Leaf, intermediates, and the roots of our own trust bundle. */
function certificateRows(
  chain: readonly CertificateView[],
  roots: readonly CertificateView[],
  now: number,
): readonly (readonly string[])[] {
  const row = (role: string, one: CertificateView): readonly string[] => [
    role,
    nameOf(one),
    timeLeft(one.notAfter, now),
    one.serial,
    one.issuer,
  ];
  return [
    ...chain.map((one, i) => row(i === 0 ? 'leaf' : 'intermediate', one)),
    ...roots.map((one) => row('root', one)),
  ];
}

/** A workload by its SPIFFE ID, a CA by its subject. */
function nameOf({ subject, subjectAltName }: CertificateView): string {
  return /URI:(spiffe:\/\/[^,"/]+\/[^,"]+)/.exec(subjectAltName ?? '')?.[1] ?? subject;
}

function filesPage(
  files: readonly { readonly file: string; readonly certificates: readonly CertificateView[] }[],
  problem: string | null,
  now: number,
): readonly string[] {
  return [
    ...table(
      files.flatMap(({ file, certificates }) =>
        certificates.map((one) => [file, nameOf(one), timeLeft(one.notAfter, now), one.serial, one.issuer]),
      ),
      ['FILE', 'NAME', 'EXPIRES IN', 'SERIAL', 'ISSUER'],
    ),
    problem === null ? 'good' : `not good: ${problem}`,
  ];
}

function table(rows: readonly (readonly string[])[], head: readonly string[]): readonly string[] {
  return rows.length === 0 ? ['  none'] : columns([head, ...rows]);
}
