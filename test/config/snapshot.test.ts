/** Compiling a whole set: which workload, when there is no snapshot, and the guides' own resources. */
import { join } from 'node:path';
import t from 'tap';
import { parseDocuments } from '../../config/documents.ts';
import { readFolders } from '../../config/folder.ts';
import type { SnapshotInput } from '../../config/snapshot.ts';
import { compileSnapshot } from '../../config/snapshot.ts';

const GUIDES = join(import.meta.dirname, '..', 'fixtures', 'guides');

const given = (namespace: string, app: string, serviceAccount: string) => ({
  namespace,
  name: app,
  labels: new Map([['app', app]]),
  serviceAccount,
});

function compile(yaml: string, workload: SnapshotInput['workload']) {
  const set = parseDocuments(yaml, 'mesh.yaml');
  return compileSnapshot({ ...set, workload, overrides: {}, intercept: 'none', generation: 7 });
}

const ENTRY = `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {address: 10.0.0.1, serviceAccount: web, ports: {http: 8080}}
`;

t.test('which workload', async (t) => {
  const byName = compile(ENTRY, { entry: 'shop/web' });
  t.equal(byName.waitingFor, null);
  t.match(byName.snapshot, {
    generation: 7,
    identity: { uri: 'spiffe://cluster.local/ns/shop/sa/web' },
    workload: { name: 'web', namespace: 'shop', serviceAccount: 'web', addresses: ['10.0.0.1'] },
    warnings: [],
  });
  t.same(compile(ENTRY, { entry: 'shop/other' }), {
    snapshot: null,
    waitingFor: 'WorkloadEntry shop/other',
    problems: [],
  });
  t.equal(
    compile('kind: MeshConfig\ntrustDomain: td1\n', given('a', 'b', 'c')).snapshot?.identity.uri,
    'spiffe://td1/ns/a/sa/c',
  );
  const nameless = compile(ENTRY.replace('serviceAccount: web, ', ''), { entry: 'shop/web' }).snapshot;
  t.equal(
    nameless?.identity.uri,
    'spiffe://cluster.local/ns/shop/sa/default',
    'Kubernetes’ account by default',
  );
  t.match(nameless?.warnings, [/has no serviceAccount/]);
});

t.test('an Error anywhere: no snapshot', async (t) => {
  const bad = '---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x, namespace: far}\n';
  const { snapshot, waitingFor, problems } = compile(ENTRY + bad, { entry: 'shop/web' });
  t.equal(snapshot, null);
  t.equal(waitingFor, null);
  t.match(problems, [{ severity: 'Error', resource: 'Sidecar/far/x', line: 6 }]);
  t.equal(compile(`${ENTRY}---\na: [\n`, { entry: 'shop/web' }).snapshot, null, 'a fault of reading counts');
  t.match(compile('', given('a', 'b', 'no account')).problems, [{ severity: 'Error', message: /SPIFFE/ }]);
});

t.test('a Warning is carried along', async (t) => {
  const { snapshot } = compile(`${ENTRY}---\nkind: MeshConfig\nenableTracing: true\n`, {
    entry: 'shop/web',
  });
  t.match(snapshot?.warnings, [/^mesh\.yaml:7: MeshConfig\/default\/istio: enableTracing: .*\(OLK0110\)$/]);
});

t.test('a route is chosen once and the memory does not grow', async (t) => {
  const yaml = `${ENTRY}---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: any, namespace: shop}
spec:
  hosts: ["*.example.com", api.example.com]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 10.9.9.9}]
`;
  const { snapshot } = compile(yaml, { entry: 'shop/web' });
  const first = snapshot?.route('api.example.com', 443);
  t.ok(first);
  t.equal(snapshot?.route('API.example.com', 443), first, 'the same record');
  const wild = snapshot?.route('a1.example.com', 443);
  t.equal(wild?.service.host, '*.example.com');
  t.equal(snapshot?.route('a2.example.com', 443), wild, 'one record for all that a wildcard covers');
  t.equal(snapshot?.route('a2.example.com', 444), null);
});

t.test(
  'a provider of CUSTOM whose service nobody defines is of no use, whatever else is said of it',
  async (t) => {
    const opa = `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: opa, namespace: shop}
spec: {hosts: [opa.example], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http}]}
`;
    const rows: readonly [provider: string, usable: boolean][] = [
      ['envoyExtAuthzHttp: {service: opa.example, port: 80, failOpen: true}', true],
      ['envoyExtAuthzHttp: {service: shop/opa.example, port: 80}', true],
      ['envoyExtAuthzHttp: {service: other/opa.example, port: 80, failOpen: true}', false],
      ['envoyExtAuthzHttp: {service: opa.example, port: 81, failOpen: true}', false],
      ['envoyExtAuthzGrpc: {service: gone.example, port: 80, failOpen: true}', false],
    ];
    for (const [provider, usable] of rows) {
      const custom = `---
kind: MeshConfig
extensionProviders: [{name: opa, ${provider}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}
`;
      const { snapshot } = compile(ENTRY + opa + custom, { entry: 'shop/web' });
      t.equal(snapshot?.extAuthz.get('opa')?.fault === null, usable, provider);
      const facts = {
        peer: null,
        sourceIp: '',
        remoteIp: '',
        destinationIp: '',
        destinationPort: 1,
        sni: null,
      };
      const asked = snapshot?.authorization.ask(facts, null) ?? null;
      // On TCP a provider that speaks HTTP is passed over, but not one that is of no use.
      t.equal(
        asked === null ? 'passed over' : 'allowed' in asked ? 'denied' : 'asked',
        usable ? 'passed over' : 'denied',
      );
    }
  },
);

t.test('the guides’ resources', async (t) => {
  const set = readFolders([GUIDES]);
  t.same(set.problems, []);
  t.equal(set.resources.length, 12);
  const of = (namespace: string, app: string) => {
    const input = {
      ...set,
      workload: given(namespace, app, app),
      overrides: {},
      intercept: 'none',
      generation: 1,
    };
    const { snapshot, problems } = compileSnapshot(input as SnapshotInput);
    t.same(problems, [], `${namespace}/${app}`);
    return snapshot;
  };
  const payment = of('production', 'payment-service');
  t.same(payment?.modeOf(8080), { mode: 'STRICT', source: 'production/payment-service-mtls' });
  t.same(payment?.modeOf(9090), { mode: 'PERMISSIVE', source: 'production/payment-service-mtls' });
  t.same(of('production', 'cart')?.modeOf(8080), { mode: 'STRICT', source: 'production/default' });
  t.same(of('legacy', 'app')?.modeOf(8080), { mode: 'PERMISSIVE', source: 'legacy/default' });
  t.same(of('anywhere', 'app')?.modeOf(8080), { mode: 'STRICT', source: 'istio-system/default' });

  const external = payment?.route('api.external-service.com', 443);
  t.match(external, {
    tls: {
      mode: 'MUTUAL',
      auto: false,
      sni: 'api.external-service.com',
      source: 'production/external-api-mtls',
      clientCertificate: '/etc/certs/cert.pem',
      privateKey: '/etc/certs/key.pem',
      caCertificates: '/etc/certs/ca.pem',
    },
    endpoints: [{ address: 'api.external-service.com', port: 443, tls: 'MUTUAL' }],
  });
});
