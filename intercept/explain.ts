/** What the kernel's tools say when they fail, in our words: the cause in one line, and what to do. */

/** What is needed to change rules, wherever it is missing. */
export const NEEDS_NET_ADMIN =
  'the rules of capture need CAP_NET_ADMIN, and iptables-legacy CAP_NET_RAW too: run it as root; in Kubernetes as an init container with capabilities: { add: [NET_ADMIN, NET_RAW] }';

/** Pattern of a tool's words, and ours. */
const KNOWN: readonly (readonly [RegExp, string])[] = [
  [/you must be root|Operation not permitted|Permission denied/i, NEEDS_NET_ADMIN],
  [/xtables lock/i, 'another iptables holds its lock: try again'],
  [/lock file/i, 'there is no place for its lock: mount a writable /run'],
  [
    /Table does not exist|can't initialize ip6?tables table/i,
    'the kernel has no such table for this tool: load its module on the node (iptable_nat, ip6table_nat), or give another --backend',
  ],
  [
    /Could not fetch rule set generation id|cache initialization failed|Protocol not supported|Address family not supported/i,
    'the kernel has no nf_tables for this: load its module on the node (nf_tables, nft_chain_nat), or give --backend iptables-legacy',
  ],
];
/** What a rule needs beside its table: the words in the rule, the modules by make. */
const MODULES: readonly (readonly [RegExp, string])[] = [
  [/--[ug]id-owner|sk[ug]id/, 'xt_owner'],
  [/REDIRECT|redirect/, 'xt_REDIRECT'],
  [/--dport/, 'xt_tcpudp'],
];

/**
 * @param input what the tool was given: it names a line of it where it fails
 * @returns one line
 */
export function explain(tool: string, stderr: string, input: string): string {
  const said = stderr
    .replace(/^#.*$/gm, '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .join('; ');
  const line = lineAt(said, input);
  for (const [pattern, words] of KNOWN)
    if (pattern.test(said)) return `${tool}: ${words} (it says: ${bounded(said)})`;
  const module = MODULES.find(([pattern]) => line !== null && pattern.test(line))?.[1];
  const hint =
    module === undefined
      ? ''
      : `the kernel may lack the module ${module}: load it on the node, or give another --backend `;
  return `${tool}: ${hint}(it says: ${bounded(said)}${line === null ? '' : `, at: ${line}`})`;
}

/** `line 15: RULE_APPEND failed`, `iptables-restore: line 15 failed` → that line. */
function lineAt(said: string, input: string): string | null {
  const [, number] = /line:? (\d+)/i.exec(said) ?? [];
  return number === undefined ? null : (input.split('\n')[Number(number) - 1] ?? null);
}

function bounded(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
