/** The demo as a new user meets it: every command it prints does what it says, and nothing is left when it stops. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { request } from 'undici';
import { type Oarlock, start } from './harness/processes.ts';
import { pause, until, within } from './harness/wait.ts';

const ROOT = join(import.meta.dirname, '../..');
/** docs/CLI.md says 15 s; a start that is begun twice, beside another file of tests, takes longer. */
const READY_MS = 45_000;
/** docs/CLI.md: each command ends within 10 s. */
const COMMAND_MS = 10_000;
/** The bound of a stop, and some for a busy machine. */
const STOP_MS = 12_000;

interface Try {
  readonly title: string;
  readonly command: string;
  readonly expect: string;
  readonly status: number;
}

interface Ready {
  readonly ready: true;
  readonly dir: string;
  readonly config: string;
  readonly services: Readonly<Record<string, { readonly pid: number; readonly address: string | null }>>;
  readonly sidecars: Readonly<
    Record<
      string,
      {
        readonly pid: number;
        readonly identity: string;
        readonly ports: Readonly<Record<string, number>>;
        readonly metrics: string;
      }
    >
  >;
  readonly try: readonly Try[];
}

interface Demo {
  readonly process: Oarlock;
  /** Its temporary folder's parent, otherwise empty. */
  readonly tmp: string;
}

/** @param base the test's folder; each demo has one of its own in it */
function startDemo(t: Test, base: string): Demo {
  const tmp = mkdtempSync(join(base, 'tmp-'));
  return { process: start(t, ['demo', '--json'], { TMPDIR: tmp }), tmp };
}

async function readyLine({ process }: Demo): Promise<Ready> {
  const line = await process.stdout.next({ ready: true }, 0, READY_MS);
  return line as unknown as Ready;
}

function pidsOf({ services, sidecars }: Ready): number[] {
  return [...Object.values(services), ...Object.values(sidecars)].map(({ pid }) => pid);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Runs a command as a user's shell does. Output is stdout, then stderr. */
function shell(command: string): Promise<{ readonly status: number | null; readonly output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn('sh', ['-c', command], { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, errors] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      errors += chunk.toString();
    });
    child.once('error', reject);
    child.once('close', (status) => resolve({ status, output: out + errors }));
  });
}

/** Lines of ps for the processes that have the demo's TMPDIR in their environment. */
async function processesOf({ tmp }: Demo): Promise<string> {
  const list = process.platform === 'darwin' ? 'ps -axEww' : 'ps axeww';
  return (await shell(`${list} | grep -F 'TMPDIR=${tmp}' | grep -v grep`)).output;
}

/** Lines of the sidecar's metrics. */
async function metricsOf(ready: Ready, name: string): Promise<string[]> {
  const { body } = await request(ready.sidecars[name]?.metrics ?? '');
  return (await body.text()).split('\n');
}

/** Requests that the sidecar answered 200 over mutual TLS. */
async function served(ready: Ready, name: string): Promise<number> {
  return (await metricsOf(ready, name))
    .filter((line) => line.startsWith('istio_requests_total{') && line.includes('reporter="destination"'))
    .filter((line) => line.includes('response_code="200"') && line.includes('"mutual_tls"'))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
}

t.test('every printed command returns what it promises, and Ctrl-C leaves nothing', async (t) => {
  const demo = startDemo(t, t.testdir());
  const ready = await readyLine(demo);
  t.same(Object.keys(ready.services).sort(), ['ca', 'legacy', 'orders', 'payments', 'web']);
  t.same(
    Object.entries(ready.sidecars).map(([name, { identity }]) => [name, identity]),
    ['web', 'orders', 'payments'].map((name) => [name, `spiffe://cluster.local/ns/shop/sa/${name}`]),
  );
  t.ok(ready.try.length >= 6, 'at least six commands');
  t.ok(ready.config.startsWith(demo.tmp), 'it works on a copy of its YAML');

  // Twice: a user pastes in any order, and again.
  for (const round of [1, 2]) {
    for (const { title, command, expect, status } of ready.try) {
      const answer = await within(title, shell(command), COMMAND_MS);
      t.equal(answer.status, status, `${title} (${round}): exit status`);
      t.ok(answer.output.includes(expect), `${title} (${round}): output`, { expect, ...answer });
    }
  }

  const before = await served(ready, 'payments');
  await until('steady traffic at payments', async () => (await served(ready, 'payments')) >= before + 4);

  const links = [
    // To payments, which denies what comes that way.
    { name: 'web', inbound: 0, outbound: 1 },
    { name: 'orders', inbound: 0, outbound: 1 },
    { name: 'payments', inbound: 2, outbound: 0 },
  ];
  for (const { name, inbound, outbound } of links) {
    const lines = await metricsOf(ready, name);
    t.ok(lines.includes(`oarlock_tunnels{direction="inbound"} ${inbound}`), `tunnels to ${name}`);
    t.ok(lines.includes(`oarlock_tunnels{direction="outbound"} ${outbound}`), `tunnels of ${name}`);
  }

  const pids = pidsOf(ready);
  t.equal(new Set(pids).size, 8);
  t.ok(pids.every(isAlive), 'all are processes of their own');
  t.equal(demo.process.stdout.all.length, 1, 'stdout carries exactly one line');
  demo.process.signal('SIGINT');
  t.same(await demo.process.end(STOP_MS), { code: 0, signal: null });
  t.same(pids.filter(isAlive), [], 'no process is left');
  t.same(readdirSync(demo.tmp), [], 'no file is left');
  t.equal(demo.process.stderr.text, '');
});

