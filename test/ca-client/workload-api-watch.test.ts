/** A Workload API over time: each push counts, and whatever an agent does, the last good set stays in force. */
import { X509Certificate } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import t from 'tap';

import { workloadApiSource } from '../../ca-client/workload-api.ts';
import { identityOf } from '../../mesh/identity.ts';
import { until } from '../e2e/harness/wait.ts';
import { makeCertificate, temporaryFolder } from './helper.ts';
import { Kept, trust } from './workload-api-kept.ts';
import {
  bundlesMessage,
  INTERNAL,
  svidMessage as message,
  OK,
  PERMISSION_DENIED,
  TrustDomain,
  UNAVAILABLE,
  UNIMPLEMENTED,
  WorkloadApiServer,
} from './workload-api-server.ts';

const one = await TrustDomain.create('one.test');
const two = await TrustDomain.create('two.test');
const garbage = Buffer.from('garbage, no protobuf');

t.test('each push is a new set, the tenth as the first', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders')]);
  const kept = new Kept(t, { socket: server.path });
  for (let n = 1; n <= 10; n++) {
    const { serial } = await kept.set(n);
    t.equal(serial, kept.serial);
    server.push('svids', message([await one.svid('/orders')]));
  }
  t.equal(new Set(kept.sets.map(({ serial }) => serial)).size, kept.sets.length);
  t.equal(server.opened.svids, 1, 'all on one stream');
  t.same(kept.failures, []);
});

t.test('a flood of pushes costs few attempts, and the last one counts', async (t) => {
  const server = await WorkloadApiServer.start(t);
  const first = message([await one.svid('/orders')]);
  server.svids = first;
  const kept = new Kept(t, { socket: server.path });
  await kept.set(1);
  const second = message([await one.svid('/orders')]);
  const lastSvid = await one.svid('/orders');
  const began = performance.now();
  for (let i = 0; i < 500; i++) {
    server.push('svids', i % 2 === 0 ? first : second);
    await setImmediate();
  }
  server.push('svids', message([lastSvid]));
  const { serialNumber } = new X509Certificate(lastSvid.chain);
  await until('the last', () => kept.serial === serialNumber.toLowerCase());
  // one in a tenth of a second
  const most = 3 + (performance.now() - began) / 100;
  t.ok(kept.sets.length <= most, `${kept.sets.length} sets`);
  t.same(kept.failures, []);
});

t.test('revocation lists are not heeded, and that is told', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders')], { crls: [Buffer.of(1)] });
  const kept = new Kept(t, { socket: server.path });
  await kept.set(1);
  await kept.failure(/revocation lists, which are not taken from a Workload API.*--crl/);
  await until('all to be well', () => kept.keeper.state.failures === 0);
});

t.test('of several the one once adopted, whatever their order, and whatever is preferred', async (t) => {
  const server = await WorkloadApiServer.start(t);
  const preferred = identityOf('one.test', 'shop', 'orders');
  server.svids = message([await one.svid('/first'), await one.svid('/second')]);
  const kept = new Kept(t, { socket: server.path, preferred });
  await kept.set(1);
  server.push(
    'svids',
    message([await one.svid('/second'), await one.svid('/ns/shop/sa/orders'), await one.svid('/first')]),
  );
  t.equal((await kept.set(2)).identity.uri, 'spiffe://one.test/first');
  server.push('svids', message([await one.svid('/second')]));
  await kept.failure(/offers the identity spiffe:\/\/one\.test\/second, but this sidecar is/);
});

t.test('a push that cannot be used leaves the old set in force, and says why', async (t) => {
  const good = await one.svid('/orders');
  const rows: readonly (readonly [string, Buffer, RegExp])[] = [
    ['garbage', garbage, /its message is no protobuf/],
    ['no SVID', message([]), /has no SVID/],
    ['a field that is empty', message([{ ...good, key: Buffer.alloc(0) }]), /empty x509_svid_key/],
    [
      "another's key",
      message([{ ...good, key: (await one.svid('/orders')).key }]),
      /key is not the certificate's/,
    ],
    ['expired', message([await one.svid('/orders', { from: -60, until: -1 })]), /expired at/],
    ["another's root", message([{ ...good, bundle: two.root.der }]), /does not lead to any of the roots/],
    [
      'another identity',
      message([await one.svid('/payments')]),
      /offers the identity spiffe:\/\/one\.test\/payments/,
    ],
  ];
  for (const [title, bad, words] of rows) {
    const server = await WorkloadApiServer.start(t);
    server.svids = message([good]);
    const kept = new Kept(t, { socket: server.path });
    const { serial } = await kept.set(1);
    server.push('svids', bad);
    await kept.failure(words);
    t.equal(kept.serial, serial, title);
    const next = await one.svid('/orders');
    server.push('svids', message([next]));
    await kept.set(2);
    await until('all to be well', () => kept.keeper.state.failures === 0);
    t.not(kept.serial, serial, `${title}: what comes after counts`);
  }
});

