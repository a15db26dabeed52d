/** The command where something else is there or something is missing: others' rules, privileges, tools, IPv6. */
import { copyFileSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Namespace, skipped, wiredPods } from './namespaces.ts';

const BACKENDS = ['iptables', 'iptables-legacy', 'nft'];
/** As the init container has them, and without. */
const AS_INIT_CONTAINER = [
  'setpriv',
  '--bounding-set=-all,+net_admin,+net_raw',
  '--inh-caps=-all',
  '--no-new-privs',
];
const WITHOUT_RAW = ['setpriv', '--bounding-set=-all,+net_admin', '--inh-caps=-all'];
const WITHOUT_ANY = [
  'setpriv',
  '--reuid=1000',
  '--regid=1000',
  '--clear-groups',
  '--bounding-set=-all',
  '--inh-caps=-all',
];
const IPTABLES_NFT = [
  'xtables-nft-multi',
  ...['iptables', 'ip6tables'].flatMap((tool) =>
    ['save', 'restore'].map((action) => `${tool}-nft-${action} -> xtables-nft-multi`),
  ),
];

/** What puts a folder with these tools alone in the place of all the others, for the command behind it. */
function withTools(t: Test, names: readonly string[]): readonly string[] {
  const folder = mkdtempSync(join(tmpdir(), 'oarlock-sbin-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  for (const name of names) {
    const [link = '', target] = name.split(' -> ');
    if (target === undefined) copyFileSync(join('/usr/sbin', name), join(folder, link));
    else symlinkSync(target, join(folder, link));
  }
  return ['unshare', '--mount', 'sh', '-c', `mount --bind ${folder} /usr/sbin && exec "$@"`, 'sh'];
}

function saved(namespace: Namespace, command = 'iptables-nft-save'): readonly string[] {
  return namespace
    .must(command)
    .split('\n')
    .filter((line) => line.startsWith('-A ') || line.startsWith('*'));
}

if (!skipped(t)) {
  t.test('running it again touches nothing, and no run breaks a live connection', async (t) => {
    const { pod, wires } = await wiredPods(t);
    const to = wires[0]?.other.ipv4 ?? '';
    for (const backend of BACKENDS) {
      t.equal(pod.oarlock(['--backend', backend]).status, 0);
      const held = pod.hold(t, 1000, to, 8080);
      t.equal(await held.end(), `pod 15001 for ${to} 8080`);
      // Each rule and chain has a number that it keeps as long as it lives.
      const before = pod.must('nft -s -a list ruleset');
      t.equal(pod.oarlock(['--backend', backend]).status, 0);
      t.equal(pod.must('nft -s -a list ruleset'), before, backend);
      t.equal(await held.echo('same rules'), 'same rules');
      t.equal(pod.oarlock(['--backend', backend, '--exclude-outbound-ports', '8080']).status, 0);
      t.equal(await held.echo('other rules'), 'other rules');
      // Without any rule the kernel tracks no connection any more: live ones that were redirected end.
      t.equal(pod.oarlock(['--clean']).status, 0);
    }
  });

  for (const [make, backend] of [
    ['nft', 'iptables'],
    ['legacy', 'iptables-legacy'],
  ] as const) {
    t.test(`${backend}: rules of others stay where they are`, async (t) => {
      const namespace = new Namespace(t);
      const others = [
        '*filter',
        '-A INPUT -p tcp -m tcp --dport 7777 -m comment --comment "a comment with -j ISTIO in it" -j DROP',
        '*nat',
        '-A PREROUTING -p tcp -m tcp --dport 7000 -j REDIRECT --to-ports 7001',
        '-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT',
        '-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:34567',
      ];
      const script = [
        ...others.slice(0, 2),
        'COMMIT',
        '*nat',
        ':DOCKER_OUTPUT - [0:0]',
        ...others.slice(3),
        'COMMIT',
        '',
      ];
      t.equal(namespace.run([`iptables-${make}-restore`, '--noflush'], script.join('\n')).status, 0);
      const save = `iptables-${make}-save`;
      const before = saved(namespace, save);
      t.same(before.toSorted(), others.toSorted());
      t.match(namespace.oarlock([]), { status: 0, stdout: `The rules of capture are set (${backend}).\n` });
      t.same(
        saved(namespace, save).filter((line) => !line.includes('ISTIO_')),
        before,
      );
      // Docker's own is no way past the sidecar.
      t.match(namespace.oarlock(['--check']), {
        status: 1,
        stdout: `${backend} IPv4 nat PREROUTING: stands before ours, and may lead past the sidecar: ${others[3]}\n`,
      });
      t.match(namespace.oarlock(['--clean']), { status: 0 });
      t.same(saved(namespace, save), before);
    });

    t.test(`${backend}: what drifted is told, line by line, and mended`, async (t) => {
      const namespace = new Namespace(t);
      const tool = `iptables-${make}`;
      t.equal(namespace.oarlock(['--backend', backend]).status, 0);
      const rules = () => saved(namespace, `${tool}-save`).filter((line) => line !== '*mangle');
      const good = rules();
      const drifts: readonly (readonly [change: string, told: string])[] = [
        [
          `-t nat -D ISTIO_INBOUND -p tcp --dport 22 -j RETURN`,
          'nat ISTIO_INBOUND: missing: -A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN',
        ],
        [
          `-t nat -A ISTIO_OUTPUT -d 10.1.1.1 -j RETURN`,
          'nat ISTIO_OUTPUT: foreign: -A ISTIO_OUTPUT -d 10.1.1.1/32 -j RETURN',
        ],
        [
          `-t nat -D PREROUTING -p tcp -j ISTIO_INBOUND`,
          'nat PREROUTING: missing: -A PREROUTING -p tcp -j ISTIO_INBOUND',
        ],
        [`-t nat -A OUTPUT -j ISTIO_OUTPUT`, 'nat OUTPUT: foreign: -A OUTPUT -j ISTIO_OUTPUT'],
        [`-t nat -N ISTIO_OUTPUT_DNS`, 'nat ISTIO_OUTPUT_DNS: foreign: the chain ISTIO_OUTPUT_DNS'],
        [`-t mangle -N ISTIO_DIVERT`, 'mangle ISTIO_DIVERT: foreign: the chain ISTIO_DIVERT'],
      ];
      for (const [change] of drifts) namespace.must(`${tool} ${change}`);
      const { status, stdout: lines } = namespace.oarlock(['--check']);
      t.equal(status, 1);
      t.same(
        lines.trimEnd().split('\n').toSorted(),
        drifts.map(([, told]) => `${backend} IPv4 ${told}`).toSorted(),
      );
      t.match(namespace.oarlock([]), { status: 0, stdout: /are set/ });
      t.same(rules(), good, 'mended');
      const order = [
        '-t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT',
        '-t nat -I ISTIO_OUTPUT 1 -j ISTIO_REDIRECT',
      ];
      for (const change of order) namespace.must(`${tool} ${change}`);
      t.match(namespace.oarlock(['--check']), {
        status: 1,
        stdout: /^\S+ IPv4 nat ISTIO_OUTPUT: out of order, /,
      });
      namespace.must(`${tool} -t nat -F`);
      const { stdout } = namespace.oarlock(['--check', '-o', 'json']);
      const { ok, findings } = JSON.parse(stdout) as {
        ok: boolean;
        findings: readonly { kind: string; family: number }[];
      };
      t.equal(ok, false);
      t.equal(findings.length, good.length - 1, 'as many as there are rules');
      t.ok(findings.every(({ kind, family }) => kind === 'missing' && family === 4));
      t.match(namespace.oarlock([]), { status: 0 });
      t.same(rules(), good);
    });
  }

  t.test('the chains that Istio has for DNS and TPROXY go too', async (t) => {
    const namespace = new Namespace(t);
    const chains = (table: string, ...rules: string[]) => [
      `*${table}`,
      ':ISTIO_OUTPUT_DNS - [0:0]',
      ':ISTIO_INBOUND - [0:0]',
      ...rules,
      'COMMIT',
    ];
    const script = [
      ...chains(
        'nat',
        '-A OUTPUT -j ISTIO_OUTPUT_DNS',
        '-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053',
        '-A PREROUTING -i eth1 -j RETURN',
      ),
      ...chains(
        'raw',
        '-A OUTPUT -j ISTIO_OUTPUT_DNS',
        '-A PREROUTING -j ISTIO_INBOUND',
        '-A ISTIO_INBOUND -p udp -m udp --sport 53 -j CT --zone 1',
      ),
      ...chains(
        'mangle',
        '-A PREROUTING -p tcp -j ISTIO_INBOUND',
        '-A ISTIO_INBOUND -p tcp -j MARK --set-xmark 0x539/0xffffffff',
      ),
      '',
    ].join('\n');
    const fresh = new Namespace(t);
    t.equal(fresh.oarlock(['--backend', 'iptables']).status, 0);
    t.equal(namespace.run(['iptables-nft-restore', '--noflush'], script).status, 0);
    t.match(namespace.oarlock([]), { status: 0, stdout: /are set/ });
    const rules = (one: Namespace) =>
      saved(one)
        .filter((line) => line.startsWith('-A '))
        .toSorted();
    t.same(rules(namespace), rules(fresh));
    t.equal(namespace.run(['iptables-nft-restore', '--noflush'], script).status, 0);
    t.match(namespace.oarlock(['--clean']), { status: 0 });
    t.notMatch(namespace.must('iptables-nft-save'), /ISTIO|eth1/);
  });

  t.test('rules move from one backend to another, and none stays behind', async (t) => {
    const namespace = new Namespace(t);
    for (const backend of ['iptables', 'nft', 'iptables-legacy', 'iptables']) {
      t.match(namespace.oarlock(['--backend', backend]), { status: 0 });
      t.match(namespace.oarlock(['--check']), {
        status: 0,
        stdout: `The rules of capture stand (${backend}).\n`,
      });
    }
  });

  t.test('as the init container runs it: with two capabilities, on a read-only file system', async (t) => {
    for (const backend of BACKENDS) {
      const namespace = new Namespace(t);
      const readOnly = [
        'unshare',
        '--mount',
        'sh',
        '-c',
        'mount -t tmpfs -o ro none /run && exec "$@"',
        'sh',
      ];
      const before = [...readOnly, ...AS_INIT_CONTAINER];
      t.match(namespace.oarlock(['--backend', backend], before), { status: 0, stderr: '' }, backend);
      t.match(namespace.oarlock(['--check'], before), { status: 0, stderr: '' }, backend);
    }
  });

  t.test('without a capability it says so, and a dry run needs none', async (t) => {
    const namespace = new Namespace(t);
    const needs = /^oarlock: the rules of capture need CAP_NET_ADMIN.*\n$/;
    for (const flags of [[], ['--check'], ['--clean'], ['--backend', 'nft']]) {
      t.match(
        namespace.oarlock(flags, WITHOUT_ANY),
        { status: 2, stdout: '', stderr: needs },
        flags.join(' '),
      );
    }
    t.match(namespace.oarlock(['--backend', 'iptables-legacy'], WITHOUT_RAW), { status: 2, stderr: needs });
    t.match(namespace.oarlock(['--backend', 'iptables'], WITHOUT_RAW), { status: 0 });
    t.equal(namespace.oarlock(['--clean']).status, 0);
    for (const backend of BACKENDS) {
      const { status, stdout } = namespace.oarlock(['--backend', backend, '--dry-run'], WITHOUT_ANY);
      t.equal(status, 0);
      // What is printed is what is fed: to a shell's eye, comments name the commands.
      for (const part of stdout.split(/^# /m).filter((one) => one !== '')) {
        const [command = '', ...lines] = part.split('\n');
        t.match(namespace.run(command.split(' '), lines.join('\n')), { status: 0 }, command);
      }
      t.match(namespace.oarlock(['--backend', backend, '--check']), { status: 0 }, backend);
      t.match(namespace.oarlock(['--dry-run']), {
        status: 0,
        stdout: '',
        stderr: 'oarlock: there is nothing to change\n',
      });
      t.equal(namespace.oarlock(['--clean']).status, 0);
    }
  });

  t.test('without tools it says which are missing', async (t) => {
    const namespace = new Namespace(t);
    t.match(namespace.oarlock([], withTools(t, [])), {
      status: 2,
      stderr: /^oarlock: neither iptables nor nft is installed; install .*\n$/,
    });
    t.match(namespace.oarlock(['--backend', 'iptables-legacy'], withTools(t, IPTABLES_NFT)), {
      status: 2,
      stderr: /^oarlock: --backend iptables-legacy: its tools are not installed; .*\n$/,
    });
    t.match(namespace.oarlock([], withTools(t, ['nft'])), {
      status: 0,
      stdout: 'The rules of capture are set (nft).\n',
    });
  });

  t.test('legacy rules beside tools that cannot see them are told of', async (t) => {
    const namespace = new Namespace(t);
    namespace.must('iptables-legacy -t nat -N FOREIGN');
    const { status, stderr } = namespace.oarlock([], withTools(t, IPTABLES_NFT));
    t.equal(status, 0);
    t.match(stderr, /^oarlock: this network namespace has tables of iptables-legacy, .*\n$/);
  });

  t.test('without IPv6', async (t) => {
    const four = IPTABLES_NFT.filter((tool) => !tool.startsWith('ip6'));
    const lacking = new Namespace(t);
    const warning = /^oarlock: IPv4 alone is captured: ip6tables-nft-save is not installed\n$/;
    t.match(lacking.oarlock([], withTools(t, four)), { status: 0, stderr: warning }, 'no ip6tables');
    t.match(lacking.oarlock(['--check'], withTools(t, four)), { status: 0, stderr: warning });
    t.notMatch(lacking.must('ip6tables-nft-save'), /ISTIO/);
    t.match(lacking.oarlock(['--ipv6', 'on'], withTools(t, four)), {
      status: 2,
      stderr: 'oarlock: --ipv6 on: ip6tables-nft-save is not installed\n',
    });

    const reachable = new Namespace(t);
    reachable.must('ip link add eth0 type veth peer name eth1');
    reachable.must('sysctl -q -w net.ipv6.conf.eth1.disable_ipv6=1');
    reachable.must('ip link set eth1 up');
    reachable.must('ip link set eth0 up');
    const past =
      /^oarlock: IPv6 cannot be captured, .*: eth0 .*--ipv6 off.*ip6tables-nft-save is not installed\n$/;
    for (const flags of [[], ['--check']]) {
      t.match(reachable.oarlock(flags, withTools(t, four)), { status: 2, stdout: '', stderr: past });
    }
    t.match(reachable.oarlock(['--ipv6', 'off'], withTools(t, four)), { status: 0, stderr: '' }, 'accepted');
    reachable.must('sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1');
    t.match(reachable.oarlock([], withTools(t, four)), { status: 0, stderr: warning }, 'disabled there');
    reachable.must('ip -6 address add fd00::9/128 dev lo');
    t.match(
      reachable.oarlock([], withTools(t, four)),
      { status: 2, stderr: /: lo has the address fd00:0000:/ },
      'an address of the pod on lo',
    );

    const disabled = new Namespace(t);
    disabled.must('sysctl -q -w net.ipv6.conf.all.disable_ipv6=1');
    disabled.must('sysctl -q -w net.ipv6.conf.lo.disable_ipv6=1');
    t.match(disabled.oarlock([]), { status: 0, stderr: /^oarlock: IPv6 is disabled by sysctl, .*\n$/ });
    t.match(disabled.oarlock(['--check']), { status: 0 });

    for (const backend of ['iptables', 'nft']) {
      const off = new Namespace(t);
      t.match(off.oarlock(['--backend', backend]), { status: 0 });
      t.match(off.oarlock(['--ipv6', 'off']), { status: 0, stdout: /are set/ }, backend);
      t.match(off.oarlock(['--ipv6', 'off', '--check']), { status: 0 });
      t.notMatch(off.must('ip6tables-nft-save') + off.must('ip6tables-legacy-save'), /ISTIO/);
      t.notMatch(off.must('ip -6 address show dev lo'), /::6\/128/);
      t.match(off.oarlock(['--check']), { status: 1, stdout: /::6\/128/ });
    }
  });

  t.test('runs at the same time do not disturb one another', async (t) => {
    for (const backend of BACKENDS) {
      const namespace = new Namespace(t);
      const runs = Array.from({ length: 3 }, () => namespace.oarlockBeside(['--backend', backend]));
      t.same(await Promise.all(runs), [0, 0, 0], backend);
      t.match(namespace.oarlock(['--check']), { status: 0 }, backend);
    }
  });

  t.test('an address that is there already is fine', async (t) => {
    const namespace = new Namespace(t);
    namespace.must('ip -6 address add ::6/128 dev lo');
    t.match(namespace.oarlock([]), { status: 0, stderr: '' });
    t.match(namespace.oarlock(['--check']), { status: 0 });
    namespace.must('ip -6 address delete ::6/128 dev lo');
    t.match(namespace.oarlock(['--check']), { status: 1, stdout: 'iptables IPv6 lo: missing: ::6/128\n' });
    t.match(namespace.oarlock([]), { status: 0 });
    t.match(namespace.oarlock(['--check']), { status: 0 });
  });
}
