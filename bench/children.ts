/** Starts the bench's processes and sees to it that none outlives it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const ROOT = join(import.meta.dirname, '..');
/** From SIGTERM to SIGKILL. */
const STOP_MS = 3_000;
/** Makes the kernel end a process whose parent was killed outright. Linux has it, macOS has not. */
const SETPRIV = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));

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

/** A program and its arguments. */
export interface Command {
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** A script of this project, under our Node. */
export function nodeScript(
  script: string,
  args: readonly string[],
  nodeFlags: readonly string[] = [],
): Command {
  return { program: process.execPath, args: [...nodeFlags, join(ROOT, script), ...args] };
}

/** A process that ends when we end. */
export class Child {
  readonly #process: ChildProcess;
  readonly #name: string;
  readonly #exited: Promise<void>;

  /** @param output where stdout and stderr go: an open file, or `line` for a pipe that {@link firstLine} reads */
  constructor(command: Command, output: number | 'line') {
    const { program, args, env } = command;
    this.#name = [program, ...args].join(' ').slice(0, 120);
    const { PATH = '', HOME = '' } = process.env;
    const kept = SETPRIV === undefined ? [] : [SETPRIV, '--pdeathsig', 'KILL', '--'];
    const [first = program, ...rest] = [...kept, program, ...args];
    this.#process = spawn(first, rest, {
      // Nothing of our environment may steer a daemon.
      env: { PATH, HOME, ...env },
      stdio: output === 'line' ? ['ignore', 'pipe', 'inherit'] : ['ignore', output, output],
      cwd: ROOT,
    });
    running.add(this.#process);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#exited = promise;
    const gone = (): void => {
      running.delete(this.#process);
      resolve();
    };
    // `error` instead of `exit`: the program could not be started.
    this.#process.once('exit', gone).once('error', gone);
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  get gone(): boolean {
    return !running.has(this.#process);
  }

  /** The first line on stdout, parsed. @throws where the process ends without one, or takes too long */
  async firstLine(withinMs: number): Promise<Readonly<Record<string, unknown>>> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const late = setTimeout(() => {
      reject(new Error(`said nothing within ${withinMs} ms: ${this.#name}`));
      this.#process.kill('SIGKILL');
    }, withinMs);
    const { stdout } = this.#process;
    if (stdout === null) throw new Error('no pipe');
    createInterface({ input: stdout })
      .once('line', resolve)
      .once('close', () => reject(new Error(`ended without a line on stdout: ${this.#name}`)));
    try {
      return JSON.parse(await promise) as Readonly<Record<string, unknown>>;
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
    if (this.gone) return;
    this.#process.kill('SIGTERM');
    const late = setTimeout(() => this.#process.kill('SIGKILL'), STOP_MS);
    await this.#exited;
    clearTimeout(late);
  }
}

/** Starts a script that is given a task and answers with one line. */
export async function ask<T>(script: string, task: { readonly measureMs: number }): Promise<T> {
  const child = new Child(nodeScript(script, [JSON.stringify(task)]), 'line');
  const result = await child.firstLine(task.measureMs + 15_000);
  await child.ended();
  return result as T;
}

/** Runs `oarlock ARGS` to its end. @throws where it ends badly */
export async function runOarlock(args: readonly string[]): Promise<void> {
  const child = new Child(nodeScript('cli/main.ts', args), 'line');
  if (!(await child.ended())) throw new Error(`oarlock ${args.slice(0, 2).join(' ')} failed`);
}
