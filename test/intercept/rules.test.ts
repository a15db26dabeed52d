/** The rules against those that Istio's own tool set, over a table of flags: istio-rules.json tells how it was made. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import t from 'tap';
import { addCaptureFlags, captureOptions } from '../../cli/iptables-flags.ts';
import { differences, parseSave, restoreScript, ruleLine } from '../../intercept/iptables-text.ts';
import { nftDifferences, nftScript, parseNft } from '../../intercept/nft-text.ts';
import type { CaptureOptions, Family } from '../../intercept/options.ts';
import { captureRules, rulesOf } from '../../intercept/rules.ts';

interface Recorded {
  readonly name: string;
  readonly flags: readonly string[];
  /** As `iptables-save`, `ip6tables-save` and `nft -s -nn list table` printed it. */
  readonly ipv4: readonly string[];
  readonly ipv6: readonly string[];
  readonly nft: readonly string[];
}

const recorded = (
  JSON.parse(readFileSync(join(import.meta.dirname, 'istio-rules.json'), 'utf8')) as {
    readonly sets: readonly Recorded[];
  }
).sets;

function optionsOf(flags: readonly string[]): CaptureOptions {
  const command = addCaptureFlags(new Command()).exitOverride();
  return captureOptions(command.parse(flags, { from: 'user' }).opts());
}

/** What a line says, whatever the order of its words; iptables-save leaves out what any packet is. */
function words(line: string): string {
  return line
    .replace(/ -m (tcp|udp)\b/, '')
    .replace(/ -d (0\.0\.0\.0|::)\/0/, '')
    .split(' ')
    .sort()
    .join(' ');
}

/** The lines of a chain in their order, by chain. */
function byChain(lines: readonly string[]): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const line of lines) {
    const chain = line.split(' ')[1] ?? '';
    found[chain] = [...(found[chain] ?? []), words(line)];
  }
  return found;
}

function saved(lines: readonly string[]) {
  const chains = ['ISTIO_INBOUND', 'ISTIO_REDIRECT', 'ISTIO_IN_REDIRECT', 'ISTIO_OUTPUT'];
  const declared = ['PREROUTING', 'OUTPUT', ...chains].map((chain) => `:${chain} - [0:0]`);
  return parseSave(['*nat', ...declared, ...lines, 'COMMIT'].join('\n'));
}

for (const { name, flags, ipv4, ipv6, nft } of recorded) {
  t.test(name, async (t) => {
    const rules = captureRules(optionsOf(flags));
    for (const [family, theirs] of [
      [4, ipv4],
      [6, ipv6],
    ] as const satisfies readonly (readonly [Family, readonly string[]])[]) {
      const ours = rulesOf(rules, family);
      t.same(byChain(ours.map(ruleLine)), byChain(theirs), `IPv${family}`);
      t.same(differences(ours, saved(theirs)), [], `IPv${family}: nothing differs from what stands`);
      t.equal(restoreScript(ours, saved(theirs)), null, `IPv${family}: so nothing is to be done`);
      for (const left of theirs) {
        const found = differences(ours, saved(theirs.filter((line) => line !== left)));
        t.match(found, [{ kind: 'missing', table: 'nat', chain: left.split(' ')[1] }], `without ${left}`);
      }
    }
    const table = new Map([['istio-proxy-nat', parseNft(nft.join('\n'))]]);
    t.same(nftDifferences(rules, [4, 6], table), [], 'nft');
    t.equal(nftScript(rules, [4, 6], table), null, 'nft: so nothing is to be done');
  });
}

t.test('whose rules differ is told apart', async (t) => {
  const [defaults, , , , ...others] = recorded;
  const rules = rulesOf(captureRules(optionsOf([])), 4);
  t.ok(defaults);
  for (const { name, ipv4, nft } of others) {
    t.not(restoreScript(rules, saved(ipv4)), null, name);
    const table = new Map([['istio-proxy-nat', parseNft(nft.join('\n'))]]);
    t.not(nftScript(captureRules(optionsOf([])), [4, 6], table), null, `nft: ${name}`);
  }
});
