/** `oarlock ca intermediate`, `rotate-root`, `revoke` and `crl`: what is done to the embedded CA itself. */
import { readFile } from 'node:fs/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { CaView } from '../ca-client/ca-access.ts';
import type { RevokedRecord } from '../ca-client/ca-audit.ts';
import type { CrlFile } from '../ca-client/ca-crl.ts';
import type { RevocationWish } from '../ca-client/ca-revoke.ts';
import type { RotationStatus, RotationStep, Waiting } from '../ca-client/ca-rotation.ts';
import { REVOCATION_REASONS } from '../ca-client/revocation-reasons.ts';
import { parseIdentity } from '../mesh/identity.ts';
import { answer, NEGATIVE, type OutputOption, trustDomain, ttl, withOutput } from './ca-flags.ts';

interface DirOption extends OutputOption {
  readonly dir: string;
}

interface IntermediateOptions extends DirOption {
  readonly rootDir: string;
  readonly trustDomain?: string;
  readonly ttl: number;
}

interface RotateOptions extends DirOption {
  readonly rootDir?: string;
  readonly step?: RotationStep;
  readonly status?: boolean;
  readonly force?: boolean;
  readonly ttl: number;
}

interface RevokeOptions extends DirOption {
  readonly serial?: string;
  readonly identity?: string;
  readonly cert?: string;
  readonly reason?: string;
}

interface CrlOptions extends DirOption {
  readonly out?: string;
  readonly ttl?: number;
}

const TEN_YEARS_MS = 315_360_000_000;

/** Adds the four to `oarlock ca`. */
export function addAuthorityCommands(ca: Command): void {
  const dir = (command: Command) => command.requiredOption('--dir <dir>', 'folder of the CA');
  withOutput(
    dir(ca.command('intermediate').description('issue the CA an intermediate from a root kept elsewhere')),
  )
    .requiredOption('--root-dir <dir>', 'folder of the root; made where it is not there')
    .option('--trust-domain <td>', 'for a new root; default: cluster.local', trustDomain)
    .addOption(new Option('--ttl <duration>', 'its validity').argParser(ttl).default(7_776_000_000, '2160h'))
    .action((options: IntermediateOptions) => intermediate(options));
  withOutput(dir(ca.command('rotate-root').description('exchange the root: add, issue, retire')))
    .option('--root-dir <dir>', 'folder of the root, where it is not in --dir')
    .addOption(new Option('--step <step>', 'the step to take').choices(['add', 'issue', 'retire']))
    .option('--status', 'say where the rotation stands and take no step; so without --step')
    .option('--force', 'take the step although valid certificates would be cut off')
    .addOption(
      new Option('--ttl <duration>', "add: the new root's validity")
        .argParser(ttl)
        .default(TEN_YEARS_MS, '87600h'),
    )
    .action((options: RotateOptions) => rotate(options));
  withOutput(dir(ca.command('revoke').description('revoke certificates and write crl.pem')))
    .option('--serial <hex>', 'the one with this serial number', serial)
    .option('--identity <uri>', 'all valid ones of this identity', identity)
    .option('--cert <file>', 'this one, PEM')
    .addOption(new Option('--reason <reason>', 'why, for the CRL').choices(Object.keys(REVOCATION_REASONS)))
    .action((options: RevokeOptions) => revokeCommand(options));
  withOutput(dir(ca.command('crl').description('write crl.pem anew')))
    .option('--out <file>', 'write it there as well')
    .option('--ttl <duration>', 'how long it is good; default: as the one before, 168h for the first', ttl)
    .action((options: CrlOptions) => crl(options));
}

async function intermediate(options: IntermediateOptions): Promise<void> {
  const { dir, rootDir, ttl: ttlMs } = options;
  const [{ CaAccess }, { renewCrl }, { issueIntermediate }, { withLock }, { makeFolder }, { ROOT_TTL_MS }] =
    await Promise.all([
      import('../ca-client/ca-access.ts'),
      import('../ca-client/ca-crl.ts'),
      import('../ca-client/ca-intermediate.ts'),
      import('../ca-client/ca-lock.ts'),
      import('../ca-client/ca-folder.ts'),
      import('../ca-client/embedded-ca.ts'),
    ]);
  const access = new CaAccess({ dir });
  const place = { dir: rootDir, trustDomain: options.trustDomain ?? null, ttlMs: ROOT_TTL_MS };
  await makeFolder(dir);
  const { state } = await withLock(dir, async () => {
    await issueIntermediate(access, place, ttlMs);
    const view = await access.read();
    // before anybody has a certificate of it
    await renewCrl(view);
    return view;
  });
  const notAfter = iso(state.signer.notAfter);
  const value = {
    intermediate: state.signerPrint,
    root: state.signingRoot.fingerprint,
    trustDomain: state.trustDomain,
    notAfter,
  };
  answer(options, value, [
    `intermediate  ${value.intermediate}  valid until ${notAfter}`,
    `root          ${value.root}`,
  ]);
}

