/** Capture beside what else a sidecar does: data-path threads that share its ports, and HBONE, whose streams are dialled alike. */
import t from 'tap';
import { missingForPods, needPods, type Pod, PodNetwork } from '../harness/pods.ts';
import { pythonApps } from '../harness/pods-apps.ts';
import { callerOf, curl, toldOf } from '../harness/pods-calls.ts';
import { stageImage } from '../harness/pods-image.ts';
import { PodMesh } from '../harness/pods-mesh.ts';
import { modeYaml, podYaml, serviceYaml, VIPS } from '../harness/pods-resources.ts';
import { spiffe } from '../harness/test-ca.ts';
import { until } from '../harness/wait.ts';

t.setTimeout(120_000);
if (missingForPods().length > 0) needPods(t);

const PORT = 8080;
/** Nobody declared it. */
const STRAY = 8081;
const WEB = spiffe('shop', 'web');
const TUNNEL = { 'networking.istio.io/tunnel': 'http' } as const;

const network = PodNetwork.create(t, ['web', 'orders']);
const [web, orders] = [network.pod('web'), network.pod('orders')];
const image = stageImage(t);
await pythonApps(t, orders, [`http:${PORT}`, `http:${STRAY}`]);

function meshOf(labels: Readonly<Record<string, string>>): PodMesh {
  const resources = [
    podYaml(web),
    podYaml(orders, { labels }),
    serviceYaml('orders', 1, [{ name: 'http', port: 80, targetPort: PORT }]),
    modeYaml('STRICT'),
  ];
  return new PodMesh(t, image, network, resources.join('---\n'));
}

/** By the service, by the pod, and at a port nobody declared: all in one family each, as nothing else tells them apart. */
const urlsOf = (pod: Pod): readonly (readonly [string, RegExp])[] => {
  const [ipv4, ipv6] = pod.hosts;
  return [
    [`http://${VIPS.ipv4}1`, /^(?:127\.0\.0\.6|::6)$/],
    [`http://[${VIPS.ipv6}1]`, /^(?:127\.0\.0\.6|::6)$/],
    [`http://${ipv4}:${PORT}`, /^127\.0\.0\.6$/],
    [`http://${ipv6}:${PORT}`, /^::6$/],
    [`http://${ipv4}:${STRAY}`, /^127\.0\.0\.6$/],
    [`http://${ipv6}:${STRAY}`, /^::6$/],
  ];
};

t.test('two threads on the ports of capture', async (t) => {
  const flags = ['--concurrency', '2', '--canary-interval', '200ms'];
  const sidecars = await meshOf({}).inject([web, orders], { flags });
  const [ofWeb, ofOrders] = sidecars;
  if (ofWeb === undefined || ofOrders === undefined) throw new Error('no sidecars');
  for (const [url, peer] of urlsOf(orders)) {
    // Either thread takes some of them.
    const told = await Promise.all(Array.from({ length: 8 }, () => curl(web, `${url}/threads`)));
    for (const one of told.map(toldOf)) {
      t.match(one.peer, peer, url);
      t.equal(callerOf(one), WEB, url);
    }
  }
  for (const family of ['ipv4', 'ipv6']) {
    await until(
      `the canary of ${family}`,
      async () => (await ofOrders.metric('oarlock_capture_rules', { family })) === 1,
    );
  }
  // Whichever thread has taken canaries, none of them is traffic.
  t.equal(await ofOrders.metric('oarlock_refusals_total', { direction: 'inbound' }), 0);
  for (const sidecar of sidecars) await sidecar.kill('SIGKILL');
});

t.test('HBONE: the app is dialled as for any captured connection', async (t) => {
  const mesh = meshOf(TUNNEL);
  const flags = ['--canary-interval', '200ms'];
  const [ofOrders] = await mesh.inject([orders], { labels: TUNNEL, flags });
  const [ofWeb] = await mesh.inject([web], { flags });
  if (ofWeb === undefined || ofOrders === undefined) throw new Error('no sidecars');
  for (const [url, peer] of urlsOf(orders).slice(0, 2)) {
    const told = toldOf(await curl(web, `${url}/tunnelled`));
    t.match(told.peer, peer, url);
    t.equal(callerOf(told), WEB, url);
  }
  t.ok((await ofOrders.metric('oarlock_tunnels', { direction: 'inbound' })) > 0, 'by a tunnel');
});
