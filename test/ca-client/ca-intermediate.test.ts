/** An embedded CA below a root that is kept elsewhere: its intermediate's making, renewal and end. */

import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type CaLog, caUpkeep } from '../../ca-client/ca-upkeep.ts';
import { readCertificate } from '../../mesh/certificates.ts';
import { type CaWorld, caWorld, HOUR, renewIntermediate, YEAR } from './ca-world.ts';
import { openssl, temporaryFolder } from './helper.ts';

const DAY = 24 * HOUR;
type Tap = Parameters<typeof temporaryFolder>[0];

function below(t: Tap): Promise<CaWorld> {
  return caWorld(t, { rootDir: join(temporaryFolder(t), 'root') });
}

const intermediateOf = ({ dir }: CaWorld) => readFileSync(join(dir, 'ca-cert.pem'), 'utf8');
const endOf = (pem: string) => readCertificate(new X509Certificate(pem).raw).notAfter;

function keeping({ ca }: CaWorld, rootDir: string | null) {
  const lines: Record<string, unknown>[] = [];
  const log: CaLog = {
    info: (record) => lines.push({ ...record }),
    warn: (record) => lines.push({ ...record }),
  };
  const root = rootDir === null ? null : { dir: rootDir, trustDomain: null, ttlMs: YEAR };
  return { upkeep: caUpkeep({ access: ca.access, root, log }), lines };
}

t.test('the intermediate, as OpenSSL sees it', async (t) => {
  const world = await below(t);
  const text = await openssl('x509', '-in', join(world.dir, 'ca-cert.pem'), '-noout', '-text');
  t.match(text, /Basic Constraints: critical\s+CA:TRUE, pathlen:0\n/);
  t.match(text, /Key Usage: critical\s+Certificate Sign, CRL Sign\n/);
  t.match(text, /URI:spiffe:\/\/cluster.local\n/);
  t.match(text, /Subject Key Identifier/);
  t.match(text, /Authority Key Identifier/);
  t.equal(statSync(join(world.dir, 'ca-key.pem')).mode & 0o777, 0o600);
  t.notOk(existsSync(join(world.dir, 'root-key.pem')), 'the root’s key stays where it is');
  t.ok(Math.abs(endOf(intermediateOf(world)) - Date.now() - 90 * DAY) < 60_000);
  t.equal(await world.verify(await world.issue()), 'OK');
});

t.test('it serves without the root’s folder, and nothing outlives it', async (t) => {
  const world = await below(t);
  const { rootDir } = world;
  if (rootDir === null) throw new Error('no root');
  await renewIntermediate(world, 2 * HOUR);
  renameSync(rootDir, `${rootDir}-offline`);
  const offline = await caWorld(t, { dir: world.dir });
  const issued = await offline.issue(DAY);
  t.equal(issued.notAfter, endOf(intermediateOf(world)), 'cut to the intermediate');
  t.equal(await offline.verify(issued), 'OK');
  offline.pass(2 * HOUR + 2_000);
  await t.rejects(offline.issue(), /root or intermediate .*intermediate.* expired at .*; make a new one/);
});

t.test('an intermediate ends with its root at the latest', async (t) => {
  const world = await below(t);
  await renewIntermediate(world, 50 * YEAR);
  t.equal(endOf(intermediateOf(world)), endOf(world.ca.rootPem));
});

t.test('renewed at two thirds of its life, for as long again', async (t) => {
  const world = await below(t);
  await renewIntermediate(world, 90 * DAY);
  const { upkeep, lines } = keeping(world, world.rootDir);
  const first = intermediateOf(world);
  await upkeep.look();
  world.pass(59 * DAY);
  await upkeep.look();
  t.equal(intermediateOf(world), first, 'not yet');
  const before = await world.issue();
  world.pass(1.1 * DAY);
  await upkeep.look();
  const second = intermediateOf(world);
  t.not(second, first);
  t.ok(Math.abs(endOf(second) - world.now() - 90 * DAY) < 61_000, 'as long as the first');
  t.match(
    lines.filter(({ event }) => event === 'intermediate'),
    [{ event: 'intermediate' }],
  );
  const after = await world.issue();
  t.same(after.chain[1], second);
  t.equal(await world.verify(after, before.roots), 'OK', 'the roots are the same');
});

