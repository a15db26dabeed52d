/** Reading addresses and blocks, as Go's netip does: rows of what is one and what is not. */
import { BlockList, isIPv4 } from 'node:net';
import t from 'tap';
import {
  canonicalAddress,
  canonicalCidr,
  compileCidrs,
  onlyAddress,
  parseCidr,
  prefixKey,
} from '../../mesh/cidr.ts';

t.test('what is a block', async (t) => {
  const good = [
    ...['0.0.0.0', '255.255.255.255/32', '10.0.0.0/0', '::', '::/0', '::1/128', '1:2:3:4:5:6:7:8', '1::8'],
    ...[
      '::ffff:1.2.3.4',
      '1:2:3:4:5:6:7::',
      '::2:3:4:5:6:7:8',
      'ABCD::ef01/16',
      'fe80::1%eth0',
      '64:ff9b::1.2.3.4/96',
    ],
  ];
  for (const text of good) t.ok(parseCidr(text), text);
  const bad = [
    ...['', '/', '1', '1.2.3', '1.2.3.4.5', '256.0.0.1', '01.2.3.4', '1.2.3.4/', '1.2.3.4/33', '1.2.3.4/-1'],
    ...[
      '1.2.3.4/+8',
      '1.2.3.4/08',
      ' 1.2.3.4',
      '1.2.3.4 ',
      '1.2.3.x',
      '0x1.2.3.4',
      ':',
      ':::',
      '1::2::3',
      '1:2',
    ],
    ...[
      '1:2:3:4:5:6:7:8:9',
      '1:2:3:4:5:6:7:8::',
      '12345::',
      'g::',
      '::1/129',
      '1.2.3.4::',
      '::1.2.3',
      '1.2.3.4%eth0',
    ],
    ...['fe80::1%', 'fe80::1%eth0/64', '::1/'],
  ];
  for (const text of bad) t.equal(parseCidr(text), null, JSON.stringify(text));
});

t.test("agrees with Node's block list on random blocks", async (t) => {
  let seed = 11;
  const next = (n: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >>> 8) % n;
  };
  const v4 = (): string => Array.from({ length: 4 }, () => [0, 10, 128, 255][next(4)]).join('.');
  const v6 = (): string => Array.from({ length: 8 }, () => ['0', '8000', 'ffff', 'db8'][next(4)]).join(':');
  const wrong: string[] = [];
  for (let round = 0; round < 2_000; round++) {
    const family = next(2) === 0 ? 'ipv4' : 'ipv6';
    const net = family === 'ipv4' ? v4() : v6();
    const bits = next(family === 'ipv4' ? 33 : 129);
    const list = new BlockList();
    list.addSubnet(net, bits, family);
    const test = compileCidrs([`${net}/${bits}`]);
    for (const address of [v4(), v6(), net]) {
      // The list reads an IPv4 address into blocks of mapped ones; Envoy, and so we, do not.
      if (isIPv4(address) !== (family === 'ipv4')) {
        if (test(address)) wrong.push(`${address} in ${net}/${bits}`);
      } else if (test(address) !== list.check(address, family)) wrong.push(`${address} in ${net}/${bits}`);
    }
  }
  t.same(wrong, []);
  t.equal(compileCidrs(['::/0', '0.0.0.0/0'])('not an address'), false);
});

t.test('an address with a zone is in the blocks of the address', async (t) => {
  const test = compileCidrs(['fe80::/10']);
  t.equal(test('fe80::1%eth0'), true);
  t.equal(test('fe80::1'), true);
  t.equal(test('fd00::1%eth0'), false);
  t.equal(compileCidrs(['::/0'])('fe80::1%eth0'), true);
});

t.test('the one form of an address (RFC 5952)', async (t) => {
  const rows: readonly (readonly [string, string | null])[] = [
    // §1: all the same.
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8::1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8::0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0db8::1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:DB8:0:0:1::1', '2001:db8::1:0:0:1'],
    // §4.2.1 to §4.2.3.
    ['2001:db8:0:0:0:0:2:1', '2001:db8::2:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:db8::1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['1:0:0:0:0:0:0:0', '1::'],
    ['::ffff:10.0.0.1', '10.0.0.1'],
    ['::FFFF:0a00:0001', '10.0.0.1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['255.255.255.255', '255.255.255.255'],
    ['0.0.0.0', '0.0.0.0'],
    ['10.0.0', null],
    ['10.0.0.0/8', null],
    ['orders', null],
  ];
  for (const [text, expected] of rows) t.equal(canonicalAddress(text), expected, text);
});

t.test('blocks and what they have in common', async (t) => {
  const key = (text: string, bits?: number): string => {
    const cidr = canonicalCidr(text);
    if (cidr === null) throw new Error(`no block: ${text}`);
    return prefixKey(cidr.words, bits ?? cidr.bits);
  };
  for (const [block, inside, outside] of [
    ['10.1.2.3/8', '10.255.0.1', '11.0.0.0'],
    ['200.0.0.0/1', '128.0.0.0', '127.255.255.255'],
    ['1.2.3.4/32', '1.2.3.4', '1.2.3.5'],
    ['fd00:96::/31', 'fd00:97::1', 'fd00:98::'],
    ['::ffff:10.0.0.0/104', '10.9.9.9', '11.0.0.0'],
  ] as const) {
    const bits = canonicalCidr(block)?.bits;
    t.equal(key(inside, bits), key(block), `${inside} is in ${block}`);
    t.not(key(outside, bits), key(block), `${outside} is not`);
  }
  t.not(key('::/0'), key('0.0.0.0/0'), 'families share nothing');
  t.equal(onlyAddress({ words: [0x0a000001], bits: 32 }), '10.0.0.1');
  t.equal(onlyAddress({ words: [0x0a000001], bits: 31 }), null);
});
