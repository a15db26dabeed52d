/** The embedded CA's audit log: what it issued, refused and revoked, and what of that still counts. */
import { type FileHandle, link, open, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { removeFile, replaceFile, SECRET } from './file-store.ts';
import { CredentialsError } from './source.ts';

/** Who had it done: a request to `oarlock ca serve`, or a command. */
export type IssuedBy = 'server' | 'cli';

export interface IssuedRecord {
  readonly event: 'issued';
  /** ISO 8601, as all times here. */
  readonly time: string;
  /** SPIFFE URI; null for the CA server's own certificate, which counts for no step of a rotation. */
  readonly identity: string | null;
  readonly serial: string;
  readonly notBefore: string;
  readonly notAfter: string;
  /** SHA-256 of the SubjectPublicKeyInfo, hex. */
  readonly publicKey: string;
  /** Address of the requester. */
  readonly peer: string | null;
  readonly by: IssuedBy;
  /** SHA-256 of the certificate that signed it, of the root above, and of every root handed out with it. */
  readonly issuer: string;
  readonly root: string;
  readonly roots: readonly string[];
}

export interface RefusedRecord {
  readonly event: 'refused';
  readonly time: string;
  readonly status: string;
  readonly reason: string;
  /** `namespace/account` of a token that passed. */
  readonly account: string | null;
  readonly peer: string;
  readonly by: IssuedBy;
  /** Refusals before this one that were not written. */
  readonly unwritten?: number;
}

export interface RevokedRecord {
  readonly event: 'revoked';
  readonly time: string;
  readonly identity: string | null;
  readonly serial: string;
  readonly notAfter: string;
  readonly publicKey: string;
  readonly issuer: string;
  /** RFC 5280 §5.3.1's name of it; null: not said. */
  readonly reason: string | null;
}

/** A step of a root's rotation, or a new intermediate. */
export interface ChangeRecord {
  readonly event: 'root-added' | 'root-issues' | 'root-retired' | 'intermediate';
  readonly time: string;
  /** Fingerprint of the certificate it is about. */
  readonly certificate: string;
  /** A guard would have refused it. */
  readonly forced?: boolean;
}

export type AuditRecord = IssuedRecord | RefusedRecord | RevokedRecord | ChangeRecord;

export const AUDIT_FILE = 'issued.jsonl';
/** Beyond it the file is written anew with what still counts; the former one stays as `issued.jsonl.1`. */
const MAX_BYTES = 16_777_216;
/** More valid certificates than that are not issued: each must be found when it is to be revoked. */
const MAX_VALID = 100_000;
/** Of one identity, so that no single workload gone wild uses up what there is for all. */
const MAX_VALID_OF_ONE = 10_000;
/** So many revoked keys are remembered past their certificate's end, so that they do not come back. */
const MAX_REVOKED_KEPT = 10_000;
const MAX_CHANGES_KEPT = 100;

/**
 * One folder's log, and in memory what of it still counts. `catchUp` and `append` are called under the folder's
 * lock: others append as well.
 */
export class AuditLog {
  readonly #file: string;
  readonly #maxBytes: number;
  /** Certificates that have not expired when last looked, by serial. */
  readonly valid = new Map<string, IssuedRecord>();
  readonly revoked = new Map<string, RevokedRecord>();
  readonly revokedKeys = new Set<string>();
  readonly #countOf = new Map<string, number>();
  #changes: ChangeRecord[] = [];
  /** Which file was read, how far, and whether it ended within a line: a writer died there. */
  #identity = '';
  #offset = 0;
  #torn = false;
  #compactAt: number;
  #pruneAt = 0;

  constructor(dir: string, maxBytes = MAX_BYTES) {
    this.#file = join(dir, AUDIT_FILE);
    this.#maxBytes = maxBytes;
    this.#compactAt = maxBytes;
  }

  get changes(): readonly ChangeRecord[] {
    return this.#changes;
  }

  /** Room for one more certificate of this identity; null: the server's own. */
  hasRoom(identity: string | null): boolean {
    return this.valid.size < MAX_VALID && (this.#countOf.get(identity ?? '') ?? 0) < MAX_VALID_OF_ONE;
  }

  /** Certificates of workloads, neither expired nor revoked. */
  inForce(now: number): readonly IssuedRecord[] {
    return [...this.valid.values()].filter(
      ({ identity, notAfter, serial }) =>
        identity !== null && Date.parse(notAfter) > now && !this.revoked.has(serial),
    );
  }

  /**
   * Reads what was appended since the last time, or all of a file that is another one now.
   * @throws CredentialsError where it cannot be read.
   */
  async catchUp(now: number): Promise<void> {
    try {
      const found = await stat(this.#file, { bigint: true }).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return null;
        throw error;
      });
      const identity = found === null ? '' : `${found.ino} ${found.birthtimeNs}`;
      const size = Number(found?.size ?? 0);
      if (identity !== this.#identity || size < this.#offset) this.#forget(identity);
      if (size > this.#offset) await this.#readTo(size);
    } catch (error) {
      throw new CredentialsError(`the audit log ${this.#file} cannot be read: ${(error as Error).message}`);
    }
    this.#prune(now);
  }

  /**
   * Appends lines and has them on the disk before it resolves. Nothing may be handed out that is not in here.
   * @throws CredentialsError where they cannot be written.
   */
  async append(records: readonly AuditRecord[], now: number): Promise<void> {
    if (records.length === 0) return;
    const lines = records.map((record) => `${JSON.stringify(record)}\n`).join('');
    try {
      if (this.#offset > this.#compactAt) await this.#compact(now);
      const handle = await open(this.#file, 'a', SECRET);
      try {
        await this.#write(handle, lines);
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw new CredentialsError(
        `the audit log ${this.#file} cannot be written, so nothing is issued: ${(error as Error).message}`,
      );
    }
    for (const record of records) this.#take(record);
  }

  async #write(handle: FileHandle, lines: string): Promise<void> {
    const bytes = Buffer.from(this.#torn ? `\n${lines}` : lines);
    // until proven otherwise: a write that fails half-way leaves half a line
    this.#torn = true;
    await handle.appendFile(bytes);
    await handle.datasync();
    this.#torn = false;
    const { ino, birthtimeNs, size } = await handle.stat({ bigint: true });
    this.#identity = `${ino} ${birthtimeNs}`;
    this.#offset = Number(size);
  }

  #forget(identity: string): void {
    this.valid.clear();
    this.#countOf.clear();
    this.revoked.clear();
    this.revokedKeys.clear();
    this.#changes = [];
    this.#identity = identity;
    this.#offset = 0;
    this.#torn = false;
    this.#compactAt = this.#maxBytes;
  }

  async #readTo(size: number): Promise<void> {
    const handle = await open(this.#file, 'r');
    try {
      const bytes = Buffer.alloc(size - this.#offset);
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, this.#offset);
      const text = bytes.toString('utf8', 0, bytesRead);
      for (const line of text.split('\n')) {
        const record = parse(line);
        if (record !== null) this.#take(record);
      }
      this.#offset += bytesRead;
      this.#torn = !text.endsWith('\n');
    } finally {
      await handle.close();
    }
  }

  #take(record: AuditRecord): void {
    if (record.event === 'issued') {
      this.valid.set(record.serial, record);
      this.#count(record, 1);
    } else if (record.event === 'revoked') {
      this.revoked.set(record.serial, record);
      this.revokedKeys.add(record.publicKey);
    } else if (record.event !== 'refused') {
      this.#changes.push(record);
      if (this.#changes.length > MAX_CHANGES_KEPT) this.#changes.shift();
    }
  }

  #count({ identity }: IssuedRecord, by: number): void {
    const count = (this.#countOf.get(identity ?? '') ?? 0) + by;
    if (count > 0) this.#countOf.set(identity ?? '', count);
    else this.#countOf.delete(identity ?? '');
  }

  #prune(now: number): void {
    if (now < this.#pruneAt) return;
    this.#pruneAt = now + 10_000;
    for (const [serial, record] of this.valid) {
      if (Date.parse(record.notAfter) > now) continue;
      this.valid.delete(serial);
      this.#count(record, -1);
    }
    let spare = this.revoked.size - MAX_REVOKED_KEPT;
    if (spare <= 0) return;
    for (const [serial, { notAfter }] of this.revoked) {
      if (spare <= 0) break;
      if (Date.parse(notAfter) > now) continue;
      this.revoked.delete(serial);
      spare--;
    }
    this.revokedKeys.clear();
    for (const { publicKey } of this.revoked.values()) this.revokedKeys.add(publicKey);
  }

  /** Writes what still counts to a new file, in one step; the former file keeps all of it under another name. */
  async #compact(now: number): Promise<void> {
    this.#pruneAt = 0;
    this.#prune(now);
    const kept = [...this.#changes, ...this.revoked.values(), ...this.valid.values()];
    const text = kept.map((record) => `${JSON.stringify(record)}\n`).join('');
    const former = `${this.#file}.1`;
    await removeFile(`${former}.tmp`);
    await link(this.#file, `${former}.tmp`);
    await rename(`${former}.tmp`, former);
    await replaceFile(this.#file, text, SECRET);
    this.#torn = false;
    // not again at once where most of it still counts
    this.#compactAt = Math.max(this.#maxBytes, Buffer.byteLength(text) * 2);
  }
}

/** Null for half a line and for anything that is none of ours: such a certificate was never handed out. */
function parse(line: string): AuditRecord | null {
  if (line === '') return null;
  try {
    const record: unknown = JSON.parse(line);
    return typeof record === 'object' && record !== null && 'event' in record
      ? (record as AuditRecord)
      : null;
  } catch {
    return null;
  }
}
