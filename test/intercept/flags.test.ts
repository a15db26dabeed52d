/** What the flags of `oarlock iptables` take, and what they refuse before anything is run. */
import { Command } from 'commander';
import t from 'tap';
import { addCaptureFlags, captureOptions } from '../../cli/iptables-flags.ts';
import { explain } from '../../intercept/explain.ts';
import { type CaptureOptions, defaultCapture } from '../../intercept/options.ts';
import { oarlock } from '../cli/helper.ts';

function optionsOf(...flags: string[]): CaptureOptions {
  const command = addCaptureFlags(new Command())
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  return captureOptions(command.parse(flags, { from: 'user' }).opts());
}

t.test('what is given', async (t) => {
  const rows: readonly (readonly [flags: string[], Partial<CaptureOptions>])[] = [
    [[], {}],
    [['--outbound-port', '1', '--inbound-port', '65535'], { outboundPort: 1, inboundPort: 65535 }],
    [['--uid', '0'], { uids: [0], gids: [0] }],
    [['--uid', '1338,4294967294'], { uids: [1338, 4294967294], gids: [1338, 4294967294] }],
    [['--uid', '1338', '--gid', '7'], { uids: [1338], gids: [7] }],
    [['--include-inbound-ports', '*'], { includeInboundPorts: '*' }],
    [['--include-inbound-ports', ''], { includeInboundPorts: [] }],
    [['--include-inbound-ports', ' 80, 443 ,,80'], { includeInboundPorts: [80, 443] }],
    [
      ['--includeInboundPorts', '80', '--excludeInboundPorts=81'],
      { includeInboundPorts: [80], excludeInboundPorts: [81] },
    ],
    [
      ['--includeOutboundPorts', '80', '--excludeOutboundPorts', '81'],
      { includeOutboundPorts: [80], excludeOutboundPorts: [81] },
    ],
    [
      ['--excludeInterfaces', 'eth1', '--kubevirtInterfaces', 'k6t-eth0'],
      { excludeInterfaces: ['eth1'], kubevirtInterfaces: ['k6t-eth0'] },
    ],
    [['--includeOutboundIPRanges', '*'], { includeOutboundBlocks: '*' }],
    [
      [
        '--includeOutboundIPRanges',
        '10.1.2.3',
        '--excludeOutboundIPRanges',
        '10.1.2.3/8,0.0.0.0/0,172.31.255.255/12',
      ],
      {
        includeOutboundBlocks: [{ family: 4, address: '10.1.2.3', bits: 32 }],
        excludeOutboundBlocks: [
          { family: 4, address: '10.0.0.0', bits: 8 },
          { family: 4, address: '0.0.0.0', bits: 0 },
          { family: 4, address: '172.16.0.0', bits: 12 },
        ],
      },
    ],
    [
      [
        '--exclude-outbound-cidrs',
        'FD00:0:0:1:FFFF::9/63,2001:db8:0:0:1::/128,::/0,::ffff:10.1.2.3/104,1::2',
      ],
      {
        excludeOutboundBlocks: [
          { family: 6, address: 'fd00::', bits: 63 },
          { family: 6, address: '2001:db8:0:0:1::', bits: 128 },
          { family: 6, address: '::', bits: 0 },
          { family: 6, address: '::ffff:10.0.0.0', bits: 104 },
          { family: 6, address: '1::2', bits: 128 },
        ],
      },
    ],
  ];
  for (const [flags, given] of rows)
    t.same(optionsOf(...flags), { ...defaultCapture, ...given }, flags.join(' '));
});

