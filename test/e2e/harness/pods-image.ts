/** What an image of Oarlock holds, staged where any user can read it: Node, the bundle, and the native library beside it. */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { tempDir } from './mesh.ts';

const ROOT = join(import.meta.dirname, '../../..');

export interface Image {
  /** World-readable. */
  readonly dir: string;
  /** The command line of `oarlock`, whoever runs it. */
  readonly oarlock: readonly string[];
}

/** Builds it with nothing of the checkout around: what was forgotten is missed, and its folder may be root's alone. */
export function stageImage(t: Test): Image {
  const dir = tempDir(t);
  chmodSync(dir, 0o755);
  execFileSync(process.execPath, [join(ROOT, 'bin/build.ts'), dir], { stdio: ['ignore', 'ignore', 'pipe'] });
  const node = join(dir, 'node');
  copyFileSync(realpathSync(process.execPath), node);
  chmodSync(node, 0o755);
  return { dir, oarlock: [node, join(dir, 'dist/main.js')] };
}
