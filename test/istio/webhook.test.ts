/** The injector, the CA and the manifests against a real Kubernetes API server. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import { identityOf } from '../../mesh/identity.ts';
import { fileWith, temporaryFolder } from '../ca-client/helper.ts';
import { start } from '../e2e/harness/processes.ts';
import { until } from '../e2e/harness/wait.ts';
import { type ControlPlane, controlPlane } from './control-plane.ts';
import { Kubernetes, objectsIn } from './kubernetes.ts';

const manifests = join(import.meta.dirname, '../../deploy/kubernetes');
const never = new AbortController().signal;
/** Of one run, for namespaces live on. */
const mark = `o${process.pid}`;
const configuration = `oarlock-${mark}`;

const plane = controlPlane();
if (plane === null) t.plan(0, 'OARLOCK_CONTROL_PLANE_DIR is not set: no real Kubernetes API to ask');
else against(plane);

function against(plane: ControlPlane): void {
  t.test('the API server takes every manifest, and knows each field', async (t) => {
    const kubernetes = new Kubernetes(t, plane);
    for (const name of ['oarlock-system', 'shop']) {
      await kubernetes.create({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    }
    const files = ['ca.yaml', 'webhook.yaml', 'example/shop.yaml'].map((file) => join(manifests, file));
    const objects = objectsIn(...files).filter(({ kind }) => kind !== 'Namespace');
    t.ok(objects.length > 15, `${objects.length} objects`);
    for (const object of objects) {
      const { status, body } = await kubernetes.create(object, '&dryRun=All');
      t.ok(
        status === 201 || body.reason === 'AlreadyExists',
        `${object.kind} ${object.metadata.name}: ${body.message}`,
      );
    }
  });

  t.test('the CA takes projected tokens, and hands out its root', async (t) => {
    const kubernetes = new Kubernetes(t, plane);
    const system = await kubernetes.namespace(t, `ca-${mark}`);
    const ca = start(t, [
      ...['ca', 'serve', '--dir', temporaryFolder(t), '--listen', '127.0.0.1:0', '--kubernetes'],
      // Istiod keeps one of the usual name.
      ...['--server-name', 'oarlock-ca.oarlock-system.svc', '--root-config-map', 'oarlock-root'],
      ...['--kubernetes-api', plane.env('KUBE_API')],
      ...['--kubernetes-account', await kubernetes.account(t, system, 'oarlock-ca')],
    ]);
    const { address } = await ca.stdout.next({ ready: true });
    const map = `/api/v1/namespaces/${system}/configmaps/oarlock-root`;
    const root = await until(
      'the root',
      async () => (await kubernetes.ask('GET', map)).body.data?.['root-cert.pem'],
    );
    const obtain = (token: string, account: string) =>
      istioCaSource({
        address: String(address),
        caRootFile: fileWith(t, root),
        tokenFile: fileWith(t, token),
        identity: identityOf('cluster.local', `shop-${mark}`, account),
      }).obtain(never);
    await kubernetes.namespace(t, `shop-${mark}`);
    const token = await plane.token(`shop-${mark}`, 'web');
    t.equal((await obtain(token, 'web')).identity.uri, `spiffe://cluster.local/ns/shop-${mark}/sa/web`);

    const refused = async (what: string, token: string, words: RegExp): Promise<void> => {
      await t.rejects(obtain(token, 'web'), words, what);
    };
    await refused('expired', await plane.expired(token), /not one of this cluster, or has expired/);
    const [header, claims] = token.split('.');
    const forged = `${header}.${claims}.${Buffer.alloc(256, 1).toString('base64url')}`;
    await refused('signed by another', forged, /not one of this cluster/);
    const other = await plane.token(`shop-${mark}`, 'web', 'https://kubernetes.default.svc');
    await refused('for another audience', other, /audience/);
    await kubernetes.ask('DELETE', `/api/v1/namespaces/shop-${mark}/serviceaccounts/web`);
    await until("a deleted account's token to be refused", () =>
      obtain(token, 'web').then(
        () => false,
        (error: Error) => /not one of this cluster/.test(error.message),
      ),
    );
    t.notMatch(ca.stderr.text, new RegExp(claims ?? ''), 'no token in the log');
  });

  t.test('pods are injected as they are created', async (t) => {
    const kubernetes = new Kubernetes(t, plane);
    const system = await kubernetes.namespace(t, `webhook-${mark}`);
    const meshed = await kubernetes.namespace(t, `meshed-${mark}`, {
      'oarlock-run': mark,
      'istio-injection': 'enabled',
    });
    const plain = await kubernetes.namespace(t, `plain-${mark}`, { 'oarlock-run': mark });
    const { port } = await startInjector(t, kubernetes, plane, system);
    t.ok(port > 0);

    const make = (namespace: string, name: string, more: { labels?: object; annotations?: object } = {}) =>
      kubernetes.create({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace, ...more },
        spec: {
          // What Kubernetes' own admission sets elsewhere.
          serviceAccountName: 'default',
          containers: [
            { name: 'app', image: 'app:1', readinessProbe: { httpGet: { path: '/ready', port: 8080 } } },
          ],
        },
      });
    const read = async (namespace: string, name: string) =>
      (await kubernetes.ask('GET', `/api/v1/namespaces/${namespace}/pods/${name}`)).body;
    const names = (list: readonly { name: string }[] = []) => list.map(({ name }) => name);

    t.equal((await make(meshed, 'one', { labels: { app: 'one' } })).status, 201);
    const one = await read(meshed, 'one');
    t.same(names(one.spec.initContainers), ['istio-init', 'istio-proxy']);
    t.same(names(one.spec.containers), ['app']);
    t.equal(one.spec.initContainers[1].restartPolicy, 'Always');
    t.match(one.spec.containers[0].readinessProbe.httpGet, { path: '/app-health/app/readyz', port: 15020 });
    t.equal(one.metadata.labels['service.istio.io/canonical-name'], 'one');
    t.match(
      one.spec.volumes.find(({ name }: { name: string }) => name === 'istio-token').projected.sources[0],
      {
        serviceAccountToken: { audience: 'istio-ca', expirationSeconds: 43_200, path: 'istio-token' },
      },
    );

    const rows = [
      ['plain: nothing asks', plain, {}, false],
      ['plain: the pod asks', plain, { labels: { 'sidecar.istio.io/inject': 'true' } }, true],
      ['plain: a revision of ours', plain, { labels: { 'istio.io/rev': 'default' } }, true],
      ['meshed: not this one', meshed, { labels: { 'sidecar.istio.io/inject': 'false' } }, false],
      [
        'meshed: not this one, by annotation',
        meshed,
        { annotations: { 'sidecar.istio.io/inject': 'false' } },
        false,
      ],
    ] as const;
    for (const [i, [what, namespace, more, injected]] of rows.entries()) {
      t.equal((await make(namespace, `row${i}`, more)).status, 201, what);
      t.equal(
        names((await read(namespace, `row${i}`)).spec.initContainers).includes('istio-proxy'),
        injected,
        what,
      );
    }
    const bad = await make(meshed, 'bad', {
      annotations: { 'traffic.sidecar.istio.io/excludeInboundPorts': 'http' },
    });
    t.equal(bad.status, 400, 'a pod that cannot be injected is not made');
    t.match(bad.body.message, /excludeInboundPorts must be ports with commas, not "http"/);

    const path = `/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/${configuration}`;
    await kubernetes.ask('PATCH', path, [{ op: 'remove', path: '/webhooks/0/clientConfig/caBundle' }]);
    await until('the caBundle to be back', async () => {
      const { webhooks } = (await kubernetes.ask('GET', path)).body;
      return webhooks[0].clientConfig.caBundle === webhooks[1].clientConfig.caBundle;
    });
  });

  t.test('what every injected pod mounts is in all namespaces', async (t) => {
    const kubernetes = new Kubernetes(t, plane);
    const system = await kubernetes.namespace(t, `copies-${mark}`);
    const before = await kubernetes.namespace(t, `before-${mark}`);
    const foreign = await kubernetes.namespace(t, `foreign-${mark}`);
    const name = `policies-${mark}`;
    const map = (namespace: string, data: object) => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name, namespace },
      data,
    });
    const dataIn = async (namespace: string) =>
      (await kubernetes.ask('GET', `/api/v1/namespaces/${namespace}/configmaps/${name}`)).body.data;
    await kubernetes.create(map(system, { 'a.yaml': 'kind: A', 'b.yaml': 'kind: B' }));
    await kubernetes.create(map(foreign, { 'own.yaml': 'kind: Own' }));
    await startInjector(t, kubernetes, plane, system, ['--copy-config-map', name]);
    await until('the copy', async () => (await dataIn(before))?.['a.yaml'] === 'kind: A');
    const after = await kubernetes.namespace(t, `after-${mark}`);
    await until('the copy in a new namespace', async () => (await dataIn(after))?.['b.yaml'] === 'kind: B');
    await kubernetes.ask('PATCH', `/api/v1/namespaces/${system}/configmaps/${name}`, {
      data: { 'a.yaml': 'kind: C', 'b.yaml': null },
    });
    for (const namespace of [before, after]) {
      await until('the change', async () => (await dataIn(namespace))?.['a.yaml'] === 'kind: C');
      t.same(await dataIn(namespace), { 'a.yaml': 'kind: C' }, namespace);
    }
    t.same(await dataIn(foreign), { 'own.yaml': 'kind: Own' }, "another's is left alone");
    t.equal((await kubernetes.ask('GET', `/api/v1/namespaces/kube-system/configmaps/${name}`)).status, 404);
  });
}

