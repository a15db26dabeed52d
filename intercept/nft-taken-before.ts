/** The same of rules in nft's own language: chains of others at the same place of the kernel, which may come first. */
import type { Difference } from './compare.ts';
import type { Family } from './options.ts';
import { chains, type Rule } from './rules.ts';
import { type Exempt, exemptPorts } from './taken-before.ts';

interface NftTable {
  readonly family: string;
  readonly name: string;
  readonly chains: Map<string, string[]>;
}

const FAMILIES: Readonly<Record<string, readonly Family[]>> = { ip: [4], ip6: [6], inet: [4, 6] };
/** Ours, which are compared with what is wanted; and those of iptables, which are read by its own tools. */
const OURS = /^inet istio-proxy-/;
const OF_IPTABLES = /^ip6? (?:nat|raw|mangle|filter|security)$/;
const HOOK = /^type (nat|filter|route) hook (prerouting|output) priority ([^;]+);/;
const PRIORITIES: Readonly<Record<string, number>> = { raw: -300, mangle: -150, dstnat: -100, filter: 0 };
/** Of destination NAT, where ours stand. */
const OUR_PRIORITY = -100;

/**
 * @param ruleset as `nft -s -nn list ruleset` prints it
 * @param seesIptables whether this is the only tool there is, so that it has to look into iptables' tables too
 */
export function nftTakenBefore(
  wanted: readonly Rule[],
  families: readonly Family[],
  ruleset: string,
  seesIptables: boolean,
): readonly Difference[] {
  const exempt = exemptPorts(wanted);
  return parseRuleset(ruleset).flatMap((table) => {
    const name = `${table.family} ${table.name}`;
    if (OURS.test(name) || (OF_IPTABLES.test(name) && !seesIptables)) return [];
    if (!FAMILIES[table.family]?.some((family) => families.includes(family))) return [];
    return [...table.chains].flatMap(([chain, [head = '', ...rules]]) => {
      const [, type, hook, priority = ''] = HOOK.exec(head) ?? [];
      if (hook === undefined || (type === 'nat' && priorityOf(priority) > OUR_PRIORITY)) return [];
      const pattern = type === 'nat' ? /\b(?:dnat|redirect)\b/i : /\b(?:notrack|tproxy)\b/i;
      const at = hook === 'output' ? chains.output : chains.prerouting;
      if (!wanted.some((rule) => rule.chain === at)) return [];
      return rules
        .filter((rule) => leadsTo(table, rule, at, exempt, pattern, new Set()))
        .map((rule): Difference => ({ table: name, chain, kind: 'before', rule }));
    });
  });
}

function parseRuleset(text: string): readonly NftTable[] {
  const found: NftTable[] = [];
  let chain: string[] | undefined;
  for (const line of text.split('\n').map((one) => one.trim())) {
    const [, family, name] = /^table (\S+) (\S+) \{$/.exec(line) ?? [];
    const [, chainName] = /^chain (\S+) \{$/.exec(line) ?? [];
    if (family !== undefined && name !== undefined) found.push({ family, name, chains: new Map() });
    else if (chainName !== undefined) {
      chain = [];
      found.at(-1)?.chains.set(chainName, chain);
    } else if (line === '}') chain = undefined;
    else if (line !== '') chain?.push(line);
  }
  return found;
}

/** `-100`, `dstnat`, `dstnat + 10`. */
function priorityOf(text: string): number {
  const [, name = '', by = '0'] = /^([a-z]+)((?: [+-] \d+)?)$/.exec(text) ?? [];
  if (name === '') return Number(text);
  // One that we do not know may be any.
  return (PRIORITIES[name] ?? OUR_PRIORITY) + Number(by.replaceAll(' ', '') || '0');
}

function leadsTo(
  table: NftTable,
  rule: string,
  hook: keyof Exempt,
  exempt: Exempt,
  pattern: RegExp,
  seen: Set<string>,
): boolean {
  const line = rule.replace(/comment "[^"]*"/g, '');
  if (passes(line, hook, exempt)) return false;
  if (pattern.test(line)) return true;
  // One `jump`, or a map of them.
  return [...line.matchAll(/\b(?:jump|goto) ([^\s,}]+)/g)].some(([, target = '']) => {
    if (seen.has(target)) return false;
    seen.add(target);
    return (table.chains.get(target) ?? []).some((next) => leadsTo(table, next, hook, exempt, pattern, seen));
  });
}

/** Whether a rule is about what is not captured anyhow. */
function passes(line: string, hook: keyof Exempt, exempt: Exempt): boolean {
  if (/\b(?:udp [sd]port|meta l4proto (?:17|udp)\b)/.test(line)) return true;
  const [, port] = /\btcp dport (\d+)(?=\s|$)/.exec(line) ?? [];
  if (port !== undefined && exempt[hook].has(Number(port))) return true;
  if (hook === chains.output) return /\b(?:ip daddr 127\.|ip6 daddr ::1\b)/.test(line);
  return /\biifname "lo"/.test(line);
}
