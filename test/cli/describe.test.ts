/** `oarlock describe`: modes with their source, policies by action, warnings, for a workload by labels or by name. */
import { join } from 'node:path';
import t from 'tap';
import { authz, folder, oarlock } from './helper.ts';

t.setTimeout(240_000);

function peers(name: string, namespace: string, spec: string): string {
  return `---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ${name}, namespace: ${namespace}}
spec: ${spec}
`;
}

const SET = [
  peers('default', 'istio-system', '{mtls: {mode: STRICT}}'),
  peers(
    'w',
    'foo',
    '{selector: {matchLabels: {app: httpbin}}, portLevelMtls: {80: {mode: PERMISSIVE}, 81: {mode: DISABLE}}}',
  ),
  authz(
    'readers',
    '{selector: {matchLabels: {app: httpbin}}, rules: [{to: [{operation: {methods: [GET]}}]}]}',
  ),
  authz('others', '{selector: {matchLabels: {app: other}}, rules: [{}]}'),
  authz('b-deny', '{action: DENY, rules: [{to: [{operation: {ports: ["90"]}}]}]}'),
  authz('a-deny', '{action: DENY, rules: [{to: [{operation: {ports: ["91"]}}]}]}'),
  authz('mesh-wide', '{action: DENY, rules: [{to: [{operation: {ports: ["92"]}}]}]}').replace(
    'namespace: foo',
    'namespace: istio-system',
  ),
  authz('audit', '{action: AUDIT, rules: [{}]}'),
  authz('ask', '{action: CUSTOM, provider: {name: opa}, rules: [{}]}'),
  authz('tried', '{action: DENY, rules: [{}]}', 'annotations: {istio.io/dry-run: "true"}'),
  `---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: foo}
spec: {address: 10.0.0.1, labels: {app: httpbin, version: v1}, serviceAccount: vm-account, ports: {http: 80, admin: 9000}}
---
apiVersion: v1
kind: Pod
metadata: {name: httpbin-0, namespace: foo, labels: {app: other}}
spec: {serviceAccountName: httpbin, containers: [{name: app, image: app, ports: [{name: web, containerPort: 8080}, {containerPort: 9443}]}]}
`,
].join('');

const dir = folder(t, { 'set.yaml': SET });

async function describe(...args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await oarlock([
    'describe',
    '--config',
    dir,
    '--namespace',
    'foo',
    '-o',
    'json',
    ...args,
  ]);
  if (code !== 0) throw new Error(stderr);
  return JSON.parse(stdout);
}

t.test('a workload by its labels', async (t) => {
  const answer = await describe(
    '--labels',
    'app=httpbin',
    '--service-account',
    'httpbin',
    '--ports',
    '443,80,81',
  );
  t.same(Object.keys(answer), ['workload', 'mtls', 'authorization', 'requestAuthentication', 'warnings']);
  t.match(answer.workload, {
    namespace: 'foo',
    labels: { app: 'httpbin' },
    serviceAccount: 'httpbin',
    identity: 'spiffe://cluster.local/ns/foo/sa/httpbin',
  });
  t.same(answer.mtls, {
    default: { mode: 'STRICT', source: 'istio-system/default' },
    ports: {
      80: { mode: 'PERMISSIVE', source: 'foo/w' },
      81: { mode: 'DISABLE', source: 'foo/w' },
      443: { mode: 'STRICT', source: 'istio-system/default' },
    },
  });
  t.same(answer.authorization, {
    CUSTOM: ['foo/ask'],
    DENY: ['foo/a-deny', 'foo/b-deny', 'istio-system/mesh-wide'],
    ALLOW: ['foo/readers'],
    AUDIT: ['foo/audit'],
  });
  t.same(answer.requestAuthentication, []);
  const warnings = (answer.warnings as string[]).join('\n');
  t.match(warnings, /port 80: plaintext is accepted .*PERMISSIVE.*foo\/w/);
  t.match(warnings, /port 81: .*DISABLE.*foo\/w/);
  t.notMatch(warnings, /port 443|other ports/, 'STRICT is nothing to warn of');
  t.match(warnings, /foo\/tried is a dry run: its DENY/);
});

t.test('a workload nobody speaks of, in a namespace without policies', async (t) => {
  const { code, stdout } = await oarlock(['describe', '--config', folder(t), '-o', 'json']);
  t.equal(code, 0);
  const answer = JSON.parse(stdout);
  t.match(answer.workload, { namespace: 'default', serviceAccount: 'default' });
  t.same(answer.mtls, { default: { mode: 'PERMISSIVE', source: null }, ports: {} });
  t.same(answer.authorization, { CUSTOM: [], DENY: [], ALLOW: [], AUDIT: [] });
  t.match(answer.warnings, [/^all ports: plaintext is accepted .*default/]);
});

t.test('by name: labels, account and ports are its own', async (t) => {
  const entry = await describe('pod', 'vm');
  t.match(entry.workload, {
    name: 'vm',
    namespace: 'foo',
    labels: { app: 'httpbin', version: 'v1' },
    serviceAccount: 'vm-account',
  });
  t.same(Object.keys((entry.mtls as { ports: object }).ports), ['80', '9000']);
  t.match(entry.authorization, { ALLOW: ['foo/readers'] });
  for (const name of ['foo/vm', 'vm.foo'])
    t.same((await describe('pod', name)).workload, entry.workload, name);
  const declared = await describe('pod', 'httpbin-0');
  t.same(
    Object.keys((declared.mtls as { ports: object }).ports),
    ['8080', '9443'],
    'a port without a name too',
  );
  const pod = await describe('pod', 'httpbin-0', '--ports', '81');
  t.match(pod.workload, { name: 'httpbin-0', labels: { app: 'other' }, serviceAccount: 'httpbin' });
  t.match(pod.authorization, { ALLOW: ['foo/others'] });
  t.same((pod.mtls as { ports: object }).ports, { 81: { mode: 'STRICT', source: 'istio-system/default' } });
});

