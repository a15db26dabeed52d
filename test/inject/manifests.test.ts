/** The manifests under deploy/kubernetes against Kubernetes' schemas, and against each other. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parseAllDocuments } from 'yaml';
import { parseDocuments } from '../../config/documents.ts';
import { readInjectConfig } from '../../inject/inject-config.ts';
import type { Json } from '../../inject/json.ts';
import { SYSTEM_NAMESPACES } from '../../inject/needed.ts';
import { runToEnd } from '../e2e/harness/processes.ts';
import { schemaProblems } from './schemas.ts';

const folder = join(import.meta.dirname, '../../deploy/kubernetes');

// biome-ignore lint/suspicious/noExplicitAny: manifests are looked into by tests that know them
type Any = any;

function objectsIn(file: string): readonly Any[] {
  return parseAllDocuments(readFileSync(join(folder, file), 'utf8'), { version: '1.1' }).map((one) =>
    one.toJS(),
  );
}

const objects = ['namespace.yaml', 'ca.yaml', 'webhook.yaml', 'example/shop.yaml'].flatMap(objectsIn);
const find = (kind: string, name: string): Any =>
  objects.find((object) => object.kind === kind && object.metadata.name === name);

t.test('each object is one by its schema', async (t) => {
  t.ok(objects.length >= 20, `${objects.length} objects`);
  t.same(await schemaProblems(t, objects), []);
});

t.test('the check finds what is wrong', async (t) => {
  const pod = (more: object) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'x' },
    spec: { containers: [{ name: 'a', ...more }] },
  });
  t.match((await schemaProblems(t, [pod({ imagee: 'b' })])).join(), /imagee/);
  t.match((await schemaProblems(t, [pod({ image: 5 })])).join(), /image/);
  t.same(await schemaProblems(t, [pod({ image: 'b' })]), []);
});

t.test('every file of the folder is in the kustomization', async (t) => {
  for (const at of ['.', 'example']) {
    const [kustomization] = objectsIn(join(at, 'kustomization.yaml'));
    const listed = [
      ...kustomization.resources,
      ...kustomization.configMapGenerator.flatMap(({ files }: Any) => files),
    ];
    const there = readdirSync(join(folder, at), { recursive: at === '.' })
      .map(String)
      .filter(
        (name) =>
          name.endsWith('.yaml') && !name.endsWith('kustomization.yaml') && !name.startsWith('example/'),
      );
    t.same([...listed].sort(), there.sort(), at);
  }
});

t.test('resources of the mesh are read without a problem', async (t) => {
  for (const file of [
    'mesh/mesh.yaml',
    'mesh/peer-authentication.yaml',
    'example/peer-authentication.yaml',
    'example/web.yaml',
  ]) {
    const { resources, problems } = parseDocuments(readFileSync(join(folder, file), 'utf8'), file);
    t.same(problems, [], file);
    t.ok(resources.length > 0, file);
  }
});

t.test("the example's client reaches web over mutual TLS, wherever its Service's address is", async (t) => {
  const args = ['route', '--config', join(folder, 'example/web.yaml'), '--namespace', 'shop', '--port', '80'];
  const { stdout } = await runToEnd(t, [...args, '--address', '10.96.5.5', '--host', 'web', '-o', 'json']);
  t.match(JSON.parse(stdout), {
    tls: { mode: 'ISTIO_MUTUAL', expectedIdentities: ['spiffe://cluster.local/ns/shop/sa/web'] },
    endpoints: [{ address: '10.96.5.5', port: 80, tls: 'ISTIO_MUTUAL' }],
  });
});

t.test('the CA is there on both families', async (t) => {
  const { args } = find('Deployment', 'oarlock-ca').spec.template.spec.containers[0];
  t.ok(args.includes('--listen=[::]:15012'), args.join(' '));
});

t.test('names agree', async (t) => {
  const config = readInjectConfig(objectsIn('inject.yaml')[0] as Json, 'inject.yaml');
  const { port, name, namespace } = {
    ...find('Service', 'oarlock-ca').metadata,
    port: find('Service', 'oarlock-ca').spec.ports[0].port,
  };
  t.equal(config.caAddress, `${name}.${namespace}.svc:${port}`);
  const [ca] = find('Deployment', 'oarlock-ca').spec.template.spec.containers;
  t.ok(ca.args.includes(`--server-name=${name}.${namespace}.svc`));
  t.equal(ca.image, config.image);
  const webhook = find('Deployment', 'oarlock-webhook').spec.template.spec.containers[0];
  t.ok(webhook.args.includes('--server-name=oarlock-webhook.oarlock-system.svc'));
  t.equal(webhook.image, config.image);
  for (const map of [config.configMap, config.rootConfigMap]) {
    t.ok(webhook.args.includes(`--copy-config-map=${map}`));
    const rule = find('ClusterRole', 'oarlock-webhook').rules.find((one: Any) =>
      one.resourceNames?.includes(map),
    );
    t.same(rule.verbs, ['list', 'patch'], map);
  }
});

t.test('the injector is asked for the pods Istio would ask about', async (t) => {
  const { webhooks } = find('MutatingWebhookConfiguration', 'oarlock-sidecar-injector');
  const rows: readonly (readonly [what: string, namespace: object, pod: object, asked: boolean])[] = [
    ['nothing says so', {}, {}, false],
    ['the namespace', { 'istio-injection': 'enabled' }, {}, true],
    [
      'the namespace, not the pod',
      { 'istio-injection': 'enabled' },
      { 'sidecar.istio.io/inject': 'false' },
      false,
    ],
    [
      'the namespace refuses',
      { 'istio-injection': 'disabled' },
      { 'sidecar.istio.io/inject': 'true' },
      false,
    ],
    ['the pod', {}, { 'sidecar.istio.io/inject': 'true' }, true],
    ["the namespace's revision", { 'istio.io/rev': 'default' }, {}, true],
    ["another revision's namespace", { 'istio.io/rev': 'canary' }, {}, false],
    ["the pod's revision", {}, { 'istio.io/rev': 'default' }, true],
    ["another revision's pod", {}, { 'istio.io/rev': 'canary', 'sidecar.istio.io/inject': 'true' }, false],
    ...[...SYSTEM_NAMESPACES, 'oarlock-system'].map(
      (name) =>
        [name, { 'kubernetes.io/metadata.name': name, 'istio-injection': 'enabled' }, {}, false] as const,
    ),
  ];
  for (const [what, namespace, pod, asked] of rows) {
    const by = webhooks.filter(
      ({ namespaceSelector, objectSelector }: Any) =>
        selects(namespaceSelector, namespace) && selects(objectSelector, pod),
    );
    t.equal(by.length, asked ? 1 : 0, `${what}: asked once or not at all`);
  }
  for (const { failurePolicy, sideEffects, admissionReviewVersions } of webhooks) {
    t.same([failurePolicy, sideEffects, admissionReviewVersions], ['Fail', 'None', ['v1']]);
  }
});

/** Kubernetes' label selectors: NotIn holds for who lacks the label. */
function selects({ matchExpressions }: Any, labels: Readonly<Record<string, string>> | object): boolean {
  return matchExpressions.every(({ key, operator, values }: Any) => {
    const value = (labels as Record<string, string>)[key];
    if (operator === 'In') return value !== undefined && values.includes(value);
    if (operator === 'NotIn') return value === undefined || !values.includes(value);
    return operator === 'Exists' ? value !== undefined : value === undefined;
  });
}
