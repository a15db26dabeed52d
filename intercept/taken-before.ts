/** Rules of others that packets meet before ours and that take them: past the sidecar, whatever ours say. */
import type { Difference, Table, Tables } from './compare.ts';
import { chains, type Rule } from './rules.ts';

type Hook = typeof chains.prerouting | typeof chains.output;
const HOOKS: readonly Hook[] = [chains.prerouting, chains.output];

/** Targets that decide where a connection goes. The kernel asks nobody else of that after them. */
const TRANSLATES: ReadonlySet<string> = new Set(['DNAT', 'REDIRECT', 'NETMAP']);
/** Before the tables of translation a packet can be led away from them. */
const LEADS_AWAY: readonly (readonly [table: string, hooks: readonly Hook[], pattern: RegExp])[] = [
  ['raw', HOOKS, / -j (?:NOTRACK\b|CT .*--notrack\b)/],
  ['mangle', [chains.prerouting], / -j TPROXY\b/],
];
const LED_TO_OURS = / -[jg] ISTIO_/;

/** What is no loss in a hook: ports that our own rules leave alone too. */
export type Exempt = Readonly<Record<Hook, ReadonlySet<number>>>;

export function exemptPorts(wanted: readonly Rule[]): Exempt {
  const of = (chain: string): ReadonlySet<number> =>
    new Set(
      wanted.flatMap((rule) =>
        rule.chain === chain && rule.protocol === 'tcp' && rule.port !== undefined && rule.target === 'RETURN'
          ? [rule.port]
          : [],
      ),
    );
  return { PREROUTING: of(chains.inbound), OUTPUT: of(chains.outbound) };
}

/**
 * In the language of iptables-save.
 * @param wanted all rules of ours, wherever they stand
 * @param here whether ours stand in these tables: then a rule that merely ends the chain before them counts too. Of
 * other places of the same order, where the kernel may look before or after, only those that translate do.
 */
export function takenBefore(wanted: readonly Rule[], tables: Tables, here: boolean): readonly Difference[] {
  const exempt = exemptPorts(wanted);
  const found: Difference[] = [];
  for (const hook of HOOKS) {
    if (!wanted.some(({ chain }) => chain === hook)) continue;
    const nat = tables.get('nat');
    for (const rule of beforeOurs(nat?.get(hook) ?? [], here)) {
      if (nat !== undefined && takes(nat, rule, hook, exempt, here))
        found.push({ table: 'nat', chain: hook, kind: 'before', rule });
    }
    for (const [table, hooks, pattern] of LEADS_AWAY) {
      const others = tables.get(table);
      if (others === undefined || !hooks.includes(hook)) continue;
      for (const rule of others.get(hook) ?? []) {
        const led = leadsTo(others, rule, hook, exempt, (line) => pattern.test(line), new Set());
        if (led) found.push({ table, chain: hook, kind: 'before', rule });
      }
    }
  }
  return found;
}

/** Where ours are not there yet, they come behind all others. */
function beforeOurs(lines: readonly string[], here: boolean): readonly string[] {
  const last = here ? lines.findLastIndex((line) => LED_TO_OURS.test(bare(line))) : -1;
  // By interface alone: compared with what is wanted, as ours.
  return (last === -1 ? lines : lines.slice(0, last)).filter(
    (line) => !LED_TO_OURS.test(bare(line)) && !(here && /^-A \S+ -[io] \S+ -j RETURN$/.test(line)),
  );
}

function takes(table: Table, rule: string, hook: Hook, exempt: Exempt, here: boolean): boolean {
  const [, how, target = ''] = targetOf(rule);
  // Where the chain that is gone to ends, so does this one.
  const ends = here && (target === 'ACCEPT' || target === 'RETURN' || how === 'g');
  if (ends) return !passes(rule, hook, exempt);
  const taking = (line: string): boolean => {
    const [, , to = ''] = targetOf(line);
    return TRANSLATES.has(to) || (here && to === 'ACCEPT');
  };
  return leadsTo(table, rule, hook, exempt, taking, new Set());
}

/** Whether a rule, or one of those of the chain that it leads to, is such a one. */
function leadsTo(
  table: Table,
  rule: string,
  hook: Hook,
  exempt: Exempt,
  taking: (line: string) => boolean,
  seen: Set<string>,
): boolean {
  const line = bare(rule);
  if (passes(line, hook, exempt)) return false;
  if (taking(line)) return true;
  const [, , target = ''] = targetOf(line);
  if (seen.has(target)) return false;
  seen.add(target);
  return (table.get(target) ?? []).some((next) => leadsTo(table, next, hook, exempt, taking, seen));
}

/** Whether a rule is about what is not captured anyhow: another protocol, loopback, an exempt port. */
function passes(rule: string, hook: Hook, exempt: Exempt): boolean {
  const line = bare(rule);
  const [, not, protocol] = /(! )?-p (\S+)/.exec(line) ?? [];
  if (protocol !== undefined && (protocol === 'tcp') === (not !== undefined)) return true;
  const [, port] = /(?<!! )--dport (\d+)(?!\S)/.exec(line) ?? [];
  if (port !== undefined && exempt[hook].has(Number(port))) return true;
  // Docker's own DNS is such a one.
  if (hook === chains.output) return /(?<!! )-d (?:127\.|::1\/128)/.test(line);
  return /(?<!! )-i lo(?!\S)/.test(line);
}

function targetOf(line: string): readonly (string | undefined)[] {
  return / -([jg]) (\S+)/.exec(bare(line)) ?? [];
}

/** Without what people say in it. */
function bare(line: string): string {
  return line.replace(/"(?:[^"\\]|\\.)*"/g, '""');
}
