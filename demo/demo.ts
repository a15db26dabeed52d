/** The demo from start to stop: its folder, its mesh, what it says, and that nothing is left of it. */
import { mkdtemp, readdir, realpath, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Mesh, startMesh } from './mesh.ts';
import { choosePorts } from './ports.ts';
import { meshJson, meshText } from './print.ts';
import { ChildError, Supervisor } from './supervisor.ts';

export interface DemoOptions {
  /** One line of JSON on stdout instead of text for people. */
  readonly json: boolean;
  /** Leave the folder behind. */
  readonly keep: boolean;
}

/** Machines differ; a mesh that is not up by then will not be. */
const START_MS = 60_000;
/** Written ports, then fresh ones twice: each can be taken by somebody else just before its process asks for it. */
const ATTEMPTS = 3;
const HOUSEKEEPING_MS = 60_000;
/** Tokens are good for 12 h. */
const RENEW_TOKENS_MS = 4 * 3_600_000;
/** A demo may run for weeks, and its access logs take some hundred MB a day. */
const MAX_LOG_BYTES = 32 * 1024 * 1024;
/** Terminal and npm both pass Ctrl-C on; only one that comes later means hurry. */
const SAME_SIGNAL_MS = 1_000;

/**
 * Runs the demo until a signal, or until one of its processes dies.
 * @returns the exit status: 0 when told to stop, 1 when something failed
 */
export async function runDemo(options: DemoOptions): Promise<0 | 1> {
  const signals = new StopSignals();
  try {
    for (let attempt = 1; ; attempt++) {
      const dir = await realpath(await mkdtemp(join(tmpdir(), 'oarlock-demo-')));
      let up = false;
      const say = (mesh: Mesh) => {
        up = true;
        process.stdout.write(options.json ? meshJson(mesh) : meshText(mesh, process.uptime()));
      };
      try {
        await runOnce({ dir, signals, fresh: attempt > 1, up: say });
        await leave(dir, options.keep);
        return 0;
      } catch (error) {
        if (!(error instanceof ChildError)) {
          await leave(dir, options.keep);
          throw error;
        }
        const again = !up && error.portInUse && attempt < ATTEMPTS;
        if (!again) process.stderr.write(`oarlock: ${error.message}\n`);
        await leave(dir, !again);
        if (!again) return 1;
      }
    }
  } finally {
    signals.close();
  }
}

async function leave(dir: string, keep: boolean): Promise<void> {
  if (keep) process.stderr.write(`oarlock: the demo's files stay in ${dir}\n`);
  else await rm(dir, { recursive: true, force: true });
}

interface Go {
  readonly dir: string;
  readonly signals: StopSignals;
  /** Take none of the written ports. */
  readonly fresh: boolean;
  /** All is ready. */
  readonly up: (mesh: Mesh) => void;
}

/** One go in a folder of its own; when it is over, no process of it is left. @throws ChildError */
async function runOnce({ dir, signals, fresh, up }: Go): Promise<void> {
  const supervisor = new Supervisor();
  signals.onHurry = () => supervisor.kill();
  const { ports, release } = await choosePorts(fresh);
  const late = lateness(dir);
  const starting = startMesh({ supervisor, dir, ports });
  try {
    const mesh = await Promise.race([starting, supervisor.failure, signals.stopped, late.error]);
    late.cancel();
    if (mesh === undefined) return;
    up(mesh);
    const housekeeping = keepHouse(mesh, join(dir, 'logs'));
    await Promise.race([supervisor.failure, signals.stopped]).finally(() => clearInterval(housekeeping));
  } finally {
    late.cancel();
    await supervisor.stop();
    // Nobody writes to the folder any more.
    await starting.catch(() => {});
    release();
  }
}

/** Keeps tokens fresh and logs small. Looks often, by the wall clock: a machine may have slept past any timer. */
function keepHouse(mesh: Mesh, logs: string): NodeJS.Timeout {
  let renewed = Date.now();
  const look = async () => {
    if (Date.now() - renewed >= RENEW_TOKENS_MS) {
      await mesh.renewTokens();
      renewed = Date.now();
    }
    for (const name of await readdir(logs)) {
      const file = join(logs, name);
      // All writers append, so they go on at the new end.
      if ((await stat(file)).size > MAX_LOG_BYTES) await truncate(file);
    }
  };
  return setInterval(() => {
    look().catch((error: Error) => process.stderr.write(`oarlock: will try again: ${error.message}\n`));
  }, HOUSEKEEPING_MS);
}

function lateness(dir: string): { readonly error: Promise<never>; cancel(): void } {
  const { promise, reject } = Promise.withResolvers<never>();
  const logs = join(dir, 'logs');
  const timer = setTimeout(
    () => reject(new ChildError(`not ready after ${START_MS / 1000} s; the logs are in ${logs}`, '')),
    START_MS,
  );
  return { error: promise, cancel: () => clearTimeout(timer) };
}

/** SIGINT, SIGTERM and SIGHUP: the first one asks to stop, one that follows later says that it cannot wait. */
class StopSignals {
  readonly stopped: Promise<undefined>;
  onHurry: () => void = () => {};
  readonly #listener: () => void;

  constructor() {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    this.stopped = promise;
    let first = 0;
    this.#listener = () => {
      if (first === 0) first = performance.now();
      else if (performance.now() - first > SAME_SIGNAL_MS) this.onHurry();
      resolve(undefined);
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, this.#listener);
    // Whoever read our text is gone: nothing to say any more, and no reason to stop.
    process.stdout.on('error', () => {});
  }

  close(): void {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, this.#listener);
  }
}
