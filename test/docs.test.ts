/** Holds the pages to the code: what a table of the code lists stands in its page, and what a page names exists. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import t from 'tap';
import { parseDocuments } from '../config/documents.ts';
import { runCommandOptions } from '../config/options.ts';
import { compileSnapshot } from '../config/snapshot.ts';
import { setChecks } from '../mesh/analysis.ts';
import { limitTable } from '../mesh/limits.ts';
import { ports } from '../mesh/ports.ts';
import { reasonCodes, reasons } from '../mesh/reasons.ts';
import { problemLine } from '../mesh/resource.ts';
import { problemCodes } from '../mesh/schema.ts';
import { defaultSeriesBounds, MeshMetrics } from '../telemetry/mesh-metrics.ts';

const root = join(import.meta.dirname, '..');
const SKIPPED = new Set(['node_modules', 'dist']);

function pagesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name.startsWith('.') || SKIPPED.has(entry.name)) return [];
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return pagesIn(path);
    return entry.name.endsWith('.md') ? [relative(root, path)] : [];
  });
}

const pages = new Map(pagesIn(root).map((page) => [page, readFileSync(join(root, page), 'utf8')]));

function page(name: string): string {
  const text = pages.get(name);
  if (text === undefined) throw new Error(`no page ${name}`);
  return text;
}

/** The table row that begins with a cell which names `word` in code. */
function rowOf(text: string, word: string): string | undefined {
  const named = new RegExp(`\`${word}[\` ]`);
  return text.split('\n').find((line) => line.startsWith('|') && named.test(line.split('|')[1] ?? ''));
}

/** The text between a heading of the third level and the next heading. */
function sectionOf(text: string, heading: string): string | undefined {
  const after = text.split(`\n### ${heading}\n`)[1];
  return after?.split(/\n##/, 1)[0];
}

/** What is fenced in a page as `language`. */
function blocksOf(text: string, language: string): string[] {
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)]
    .filter(([, found]) => found === language)
    .map(([, , block]) => block ?? '');
}

t.test('each reason has its section, with its flag and what was really logged', async (t) => {
  const text = page('docs/TROUBLESHOOTING.md');
  for (const code of reasonCodes) {
    const section = sectionOf(text, `\`${code}\``);
    if (section === undefined) {
      t.fail(`no section for ${code}`);
      continue;
    }
    t.match(section, /^```(?:json|text)$/m, `${code}: an example`);
    const { flag } = reasons[code];
    if (flag !== '-') t.ok(section.includes(`\`${flag}\``), `${code}: the flag ${flag}`);
  }
});

t.test('each section of a reason is of a reason there is', async (t) => {
  const codes: readonly string[] = reasonCodes;
  for (const [, code] of page('docs/TROUBLESHOOTING.md').matchAll(/^### `([a-z_]+)`$/gm)) {
    t.ok(codes.includes(code ?? ''), code ?? '');
  }
});

t.test('each flag of `run` has its row, with environment name and default', async (t) => {
  const text = page('docs/CLI.md');
  for (const { long, envVar, defaultValue } of runCommandOptions().options) {
    const row = rowOf(text, long ?? '');
    if (row === undefined) {
      t.fail(`no row for ${long}`);
      continue;
    }
    t.ok(envVar, `${long} has an environment name`);
    t.ok(row.includes(`\`${envVar}\``), `${long}: ${envVar}`);
    if (defaultValue !== undefined && defaultValue !== '' && long !== '--intercept') {
      t.ok(row.includes(`\`${defaultValue}\``), `${long}: default ${defaultValue}`);
    }
  }
});

/** Each limit's flag, with its value as pages have it. */
function shownLimits(): ReadonlyMap<string, string> {
  return new Map(
    Object.values(limitTable).map(({ flag, unit, value }) => {
      const long = value > 0 && value % 3_600_000 === 0 ? `${value / 3_600_000}h` : `${value / 1000}s`;
      return [flag, unit !== 'ms' ? `${value}` : value > 0 && value < 1000 ? `${value}ms` : long];
    }),
  );
}

t.test('each limit has its row, with its value', async (t) => {
  const text = page('docs/CLI.md');
  for (const [flag, shown] of shownLimits())
    t.ok(rowOf(text, `--${flag}`)?.includes(`| \`${shown}\` |`), `--${flag}: ${shown}`);
});

t.test("the limits in HBONE.md's table have their values", async (t) => {
  const shown = shownLimits();
  const rows = [...page('docs/HBONE.md').matchAll(/^\| `--([a-z-]+)` \| ([^|]+) \|/gm)];
  t.ok(rows.length > 10, 'rows were found');
  for (const [, flag = '', value] of rows) t.equal(value, shown.get(flag), `--${flag}`);
});

t.test('each flag in CLI.md is one of a command', async (t) => {
  const known = new Set(runCommandOptions().options.map(({ long }) => long));
  for (const file of readdirSync(join(root, 'cli'))) {
    if (!file.endsWith('.ts')) continue;
    const source = readFileSync(join(root, 'cli', file), 'utf8');
    for (const [, flag] of source.matchAll(/'(--[a-z-]+)/g)) known.add(flag);
  }
  for (const line of page('docs/CLI.md').split('\n')) {
    if (!line.startsWith('| `--')) continue;
    for (const [flag] of (line.split('|')[1] ?? '').matchAll(/--[a-z-]+/g)) t.ok(known.has(flag), flag);
  }
});

t.test('each problem code has its row, and each row its code', async (t) => {
  const text = page('docs/ANALYZE.md');
  const rows = [
    ...Object.entries(problemCodes).map(([name, code]) => `| \`${code}\` | ${name} |`),
    ...Object.entries(setChecks).map(([name, [code, severity]]) => `| \`${code}\` | ${name} | ${severity} |`),
  ];
  const found = text.split('\n').filter((line) => line.startsWith('| `OLK'));
  for (const row of rows) t.equal(found.filter((line) => line.startsWith(row)).length, 1, row);
  t.equal(found.length, rows.length);
});

t.test('each metric has its row, and each row its metric', async (t) => {
  const text = page('docs/METRICS.md');
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => 0 });
  // Those that the data path registers, and `run`: cli/data-plane.ts, cli/run.ts.
  const names = new Set([
    'oarlock_access_log_dropped_total',
    'oarlock_capture_rules',
    'oarlock_key_sets',
    'oarlock_handshakes_waiting',
    'oarlock_trust_bundles',
    'oarlock_tunnels',
    'oarlock_tunnel_streams',
  ]);
  for (const { name } of await metrics.registry.getMetricsAsJSON()) names.add(name);
  t.ok(names.size > 15);
  for (const name of names) t.ok(rowOf(text, name), name);
  for (const [, name] of text.matchAll(
    /^\| `((?:istio|oarlock)_[a-z_]+)` \| (?:counter|gauge|histogram)/gm,
  )) {
    t.ok(names.has(name ?? ''), name ?? '');
  }
});

t.test('what pages ask of a metric are labels that it has: any other finds nothing', async (t) => {
  const text = page('docs/METRICS.md');
  let asked = 0;
  for (const [name, body] of pages) {
    for (const [query, metric = '', labels = ''] of body.matchAll(
      /((?:istio|oarlock)_[a-z_]+)\{([a-z][^}]*)\}/g,
    )) {
      asked++;
      const [, , , cell = ''] = rowOf(text, metric)?.split('|') ?? [];
      for (const [, label = ''] of labels.matchAll(/([a-z_]+)(?=[,=]|$)/g)) {
        const has =
          cell.includes(`\`${label}\``) || (cell.includes("Istio's") && rowOf(text, label) !== undefined);
        t.ok(has, `${name}: ${query}: ${label}`);
      }
    }
  }
  t.ok(asked > 5, 'queries were found');
});

