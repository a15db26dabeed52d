/** Which processes count as the app: states, kernel threads, families and sidecars, as proc(5) shows them. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { AppProcesses } from '../../cli/app-processes.ts';
import { tempDir } from '../e2e/harness/mesh.ts';

interface Row {
  readonly pid: number;
  readonly parent?: number;
  readonly group?: number;
  readonly state?: string;
  readonly flags?: number;
  readonly name?: string;
  readonly command?: readonly string[];
  /** What the kernel says it runs; absent: we may not see it, as of another user. */
  readonly exe?: string;
  /** As control groups of version 2 are named; absent: it cannot be read. */
  readonly cgroup?: string;
}

const SELF = 50;
const NODE = '/usr/local/bin/node';
const MAIN = '/opt/oarlock/dist/main.js';
const program = { exe: NODE, script: MAIN };
/** A pod's shared namespace: what holds it, a launcher, ourselves, and what we started. */
const POD: readonly Row[] = [
  { pid: 1, parent: 0, command: ['/pause'] },
  { pid: 40, parent: 0, command: ['sh', '-c', 'oarlock run'] },
  { pid: SELF, parent: 40, command: ['/usr/local/bin/node', '/opt/oarlock/dist/main.js', 'run'] },
  { pid: 51, parent: SELF, command: ['helper'] },
];

function procOf(rows: readonly Row[]): string {
  const proc = tempDir(t);
  for (const row of rows) addTo(proc, row);
  writeFileSync(join(proc, 'uptime'), '1 1');
  return proc;
}

function addTo(
  proc: string,
  {
    pid,
    parent = 0,
    group = pid,
    state = 'S',
    flags = 4_194_560,
    name = 'x',
    command = [],
    exe,
    cgroup,
  }: Row,
): void {
  const dir = join(proc, String(pid));
  mkdirSync(dir);
  const rest = [state, parent, group, group, 0, -1, flags, ...Array.from({ length: 43 }, () => 0)];
  writeFileSync(join(dir, 'stat'), `${pid} (${name}) ${rest.join(' ')}\n`);
  if (exe !== undefined) symlinkSync(exe, join(dir, 'exe'));
  writeFileSync(join(dir, 'cmdline'), command.map((part) => `${part}\0`).join(''));
  if (cgroup !== undefined) writeFileSync(join(dir, 'cgroup'), `0::${cgroup}\n`);
}

const all: readonly (readonly [title: string, more: readonly Row[], sees: boolean])[] = [
  ['nobody but the pod and ourselves', [], false],
  ['an app', [{ pid: 60, command: ['python3', 'job.py'] }], true],
  [
    'an app whose name reads like the rest of the line',
    [{ pid: 60, name: 'a) Z 1 (b', command: ['job'] }],
    true,
  ],
  [
    'an app that is pid 1, as with a shared namespace of compose',
    [{ pid: 60, parent: 1, command: ['worker'] }],
    true,
  ],
  ['a zombie', [{ pid: 60, state: 'Z' }], false],
  ['a kernel thread', [{ pid: 60, parent: 2, flags: 0x00208040 }], false],
  [
    "what started under our launcher is no kin of ours but the app's",
    [{ pid: 60, parent: 40, command: ['job'] }],
    true,
  ],
  ['a grandchild of ours', [{ pid: 60, parent: 51, command: ['job'] }], false],
  [
    "Istio's agent and Envoy",
    [
      { pid: 60, command: ['/usr/local/bin/pilot-agent', 'proxy'], exe: '/usr/local/bin/pilot-agent' },
      { pid: 61, parent: 60, command: ['envoy', '-c'], exe: '/usr/local/bin/envoy' },
    ],
    false,
  ],
  ['another sidecar of ours', [{ pid: 60, command: [NODE, MAIN, 'run'], exe: NODE }], false],
  ['one with a flag of Node', [{ pid: 60, command: [NODE, '--no-opt', MAIN, 'run'], exe: NODE }], false],
  ['an app that calls itself a sidecar', [{ pid: 60, command: ['envoy'], exe: '/app/shop' }], true],
  ['one that we may not look at', [{ pid: 60, command: ['/app/envoy'] }], true],
  ['one called pause', [{ pid: 60, command: ['/pause'], exe: '/pause' }], true],
  ['an app of Node', [{ pid: 60, command: [NODE, '/srv/oarlock/shop.js'], exe: NODE }], true],
  ['an app that names our script', [{ pid: 60, command: ['cat', MAIN], exe: '/bin/cat' }], true],
  ['an app with a file of that name', [{ pid: 60, command: ['cat', '/tmp/oarlock.log'] }], true],
];

