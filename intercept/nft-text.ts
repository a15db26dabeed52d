/** The rules in nft's own language, in Istio's table and chains (tools/istio-nftables): writing, reading, comparing. */
import { compareChain, type Difference, NO_TABLE, type Table, type Tables } from './compare.ts';
import type { Block, Family } from './options.ts';
import { type Chain, chains, ownChains, type Rule } from './rules.ts';

/** One table for both families. */
const OUR_TABLE = 'istio-proxy-nat';
/** Istio has more of them than we set: for TPROXY, for DNS. */
const OURS = /^istio-proxy-(nat|mangle|raw)$/;

const chainNames: Readonly<Record<Chain, string>> = {
  [chains.prerouting]: 'prerouting',
  [chains.output]: 'output',
  [chains.inbound]: 'istio-inbound',
  [chains.inboundRedirect]: 'istio-in-redirect',
  [chains.outbound]: 'istio-output',
  [chains.outboundRedirect]: 'istio-redirect',
};
/** What makes the kernel go through a chain: the place and order of destination NAT. */
const hooks: readonly (readonly [Chain, string])[] = [
  [chains.prerouting, 'type nat hook prerouting priority -100; policy accept;'],
  [chains.output, 'type nat hook output priority -100; policy accept;'],
];
const NUMBER_OF_TCP = '6';

/** A rule as nft takes and (with `-nn`) prints it. */
export function nftRule(rule: Rule): string {
  const words: string[] = [];
  if (rule.inInterface) words.push(`iifname "${rule.inInterface}"`);
  if (rule.outInterface) words.push(`oifname "${rule.outInterface}"`);
  if (rule.from) words.push(`${addressWord(rule.from)} saddr ${blockText(rule.from)}`);
  if (rule.to) words.push(`${addressWord(rule.to)} daddr ${blockText(rule.to)}`);
  if (rule.notTo) words.push(`${addressWord(rule.notTo)} daddr != ${blockText(rule.notTo)}`);
  if (rule.port) words.push(`${rule.protocol} dport ${rule.port}`);
  else if (rule.notPort) words.push(`${rule.protocol} dport != ${rule.notPort}`);
  else if (rule.protocol === 'tcp') words.push(`meta l4proto ${NUMBER_OF_TCP}`);
  if (rule.uid !== undefined) words.push(`meta skuid ${rule.uid}`);
  if (rule.notUid !== undefined) words.push(`meta skuid != ${rule.notUid}`);
  if (rule.gid !== undefined) words.push(`meta skgid ${rule.gid}`);
  if (rule.notGid !== undefined) words.push(`meta skgid != ${rule.notGid}`);
  words.push('counter', targetText(rule.target));
  return words.join(' ');
}

function targetText(target: Rule['target']): string {
  if (typeof target === 'number') return `redirect to :${target}`;
  return target === 'RETURN' ? 'return' : `jump ${chainNames[target]}`;
}

function addressWord({ family }: Block): string {
  return family === 4 ? 'ip' : 'ip6';
}

function blockText({ family, address, bits }: Block): string {
  return bits === (family === 4 ? 32 : 128) ? address : `${address}/${bits}`;
}

/** The lines of each chain, by name; none for no rules. */
function wantedChains(
  wanted: readonly Rule[],
  families: readonly Family[],
): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  if (wanted.length === 0) return found;
  // The table sees both families: the one that is not to be captured leaves at once.
  const others = ([4, 6] as const).filter((family) => !families.includes(family));
  for (const [chain, hook] of hooks) {
    if (!wanted.some((rule) => rule.chain === chain)) continue;
    found.set(chainNames[chain], [
      hook,
      ...others.map((family) => `meta nfproto ${family === 4 ? 2 : 10} counter return`),
    ]);
  }
  for (const chain of ownChains) found.set(chainNames[chain], []);
  for (const rule of wanted) {
    if (rule.family === undefined || families.includes(rule.family)) {
      found.get(chainNames[rule.chain])?.push(nftRule(rule));
    }
  }
  return found;
}

/** Those of ours among what `nft list tables` printed. */
export function nftTables(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => /^table inet (\S+)$/.exec(line.trim())?.[1] ?? '')
    .filter((name) => OURS.test(name));
}

/** Reads one table as `nft -s -nn list table` prints it. */
export function parseNft(text: string): Table {
  const found = new Map<string, string[]>();
  let chain: string[] | undefined;
  for (const line of text.split('\n').map((one) => one.trim())) {
    const [, name] = /^chain (\S+) \{$/.exec(line) ?? [];
    if (name !== undefined) {
      chain = [];
      found.set(name, chain);
    } else if (line === '}') chain = undefined;
    else if (line !== '') chain?.push(line);
  }
  return found;
}

/** As `differences` of iptables: what of our tables is not as wanted. */
export function nftDifferences(
  wanted: readonly Rule[],
  families: readonly Family[],
  tables: Tables,
): readonly Difference[] {
  return tableNames(wanted, tables).flatMap((table) => {
    const want = table === OUR_TABLE ? wantedChains(wanted, families) : NO_TABLE;
    const have = tables.get(table) ?? NO_TABLE;
    if (want.size === 0) return [{ table, chain: '', kind: 'foreign', rule: `table inet ${table}` }];
    const names = new Set([...want.keys(), ...have.keys()]);
    return [...names].flatMap((chain) =>
      compareChain({ table, chain, canonical }, want.get(chain), have.get(chain)),
    );
  });
}

/**
 * The input of `nft -f -` that puts exactly these rules in place of what is there, in one transaction.
 * @returns null: there is nothing to change
 */
export function nftScript(
  wanted: readonly Rule[],
  families: readonly Family[],
  tables: Tables,
): string | null {
  if (nftDifferences(wanted, families, tables).length === 0) return null;
  const names = tableNames(wanted, tables);
  const lines = names.flatMap((table) => {
    // Adding first what may be there makes deleting it right either way.
    return [`add table inet ${table}`, `delete table inet ${table}`];
  });
  if (wanted.length > 0) {
    lines.push(`table inet ${OUR_TABLE} {`);
    for (const [chain, rules] of wantedChains(wanted, families)) {
      lines.push(`\tchain ${chain} {`, ...rules.map((rule) => `\t\t${rule}`), '\t}');
    }
    lines.push('}');
  }
  return `${lines.join('\n')}\n`;
}

function tableNames(wanted: readonly Rule[], tables: Tables): readonly string[] {
  return [...new Set([...(wanted.length > 0 ? [OUR_TABLE] : []), ...tables.keys()])];
}

/** Versions of nft differ in these. */
function canonical(line: string): string {
  return line
    .replace(/counter packets \d+ bytes \d+/, 'counter')
    .replace(/\b(meta )?(sk[ug]id)\b/, 'meta $2')
    .replace('l4proto tcp', `l4proto ${NUMBER_OF_TCP}`)
    .replace('priority dstnat', 'priority -100');
}
