/** The kernel's tools: where they are, and running them, with what went wrong told in one line. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Family } from './options.ts';

/** What could not be done, in one line that says what to do. */
export class InterceptError extends Error {}

/** Fixed, as what runs here runs with the rights to change the network. */
const FOLDERS = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
/** A restore takes milliseconds; behind another one it waits for the lock. */
const TIMEOUT_MS = 30_000;
const MAX_OUTPUT = 16 * 1024 * 1024;

/** One run of a tool. */
export interface Step {
  readonly tool: string;
  readonly args: readonly string[];
  readonly input: string;
  /** Whose rules it changes, where it is those of one family. */
  readonly family?: Family;
}

export interface Output {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The path of a tool, or null. */
export function findTool(name: string, folders: readonly string[] = FOLDERS): string | null {
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this one.
    }
  }
  return null;
}

/**
 * Runs a tool, without a shell, with nothing of our environment.
 * @throws InterceptError if it is not there or does not end
 */
export function runTool({ tool, args, input }: Step): Output {
  const path = findTool(tool);
  if (path === null)
    throw new InterceptError(`${tool} is not installed${tool === 'ip' ? ' (package iproute2)' : ''}`);
  const { status, stdout, stderr, error, signal } = spawnSync(path, args, {
    input,
    encoding: 'utf8',
    env: { PATH: FOLDERS.join(':'), LC_ALL: 'C', ...lockEnvironment() },
    timeout: TIMEOUT_MS,
    maxBuffer: MAX_OUTPUT,
  });
  if (status === null) throw new InterceptError(`${tool} did not end by itself: ${error?.message ?? signal}`);
  return { status, stdout, stderr };
}

const LOCK = '/run/xtables.lock';

/**
 * Where the file system is read-only, iptables-legacy finds no place for its lock; the network namespace's own file
 * serves as one, and it is the namespace's rules that are to be locked.
 */
function lockEnvironment(): Readonly<Record<string, string>> {
  try {
    accessSync('/run', constants.W_OK);
    return {};
  } catch {
    try {
      accessSync(LOCK, constants.R_OK | constants.W_OK);
      return {};
    } catch {
      return { XTABLES_LOCKFILE: '/proc/self/ns/net' };
    }
  }
}

/** Their numbers, from capabilities(7). */
const capabilities = { NET_ADMIN: 12n, NET_RAW: 13n } as const;

/** Whether this process has a capability. */
export function hasCapability(name: keyof typeof capabilities): boolean {
  const [, hex] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return hex !== undefined && ((BigInt(`0x${hex}`) >> capabilities[name]) & 1n) === 1n;
}
