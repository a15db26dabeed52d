/** Behind capture, two replicas are replaced one after the other under load, then their caller: sidecar and app each time, and no call fails. */
import t, { type Test } from 'tap';
import { needPods, PodNetwork } from '../harness/pods.ts';
import { stageImage } from '../harness/pods-image.ts';
import { PodMesh } from '../harness/pods-mesh.ts';
import { modeYaml, podYaml, serviceYaml, VIPS } from '../harness/pods-resources.ts';
import { RolledPod } from '../harness/pods-rolled.ts';
import { pause, within } from '../harness/wait.ts';

t.setTimeout(120_000);
needPods(t);

/** How soon after SIGTERM callers learn that an endpoint has gone (ms). */
const NEWS_COMES = 100;
const HTTP = { name: 'http', port: 80, targetPort: 8080 };
const ECHO = { name: 'tcp-echo', port: 7000, targetPort: 7000 };
const LISTENS = { http: HTTP.targetPort, echo: ECHO.targetPort };
const ORDERS = [`${VIPS.ipv4}1`, `[${VIPS.ipv6}1]`];

const network = PodNetwork.create(t, ['web', 'web-next', 'orders-a', 'orders-b', 'orders-c', 'orders-d']);
const image = stageImage(t);
const resources = [serviceYaml('orders', 1, [HTTP, ECHO]), serviceYaml('web', 2, [HTTP]), modeYaml('STRICT')];
const mesh = new PodMesh(t, image, network, resources.join('---\n'));

/** Pods that are ready and are not told to end, and the service that each is an endpoint of. */
const serving = new Map<string, 'orders' | 'web'>();
const news = (): void =>
  mesh.write(
    'pods.yaml',
    [...serving].map(([name, app]) => podYaml(network.pod(name), { labels: { app } })).join('---\n'),
  );

async function up(name: string, app: 'orders' | 'web', ...flags: string[]): Promise<RolledPod> {
  const [calls, last] = app === 'web' ? [ORDERS, `http://${ORDERS[0]}/`] : [[], `http://${VIPS.ipv4}2/`];
  const rolled = await RolledPod.up(mesh, network.pod(name), { ...LISTENS, calls, last }, ...flags);
  serving.set(name, app);
  news();
  return rolled;
}

/** The signal to both at once, the news of it a little later. */
async function terminate(gone: RolledPod): Promise<void> {
  gone.terminate();
  await pause(NEWS_COMES);
  serving.delete(gone.pod.name);
  news();
}

/** The app has had its time: it ends what runs and calls once more. */
async function end(t: Test, gone: RolledPod): Promise<void> {
  t.equal(await gone.leave(), '', 'the last call of its app is answered');
  await within(`the sidecar of ${gone.pod.name} to end`, gone.sidecar.exited);
  t.equal(gone.sidecar.child.exitCode, 0);
  t.same(gone.failures, []);
}

const DELAY = ['--drain-delay', '1s', '--drain', '30s'];
const [a, b] = await Promise.all([
  up('orders-a', 'orders', ...DELAY),
  up('orders-b', 'orders', '--drain', '30s', '--concurrency', '2'),
]);
const web = await up('web', 'web', ...DELAY);

/** Takes a replica out in the midst of calls that last longer than its sidecar takes new ones. */
async function replace(t: Test, gone: RolledPod): Promise<void> {
  const { mark } = web.sidecar;
  const { whole } = web;
  await web.hold(gone);
  await web.goesOn();
  await terminate(gone);
  await gone.sidecar.logged({ msg: /^drain begins/ });
  await web.sidecar.logged({ msg: 'resources are in force' }, mark);
  await web.goesOn();
  await Promise.all([gone.finish(), web.finish()]);
  await end(t, gone);
  await web.goesOn();
  t.equal(web.whole, whole + 2, 'what was under way ended whole');
  t.same(web.failures, []);
}

let c = a;

t.test('a replica that serves on for a while is replaced', async (t) => {
  c = await up('orders-c', 'orders', ...DELAY);
  await replace(t, a);
});

t.test('a replica whose sidecar closes its door at once is replaced', async (t) => {
  await up('orders-d', 'orders', ...DELAY);
  await replace(t, b);
});

t.test('their caller is replaced: its app calls on until it ends, over its own sidecar', async (t) => {
  const next = await up('web-next', 'web', ...DELAY);
  const { whole } = web;
  await web.hold(c);
  await web.goesOn();
  await terminate(web);
  await web.sidecar.logged({ msg: /^drain begins/ });
  await web.goesOn();
  await Promise.all([c.finish(), web.finish()]);
  await end(t, web);
  t.equal(web.whole, whole + 2, 'what was under way ended whole');
  await next.goesOn();
  t.same(next.failures, []);
});
