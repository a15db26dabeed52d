/**
 * Deployments as users write them, through `oarlock inject`, and the containers it adds run as a kubelet runs them: init
 * container, sidecar, probes and rights fit together, and the pods are in the mesh.
 */
import t from 'tap';
import type { Pod } from '../harness/pods.ts';
import { callerOf, curl, toldOf } from '../harness/pods-calls.ts';
import { inject, probe, startInjected, type Template } from '../harness/pods-kubelet.ts';
import { document, VIPS } from '../harness/pods-resources.ts';
import { APP, CA_NAME, shopOfPods, VIP } from '../harness/pods-shop.ts';
import { spiffe } from '../harness/test-ca.ts';

t.setTimeout(120_000);

const { mesh, web, orders, legacy } = await shopOfPods(t);
const WEB = spiffe('shop', 'web');

/** Nothing of a mesh is in it. */
const deployment = (app: string, annotations: Readonly<Record<string, string>> = {}): string => `
apiVersion: apps/v1
kind: Deployment
metadata: {name: ${app}, namespace: shop}
spec:
  selector: {matchLabels: {app: ${app}}}
  template:
    metadata: {labels: {app: ${app}}, annotations: ${JSON.stringify(annotations)}}
    spec:
      serviceAccountName: ${app}
      containers:
      - name: app
        image: registry.example/app
        ports: [{containerPort: ${APP.http}, name: http}]
        readinessProbe: {httpGet: {path: /ready, port: http}, timeoutSeconds: 10}
        livenessProbe: {tcpSocket: {port: ${APP.http}}, timeoutSeconds: 10}
`;

/** The pod that a Deployment would make of its template. */
const podOf = (pod: Pod, { metadata, spec }: Template): string =>
  document('v1', 'Pod', pod.name, {
    labels: metadata.labels,
    annotations: metadata.annotations,
    spec,
    status: {
      phase: 'Running',
      podIP: pod.ipv4,
      podIPs: [{ ip: pod.ipv4 }, { ip: pod.ipv6 }],
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  });

const templates = new Map([
  [web, inject(mesh, deployment('web'))],
  [
    orders,
    inject(mesh, deployment('orders', { 'traffic.sidecar.istio.io/excludeInboundPorts': `${APP.stray}` })),
  ],
]);
mesh.write('pods.yaml', [...templates].map(([pod, template]) => podOf(pod, template)).join('---\n'));
await mesh.serveCa([CA_NAME]);

t.test('the containers come up, one after the other', async (t) => {
  for (const [pod, template] of templates) {
    t.strictSame(
      template.spec.initContainers.map(({ name }) => name),
      ['istio-init', 'istio-proxy'],
    );
    const sidecar = await startInjected(mesh, pod, template);
    t.match(await sidecar.get('http://127.0.0.1:15021/healthz/ready'), '"ready":true');
  }
});

t.test('and the pods are in the mesh', async (t) => {
  for (const url of [
    `http://${VIPS.ipv4}${VIP.orders}`,
    `http://[${VIPS.ipv6}${VIP.orders}]`,
    'http://orders',
  ]) {
    t.equal(callerOf(toldOf(await curl(web, `${url}/`))), WEB, url);
  }
  for (const host of orders.hosts) {
    t.match((await curl(legacy, `http://${host}:${APP.http}/`)).error, /reset by peer/, `${host} is STRICT`);
    const told = toldOf(await curl(legacy, `http://${host}:${APP.stray}/`));
    t.equal(
      told.peer,
      host.startsWith('[') ? legacy.ipv6 : legacy.ipv4,
      `${host}: a port that an annotation leaves out`,
    );
  }
});

t.test('the kubelet hears from the app, by the probes as they are written now', async (t) => {
  for (const [pod, { spec }] of templates) {
    for (const { name, readinessProbe, livenessProbe } of spec.containers) {
      t.ok(await probe(mesh, pod, readinessProbe), `${pod.name}: ${name} is ready`);
      t.ok(await probe(mesh, pod, livenessProbe), `${pod.name}: ${name} lives`);
    }
    for (const { name, readinessProbe } of spec.initContainers.slice(1)) {
      t.ok(await probe(mesh, pod, readinessProbe), `${pod.name}: ${name} is ready`);
    }
  }
});
