/** Starts the demo's processes, notices when one dies, and stops them all, leaving none. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** A process to start: this program's own entry, with other arguments. */
export interface ChildSpec {
  /** As people are told it: `orders' sidecar`. */
  readonly name: string;
  readonly args: readonly string[];
  /** Gets what the process writes on stderr. */
  readonly log: string;
}

export interface Child {
  readonly name: string;
  readonly pid: number;
  readonly log: string;
  /** The line it writes on stdout when it is ready. Rejects with a ChildError where it ends without. */
  readonly ready: Promise<Readonly<Record<string, unknown>>>;
}

/** A process ended that should not have. */
export class ChildError extends Error {
  override name = 'ChildError';
  readonly log: string;

  constructor(message: string, log: string) {
    super(message);
    this.log = log;
  }

  /** Another process took one of its ports before it could; other ports may do. */
  get portInUse(): boolean {
    try {
      return /is in use|EADDRINUSE/.test(readFileSync(this.log, 'utf8'));
    } catch {
      return false;
    }
  }
}

/** How long one group of processes is waited for before the next is told to stop. */
const GROUP_MS = 3_000;
/** From the first SIGTERM to SIGKILL for whoever is left. */
const STOP_MS = 7_000;

/** Ends a child when the pipe to its stdin closes, so that none outlives us even where we are killed outright. */
const FOLLOW_PARENT = fileURLToPath(new URL('../demo/follow-parent.js', import.meta.url));

/** What a child may know of our environment: nothing that `run` would read as its own settings. */
const ENVIRONMENT = ['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG', 'LC_ALL', 'NODE_COMPILE_CACHE'];

interface Running {
  readonly child: Child;
  readonly process: ChildProcess;
  readonly exited: Promise<void>;
}

export class Supervisor {
  /** In the order of starting: those of one group together. */
  readonly #groups: Running[][] = [[]];
  readonly #died: (error: ChildError) => void;
  /** Rejects when a process ends that should not have. */
  readonly failure: Promise<never>;
  #stopping: Promise<void> | null = null;

  constructor() {
    const { promise, reject } = Promise.withResolvers<never>();
    this.failure = promise;
    this.#died = reject;
    // Whoever waits for it hears of it; nobody may be waiting at that moment.
    promise.catch(() => {});
  }

  /** What is started from now on is stopped before what was started until now. */
  nextGroup(): void {
    this.#groups.push([]);
  }

  /** Starts a process that is to run until `stop`. */
  start(spec: ChildSpec): Child {
    const running = this.#spawn(spec);
    void running.exited.then(() => this.#ended(running));
    return running.child;
  }

  /** Runs a process to its end. @throws ChildError unless it ends well */
  async run(spec: ChildSpec): Promise<void> {
    const group = this.#groups.at(-1);
    const running = this.#spawn(spec);
    const { child, process, exited } = running;
    await exited;
    group?.splice(group.indexOf(running), 1);
    if (process.exitCode !== 0) throw new ChildError(howItEnded(child, process), child.log);
  }

  /** Stops the groups, the last one first. Resolves when no process is left; at most some 8 s later. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  /** For whoever is in a hurry. */
  kill(): void {
    for (const { process } of this.#groups.flat()) process.kill('SIGKILL');
  }

  async #stop(): Promise<void> {
    const deadline = setTimeout(() => this.kill(), STOP_MS);
    for (const group of this.#groups.toReversed()) {
      for (const { process } of group) process.kill('SIGTERM');
      await within(GROUP_MS, Promise.all(group.map(({ exited }) => exited)));
    }
    await Promise.all(this.#groups.flat().map(({ exited }) => exited));
    clearTimeout(deadline);
  }

  #spawn(spec: ChildSpec): Running {
    if (this.#stopping !== null) throw new ChildError(`${spec.name} is not started: stopping`, spec.log);
    const entry = process.argv[1] ?? '';
    const log = openSync(spec.log, 'a', 0o600);
    try {
      const started = spawn(process.execPath, ['--import', FOLLOW_PARENT, entry, ...spec.args], {
        stdio: ['pipe', 'pipe', log],
        // Its own process group: Ctrl-C reaches us alone, and we stop them in order.
        detached: true,
        env: Object.fromEntries(ENVIRONMENT.map((name) => [name, process.env[name]])),
      });
      const exited = new Promise<void>((resolve) => {
        started.once('exit', () => resolve());
        started.once('error', () => resolve());
      });
      // It may die with our end of the pipe still open.
      started.stdin?.on('error', () => {});
      const ended = exited.then(() => {
        throw new ChildError(howItEnded(spec, started), spec.log);
      });
      const ready = Promise.race([readyLine(started), ended]);
      // Of some processes nobody asks whether they are ready.
      ready.catch(() => {});
      const child = { name: spec.name, pid: started.pid ?? 0, log: spec.log, ready };
      const running = { child, process: started, exited };
      this.#groups.at(-1)?.push(running);
      return running;
    } finally {
      closeSync(log);
    }
  }

  #ended({ child, process }: Running): void {
    if (this.#stopping === null) this.#died(new ChildError(howItEnded(child, process), child.log));
  }
}

function howItEnded({ name, log }: ChildSpec | Child, { exitCode, signalCode }: ChildProcess): string {
  const how = signalCode === null ? `with status ${exitCode ?? 'unknown'}` : `by ${signalCode}`;
  return `${name} ended unexpectedly, ${how}; its log: ${log}`;
}

/** The first line on stdout that says `"ready":true`. Never settles where there is none. */
function readyLine({ stdout }: ChildProcess): Promise<Readonly<Record<string, unknown>>> {
  return new Promise((resolve) => {
    if (stdout === null) return;
    createInterface({ input: stdout }).on('line', (line) => {
      try {
        const said: unknown = JSON.parse(line);
        if (typeof said === 'object' && said !== null && 'ready' in said && said.ready === true) {
          resolve(said as Record<string, unknown>);
        }
      } catch {
        // Not for us.
      }
    });
  });
}

function within(ms: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    void work.then(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