t.test('two demos run at once', async (t) => {
  const base = t.testdir();
  const demos = [startDemo(t, base), startDemo(t, base)];
  const both = await Promise.all(demos.map(readyLine));
  const addresses = both.flatMap(({ services }) =>
    Object.values(services).flatMap(({ address }) => address ?? []),
  );
  t.equal(new Set(addresses).size, addresses.length, 'no port is shared');
  for (const { try: commands } of both) {
    const [first] = commands;
    const { output } = await shell(first?.command ?? '');
    t.match(output, '[200]');
  }
  for (const { process } of demos) process.signal('SIGTERM');
  for (const { process } of demos) t.same(await process.end(STOP_MS), { code: 0, signal: null });
  t.same(both.flatMap(pidsOf).filter(isAlive), []);
  for (const { tmp } of demos) t.same(readdirSync(tmp), []);
});

t.test('a port that is taken at the last moment only costs a second start', async (t) => {
  const demo = startDemo(t, t.testdir());
  // The copy of the YAML is written as soon as the ports are chosen, some time before a sidecar asks for one.
  const port = await until('the YAML', () => {
    const [dir = ''] = readdirSync(demo.tmp);
    const yaml = readFileSync(join(demo.tmp, dir, 'config/sidecars.yaml'), 'utf8');
    return /ingress:[\s\S]*?number: (\d+)/.exec(yaml)?.[1];
  });
  const thief = createServer();
  t.teardown(() => thief.close());
  await new Promise<void>((resolve, reject) => {
    thief.once('error', reject).listen(Number(port), '127.0.0.1', resolve);
  });
  const ready = await readyLine(demo);
  t.notOk(`ingress:127.0.0.1:${port}` in (ready.sidecars.web?.ports ?? {}), 'another port is used');
  t.equal(readdirSync(demo.tmp).length, 1, "the first start's folder is gone");
  demo.process.signal('SIGTERM');
  t.same(await demo.process.end(STOP_MS), { code: 0, signal: null });
  t.equal(demo.process.stderr.text, '');
});

t.test('a process that dies ends the demo, which says where its log is', async (t) => {
  const demo = startDemo(t, t.testdir());
  const ready = await readyLine(demo);
  process.kill(ready.sidecars.orders?.pid ?? 0, 'SIGKILL');
  t.same(await demo.process.end(STOP_MS), { code: 1, signal: null });
  t.match(demo.process.stderr.text, /the sidecar of orders ended unexpectedly, by SIGKILL; its log: \//);
  t.same(pidsOf(ready).filter(isAlive), []);
  t.ok(readdirSync(demo.tmp).length === 1, 'the logs stay');
});

t.test('killed outright, it takes its processes with it', async (t) => {
  const demo = startDemo(t, t.testdir());
  const pids = pidsOf(await readyLine(demo));
  demo.process.signal('SIGKILL');
  t.ok(await until('the processes to end', () => !pids.some(isAlive), STOP_MS));
});

t.test('told to stop while it starts, it leaves nothing', async (t) => {
  const base = t.testdir();
  for (const ms of [250, 700, 1_400]) {
    const demo = startDemo(t, base);
    await pause(ms);
    demo.process.signal('SIGTERM');
    const { code, signal } = await demo.process.end(STOP_MS);
    // Before it listens for signals there is nothing to clear away.
    t.ok(code === 0 || signal === 'SIGTERM', `after ${ms} ms`, { code, signal });
    t.same(readdirSync(demo.tmp), []);
    t.equal(await processesOf(demo), '', 'no process of it is left');
  }
});

t.test('a wrong flag is bad usage', async (t) => {
  for (const args of [['--nonsense'], ['extra']]) {
    const process = start(t, ['demo', ...args]);
    t.same(await process.end(), { code: 2, signal: null });
    t.match(process.stderr.text, /^error: /);
  }
  const help = start(t, ['demo', '--help']);
  t.same(await help.end(), { code: 0, signal: null });
  t.match(help.stdout.text, '--json');
});
