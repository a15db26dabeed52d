/** Our proxy as an image has it: bundled, its compiled code cached, with the image's environment. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Child, nodeScript } from './children.ts';
import { oarlock } from './peers/oarlock.ts';
import type { PortPeer } from './peers/peer.ts';

const ROOT = join(import.meta.dirname, '..');
const SOURCE = join(ROOT, 'cli', 'main.ts');

/** @param dir a folder that need not exist @param warm whether the cache of compiled code is made too */
export async function bundledOarlock(dir: string, name: string, warm: boolean): Promise<PortPeer> {
  await finish('bin/build.ts', [dir]);
  if (warm) await finish('bin/warm.ts', [dir]);
  const main = join(dir, 'dist', 'main.js');
  const env = imageEnv();
  return {
    ...oarlock,
    name,
    command: (side) => {
      const { program, args } = oarlock.command(side);
      return { program, args: args.map((arg) => (arg === SOURCE ? main : arg)), env };
    },
  };
}

async function finish(script: string, args: readonly string[]): Promise<void> {
  const child = new Child(nodeScript(script, args), 'line');
  if (!(await child.ended())) throw new Error(`${script} failed`);
}

/** What the Dockerfile says of memory, and nothing of paths. */
function imageEnv(): Readonly<Record<string, string>> {
  const file = readFileSync(join(ROOT, 'Dockerfile'), 'utf8');
  const found = file.matchAll(/^ENV (MALLOC_\w+|NODE_\w+)=(\S+)$/gm);
  return Object.fromEntries([...found].map(([, name = '', value = '']) => [name, value]));
}
