/** A Job is complete when all its containers are: a sidecar that is told to leaves within two seconds of its app. */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { DEFAULT_INJECT_CONFIG } from '../../inject/inject-config.ts';
import { injectPod } from '../../inject/inject-pod.ts';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { freePort } from './harness/ports.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { pause, until, within } from './harness/wait.ts';

t.setTimeout(120_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
/** Two seconds, and as much again for a busy machine (ms). */
const LEAVES = 4_000;
const MAIN = join(import.meta.dirname, '../../cli/main.ts');

/** A process that leads a group of its own. */
function job(t: Test, script: string): ChildProcess {
  const child = spawn('sh', ['-c', script], { detached: true, stdio: 'ignore' });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

t.test('with a process group, once all of it is gone', async (t) => {
  // Its leader ends first.
  const child = job(t, 'sleep 60 & sleep 60 & exec sleep 60');
  const group = child.pid ?? 0;
  const orders = await mesh.sidecar('orders');
  const web = await mesh.sidecar('web', '--exit-with-app', String(group));
  await web.logged({ msg: /^the app runs/ });
  child.kill('SIGKILL');
  await pause(1_000);
  t.equal((await call(ports.http, '/tell')).status, 200, 'it serves on while one of them runs');
  process.kill(-group, 'SIGKILL');
  const began = performance.now();
  t.same(await web.process.end(), { code: 0, signal: null });
  t.ok(performance.now() - began < LEAVES, `${performance.now() - began} ms`);
  t.match(web.process.stderr.matching({ msg: 'stopping' }), [{ cause: 'the app is gone' }]);
  await orders.process.kill();
});

t.test('but not before it has come: an app may start later', async (t) => {
  // A number that no process has.
  const web = await mesh.sidecar('web', '--exit-with-app', '4194304');
  await pause(1_500);
  t.equal(web.process.child.exitCode, null);
  t.same(web.process.stderr.matching({ msg: 'stopping' }), []);
  web.process.signal('SIGTERM');
  t.same(await web.process.end(), { code: 0, signal: null });
});

const isRoot = process.getuid?.() === 0 && process.platform === 'linux';
t.test(
  'with all that runs beside it in a pid namespace, as containers of a pod share one',
  { skip: !isRoot && 'needs root, to make a pid namespace' },
  async (t) => {
    const { dir } = await mesh.certDir('web');
    const flags = mesh.flags('shop/web', '--cert-dir', dir, '--exit-with-app');
    const sidecar = [process.execPath, MAIN, ...flags].map((part) => `'${part}'`).join(' ');
    const over = join(mesh.dir, 'over');
    // The shell stands for the pod's first process, which both come from.
    const script = `${sidecar} & sidecar=$!; (until [ -e ${over} ]; do sleep 0.1; done) & wait $sidecar; echo "ended with $?"`;
    const child = spawn('unshare', ['--pid', '--fork', '--mount-proc', '--kill-child', 'sh', '-c', script], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    t.teardown(() => child.kill('SIGKILL'));
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece: Buffer) => (said += piece));
    const closed = new Promise((resolve) => child.once('close', resolve));
    await until('the app to be seen', () => said.includes('the app runs: we leave when it is gone'));
    const began = performance.now();
    writeFileSync(over, '');
    await within('the end of the namespace', closed);
    const took = performance.now() - began;
    t.match(said, /"cause":"the app is gone"/);
    t.match(said, /ended with 0/);
    t.ok(took < LEAVES, `${took} ms`);
  },
);

interface Container {
  readonly name: string;
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly lifecycle?: { readonly postStart?: { readonly exec: { readonly command: readonly string[] } } };
}

/** The containers of a Job's pod whose processes are shared, with a sidecar among them. */
function jobContainers(): readonly Container[] {
  const pod = {
    metadata: { annotations: { 'sidecar.istio.io/nativeSidecar': 'false' } },
    spec: { containers: [{ name: 'job' }], restartPolicy: 'Never', shareProcessNamespace: true },
  };
  const owner = { apiVersion: 'v1', kind: 'Pod', name: 'job', namespace: 'shop' };
  const done = injectPod(pod, 'the pod', () => owner, DEFAULT_INJECT_CONFIG);
  return (done.pod.spec as unknown as { containers: readonly Container[] }).containers;
}

t.test(
  'an injected Job that is done in no time completes',
  { skip: !isRoot && 'needs root, to make a pid namespace' },
  async (t) => {
    const { dir } = await mesh.certDir('web');
    const health = String(await freePort());
    const line = (...argv: readonly string[]): string =>
      [process.execPath, MAIN, ...argv].map((part) => `'${part}'`).join(' ');
    // As a kubelet: one container after the other, each once the one before has started and its hook has ended.
    const steps = jobContainers().flatMap(({ name, env = [], lifecycle }) => {
      if (name === 'job') return ['sleep 0.3 & job=$!'];
      const set = env
        .filter(({ name }) => name === 'OARLOCK_EXIT_WITH_APP')
        .map((one) => `${one.name}=${one.value}`);
      const run = line(...mesh.flags('shop/web', '--cert-dir', dir, '--health-port', health));
      const [, ...hook] = lifecycle?.postStart?.exec.command ?? [];
      return [
        `${set.join(' ')} ${run} & sidecar=$!`,
        ...(hook.length === 0 ? [] : [line(...hook, '--health-port', health)]),
      ];
    });
    const script = [...steps, 'wait $job; wait $sidecar; echo "ended with $?"'].join('\n');
    const child = spawn('unshare', ['--pid', '--fork', '--mount-proc', '--kill-child', 'sh', '-c', script], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    t.teardown(() => child.kill('SIGKILL'));
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece: Buffer) => (said += piece));
    await within('the pod to complete', new Promise((resolve) => child.once('close', resolve)));
    t.match(said, /"cause":"the app is gone"/);
    t.match(said, /ended with 0/);
  },
);
