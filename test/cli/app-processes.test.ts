/** Which processes count as the app: states, kernel threads, families and sidecars, as proc(5) shows them. */
import { mkdirSync, writeFileSync } from 'node:fs';
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
}

const SELF = 50;
/** A pod's shared namespace: what holds it, a launcher, ourselves, and what we started. */
const POD: readonly Row[] = [
  { pid: 1, parent: 0, command: ['/pause'] },
  { pid: 40, parent: 0, command: ['sh', '-c', 'oarlock run'] },
  { pid: SELF, parent: 40, command: ['/usr/local/bin/node', '/opt/oarlock/dist/main.js', 'run'] },
  { pid: 51, parent: SELF, command: ['helper'] },
];

function procOf(rows: readonly Row[]): string {
  const proc = tempDir(t);
  for (const {
    pid,
    parent = 0,
    group = pid,
    state = 'S',
    flags = 4_194_560,
    name = 'x',
    command = [],
  } of rows) {
    const dir = join(proc, String(pid));
    mkdirSync(dir);
    const rest = [state, parent, group, group, 0, -1, flags, ...Array.from({ length: 43 }, () => 0)];
    writeFileSync(join(dir, 'stat'), `${pid} (${name}) ${rest.join(' ')}\n`);
    writeFileSync(join(dir, 'cmdline'), command.map((part) => `${part}\0`).join(''));
  }
  writeFileSync(join(proc, 'uptime'), '1 1');
  return proc;
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
      { pid: 60, command: ['/usr/local/bin/pilot-agent', 'proxy'] },
      { pid: 61, parent: 60, command: ['/usr/local/bin/envoy', '-c'] },
    ],
    false,
  ],
  [
    'another sidecar of ours',
    [{ pid: 60, command: ['/usr/local/bin/node', '/opt/oarlock/dist/main.js'] }],
    false,
  ],
  ['an app with a file of that name', [{ pid: 60, command: ['cat', '/tmp/oarlock.log'] }], true],
];

t.test('all', async (t) => {
  for (const [title, more, sees] of all) {
    const app = new AppProcesses('all', { proc: procOf([...POD, ...more]), self: SELF });
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
    const app = new AppProcesses(60, { proc: procOf([...POD, ...more]), self: SELF });
    t.equal(await app.sees(), sees, title);
  }
});
