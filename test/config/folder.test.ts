/** Reading folders: which files, in which order, once each, and what cannot be read. */
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readFolders } from '../../config/folder.ts';

const policy = (name: string): string =>
  `apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: ${name}}\n`;

const names = (paths: readonly string[]): readonly string[] =>
  readFolders(paths).resources.map(({ name }) => name);

t.test('which files, in which order', async (t) => {
  const dir = t.testdir({
    'b.yaml': policy('b'),
    'a.yml': policy('a'),
    'c.json': `{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"c"}}`,
    'D.YAML': policy('upper'),
    'notes.md': 'not: [read',
    'e.yaml~': 'not: [read',
    '.hidden.yaml': 'not: [read',
    '.git': { 'x.yaml': policy('hidden') },
    deeper: { down: { 'z.yaml': policy('z') } },
  });
  t.same(names([dir]), ['upper', 'a', 'b', 'c', 'z']);
  t.same(names([join(dir, 'deeper'), join(dir, 'b.yaml')]), ['z', 'b'], 'several, in the order given');
  t.same(names([dir, join(dir, 'b.yaml')]), names([dir]), 'a file named twice is read once');
  t.same(names([join(dir, 'e.yaml~')]), [], 'a file named outright is read whatever its name');
  t.equal(readFolders([join(dir, 'e.yaml~')]).problems.length > 0, true);
});

t.test('a ConfigMap’s mount is read once', async (t) => {
  const dir = t.testdir({ '..2026_01_01': { 'x.yaml': policy('x') } });
  symlinkSync('..2026_01_01', join(dir, '..data'));
  symlinkSync(join('..data', 'x.yaml'), join(dir, 'x.yaml'));
  const { resources, problems } = readFolders([dir]);
  t.same(
    resources.map(({ origin }) => origin.file),
    [join(dir, 'x.yaml')],
  );
  t.same(problems, []);
});

t.test('links in a circle, and links to nowhere', async (t) => {
  const dir = t.testdir({ sub: { 'x.yaml': policy('x') } });
  symlinkSync('..', join(dir, 'sub', 'up'));
  symlinkSync('gone.yaml', join(dir, 'y.yaml'));
  symlinkSync('gone', join(dir, 'other'));
  const { resources, problems } = readFolders([dir]);
  t.same(
    resources.map(({ name }) => name),
    ['x'],
  );
  t.match(problems, [{ severity: 'Error', code: 'OLK0101', file: join(dir, 'y.yaml'), message: /ENOENT/ }]);
});

t.test('what cannot be read is an Error', async (t) => {
  const dir = t.testdir({
    'a.yaml': policy('a'),
    'bad.yaml': 'a: [',
    'latin.yaml': Buffer.from([0x61, 0x3a, 0xe4]),
  });
  const missing = join(dir, 'nothing');
  const { resources, problems } = readFolders([missing, dir]);
  t.same(
    resources.map(({ name }) => name),
    ['a'],
    'the rest is read',
  );
  t.match(problems, [
    { severity: 'Error', code: 'OLK0101', file: missing, message: /ENOENT/ },
    { severity: 'Error', code: 'OLK0101', file: join(dir, 'bad.yaml') },
    { severity: 'Error', code: 'OLK0101', file: join(dir, 'latin.yaml') },
  ]);
});

t.test('without permission', { skip: process.getuid?.() === 0 ? 'root may read all' : false }, async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('a') });
  chmodSync(join(dir, 'a.yaml'), 0);
  t.match(readFolders([dir]).problems, [{ severity: 'Error', code: 'OLK0101', message: /EACCES/ }]);
});

t.test('a file beyond the bound is not read', async (t) => {
  const dir = t.testdir({});
  mkdirSync(join(dir, 'm'));
  writeFileSync(join(dir, 'm', 'big.yaml'), Buffer.alloc(8 * 1024 * 1024 + 1, '#'));
  t.match(readFolders([dir]).problems, [{ severity: 'Error', code: 'OLK0101', message: /may have/ }]);
});

t.test('one name in two files', async (t) => {
  const dir = t.testdir({ 'a.yaml': policy('same'), 'b.yaml': policy('same') });
  t.match(readFolders([dir]).problems, [
    { severity: 'Error', code: 'OLK0109', file: join(dir, 'b.yaml'), message: /a\.yaml:3/ },
  ]);
});