/** Our webhook with the manifest's own configuration, but for this run's namespaces alone, and at this machine. */
async function startInjector(
  t: Test,
  kubernetes: Kubernetes,
  plane: ControlPlane,
  system: string,
  more: readonly string[] = [],
): Promise<{ readonly port: number }> {
  const config = join(temporaryFolder(t), 'inject.yaml');
  writeFileSync(config, 'image: registry.example/oarlock:1\n');
  const webhook = start(t, [
    ...['webhook', '--listen', '127.0.0.1:0', '--self-signed', '--server-name', '127.0.0.1'],
    ...['--webhook-name', configuration, '--inject-config', config],
    ...['--kubernetes-api', plane.env('KUBE_API')],
    ...['--kubernetes-account', await kubernetes.account(t, system, 'oarlock-webhook')],
    ...more,
  ]);
  const port = Number(
    String((await webhook.stdout.next({ ready: true })).address)
      .split(':')
      .at(-1),
  );
  const [wanted] = objectsIn(join(manifests, 'webhook.yaml')).filter(
    ({ kind }) => kind === 'MutatingWebhookConfiguration',
  );
  wanted.metadata.name = configuration;
  for (const one of wanted.webhooks) {
    one.clientConfig = { url: `https://127.0.0.1:${port}/inject` };
    one.namespaceSelector.matchExpressions.push({ key: 'oarlock-run', operator: 'In', values: [mark] });
  }
  const path = `/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/${configuration}`;
  t.teardown(() => kubernetes.ask('DELETE', path));
  const made = await kubernetes.create(wanted);
  t.equal(made.status, 201, made.body.message);
  await webhook.stderr.next({ event: 'ca-bundle' });
  // The API server has heard of the configuration once it asks us.
  const probe = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { generateName: 'probe-', namespace: `meshed-${mark}` },
    spec: { serviceAccountName: 'default', containers: [{ name: 'app', image: 'app:1' }] },
  };
  await until('the API server to ask', async () => {
    if (more.length > 0) return true;
    const { body } = await kubernetes.create(probe, '&dryRun=All');
    return body.spec?.initContainers !== undefined;
  });
  return { port };
}
