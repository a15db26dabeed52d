/** Runs tables of cases through the sidecars, many at once, each on connections of its own. */
import type { Test } from 'tap';
import type { Case, Setup } from './case.ts';
import { check } from './check.ts';
import { play, type Splits, WHOLE } from './play.ts';
import { type SidecarOptions, type Sidecars, sidecars } from './sidecars.ts';

/** A group of cases, by name. */
export type Tables = Readonly<Record<string, readonly Case[]>>;

const AT_ONCE = 24;
/** Longer messages are split at some points, not at each. */
const SPLIT_EACH = 1_500;
/** Seconds since 1970 would be another test each day: this is one. */
const SEED = Number(process.env.OARLOCK_FUZZ_SEED ?? 5);

/** After each byte, or at 24 points where that would be too many. */
export const everyByte: Splits = (length) => {
  if (length <= SPLIT_EACH) return Array.from({ length: Math.max(0, length - 1) }, (_, i) => i + 1);
  return somewhere(random(SEED + length), 24)(length);
};

/** At up to so many random points. */
export function somewhere(next: () => number, points: number): Splits {
  return (length) => {
    const at = new Set<number>();
    for (let i = 0; i < points && length > 1; i++) at.add(1 + Math.floor(next() * (length - 1)));
    return [...at].sort((a, b) => a - b);
  };
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** One test a setup and way of sending; each says which cases do not hold and how. */
export async function runCorpus(t: Test, tables: Tables, options: SidecarOptions = {}): Promise<void> {
  const all = await sidecars(t, options);
  const setups: readonly Setup[] = ['inbound', 'outbound', 'pair'];
  for (const setup of setups) {
    await t.test(`${setup}, whole`, (t) => runAll(t, all, { tables, setup, splits: WHOLE }));
    await t.test(`${setup}, in pieces`, (t) => runAll(t, all, { tables, setup, splits: everyByte }));
  }
  t.same(all.errors, [], 'no fault of the sidecars themselves');
}

interface Run {
  readonly tables: Tables;
  readonly setup: Setup;
  readonly splits: Splits;
}

async function runAll(t: Test, { enter }: Sidecars, { tables, setup, splits }: Run): Promise<void> {
  const rows = Object.entries(tables)
    .flatMap(([group, cases]) => cases.map((row) => ({ title: `${group}: ${row.name}`, row })))
    .filter(({ row }) => row.on?.includes(setup) ?? true)
    .filter(({ row }) => splits === WHOLE || row.whole !== true);
  const faults = new Map<string, readonly string[]>();
  const left = rows.values();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (const { title, row } of left) faults.set(title, await faultsOf(row, enter[setup], splits));
    }),
  );
  for (const { title } of rows) t.same(faults.get(title), [], title);
}

async function faultsOf(
  row: Case,
  enter: Sidecars['enter'][Setup],
  splits: Splits,
): Promise<readonly string[]> {
  try {
    const faults = check(row, await play(row, enter, splits));
    if (faults.length === 0 || row.or === undefined) return faults;
    const other = { ...row, expect: row.or };
    return check(other, await play(other, enter, splits)).length === 0 ? [] : faults;
  } catch (error) {
    return [`it could not be played: ${(error as Error).stack}`];
  }
}
