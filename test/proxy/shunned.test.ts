/** The table of addresses that are shunned: for how long, who never is, and that it has a bound. */
import t from 'tap';
import { callerOf, networkOf, Shunned } from '../../proxy/shunned.ts';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

t.test('30 s the first time, doubled with each further one up to 10 minutes, and forgotten at last', (t) => {
  let now = 5 * SECOND;
  const shunned = new Shunned(() => now);
  t.equal(shunned.left('192.0.2.7'), 0);
  for (const seconds of [30, 60, 120, 240, 480, 600, 600]) {
    t.equal(shunned.shun('192.0.2.7'), seconds * SECOND);
    t.equal(shunned.left('192.0.2.7'), seconds * SECOND);
    t.equal(shunned.left('192.0.2.8'), 0, 'another is not');
    now += seconds * SECOND - 1;
    t.equal(shunned.left('192.0.2.7'), 1);
    now += 1;
    t.equal(shunned.left('192.0.2.7'), 0, 'over');
  }
  now += 10 * MINUTE + 1;
  t.equal(shunned.shun('192.0.2.7'), 30 * SECOND, 'so long ago that it counts no more');
  t.end();
});

t.test('where a peer was verified within the hour, others may be honest too', (t) => {
  let now = 0;
  const shunned = new Shunned(() => now);
  shunned.trust('192.0.2.7');
  now += 60 * MINUTE - 1;
  t.equal(shunned.shun('192.0.2.7'), 0);
  t.equal(shunned.left('192.0.2.7'), 0);
  now += 1;
  t.equal(shunned.shun('192.0.2.7'), 30 * SECOND, 'that was long ago');
  t.end();
});

t.test('broken off three times within ten minutes', (t) => {
  let now = 0;
  const shunned = new Shunned(() => now);
  const strike = (): number => shunned.strike('192.0.2.7');
  t.same([strike(), strike()], [0, 0]);
  now += 10 * MINUTE + 1;
  t.same([strike(), strike()], [0, 0], 'the first two are long ago');
  now += 10 * MINUTE;
  t.equal(strike(), 30 * SECOND);
  t.equal(shunned.left('192.0.2.7'), 30 * SECOND);
  now += 30 * SECOND;
  t.same([strike(), strike(), strike()], [0, 0, MINUTE], 'and it begins anew');
  shunned.trust('192.0.2.8');
  t.same(
    [1, 2, 3].map(() => shunned.strike('192.0.2.8')),
    [0, 0, 0],
    'where a peer was verified: never',
  );
  t.end();
});

t.test('1,024 addresses, the oldest goes', (t) => {
  const shunned = new Shunned(() => 0);
  for (let i = 0; i <= 1_024; i++) shunned.shun(`2001:db8:0:${i.toString(16)}::/64`);
  t.equal(shunned.left('2001:db8:0:0::/64'), 0);
  t.equal(shunned.left('2001:db8:0:1::/64'), 30 * SECOND);
  t.equal(shunned.left('2001:db8:0:400::/64'), 30 * SECOND);
  t.end();
});

t.test('networks', (t) => {
  const rows = [
    ['192.0.2.7', '192.0.2.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:db8::6', '2001:db8:0:0::/64'],
    ['2001:db8:1:2::', '2001:db8:1:2::/64'],
    ['::2:3:4:5:6', '0:0:0:2::/64'],
    ['1::4:5:6:7:8', '1:0:0:4::/64'],
    ['64:ff9b::192.0.2.7', '64:ff9b:0:0::/64'],
    ['fe80::1', 'fe80:0:0:0::/64'],
  ] as const;
  for (const [address, network] of rows) t.equal(networkOf(address), network, address);
  t.end();
});

t.test('callers', (t) => {
  const rows = [
    ['10.0.0.9', '10.0.0.1', '10.0.0.9'],
    ['::ffff:10.0.0.9', '::ffff:10.0.0.1', '10.0.0.9'],
    ['fe80::1%eth0', 'fe80::2%eth0', 'fe80:0:0:0::/64'],
    // this machine
    ['127.0.0.1', '127.0.0.1', null],
    ['127.0.0.9', '127.0.0.1', null],
    ['::ffff:127.0.0.1', '::ffff:127.0.0.1', null],
    ['::1', '::1', null],
    ['10.0.0.1', '10.0.0.1', null],
    // a Unix socket, or a peer that has left
    [undefined, undefined, null],
  ] as const;
  for (const [remoteAddress, localAddress, caller] of rows)
    t.equal(callerOf({ remoteAddress, localAddress }), caller, `${remoteAddress} to ${localAddress}`);
  t.end();
});
