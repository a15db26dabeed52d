/** Where rules of capture may stand: three places in the kernel, each with its own tools. */
import type { Difference, Tables } from './compare.ts';
import { explain } from './explain.ts';
import { differences, restoreScript } from './iptables-text.ts';
import { nftTakenBefore } from './nft-taken-before.ts';
import { nftDifferences, nftScript, nftTables, parseNft } from './nft-text.ts';
import type { Family } from './options.ts';
import { type Rule, rulesOf } from './rules.ts';
import { takenBefore } from './taken-before.ts';
import { findTool, InterceptError, runTool, type Step } from './tools.ts';
import { type Make, readTables, restoreStep, xtablesTool } from './xtables.ts';

/** As `--backend` names them. */
export const backends = ['iptables', 'iptables-legacy', 'nft'] as const;
export type Backend = (typeof backends)[number];

/** What is not as it should be. */
export interface Finding extends Difference {
  readonly backend: Backend;
  /** Null: of both. */
  readonly family: Family | null;
}

/** What is to stand: rules, and the families they are for. Without rules: nothing of ours. */
export interface Wanted {
  readonly rules: readonly Rule[];
  readonly families: readonly Family[];
}

export const nothing: Wanted = { rules: [], families: [] };

/** One of the places, as it was when it was read. */
export interface Store {
  readonly backend: Backend;
  /** Why IPv6 cannot stand here; null: it can. */
  readonly withoutIpv6: string | null;
  /** Whether anybody's rules stand here. */
  readonly used: boolean;
  /** What differs from these rules; of nothing: all that is ours. */
  compare(wanted: Wanted): readonly Finding[];
  /**
   * Rules of others here that may take what these rules are to capture. They are left alone.
   * @param here whether these rules stand here, and not in another store
   */
  takenBefore(wanted: Wanted, here: boolean): readonly Finding[];
  /** What makes it hold these rules and no other of ours. None: it does already. */
  steps(wanted: Wanted): readonly Step[];
}

/** Whether the tools of a backend are installed. */
export function isInstalled(backend: Backend): boolean {
  if (backend === 'nft') return findTool('nft') !== null;
  return xtablesTool(makeOf(backend), 4, 'restore') !== null;
}

function makeOf(backend: 'iptables' | 'iptables-legacy'): Make {
  return backend === 'iptables' ? 'nft' : 'legacy';
}

/**
 * Reads what one backend holds.
 * @throws InterceptError that says what is missing
 */
export function readStore(backend: Backend): Store {
  if (backend === 'nft') return storeOfNft(readNft(), nft('-s', '-nn', 'list', 'ruleset'));
  const make = makeOf(backend);
  const tables = new Map<Family, Tables>([[4, readTables(make, 4)]]);
  try {
    tables.set(6, readTables(make, 6));
    if (xtablesTool(make, 6, 'restore') !== null) return storeOfXtables(backend, tables, null);
    throw new InterceptError('there is no ip6tables-restore');
  } catch (error) {
    if (error instanceof InterceptError) return storeOfXtables(backend, tables, error.message);
    throw error;
  }
}

/** A store as of a network namespace without any rule: what is shown where reading is not for us. */
export function emptyStore(backend: Backend): Store {
  if (backend === 'nft') return storeOfNft(new Map(), '');
  return storeOfXtables(
    backend,
    new Map<Family, Tables>([
      [4, new Map()],
      [6, new Map()],
    ]),
    null,
  );
}

function storeOfXtables(
  backend: 'iptables' | 'iptables-legacy',
  tables: ReadonlyMap<Family, Tables>,
  withoutIpv6: string | null,
): Store {
  const rulesFor = ({ rules, families }: Wanted, family: Family) =>
    families.includes(family) ? rulesOf(rules, family) : [];
  return {
    backend,
    withoutIpv6,
    used: [...tables.values()].some((found) =>
      [...found.values()].some((table) => [...table.values()].some((rules) => rules.length > 0)),
    ),
    compare: (wanted) =>
      [...tables].flatMap(([family, found]) =>
        differences(rulesFor(wanted, family), found).map((one) => ({ ...one, backend, family })),
      ),
    takenBefore: (wanted, here) =>
      [...tables].flatMap(([family, found]) =>
        takenBefore(rulesFor(wanted, family), found, here).map((one) => ({ ...one, backend, family })),
      ),
    steps: (wanted) =>
      [...tables].flatMap(([family, found]) => {
        const script = restoreScript(rulesFor(wanted, family), found);
        return script === null ? [] : [restoreStep(makeOf(backend), family, script)];
      }),
  };
}

function readNft(): Tables {
  const present = nftTables(nft('list', 'tables'));
  return new Map(present.map((table) => [table, parseNft(nft('-s', '-nn', 'list', 'table', 'inet', table))]));
}

function nft(...args: string[]): string {
  const { status, stdout, stderr } = runTool({ tool: 'nft', args, input: '' });
  if (status === 0) return stdout;
  throw new InterceptError(explain('nft', stderr, ''));
}

function storeOfNft(tables: Tables, ruleset: string): Store {
  return {
    backend: 'nft',
    withoutIpv6: null,
    used: tables.size > 0,
    compare: (wanted) =>
      nftDifferences(wanted.rules, wanted.families, tables).map((one) => ({
        ...one,
        backend: 'nft',
        family: null,
      })),
    takenBefore: ({ rules, families }) =>
      nftTakenBefore(rules, families, ruleset, !isInstalled('iptables')).map((one) => ({
        ...one,
        backend: 'nft',
        family: null,
      })),
    steps: (wanted) => {
      const script = nftScript(wanted.rules, wanted.families, tables);
      return script === null ? [] : [{ tool: 'nft', args: ['-f', '-'], input: script }];
    },
  };
}