t.test('every port that is served stands in the table of ARCHITECTURE.md', async (t) => {
  for (const name of ['outbound', 'inbound', 'hbone', 'admin', 'metrics', 'health', 'ca'] as const) {
    t.match(page('docs/ARCHITECTURE.md'), new RegExp(`^\\| ${ports[name]} \\|`, 'm'), name);
  }
});

/** A heading's anchor as GitHub makes it. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replaceAll(' ', '-');
}

t.test('every relative link leads somewhere', async (t) => {
  let links = 0;
  for (const [name, text] of pages) {
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      links++;
      const [path = '', anchor] = target.split('#');
      const linked = path === '' ? name : relative(root, join(root, dirname(name), path));
      t.ok(existsSync(join(root, linked)), `${name}: ${target}`);
      const content = pages.get(linked);
      if (anchor === undefined || content === undefined) continue;
      const anchors = [...content.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading ?? ''));
      t.ok(anchors.includes(anchor), `${name}: ${target}`);
    }
  }
  t.ok(links > 20, 'links were found');
});

t.test('every file that a page names by its path exists', async (t) => {
  const folders = readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const named = new RegExp(`\`((?:${folders.map(({ name }) => name).join('|')})/[\\w./-]+\\.ts)\``, 'g');
  for (const name of ['docs/ARCHITECTURE.md', 'CONTRIBUTING.md', 'README.md']) {
    for (const [, path = ''] of page(name).matchAll(named)) {
      t.ok(existsSync(join(root, path)), `${name}: ${path}`);
    }
  }
  t.ok([...page('docs/ARCHITECTURE.md').matchAll(named)].length > 15, 'paths were found');
});

t.test('every YAML example is valid', async (t) => {
  const workload = { namespace: 'shop', name: 'orders', labels: new Map(), serviceAccount: 'orders' };
  for (const [name, text] of pages) {
    const heredocs = blocksOf(text, 'sh').flatMap((block) =>
      [...block.matchAll(/<<'EOF'\n(.*?)^EOF$/gms)].map(([, yaml]) => yaml ?? ''),
    );
    for (const block of [...blocksOf(text, 'yaml'), ...heredocs]) {
      const { resources, problems } = parseDocuments(block, name);
      const { snapshot, problems: all } = compileSnapshot({
        resources,
        problems,
        workload,
        overrides: {},
        intercept: 'none',
        generation: 1,
      });
      t.ok(resources.length > 0, `${name}: resources were found`);
      t.same(all.map(problemLine), [], `${name}: ${block.split('\n', 2)[1]}`);
      t.ok(snapshot);
    }
  }
});

t.test('every JSON example is JSON, a line at a time', async (t) => {
  for (const [name, text] of pages) {
    for (const line of blocksOf(text, 'json').join('').split('\n')) {
      if (line !== '') t.doesNotThrow(() => JSON.parse(line) as unknown, `${name}: ${line.slice(0, 60)}`);
    }
  }
});