t.test('an agent whose every message is garbage is asked anew, and all the time said to be so', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders')]);
  const kept = new Kept(t, { socket: server.path });
  await kept.set(1);
  server.push('svids', garbage);
  await until('three failures', () => kept.failures.length >= 3);
  t.ok(kept.failures.every((failure) => /its message is no protobuf/.test(failure)));
  t.equal(kept.keeper.state.phase, 'failing');
  t.ok(server.opened.svids > 1);
});

t.test('however a stream ends, the set stays in force and the next stream is found', async (t) => {
  const svid = await one.svid('/orders');
  for (const [title, code, told] of [
    ['just so', OK, false],
    ['not available', UNAVAILABLE, false],
    ['entry deleted', PERMISSION_DENIED, true],
    ['broken', INTERNAL, true],
  ] as const) {
    const server = await WorkloadApiServer.start(t);
    server.svids = message([svid]);
    const kept = new Kept(t, { socket: server.path });
    const { serial } = await kept.set(1);
    // what ends well opens again at once; the rest goes on being refused until it is put right
    server.end('svids', code);
    if (told)
      await kept.failure(new RegExp(`${code === INTERNAL ? 'INTERNAL' : 'PERMISSION_DENIED'}: as told`));
    else await server.nextStream('svids');
    t.equal(kept.serial, serial, title);
    server.svids = message([await one.svid('/orders')]);
    await kept.set(2);
    t.not(kept.serial, serial, `${title}: and then the next one`);
  }
});

t.test('an agent that ends each stream is asked less and less often', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders')]);
  const kept = new Kept(t, { socket: server.path });
  await kept.set(1);
  const good = server.svids;
  server.on('svids', () => {
    server.end('svids', OK);
    server.svids = good;
  });
  const began = performance.now();
  server.end('svids', OK);
  server.svids = good;
  await until('some streams', () => server.opened.svids >= 6);
  // full jitter below 200, 400, 800, 1600, 3200 ms: at twice the rate of a tight loop's least delay it would be 0.1 s
  t.ok(performance.now() - began > 200, `${Math.round(performance.now() - began)} ms for five streams`);
  t.equal(kept.sets.length, 1);
});

t.test('an agent that goes and comes back, at another inode', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders')]);
  const kept = new Kept(t, { socket: server.path });
  const { serial } = await kept.set(1);
  server.stop();
  rmSync(server.path, { force: true });
  await kept.failure(/the socket is not there \(yet\)/);
  t.equal(kept.serial, serial, 'the old set stays');
  server.svids = message([await one.svid('/orders')]);
  await server.listen();
  await kept.set(2);
  t.not(kept.serial, serial);
});

t.test('a socket that is not there yet is waited for', async (t) => {
  const path = join(temporaryFolder(t), 'agent.sock');
  const kept = new Kept(t, { socket: path });
  await kept.failure(/the socket is not there \(yet\)/);
  const server = await WorkloadApiServer.start(t, path);
  server.svids = PERMISSION_DENIED;
  await kept.failure(/no registration entry fits/);
  server.svids = message([await one.svid('/orders')]);
  t.equal((await kept.set(1)).identity.uri, 'spiffe://one.test/orders');
});

t.test('a socket that comes is news, however long the keeper would wait', async (t) => {
  const path = join(temporaryFolder(t), 'agent.sock');
  const source = workloadApiSource({ socket: path, identity: null });
  let changes = 0;
  t.teardown(source.watch?.(() => changes++) ?? (() => {}));
  const never = new AbortController().signal;
  await t.rejects(source.obtain(never), { message: /the socket is not there \(yet\)/ });
  const server = await WorkloadApiServer.start(t, path);
  server.svids = message([await one.svid('/orders')]);
  await until('the news', () => changes > 0);
  t.equal((await source.obtain(never)).identity.uri, 'spiffe://one.test/orders');
});

t.test('an agent that hangs is found out before the set expires', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders', { from: -10, until: 6 })]);
  const kept = new Kept(t, { socket: server.path, deadlineMs: 300 });
  const { serial } = await kept.set(1);
  // the stream stays open and silent; it is asked anew when a fifth of the time is left, and does not answer then
  server.svids = 'hang';
  await kept.failure(/gave no answer within 0\.3 s; does the agent hang/);
  t.equal(kept.serial, serial);
  t.notOk(kept.keeper.expired, 'in time');
  server.svids = message([await one.svid('/orders')]);
  await kept.set(2);
  t.not(kept.serial, serial);
});

