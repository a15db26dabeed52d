/** CAs that sign no more certificates and still have a CRL: former intermediates, an old root, a retired one's last. */
import { X509Certificate } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { AuditLog } from './ca-audit.ts';
import { type Authority, fingerprintOf } from './ca-certificates.ts';
import { CA_FILES, type CaState, keyFits, makeFolder } from './ca-folder.ts';
import { PUBLIC, readIfThere, removeFile, replaceFile, SECRET } from './file-store.ts';
import { readKeys } from './keys.ts';

/** A CA certificate, its key, and what the audit log calls it. */
export interface CrlSigner {
  readonly fingerprint: string;
  readonly authority: Authority;
  /** Where it is kept, when a former intermediate's; null: it is part of the folder's own state. */
  readonly file: string | null;
}

/** Keeps the intermediate in place now, certificate and key in one file, before another takes its place. */
export async function keepFormer(dir: string): Promise<void> {
  const pem = await readIfThere(join(dir, CA_FILES.intermediate));
  const keyPem = await readIfThere(join(dir, CA_FILES.intermediateKey));
  if (pem === null || keyPem === null || !keyFits(pem, keyPem)) return;
  await makeFolder(join(dir, CA_FILES.former));
  const certificate = new X509Certificate(pem).toString();
  const file = join(dir, CA_FILES.former, `${fingerprintOf(pem).slice(0, 16)}.pem`);
  await replaceFile(file, `${certificate.trim()}\n${keyPem}`, SECRET);
}

/** All whose key is here: the one that signs first, then the old root during a rotation, then former intermediates. */
export async function crlSigners(dir: string, state: CaState): Promise<readonly CrlSigner[]> {
  const signers: CrlSigner[] = [{ fingerprint: state.signerPrint, authority: state.signer, file: null }];
  const oldKeyFile = join(dir, CA_FILES.oldRootKey);
  const oldKeyPem = await readIfThere(oldKeyFile);
  const old = oldKeyPem === null ? undefined : state.roots.find(({ pem }) => keyFits(pem, oldKeyPem));
  if (old !== undefined && oldKeyPem !== null && old.fingerprint !== state.signerPrint) {
    const { privateKey } = await readKeys(oldKeyPem, oldKeyFile);
    signers.push({ fingerprint: old.fingerprint, authority: { ...old, key: privateKey }, file: null });
  }
  for (const file of await formerFiles(dir, /^[0-9a-f]{16}\.pem$/)) {
    const text = (await readIfThere(file)) ?? '';
    const { privateKey } = await readKeys(text, file);
    const x509 = new X509Certificate(text);
    const pem = x509.toString();
    const authority = {
      pem,
      key: privateKey,
      notBefore: x509.validFromDate.getTime(),
      notAfter: x509.validToDate.getTime(),
    };
    signers.push({ fingerprint: fingerprintOf(pem), authority, file });
  }
  return signers;
}

/** Removes a former intermediate whose last certificate has expired. */
export async function dropFormer({ file }: CrlSigner): Promise<void> {
  if (file !== null) await removeFile(file);
}

/** Keeps the last CRL of a root that is to be retired, by the root's fingerprint: there will be no key for another. */
export async function keepLast(dir: string, root: string, crlPem: string): Promise<void> {
  await makeFolder(join(dir, CA_FILES.former));
  await replaceFile(join(dir, CA_FILES.former, `${root}.crl`), crlPem, PUBLIC);
}

/** The last CRLs, PEM, of retired roots that somebody still trusts; those of others are removed. */
export async function lastLists(
  dir: string,
  { roots }: CaState,
  audit: AuditLog,
  now: number,
): Promise<readonly string[]> {
  const lists: string[] = [];
  for (const file of await formerFiles(dir, /^[0-9a-f]{64}\.crl$/)) {
    const root = basename(file, '.crl');
    if (!isHeld(root, audit, now)) await removeFile(file);
    // a retirement that was cut off: it is signed as ever
    else if (!roots.some(({ fingerprint }) => fingerprint === root))
      lists.push((await readIfThere(file)) ?? '');
  }
  return lists;
}

/** Whether a workload has a valid certificate with which it was given this root. */
export function isHeld(root: string, audit: AuditLog, now: number): boolean {
  for (const { identity, notAfter, roots } of audit.valid.values())
    if (identity !== null && Date.parse(notAfter) > now && roots.includes(root)) return true;
  return false;
}

async function formerFiles(dir: string, pattern: RegExp): Promise<readonly string[]> {
  const folder = join(dir, CA_FILES.former);
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names.filter((name) => pattern.test(name)).map((name) => join(folder, name));
}
