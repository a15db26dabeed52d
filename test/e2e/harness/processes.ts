/** Real `oarlock` processes: started, read line by line, and gone at the end of the test. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { PATIENCE, within } from './wait.ts';

const ROOT = join(import.meta.dirname, '../../..');

/** A line of a log, or of stdout, parsed where it is JSON. */
export type Line = Readonly<Record<string, unknown>>;

/** Fields a line must have; a RegExp is matched against the field's text. */
export type Match = Readonly<Record<string, unknown>>;

/** How a process ended. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** The lines of one stream so far, and a way to wait for one. */
export class Lines {
  readonly all: Line[] = [];
  readonly #emitter = new EventEmitter();
  #ended = false;

  constructor(stream: NodeJS.ReadableStream) {
    this.#emitter.setMaxListeners(0);
    const reader = createInterface({ input: stream });
    reader.on('line', (text) => {
      this.all.push(parseLine(text));
      this.#emitter.emit('change');
    });
    reader.on('close', () => {
      this.#ended = true;
      this.#emitter.emit('change');
    });
  }

  /** How many there are: what comes later is after this mark. */
  get mark(): number {
    return this.all.length;
  }

  /** Those that match, from a mark on. */
  matching(match: Match, from = 0): readonly Line[] {
    return this.all.slice(from).filter((line) => matches(line, match));
  }

  /** The first that matches, from a mark on, waiting for it. */
  async next(match: Match, from = 0, ms = PATIENCE): Promise<Line> {
    const what = `a line with ${JSON.stringify(match, showRegExp)}`;
    let onChange = (): void => {};
    const found = new Promise<Line>((resolve, reject) => {
      let at = from;
      onChange = () => {
        for (; at < this.all.length; at++) {
          const line = this.all[at] ?? {};
          if (matches(line, match)) return resolve(line);
        }
        if (this.#ended) reject(new Error(`the process ended without ${what}:\n${this.text}`));
      };
      this.#emitter.on('change', onChange);
      onChange();
    });
    try {
      return await within(what, found, ms);
    } catch (error) {
      const tail = this.all.slice(-5).map((line) => JSON.stringify(line));
      throw new Error(`${(error as Error).message}; the last lines were\n${tail.join('\n')}`);
    } finally {
      this.#emitter.off('change', onChange);
    }
  }

  /** Everything, as it was written where it was no JSON. */
  get text(): string {
    return this.all.map((line) => ('text' in line ? String(line.text) : JSON.stringify(line))).join('\n');
  }
}

function parseLine(text: string): Line {
  try {
    const value: unknown = JSON.parse(text);
    if (value !== null && typeof value === 'object') return value as Line;
  } catch {
    // A line for people.
  }
  return { text };
}

function matches(line: Line, match: Match): boolean {
  return Object.entries(match).every(([key, wanted]) => {
    const value = line[key];
    return wanted instanceof RegExp ? wanted.test(String(value ?? '')) : value === wanted;
  });
}

function showRegExp(_key: string, value: unknown): unknown {
  return value instanceof RegExp ? String(value) : value;
}

/** A test file that dies of an error has no teardown: what it started must not outlive it all the same. */
const living = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL');
});

/** Root's daemons start as they would run: without capabilities, which they need not execute themselves anew to drop. */
const withoutRights =
  process.getuid?.() === 0 && spawnSync('setpriv', ['--bounding-set=-all', 'true']).status === 0
    ? ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--']
    : [];

export class Oarlock {
  readonly child: ChildProcess;
  readonly stdout: Lines;
  readonly stderr: Lines;
  /** Settles once the process is gone and its output read. */
  readonly exited: Promise<Exit>;

  constructor(args: readonly string[], env: Readonly<Record<string, string>>) {
    const { PATH = '', HOME = '', TMPDIR } = process.env;
    const [command = '', ...rest] = [...withoutRights, process.execPath, join(ROOT, 'cli/main.ts'), ...args];
    this.child = spawn(command, rest, {
      // Nothing of the caller's environment may steer the daemon: POD_NAMESPACE and its like are flags.
      env: { PATH, HOME, ...(TMPDIR === undefined ? {} : { TMPDIR }), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: ROOT,
    });
    living.add(this.child);
    this.child.once('close', () => living.delete(this.child));
    const { stdout, stderr } = this.child;
    if (stdout === null || stderr === null) throw new Error('no pipes');
    this.stdout = new Lines(stdout);
    this.stderr = new Lines(stderr);
    this.exited = new Promise((resolve) => {
      this.child.once('close', (code, signal) => resolve({ code, signal }));
    });
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }

  /** Waits for the end. */
  end(ms = PATIENCE): Promise<Exit> {
    return within('the process to end', this.exited, ms);
  }

  /** Ends it now, whatever it does. */
  async kill(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGKILL');
    await this.exited;
  }
}

/** Starts `oarlock ARGS`; it is gone when the test is over. */
export function start(t: Test, args: readonly string[], env: Readonly<Record<string, string>> = {}): Oarlock {
  const running = new Oarlock(args, env);
  t.teardown(() => running.kill());
  return running;
}

/** Runs `oarlock ARGS` to its end. */
export async function runToEnd(
  t: Test,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Exit & { readonly stdout: string; readonly stderr: string }> {
  const running = start(t, args, env);
  const exit = await running.end();
  return { ...exit, stdout: running.stdout.text, stderr: running.stderr.text };
}