t.test('bundles that come on their own', async (t) => {
  const newRoot = await makeCertificate({ ca: true });
  const three = await TrustDomain.create('three.test');
  const server = await WorkloadApiServer.start(t);
  const svid = await one.svid('/orders');
  const federatedBundles = new Map([['spiffe://two.test', two.root.der]]);
  server.svids = message([svid], { federatedBundles });
  server.bundles = bundlesMessage({ 'one.test': one.root.der, 'two.test': two.root.der });
  const kept = new Kept(t, { socket: server.path });
  t.same(trust(await kept.set(1)), { own: 1, 'two.test': 1 });
  const both = Buffer.concat([one.root.der, newRoot.der]);
  server.push('bundles', bundlesMessage({ 'one.test': both, 'two.test': two.root.der }));
  t.same(trust(await kept.set(2)), { own: 2, 'two.test': 1 }, 'a root is added');
  server.push('bundles', bundlesMessage({ 'one.test': both, 'three.test': three.root.der }));
  t.same(trust(await kept.set(3)), { own: 2, 'three.test': 1 }, 'a trust domain comes, another goes');
  server.push('bundles', bundlesMessage({ 'one.test': one.root.der }));
  t.same(trust(await kept.set(4)), { own: 1 }, 'and all are gone but ours');
  server.push('svids', message([svid], { federatedBundles }));
  t.same(trust(await kept.set(5)), { own: 1, 'two.test': 1 }, 'the newest message counts, whole');
  t.ok(kept.sets.every(({ serial }) => serial === kept.serial));
  t.same(kept.failures, []);
});

t.test('bundles that are wrong are told of, and keep us from nothing', async (t) => {
  const svid = await one.svid('/orders');
  const federatedBundles = new Map([
    ['spiffe://two.test', two.root.der],
    ['spiffe://bad.test', garbage],
    ['Not A Trust Domain', two.root.der],
  ]);
  const server = await WorkloadApiServer.start(t);
  server.svids = message([svid], { federatedBundles });
  const kept = new Kept(t, { socket: server.path });
  t.same(trust(await kept.set(1)), { own: 1, 'two.test': 1, 'bad.test': 0 }, 'those that can be read');
  await kept.failure(
    /the bundle of bad\.test is not made of whole DER certificates; nobody of that trust domain/,
  );
  await until('all to be well', () => kept.keeper.state.failures === 0);
  for (const [title, bundles, words] of [
    ['garbage', garbage, /FetchX509Bundles: its message is no protobuf/],
    [
      'none of ours',
      bundlesMessage({ 'two.test': two.root.der }),
      /X509BundlesResponse has no bundle of one\.test/,
    ],
  ] as const) {
    server.push('bundles', bundles);
    await kept.failure(words);
    await until('all to be well', () => kept.keeper.state.failures === 0);
    t.same(trust(kept.keeper.current), { own: 1, 'two.test': 1, 'bad.test': 0 }, title);
  }
  const count = kept.failures.length;
  server.push('svids', message([await one.svid('/orders')], { federatedBundles }));
  await kept.set(2);
  await until('all to be well', () => kept.keeper.state.phase === 'valid');
  t.equal(kept.failures.length, count, 'what was told is not told again at the next push');
});

t.test('a server without FetchX509Bundles does', async (t) => {
  for (const code of [UNIMPLEMENTED, PERMISSION_DENIED, INTERNAL]) {
    const server = await WorkloadApiServer.start(t);
    server.svids = message([await one.svid('/orders')]);
    server.bundles = code;
    const kept = new Kept(t, { socket: server.path });
    await kept.set(1);
    await kept.failure(/FetchX509Bundles: .*: as told; the bundles that come with the SVIDs count/);
    server.push('svids', message([await one.svid('/orders')]));
    await kept.set(2);
    t.equal(server.opened.svids, 1, 'the stream of SVIDs is left alone');
    // SPIFFE Workload Endpoint, appendix A: "Report an error, do not retry"
    if (code === UNIMPLEMENTED) t.equal(server.opened.bundles, 1);
    else await until('the stream of bundles to be tried again', () => server.opened.bundles > 1);
  }
});

t.test('the keeper stops, and so do the streams', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = message([await one.svid('/orders')]);
  const kept = new Kept(t, { socket: server.path });
  await kept.set(1);
  const closed = server.noStreams();
  kept.keeper.stop();
  await closed;
  t.equal(server.opened.svids, 1);
});
