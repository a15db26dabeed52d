/** Network namespaces for a peer whose ports are fixed: two callers' and a callee's, with a way from here to each caller and on to the callee. */
import { spawnSync } from 'node:child_process';
import { networkInterfaces } from 'node:os';
import type { Command } from '../children.ts';
import { findProgram } from './find-program.ts';

/** Of the block that RFC 2544 sets aside for benchmarks. */
const NET = '198.18.7';
export const CALLEE_ADDRESS = `${NET}.100`;
const PREFIX = 30;

export interface CallerNamespace {
  readonly name: string;
  /** Reached from here. */
  readonly address: string;
}

/** Why there can be none; null where there can. */
export function missingNamespaces(): string | null {
  if (process.platform !== 'linux') return 'network namespaces are Linux';
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  if (findProgram('ip') === null) return 'no ip on the PATH (apt install iproute2)';
  return null;
}

export class Namespaces {
  readonly #made: string[] = [];
  readonly #remove = (): void => this.remove();
  readonly callee = `oarlock-bench-${process.pid}-callee`;
  readonly callers: readonly CallerNamespace[];

  /** @throws with what `ip` said; nothing is left behind then */
  constructor() {
    const taken = Object.values(networkInterfaces()).some((all) =>
      all?.some(({ address }) => address.startsWith(`${NET}.`)),
    );
    if (taken) throw new Error(`addresses of ${NET}.0/24 are in use here, by another bench perhaps`);
    process.once('exit', this.#remove);
    try {
      this.#add(this.callee);
      ip('-n', this.callee, 'address', 'add', `${CALLEE_ADDRESS}/32`, 'dev', 'lo');
      this.callers = [0, 1].map((index) => this.#addCaller(index));
    } catch (error) {
      this.remove();
      throw error;
    }
  }

  #add(name: string): void {
    ip('netns', 'add', name);
    this.#made.push(name);
    ip('-n', name, 'link', 'set', 'lo', 'up');
  }

  /** A namespace with one link to here and one to the callee's. */
  #addCaller(index: number): CallerNamespace {
    const name = `oarlock-bench-${process.pid}-caller-${index}`;
    const first = index * 8;
    const address = `${NET}.${first + 2}`;
    const nextHop = `${NET}.${first + 6}`;
    const device = (which: string): string => `ob${process.pid}${which}${index}`;
    this.#add(name);
    ip('link', 'add', device('a'), 'type', 'veth', 'peer', 'name', device('b'), 'netns', name);
    ip('address', 'add', `${NET}.${first + 1}/${PREFIX}`, 'dev', device('a'));
    ip('link', 'set', device('a'), 'up');
    ip('-n', name, 'address', 'add', `${address}/${PREFIX}`, 'dev', device('b'));
    ip('-n', name, 'link', 'set', device('b'), 'up');
    ip(
      '-n',
      name,
      'link',
      'add',
      device('c'),
      'type',
      'veth',
      'peer',
      'name',
      device('d'),
      'netns',
      this.callee,
    );
    ip('-n', name, 'address', 'add', `${NET}.${first + 5}/${PREFIX}`, 'dev', device('c'));
    ip('-n', name, 'link', 'set', device('c'), 'up');
    ip('-n', this.callee, 'address', 'add', `${nextHop}/${PREFIX}`, 'dev', device('d'));
    ip('-n', this.callee, 'link', 'set', device('d'), 'up');
    ip('-n', name, 'route', 'add', CALLEE_ADDRESS, 'via', nextHop);
    return { name, address };
  }

  /** Takes them away, and their links with them; processes inside must have ended. */
  remove(): void {
    for (const name of this.#made.splice(0)) spawnSync('ip', ['netns', 'delete', name]);
    process.off('exit', this.#remove);
  }
}

/** The same, run inside a namespace. */
export function inNamespace(name: string, { program, args, env }: Command): Command {
  return { program: 'ip', args: ['netns', 'exec', name, program, ...args], ...(env ? { env } : {}) };
}

function ip(...args: readonly string[]): void {
  const { status, stderr } = spawnSync('ip', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${(stderr ?? '').trim()}`);
}
