/** docs/IDENTITY.md's examples, run as they stand: what they print is what the page shows. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { hasTool } from './harness/clients.ts';
import { tempDir } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';

t.setTimeout(150_000);

const ROOT = join(import.meta.dirname, '../..');
const SETUP = 'The examples';
/** In the page's order, for they go on with what those before have made. */
const SECTIONS = [
  SETUP,
  'Files',
  'The embedded CA',
  'Trust',
  'Revocation',
  "Exchanging the embedded CA's root",
];
/** Ports that the page names, or that are defaults where it names none. */
const PORTS = [8080, 8081, 8082, 15000, 15008, 15012, 15013, 15020, 15021, 19080];

interface Example {
  readonly title: string;
  readonly script: string;
  /** Null: it prints nothing worth showing. */
  readonly shown: string | null;
}

/** Shell blocks, each with the text block that follows it, if one does. */
function examplesOf(page: string, sections: readonly string[]): readonly Example[] {
  return sections.flatMap((heading) => {
    const section = page.split(`\n## ${heading}\n`)[1]?.split(/\n##/, 1)[0];
    if (section === undefined) throw new Error(`docs/IDENTITY.md has no section ${heading}`);
    const blocks = [...section.matchAll(/^```(\w+)\n(.*?)^```$/gms)];
    return blocks.flatMap(([, language, script = ''], index) => {
      if (language !== 'sh') return [];
      const [, next, shown = ''] = blocks[index + 1] ?? [];
      return [{ title: `${heading}, ${index + 1}`, script, shown: next === 'text' ? shown : null }];
    });
  });
}

/** What no two runs have in common, by its kind: numbers of certificates, moments, times left, ports. */
function alike(output: string): string {
  return output
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '<moment>')
    .replaceAll(/serialNumber=\d+…?/g, 'serialNumber=<number>')
    .replaceAll(/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g, '<id>')
    .replaceAll(/\b[0-9a-f]{8,64}\b…?/g, '<number>')
    .replaceAll(/\d+(?:\.\d)? s (?:behind|ahead of)/g, '<time> off')
    .replaceAll(/\b\d+[dhms]( \d+[dhms])*\b/g, '<time>')
    .replaceAll(/127\.0\.0\.1:\d+/g, '<address>')
    .replaceAll(/ {2}\d{4,5} {2}/g, '  <port>  ')
    .replaceAll(/\b\d valid certificates? /g, '<some> valid certificates ')
    .replaceAll(/ +\n/g, '\n')
    .replaceAll(/ {2,}/g, '  ');
}

/** Ends a shell and all it started. */
function end({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (pid !== undefined) process.kill(-pid, signal);
  } catch {
    // They have ended.
  }
}

async function printWhatIsShown(t: Test, sections: readonly string[], path = ''): Promise<void> {
  const free = await freePorts(PORTS.length);
  const port = (page: number): number => free[PORTS.indexOf(page)] ?? 0;
  const named = new RegExp(`\\b(${PORTS.join('|')})\\b`, 'g');
  const examples = examplesOf(readFileSync(join(ROOT, 'docs/IDENTITY.md'), 'utf8'), sections);
  const script = examples.map(({ script }) => `${script}echo '<end>'`).join('\n');
  const here = script
    .replaceAll(named, (found) => `${port(Number(found))}`)
    // The exchange of a root waits for two lives of a certificate.
    .replaceAll('--ttl 10s', '--ttl 4s');
  const shell = spawn('bash', ['-c', here], {
    cwd: ROOT,
    env: {
      PATH: `${dirname(process.execPath)}:${path}:${process.env.PATH}`,
      TMPDIR: tempDir(t),
      OARLOCK_ADMIN_PORT: `${port(15000)}`,
      OARLOCK_HBONE_PORT: `${port(15008)}`,
      OARLOCK_METRICS_PORT: `${port(15020)}`,
      OARLOCK_HEALTH_PORT: `${port(15021)}`,
    },
    // A group of its own, so that what it leaves running can be ended.
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const remove = (): void => end(shell, 'SIGKILL');
  t.teardown(remove);
  // A test runner's patience ends by this, and leaves no teardown.
  process.once('SIGTERM', () => {
    remove();
    process.exit(1);
  });
  const done = new Promise((resolve) => shell.once('exit', resolve));
  const output = text(shell.stdout);
  await done;
  end(shell, 'SIGTERM');
  const printed = (await output).split('<end>\n');
  for (const [index, { title, shown }] of examples.entries()) {
    t.equal(alike(printed[index] ?? ''), alike(shown ?? ''), title);
  }
}

const tools = ['bash', 'curl', 'node'].filter((tool) => !hasTool(tool));
const skip = tools.length > 0 ? `there is no ${tools.join(', no ')} here` : false;

t.test('each example prints what the page shows', { skip }, (t) => printWhatIsShown(t, SECTIONS));

const spire = process.env.OARLOCK_SPIRE ?? '';
t.test(
  "and SPIRE's, with a real one",
  { skip: spire === '' ? 'it needs OARLOCK_SPIRE, a folder with spire-server and spire-agent' : skip },
  (t) => printWhatIsShown(t, [SETUP, 'SPIFFE Workload API'], spire),
);
