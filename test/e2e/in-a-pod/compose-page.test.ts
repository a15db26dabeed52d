/** The two pods of docs/COMPOSE.md, run line by line as they stand: what they print is what the page shows. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { tempDir } from '../harness/mesh.ts';
import { needPods } from '../harness/pods.ts';
import { stageImage } from '../harness/pods-image.ts';
import { within } from '../harness/wait.ts';

t.setTimeout(90_000);
needPods(t);

const ROOT = join(import.meta.dirname, '../../..');
const SECTION = 'Two pods without containers';

interface Example {
  readonly title: string;
  readonly script: string;
  /** Empty: it prints nothing. */
  readonly shown: string;
}

/** Shell blocks, each with the text block that follows it, if one does. */
function examples(): readonly Example[] {
  const page = readFileSync(join(ROOT, 'docs/COMPOSE.md'), 'utf8');
  const section = page.split(`\n## ${SECTION}\n`)[1]?.split(/\n## /, 1)[0] ?? '';
  const blocks = [...section.matchAll(/^```(\w+)\n(.*?)^```$/gms)];
  return blocks.flatMap(([, language, script = ''], index) => {
    if (language !== 'sh') return [];
    const [, next, shown = ''] = blocks[index + 1] ?? [];
    return [{ title: `example ${index + 1}`, script, shown: next === 'text' ? shown : '' }];
  });
}

t.test('each example prints what the page shows', async (t) => {
  const all = examples();
  t.ok(all.length > 4, `${all.length} examples`);
  const mark = `o${process.pid}-`;
  const [bin, temporary] = [tempDir(t), tempDir(t)];
  // Other users go there.
  for (const dir of [bin, temporary]) chmodSync(dir, 0o755);
  const command = stageImage(t)
    .oarlock.map((word) => `'${word}'`)
    .join(' ');
  writeFileSync(join(bin, 'oarlock'), `#!/bin/sh\nexec ${command} "$@"\n`, { mode: 0o755 });
  const shell = spawn(
    'bash',
    [
      '-c',
      all
        .map(({ script }) => `${script}echo '<end>'\n`)
        .join('')
        .replaceAll('shop-', mark),
    ],
    {
      cwd: ROOT,
      env: { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin`, TMPDIR: temporary },
      // A group of its own, so that what it leaves running can be ended.
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  t.teardown(() => {
    try {
      if (shell.pid !== undefined) process.kill(-shell.pid, 'SIGKILL');
    } catch {
      // They have ended.
    }
    const namespaces = execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' });
    for (const line of namespaces.split('\n').filter((name) => name.startsWith(mark))) {
      execFileSync('ip', ['netns', 'delete', line.split(' ', 1)[0] ?? '']);
    }
  });
  const [output, errors] = [text(shell.stdout), text(shell.stderr)];
  await within('the examples', once(shell, 'exit'), 60_000);
  const printed = (await output).split('<end>\n');
  for (const [index, { title, shown }] of all.entries()) t.equal(printed[index], shown, title);
  t.equal(await errors, '', 'and nothing went wrong');
});
