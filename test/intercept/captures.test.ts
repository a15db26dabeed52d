/** What the rules of capture do to real connections, in network namespaces, with each backend. */
import t from 'tap';
import { type Call, type Namespace, skipped, type Wire, wiredPods } from './namespaces.ts';

const APP = { uid: 1000, gid: 1000 };
const SIDECAR = { uid: 1337, gid: 1337 };
const NOBODY = { ipv4: '10.99.0.1', ipv6: 'fd00:99::1' };
const LOOPBACK = { ipv4: '127.0.0.1', ipv6: '::1' };
const FROM_SIDECAR = { ipv4: '127.0.0.6', ipv6: '::6' };

/** Who dials, what, and where that ends. */
type Row = readonly [what: string, from: 'pod' | 'other', call: Call, ends: string];

function defaultRows(family: 'ipv4' | 'ipv6', [eth0, net1]: readonly [Wire, Wire]): readonly Row[] {
  const [pod, other] = [eth0.pod[family], eth0.other[family]];
  const [loopback, sidecar] = [LOOPBACK[family], FROM_SIDECAR[family]];
  const inbound = (port: number): Row => [
    `inbound ${port} is left alone`,
    'other',
    { ...APP, to: pod, port },
    `pod ${port} from ${other}`,
  ];
  return [
    ['outbound', 'pod', { ...APP, to: other, port: 8080 }, `pod 15001 for ${other} 8080`],
    ['outbound by root', 'pod', { uid: 0, gid: 0, to: other, port: 8080 }, `pod 15001 for ${other} 8080`],
    [
      'outbound to nobody',
      'pod',
      { ...APP, to: NOBODY[family], port: 80 },
      `pod 15001 for ${NOBODY[family]} 80`,
    ],
    [
      'outbound by the other wire',
      'pod',
      { ...APP, to: net1.other[family], port: 8080 },
      `pod 15001 for ${net1.other[family]} 8080`,
    ],
    ['outbound of the sidecar', 'pod', { ...SIDECAR, to: other, port: 8080 }, `other 8080 from ${pod}`],
    [
      'outbound of its user',
      'pod',
      { uid: 1337, gid: 1000, to: other, port: 8080 },
      `other 8080 from ${pod}`,
    ],
    [
      'outbound of its group',
      'pod',
      { uid: 1000, gid: 1337, to: other, port: 8080 },
      `other 8080 from ${pod}`,
    ],
    ['DNS over TCP', 'pod', { ...APP, to: other, port: 53 }, `other 53 from ${pod}`],
    ['DNS over UDP', 'pod', { ...APP, to: other, port: 53, udp: true }, 'other 53'],
    ['any other UDP', 'pod', { ...APP, to: other, port: 8080, udp: true }, 'other 8080'],
    ['loopback', 'pod', { ...APP, to: loopback, port: 8080 }, `pod 8080 from ${loopback}`],
    ['the app to itself by its address', 'pod', { ...APP, to: pod, port: 8080 }, `pod 8080 from ${pod}`],
    ['the sidecar to this very pod', 'pod', { ...SIDECAR, to: pod, port: 8080 }, `pod 15006 for ${pod} 8080`],
    ['the same by HBONE', 'pod', { ...SIDECAR, to: pod, port: 15008 }, `pod 15008 from ${pod}`],
    [
      'the sidecar to the app',
      'pod',
      { ...SIDECAR, to: pod, port: 8080, source: sidecar },
      `pod 8080 from ${sidecar}`,
    ],
    ['the sidecar to loopback', 'pod', { ...SIDECAR, to: loopback, port: 8080 }, `pod 8080 from ${loopback}`],
    ['inbound', 'other', { ...APP, to: pod, port: 8080 }, `pod 15006 for ${pod} 8080`],
    ['inbound where nobody listens', 'other', { ...APP, to: pod, port: 9999 }, `pod 15006 for ${pod} 9999`],
    [
      'inbound by the other wire',
      'other',
      { ...APP, to: net1.pod[family], port: 8080 },
      `pod 15006 for ${net1.pod[family]} 8080`,
    ],
    ...[15020, 15021, 15090, 15008, 22].map(inbound),
  ];
}

