/** Opens an embedded CA's folder: its state and its audit log as they are now, while nobody else changes them. */
import { AuditLog } from './ca-audit.ts';
import { type CaState, readCaFolder, stampOf } from './ca-folder.ts';
import { withLock } from './ca-lock.ts';
import { CredentialsError } from './source.ts';

/** A folder's contents, good until its lock is given up. */
export interface CaView {
  readonly dir: string;
  readonly state: CaState;
  readonly audit: AuditLog;
  /** Milliseconds since the epoch. */
  readonly now: number;
}

export interface CaAccessOptions {
  readonly dir: string;
  readonly now?: () => number;
  /** Size beyond which the audit log is written anew. */
  readonly auditMaxBytes?: number | undefined;
}

/** One process's way into a folder. What has not changed since the last time is not read again. */
export class CaAccess {
  readonly dir: string;
  readonly now: () => number;
  readonly #audit: AuditLog;
  #stamp = '';
  #state: CaState | null = null;

  constructor({ dir, now = Date.now, auditMaxBytes }: CaAccessOptions) {
    this.dir = dir;
    this.now = now;
    this.#audit = new AuditLog(dir, auditMaxBytes);
  }

  /** As last read; null before that. */
  get state(): CaState | null {
    return this.#state;
  }

  /** Whether the folder is another than was last read. Without its lock: a hint. */
  async changed(): Promise<boolean> {
    return (await stampOf(this.dir)) !== this.#stamp;
  }

  /**
   * Does the work with the folder locked.
   * @throws CredentialsError where the folder holds no CA, or its files do not fit together.
   */
  locked<T>(work: (view: CaView) => Promise<T>): Promise<T> {
    return withLock(this.dir, async () => work(await this.read()));
  }

  /** The folder as it is. Its lock must be held. */
  async read(): Promise<CaView> {
    const stamp = await stampOf(this.dir);
    if (stamp !== this.#stamp || this.#state === null) {
      this.#state = await readCaFolder(this.dir);
      this.#stamp = stamp;
    }
    if (this.#state === null) {
      throw new CredentialsError(`${this.dir} holds no CA; oarlock ca serve --dir ${this.dir} makes one`);
    }
    return { dir: this.dir, state: this.#state, ...(await this.readLog()) };
  }

  /** The log alone, for a folder that holds nothing else yet. Its lock must be held. */
  async readLog(): Promise<{ readonly audit: AuditLog; readonly now: number }> {
    const now = this.now();
    await this.#audit.catchUp(now);
    return { audit: this.#audit, now };
  }
}
