/** The rules in the language of iptables-save and iptables-restore: writing, reading, comparing. */
import { compareChain, type Difference, NO_TABLE, type Table, type Tables } from './compare.ts';
import type { Block } from './options.ts';
import { ownChains, type Rule } from './rules.ts';

const OUR_TABLE = 'nat';
/** Istio has more of them than we set: for DNS, for TPROXY. */
const OURS = /^ISTIO_/;
/** What `--exclude-interfaces` puts into the kernel's own chains, where Istio puts it too. */
const BY_INTERFACE_ALONE = /^-A (PREROUTING|OUTPUT) -[io] \S+ -j RETURN$/;
const MAX_LINES = 100_000;

/** `-A CHAIN …`, as iptables-restore reads it. */
export function ruleLine(rule: Rule): string {
  const words = ['-A', rule.chain];
  if (rule.from) words.push('-s', blockText(rule.from));
  if (rule.to) words.push('-d', blockText(rule.to));
  if (rule.notTo) words.push('!', '-d', blockText(rule.notTo));
  if (rule.inInterface) words.push('-i', rule.inInterface);
  if (rule.outInterface) words.push('-o', rule.outInterface);
  if (rule.protocol) words.push('-p', rule.protocol);
  if (rule.port) words.push('-m', rule.protocol ?? '', '--dport', String(rule.port));
  if (rule.notPort) words.push('-m', rule.protocol ?? '', '!', '--dport', String(rule.notPort));
  const owner = ownerWords(rule);
  if (owner.length > 0) words.push('-m', 'owner', ...owner);
  if (typeof rule.target === 'number') words.push('-j', 'REDIRECT', '--to-ports', String(rule.target));
  else words.push('-j', rule.target);
  return words.join(' ');
}

function ownerWords({ uid, notUid, gid, notGid }: Rule): readonly string[] {
  if (uid !== undefined) return ['--uid-owner', String(uid)];
  if (notUid !== undefined) return ['!', '--uid-owner', String(notUid)];
  if (gid !== undefined) return ['--gid-owner', String(gid)];
  if (notGid !== undefined) return ['!', '--gid-owner', String(notGid)];
  return [];
}

function blockText({ address, bits }: Block): string {
  return `${address}/${bits}`;
}

/** Reads what iptables-save printed. @throws Error if it is too long to be true */
export function parseSave(text: string): Tables {
  const tables = new Map<string, Map<string, string[]>>();
  let table = new Map<string, string[]>();
  const lines = text.split('\n');
  if (lines.length > MAX_LINES) throw new Error(`${lines.length} lines of rules are more than we read`);
  for (const line of lines) {
    if (line.startsWith('*')) {
      table = new Map();
      tables.set(line.slice(1).trim(), table);
    } else if (line.startsWith(':')) {
      table.set(line.slice(1).split(' ', 1)[0] ?? '', []);
    } else if (line.startsWith('-A ')) {
      table.get(line.split(' ', 2)[1] ?? '')?.push(line);
    }
  }
  return tables;
}

/** Compares what is there with the rules of one family. Rules of others, in chains of others, do not count. */
export function differences(wanted: readonly Rule[], tables: Tables): readonly Difference[] {
  return tableNames(wanted, tables).flatMap((name) => {
    const table = tables.get(name) ?? NO_TABLE;
    const expected = name === OUR_TABLE ? byChain(wanted) : NO_RULES;
    const names = new Set<string>([...expected.keys(), ...table.keys()]);
    return [...names].flatMap((chain) =>
      compareChain({ table: name, chain, canonical }, expected.get(chain)?.map(ruleLine), ours(table, chain)),
    );
  });
}

/**
 * The input of `iptables-restore --noflush` that makes a family's tables hold exactly these rules of ours, and leaves
 * all else alone. Each table is changed at once or not at all.
 * @returns null: there is nothing to change
 */
export function restoreScript(wanted: readonly Rule[], tables: Tables): string | null {
  if (differences(wanted, tables).length === 0) return null;
  const lines = tableNames(wanted, tables).flatMap((name) => {
    const changes = tableChanges(
      tables.get(name) ?? NO_TABLE,
      name === OUR_TABLE ? byChain(wanted) : NO_RULES,
    );
    return changes.length === 0 ? [] : [`*${name}`, ...changes, 'COMMIT'];
  });
  return `${lines.join('\n')}\n`;
}

function tableChanges(table: Table, wanted: ReadonlyMap<string, readonly Rule[]>): readonly string[] {
  const stale = [...table.keys()].filter((chain) => OURS.test(chain) && !wanted.has(chain));
  const kept = [...wanted.keys()].filter((chain) => OURS.test(chain));
  // Of a table that is not flushed as a whole, the chains declared here are.
  const changes = [...kept, ...stale].map((chain) => `:${chain} - [0:0]`);
  for (const chain of table.keys()) {
    if (OURS.test(chain)) continue;
    for (const line of ours(table, chain) ?? []) changes.push(line.replace('-A', '-D'));
  }
  for (const [chain, rules] of wanted) {
    for (const [i, rule] of rules.entries()) {
      const line = ruleLine(rule);
      changes.push(rule.first ? line.replace(`-A ${chain}`, `-I ${chain} ${i + 1}`) : line);
    }
  }
  changes.push(...stale.map((chain) => `-X ${chain}`));
  return changes;
}

const NO_RULES: ReadonlyMap<string, readonly Rule[]> = new Map();

function tableNames(wanted: readonly Rule[], tables: Tables): readonly string[] {
  return [...new Set([...(wanted.length > 0 ? [OUR_TABLE] : []), ...tables.keys()])];
}

/** Also a chain of ours that has no rule stands there: others lead to it. */
function byChain(wanted: readonly Rule[]): ReadonlyMap<string, readonly Rule[]> {
  const found = new Map<string, Rule[]>();
  if (wanted.length === 0) return found;
  for (const chain of ownChains) found.set(chain, []);
  for (const rule of wanted) {
    const rules = found.get(rule.chain);
    if (rules === undefined) found.set(rule.chain, [rule]);
    else rules.push(rule);
  }
  return found;
}

/** A chain's rules that are ours; undefined: the chain is not there, or is of others and leads to none of ours. */
function ours(table: Table, chain: string): readonly string[] | undefined {
  const rules = table.get(chain);
  if (rules === undefined || OURS.test(chain)) return rules;
  const named = [...table.keys()].some((name) => OURS.test(name));
  const found = rules.filter(
    (rule) => / -[jg] ISTIO_/.test(rule) || (named && BY_INTERFACE_ALONE.test(rule)),
  );
  return found.length === 0 ? undefined : found;
}

/** Any block: iptables-save leaves it out. */
const ANYWHERE = new Set(['-s 0.0.0.0/0', '-d 0.0.0.0/0', '-s ::/0', '-d ::/0']);
const PROTOCOLS = new Set(['-m tcp', '-m udp']);

/** The same text for the same rule, in whatever order its conditions stand. */
function canonical(line: string): string {
  const [, chain = '', ...words] = line.split(' ');
  const parts: string[] = [];
  for (const word of words) {
    const last = parts.at(-1);
    if (last !== undefined && (last === '!' || !word.startsWith('-')) && word !== '!') {
      parts[parts.length - 1] = `${last} ${word}`;
    } else parts.push(word);
  }
  return [chain, ...parts.filter((part) => !ANYWHERE.has(part) && !PROTOCOLS.has(part)).sort()].join(' ');
}