t.test('all', async (t) => {
  for (const [title, more, sees] of all) {
    const app = new AppProcesses('all', { proc: procOf([...POD, ...more]), self: SELF, program });
    t.equal(await app.sees(), sees, title);
  }
});

t.test('a process group', async (t) => {
  const rows: readonly (readonly [title: string, more: readonly Row[], sees: boolean])[] = [
    ['nobody of it', [{ pid: 61, group: 61 }], false],
    ['its leader', [{ pid: 60, group: 60 }], true],
    ['one whose leader has gone', [{ pid: 61, group: 60 }], true],
    ['zombies', [{ pid: 60, group: 60, state: 'Z' }], false],
  ];
  for (const [title, more, sees] of rows) {
    const app = new AppProcesses(60, { proc: procOf([...POD, ...more]), self: SELF, program });
    t.equal(await app.sees(), sees, title);
  }
});

t.test('what a kubelet runs in our container is not the app: hooks and probes', async (t) => {
  // Seen from a container in a cgroup namespace of its own, the others are beside it.
  const podOf = (pause: Partial<Row>, ours: string | undefined): readonly Row[] => [
    { pid: 1, parent: 0, command: ['/pause'], cgroup: '/../pause', ...pause },
    { pid: SELF, parent: 0, command: [NODE, MAIN, 'run'], ...(ours === undefined ? {} : { cgroup: ours }) },
  ];
  const hook: Row = { pid: 60, command: ['runc', 'init'], cgroup: '/' };
  const app: Row = { pid: 61, command: ['runc', 'init'], cgroup: '/../app' };
  const rows: readonly (readonly [title: string, rows: readonly Row[], sees: boolean])[] = [
    ['a hook', [...podOf({}, '/'), hook], false],
    ['an app, which begins in the same way', [...podOf({}, '/'), app], true],
    ['both', [...podOf({}, '/'), hook, app], true],
    ['nobody tells of containers', [...podOf({ cgroup: '/' }, '/'), hook], true],
    ['nobody tells of ours', [...podOf({}, undefined), { pid: 60, command: ['job'] }], true],
    ['no pod: what started us started the app too', [...podOf({ command: ['init'] }, '/'), hook], true],
  ];
  for (const [title, processes, sees] of rows) {
    const seen = new AppProcesses('all', { proc: procOf(processes), self: SELF, program });
    t.equal(await seen.sees(), sees, title);
  }
});

t.test('one that ends while it is looked at is not taken for the app: it may be a hook', async (t) => {
  const proc = procOf([...POD, { pid: 60, command: [NODE, MAIN, 'wait'], exe: NODE }]);
  const command = join(proc, '60/cmdline');
  rmSync(command);
  execFileSync('mkfifo', [command]);
  const seen = new AppProcesses('all', { proc, self: SELF, program }).sees();
  // Opens once it is read: all have been listed by then.
  const pipe = await open(command, 'w');
  rmSync(join(proc, '60/stat'));
  rmSync(join(proc, '60/exe'));
  await pipe.close();
  t.equal(await seen, false);
});

t.test('an app that has little to do is seen all the same', async (t) => {
  /** Lives from `from` to `to`, in ms since it is waited for. @returns when it was seen; null: never */
  async function seenAt(
    which: number | 'all',
    from: number,
    to: number,
    told: boolean,
  ): Promise<number | null> {
    const proc = procOf(POD);
    const newest = (pid: number): void => writeFileSync(join(proc, 'loadavg'), `0.1 0.1 0.1 1/9 ${pid}\n`);
    newest(51);
    const over = new AbortController();
    let now = 0;
    const pause = async (ms: number): Promise<void> => {
      const before = now;
      now += ms;
      if (before < from && now >= from) {
        addTo(proc, { pid: 60, command: ['true'] });
        if (told) newest(60);
      }
      if (before < to && now >= to) rmSync(join(proc, '60'), { recursive: true });
      if (now > 10_000) over.abort();
    };
    await new AppProcesses(which, { proc, self: SELF, program, pause }).come(over.signal);
    return over.signal.aborted ? null : now;
  }
  for (const from of [20, 130, 1_000, 5_010]) {
    const at = await seenAt('all', from, from + 40, true);
    t.ok(at !== null && at < from + 40, `from ${from} ms: seen at ${at}`);
  }
  for (const which of ['all', 60] as const) {
    const at = await seenAt(which, 1_000, 2_000, false);
    t.ok(at !== null && at <= 1_200, `where nothing tells of new processes: seen at ${at}`);
  }
  t.equal(await seenAt('all', 20_000, 20_000, true), null, 'and waited for as long as it takes');
});
