/** What the kernel's tools say when they fail, in our words: the cause in one line, and what to do. */

/** What is needed to change rules, wherever it is missing. */
export const NEEDS_NET_ADMIN =
  'the rules of capture need CAP_NET_ADMIN, and iptables-legacy CAP_NET_RAW too: run it as root; in Kubernetes as an init container with capabilities: { add: [NET_ADMIN, NET_RAW] }';

/** What they say where the kernel has no such table at all. */
const NO_TABLE =
  /Table does not exist|initialize (?:ip6?tables )?table|generation id: (?!Permission)|Protocol not supported|Address family not supported/i;

/** Pattern of a tool's words, and ours. */
const KNOWN: readonly (readonly [RegExp, string])[] = [
  [/you must be root|Operation not permitted|Permission denied/i, NEEDS_NET_ADMIN],
  [/xtables lock/i, 'another iptables holds its lock: try again'],
  [
    /is incompatible, use 'nft' tool/i,
    'somebody set rules in that table by nft that iptables cannot read: give --backend nft',
  ],
  [/lock file/i, 'there is no place for its lock: mount a writable /run'],
  [
    NO_TABLE,
    'the kernel lacks the table: load its modules on the node (nf_tables and nft_chain_nat; for iptables-legacy iptable_nat and ip6table_nat), or give another --backend',
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

/** Whether it failed because the kernel has no such table. */
export function lacksTable(stderr: string): boolean {
  return NO_TABLE.test(stderr);
}

/** `line 15: RULE_APPEND failed`, `iptables-restore: line 15 failed` → that line. */
function lineAt(said: string, input: string): string | null {
  const [, number] = /(?:line:? |stdin:)(\d+)/i.exec(said) ?? [];
  return number === undefined ? null : (input.split('\n')[Number(number) - 1] ?? null);
}

function bounded(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
