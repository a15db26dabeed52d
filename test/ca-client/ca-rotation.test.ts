/** The exchange of the embedded CA's root: what is given out at each step, what a step waits for, and how it stands crashes. */

import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import t from 'tap';
import { NotYetError, type RotationStep } from '../../ca-client/ca-rotation.ts';
import { type CaWorld, caWorld, HOUR, YEAR } from './ca-world.ts';
import { temporaryFolder } from './helper.ts';

type Tap = Parameters<typeof temporaryFolder>[0];

/** The same for a root in the CA's folder and for one in a folder of its own. */
const kinds: readonly (readonly [string, (t: Tap) => string | null])[] = [
  ['its own root', () => null],
  ['an intermediate', (t) => join(temporaryFolder(t), 'root')],
];

for (const [kind, rootDirOf] of kinds) {
  t.test(`${kind}: at each step everyone trusts everyone`, async (t) => {
    const world = await caWorld(t, { rootDir: rootDirOf(t) });
    const settled = await world.issue();
    t.equal(settled.roots.length, 1);
    t.equal(await world.phase(), 'settled');

    t.equal(await world.step('add'), true);
    const added = await world.issue();
    t.equal(await world.phase(), 'added');
    t.equal(added.roots.length, 2, 'both are given out');
    t.equal(
      await world.verify(added, settled.roots),
      'OK',
      'the old root signs: who knows it alone is content',
    );

    world.pass(HOUR + 2_000);
    const lastOfOld = await world.issue();
    t.equal(await world.step('issue'), true);
    const issuing = await world.issue();
    t.equal(await world.phase(), 'issuing');
    t.same(issuing.roots, added.roots);
    t.match(await world.verify(issuing, settled.roots), /unable to get (local )?issuer certificate/);
    t.equal(await world.verify(issuing, added.roots), 'OK');
    t.equal(await world.verify(lastOfOld, issuing.roots), 'OK', 'the old root still counts');

    world.pass(HOUR + 2_000);
    const last = await world.issue();
    t.equal(await world.step('retire'), true);
    const retired = await world.issue();
    t.equal(await world.phase(), 'settled');
    t.same(retired.roots, added.roots.slice(1), 'the new root alone');
    t.equal(await world.verify(last, retired.roots), 'OK');
    t.equal(readFileSync(world.ca.rootFile, 'utf8'), retired.roots.join(''), 'root-cert.pem says the same');
    const keys = readdirSync(world.rootDir ?? world.dir).filter((name) => name.endsWith('key.pem'));
    t.same(keys, ['root-key.pem'], 'no key of the old root is left');

    t.equal(await world.step('add'), true, 'and again');
    t.equal((await world.issue()).roots.length, 2);
  });

  t.test(`${kind}: a step waits for what it would cut off`, async (t) => {
    const world = await caWorld(t, { rootDir: rootDirOf(t) });
    const { notAfter } = await world.issue(2 * HOUR);
    await world.issue(HOUR);
    await world.step('add');
    await world.issue(5 * HOUR);
    const until = new Date(notAfter).toISOString();
    await t.rejects(world.step('issue'), {
      name: 'NotYetError',
      message: new RegExp(
        `2 valid certificates handed out without the new root .*/sa/orders.*expires at ${until}`,
      ),
    });
    world.pass(HOUR + 2_000);
    await t.rejects(world.step('issue'), /1 valid certificate handed out without/);
    world.pass(HOUR + 2_000);
    t.equal(await world.step('issue'), true);
    await t.rejects(world.step('retire'), /1 valid certificate issued by the old root/);
    t.equal(await world.phase(), 'issuing', 'nothing was done');
    t.equal(await world.step('retire', true), true, '--force');
    const forced = readFileSync(join(world.dir, 'issued.jsonl'), 'utf8').match(/.*"root-retired".*/)?.[0];
    t.match(JSON.parse(forced ?? ''), { event: 'root-retired', forced: true }, 'and the log tells');
  });

  t.test(`${kind}: a step cut off anywhere leaves a CA that works, and can be taken again`, async (t) => {
    const before = { dir: temporaryFolder(t), rootDir: rootDirOf(t) };
    const first = await caWorld(t, before);
    await first.issue(1_000);
    const steps: readonly RotationStep[] = ['add', 'issue', 'retire'];
    for (const step of steps) {
      let cuts = 0;
      for (let cut = 0; ; cut++) {
        const copy = { dir: temporaryFolder(t), rootDir: before.rootDir && temporaryFolder(t) };
        cpSync(before.dir, copy.dir, { recursive: true });
        if (before.rootDir !== null && copy.rootDir !== null) {
          cpSync(before.rootDir, copy.rootDir, { recursive: true });
        }
        const world = await caWorld(t, copy);
        world.pass(HOUR + 10_000);
        if (!(await cutOff(cut, () => world.step(step)))) break;
        cuts++;
        const again = await caWorld(t, copy);
        again.pass(HOUR + 10_000);
        const issued = await again.issue(1_000);
        t.equal(await again.verify(issued), 'OK', `${step}, cut off before change ${cut}: it issues`);
        await again.step(step).catch((error: Error) => {
          // the change that counts was made before the cut
          if (!(error instanceof NotYetError) || step !== 'retire') throw error;
        });
        t.equal(
          await again.phase(),
          { add: 'added', issue: 'issuing', retire: 'settled' }[step],
          'taken again',
        );
        t.equal(await again.verify(await again.issue()), 'OK');
        if (step === 'issue') {
          t.ok(
            existsSync(join(copy.rootDir ?? copy.dir, 'old-root-key.pem')),
            'the old root can still revoke',
          );
        }
      }
      t.ok(cuts >= 2, `${step} changes files at ${cuts} moments`);
      const world = await caWorld(t, before);
      world.pass(HOUR + 10_000);
      await world.step(step);
    }
  });
}

