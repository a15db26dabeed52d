/** The embedded CA's CRLs (RFC 5280 §5): one for each of its keys that still counts for somebody, in one file. */
import { join } from 'node:path';
import type { AuditLog, RevokedRecord } from './ca-audit.ts';
import { BACKDATE_MS } from './ca-certificates.ts';
import { CA_FILES, type CaState } from './ca-folder.ts';
import { type CrlSigner, crlSigners, dropFormer, isHeld, keepLast, lastLists } from './ca-former.ts';
import { PUBLIC, readIfThere, replaceFile } from './file-store.ts';
import { EC_P256 } from './keys.ts';
import { REVOCATION_REASONS } from './revocation-reasons.ts';
import { CredentialsError } from './source.ts';
import { loadX509, type X509Library } from './x509.ts';

/** How long a CRL is good for where nobody said: long enough for a CA that is no running server. */
const CRL_TTL_MS = 604_800_000;
/** Of a list that none follows: 99991231235959Z, which RFC 5280 §4.1.2.5 has for a date that nobody can tell. */
const NEVER = Date.UTC(9999, 11, 31, 23, 59, 59);
const CRL_NUMBER = '2.5.29.20';
const BEGIN = '-----BEGIN X509 CRL-----';
const END = '-----END X509 CRL-----';

/** A CA's folder under its lock, its audit log caught up. */
export interface CrlOrder {
  readonly dir: string;
  readonly state: CaState;
  readonly audit: AuditLog;
  readonly now: number;
}

export interface CrlFile {
  readonly pem: string;
  /** Milliseconds since the epoch. */
  readonly thisUpdate: number;
  readonly nextUpdate: number;
  /** Of all CRLs together. */
  readonly entries: number;
}

interface Dates {
  readonly thisUpdate: number;
  readonly nextUpdate: number;
  readonly number: bigint;
}

interface Written extends Dates {
  /** Key identifiers of their issuers. */
  readonly issuers: readonly string[];
}

/**
 * Writes `crl.pem`.
 * @param ttlMs null: as long as the one before was good for, a week for the first.
 * @throws CredentialsError where the CRL there is cannot be read: its number must not be used again.
 */
export async function writeCrl(order: CrlOrder, ttlMs: number | null): Promise<CrlFile> {
  const { dir, state, audit, now } = order;
  const library = await loadX509();
  const before = await readWritten(library, dir);
  const ttl = ttlMs ?? (before === null ? CRL_TTL_MS : before.nextUpdate - before.thisUpdate - BACKDATE_MS);
  const dates = datesOf(before, now, Math.floor((now + ttl) / 1000) * 1000);
  let pem = '';
  for (const signer of await signersInUse(order)) {
    pem += await signCrl(library, signer, entriesOf(signer, order, before), dates);
  }
  for (const last of await lastLists(dir, state, audit, now)) pem += last;
  await replaceFile(join(dir, CA_FILES.crl), pem, PUBLIC);
  const entries = crlsOf(library, pem).reduce((sum, crl) => sum + crl.entries.length, 0);
  return { pem, thisUpdate: dates.thisUpdate, nextUpdate: dates.nextUpdate, entries };
}

/**
 * Signs the last CRL of a root that is to be retired, its key with it: whoever trusts that root yet must go on finding
 * it in `crl.pem`, with whom it shut out. Nothing is done where nobody holds the root, or its key is not here.
 * @param root its fingerprint
 * @throws CredentialsError as `writeCrl`
 */
export async function signLast(order: CrlOrder, root: string): Promise<void> {
  const { dir, state, audit, now } = order;
  const signer = (await crlSigners(dir, state)).find(({ fingerprint }) => fingerprint === root);
  if (signer === undefined || !isHeld(root, audit, now)) return;
  const library = await loadX509();
  const before = await readWritten(library, dir);
  const crl = await signCrl(library, signer, entriesOf(signer, order, before), datesOf(before, now, NEVER));
  await keepLast(dir, root, crl);
}

function datesOf(before: Written | null, now: number, nextUpdate: number): Dates {
  const earlier = before?.number ?? 0n;
  return {
    // in the past, as certificates are: to a clock that is behind it would not be there yet
    thisUpdate: Math.floor((now - BACKDATE_MS) / 1000) * 1000,
    nextUpdate,
    number: BigInt(now) > earlier ? BigInt(now) : earlier + 1n,
  };
}

function entriesOf(
  { fingerprint }: CrlSigner,
  { audit, now }: CrlOrder,
  before: Written | null,
): readonly RevokedRecord[] {
  return [...audit.revoked.values()].filter(
    ({ issuer, notAfter }) => issuer === fingerprint && stays(notAfter, before, now),
  );
}

/** A CRL that was kept is kept up: the keys that sign one are others now. @throws CredentialsError as `writeCrl` */
export async function renewCrl(order: CrlOrder): Promise<void> {
  if ((await readIfThere(join(order.dir, CA_FILES.crl))) !== null) await writeCrl(order, null);
}

/**
 * When `crl.pem` should be written anew: at half of its time, or now, where it is missing or the keys that need one
 * are others. Milliseconds since the epoch.
 */
