/** Reading addresses and blocks, as Go's netip does: rows of what is one and what is not. */
import { BlockList, isIPv4 } from 'node:net';
import t from 'tap';
import { compileCidrs, parseCidr } from '../../mesh/cidr.ts';

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