t.test('without the root’s folder its end is warned of', async (t) => {
  const world = await below(t);
  await renewIntermediate(world, 90 * DAY);
  const { upkeep, lines } = keeping(world, null);
  const warnings = () => lines.filter(({ event }) => event === 'intermediate-ends').length;
  world.pass(59 * DAY);
  await upkeep.look();
  t.equal(warnings(), 0);
  world.pass(1.1 * DAY);
  await upkeep.look();
  world.pass(HOUR / 2);
  await upkeep.look();
  t.equal(warnings(), 1, 'once');
  world.pass(2 * HOUR);
  await upkeep.look();
  t.equal(warnings(), 2, 'and again later');
});

t.test('a root’s end is warned of', async (t) => {
  const world = await caWorld(t);
  const { upkeep, lines } = keeping(world, null);
  await upkeep.look();
  world.pass(8.9 * YEAR);
  await upkeep.look();
  t.notOk(lines.some(({ event }) => event === 'root-ends'));
  world.pass(0.2 * YEAR);
  await upkeep.look();
  t.ok(lines.some(({ event }) => event === 'root-ends'));
});

t.test('the list is kept fresh', async (t) => {
  const world = await caWorld(t);
  const { upkeep } = keeping(world, null);
  await upkeep.look();
  const list = () => readFileSync(join(world.dir, 'crl.pem'), 'utf8');
  const first = list();
  world.pass(3 * DAY);
  await upkeep.look();
  t.equal(list(), first);
  world.pass(0.6 * DAY);
  await upkeep.look();
  t.not(list(), first, 'at half of its week');
});

t.test('what goes wrong is said, and tried again', async (t) => {
  const world = await caWorld(t);
  const { upkeep, lines } = keeping(world, null);
  writeFileSync(join(world.dir, 'crl.pem'), 'rubbish');
  await upkeep.look();
  t.match(lines, [{ event: 'upkeep', error: /crl.pem cannot be used/ }]);
  writeFileSync(join(world.dir, 'crl.pem'), '');
  await upkeep.look();
  t.equal(lines.length, 1, 'not at once');
  renameSync(join(world.dir, 'crl.pem'), join(world.dir, 'gone'));
  world.pass(31_000);
  await upkeep.look();
  t.match(lines.at(-1), { event: 'crl' });
});

t.test('an intermediate that is lost, or half made, is issued again', async (t) => {
  for (const lost of [['ca-key.pem'], ['ca-cert.pem'], ['ca-cert.pem', 'ca-key.pem']]) {
    const world = await below(t);
    const before = await world.issue();
    for (const name of lost) rmSync(join(world.dir, name));
    await t.rejects(world.issue(), lost.join(' and '));
    await renewIntermediate(world, DAY);
    const issued = await world.issue();
    t.equal(await world.verify(issued, before.roots), 'OK');
  }
});

t.test('folders that do not go together', async (t) => {
  const own = await caWorld(t);
  const world = await below(t);
  const other = await below(t);
  const rootOf = (rootDir: string | null) => caWorld(t, { dir: own.dir, rootDir });
  await t.rejects(rootOf(world.rootDir), /has a root of its own .*; use a new folder for the intermediate/);
  await t.rejects(caWorld(t, { rootDir: world.dir }), /holds no root, but an intermediate of one/);
  const dir = temporaryFolder(t);
  await t.rejects(caWorld(t, { dir, rootDir: dir }), /is the CA's own folder/);
  await t.rejects(
    renewIntermediate({ ...world, rootDir: other.rootDir }, DAY),
    /the root that signs in .* is another than that of .*rotate-root/,
  );
  const empty = temporaryFolder(t);
  const unmounted = { ...world, rootDir: empty };
  await t.rejects(
    renewIntermediate(unmounted, DAY),
    /holds no root; is it the right folder, and is it mounted/,
  );
  t.same(readdirSync(empty), [], 'and none is made there');
  t.equal(await world.verify(await world.issue()), 'OK', 'and nothing was changed');
  writeFileSync(join(world.dir, 'ca-cert.pem'), intermediateOf(other));
  await t.rejects(world.issue(), /ca-cert.pem cannot be used: it was issued by no root of/);
  writeFileSync(join(world.dir, 'root-cert.pem'), other.ca.rootPem);
  await t.rejects(
    world.issue(),
    /its key is not in ca-key.pem; issue a new one with oarlock ca intermediate/,
  );
});
