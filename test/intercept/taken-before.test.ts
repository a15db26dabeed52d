/** Which rules of others may lead past the sidecar, by where they stand and what they are about. */
import t from 'tap';
import { parseSave } from '../../intercept/iptables-text.ts';
import { nftTakenBefore } from '../../intercept/nft-taken-before.ts';
import { defaultCapture } from '../../intercept/options.ts';
import { captureRules, rulesOf } from '../../intercept/rules.ts';
import { takenBefore } from '../../intercept/taken-before.ts';
import { Namespace, skipped } from './namespaces.ts';

const wanted = captureRules({ ...defaultCapture, excludeInboundPorts: [9999] });
const JUMPS: Readonly<Record<string, string>> = {
  PREROUTING: '-A PREROUTING -p tcp -j ISTIO_INBOUND',
  OUTPUT: '-A OUTPUT -j ISTIO_OUTPUT',
};

function save(table: string, lines: readonly string[]) {
  const chains = new Set(['PREROUTING', 'OUTPUT', ...lines.map((line) => line.split(' ')[1] ?? '')]);
  return parseSave([`*${table}`, ...[...chains].map((name) => `:${name} - [0:0]`), ...lines].join('\n'));
}

/** The chain's rule that is told; the lines behind it are of chains that it may lead to. */
const rows: readonly (readonly [takes: boolean, why: string, table: string, ...lines: string[]])[] = [
  [true, 'it ends the chain', 'nat', '-A PREROUTING -p tcp -j ACCEPT'],
  [true, 'it ends the chain', 'nat', '-A OUTPUT -j ACCEPT'],
  [true, 'it ends the chain', 'nat', '-A OUTPUT -m owner --uid-owner 7 -j RETURN'],
  [true, 'it translates', 'nat', '-A PREROUTING -p tcp -m tcp --dport 7000 -j REDIRECT --to-ports 7001'],
  [true, 'it translates', 'nat', '-A OUTPUT -d 10.0.0.1/32 -p tcp -j DNAT --to-destination 10.0.0.2'],
  [true, 'an exempt port of coming in', 'nat', '-A OUTPUT -p tcp -m tcp --dport 15020 -j ACCEPT'],
  [true, 'it leads to such a one', 'nat', '-A PREROUTING -j X', '-A X -j Y', '-A Y -p tcp -j ACCEPT'],
  [true, 'where that ends, this does', 'nat', '-A PREROUTING -g X', '-A X -p udp -j ACCEPT'],
  [true, 'all but loopback', 'nat', '-A OUTPUT ! -d 127.0.0.0/8 -j ACCEPT'],
  [true, 'all but UDP', 'nat', '-A PREROUTING ! -p udp -j ACCEPT'],
  [true, 'what is not tracked is not translated', 'raw', '-A PREROUTING -p tcp -j NOTRACK'],
  [true, 'likewise', 'raw', '-A OUTPUT -j X', '-A X -p tcp -j CT --notrack'],
  [true, 'it takes them before', 'mangle', '-A PREROUTING -p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0'],
  [false, 'that chain goes on here', 'nat', '-A PREROUTING -j X', '-A X -p tcp -j RETURN'],
  [
    false,
    "Docker's DNS",
    'nat',
    '-A OUTPUT -d 127.0.0.11/32 -j X',
    '-A X -p tcp -j DNAT --to-destination 127.0.0.11:3',
  ],
  [false, 'not TCP', 'nat', '-A PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353'],
  [false, 'not TCP', 'nat', '-A OUTPUT ! -p tcp -j ACCEPT'],
  [false, 'an exempt port', 'nat', '-A PREROUTING -p tcp -m tcp --dport 15020 -j ACCEPT'],
  [false, 'an excluded port', 'nat', '-A PREROUTING -p tcp -m tcp --dport 9999 -j REDIRECT --to-ports 1'],
  [false, 'from loopback', 'nat', '-A PREROUTING -i lo -j ACCEPT'],
  [false, 'it goes on', 'nat', '-A PREROUTING -p tcp -j MARK --set-xmark 0x1/0x1'],
  [false, 'nobody passes', 'nat', '-A PREROUTING -m comment --comment "see -j ACCEPT" -j LOG'],
  [false, 'a circle', 'nat', '-A PREROUTING -j X', '-A X -j X'],
  [false, 'a zone', 'raw', '-A PREROUTING -p tcp -j CT --zone 1'],
  [false, 'a mark', 'mangle', '-A PREROUTING -p tcp -j MARK --set-xmark 0x1/0x1'],
];