t.test('what is refused', async (t) => {
  const rows: readonly (readonly [flag: string, value: string, named?: string])[] = [
    ['--outbound-port', '0'],
    ['--outbound-port', '65536'],
    ['--inbound-port', 'off'],
    ['--hbone-port', '15008;reboot'],
    ['--exclude-inbound-ports', '80,443x', '443x'],
    ['--exclude-inbound-ports', '80 -j ACCEPT'],
    ['--exclude-outbound-ports', '8000:8010'],
    ['--exclude-outbound-ports', '*'],
    ['--include-inbound-ports', '80,*', '*'],
    ['--include-outbound-ports', '-1'],
    ['--include-outbound-ports', '1e3'],
    ['--include-outbound-cidrs', '10.0.0.0/33'],
    ['--include-outbound-cidrs', '10.0.0/8'],
    ['--include-outbound-cidrs', '010.0.0.0/8'],
    ['--exclude-outbound-cidrs', '10.0.0.0/8/8'],
    ['--exclude-outbound-cidrs', '10.0.0.0/'],
    ['--exclude-outbound-cidrs', '10.0.0.0/-1'],
    ['--exclude-outbound-cidrs', 'fd00::/129'],
    ['--exclude-outbound-cidrs', 'fe80::1%eth0/64'],
    ['--exclude-outbound-cidrs', 'example.com'],
    ['--exclude-outbound-cidrs', '10.0.0.0/8\nCOMMIT', '10.0.0.0/8\\nCOMMIT'],
    ['--exclude-outbound-cidrs', '*'],
    ['--exclude-interfaces', 'eth0+'],
    ['--exclude-interfaces', 'eth0 -j ACCEPT'],
    ['--exclude-interfaces', '-eth0'],
    ['--exclude-interfaces', 'eth0"'],
    ['--exclude-interfaces', 'a-name-of-16-ch.'],
    ['--kubevirt-interfaces', '../../etc'],
    ['--uid', 'istio-proxy'],
    ['--uid', '4294967295'],
    ['--gid', '-1'],
  ];
  for (const [flag, value, named = value] of rows) {
    t.throws(
      () => optionsOf(`${flag}=${value}`),
      { message: new RegExp(RegExp.escape(JSON.stringify(named).replaceAll('\\\\', '\\'))) },
      `${flag} ${value}`,
    );
  }
  t.throws(() => optionsOf('--uid='), /must name one id at least/);
  t.throws(
    () => optionsOf('--exclude-inbound-ports', Array.from({ length: 1001 }, (_, i) => i + 1).join()),
    /1001 entries/,
  );
});

t.test('the command says it in one line, with exit status 2', async (t) => {
  const rows: readonly (readonly [flags: string[], stderr: RegExp])[] = [
    [
      ['--exclude-inbound-ports', '80x'],
      /^error: option '--exclude-inbound-ports <ports>' argument '80x' is invalid\. "80x" is no port: .*\n$/,
    ],
    [['--backend', 'ebtables'], /^error: option '--backend <name>' .* iptables, iptables-legacy, nft\.\n$/],
    [
      ['--check', '--outbound-port', '15006'],
      /^oarlock: --outbound-port 15006, --inbound-port 15006 and --hbone-port 15008 must be three ports: .*\n$/,
    ],
    [['--check', '--hbone-port', '15001'], /^oarlock: .* --hbone-port 15001 must be three ports: .*\n$/],
    [['--clean', '--check'], /^oarlock: --clean removes, --check looks: give one of them\n$/],
    [['--dry-run', '--check'], /^oarlock: --check changes nothing by itself: leave out --dry-run\n$/],
  ];
  for (const [flags, stderr] of rows) {
    t.match(await oarlock(['iptables', ...flags]), { code: 2, stdout: '', stderr }, flags.join(' '));
  }
});

t.test("what the kernel's tools say, in our words", async (t) => {
  const input =
    '*nat\n:X - [0:0]\n-A X -m owner --uid-owner 1337 -j RETURN\n-A X -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n';
  const rows: readonly (readonly [tool: string, stderr: string, said: RegExp])[] = [
    // As iptables 1.8.9 and nft 1.0.6 say it.
    [
      'iptables-nft-restore',
      'iptables-nft-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (No such file or directory): rule in chain X\n',
      /^iptables-nft-restore: the kernel may lack the module xt_owner: .*RULE_APPEND.*at: -A X -m owner/,
    ],
    [
      'iptables-legacy-restore',
      "iptables-restore v1.8.9 (legacy): Couldn't load target `REDIRECT':No such file or directory\n\nError occurred at line: 4\nTry `iptables-restore -h' or 'iptables-restore --help' for more information.\n",
      /^iptables-legacy-restore: the kernel may lack the module xt_REDIRECT: /,
    ],
    [
      'nft',
      '/dev/stdin:3:2-33: Error: Could not process rule: No such file or directory\n meta skuid 1337 counter return\n ^^^^\n',
      /^nft: the kernel may lack the module xt_owner: /,
    ],
    [
      'iptables-legacy-restore',
      "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\n\nError occurred at line: 1\n",
      /^iptables-legacy-restore: the kernel lacks the table: load its modules/,
    ],
    [
      'iptables-nft-save',
      'iptables-nft-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n',
      /^iptables-nft-save: the rules of capture need CAP_NET_ADMIN/,
    ],
    [
      'iptables-legacy-restore',
      'Another app is currently holding the xtables lock; still 9s 0us time ahead to have a chance to grab the lock...\n',
      /^iptables-legacy-restore: another iptables holds its lock/,
    ],
  ];
  for (const [tool, stderr, said] of rows) {
    const words = explain(tool, stderr, input);
    t.match(words, said);
    t.notMatch(words, /\n/, 'in one line');
  }
});