export async function crlDue(order: CrlOrder): Promise<number> {
  const library = await loadX509();
  const written = await readWritten(library, order.dir);
  if (written === null) return order.now;
  const last = await lastLists(order.dir, order.state, order.audit, order.now);
  const wanted = [
    ...(await signersInUse(order)).map((signer) => keyIdOf(library, signer)),
    ...issuersOf(library, crlsOf(library, last.join(''))),
  ];
  if (wanted.toSorted().join() !== written.issuers.toSorted().join()) return order.now;
  return (written.thisUpdate + written.nextUpdate) / 2;
}

/**
 * The key that signs, an old root's while that root is given out, and each whose certificates have not all expired:
 * whoever trusts a CA must find its list here. Former intermediates of which that is no longer true are dropped.
 */
async function signersInUse({ dir, state, audit, now }: CrlOrder): Promise<readonly CrlSigner[]> {
  const issuers = new Set<string>();
  for (const { issuer, notAfter } of audit.valid.values())
    if (Date.parse(notAfter) > now) issuers.add(issuer);
  const signers = await crlSigners(dir, state);
  const inUse = signers.filter(({ fingerprint, file }) => file === null || issuers.has(fingerprint));
  for (const signer of signers) if (!inUse.includes(signer)) await dropFormer(signer);
  return inUse;
}

/**
 * RFC 5280 §3.3: "An entry MUST NOT be removed from the CRL until it appears on one regularly scheduled CRL issued
 * beyond the revoked certificate's validity period."
 */
function stays(notAfter: string, before: Written | null, now: number): boolean {
  return Date.parse(notAfter) >= (before?.thisUpdate ?? now);
}

async function signCrl(
  library: X509Library,
  { authority }: CrlSigner,
  revoked: readonly RevokedRecord[],
  { thisUpdate, nextUpdate, number }: Dates,
): Promise<string> {
  const issuer = new library.X509Certificate(authority.pem);
  const entries = revoked.map(({ serial, time, reason }) => ({
    serialNumber: serial,
    revocationDate: new Date(Math.floor(Date.parse(time) / 1000) * 1000),
    ...(reason !== null && { reason: REVOCATION_REASONS[reason] ?? 0 }),
  }));
  const crl = await library.X509CrlGenerator.create({
    issuer: issuer.subjectName,
    thisUpdate: new Date(thisUpdate),
    nextUpdate: new Date(nextUpdate),
    // left out where there are none, as §5.1.2.6 asks
    entries,
    extensions: [
      await library.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
      new library.Extension(CRL_NUMBER, false, derInteger(number)),
    ],
    signingKey: authority.key,
    signingAlgorithm: EC_P256,
  });
  // the library's own PEM has another label than RFC 7468 §6 gives CRLs
  const lines =
    Buffer.from(crl.rawData)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `${BEGIN}\n${lines.join('\n')}\n${END}\n`;
}

async function readWritten(library: X509Library, dir: string): Promise<Written | null> {
  const file = join(dir, CA_FILES.crl);
  const text = await readIfThere(file);
  if (text === null) return null;
  try {
    const crls = crlsOf(library, text);
    const [first] = crls;
    if (first?.nextUpdate === undefined) throw new Error('it holds no CRL with a nextUpdate');
    return {
      issuers: issuersOf(library, crls),
      thisUpdate: first.thisUpdate.getTime(),
      nextUpdate: first.nextUpdate.getTime(),
      number: readDerInteger(first.getExtension(CRL_NUMBER)?.value),
    };
  } catch (error) {
    throw new CredentialsError(
      `${file} cannot be used: ${(error as Error).message}; remove it, and a new one is written`,
    );
  }
}

function crlsOf(library: X509Library, pem: string) {
  const blocks = pem.split(BEGIN).slice(1);
  return blocks.map((block) => {
    const base64 = block.slice(0, Math.max(block.indexOf(END), 0));
    return new library.X509Crl(new Uint8Array(Buffer.from(base64, 'base64')));
  });
}

/** Key identifiers. */
function issuersOf(library: X509Library, crls: ReturnType<typeof crlsOf>): readonly string[] {
  return crls.map((crl) => crl.getExtension(library.AuthorityKeyIdentifierExtension)?.keyId ?? '');
}

function keyIdOf(library: X509Library, { authority }: CrlSigner): string {
  const certificate = new library.X509Certificate(authority.pem);
  return certificate.getExtension(library.SubjectKeyIdentifierExtension)?.keyId ?? '';
}

/** X.690 §8.3: a tag, a length, the fewest bytes that keep it positive. */
function derInteger(value: bigint): Uint8Array<ArrayBuffer> {
  let hex = value.toString(16);
  if (hex.length % 2 === 1) hex = `0${hex}`;
  if (Number.parseInt(hex.slice(0, 2), 16) >= 0x80) hex = `00${hex}`;
  const bytes = Buffer.from(hex, 'hex');
  return new Uint8Array([0x02, bytes.length, ...bytes]);
}

function readDerInteger(value: ArrayBuffer | undefined): bigint {
  const bytes = Buffer.from(value ?? new ArrayBuffer(0));
  return bytes.length < 3 ? 0n : BigInt(`0x${bytes.subarray(2).toString('hex')}`);
}
