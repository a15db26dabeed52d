/** Behind capture, two replicas are replaced one after the other under load, then their caller: sidecar and app each time, and no call fails. */
import t, { type Test } from 'tap';
import { needPods, PodNetwork } from '../harness/pods.ts';
import { stageImage } from '../harness/pods-image.ts';
import { PodMesh, type PodSidecar } from '../harness/pods-mesh.ts';
import { modeYaml, podYaml, serviceYaml, VIPS } from '../harness/pods-resources.ts';
import { RolledPod } from '../harness/pods-rolled.ts';
import { pause, until, within } from '../harness/wait.ts';

t.setTimeout(180_000);
needPods(t);

/** How soon after SIGTERM callers learn that an endpoint has gone (ms). */
const NEWS_COMES = 100;
/** Of connections before a door that closes. */
const CROWD = 20;
const HTTP = { name: 'http', port: 80, targetPort: 8080 };
const ECHO = { name: 'tcp-echo', port: 7000, targetPort: 7000 };
const LISTENS = { http: HTTP.targetPort, echo: ECHO.targetPort };
/** Reached by HBONE; the others by mutual TLS of each connection's own. */
const TUNNELLED = { app: 'orders', 'networking.istio.io/tunnel': 'http' } as const;
const ORDERS = [`${VIPS.ipv4}1`, `[${VIPS.ipv6}1]`];

const network = PodNetwork.create(t, ['web', 'web-next', 'orders-a', 'orders-b', 'orders-c', 'orders-d']);
const image = stageImage(t);
const resources = [serviceYaml('orders', 1, [HTTP, ECHO]), serviceYaml('web', 2, [HTTP]), modeYaml('STRICT')];
const mesh = new PodMesh(t, image, network, resources.join('---\n'));

interface Labels extends Readonly<Record<string, string>> {
  /** Its service, and its account. */
  readonly app: 'orders' | 'web';
}

const credentials = { orders: mesh.issue('orders'), web: mesh.issue('web') };
/** Pods that are ready and are not told to end, by name, with their labels. */
const serving = new Map<string, Labels>();
/** Who must have the news before anything rests on it. */
const callers: PodSidecar[] = [];
async function news(): Promise<void> {
  const pods = [...serving].map(([name, labels]) =>
    podYaml(network.pod(name), { labels, account: labels.app }),
  );
  await mesh.change('pods.yaml', pods.join('---\n'), callers);
}

/** A new pod, from when its containers are ready an endpoint of its service. */
async function up(name: string, labels: Labels, ...flags: string[]): Promise<RolledPod> {
  const { app } = labels;
  const [calls, last] = app === 'web' ? [ORDERS, `http://${ORDERS[0]}/`] : [[], `http://${VIPS.ipv4}2/`];
  const options = {
    labels,
    account: app,
    credentials: credentials[app],
    flags: ['--access-log', 'off', '--drain', '30s', ...flags],
  };
  const rolled = await RolledPod.up(mesh, network.pod(name), { ...LISTENS, calls, last }, options);
  serving.set(name, labels);
  await news();
  return rolled;
}

/** The signal to both at once, the news of it a little later. */
async function terminate(gone: RolledPod): Promise<void> {
  gone.terminate();
  await pause(NEWS_COMES);
  serving.delete(gone.pod.name);
  await news();
}

/** The app has had its time: it ends what runs and calls once more. */
async function end(t: Test, gone: RolledPod): Promise<void> {
  t.equal(await gone.leave(), '', 'the last call of its app is answered');
  await within(`the sidecar of ${gone.pod.name} to end`, gone.sidecar.exited);
  t.equal(gone.sidecar.child.exitCode, 0);
  t.same(gone.failures, []);
}

/** It serves on until callers have the news. */
const DELAY = ['--drain-delay', '1s'];
const [a, b] = await Promise.all([
  up('orders-a', TUNNELLED, ...DELAY, '--concurrency', '2'),
  // It does not: callers meet a closed port, and go elsewhere.
  up('orders-b', { app: 'orders' }),
]);
const web = await up('web', { app: 'web' }, ...DELAY);
callers.push(web.sidecar);

/**
 * Takes a replica out in the midst of calls that last longer than its sidecar takes new ones.
 * @param stop has it terminated; how many more such calls have begun meanwhile
 */
async function replace(t: Test, gone: RolledPod, stop: () => Promise<number>): Promise<void> {
  const { whole } = web;
  await web.hold(gone);
  await web.goesOn();
  const more = await stop();
  await gone.sidecar.logged({ msg: /^drain begins/ });
  await web.goesOn();
  await Promise.all([gone.finish(), web.finish()]);
  await end(t, gone);
  await web.goesOn();
  t.equal(web.whole, whole + 2 + more, 'what was under way ended whole');
  t.same(web.failures, []);
}

let c = a;

t.test('a replica that serves on for a while is replaced', async (t) => {
  c = await up('orders-c', TUNNELLED, ...DELAY);
  await replace(t, a, () => terminate(a).then(() => 0));
});

t.test('a replica whose sidecar closes its door at once, on a crowd before it, is replaced', async (t) => {
  await up('orders-d', { app: 'orders' }, ...DELAY);
  await replace(t, b, async () => {
    b.freeze();
    const crowd = web.crowd(b, CROWD);
    await until('all to wait at its door', async () => (await b.queued()) >= CROWD);
    const terminated = terminate(b);
    b.thaw();
    await Promise.all([terminated, crowd]);
    return CROWD;
  });
});

t.test('their caller is replaced: its app calls on until it ends, over its own sidecar', async (t) => {
  const next = await up('web-next', { app: 'web' }, ...DELAY);
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