t.test('policies that let nothing through are told', async (t) => {
  const rows = [
    { set: authz('none', '{}'), says: /nothing is allowed: .*foo\/none/ },
    { set: authz('none', '{}') + authz('some', '{rules: [{}]}'), says: null },
    {
      set: authz('all', '{action: DENY, rules: [{to: [{operation: {ports: ["1"]}}]}, {}]}'),
      says: /everything is denied: rule 1 .*foo\/all/,
    },
    {
      set: authz('all', '{action: DENY, rules: [{}]}', 'annotations: {istio.io/dry-run: "true"}'),
      says: /dry run/,
    },
  ];
  for (const { set, says } of rows) {
    const config = folder(t, { 'set.yaml': set + peers('strict', 'istio-system', '{mtls: {mode: STRICT}}') });
    const { stdout } = await oarlock(['describe', '--config', config, '--namespace', 'foo', '-o', 'json']);
    const { warnings } = JSON.parse(stdout);
    if (says === null) t.same(warnings, []);
    else t.match(warnings, [says]);
  }
});

t.test('what is odd for this workload and its ports', async (t) => {
  const set = [
    peers('a-first', 'foo', '{selector: {matchLabels: {app: httpbin}}, mtls: {mode: PERMISSIVE}}'),
    peers('b-second', 'foo', '{selector: {matchLabels: {app: httpbin}}, mtls: {mode: STRICT}}'),
    authz('by-namespace', '{action: DENY, rules: [{from: [{source: {namespaces: [bad]}}]}]}'),
    authz('by-method', '{rules: [{to: [{operation: {methods: [GET]}}]}]}'),
    authz('by-token', '{rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}'),
    authz(
      'elsewhere',
      '{selector: {matchLabels: {app: other}}, rules: [{to: [{operation: {methods: [get]}}]}]}',
    ),
    `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: foo}
spec:
  hosts: [db.foo.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 5432, name: tcp-db}]
  workloadSelector: {labels: {app: httpbin}}
`,
  ].join('');
  const config = folder(t, { 'set.yaml': set });
  const args = ['--config', config, '--namespace', 'foo', '--labels', 'app=httpbin', '-o', 'json'];
  const warningsOf = async (port: string): Promise<string> => {
    const { stdout } = await oarlock(['describe', ...args, '--ports', port]);
    return JSON.parse(stdout).warnings.join('\n');
  };
  const tcp = await warningsOf('5432');
  t.match(tcp, /PeerAuthentication foo\/b-second: .*a-first/, 'the policy that does not count');
  t.match(tcp, /AuthorizationPolicy foo\/by-namespace: .*plaintext has no identity/);
  t.match(tcp, /AuthorizationPolicy foo\/by-method: .*port 5432 .*TCP/);
  t.match(tcp, /AuthorizationPolicy foo\/by-token: .*no RequestAuthentication/);
  t.notMatch(tcp, /elsewhere/, 'what holds for others is not told');
  t.notMatch(await warningsOf('80'), /TCP/, 'nor what concerns other ports');
});

t.test('a table for people', async (t) => {
  const { code, stdout } = await oarlock([
    ...['describe', '--config', dir, '--namespace', 'foo', '--labels', 'app=httpbin', '--ports', '80'],
  ]);
  t.equal(code, 0);
  t.match(stdout, /^Workload\n {2}name .*\n {2}labels {4}app=httpbin$/m);
  t.match(stdout, /^ {2}80 {7}PERMISSIVE {2}PeerAuthentication foo\/w$/m);
  t.match(stdout, /^ {2}DENY {4}foo\/a-deny, foo\/b-deny, istio-system\/mesh-wide$/m);
  t.notMatch(stdout, /[ \t]$/m, 'no space at the end of a line');
});

t.test('exit status 2, and what is wrong in one line', async (t) => {
  const broken = folder(t, { 'a.yaml': peers('p', 'foo', '{mtls: {mode: STRIKT}}') });
  const rows = [
    { args: ['describe'], says: /--config/ },
    { args: ['describe', '--config', broken], says: /a\.yaml:5: PeerAuthentication\/foo\/p: .*STRIKT/ },
    { args: ['describe', '--config', join(dir, 'nowhere')], says: /nowhere/ },
    { args: ['describe', '--config', dir, '--ports', '80,http'], says: /--ports.*80,http/ },
    { args: ['describe', '--config', dir, '--ports', '0'], says: /--ports/ },
    { args: ['describe', '--config', dir, 'pod'], says: /name/ },
    {
      args: ['describe', '--config', dir, '--namespace', 'foo', 'pod', 'gone'],
      says: /no WorkloadEntry or Pod foo\/gone/,
    },
    { args: ['describe', '--config', dir, 'service'], says: /argument/ },
    { args: ['describe', '--config', dir, '--trust-domain', 'A B'], says: /SPIFFE/ },
  ];
  for (const { args, says } of rows) {
    const { code, stdout, stderr } = await oarlock(args);
    t.equal(code, 2, args.join(' '));
    t.equal(stdout, '');
    t.match(stderr, says);
    t.equal(stderr.trimEnd().split('\n').length, 1, `one line: ${stderr}`);
  }
});
