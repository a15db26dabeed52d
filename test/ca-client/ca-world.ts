/** What the embedded CA's tests share: a CA with a clock of its own, and OpenSSL as the judge of what it wrote. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CaAccess } from '../../ca-client/ca-access.ts';
import { issueIntermediate } from '../../ca-client/ca-intermediate.ts';
import { withLock } from '../../ca-client/ca-lock.ts';
import { type RotationStep, rotateRoot, rotationStatus } from '../../ca-client/ca-rotation.ts';
import { type EmbeddedCa, type Issued, openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { openssl, orders, temporaryFolder } from './helper.ts';

export const HOUR = 3_600_000;
export const YEAR = 31_536_000_000;

type Tap = Parameters<typeof temporaryFolder>[0];

export interface CaWorld {
  readonly dir: string;
  /** Null: the CA has its own root. */
  readonly rootDir: string | null;
  readonly ca: EmbeddedCa;
  /** Moves its clock. */
  pass(ms: number): void;
  readonly now: () => number;
  issue(ttlMs?: number): Promise<Issued>;
  step(step: RotationStep, force?: boolean): Promise<boolean>;
  phase(): Promise<string>;
  /** OpenSSL's word on a leaf, its chain and the roots that came with it; `OK` or its complaint. */
  verify(issued: Issued, roots?: readonly string[], ...more: readonly string[]): Promise<string>;
}

/** Opens (or makes) the CA of a folder; with a root of its own, or below one in another folder. */
export async function caWorld(
  t: Tap,
  { dir = temporaryFolder(t), rootDir = null }: { dir?: string; rootDir?: string | null } = {},
): Promise<CaWorld> {
  let ahead = 0;
  const now = () => Date.now() + ahead;
  const ca = await openEmbeddedCa({ dir, rootDir, trustDomain: null, now });
  const scratch = temporaryFolder(t);
  let files = 0;
  return {
    dir,
    rootDir,
    ca,
    now,
    pass(ms) {
      ahead += ms;
    },
    issue: (ttlMs = HOUR) => ca.issueWithKey(orders, ttlMs),
    step: (step, force = false) =>
      ca.access.locked((view) => rotateRoot(view, { step, force, ttlMs: 10 * YEAR, rootDir })),
    phase: () => ca.access.locked(async (view) => rotationStatus(view).phase),
    async verify(issued, roots = issued.roots, ...more) {
      const folder = join(scratch, String(files++));
      mkdirSync(folder);
      writeFileSync(join(folder, 'leaf.pem'), issued.certificatePem);
      writeFileSync(join(folder, 'chain.pem'), issued.chain.join(''));
      writeFileSync(join(folder, 'roots.pem'), roots.join(''));
      const at = ['-attime', String(Math.floor(now() / 1000))];
      const files_ = ['-CAfile', join(folder, 'roots.pem'), '-untrusted', join(folder, 'chain.pem')];
      const text = await openssl(
        ...['verify', '-x509_strict', ...at, ...files_, ...more],
        join(folder, 'leaf.pem'),
      );
      return /: OK\n/.test(text) ? 'OK' : text;
    },
  };
}

/** A further intermediate for the CA. */
export function renewIntermediate({ dir, rootDir, now }: CaWorld, ttlMs: number): Promise<void> {
  const access = new CaAccess({ dir, now });
  const place = { dir: rootDir ?? '', trustDomain: null, ttlMs: YEAR };
  return withLock(dir, () => issueIntermediate(access, place, ttlMs));
}
