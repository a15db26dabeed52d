/** Whatever rights `run` is started with, none of its threads has one afterwards. */
import { spawn, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t, { type Test } from 'tap';
import { folder } from './helper.ts';

const MAIN = join(import.meta.dirname, '../../cli/main.ts');
const MESH_WIDE = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
`;
/** Threads of its own making, and of libuv's, are there by then. */
const IN_FORCE = 'resources are in force';

/** Starts the daemon by way of `before`. @returns its process id, once it has resources */
async function running(t: Test, before: readonly string[], flags: readonly string[]): Promise<number> {
  const dir = folder(t, { 'mesh.yaml': MESH_WIDE });
  const run = [
    '--config',
    dir,
    '--namespace',
    'shop',
    '--name',
    'web',
    '--spiffe-socket',
    join(dir, 'no-agent'),
  ];
  const ports = ['--admin-port', 'off', '--metrics-port', 'off', '--health-port', '0', '--hbone-port', 'off'];
  const [command = '', ...args] = [...before, process.execPath, MAIN, 'run', ...run, ...ports, ...flags];
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(command, args, { env: { PATH, HOME }, stdio: ['ignore', 'ignore', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stderr })) {
    lines.push(line);
    if (line.includes(IN_FORCE)) return child.pid ?? 0;
  }
  throw new Error(`it ended: ${lines.join('\n')}`);
}

/** A field of /proc/PID/task/TID/status of every thread, each value once. */
function values(pid: number, field: string): readonly string[] {
  const threads = readdirSync(`/proc/${pid}/task`);
  const found = threads.map((thread) => {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
    return new RegExp(`^${field}:\\s*(\\S+)`, 'm').exec(status)?.[1] ?? '';
  });
  return [...new Set(found)];
}

const NONE = '0000000000000000';
const REDIRECT = [
  ...['--intercept', 'redirect', '--allow-root', '--outbound-port', '0', '--inbound-port', '0'],
  // No rules lead here.
  ...['--canary-interval', '0s'],
];
const NO_REDIRECT = ['--intercept', 'none'];

const rows: readonly (readonly [
  name: string,
  before: readonly string[],
  flags: readonly string[],
  bounding?: string,
])[] = [
  ['root', [], NO_REDIRECT, NONE],
  ['root, with threads of the data path', [], [...NO_REDIRECT, '--concurrency', '2'], NONE],
  ['root, allowed with capture', [], REDIRECT, NONE],
  ['root that may not shrink its bounding set', ['setpriv', '--bounding-set=-all,+net_admin'], NO_REDIRECT],
  ['root with inherited ones', ['setpriv', '--inh-caps=+net_raw,+setpcap'], NO_REDIRECT, NONE],
  [
    'no root, with ambient ones',
    ['setpriv', '--securebits=+noroot,+noroot_locked', '--inh-caps=+net_raw', '--ambient-caps=+net_raw'],
    NO_REDIRECT,
  ],
];

const root = process.getuid?.() === 0 && spawnSync('setpriv', ['--bounding-set=-all', 'true']).status === 0;
if (!root) process.stderr.write('\nSKIPPED: giving up rights needs root, who has some, and setpriv\n\n');

for (const [name, before, flags, bounding] of rows) {
  t.test(name, { skip: root ? false : 'needs root and setpriv' }, async (t) => {
    const pid = await running(t, before, flags);
    t.ok(readdirSync(`/proc/${pid}/task`).length > 5, 'there are other threads than the first');
    for (const field of ['CapEff', 'CapPrm', 'CapInh', 'CapAmb']) t.same(values(pid, field), [NONE], field);
    t.same(values(pid, 'NoNewPrivs'), ['1']);
    if (bounding !== undefined) t.same(values(pid, 'CapBnd'), [bounding]);
  });
}

t.test(
  'who has no capability is left as it was',
  { skip: root ? false : 'needs root and setpriv' },
  async (t) => {
    const pid = await running(t, ['setpriv', '--bounding-set=-all'], NO_REDIRECT);
    t.same(values(pid, 'CapEff'), [NONE]);
    t.same(values(pid, 'NoNewPrivs'), ['0'], 'it was not executed anew');
  },
);