t.test('of iptables', async (t) => {
  for (const [takes, why, table, rule = '', ...further] of rows) {
    const chain = rule.split(' ')[1] ?? '';
    const jump = table === 'nat' ? [JUMPS[chain] ?? ''] : [];
    const told = takes ? [{ table, chain, kind: 'before' as const, rule }] : [];
    const ours = rulesOf(wanted, 4);
    t.same(takenBefore(ours, save(table, [rule, ...jump, ...further]), true), told, `${rule}: ${why}`);
    if (table !== 'nat') continue;
    t.same(takenBefore(ours, save(table, [...jump, rule, ...further]), true), [], `${rule}: behind ours`);
    t.same(takenBefore(ours, save(table, [rule, ...further]), true), told, `${rule}: ours will be behind it`);
    const translates = takes && /-j (DNAT|REDIRECT)/.test(rule);
    t.same(
      takenBefore(ours, save(table, [rule, ...further]), false),
      translates ? told : [],
      `${rule}: ours elsewhere`,
    );
  }
  const [takes] = rows;
  t.same(takenBefore([], save('nat', takes?.slice(3) as string[]), true), [], 'nothing is to be captured');
});

const nftRows: readonly (readonly [takes: boolean, head: string, rule: string])[] = [
  [true, 'type nat hook prerouting priority -100; policy accept;', 'tcp dport 7000 redirect to :7001'],
  [
    true,
    'type nat hook prerouting priority dstnat - 5; policy accept;',
    'ip daddr 10.0.0.1 dnat to 10.0.0.2',
  ],
  [true, 'type nat hook output priority -100; policy accept;', 'jump x'],
  [true, 'type nat hook output priority -100; policy accept;', 'tcp dport vmap { 80 : jump x }'],
  [true, 'type filter hook prerouting priority -300; policy accept;', 'meta l4proto 6 notrack'],
  [false, 'type nat hook prerouting priority 0; policy accept;', 'tcp dport 7000 redirect to :7001'],
  [false, 'type nat hook prerouting priority dstnat + 5; policy accept;', 'tcp dport 7000 redirect to :7001'],
  [false, 'type nat hook prerouting priority -100; policy accept;', 'meta l4proto 6 accept'],
  [false, 'type nat hook prerouting priority -100; policy accept;', 'udp dport 53 redirect to :7001'],
  [false, 'type nat hook prerouting priority -100; policy accept;', 'tcp dport 15020 redirect to :7001'],
  [false, 'type nat hook output priority -100; policy accept;', 'ip daddr 127.0.0.11 jump x'],
  [false, 'type nat hook postrouting priority 100; policy accept;', 'tcp dport 80 redirect to :7001'],
];

t.test('of nft', async (t) => {
  const ruleset = (table: string, head: string, rule: string): string =>
    `table ${table} {\n\tchain x {\n\t\ttcp dport 80 redirect to :1\n\t}\n\n\tchain c {\n\t\t${head}\n\t\t${rule}\n\t}\n}\n`;
  for (const [takes, head, rule] of nftRows) {
    const told = takes ? [{ table: 'inet other', chain: 'c', kind: 'before' as const, rule }] : [];
    t.same(nftTakenBefore(wanted, [4, 6], ruleset('inet other', head, rule), false), told, `${head} ${rule}`);
    t.same(nftTakenBefore(wanted, [4, 6], ruleset('inet istio-proxy-nat', head, rule), false), [], 'ours');
    t.same(nftTakenBefore(wanted, [4, 6], ruleset('ip nat', head, rule), false), [], "iptables's");
    t.equal(nftTakenBefore(wanted, [4, 6], ruleset('ip nat', head, rule), true).length, told.length);
    t.same(nftTakenBefore(wanted, [4], ruleset('ip6 other', head, rule), true), [], 'IPv4 alone');
  }
});

if (!skipped(t)) {
  t.test('the check says no, and whoever sets is warned', async (t) => {
    const past = (backend: string, where: string): RegExp =>
      new RegExp(
        `^(oarlock: )?${backend} ${where}: stands before ours, and may lead past the sidecar: .*\n$`,
      );
    const namespace = new Namespace(t);
    t.equal(namespace.oarlock(['--backend', 'iptables']).status, 0);
    for (const chain of ['PREROUTING', 'OUTPUT']) {
      namespace.must(`iptables-nft -t nat -I ${chain} -p tcp -j ACCEPT`);
      const told = past('iptables', `IPv4 nat ${chain}`);
      t.match(namespace.oarlock(['--check']), { status: 1, stdout: told }, chain);
      t.match(namespace.oarlock([]), { status: 0, stdout: /stood already/, stderr: told }, chain);
      namespace.must(`iptables-nft -t nat -D ${chain} -p tcp -j ACCEPT`);
      t.match(namespace.oarlock(['--check']), { status: 0 });
    }
    namespace.must('nft add table inet other');
    const head = 'type nat hook prerouting priority -110;';
    t.equal(namespace.run(['nft', `add chain inet other first { ${head} }`]).status, 0);
    namespace.must('nft add rule inet other first tcp dport 8080 redirect to :8081');
    t.match(namespace.oarlock(['--check']), { status: 1, stdout: past('nft', 'inet other first') });
  });
}
