/** What injection writes for the containers is what the commands take: arguments, environment, ports. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { DEFAULT_INJECT_CONFIG, type InjectConfig } from '../../inject/inject-config.ts';
import { injectPod } from '../../inject/inject-pod.ts';
import { files, paths } from '../../inject/volumes.ts';
import { temporaryFolder } from '../ca-client/helper.ts';
import { call } from '../e2e/harness/clients.ts';
import { runToEnd, start } from '../e2e/harness/processes.ts';

// biome-ignore lint/suspicious/noExplicitAny: pods are looked into by tests that know them
type Any = any;

/** What the kubelet puts in for the fields of the pod. */
const FIELDS: Readonly<Record<string, string>> = {
  'metadata.name': 'web-1',
  'metadata.namespace': 'shop',
  'status.podIP': '127.0.0.1',
  'status.podIPs': '127.0.0.1,::1',
  'status.hostIP': '127.0.0.1',
  'spec.serviceAccountName': 'web',
};

function containersOf(
  annotations: Readonly<Record<string, string>>,
  caAddress: string,
  more: Partial<InjectConfig> = {},
): readonly Any[] {
  const pod = {
    metadata: { name: 'web-1', labels: { app: 'web' }, annotations },
    spec: { containers: [{ name: 'web', ports: [{ name: 'http', containerPort: 8080 }] }] },
  };
  const owner = { apiVersion: 'v1', kind: 'Pod', name: 'web-1', namespace: 'shop' };
  const done = injectPod(pod, 'the pod', () => owner, { ...DEFAULT_INJECT_CONFIG, caAddress, ...more })
    .pod as Any;
  return done.spec.initContainers;
}

t.test(
  'the sidecar starts with its arguments and environment, and has the identity of its pod',
  async (t) => {
    const folder = temporaryFolder(t);
    const ca = start(t, ['ca', 'serve', '--dir', join(folder, 'ca'), '--listen', '127.0.0.1:0']);
    const { address } = await ca.stdout.next({ ready: true });
    // The volumes, as the pod has them mounted.
    const mounted = (path: string) => join(folder, path);
    for (const path of [paths.config, paths.root, paths.token, paths.podInfo])
      mkdirSync(mounted(path), { recursive: true });
    const account = ['--namespace', 'shop', '--service-account', 'web'];
    const token = await runToEnd(t, ['ca', 'token', '--dir', join(folder, 'ca'), ...account]);
    writeFileSync(mounted(`${paths.token}/istio-token`), token.stdout);
    writeFileSync(mounted(`${paths.root}/root-cert.pem`), readFileSync(join(folder, 'ca/root-cert.pem')));
    // With what the ReplicaSet's controller adds to the template's.
    writeFileSync(mounted(files.labels), 'app="web"\npod-template-hash="5d4"');
    writeFileSync(
      mounted(`${paths.config}/strict.yaml`),
      `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {pod-template-hash: 5d4}}
  mtls: {mode: STRICT}
`,
    );
    const [sidecar] = containersOf({ 'sidecar.istio.io/interceptionMode': 'NONE' }, String(address));
    const env: Record<string, string> = {};
    for (const { name, value, valueFrom } of sidecar.env) {
      const text = value ?? FIELDS[valueFrom.fieldRef.fieldPath];
      env[name] = text.startsWith('/') ? mounted(text) : text;
    }
    // Other tests use the usual ports.
    for (const port of ['ADMIN', 'METRICS', 'HEALTH', 'HBONE']) env[`OARLOCK_${port}_PORT`] = '0';
    const running = start(t, sidecar.args, env);
    const ready = (await running.stdout.next({ ready: true })) as Any;
    t.equal(ready.identity, 'spiffe://cluster.local/ns/shop/sa/web');
    const snapshot = JSON.parse(
      String((await call(ready.ports.admin, '/snapshot', { headers: { host: 'localhost' } })).body),
    );
    t.match(snapshot.workload, {
      namespace: 'shop',
      labels: { app: 'web', 'pod-template-hash': '5d4' },
      serviceAccount: 'web',
    });
    t.match(JSON.stringify(snapshot), /STRICT/, 'its labels are those that policy selects by');
  },
);

t.test('the rules take its arguments', async (t) => {
  const traffic = (name: string, value: string) => [`traffic.sidecar.istio.io/${name}`, value] as const;
  const annotations = Object.fromEntries([
    traffic('includeInboundPorts', ''),
    traffic('excludeInboundPorts', '4,5'),
    traffic('includeOutboundPorts', '5000'),
    traffic('excludeOutboundPorts', '7,8'),
    traffic('includeOutboundIPRanges', '10.96.0.1/24'),
    traffic('excludeOutboundIPRanges', '10.96.0.2/32,fd00::/8'),
    traffic('excludeInterfaces', 'eth1'),
    traffic('kubevirtInterfaces', 'net1,net2'),
  ]);
  const [init] = containersOf(annotations, 'ca:15012');
  const { code, stdout, stderr } = await runToEnd(t, [...init.args, '--dry-run', '--backend', 'nft']);
  t.equal(code, 0, stderr);
  for (const words of [/5000/, /10\.96\.0\.2/, /fd00::/, /eth1/, /net2/]) t.match(stdout, words);
});

t.test("and the operator's word, and what the environment says of them", async (t) => {
  const [init] = containersOf({}, 'ca:15012', {
    excludeIPRanges: '169.254.169.254/32',
    excludeInboundPorts: 9100,
    env: { OARLOCK_IPTABLES_IPV6: 'off', OARLOCK_IPTABLES_BACKEND: 'nft', OARLOCK_INBOUND_PORT: '16006' },
  });
  const env = Object.fromEntries(init.env.map(({ name, value }: Any) => [name, value]));
  const { code, stdout, stderr } = await runToEnd(t, [...init.args, '--dry-run'], env);
  t.equal(code, 0, stderr);
  const ipv4Alone = /meta nfproto 10 counter return/;
  for (const words of [/^# nft /m, ipv4Alone, /169\.254\.169\.254/, /9100/, /16006/]) t.match(stdout, words);
});
