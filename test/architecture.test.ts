/** Holds the structure to its rules: imports point downward, no circle, every file says what it is. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import t from 'tap';

const root = join(import.meta.dirname, '..');

/** Floors of the house, ground first. A file imports from its own folder or from a lower floor. */
const floors: readonly (readonly string[])[] = [
  ['mesh'],
  ['policy', 'registry', 'providers', 'ca-client', 'telemetry', 'intercept', 'inject', 'probes'],
  ['proxy', 'config', 'dashboard'],
  ['demo'],
  ['cli'],
  ['bench'],
];
const floorOf = new Map(
  floors.flatMap((folders, floor) => folders.map((folder) => [folder, floor] as const)),
);

function sources(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return sources(path);
    return name.endsWith('.ts') ? [relative(root, path)] : [];
  });
}

const files = [...floorOf.keys()].flatMap((folder) => {
  try {
    return sources(join(root, folder));
  } catch {
    return [];
  }
});
const text = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]));

function importsOf(file: string): string[] {
  const found = (text.get(file) ?? '').matchAll(/(?:from|import\()\s*'(\.[^']+)'/g);
  return [...found].map((match) => normalize(join(dirname(file), match[1] ?? '')));
}

function folderOf(file: string): string {
  return file.split('/')[0] ?? '';
}

t.test('imports point downward', async (t) => {
  for (const file of files) {
    for (const imported of importsOf(file)) {
      const from = folderOf(file);
      const to = folderOf(imported);
      const down = from === to || (floorOf.get(to) ?? 99) < (floorOf.get(from) ?? -1);
      if (!down) t.fail(`${file} imports ${imported}`);
    }
  }
  t.ok(files.length > 60, 'the files were found');
});

t.test('no circle', async (t) => {
  const done = new Set<string>();
  const walk = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) {
      t.fail(`circle: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`);
      return;
    }
    if (done.has(file)) return;
    for (const imported of importsOf(file)) walk(imported, [...path, file]);
    done.add(file);
  };
  for (const file of files) walk(file, []);
  t.equal(done.size >= files.length, true);
});

t.test('every file opens with a sentence that says what it is', async (t) => {
  for (const [file, content] of text) {
    t.match(content, /^(?:#![^\n]*\n)?\/\*\*? ?[\s\S]*?\.(?: [\s\S]*?)?\*\//, file);
  }
});

t.test('the environment is read in one place', async (t) => {
  const readers = files.filter((file) => (text.get(file) ?? '').includes('process.env'));
  // The second one reads nothing from it: it takes out what would be read by mistake.
  const known = ['config/options.ts', 'cli/service-links.ts'];
  t.same(
    readers.filter(
      (file) => !known.includes(file) && folderOf(file) !== 'demo' && folderOf(file) !== 'bench',
    ),
    [],
  );
});

t.test('pure folders do no input or output', async (t) => {
  for (const file of files.filter((file) => ['policy', 'registry', 'mesh'].includes(folderOf(file)))) {
    // node:net's isIP only looks at a string.
    const imports = (text.get(file) ?? '').replace("import { isIP } from 'node:net'", '');
    t.notMatch(imports, /from 'node:(?:fs|net|http|tls|child_process|dns)/, file);
  }
});
