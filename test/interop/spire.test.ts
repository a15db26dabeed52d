/** Credentials from real SPIRE agents: rotations, hints, federation, a new root in three steps, and all that goes away. */
import { X509Certificate } from 'node:crypto';
import t from 'tap';
import { limitsWith } from '../../mesh/limits.ts';
import { tlsPolicyOf } from '../../proxy/mesh-tls.ts';
import { rehearse } from '../../proxy/rehearse.ts';
import { Kept, type KeptOptions, trust } from '../ca-client/workload-api-kept.ts';
import { until } from '../e2e/harness/wait.ts';
import { needSpire, SpireServer } from './spire-world.ts';

t.setTimeout(120_000);
needSpire(t);
const one = await SpireServer.start(t, 'one.test');
const two = await SpireServer.start(t, 'two.test');

function issuedBy(rootPem: string, chainPem: string): boolean {
  return new X509Certificate(chainPem).verify(new X509Certificate(rootPem).publicKey);
}

/** As the daemon has it: each set must complete a handshake with itself before it counts. */
function keep(t: ConstructorParameters<typeof Kept>[0], options: KeptOptions): Kept {
  return new Kept(t, {
    ...options,
    rehearse: (credentials) => rehearse(credentials, tlsPolicyOf(null), limitsWith({})),
  });
}

await t.test('no socket, then no entry, then credentials, and a rotation each second or two', async (t) => {
  const socket = one.newSocket();
  const kept = keep(t, { socket });
  await kept.failure(/the socket is not there \(yet\); start the agent/);
  const agent = await one.startAgent(socket);
  t.teardown(() => agent.kill());
  await kept.failure(
    /PERMISSION_DENIED: no identity issued; no registration entry fits this process.*unix:uid:/,
  );
  const entry = await one.createEntry({ path: '/ns/shop/sa/orders' });
  t.teardown(() => one.deleteEntry(entry));
  const first = await kept.set(1);
  t.equal(first.identity.uri, 'spiffe://one.test/ns/shop/sa/orders');
  t.equal(first.identity.serviceAccount, 'orders');
  const failures = kept.failures.length;
  const last = await kept.set(5);
  t.equal(new Set(kept.sets.map(({ serial }) => serial)).size, kept.sets.length, 'each is another');
  t.ok(last.notAfter > first.notAfter);
  t.same(kept.failures.slice(failures), [], 'nothing failed meanwhile');
});

await t.test('two entries: by hint, by path, by preference', async (t) => {
  const agent = await one.startAgent();
  t.teardown(() => agent.kill());
  for (const wish of [
    { path: '/inside', hint: 'internal' },
    { path: '/edge', hint: 'external' },
  ]) {
    const entry = await one.createEntry(wish);
    t.teardown(() => one.deleteEntry(entry));
  }
  const { socket } = agent;
  for (const [choice, path] of [
    [{ hint: 'external' }, '/edge'],
    [{ hint: 'internal' }, '/inside'],
    [{ spiffeId: '/edge' }, '/edge'],
    [{ spiffeId: 'spiffe://one.test/inside' }, '/inside'],
  ] as const) {
    const kept = keep(t, { socket, ...choice });
    t.equal((await kept.set(1)).identity.uri, `spiffe://one.test${path}`, JSON.stringify(choice));
  }
  const kept = keep(t, { socket, hint: 'admin' });
  await kept.failure(/no SVID with the hint "admin", but .*\/edge \(hint "external"\)/);
});

await t.test('a new root in three steps: added, issuing, the old one gone', async (t) => {
  const agent = await one.startAgent();
  t.teardown(() => agent.kill());
  const entry = await one.createEntry({ path: '/orders' });
  t.teardown(() => one.deleteEntry(entry));
  const kept = keep(t, agent);
  const [oldRoot] = (await kept.set(1)).rootsPem;
  const failures = kept.failures.length;
  const current = () => kept.keeper.current;

  const added = await one.prepareRoot();
  await until('both roots', () => current()?.rootsPem.length === 2);
  t.ok(current()?.rootsPem.includes(oldRoot ?? ''), 'the old one is still among them');
  const newRoot = current()?.rootsPem.find((pem) => pem !== oldRoot) ?? '';
  const old = await one.activateRoot(added);
  await until('a certificate of the new root', () => issuedBy(newRoot, current()?.chainPem ?? ''));
  await one.retireRoot(old);
  await until('one root', () => current()?.rootsPem.length === 1);
  t.notOk(current()?.rootsPem.includes(oldRoot ?? ''));
  const after = kept.serial;
  await until('one more certificate', () => kept.serial !== after);
  t.same(kept.failures.slice(failures), [], 'no set on the way was refused');
});

await t.test("another trust domain's bundle, as it changes", async (t) => {
  await one.trust(two, true);
  const agent = await one.startAgent();
  t.teardown(() => agent.kill());
  const entry = await one.createEntry({ path: '/orders', federatesWith: ['two.test'] });
  const kept = keep(t, agent);
  t.same(trust(await kept.set(1)), { own: 1, 'two.test': 1 });
  const failures = kept.failures.length;
  const added = await two.prepareRoot();
  await one.refreshBundle(two);
  await until('both roots of the other', () => trust(kept.keeper.current)['two.test'] === 2);
  await two.retireRoot(await two.activateRoot(added));
  await one.refreshBundle(two);
  await until('the new root of the other', () => trust(kept.keeper.current)['two.test'] === 1);
  t.same(kept.failures.slice(failures), []);
  await one.deleteEntry(entry);
  const lonely = await one.createEntry({ path: '/orders' });
  t.teardown(() => one.deleteEntry(lonely));
  await until('no word of the other', () => trust(kept.keeper.current)['two.test'] === undefined);
});

await t.test(
  'an entry deleted, an agent killed and another started: the last set stays, the next is found',
  async (t) => {
    const agent = await one.startAgent();
    const entry = await one.createEntry({ path: '/orders', ttlSeconds: 120 });
    const kept = keep(t, agent);
    await kept.set(1);
    let serial = kept.serial;
    await one.deleteEntry(entry);
    await kept.failure(/PERMISSION_DENIED: no identity issued; no registration entry fits/);
    t.equal(kept.serial, serial, 'the last set is still in force');
    t.notOk(kept.keeper.expired);
    const again = await one.createEntry({ path: '/orders', ttlSeconds: 120 });
    t.teardown(() => one.deleteEntry(again));
    await until('a new set', () => kept.serial !== serial);

    serial = kept.serial;
    const failures = kept.failures.length;
    await agent.kill();
    await kept.failure(/workload API .*: (UNAVAILABLE|the socket is not there)/, failures);
    t.equal(kept.serial, serial, 'the last set is still in force');
    const next = await one.startAgent(agent.socket);
    t.teardown(() => next.kill());
    await until('a set of the new agent', () => kept.serial !== serial);
    await until('all to be well', () => kept.keeper.state.failures === 0);
  },
);

await t.test('an agent that hangs', async (t) => {
  const agent = await one.startAgent();
  t.teardown(() => agent.kill());
  const entry = await one.createEntry({ path: '/orders' });
  t.teardown(() => one.deleteEntry(entry));
  const kept = keep(t, { socket: agent.socket, deadlineMs: 500 });
  await kept.set(2);
  agent.process.signal('SIGSTOP');
  const { serial } = kept;
  await kept.failure(/gave no answer within 0\.5 s; does the agent hang/);
  t.notOk(kept.keeper.expired, 'it is known before the set expires');
  t.equal(kept.serial, serial);
  agent.process.signal('SIGCONT');
  await until('a new set', () => kept.serial !== serial);
});
