/** A sidecar in a pod begins before its app has anything to wait for, and ends after the app has. */
import { once } from 'node:events';
import t from 'tap';
import { APP_UID, needPods, PodNetwork, PROXY_UID } from '../harness/pods.ts';
import { pythonApps } from '../harness/pods-apps.ts';
import { curl } from '../harness/pods-calls.ts';
import { stageImage } from '../harness/pods-image.ts';
import { PodMesh } from '../harness/pods-mesh.ts';
import { modeYaml, podYaml, serviceYaml, VIPS } from '../harness/pods-resources.ts';
import { Lines } from '../harness/processes.ts';
import { pause, until, within } from '../harness/wait.ts';

t.setTimeout(120_000);
needPods(t);

const PORT = 8080;
const [ORDERS, WEB] = [`http://${VIPS.ipv4}1/`, `http://${VIPS.ipv4}2/`];
const network = PodNetwork.create(t, ['web', 'orders']);
const [web, orders] = [network.pod('web'), network.pod('orders')];
const ports = [{ name: 'http', port: 80, targetPort: PORT }];
const resources = [
  serviceYaml('orders', 1, ports),
  serviceYaml('web', 2, ports),
  podYaml(orders),
  modeYaml('STRICT'),
];
const staged = stageImage(t);
// What the test runner would have run in each Node writes where the sidecar's user may not.
const image = { ...staged, oarlock: ['env', '--unset=NODE_OPTIONS', ...staged.oarlock] };
const mesh = new PodMesh(t, image, network, resources.join('---\n'));
await pythonApps(t, orders, [`http:${PORT}`]);
await Promise.all([mesh.rules(web), mesh.inject([orders])]);

t.test('an app that calls before there is anything is held, not refused; `oarlock wait` waits', async (t) => {
  const sidecar = mesh.start(web, { credentials: mesh.token('web'), flags: ['--workload', 'shop/web'] });
  const waiting = web.spawn([...image.oarlock, 'wait']);
  t.teardown(() => waiting.kill('SIGKILL'));
  const { stdout, stderr } = waiting;
  if (stdout === null || stderr === null) throw new Error('no pipes');
  const [said, told] = [new Lines(stdout), new Lines(stderr)];
  const over = once(waiting, 'close');
  await sidecar.logged({ msg: 'waiting, not ready' });
  // Before anything changes: a busy machine may start one of the two long after the other.
  await told.next({ text: /^waiting for .*shop\/web, credentials/ });
  let answered = 0;
  const calls = Array.from({ length: 5 }, async () => {
    const { status, error } = await curl(web, ORDERS);
    answered++;
    return `${status}${error}`;
  });
  await pause(500);
  t.equal(answered, 0, 'they wait for resources');
  mesh.write('web.yaml', podYaml(web));
  await sidecar.logged({ msg: 'resources are in force' });
  await pause(500);
  t.equal(answered, 0, 'and for a certificate');
  await told.next({ text: /^waiting for credentials: / });
  await mesh.serveCa();
  t.same(
    await Promise.all(calls),
    Array.from(calls, () => '200'),
  );
  t.same(await within('the end of waiting', over), [0, null]);
  t.match(said.text, /^ready after [0-9.]+ s$/);
  await sidecar.ready();
  await sidecar.kill();
});

t.test(
  'told to stop, it serves what the app asks for until the app is gone, and is gone with it',
  async (t) => {
    const app = web.spawn(['python3', '-m', 'http.server', String(PORT)], { uid: APP_UID });
    t.teardown(() => app.kill('SIGKILL'));
    const sidecar = await mesh.start(web, { flags: ['--drain', '60s', '--concurrency', '2'] }).ready();
    await until('the app of web to answer', async () => (await curl(orders, WEB)).status === 200);
    sidecar.child.kill('SIGTERM');
    await sidecar.logged({ msg: /^drain begins/ });
    for (let i = 0; i < 5; i++) {
      t.equal((await curl(web, ORDERS)).status, 200, 'a new call of the app');
      await pause(200);
    }
    const { error } = await curl(orders, `http://${web.ipv4}:${PORT}/`, { uid: PROXY_UID });
    t.match(error, /refused|Could not connect|Failed to connect/, 'nothing new comes in');
    const { output } = await web.run(['curl', '--silent', 'http://127.0.0.1:15021/healthz/ready']);
    t.match(output, /"ready":false/);
    app.kill('SIGKILL');
    const began = performance.now();
    await within('the end', sidecar.exited);
    // Well before the drain is over.
    t.ok(performance.now() - began < 10_000, `${performance.now() - began} ms`);
    t.equal(sidecar.child.exitCode, 0);
    t.equal(sidecar.stderr.matching({ msg: 'the app is gone' }).length, 1);
  },
);

t.test('an app that never ends holds it up no longer than --drain', async (t) => {
  const app = web.spawn(['python3', '-m', 'http.server', String(PORT)], { uid: APP_UID });
  t.teardown(() => app.kill('SIGKILL'));
  const sidecar = await mesh.start(web, { flags: ['--drain', '1500ms'] }).ready();
  await until('the app of web to answer', async () => (await curl(orders, WEB)).status === 200);
  const began = performance.now();
  sidecar.child.kill('SIGTERM');
  await within('the end', sidecar.exited);
  const took = performance.now() - began;
  t.ok(took >= 1_500 && took < 10_000, `${took} ms`);
  t.equal(sidecar.child.exitCode, 0);
  t.same(sidecar.stderr.matching({ msg: 'the app is gone' }), []);
});
