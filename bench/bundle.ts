/** Our proxy as an image has it: bundled, with compiled code cached, and started with the image's flags. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Child, nodeScript } from './children.ts';
import { oarlock } from './peers/oarlock.ts';
import type { PortPeer } from './peers/peer.ts';

const SOURCE = join(import.meta.dirname, '..', 'cli', 'main.ts');

/** @param dir a folder that need not exist @param warm whether the cache of compiled code is made too */
export async function bundledOarlock(dir: string, name: string, warm: boolean): Promise<PortPeer> {
  await finish('bin/build.ts', [dir]);
  if (warm) await finish('bin/warm.ts', [dir]);
  const main = join(dir, 'dist', 'main.js');
  return {
    ...oarlock,
    name,
    command: (side) => {
      const { program, args } = oarlock.command(side);
      return { program, args: args.flatMap((arg) => (arg === SOURCE ? [...imageFlags(), main] : [arg])) };
    },
  };
}

async function finish(script: string, args: readonly string[]): Promise<void> {
  const child = new Child(nodeScript(script, args), 'line');
  if (!(await child.ended())) throw new Error(`${script} failed`);
}

/** Node's flags in the image's entry point: one list, the Dockerfile's. */
export function imageFlags(): readonly string[] {
  const file = readFileSync(join(import.meta.dirname, '..', 'Dockerfile'), 'utf8');
  const entry = /^ENTRYPOINT (\[.*\])$/m.exec(file)?.[1];
  if (entry === undefined) throw new Error('the Dockerfile has no ENTRYPOINT in brackets');
  return (JSON.parse(entry) as string[]).filter((arg) => arg.startsWith('--'));
}