async function rotate(options: RotateOptions): Promise<void> {
  const { step, force = false, ttl: ttlMs, rootDir = null } = options;
  if (step !== undefined && options.status) throw new Error('--status takes no step; leave out --step');
  const { rotateRoot, rotationStatus, NotYetError } = await import('../ca-client/ca-rotation.ts');
  const access = await caAccess(options.dir);
  let taken: boolean | null = null;
  let refused: string | null = null;
  const status = await access.locked(async (view) => {
    if (step === undefined) return rotationStatus(view);
    try {
      taken = await rotateRoot(view, { step, force, ttlMs, rootDir });
    } catch (error) {
      if (!(error instanceof NotYetError)) throw error;
      refused = error.message;
    }
    return rotationStatus(await access.read());
  });
  const value = {
    ...(step !== undefined && { step, taken: taken ?? false, refused }),
    ...statusValue(status),
  };
  const what = taken === null ? [] : [taken ? `step ${step} is taken` : `step ${step} had been taken before`];
  answer(options, value, [...what, ...statusLines(status)]);
  if (refused === null) return;
  process.stderr.write(`oarlock: ${refused}\n`);
  process.exitCode = NEGATIVE;
}

async function revokeCommand(options: RevokeOptions): Promise<void> {
  const wish = await revocationWish(options);
  const { revoke } = await import('../ca-client/ca-revoke.ts');
  const access = await caAccess(options.dir);
  const done = await access.locked((view: CaView) => revoke(view, wish, options.reason ?? null));
  if (done === null) {
    answer(options, { revoked: [], before: [] }, ['nothing is revoked']);
    process.stderr.write(`oarlock: the CA of ${options.dir} knows no such valid certificate\n`);
    process.exitCode = NEGATIVE;
    return;
  }
  const { revoked, before, crl: written } = done;
  const value = {
    revoked: revoked.map(certificate),
    before: before.map(certificate),
    crl: crlValue(written),
  };
  answer(options, value, [
    ...revoked.map((record) => `revoked         ${line(record)}`),
    ...before.map((record) => `revoked before  ${line(record)}`),
    crlLine(written),
  ]);
}

async function revocationWish({
  serial: number,
  identity: uri,
  cert,
}: RevokeOptions): Promise<RevocationWish> {
  const wishes: RevocationWish[] = [];
  if (number !== undefined) wishes.push({ serial: number });
  if (uri !== undefined) wishes.push({ identity: uri });
  if (cert !== undefined) wishes.push({ certificatePem: await readFile(cert, 'utf8') });
  const [wish] = wishes;
  if (wish === undefined || wishes.length > 1) throw new Error('give one of --serial, --identity and --cert');
  return wish;
}

async function crl(options: CrlOptions): Promise<void> {
  const [{ writeCrl }, { PUBLIC, replaceFile }] = await Promise.all([
    import('../ca-client/ca-crl.ts'),
    import('../ca-client/file-store.ts'),
  ]);
  const access = await caAccess(options.dir);
  const written = await access.locked((view) => writeCrl(view, options.ttl ?? null));
  if (options.out !== undefined) await replaceFile(options.out, written.pem, PUBLIC);
  answer(options, crlValue(written), [crlLine(written)]);
}

async function caAccess(dir: string) {
  const { CaAccess } = await import('../ca-client/ca-access.ts');
  return new CaAccess({ dir });
}

function statusValue({ phase, next, roots, waiting }: RotationStatus) {
  return {
    phase,
    next,
    roots: roots.map(({ fingerprint, notBefore, notAfter, signs }) => {
      return { fingerprint, notBefore: iso(notBefore), notAfter: iso(notAfter), signs };
    }),
    waiting:
      waiting === null ? null : { ...waiting, until: waiting.until === null ? null : iso(waiting.until) },
  };
}

const PHASES = {
  settled: 'settled: one root',
  added: 'added: both roots are given out, the old one signs',
  issuing: 'issuing: both roots are given out, the new one signs',
} as const;

function statusLines({ phase, next, roots, waiting }: RotationStatus): readonly string[] {
  return [
    `phase    ${PHASES[phase]}`,
    ...roots.map(({ fingerprint, notAfter, signs }) => {
      return `root     ${fingerprint}  valid until ${iso(notAfter)}${signs ? '  signs' : ''}`;
    }),
    `next     ${next}${waiting === null ? '' : `, not before ${whenOf(waiting)}`}`,
  ];
}

function whenOf({ reason, certificates, until }: Waiting): string {
  if (until === null) return `anyone knows: ${reason}`;
  return `${iso(until)}: ${certificates} valid certificate${certificates === 1 ? '' : 's'} ${reason}`;
}

function certificate({ identity: uri, serial: number, notAfter, reason, time }: RevokedRecord) {
  return { identity: uri, serial: number, notAfter, reason, time };
}

function line({ serial: number, identity: uri, notAfter }: RevokedRecord): string {
  return `${number}  ${uri ?? 'the CA server'}  valid until ${notAfter}`;
}

function crlValue({ thisUpdate, nextUpdate, entries }: CrlFile) {
  return { thisUpdate: iso(thisUpdate), nextUpdate: iso(nextUpdate), entries };
}

function crlLine({ nextUpdate, entries }: CrlFile): string {
  return `crl.pem: ${entries} ${entries === 1 ? 'entry' : 'entries'}, good until ${iso(nextUpdate)}`;
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}

function serial(text: string): string {
  if (/^(0x)?[0-9a-f:]{1,128}$/i.test(text)) return text;
  throw new InvalidArgumentError('It must be hexadecimal, as in issued.jsonl.');
}

function identity(text: string): string {
  if (parseIdentity(text) !== null) return text;
  throw new InvalidArgumentError('It must be a SPIFFE URI, as spiffe://cluster.local/ns/shop/sa/orders.');
}
