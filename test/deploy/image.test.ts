/** The image: what its Dockerfile says, that all the bundle is made of goes to the build, and the bundle alone in a folder. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readDockerfile, sentToBuild } from '../../deploy/image/dockerfile.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import { stageImage } from '../e2e/harness/pods-image.ts';
import { Lines } from '../e2e/harness/processes.ts';
import { within } from '../e2e/harness/wait.ts';

t.setTimeout(180_000);

const root = join(import.meta.dirname, '../..');
const read = (name: string): string => readFileSync(join(root, name), 'utf8');

t.test('what runs has no base, and runs as 1337', async (t) => {
  const base = 'registry.example/base@sha256:0';
  const stages = readDockerfile(read('Dockerfile'), new Map([['BASE_IMAGE', base]]));
  t.same(
    stages.map((stage) => stage.base),
    [base, base, 'scratch'],
    'one base to pin, for all that builds',
  );
  const last = stages.at(-1)?.instructions ?? [];
  const said = (name: string): string => last.find((one) => one.name === name)?.rest ?? '';
  t.equal(said('USER'), '1337:1337');
  t.equal(said('STOPSIGNAL'), 'SIGTERM');
  t.notOk(
    last.some(({ name }) => name === 'RUN'),
    'nothing runs where no shell is',
  );
  for (const name of ['ENTRYPOINT', 'CMD'])
    t.ok(Array.isArray(JSON.parse(said(name))), `${name} without a shell`);
  t.match(said('HEALTHCHECK'), /CMD \["\/usr\/local\/bin\/oarlock", "probe",/);
});

t.test('a Dockerfile that is not understood is refused', async (t) => {
  for (const text of ['ADD a b', 'FROM a\nSHELL ["x"]', 'RUN before', 'FROM a\nARG within']) {
    t.throws(() => readDockerfile(text, new Map()), text);
  }
});

t.test('each folder that code is imported from goes to the build', async (t) => {
  const sent = sentToBuild(read('.dockerignore'));
  const folders = new Set<string>(['cli', 'bin']);
  for (const folder of folders) {
    t.ok(sent.includes(folder), folder);
    const files = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' });
    for (const file of files.filter((name) => name.endsWith('.ts'))) {
      for (const [, to = ''] of read(join(folder, file)).matchAll(
        /(?:from|import\()\s*'(?:\.\.\/)+([\w-]+)\//g,
      )) {
        if (existsSync(join(root, to))) folders.add(to);
      }
    }
  }
  t.ok(folders.size > 8, 'folders were found');
});

t.test('the bundle alone in a folder', async (t) => {
  const { dir, oarlock } = stageImage(t);
  const [node = '', main = ''] = oarlock;
  const env = { PATH: '/nowhere' };
  const say = spawnSync(node, [main, '--version'], { env, cwd: '/', encoding: 'utf8' });
  t.equal(say.stdout, `${JSON.parse(read('package.json')).version}\n`);

  const work = tempDir(t);
  writeFileSync(join(work, 'mesh.yaml'), 'kind: MeshConfig\n');
  const names = ['--namespace', 'shop', '--service-account', 'web'];
  const issue = ['ca', 'issue', '--dir', join(work, 'ca'), ...names, '--out', join(work, 'certs')];
  t.equal(spawnSync(node, [main, ...issue], { env, cwd: '/' }).status, 0, 'issues credentials');
  const flags = [
    ...['--config', join(work, 'mesh.yaml'), '--cert-dir', join(work, 'certs'), ...names],
    ...['--intercept', 'none', '--bind', '127.0.0.1', '--drain', '1ms'],
    ...['admin', 'health', 'metrics', 'hbone'].flatMap((name) => [`--${name}-port`, '0']),
  ];
  const runs = async (what: string, more: readonly string[] = []): Promise<void> => {
    const child = spawn(node, [main, 'run', ...flags, ...more], {
      env,
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    t.teardown(() => child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    await within(`${what}: ready`, new Lines(child.stdout).next({ ready: true }));
    child.kill('SIGTERM');
    t.same(await within(`${what}: its end`, ended), [0, null], what);
  };
  const cache = join(dir, 'cache');
  await runs('without a cache of compiled code');
  t.notOk(existsSync(cache), 'none is made');
  mkdirSync(cache);
  await runs('with an empty one');
  const entries = (): string[] => readdirSync(cache, { recursive: true, encoding: 'utf8' }).sort();
  const filled = entries();
  t.ok(filled.length > 10, 'which is filled');
  for (const name of filled) {
    if (name.includes('/')) writeFileSync(join(cache, name), 'no code at all');
  }
  chmodSync(cache, 0o555);
  await runs('with a broken, read-only one');
  await runs('with two threads', ['--concurrency', '2']);
});

t.test('the cache is filled where an image is made: without rules of capture', async (t) => {
  const { dir, oarlock } = stageImage(t);
  const made = spawnSync(oarlock[0] ?? '', [join(root, 'bin/warm.ts'), dir], { encoding: 'utf8' });
  t.equal(made.status, 0, made.stderr);
  const entries = readdirSync(join(dir, 'cache'), { recursive: true, encoding: 'utf8' });
  t.ok(entries.length > 10, 'code is in it');
});

/** esbuild gives a CommonJS package that is loaded late by `default` alone, where Node gives the names, too. */
t.test('what the bundle loads late has the names it is asked for', async (t) => {
  const { dir } = stageImage(t);
  const dist = join(dir, 'dist');
  const texts = new Map(
    readdirSync(dist)
      .filter((name) => name.endsWith('.js'))
      .map((name) => [name, readFileSync(join(dist, name), 'utf8')]),
  );
  const exported = (name: string): string => {
    const text = texts.get(name) ?? '';
    return /\nexport default /.test(text) ? 'default' : (/\nexport \{([^}]*)\}/.exec(text)?.[1] ?? '');
  };
  let loads = 0;
  for (const [file, text] of texts) {
    for (const [, names = '', from = ''] of text.matchAll(
      /const \{([^}]*)\} = await import\("\.\/([^"]+)"\)/g,
    )) {
      const given = exported(from)
        .split(/,|\bas\b/)
        .map((name) => name.trim());
      for (const name of names.split(',')) {
        loads++;
        const wanted = name.split(':')[0]?.trim() ?? '';
        t.ok(given.includes(wanted), `${file}: ${wanted} of ${from}`);
      }
    }
  }
  t.ok(loads > 20, 'late loads were found');
});

const asked = process.env.OARLOCK_IMAGE_CHECK !== undefined;
t.test(
  'built and started, in chroots',
  { skip: asked ? false : 'takes minutes and a mirror of Debian: OARLOCK_IMAGE_CHECK=1', timeout: 600_000 },
  async (t) => {
    const { status, stderr } = spawnSync(process.execPath, [join(root, 'deploy/image/check.ts')], {
      encoding: 'utf8',
    });
    t.equal(status, 0, stderr);
  },
);
