/** Issues the intermediate an embedded CA signs with, from a root that is kept in another folder. */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { CaAccess } from './ca-access.ts';
import { AuditLog } from './ca-audit.ts';
import { type Authority, BACKDATE_MS, fingerprintOf, makeIntermediate } from './ca-certificates.ts';
import {
  CA_FILES,
  type CaState,
  createRoot,
  keyFits,
  makeFolder,
  readCaFolder,
  readRoots,
} from './ca-folder.ts';
import { keepFormer } from './ca-former.ts';
import { withLock } from './ca-lock.ts';
import { moveFile, PUBLIC, readIfThere, replaceFile, SECRET } from './file-store.ts';
import { newKeys, privateKeyPem } from './keys.ts';
import { CredentialsError } from './source.ts';

/** An intermediate's validity where nobody said. */
export const INTERMEDIATE_TTL_MS = 7_776_000_000;

/** The folder whose root issues, as it was read under its lock. */
export interface RootFolder {
  readonly dir: string;
  readonly state: CaState;
  readonly audit: AuditLog;
}

/** Where the root is kept, and what a new one there would be. */
export interface RootPlace {
  readonly dir: string;
  /** Null: `cluster.local`. */
  readonly trustDomain: string | null;
  readonly ttlMs: number;
}

export interface RootVisit {
  /** The CA's own folder; it is locked. */
  readonly dir: string;
  readonly place: RootPlace;
  /** Make folder and root where they are not there. Else an empty folder is one that is not mounted. */
  readonly create: boolean;
  readonly now: number;
}

/**
 * Does the work with the root's folder locked.
 * @throws CredentialsError where it holds no root and may not be given one, where it is the CA's own folder, or
 *   itself below another root.
 */
export async function withRootFolder<T>(
  { dir, place: root, create, now }: RootVisit,
  work: (folder: RootFolder) => Promise<T>,
): Promise<T> {
  if (create) await makeFolder(root.dir);
  else if ((await readIfThere(join(root.dir, CA_FILES.roots))) === null) {
    throw new CredentialsError(`${root.dir} holds no root; is it the right folder, and is it mounted?`);
  }
  if ((await realpath(dir)) === (await realpath(root.dir))) {
    throw new CredentialsError(`${root.dir} is the CA's own folder; keep the root in another one`);
  }
  return withLock(root.dir, async () => {
    if (create) await createRoot(root.dir, { trustDomain: root.trustDomain, ttlMs: root.ttlMs, now });
    const state = await readCaFolder(root.dir);
    if (state === null || state.intermediates.length > 0) {
      throw new CredentialsError(
        `${root.dir} holds no root, but an intermediate of one; give the root's folder`,
      );
    }
    const audit = new AuditLog(root.dir);
    await audit.catchUp(now);
    return work({ dir: root.dir, state, audit });
  });
}

/** How long the intermediate in place was meant to be valid, in milliseconds: its successor is to be as well. */
export function intermediateLife({ signer, signingRoot }: CaState): number {
  // cut by its root: what was meant is not known
  if (signer.notAfter >= signingRoot.notAfter) return INTERMEDIATE_TTL_MS;
  return signer.notAfter - signer.notBefore - BACKDATE_MS;
}

/**
 * Issues an intermediate, the first or a further one, to the CA of a folder; its lock must be held.
 * @throws CredentialsError where the folder has a root of its own, or another root than this one must sign.
 */
export async function issueIntermediate(access: CaAccess, place: RootPlace, ttlMs: number): Promise<void> {
  const { dir } = access;
  const own = join(dir, CA_FILES.rootKey);
  if ((await readIfThere(own)) !== null) {
    throw new CredentialsError(
      `${dir} has a root of its own (${own}); use a new folder for the intermediate`,
    );
  }
  const bundle = await readIfThere(join(dir, CA_FILES.roots));
  const expectedRoot = bundle === null ? null : await rootOf(access, bundle);
  const { audit, now } = await access.readLog();
  await withRootFolder({ dir, place, create: bundle === null, now }, (root) =>
    replaceIntermediate({ dir, root, audit, expectedRoot, ttlMs, now }),
  );
}

/** Fingerprint of the root the folder's certificates lead to. */
async function rootOf(access: CaAccess, bundle: string): Promise<string> {
  try {
    return (await access.read()).state.signingRoot.fingerprint;
  } catch (error) {
    // an intermediate that is lost, or was not finished, is what a new one is issued for
    const [root, ...others] = readRoots(bundle, join(access.dir, CA_FILES.roots));
    if (root === undefined || others.length > 0) throw error;
    return root.fingerprint;
  }
}

/** How a folder's files come to hold a new intermediate; both folders are locked. */
export interface NewIntermediate {
  readonly dir: string;
  readonly root: RootFolder;
  readonly audit: AuditLog;
  /** Fingerprint of the root that must be the one that signs; null: the folder has none yet. */
  readonly expectedRoot: string | null;
  readonly ttlMs: number;
  readonly now: number;
}

/**
 * Issues a new intermediate and puts it in place; the former one is kept for its CRL. The roots the folder gives
 * out stay as they are, for whom the workloads trust is changed by steps of their own.
 * @throws CredentialsError where another root would sign than the expected.
 */
export async function replaceIntermediate(order: NewIntermediate): Promise<void> {
  const { dir, root, now } = order;
  const { signer, signerPrint, trustDomain, bundlePem } = root.state;
  if (order.expectedRoot === null) await replaceFile(join(dir, CA_FILES.roots), bundlePem, PUBLIC);
  else if (order.expectedRoot !== signerPrint) {
    throw new CredentialsError(
      `the root that signs in ${root.dir} is another than that of ${dir}, which workloads may not trust yet; ` +
        'go on with oarlock ca rotate-root',
    );
  }
  const pem = await sign(order, signer, trustDomain);
  const time = new Date(now).toISOString();
  const record = { event: 'intermediate', time, certificate: fingerprintOf(pem) } as const;
  await root.audit.append([record], now);
  await order.audit.append([record], now);
  await keepFormer(dir);
  await replaceFile(join(dir, CA_FILES.intermediate), pem, PUBLIC);
  await moveFile(join(dir, CA_FILES.nextIntermediateKey), join(dir, CA_FILES.intermediateKey));
}

async function sign(
  { dir, ttlMs, now }: NewIntermediate,
  root: Authority,
  trustDomain: string,
): Promise<string> {
  const keys = await newKeys();
  // whoever is cut off before the certificate is in place leaves a key that nobody reads
  await finishMove(dir);
  await replaceFile(join(dir, CA_FILES.nextIntermediateKey), await privateKeyPem(keys), SECRET);
  return makeIntermediate(root, keys.publicKey, { trustDomain, now, ttlMs });
}

/** A replacement that was cut off after its certificate was in place: that key must not be overwritten. */
async function finishMove(dir: string): Promise<void> {
  const next = join(dir, CA_FILES.nextIntermediateKey);
  const [pem, keyPem] = await Promise.all([readIfThere(join(dir, CA_FILES.intermediate)), readIfThere(next)]);
  if (pem !== null && keyPem !== null && keyFits(pem, keyPem)) {
    await moveFile(next, join(dir, CA_FILES.intermediateKey));
  }
}