/** Runs `work` while the file system fails from the `cut`-th change of a name on, as if we had died there. */
async function cutOff(cut: number, work: () => Promise<unknown>): Promise<boolean> {
  const real = { rename: fs.rename, link: fs.link, unlink: fs.unlink };
  let left = cut;
  const dying =
    <A extends unknown[]>(change: (...args: A) => Promise<void>) =>
    (...args: A) =>
      left-- > 0 ? change(...args) : Promise.reject(new Error('cut off'));
  Object.assign(fs, { rename: dying(real.rename), link: dying(real.link), unlink: dying(real.unlink) });
  syncBuiltinESMExports();
  try {
    await work();
    return false;
  } catch (error) {
    if (!(error as Error).message.includes('cut off')) throw error;
    return true;
  } finally {
    Object.assign(fs, real);
    syncBuiltinESMExports();
  }
}

t.test('steps out of turn', async (t) => {
  const world = await caWorld(t);
  const refused = (step: RotationStep, words: RegExp) =>
    t.rejects(world.step(step, true), { name: 'NotYetError', message: words }, step);
  await refused('issue', /no rotation is under way; it begins with step add/);
  await refused('retire', /no rotation is under way/);
  await world.step('add');
  t.equal(await world.step('add'), false, 'taken before');
  await refused('retire', /next step is issue/);
  await world.step('issue');
  t.equal(await world.step('issue'), false, 'taken before');
  await refused('add', /next step is retire/);
});

t.test('without the log of the step before nobody knows what to wait for', async (t) => {
  const world = await caWorld(t);
  await world.step('add');
  rmSync(join(world.dir, 'issued.jsonl'));
  await t.rejects(world.step('issue'), /the audit log does not go back to the step before/);
  t.equal(await world.step('issue', true), true);
});

t.test('a revoked certificate and the CA server’s own hold nothing up', async (t) => {
  const { revoke } = await import('../../ca-client/ca-revoke.ts');
  const world = await caWorld(t);
  await world.ca.issueServer(['localhost'], HOUR);
  const { serial } = await world.issue();
  await world.step('add');
  await t.rejects(world.step('issue'), /1 valid certificate /);
  await world.ca.access.locked((view) => revoke(view, { serial }, null));
  t.equal(await world.step('issue'), true);
  t.equal(await world.step('retire'), true);
});

t.test('two CAs below one root rotate one after the other', async (t) => {
  const rootDir = join(temporaryFolder(t), 'root');
  const [one, two] = [await caWorld(t, { rootDir }), await caWorld(t, { rootDir })];
  t.same(one.ca.rootPem, two.ca.rootPem);
  for (const step of ['add', 'issue', 'retire'] as const) {
    for (const world of [one, two]) t.equal(await world.step(step), true, step);
    t.same((await one.issue(1_000)).roots, (await two.issue(1_000)).roots);
    for (const world of [one, two]) world.pass(HOUR);
  }
  t.equal(await one.verify(await two.issue(), (await one.issue()).roots), 'OK');
});

t.test('what is not there to be rotated', async (t) => {
  const world = await caWorld(t, { rootDir: join(temporaryFolder(t), 'root') });
  const elsewhere = await caWorld(t, { dir: world.dir });
  await t.rejects(
    elsewhere.step('add'),
    /its? root|the root of .* is kept in another folder; name it with --root-dir/,
  );
  const other = await caWorld(t);
  await t.rejects(
    world.ca.access.locked(async (view) => {
      const { rotateRoot } = await import('../../ca-client/ca-rotation.ts');
      return rotateRoot(view, { step: 'add', force: false, ttlMs: YEAR, rootDir: world.dir });
    }),
    /is the CA's own folder/,
  );
  t.ok(existsSync(other.ca.rootFile));
});

t.test('others see a change with their next certificate', async (t) => {
  const dir = temporaryFolder(t);
  const [one, two] = [await caWorld(t, { dir }), await caWorld(t, { dir })];
  await one.issue();
  await two.step('add');
  t.equal((await one.issue()).roots.length, 2);
  await Promise.all([two.step('issue', true), one.issue(), one.issue()]);
  const [, fresh] = (await one.issue()).roots;
  const issued: [CaWorld, string][] = [
    [one, fresh ?? ''],
    [two, fresh ?? ''],
  ];
  for (const [world, root] of issued) t.equal(await world.verify(await world.issue(), [root]), 'OK');
});