/** Flags, and what ends otherwise by them than by the defaults. */
const flagRows: readonly (readonly [
  flags: readonly string[],
  rows: (family: 'ipv4' | 'ipv6', wires: readonly [Wire, Wire]) => readonly Row[],
])[] = [
  [
    ['--exclude-inbound-ports', '8080', '--exclude-outbound-ports', '3306'],
    (
      family,
      [
        {
          pod: { [family]: pod },
          other: { [family]: other },
        },
      ],
    ) => [
      ['an excluded inbound port', 'other', { ...APP, to: pod, port: 8080 }, `pod 8080 from ${other}`],
      ['another one', 'other', { ...APP, to: pod, port: 8081 }, `pod 15006 for ${pod} 8081`],
      ['an excluded outbound port', 'pod', { ...APP, to: other, port: 3306 }, `other 3306 from ${pod}`],
      ['another one', 'pod', { ...APP, to: other, port: 8080 }, `pod 15001 for ${other} 8080`],
    ],
  ],
  [
    ['--includeInboundPorts', '8081', '--includeOutboundIPRanges', '10.80.0.0/24,fd00:80::/64'],
    (
      family,
      [
        {
          pod: { [family]: pod },
          other: { [family]: other },
        },
        net1,
      ],
    ) => [
      ['an inbound port asked for', 'other', { ...APP, to: pod, port: 8081 }, `pod 15006 for ${pod} 8081`],
      ['one that is not', 'other', { ...APP, to: pod, port: 8080 }, `pod 8080 from ${other}`],
      [
        'an outbound block asked for',
        'pod',
        { ...APP, to: other, port: 8080 },
        `pod 15001 for ${other} 8080`,
      ],
      [
        'one that is not',
        'pod',
        { ...APP, to: net1.other[family], port: 8080 },
        `other 8080 from ${net1.pod[family]}`,
      ],
    ],
  ],
  [
    ['--exclude-outbound-cidrs', '10.80.0.2/32,fd00:80::2/128'],
    (
      family,
      [
        {
          pod: { [family]: pod },
          other: { [family]: other },
        },
        net1,
      ],
    ) => [
      ['an excluded block', 'pod', { ...APP, to: other, port: 8080 }, `other 8080 from ${pod}`],
      [
        'another one',
        'pod',
        { ...APP, to: net1.other[family], port: 8080 },
        `pod 15001 for ${net1.other[family]} 8080`,
      ],
    ],
  ],
  [
    ['--include-outbound-cidrs', '', '--include-outbound-ports', '8081,53'],
    (
      family,
      [
        {
          pod: { [family]: pod },
          other: { [family]: other },
        },
      ],
    ) => [
      ['an outbound port asked for', 'pod', { ...APP, to: other, port: 8081 }, `pod 15001 for ${other} 8081`],
      ['DNS asked for', 'pod', { ...APP, to: other, port: 53 }, `pod 15001 for ${other} 53`],
      ['another one', 'pod', { ...APP, to: other, port: 8080 }, `other 8080 from ${pod}`],
    ],
  ],
  [
    ['--exclude-interfaces', 'net1'],
    (
      family,
      [
        {
          pod: { [family]: pod },
          other: { [family]: other },
        },
        net1,
      ],
    ) => [
      [
        'out by an excluded interface',
        'pod',
        { ...APP, to: net1.other[family], port: 8080 },
        `other 8080 from ${net1.pod[family]}`,
      ],
      [
        'in by an excluded interface',
        'other',
        { ...APP, to: net1.pod[family], port: 8080 },
        `pod 8080 from ${net1.other[family]}`,
      ],
      ['out by another one', 'pod', { ...APP, to: other, port: 8080 }, `pod 15001 for ${other} 8080`],
      ['in by another one', 'other', { ...APP, to: pod, port: 8080 }, `pod 15006 for ${pod} 8080`],
    ],
  ],
  [
    ['--kubevirt-interfaces', 'net1'],
    (
      family,
      [
        {
          pod: { [family]: pod },
        },
        net1,
      ],
    ) => [
      [
        'in from a virtual machine',
        'other',
        { ...APP, to: net1.pod[family], port: 8080 },
        `pod 15001 for ${net1.pod[family]} 8080`,
      ],
      ['in by another one', 'other', { ...APP, to: pod, port: 8080 }, `pod 15006 for ${pod} 8080`],
    ],
  ],
  [
    ['--uid', '1000', '--gid', '2000'],
    (
      family,
      [
        {
          pod: { [family]: pod },
          other: { [family]: other },
        },
      ],
    ) => [
      ['another user is exempt', 'pod', { ...APP, to: other, port: 8080 }, `other 8080 from ${pod}`],
      ['and 1337 is not', 'pod', { ...SIDECAR, to: other, port: 8080 }, `pod 15001 for ${other} 8080`],
    ],
  ],
];

if (!skipped(t)) {
  const { pod, other, wires } = await wiredPods(t);
  const [eth0, net1] = wires;
  if (eth0 === undefined || net1 === undefined) throw new Error('two wires were to be there');
  const both: readonly [Wire, Wire] = [eth0, net1];
  const from: Readonly<Record<'pod' | 'other', Namespace>> = { pod, other };

  for (const backend of ['iptables', 'iptables-legacy', 'nft']) {
    t.test(backend, async (t) => {
      t.teardown(() => pod.oarlock(['--clean']));
      for (const [flags, rows] of [[[], defaultRows] as const, ...flagRows]) {
        const { status, stderr } = pod.oarlock(['--backend', backend, ...flags]);
        t.equal(status, 0, `${flags.join(' ')} ${stderr}`);
        const all = (['ipv4', 'ipv6'] as const).flatMap((family) => rows(family, both));
        for (const where of ['pod', 'other'] as const) {
          const here = all.filter(([, origin]) => origin === where);
          const ends = from[where].dial(here.map(([, , call]) => call));
          for (const [i, [what, , { to, port }, end]] of here.entries()) {
            t.equal(ends[i], end, `${what}: ${to} ${port} ${flags.join(' ')}`);
          }
        }
      }
    });
  }

  t.test('without rules nothing is captured', async (t) => {
    const { pod: ours, other: theirs } = eth0;
    t.same(pod.dial([{ ...APP, to: theirs.ipv4, port: 8080 }]), [`other 8080 from ${ours.ipv4}`]);
    t.same(other.dial([{ ...APP, to: ours.ipv6, port: 8080 }]), [`pod 8080 from ${theirs.ipv6}`]);
  });
}
