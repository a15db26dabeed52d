/** Setting, checking and removing the rules of capture, in network namespaces, with each backend. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Namespace, skipped } from './namespaces.ts';

/** What each backend's own tool shows of the rules; `numbered`: with what changes when a rule is set anew. */
const shown: Readonly<Record<string, readonly (readonly string[])[]>> = {
  iptables: [
    ['iptables-nft-save', '-t', 'nat'],
    ['ip6tables-nft-save', '-t', 'nat'],
  ],
  'iptables-legacy': [
    ['iptables-legacy-save', '-t', 'nat'],
    ['ip6tables-legacy-save', '-t', 'nat'],
  ],
  nft: [['nft', '-s', 'list', 'ruleset', 'inet']],
};
const backends = Object.keys(shown);

/** All rules of a namespace by one backend, without what changes by itself. */
function rulesIn(namespace: Namespace, backend: string): readonly string[] {
  return (shown[backend] ?? []).flatMap((command) =>
    namespace
      .run(command)
      .stdout.split('\n')
      .filter((line) => !line.startsWith('#') && line !== '')
      .map((line) => line.replace(/\[\d+:\d+\]/, '')),
  );
}

function tellsOurs(line: string): boolean {
  return /istio/i.test(line);
}

const OTHER_FLAGS = [
  '--exclude-interfaces',
  'net1',
  '--kubevirt-interfaces',
  'k6t',
  '--include-outbound-cidrs',
  '10.0.0.0/8',
];

interface Recorded {
  readonly name: string;
  readonly flags: readonly string[];
  readonly ipv4: readonly string[];
  readonly ipv6: readonly string[];
  readonly nft: readonly string[];
}

/** Those that rules.test.ts compares as text are set for real here: any kind of rule is among them. */
const SET_FOR_REAL = [
  'the defaults',
  'virtual machines and blocks',
  'a block with host bits, and all of IPv4',
  'other users and groups',
];

if (!skipped(t)) {
  const { sets } = JSON.parse(readFileSync(join(import.meta.dirname, 'istio-rules.json'), 'utf8')) as {
    readonly sets: readonly Recorded[];
  };

  for (const backend of backends) {
    t.test(`${backend}: set, set again, otherwise, and removed`, async (t) => {
      const namespace = new Namespace(t);
      const before = rulesIn(namespace, backend).filter(tellsOurs);
      t.same(before, []);
      const set = ['--backend', backend];

      t.match(namespace.oarlock([...set, '--check']), { status: 1, stderr: '' }, 'nothing stands');
      t.match(namespace.oarlock(set), {
        status: 0,
        stdout: `The rules of capture are set (${backend}).\n`,
        stderr: '',
      });
      const standing = rulesIn(namespace, backend);
      t.match(namespace.must('ip -6 address show dev lo'), /inet6 ::6\/128/);
      t.match(namespace.oarlock(['--check']), { status: 0, stderr: '' }, 'found by itself');
      t.match(namespace.oarlock([]), { status: 0, stdout: /stood already/ }, 'found by itself');
      t.same(rulesIn(namespace, backend), standing);

      t.match(namespace.oarlock(OTHER_FLAGS), {
        status: 0,
        stdout: `The rules of capture are set (${backend}).\n`,
      });
      t.match(namespace.oarlock([...OTHER_FLAGS, '--check']), { status: 0 });
      t.not(rulesIn(namespace, backend).join('\n'), standing.join('\n'));
      t.match(namespace.oarlock(['--check']), { status: 1, stdout: /net1/ }, 'what is too much is told');
      t.match(namespace.oarlock([]), { status: 0 });
      t.same(rulesIn(namespace, backend), standing, 'nothing of the other flags is left');

      t.match(namespace.oarlock(['--clean']), { status: 0, stdout: 'The rules of capture are removed.\n' });
      t.same(rulesIn(namespace, backend).filter(tellsOurs), []);
      t.notMatch(namespace.must('ip -6 address show dev lo'), /inet6 ::6\/128/);
      t.match(namespace.oarlock(['--clean']), { status: 0, stdout: 'There are no rules of capture.\n' });
    });
  }

  for (const { name, flags, ipv4, ipv6, nft } of sets.filter((one) => SET_FOR_REAL.includes(one.name))) {
    t.test(`as Istio's tool sets it: ${name}`, async (t) => {
      const namespace = new Namespace(t);
      t.match(namespace.oarlock(['--backend', 'iptables', ...flags]), { status: 0 });
      const rules = (command: string) =>
        namespace
          .must(`${command} -t nat`)
          .split('\n')
          .filter((line) => line.startsWith('-A '))
          .sort();
      t.same(rules('iptables-nft-save'), ipv4.toSorted());
      t.same(rules('ip6tables-nft-save'), ipv6.toSorted());
      t.match(namespace.oarlock(['--backend', 'nft', ...flags]), { status: 0 });
      const lines = namespace
        .must('nft -s -nn list table inet istio-proxy-nat')
        .split('\n')
        .map((line) => line.trim());
      t.same(lines.filter((line) => line !== '').sort(), nft.toSorted());
      t.same(rules('iptables-nft-save'), [], 'which leaves none of the former');
    });
  }
}
