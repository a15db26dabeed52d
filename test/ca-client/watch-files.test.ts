/** The watch under sources and CRLs: what it reads, and that it tells of a change until it was read. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, statSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { watchedFiles } from '../../ca-client/watch-files.ts';
import { temporaryFolder } from './helper.ts';

type Tap = Parameters<typeof temporaryFolder>[0];

/** A watch on `name` in a folder of its own, and a count of its calls. */
async function watching(t: Tap, name = 'file', pollMs = 50) {
  const dir = temporaryFolder(t);
  const path = join(dir, name);
  writeFileSync(path, 'first');
  const files = watchedFiles({ paths: [path], pollMs, maxBytes: 1_000 });
  await files.read();
  let calls = 0;
  let woken: (() => void) | null = null;
  const stop = files.watch(() => {
    calls++;
    woken?.();
  });
  t.teardown(stop);
  const called = () =>
    new Promise<void>((resolve) => {
      woken = resolve;
    });
  return { dir, path, files, called, stop, calls: () => calls };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

t.test('what is read', async (t) => {
  const dir = temporaryFolder(t);
  const paths = ['good', 'absent', 'folder', 'pipe', 'long', 'good/under'].map((name) => join(dir, name));
  writeFileSync(join(dir, 'good'), 'text');
  chmodSync(join(dir, 'good'), 0o640);
  mkdirSync(join(dir, 'folder'));
  execFileSync('mkfifo', [join(dir, 'pipe')]);
  writeFileSync(join(dir, 'long'), 'x'.repeat(11));
  const [good, absent, folder, pipe, long, under] = await watchedFiles({ paths, maxBytes: 10 }).read();
  t.match(good, { path: join(dir, 'good'), mode: 0o640, problem: null });
  t.equal(good?.bytes?.toString(), 'text');
  t.same(absent, { path: join(dir, 'absent'), bytes: null, mode: 0, problem: null });
  t.match(folder, { bytes: null, problem: /is no regular file/ });
  t.match(pipe, { bytes: null, problem: /is no regular file/ }, 'and nobody waits for its writer');
  t.match(long, { bytes: null, problem: /is longer than 10 bytes/ });
  t.match(under, { bytes: null, problem: null });
});

t.test('a change is told until it is read', async (t) => {
  const { path, files, called, calls } = await watching(t);
  writeFileSync(path, 'second');
  await called();
  await called();
  t.ok(calls() >= 2, 'again, for nobody read');
  await files.read();
  const before = calls();
  await pause(400);
  t.equal(calls(), before, 'read: nothing more to tell');
});

t.test('what is no change is not told', async (t) => {
  const { dir, path, called, calls } = await watching(t);
  utimesSync(path, 1, 1);
  writeFileSync(path, 'first');
  writeFileSync(join(dir, 'other'), 'x');
  await pause(500);
  t.equal(calls(), 0);
  unlinkSync(path);
  await called();
  t.pass('gone is a change');
});

t.test('what changes and changes back is not told', async (t) => {
  const { path, calls } = await watching(t);
  writeFileSync(path, 'other');
  await pause(20);
  writeFileSync(path, 'first');
  await pause(500);
  t.equal(calls(), 0);
});

t.test('a write right after a read', async (t) => {
  const { path, files, called } = await watching(t);
  for (let round = 0; round < 10; round++) {
    writeFileSync(path, `a${round}`);
    await files.read();
    writeFileSync(path, `b${round}`);
    await called();
    t.equal((await files.read())[0]?.bytes?.toString(), `b${round}`);
  }
});

t.test('a file that never rests is read all the same', async (t) => {
  const { path, called } = await watching(t);
  let n = 0;
  const writer = setInterval(() => writeFileSync(path, String(n++)), 10);
  t.teardown(() => clearInterval(writer));
  await called();
  t.pass('it is told of');
});

t.test('nothing after it is stopped', async (t) => {
  const { path, stop, calls } = await watching(t);
  writeFileSync(path, 'second');
  stop();
  await pause(300);
  t.equal(calls(), 0);
  t.ok(statSync(path).isFile());
});
