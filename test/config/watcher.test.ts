/** Watching folders: every change is noticed, the tenth as surely as the first, and nothing is left behind. */
import {
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { ResourceSet } from '../../config/folder.ts';
import type { FolderWatcher } from '../../config/watcher.ts';
import { watchFolders } from '../../config/watcher.ts';
import { until } from '../e2e/harness/wait.ts';

const policy = (name: string): string =>
  `apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: ${name}}\n`;
const names = (set: ResourceSet): string => set.resources.map(({ name }) => name).join(' ');
const hasError = (set: ResourceSet): boolean => set.problems.some(({ severity }) => severity === 'Error');

interface Watched {
  readonly watcher: FolderWatcher;
  readonly sets: ResourceSet[];
  /** The first set after the `seen`th for which `holds`; fails after 30 s. */
  until(holds: (set: ResourceSet) => boolean): Promise<ResourceSet>;
}

function start(t: Test, paths: readonly string[], pollInterval = 100): Watched {
  const sets: ResourceSet[] = [];
  let wake = (): void => {};
  const watcher = watchFolders({
    paths,
    pollInterval,
    quiet: 10,
    onChange(set) {
      sets.push(set);
      wake();
    },
  });
  t.teardown(() => watcher.close());
  let seen = 0;
  return {
    watcher,
    sets,
    async until(holds) {
      const deadline = AbortSignal.timeout(30_000);
      for (;;) {
        for (; seen < sets.length; seen++) {
          const set = sets[seen];
          if (set !== undefined && holds(set)) {
            seen++;
            return set;
          }
        }
        if (deadline.aborted) throw new Error(`not noticed; the last set was: ${names(watcher.current)}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
          deadline.addEventListener('abort', () => resolve(), { once: true });
        });
      }
    },
  };
}

/** Kubernetes' AtomicWriter: a new folder, a new `..data_tmp` link, renamed over `..data`, the old folder removed. */
function swap(dir: string, generation: number, text: string): void {
  const fresh = `..gen${generation}`;
  mkdirSync(join(dir, fresh));
  writeFileSync(join(dir, fresh, 'x.yaml'), text);
  symlinkSync(fresh, join(dir, '..data_tmp'));
  renameSync(join(dir, '..data_tmp'), join(dir, '..data'));
  rmSync(join(dir, `..gen${generation - 1}`), { recursive: true, force: true });
}

/** With hints from the kernel, and by the poll alone (as on a network file system). */
for (const [how, pollInterval] of [
  ['hints', 60_000],
  ['poll', 50],
] as const) {
  t.test(`ten swaps of ..data, by ${how}`, async (t) => {
    const dir = t.testdir({});
    swap(dir, 0, policy('g0'));
    symlinkSync(join('..data', 'x.yaml'), join(dir, 'x.yaml'));
    const watched = start(t, [dir], pollInterval);
    t.equal(names(watched.watcher.current), 'g0');
    for (let i = 1; i <= 10; i++) {
      swap(dir, i, policy(`g${i}`));
      t.equal(names(await watched.until(() => true)), `g${i}`, `swap ${i}`);
    }
  });

  t.test(`an editor’s rename and replace, by ${how}`, async (t) => {
    const dir = t.testdir({ 'x.yaml': policy('p0') });
    const watched = start(t, [join(dir, 'x.yaml')], pollInterval);
    for (let i = 1; i <= 5; i++) {
      writeFileSync(join(dir, '.x.yaml.swp'), policy(`p${i}`));
      renameSync(join(dir, '.x.yaml.swp'), join(dir, 'x.yaml'));
      t.equal(names(await watched.until(() => true)), `p${i}`);
    }
  });
}

t.test('files that come and go, and folders', async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('a') });
  const watched = start(t, [dir]);
  writeFileSync(join(dir, 'b.yaml'), policy('b'));
  t.equal(names(await watched.until(() => true)), 'a b');
  mkdirSync(join(dir, 'sub'));
  writeFileSync(join(dir, 'sub', 'c.yaml'), policy('c'));
  t.equal(names(await watched.until(() => true)), 'a b c');
  writeFileSync(join(dir, 'sub', 'c.yaml'), policy('cc'));
  t.equal(names(await watched.until(() => true)), 'a b cc', 'in the new folder too');
  unlinkSync(join(dir, 'b.yaml'));
  t.equal(names(await watched.until(() => true)), 'a cc');
});

t.test('a broken file, then mended', async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('a') });
  const watched = start(t, [dir]);
  writeFileSync(join(dir, 'a.yaml'), 'a: [');
  t.match(await watched.until(hasError), { problems: [{ file: join(dir, 'a.yaml') }] });
  writeFileSync(join(dir, 'a.yaml'), policy('mended'));
  t.equal(names(await watched.until((set) => !hasError(set))), 'mended');
});

t.test('the folder disappears and returns', async (t) => {
  const dir = join(t.testdir({}), 'mesh');
  mkdirSync(dir);
  writeFileSync(join(dir, 'a.yaml'), policy('a'));
  const watched = start(t, [dir]);
  rmSync(dir, { recursive: true });
  t.match(await watched.until(hasError), { problems: [{ file: dir, message: /ENOENT/ }] }, 'is a problem');
  mkdirSync(dir);
  writeFileSync(join(dir, 'a.yaml'), policy('back'));
  t.equal(names(await watched.until((set) => !hasError(set) && set.resources.length > 0)), 'back');
  writeFileSync(join(dir, 'a.yaml'), policy('again'));
  t.equal(names(await watched.until(() => true)), 'again', 'and is watched as before');
});

t.test('the same content is no change', async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('a') });
  const watched = start(t, [dir], 20);
  utimesSync(join(dir, 'a.yaml'), new Date(), new Date());
  writeFileSync(join(dir, 'a.yaml'), policy('a'));
  writeFileSync(join(dir, 'notes.txt'), 'x');
  await sleep(200);
  t.equal(watched.sets.length, 0);
});

t.test('a file between truncation and writing is not taken for an empty one', async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('a') });
  const watched = start(t, [dir], 1);
  for (let i = 0; i < 20; i++) {
    truncateSync(join(dir, 'a.yaml'));
    await sleep(2);
    writeFileSync(join(dir, 'a.yaml'), policy(`n${i}`));
    await sleep(2);
  }
  await watched.until((set) => names(set) === 'n19');
  t.same(
    watched.sets.filter((set) => names(set) === ''),
    [],
    'no set was ever without it',
  );
});

t.test('close ends everything', async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('a'), sub: { 'b.yaml': policy('b') } });
  const count = (): number =>
    process.getActiveResourcesInfo().filter((name) => name === 'FSEventWrap').length;
  // The last test's watchers close a turn of the event loop later.
  await sleep(20);
  const before = count();
  const { watcher, sets } = start(t, [dir], 10);
  t.equal(count(), before + 2, 'one watcher a folder');
  for (let i = 0; i < 10; i++) {
    renameSync(join(dir, 'sub'), join(dir, `old${i}`));
    mkdirSync(join(dir, 'sub'));
    rmSync(join(dir, `old${i}`), { recursive: true });
    await sleep(30);
  }
  // Still so, after ten new folders of one name: those of before are closed.
  await until('two watchers', () => count() === before + 2);
  watcher.close();
  const seen = sets.length;
  writeFileSync(join(dir, 'a.yaml'), policy('late'));
  await sleep(60);
  t.equal(count(), before, 'no watcher is left');
  t.equal(sets.length, seen, 'nothing is called any more');
});
