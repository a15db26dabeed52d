/** Revocation by the embedded CA: its lists in the eyes of OpenSSL and of our own reader, and how long entries stay. */
import { X509Certificate } from 'node:crypto';
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type CrlFile, crlDue, signLast, writeCrl } from '../../ca-client/ca-crl.ts';
import { type RevocationWish, revoke } from '../../ca-client/ca-revoke.ts';
import type { Issued } from '../../ca-client/embedded-ca.ts';
import { makeRequest } from '../../ca-client/request.ts';
import { readCertificate } from '../../mesh/certificates.ts';
import { RevocationLists } from '../../mesh/crl.ts';
import { identityOf } from '../../mesh/identity.ts';
import { type CaWorld, caWorld, HOUR, renewIntermediate } from './ca-world.ts';
import { openssl, orders, temporaryFolder } from './helper.ts';

const MINUTE = 60_000;

function revokeIn(world: CaWorld, wish: RevocationWish, reason: string | null = null) {
  return world.ca.access.locked((view) => revoke(view, wish, reason));
}

function write(world: CaWorld, ttlMs: number | null = null): Promise<CrlFile> {
  return world.ca.access.locked((view) => writeCrl(view, ttlMs));
}

const crlOf = ({ dir }: CaWorld) => join(dir, 'crl.pem');

/** What OpenSSL says of a leaf when it looks at the CA's list. */
async function checked(world: CaWorld, issued: Issued): Promise<string> {
  const text = await world.verify(issued, undefined, '-crl_check', '-CRLfile', crlOf(world));
  return /certificate revoked/.test(text) ? 'revoked' : text;
}

/** What our own reader says. */
function ours(world: CaWorld, { chain, roots, serial }: Issued): string {
  const lists = RevocationLists.read(readFileSync(crlOf(world)));
  const issuer = new X509Certificate(chain[1] ?? roots[0] ?? '');
  const verdict = lists.check(serial, {
    facts: readCertificate(issuer.raw),
    publicKey: issuer.publicKey,
  });
  return typeof verdict === 'string' ? verdict : verdict.reason;
}

for (const [kind, rootDirOf] of [
  ['a root', () => null],
  ['an intermediate', (t: Parameters<typeof temporaryFolder>[0]) => join(temporaryFolder(t), 'root')],
] as const) {
  t.test(`${kind} signs the list`, async (t) => {
    const world = await caWorld(t, { rootDir: rootDirOf(t) });
    const [gone, stays] = [await world.issue(), await world.issue()];
    await write(world);
    t.equal(await checked(world, gone), 'OK', 'an empty list');
    const done = await revokeIn(world, { serial: gone.serial }, 'keyCompromise');
    t.match(done, { revoked: [{ serial: gone.serial, identity: orders.uri }], before: [] });
    t.equal(await checked(world, gone), 'revoked');
    t.equal(await checked(world, stays), 'OK');
    t.equal(ours(world, gone), 'revoked');
    t.equal(ours(world, stays), 'good');
    const issuer = join(world.dir, kind === 'a root' ? 'root-cert.pem' : 'ca-cert.pem');
    const text = await openssl('crl', '-in', crlOf(world), '-noout', '-text', '-verify', '-CAfile', issuer);
    t.match(text, /verify OK/);
    t.match(text, /Version 2/);
    t.match(text, /Signature Algorithm: ecdsa-with-SHA256/);
    t.match(text, /Authority Key Identifier/);
    t.match(text, /CRL Number/);
    t.match(text, /CRL Reason Code: \n\s+Key Compromise/);
    t.match(text, new RegExp(`Serial Number: ${gone.serial}`, 'i'));
  });
}

