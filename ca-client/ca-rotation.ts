/** Exchanges an embedded CA's root in three steps, so that at no moment anyone holds what another does not trust. */
import { join } from 'node:path';
import type { CaView } from './ca-access.ts';
import type { AuditLog, ChangeRecord, IssuedRecord } from './ca-audit.ts';
import { fingerprintOf, makeRoot } from './ca-certificates.ts';
import { renewCrl, signLast } from './ca-crl.ts';
import { CA_FILES, type CaRoot, type CaState, keyFits, readCaFolder } from './ca-folder.ts';
import { intermediateLife, type RootPlace, replaceIntermediate, withRootFolder } from './ca-intermediate.ts';
import { createOnce, moveFile, PUBLIC, readIfThere, removeFile, replaceFile, SECRET } from './file-store.ts';
import { newKeys, privateKeyPem, readKeys } from './keys.ts';
import { CredentialsError } from './source.ts';

/**
 * `add`: a new root goes out with every certificate, and the old one signs. `issue`: the new one signs, the old one
 * still goes out. `retire`: the old one goes out no longer.
 */
export type RotationStep = 'add' | 'issue' | 'retire';

/** The step is refused for now; one sentence says why, and what comes first. */
export class NotYetError extends Error {
  override name = 'NotYetError';
}

export interface RotationStatus {
  /** `settled`: one root. `added` and `issuing`: two, of which the old or the new one signs. */
  readonly phase: 'settled' | 'added' | 'issuing';
  readonly next: RotationStep;
  readonly roots: readonly (CaRoot & { readonly signs: boolean })[];
  /** What the next step must wait for; null: nothing. */
  readonly waiting: Waiting | null;
}

export interface Waiting {
  readonly reason: string;
  /** Valid certificates that the step would cut off. */
  readonly certificates: number;
  /** Whose they are, ten at most. */
  readonly identities: readonly string[];
  /** When the last of them expires, milliseconds since the epoch; null: nobody knows. */
  readonly until: number | null;
}

export interface RotationOrder {
  readonly step: RotationStep;
  /** Do it although certificates would be cut off. */
  readonly force: boolean;
  /** Validity of a new root in milliseconds. */
  readonly ttlMs: number;
  /** Folder of the root; null: the CA's own. */
  readonly rootDir: string | null;
}

const NEXT = { settled: 'add', added: 'issue', issuing: 'retire' } as const;
const MAX_IDENTITIES = 10;

/** @throws CredentialsError where the bundle holds more than two roots. */
export function rotationStatus({ state, audit, now, dir }: CaView): RotationStatus {
  const phase = phaseOf(state, dir);
  return {
    phase,
    next: NEXT[phase],
    roots: state.roots.map((root) => ({ ...root, signs: root === state.signingRoot })),
    waiting: waitingFor(state, audit, now),
  };
}

/**
 * Takes one step; the folder is locked.
 * @returns false where it had been taken before.
 * @throws NotYetError where another step comes first, or certificates would be cut off.
 */
export async function rotateRoot(view: CaView, order: RotationOrder): Promise<boolean> {
  const { phase, next, waiting } = rotationStatus(view);
  if ((order.step === 'add' && phase === 'added') || (order.step === 'issue' && phase === 'issuing')) {
    return false;
  }
  if (order.step !== next) {
    throw new NotYetError(
      phase === 'settled'
        ? 'no rotation is under way; it begins with step add'
        : `a rotation is under way whose next step is ${next}`,
    );
  }
  if (waiting !== null && !order.force) throw new NotYetError(sentence(waiting, order.step));
  const forced = waiting !== null;
  if (view.state.intermediates.length === 0) await rotateOwn(view, order, forced);
  else await rotateElsewhere(view, order, forced);
  const stepped = await readCaFolder(view.dir);
  if (stepped !== null) await renewCrl({ ...view, state: stepped });
  return true;
}

function phaseOf({ roots, signingRoot }: CaState, dir: string): RotationStatus['phase'] {
  if (roots.length === 1) return 'settled';
  if (roots.length > 2) {
    throw new CredentialsError(
      `${join(dir, CA_FILES.roots)} holds ${roots.length} roots; a rotation has an old and a new one`,
    );
  }
  return signingRoot === roots[0] ? 'added' : 'issuing';
}

/** Which valid certificates the next step would cut off, by the audit log. */
function waitingFor({ roots, signingRoot }: CaState, audit: AuditLog, now: number): Waiting | null {
  const [old, fresh] = roots;
  if (old === undefined || fresh === undefined) return null;
  const added = signingRoot === old;
  const knows = (event: ChangeRecord['event']) =>
    audit.changes.some((change) => change.event === event && change.certificate === fresh.fingerprint);
  if (!knows(added ? 'root-added' : 'root-issues')) {
    const reason = 'the audit log does not go back to the step before, so nobody knows what was issued';
    return { reason, certificates: 0, identities: [], until: null };
  }
  const held = audit
    .inForce(now)
    .filter((issued) =>
      added ? !issued.roots.includes(fresh.fingerprint) : issued.root === old.fingerprint,
    );
  if (held.length === 0) return null;
  return {
    reason: added ? 'handed out without the new root' : 'issued by the old root',
    certificates: held.length,
    identities: [...new Set(held.map(identityOf))].slice(0, MAX_IDENTITIES),
    until: Math.max(...held.map(({ notAfter }) => Date.parse(notAfter))),
  };
}

function identityOf({ identity }: IssuedRecord): string {
  return identity ?? '';
}

