/** Rules as lists of lines, whatever the language, and how what is there differs from what is wanted. */

/** The rules of each chain of a table, a line each. */
export type Table = ReadonlyMap<string, readonly string[]>;
/** By name: `nat`, `mangle`, … */
export type Tables = ReadonlyMap<string, Table>;

export const NO_TABLE: Table = new Map();

export interface Difference {
  readonly table: string;
  /** Empty: the whole table. */
  readonly chain: string;
  /**
   * - `order`: all rules of the chain are there, in another order
   * - `before`: a rule of others that packets meet before ours, and that may take them
   */
  readonly kind: 'missing' | 'foreign' | 'order' | 'before';
  /** The rule as its tool writes it; where there is none, the chain or table. */
  readonly rule: string;
}

/** The chain to compare, and the same text for the same rule, however a tool writes it. */
export interface ChainOf {
  readonly table: string;
  readonly chain: string;
  readonly canonical: (rule: string) => string;
}

/**
 * @param expected undefined: there should be no such chain
 * @param actual undefined: there is none
 */
export function compareChain(
  { table, chain, canonical }: ChainOf,
  expected: readonly string[] | undefined,
  actual: readonly string[] | undefined,
): readonly Difference[] {
  const difference = (kind: Difference['kind'], rule: string): Difference => ({ table, chain, kind, rule });
  const want = (expected ?? []).map(canonical);
  const have = (actual ?? []).map(canonical);
  const missing = (expected ?? []).filter((_, i) => !have.includes(want[i] ?? ''));
  // One that is there twice is foreign the second time.
  const foreign = (actual ?? []).filter(
    (_, i) => !want.includes(have[i] ?? '') || have.indexOf(have[i] ?? '') < i,
  );
  if (missing.length + foreign.length > 0) {
    return [
      ...missing.map((rule) => difference('missing', rule)),
      ...foreign.map((rule) => difference('foreign', rule)),
    ];
  }
  if (expected === undefined && actual !== undefined) return [difference('foreign', `the chain ${chain}`)];
  if (want.join('\n') === have.join('\n')) return [];
  return [difference('order', expected?.[0] ?? '')];
}
