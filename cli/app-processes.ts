/** Whether the app's processes run: those of a process group, or all that can be seen beside the pod's own and sidecars. */
import { readFileSync } from 'node:fs';
import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as pauseFor } from 'node:timers/promises';

/** A process by proc(5)'s `stat`. */
interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly group: number;
}

/** Zombies and the dead: what is left of them is their parent's business. */
const GONE = /^[ZXx]$/;
/** PF_KTHREAD of the kernel's `sched.h`. */
const KERNEL_THREAD = 0x00200000;
/** What holds a pod's namespaces. */
const PAUSE = '/pause';
/** Programs of other sidecars, which run as the user that we run as. */
const SIDECARS: ReadonlySet<string> = new Set(['envoy', 'pilot-agent']);

/** Between two questions whether any process was made, ms: an app may be done in the time that its container takes to start. */
const ASK_MS = 20;
/** Between two looks at whoever is there, ms, in any case: not every system tells of new processes. */
const LOOK_MS = 150;
/** Asked so often for so long, ms: an app that is not there by then is still waiting for its image. */
const HURRY_MS = 60_000;

interface Program {
  readonly exe: string;
  readonly script: string;
}

interface From {
  readonly proc: string;
  readonly self: number;
  readonly program: Program;
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
}

/** The bundle is a script of Node. */
const OURS: Program = { exe: process.execPath, script: process.argv[1] ?? '' };

export class AppProcesses {
  readonly #which: number | 'all';
  readonly #proc: string;
  readonly #self: number;
  readonly #program: Program;
  readonly #pause: From['pause'];

  /**
   * @param which a process group, or all: every process but ourselves, those that started us or that we started, the
   *   pod's `/pause`, what else runs in our container of that pod, kernel threads, and sidecars
   * @param from procfs, our process in it, what it runs, and how time passes
   */
  constructor(
    which: number | 'all',
    { proc = '/proc', self = process.pid, program = OURS, pause = sleep }: Partial<From> = {},
  ) {
    this.#which = which;
    this.#proc = proc;
    this.#self = self;
    this.#program = program;
    this.#pause = pause;
  }

  /**
   * Resolves once one of them runs, or `signal` is aborted. There is no bound: nothing tells an app that has been from
   * one whose image is still being fetched, and that must find its sidecar. A group is not asked for between two looks,
   * for it may be one of very many.
   */
  async come(signal: AbortSignal): Promise<void> {
    let newest = '';
    let lookIn = 0;
    for (let waited = 0; !signal.aborted; ) {
      const now = this.#which === 'all' ? this.#newest() : '';
      if (now !== newest || lookIn <= 0) {
        if (await this.sees().catch(() => false)) return;
        newest = now;
        lookIn = LOOK_MS;
      }
      const ms = this.#which === 'all' && waited < HURRY_MS ? ASK_MS : LOOK_MS;
      await this.#pause(ms, signal);
      lookIn -= ms;
      waited += ms;
    }
  }

  /** Id of the process or thread made last in our pid namespace: the last field of proc(5)'s `loadavg`. */
  #newest(): string {
    try {
      // At once: it is the kernel's memory, and a way by the pool of threads would cost ten times as much.
      return readFileSync(`${this.#proc}/loadavg`, 'latin1').trim().split(' ').at(-1) ?? '';
    } catch {
      return '';
    }
  }

  /** True while one of them runs. */
  async sees(): Promise<boolean> {
    const all = await this.#processes();
    if (this.#which !== 'all') return all.some(({ group }) => group === this.#which);
    const family = relatives(all, this.#self);
    const container = await this.#ownContainer();
    for (const { pid } of all) {
      if (family.has(pid) || (await this.#isNotTheApp(pid, container))) continue;
      // One that has ended since tells nothing of itself any more: a hook of our container looks like an app then.
      if ((await this.#process(pid)) !== null) return true;
    }
    return false;
  }

  async #processes(): Promise<Process[]> {
    const names = (await readdir(this.#proc)).filter((name) => /^[0-9]+$/.test(name));
    const read = await Promise.all(names.map((name) => this.#process(Number(name))));
    return read.filter((one) => one !== null);
  }

  /** Null where it is gone, or was never one of users'. */
  async #process(pid: number): Promise<Process | null> {
    const text = await readFile(`${this.#proc}/${pid}/stat`, 'latin1').catch(() => '');
    if (text === '') return null;
    // Its name stands in parentheses, and may have some of its own.
    const [state = '', parent, group, , , , flags] = text.slice(text.lastIndexOf(')') + 2).split(' ');
    if (GONE.test(state) || (Number(flags) & KERNEL_THREAD) !== 0) return null;
    return { pid, parent: Number(parent), group: Number(group) };
  }

  /**
   * The control groups of our container, where it is one of a pod's; null: it is not, or nothing tells. The kubelet runs
   * hooks and probes in it, which have no parent of ours.
   */
  async #ownContainer(): Promise<string | null> {
    if ((await this.#command(1))[0] !== PAUSE) return null;
    const [ours, pods] = [await this.#groups(this.#self), await this.#groups(1)];
    return ours === '' || ours === pods ? null : ours;
  }

  /** cgroup(7)'s `/proc/PID/cgroup`. */
  #groups(pid: number): Promise<string> {
    return readFile(`${this.#proc}/${pid}/cgroup`, 'utf8').catch(() => '');
  }

  async #command(pid: number): Promise<readonly string[]> {
    return (await readFile(`${this.#proc}/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  }

  /**
   * The pod's `/pause`, what else is in our container, and sidecars. A process says itself what it is called: a sidecar has our user and a program
   * that the kernel names, so that no app of another user is overlooked, whatever it calls itself.
   */
  async #isNotTheApp(pid: number, container: string | null): Promise<boolean> {
    const at = `${this.#proc}/${pid}`;
    const [program = '', ...words] = await this.#command(pid);
    if (pid === 1 && program === PAUSE) return true;
    if (container !== null && (await this.#groups(pid)) === container) return true;
    const [owner, exe] = await Promise.all([
      stat(at).then(
        ({ uid }) => uid,
        () => null,
      ),
      readlink(`${at}/exe`).catch(() => ''),
    ]);
    if (owner !== process.getuid?.()) return false;
    return SIDECARS.has(basename(exe)) || (exe === this.#program.exe && words.includes(this.#program.script));
  }
}

/** Those that one comes from and those that come from it, itself included. */
function relatives(all: readonly Process[], self: number): ReadonlySet<number> {
  const parents = new Map(all.map(({ pid, parent }) => [pid, parent]));
  const ancestors = (from: number): number[] => {
    const chain: number[] = [];
    for (let pid = from; pid > 0 && !chain.includes(pid); pid = parents.get(pid) ?? 0) chain.push(pid);
    return chain;
  };
  const family = new Set(ancestors(self));
  for (const { pid } of all) if (ancestors(pid).includes(self)) family.add(pid);
  return family;
}

async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  await pauseFor(ms, undefined, { signal }).catch(() => {});
}