t.test('which certificates are meant', async (t) => {
  const world = await caWorld(t);
  const web = identityOf('cluster.local', 'shop', 'web');
  const [one, two] = [await world.issue(), await world.issue()];
  const other = await world.ca.issueWithKey(web, HOUR);
  const short = await world.issue(1_000);
  world.pass(3_000);
  const colons = one.serial.toUpperCase().replace(/..(?=.)/g, '$&:');
  const serials = async (wish: RevocationWish) =>
    (await revokeIn(world, wish))?.revoked.map(({ serial }) => serial) ?? null;
  t.equal(await serials({ serial: short.serial }), null, 'it has expired');
  t.equal(await serials({ serial: 'abcd' }), null, 'nobody’s');
  t.equal(await serials({ identity: 'spiffe://cluster.local/ns/shop/sa/nobody' }), null);
  t.same(await serials({ serial: colons }), [one.serial], 'as OpenSSL writes it');
  t.same(await serials({ serial: one.serial }), [], 'it was before');
  t.same(await serials({ identity: orders.uri }), [two.serial], 'the rest of an identity');
  t.same(await serials({ certificatePem: other.certificatePem }), [other.serial]);
  t.equal(await checked(world, two), 'revoked');
  await t.rejects(serials({ certificatePem: short.certificatePem }), /has expired/);
  await t.rejects(serials({ certificatePem: world.ca.rootPem }), /is a CA's/);
  await t.rejects(serials({ certificatePem: 'x' }), /no PEM certificate/);
  const stranger = await (await caWorld(t)).issue();
  await t.rejects(serials({ certificatePem: stranger.certificatePem }), /was not issued by the CA of/);
});

t.test('a certificate the log has lost is revoked by itself', async (t) => {
  const world = await caWorld(t);
  const issued = await world.issue();
  writeFileSync(join(world.dir, 'issued.jsonl'), '');
  t.equal(await revokeIn(world, { serial: issued.serial }), null);
  t.match(await revokeIn(world, { certificatePem: issued.certificatePem }), {
    revoked: [{ identity: orders.uri }],
  });
  t.equal(await checked(world, issued), 'revoked');
});

t.test('the key of a revoked certificate is signed no more', async (t) => {
  const world = await caWorld(t);
  const { csrPem } = await makeRequest(orders);
  const issued = await world.ca.issueForRequest(csrPem, orders, HOUR);
  await world.ca.issueForRequest(csrPem, orders, HOUR);
  await revokeIn(world, { serial: issued.serial });
  const again = () => world.ca.issueForRequest(csrPem, orders, HOUR);
  await t.rejects(again(), { name: 'RequestError', message: /was revoked/ });
  world.pass(2 * HOUR);
  await t.rejects(again(), { name: 'RequestError' }, 'not when it has expired either');
  const later = await caWorld(t, { dir: world.dir });
  await t.rejects(later.ca.issueForRequest(csrPem, orders, HOUR), { name: 'RequestError' }, 'nor elsewhere');
  await world.issue();
});

t.test('an entry stays until it was on a list written after its certificate’s end', async (t) => {
  const world = await caWorld(t);
  const issued = await world.issue(HOUR);
  await revokeIn(world, { serial: issued.serial });
  const entries = async () => (await write(world)).entries;
  t.equal(await entries(), 1);
  world.pass(HOUR + 2 * MINUTE);
  t.equal(await entries(), 1, 'the first after its end');
  world.pass(2 * MINUTE);
  t.equal(await entries(), 0);
});

t.test('numbers go up, and the length stays', async (t) => {
  const world = await caWorld(t);
  const week = await write(world);
  t.equal(week.nextUpdate - week.thisUpdate, 7 * 24 * HOUR + MINUTE, 'a week at first');
  const hour = await write(world, HOUR);
  t.equal(hour.nextUpdate - hour.thisUpdate, HOUR + MINUTE, 'in the past by a minute, for clocks differ');
  const next = await write(world);
  t.equal(next.nextUpdate - next.thisUpdate, HOUR + MINUTE);
  const numbers: string[] = [];
  for (let i = 0; i < 3; i++) {
    if (i === 2) world.pass(-10 * MINUTE); // a clock set back
    await write(world);
    const text = await openssl('crl', '-in', crlOf(world), '-noout', '-crlnumber');
    numbers.push(/=(?:0x)?([0-9A-F]+)/i.exec(text)?.[1] ?? '');
  }
  const values = numbers.map((text) => BigInt(`0x${text}`));
  t.ok(values[0] !== undefined && values[1] !== undefined && values[2] !== undefined);
  t.ok((values[0] ?? 0n) < (values[1] ?? 0n) && (values[1] ?? 0n) < (values[2] ?? 0n), numbers.join(' < '));
});

t.test('each key whose certificates are valid has its list', async (t) => {
  const world = await caWorld(t, { rootDir: join(temporaryFolder(t), 'root') });
  const old = await world.issue();
  await renewIntermediate(world, 24 * HOUR);
  const fresh = await world.issue();
  t.not(old.chain[1], fresh.chain[1]);
  const lists = () => readFileSync(crlOf(world), 'utf8').match(/BEGIN X509 CRL/g)?.length;
  await revokeIn(world, { serial: old.serial });
  t.equal(lists(), 2);
  t.equal(await checked(world, old), 'revoked', 'by the former intermediate');
  t.equal(await checked(world, fresh), 'OK');
  t.equal(ours(world, old), 'revoked');
  t.equal(ours(world, fresh), 'good');
  t.equal(readdirSync(join(world.dir, 'former')).length, 1);
  world.pass(HOUR + 2_000);
  await write(world);
  t.equal(lists(), 1, 'the former one’s certificates have expired');
  t.same(readdirSync(join(world.dir, 'former')), [], 'and its key is gone');
});

t.test('both roots of a rotation have a list', async (t) => {
  const world = await caWorld(t);
  const lists = () => readFileSync(crlOf(world), 'utf8').match(/BEGIN X509 CRL/g)?.length;
  await world.issue();
  // what a step that was cut off leaves
  copyFileSync(join(world.dir, 'root-key.pem'), join(world.dir, 'old-root-key.pem'));
  await write(world);
  t.equal(lists(), 1, 'one key, one list');
  await world.step('add');
  const old = await world.issue();
  await revokeIn(world, { serial: old.serial });
  await world.step('issue', true);
  const fresh = await world.issue();
  t.equal(await checked(world, old), 'revoked');
  t.equal(await checked(world, fresh), 'OK', 'the step wrote the new root’s');
  t.equal(lists(), 2);
  await revokeIn(world, { serial: fresh.serial });
  t.equal(await checked(world, fresh), 'revoked');
  t.equal(ours(world, { ...fresh, roots: fresh.roots.slice(1) }), 'revoked');
});

for (const [kind, rootDirOf] of [
  ['a root', () => null],
  ['an intermediate', (t: Parameters<typeof temporaryFolder>[0]) => join(temporaryFolder(t), 'root')],
] as const) {
  t.test(`${kind}: whoever still trusts a retired root finds whom it revoked`, async (t) => {
    const world = await caWorld(t, { rootDir: rootDirOf(t) });
    await write(world, HOUR);
    await world.step('add');
    const gone = await world.issue(10 * HOUR);
    await revokeIn(world, { serial: gone.serial });
    t.equal(await world.step('issue'), true);
    const held = await world.issue(12 * HOUR);
    // `ours` asks for the list of the CA that issued
    const holder = { ...held, roots: held.roots.slice(1) };
    const due = () => world.ca.access.locked((view) => crlDue(view));
    world.pass(2 * HOUR);
    await write(world);
    t.equal(ours(world, gone), 'revoked', 'while both are given out');
    t.equal(await world.step('retire'), true, 'of the old root there is none in force');
    const fresh = await world.issue(24 * HOUR);
    for (let i = 0; i < 2; i++) {
      t.equal(ours(world, gone), 'revoked', `${holder.serial} trusts the old root yet`);
      t.equal(ours(world, fresh), 'good');
      t.ok((await due()) > world.now(), 'no other list is wanted');
      const lists = RevocationLists.read(readFileSync(crlOf(world)));
      t.same(lists.stale(world.now()), [], 'nor is one past its time');
      world.pass(90 * 60_000);
      t.equal((await revokeIn(world, { serial: holder.serial }))?.crl.entries, 2, 'there is a next edition');
    }
    t.equal(ours(world, holder), 'revoked', 'and it has the list of the new root');
    world.pass(8 * HOUR);
    t.ok((await due()) <= world.now(), 'nobody trusts it any more');
    await write(world);
    t.equal(ours(world, gone), 'unlisted');
    t.same(readdirSync(join(world.dir, 'former')), [], 'and nothing is left of it');
  });
}

t.test('a root without certificates has its list while it is given out', async (t) => {
  const world = await caWorld(t);
  await world.step('add');
  const old = await world.issue();
  await world.step('issue');
  world.pass(2 * HOUR);
  await write(world);
  t.equal(ours(world, old), 'good', 'for sidecars trust it');
  t.equal(await world.step('retire'), true);
  t.equal(ours(world, old), 'unlisted', 'and nobody has anything that was handed out with it');
  t.notOk(existsSync(join(world.dir, 'former')));
});

t.test('a retirement that is cut off has one list of a root', async (t) => {
  const world = await caWorld(t);
  await world.step('add');
  await world.step('issue');
  const holder = await world.issue();
  const old = holder.roots[0] ?? '';
  await write(world);
  const lists = () => RevocationLists.read(readFileSync(crlOf(world))).lists.length;
  await world.ca.access.locked((view) => signLast(view, view.state.roots[0]?.fingerprint ?? ''));
  t.equal(readdirSync(join(world.dir, 'former')).length, 1, 'it got so far');
  await write(world);
  t.equal(lists(), 2);
  t.equal(await world.step('retire'), true);
  t.equal(lists(), 2, 'of the old root its last');
  t.equal(ours(world, { ...holder, chain: [old] }), 'good');
});

t.test('when a list is due', async (t) => {
  const world = await caWorld(t, { rootDir: join(temporaryFolder(t), 'root') });
  const due = () => world.ca.access.locked((view) => crlDue(view));
  t.ok((await due()) <= world.now(), 'there is none');
  const { thisUpdate, nextUpdate } = await write(world, HOUR);
  t.equal(await due(), (thisUpdate + nextUpdate) / 2);
  await world.issue();
  await renewIntermediate(world, 24 * HOUR);
  t.ok((await due()) <= world.now(), 'another key signs now');
  await write(world);
  t.ok((await due()) > world.now());
  writeFileSync(crlOf(world), 'rubbish');
  await t.rejects(write(world), /crl.pem cannot be used: .*; remove it, and a new one is written/);
  t.ok(existsSync(crlOf(world)));
});
