/** Starts the bench's processes and sees to it that none outlives it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const ROOT = join(import.meta.dirname, '..');
/** From SIGTERM to SIGKILL. */
const STOP_MS = 3_000;

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.on(signal, () => process.exit(status));
}

/** Ends a process when the pipe to its stdin closes, as it does when we are killed outright. */
const FOLLOW_PARENT = `data:text/javascript,${encodeURIComponent(
  "process.stdin.on('error', () => {}).on('close', () => process.kill(process.pid, 'SIGTERM')).resume().unref();",
)}`;

export interface StartOptions {
  /** Of Node itself, before the script. */
  readonly nodeFlags?: readonly string[];
  /** How long its line on stdout may take. */
  readonly withinMs: number;
}

/** A process under our Node, and its first line on stdout. */
export class Child {
  readonly #process: ChildProcess;
  readonly #name: string;
  /** The first line, parsed. Rejects where the process ends without one, or takes too long. */
  readonly line: Promise<Readonly<Record<string, unknown>>>;
  /** Milliseconds from before the start to the first line. */
  lineMs = 0;
  readonly #exited: Promise<void>;

  /** @param args script, relative to the project's root, and its arguments */
  constructor(args: readonly string[], options: StartOptions) {
    const [script = '', ...rest] = args;
    this.#name = [script, rest[0] ?? ''].join(' ').slice(0, 40).trim();
    const { PATH = '', HOME = '' } = process.env;
    const began = performance.now();
    this.#process = spawn(
      process.execPath,
      [...(options.nodeFlags ?? []), join(ROOT, script), ...rest],
      // Nothing of our environment may steer the daemon.
      { env: { PATH, HOME }, stdio: ['pipe', 'pipe', 'inherit'], cwd: ROOT },
    );
    running.add(this.#process);
    this.#process.stdin?.on('error', () => {});
    this.#exited = new Promise((resolve) => {
      this.#process.once('exit', () => {
        running.delete(this.#process);
        resolve();
      });
    });
    this.line = this.#firstLine(began, options.withinMs);
    this.line.catch(() => {});
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  async #firstLine(began: number, withinMs: number): Promise<Readonly<Record<string, unknown>>> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const late = setTimeout(() => {
      reject(new Error(`${this.#name} said nothing within ${withinMs} ms`));
      this.#process.kill('SIGKILL');
    }, withinMs);
    const { stdout } = this.#process;
    if (stdout === null) throw new Error('no pipe');
    createInterface({ input: stdout })
      .once('line', resolve)
      .once('close', () => reject(new Error(`${this.#name} ended without a line on stdout`)));
    try {
      const line = await promise;
      this.lineMs = performance.now() - began;
      return JSON.parse(line) as Readonly<Record<string, unknown>>;
    } finally {
      clearTimeout(late);
    }
  }

  /** Waits for the end; false where it ended badly. */
  async ended(): Promise<boolean> {
    await this.#exited;
    return this.#process.exitCode === 0;
  }

  /** Asks it to stop, and makes it. */
  async stop(): Promise<void> {
    this.#process.kill('SIGTERM');
    const late = setTimeout(() => this.#process.kill('SIGKILL'), STOP_MS);
    await this.#exited;
    clearTimeout(late);
  }
}

/** A daemon that goes when we go. */
export function startFollowing(args: readonly string[], options: StartOptions): Child {
  return new Child(args, {
    ...options,
    nodeFlags: ['--import', FOLLOW_PARENT, ...(options.nodeFlags ?? [])],
  });
}

/** Starts a process that is given a task and answers with one line. */
export async function ask<T>(script: string, task: { readonly measureMs: number }): Promise<T> {
  const child = new Child([script, JSON.stringify(task)], { withinMs: task.measureMs + 15_000 });
  const result = await child.line;
  await child.ended();
  return result as T;
}

/** Runs `oarlock ARGS` to its end. @throws where it ends badly */
export async function runOarlock(args: readonly string[]): Promise<void> {
  const child = new Child(['cli/main.ts', ...args], { withinMs: 20_000 });
  if (!(await child.ended())) throw new Error(`oarlock ${args.slice(0, 2).join(' ')} failed`);
}
