/** The two makes of iptables, over nf_tables and the legacy one: reading their tables and what restores them. */
import { readFileSync } from 'node:fs';
import type { Tables } from './compare.ts';
import { explain, NEEDS_NET_ADMIN } from './explain.ts';
import { parseSave } from './iptables-text.ts';
import type { Family } from './options.ts';
import { findTool, hasCapability, InterceptError, runTool, type Step } from './tools.ts';

export type Make = 'nft' | 'legacy';

/** For so long a restore waits for another one's lock. */
const LOCK_SECONDS = '10';

/** `ip6tables-nft-restore`, or the tool without a make in its name if it is of that make; null: not installed. */
export function xtablesTool(make: Make, family: Family, action: 'save' | 'restore'): string | null {
  const base = family === 4 ? 'iptables' : 'ip6tables';
  const named = `${base}-${make}-${action}`;
  if (findTool(named) !== null) return named;
  const plain = `${base}-${action}`;
  if (findTool(plain) === null) return null;
  const { stdout } = runTool({ tool: plain, args: ['--version'], input: '' });
  // `iptables-save v1.8.9 (nf_tables)`; before 1.8 there was only one make.
  return (stdout.includes('(nf_tables)') ? 'nft' : 'legacy') === make ? plain : null;
}

/**
 * The tables of a make and family. The legacy kernel parts are not loaded for a look at them.
 * @throws InterceptError that says what is missing
 */
export function readTables(make: Make, family: Family): Tables {
  if (make === 'legacy' && !legacyTablesPresent(family)) return new Map();
  checkCapability(make);
  const tool = xtablesTool(make, family, 'save');
  if (tool === null)
    throw new InterceptError(`${family === 4 ? 'iptables' : 'ip6tables'}-${make}-save is not installed`);
  const { status, stdout, stderr } = runTool({ tool, args: [], input: '' });
  if (status !== 0) throw new InterceptError(explain(tool, stderr, ''));
  return parseSave(stdout);
}

/** Whether this network namespace has any table of iptables-legacy. The kernel lists them, whatever is installed. */
export function legacyTablesPresent(family: Family): boolean {
  try {
    return readFileSync(`/proc/net/ip${family === 4 ? '' : '6'}_tables_names`, 'utf8').trim() !== '';
  } catch {
    // The module is not loaded, or it is not for us to know.
    return false;
  }
}

/** What feeds a script to the kernel. @throws InterceptError if the tool is not there */
export function restoreStep(make: Make, family: Family, script: string): Step {
  const tool = xtablesTool(make, family, 'restore');
  if (tool === null)
    throw new InterceptError(`${family === 4 ? 'iptables' : 'ip6tables'}-${make}-restore is not installed`);
  const wait = make === 'legacy' ? ['--wait', LOCK_SECONDS] : [];
  return { tool, args: ['--noflush', ...wait], input: script, family };
}

/** @throws InterceptError where a capability is missing that a make needs: the legacy one opens a raw socket */
export function checkCapability(make: Make): void {
  if (make === 'legacy' && !hasCapability('NET_RAW')) throw new InterceptError(NEEDS_NET_ADMIN);
}
