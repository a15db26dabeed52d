/** Whether the app's processes run: those of a process group, or all that can be seen beside the pod's own and sidecars. */
import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { basename } from 'node:path';

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
/** Programs of other sidecars, which run as the user that we run as. */
const SIDECARS: ReadonlySet<string> = new Set(['envoy', 'pilot-agent']);

interface Program {
  readonly exe: string;
  readonly script: string;
}

interface From {
  readonly proc: string;
  readonly self: number;
  readonly program: Program;
}

/** The bundle is a script of Node. */
const OURS: Program = { exe: process.execPath, script: process.argv[1] ?? '' };

export class AppProcesses {
  readonly #which: number | 'all';
  readonly #proc: string;
  readonly #self: number;
  readonly #program: Program;

  /**
   * @param which a process group, or all: every process but ourselves, those that started us or that we started, the
   *   pod's `/pause`, kernel threads, and sidecars
   * @param from procfs, our process in it, and what it runs
   */
  constructor(
    which: number | 'all',
    { proc = '/proc', self = process.pid, program = OURS }: Partial<From> = {},
  ) {
    this.#which = which;
    this.#proc = proc;
    this.#self = self;
    this.#program = program;
  }

  /** True while one of them runs. */
  async sees(): Promise<boolean> {
    const all = await this.#processes();
    if (this.#which !== 'all') return all.some(({ group }) => group === this.#which);
    const family = relatives(all, this.#self);
    for (const { pid } of all) if (!family.has(pid) && !(await this.#isNotTheApp(pid))) return true;
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
    // Its name stands in parentheses, and may have some of its own.
    const [state = 'X', parent, group, , , , flags] = text.slice(text.lastIndexOf(')') + 2).split(' ');
    if (GONE.test(state) || (Number(flags) & KERNEL_THREAD) !== 0) return null;
    return { pid, parent: Number(parent), group: Number(group) };
  }

  /**
   * The pod's `/pause`, and sidecars. A process says itself what it is called: a sidecar has our user and a program
   * that the kernel names, so that no app of another user is overlooked, whatever it calls itself.
   */
  async #isNotTheApp(pid: number): Promise<boolean> {
    const at = `${this.#proc}/${pid}`;
    const command = await readFile(`${at}/cmdline`, 'utf8').catch(() => '');
    const [program = '', ...words] = command.split('\0');
    if (pid === 1 && program === '/pause') return true;
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