function sentence({ reason, certificates, identities, until }: Waiting, step: RotationStep): string {
  if (until === null) return `step ${step} is refused: ${reason}; --force takes it nevertheless`;
  const whose = identities.slice(0, 3).join(', ') + (identities.length > 3 ? ', …' : '');
  return (
    `step ${step} is refused: ${certificates} valid certificate${certificates === 1 ? '' : 's'} ${reason} ` +
    `(${whose}); the last expires at ${new Date(until).toISOString()}; --force takes it nevertheless`
  );
}

/** A root in the folder itself. */
async function rotateOwn(view: CaView, { step, ttlMs }: RotationOrder, forced: boolean): Promise<void> {
  const { dir, state } = view;
  const [old, fresh] = state.roots;
  if (step === 'add') {
    const pem = await newRoot(view, ttlMs);
    await log(view, 'root-added', fingerprintOf(pem), forced);
    await replaceFile(join(dir, CA_FILES.roots), ending(state.bundlePem) + pem, PUBLIC);
  } else if (old !== undefined && fresh !== undefined) {
    if (step === 'issue') await issueFrom(view, fresh, forced);
    else {
      await signLast(view, old.fingerprint);
      await log(view, 'root-retired', old.fingerprint, forced);
      await replaceFile(join(dir, CA_FILES.roots), fresh.pem, PUBLIC);
      await removeFile(join(dir, CA_FILES.oldRootKey));
    }
  }
}

async function newRoot({ dir, state, now }: CaView, ttlMs: number): Promise<string> {
  await removeFile(join(dir, CA_FILES.oldRootKey)); // a retirement may have been cut off before it did
  const file = join(dir, CA_FILES.nextRootKey);
  const keys = await readKeys(await createOnce(file, await privateKeyPem(await newKeys()), SECRET), file);
  return makeRoot(keys, state.trustDomain, { now, ttlMs });
}

async function issueFrom(view: CaView, fresh: CaRoot, forced: boolean): Promise<void> {
  const { dir } = view;
  const [nextFile, keyFile] = [join(dir, CA_FILES.nextRootKey), join(dir, CA_FILES.rootKey)];
  const [nextPem, keyPem] = await Promise.all([readIfThere(nextFile), readIfThere(keyFile)]);
  if (nextPem === null || keyPem === null || !keyFits(fresh.pem, nextPem)) {
    throw new CredentialsError(`${nextFile} does not hold the new root's key; bring it back`);
  }
  await log(view, 'root-issues', fresh.fingerprint, forced);
  await replaceFile(join(dir, CA_FILES.oldRootKey), keyPem, SECRET);
  await moveFile(nextFile, keyFile);
}

/**
 * A root in a folder of its own: that folder takes the step unless it has (for another CA below the same root, or
 * before this one was cut off), then this one follows.
 */
async function rotateElsewhere(view: CaView, order: RotationOrder, forced: boolean): Promise<void> {
  const { dir, state, now } = view;
  if (order.rootDir === null) {
    throw new CredentialsError(`the root of ${dir} is kept in another folder; name it with --root-dir`);
  }
  const { rootDir: folder, ttlMs } = order;
  const place: RootPlace = { dir: folder, trustDomain: state.trustDomain, ttlMs };
  await withRootFolder(
    { dir, place, create: false, now },
    async ({ dir: rootDir, state: rootState, audit }) => {
      if (rootState.trustDomain !== state.trustDomain) {
        throw new CredentialsError(`${rootDir} is the root of trust domain ${rootState.trustDomain}`);
      }
      const root: CaView = { dir: rootDir, state: rootState, audit, now };
      const status = rotationStatus(root);
      const known = rootState.roots.every(({ fingerprint }) => hasRoot(state, fingerprint));
      if (order.step === status.next && (order.step !== 'add' || known)) await rotateOwn(root, order, forced);
      const stepped = await readCaFolder(rootDir);
      if (stepped === null) throw new CredentialsError(`${rootDir} lost its root`);
      await follow(view, { ...root, state: stepped }, order.step, forced);
    },
  );
}

/** Brings the CA's folder to where the root's folder is. */
async function follow(view: CaView, root: CaView, step: RotationStep, forced: boolean): Promise<void> {
  const { dir, state, audit, now } = view;
  const bundleFile = join(dir, CA_FILES.roots);
  const [old, fresh] = state.roots;
  if (step === 'add') {
    const added = root.state.roots.filter(({ fingerprint }) => !hasRoot(state, fingerprint));
    if (added.length > 1) {
      throw new NotYetError(`a rotation is under way in ${root.dir}; end it there before it begins here`);
    }
    for (const { fingerprint } of added) await log(view, 'root-added', fingerprint, forced);
    await replaceFile(bundleFile, ending(state.bundlePem) + added.map(({ pem }) => pem).join(''), PUBLIC);
  } else if (old !== undefined && fresh !== undefined) {
    if (step === 'issue') {
      await log(view, 'root-issues', fresh.fingerprint, forced);
      const expectedRoot = fresh.fingerprint;
      await replaceIntermediate({ dir, root, audit, expectedRoot, ttlMs: intermediateLife(state), now });
    } else {
      await log(view, 'root-retired', old.fingerprint, forced);
      await replaceFile(bundleFile, fresh.pem, PUBLIC);
    }
  }
}

function hasRoot({ roots }: CaState, fingerprint: string): boolean {
  return roots.some((root) => root.fingerprint === fingerprint);
}

/** Before the step itself: a step whose record is lost could not be judged later. */
async function log(
  { audit, now }: CaView,
  event: ChangeRecord['event'],
  certificate: string,
  forced: boolean,
): Promise<void> {
  const time = new Date(now).toISOString();
  await audit.append([{ event, time, certificate, ...(forced && { forced }) }], now);
}

function ending(pem: string): string {
  return pem.endsWith('\n') ? pem : `${pem}\n`;
}
