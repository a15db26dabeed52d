/** What docs/KUBERNETES.md shows, held to the manifests, to injection and to the bundle. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parse, parseAllDocuments } from 'yaml';
import { names } from '../../inject/annotations.ts';
import { tempDir } from '../e2e/harness/mesh.ts';
import { stageImage } from '../e2e/harness/pods-image.ts';
import { Lines } from '../e2e/harness/processes.ts';
import { within } from '../e2e/harness/wait.ts';

t.setTimeout(180_000);

const root = join(import.meta.dirname, '../..');
const page = readFileSync(join(root, 'docs/KUBERNETES.md'), 'utf8');
const folder = join(root, 'deploy/kubernetes');

t.test('what kubectl says is made is what the manifests have', async (t) => {
  const made = [...page.matchAll(/^(\w+)(?:\.[\w.]+)?\/([\w-]+) created$/gm)].map(
    ([, kind, name = '']) => `${kind} ${name.replace(/(oarlock-inject)-\w{10}$/, '$1')}`,
  );
  const { resources, configMapGenerator } = parse(readFileSync(join(folder, 'kustomization.yaml'), 'utf8'));
  const objects = resources.flatMap((file: string) =>
    parseAllDocuments(readFileSync(join(folder, file), 'utf8')).map((document) => document.toJS()),
  );
  const wanted = [
    ...objects.map(
      (object: { readonly kind: string; readonly metadata: { readonly name: string } }) =>
        `${object.kind.toLowerCase()} ${object.metadata.name}`,
    ),
    ...configMapGenerator.map(({ name }: { readonly name: string }) => `configmap ${name}`),
  ];
  t.same(made.sort(), wanted.sort());
});

t.test('each annotation of its table is one that injection reads', async (t) => {
  const known = new Set<string>(Object.values(names));
  const table = page.split('\n## Annotations\n')[1]?.split(/\n## /, 1)[0] ?? '';
  const cells = table
    .split('\n')
    .flatMap((line) => (line.startsWith('| `') ? [line.split('|')[1] ?? ''] : []));
  t.ok(cells.length > 8, `${cells.length} rows`);
  for (const cell of cells) {
    let prefix = '';
    for (const [, name = ''] of cell.matchAll(/`([^`]+)`/g)) {
      // Those that follow have the prefix of the one before.
      if (name.includes('/')) prefix = name.slice(0, name.indexOf('/') + 1);
      const whole = name.includes('/') ? name : `${prefix}${name}`;
      const found = whole.endsWith('/*')
        ? [...known].some((one) => one.startsWith(prefix))
        : known.has(whole);
      t.ok(found, whole);
    }
  }
});

t.test("the sidecar runs under Node's permission model with the options shown", async (t) => {
  const image = stageImage(t);
  const work = tempDir(t);
  chmodSync(work, 0o755);
  const [node = '', ...main] = image.oarlock;
  const mesh = join(work, 'mesh');
  mkdirSync(mesh);
  writeFileSync(join(mesh, 'mesh.yaml'), 'kind: MeshConfig\n');
  const account = ['--namespace', 'shop', '--service-account', 'web'];
  const certs = join(work, 'certs');
  execFileSync(node, [...main, 'ca', 'issue', '--dir', join(work, 'ca'), ...account, '--out', certs]);
  const asRoot = process.getuid?.() === 0;
  if (asRoot) execFileSync('chown', ['-R', '1337:1337', certs]);
  const options = /^ *NODE_OPTIONS=(.+)$/m.exec(page)?.[1] ?? '';
  t.match(options, '--permission');
  const here = options
    .replace('=/opt/oarlock', `=${image.dir}`)
    .replace('=/etc', `=${mesh}`)
    .replace('=/var/run/secrets', `=${certs}`);
  const start = (more: readonly string[]) => {
    const child = spawn(
      // What the test runner puts into a child's environment would read files of its own.
      'env',
      [
        ...['-i', `NODE_OPTIONS=${here}`, node, ...main],
        ...['run', '--config', mesh, '--cert-dir', certs, ...account],
        ...['admin', 'health', 'metrics', 'hbone', 'inbound', 'outbound'].flatMap((name) => [
          `--${name}-port`,
          '0',
        ]),
        ...['--bind', '127.0.0.1', '--drain', '1ms', ...more],
      ],
      {
        cwd: '/',
        stdio: ['ignore', 'ignore', 'pipe'],
        ...(asRoot ? { uid: 1337, gid: 1337 } : {}),
      },
    );
    t.teardown(() => child.kill('SIGKILL'));
    return { child, ended: once(child, 'exit'), log: new Lines(child.stderr) };
  };
  const { child, ended, log } = start([]);
  // Ready it is not: no rules of capture lead to it here.
  await within('its credentials', log.next({ msg: 'new credentials are in force' }));
  child.kill('SIGTERM');
  t.same(await within('its end', ended), [0, null]);
  t.notMatch(log.text, /restricted/, 'it was refused nothing');

  const outside = start(['--access-log', join(work, 'access.log')]);
  t.not((await within('the end of one that would write', outside.ended))[0], 0);
  t.match(outside.log.text, /restricted/, 'it may write nowhere');
});
