/** Reading YAML and JSON: forms of documents, places of faults, and what must not bring the reader down. */
import t from 'tap';
import { findDuplicates, parseDocuments } from '../../config/documents.ts';
import type { Problem } from '../../mesh/resource.ts';

const brief = ({ line, severity, code, resource, field }: Problem): string =>
  [line, severity, code, resource, field].filter((part) => part !== '').join(' ');

/** `Kind/NS/NAME` of each resource, and each problem in one line. */
function read(text: string): { readonly resources: readonly string[]; readonly problems: readonly string[] } {
  const { resources, problems } = parseDocuments(text, 'f.yaml');
  return {
    resources: resources.map(({ kind, namespace, name }) => `${kind}/${namespace}/${name}`),
    problems: problems.map(brief),
  };
}

const PA = 'apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n';

t.test('forms of documents', async (t) => {
  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    ['one', `${PA}metadata: {name: a, namespace: n}\n`, ['PeerAuthentication/n/a']],
    ['no namespace is default', `${PA}metadata: {name: a}\n`, ['PeerAuthentication/default/a']],
    [
      'several',
      `${PA}metadata: {name: a}\n---\n${PA}metadata: {name: b}\n`,
      ['PeerAuthentication/default/a', 'PeerAuthentication/default/b'],
    ],
    [
      'empty ones between',
      `---\n# nothing\n---\n${PA}metadata: {name: a}\n---\n---\nnull\n`,
      ['PeerAuthentication/default/a'],
    ],
    ['an empty file', '', []],
    ['only a comment', '# later\n', []],
    [
      'a byte order mark and CRLF',
      `\ufeff${PA}metadata: {name: a}\n`.replaceAll('\n', '\r\n'),
      ['PeerAuthentication/default/a'],
    ],
    [
      'JSON',
      '{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"a"},"spec":{"mtls":{"mode":"STRICT"}}}',
      ['PeerAuthentication/default/a'],
    ],
    [
      'a List',
      `apiVersion: v1\nkind: List\nitems:\n- apiVersion: security.istio.io/v1\n  kind: PeerAuthentication\n  metadata: {name: a}\n- apiVersion: networking.istio.io/v1beta1\n  kind: ServiceEntry\n  metadata: {name: b, namespace: n}\n`,
      ['PeerAuthentication/default/a', 'ServiceEntry/n/b'],
    ],
    [
      'the list kubectl prints of one kind',
      'apiVersion: networking.istio.io/v1\nkind: SidecarList\nmetadata: {resourceVersion: ""}\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: Sidecar\n  metadata: {name: a}\n',
      ['Sidecar/default/a'],
    ],
    ['an empty List', 'apiVersion: v1\nkind: List\nitems: []\n', []],
  ];
  for (const [why, text, resources] of cases) t.same(read(text), { resources, problems: [] }, why);
});

t.test('every version of every kind', async (t) => {
  const kinds = {
    'security.istio.io': ['PeerAuthentication', 'AuthorizationPolicy'],
    'networking.istio.io': ['ServiceEntry', 'WorkloadEntry', 'DestinationRule', 'Sidecar'],
  };
  for (const [group, names] of Object.entries(kinds)) {
    for (const kind of names) {
      for (const version of ['v1', 'v1beta1', 'v1alpha3']) {
        const text = `apiVersion: ${group}/${version}\nkind: ${kind}\nmetadata: {name: a}\n`;
        t.same(read(text), { resources: [`${kind}/default/a`], problems: [] }, `${group}/${version} ${kind}`);
      }
    }
  }
});

t.test('kinds that are not read', async (t) => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['v1', 'Namespace', '2 Info OLK0102 Namespace/default/a kind'],
    ['serving.knative.dev/v1', 'Service', '2 Info OLK0102 Service/default/a kind'],
    ['v1', 'ConfigMap', '2 Info OLK0102 ConfigMap/default/a kind'],
    ['apps/v1', 'Deployment', '2 Info OLK0102 Deployment/default/a kind'],
    ['networking.k8s.io/v1', 'NetworkPolicy', '2 Info OLK0102 NetworkPolicy/default/a kind'],
    ['networking.istio.io/v1', 'VirtualService', '2 Warning OLK0110 VirtualService/default/a kind'],
    ['networking.istio.io/v1', 'Gateway', '2 Warning OLK0110 Gateway/default/a kind'],
    ['networking.istio.io/v1alpha3', 'EnvoyFilter', '2 Warning OLK0110 EnvoyFilter/default/a kind'],
    ['telemetry.istio.io/v1', 'Telemetry', '2 Warning OLK0110 Telemetry/default/a kind'],
    ['extensions.istio.io/v1alpha1', 'WasmPlugin', '2 Warning OLK0110 WasmPlugin/default/a kind'],
    ['security.istio.io/v1', 'PeerAuthentications', '2 Error OLK0102 PeerAuthentications/default/a kind'],
    ['security.istio.io/v2', 'PeerAuthentication', '1 Error OLK0102 PeerAuthentication/default/a apiVersion'],
    ['security.istio.io', 'PeerAuthentication', '1 Error OLK0102 PeerAuthentication/default/a apiVersion'],
    ['v1', 'AuthorizationPolicy', '1 Error OLK0102 AuthorizationPolicy/default/a apiVersion'],
    [
      'networking.istio.io/v1',
      'AuthorizationPolicy',
      '1 Error OLK0102 AuthorizationPolicy/default/a apiVersion',
    ],
  ];
  for (const [apiVersion, kind, problem] of cases) {
    const text = `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: {name: a}\n`;
    t.same(read(text), { resources: [], problems: [problem] }, `${apiVersion} ${kind}`);
  }
});

t.test('faults and where they stand', async (t) => {
  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    ['no kind', 'apiVersion: v1\n', ['1 Error OLK0106 kind']],
    [
      'no apiVersion',
      'kind: Sidecar\nmetadata: {name: a}\n',
      ['1 Error OLK0106 Sidecar/default/a apiVersion'],
    ],
    ['a kind that is a number', 'apiVersion: v1\nkind: 1\n', ['2 Error OLK0104 kind']],
    ['no metadata', PA, ['1 Error OLK0106 PeerAuthentication/default/ metadata.name']],
    ['no name', `${PA}metadata:\n  namespace: n\n`, ['3 Error OLK0106 PeerAuthentication/n/ metadata.name']],
    [
      'a numeric name',
      `${PA}metadata:\n  name: 1\n`,
      ['4 Error OLK0104 PeerAuthentication/default/ metadata.name'],
    ],
    [
      'a path as name',
      `${PA}metadata:\n  name: a/b\n`,
      ['4 Error OLK0108 PeerAuthentication/default/a/b metadata.name'],
    ],
    [
      'a typo in metadata',
      `${PA}metadata:\n  name: a\n  label: {}\n`,
      ['5 Error OLK0103 PeerAuthentication/default/a metadata.label'],
    ],
    [
      'a label that is no string',
      `${PA}metadata:\n  name: a\n  labels:\n    x: true\n`,
      ['6 Error OLK0104 PeerAuthentication/default/a metadata.labels.x'],
    ],
    [
      'a typo at top level',
      `${PA}metadata: {name: a}\nspecs: {}\n`,
      ['4 Error OLK0103 PeerAuthentication/default/a specs'],
    ],
    [
      'a bad time',
      `${PA}metadata:\n  name: a\n  creationTimestamp: yesterday\n`,
      ['5 Error OLK0108 PeerAuthentication/default/a metadata.creationTimestamp'],
    ],
    ['a list as document', '- a\n', ['1 Error OLK0104']],
    ['a word as document', 'hello\n', ['1 Error OLK0104']],
    ['an item that is no object', 'apiVersion: v1\nkind: List\nitems:\n- 1\n', ['4 Error OLK0104 items[0]']],
    ['a key twice', `${PA}metadata: {name: a}\nspec:\n  mtls: {}\n  mtls: {}\n`, ['6 Error OLK0109']],
    ['a tab', `${PA}metadata:\n\tname: a\n`, ['4 Error OLK0101']],
    ['an open bracket', `${PA}metadata: {name: a\n`, ['4 Error OLK0101']],
  ];
  for (const [why, text, problems] of cases) t.same(read(text).problems.slice(0, 1), problems, why);
});

t.test('one bad document spoils nothing else', async (t) => {
  const text = `${PA}metadata: {name: a}\n---\nfoo: [\n---\n${PA}metadata: {name: b}\n`;
  const { resources, problems } = read(text);
  t.same(resources, ['PeerAuthentication/default/a', 'PeerAuthentication/default/b']);
  t.match(problems, [/^[456] Error OLK0101/]);
});

t.test('values are those of YAML 1.2', async (t) => {
  const spec = (text: string) =>
    parseDocuments(`${PA}metadata: {name: a}\nspec: ${text}`, 'f').resources[0]?.spec;
  t.same(spec('{a: yes, b: on, c: true, d: 010, e: 1e2, f: ~, g: 2026-01-01}'), {
    a: 'yes',
    b: 'on',
    c: true,
    d: 10,
    e: 100,
    f: null,
    g: '2026-01-01',
  });
  t.same(spec('{portLevelMtls: {9090: {mode: STRICT}}}'), { portLevelMtls: { 9090: { mode: 'STRICT' } } });
  t.same(spec('{a: &x {b: 1}, c: *x}'), { a: { b: 1 }, c: { b: 1 } }, 'anchors');
  t.same(spec('{<<: {a: 1}, b: 2}'), { a: 1, b: 2 }, 'merge keys');
  t.same(spec(''), {}, 'an absent spec is an empty one');
});

t.test('lines of fields', async (t) => {
  const { resources } = parseDocuments(
    `# comment
${PA}metadata:
  name: a
spec:
  selector:
    matchLabels:
      app: x
  portLevelMtls:
    80:
      mode: STRICT
    443: {mode: STRICT}
  list:
  - one
  - two: 2
    three: 3
`,
    'f',
  );
  const lineOf = resources[0]?.origin.lineOf ?? (() => 0);
  t.equal(lineOf([]), 2);
  t.equal(lineOf(['spec']), 6);
  t.equal(lineOf(['spec', 'selector', 'matchLabels', 'app']), 9);
  t.equal(lineOf(['spec', 'portLevelMtls', '80', 'mode']), 12);
  t.equal(lineOf(['spec', 'portLevelMtls', 443]), 13);
  t.equal(lineOf(['spec', 'list', 1, 'three']), 17);
  t.equal(lineOf(['spec', 'list', 7]), 14, 'what is not there: its parent');
  t.equal(lineOf(['spec', 'nothing', 'at', 'all']), 6);
});

t.test('mesh config in both forms', async (t) => {
  const top = parseDocuments('kind: MeshConfig\ntrustDomain: td1\n', 'f').resources[0];
  t.match(top, { kind: 'MeshConfig', name: 'istio', spec: { trustDomain: 'td1' } });
  t.equal(top?.origin.lineOf(['trustDomain']), 2);

  const map = `apiVersion: v1
kind: ConfigMap
metadata:
  name: istio
  namespace: istio-system
data:
  meshNetworks: "networks: {}"
  mesh: |-
    # a comment
    rootNamespace: istio-system
    trustDomain: td1
`;
  const inner = parseDocuments(map, 'f');
  t.same(inner.problems, []);
  t.match(inner.resources[0], {
    kind: 'MeshConfig',
    namespace: 'istio-system',
    spec: { rootNamespace: 'istio-system', trustDomain: 'td1' },
  });
  t.equal(inner.resources[0]?.origin.lineOf(['trustDomain']), 11, 'lines of the file, not of the string');
  const quoted =
    '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"istio"},\n"data":{"mesh":"a: 1\\ntrustDomain: td1\\n"}}';
  t.equal(parseDocuments(quoted, 'f').resources[0]?.origin.lineOf(['trustDomain']), 2, 'all on one line');
  t.match(
    parseDocuments(`${map}    trustDomain: td2\n`, 'f').problems.map(brief),
    ['12 Error OLK0109'],
    'a fault inside',
  );
});

t.test('hostile input', async (t) => {
  const bomb = [
    'a: &a [x,x,x,x,x,x,x,x,x,x]',
    ...'bcdefgh'.split('').map((name, i) => {
      const before = 'abcdefg'[i];
      return `${name}: &${name} [${Array(10).fill(`*${before}`).join(',')}]`;
    }),
  ].join('\n');
  t.match(read(`${bomb}\n`).problems, [/^1 Error OLK0101/], 'an alias bomb');
  t.match(read('['.repeat(50_000)).problems[0], /Error OLK0101/, 'brackets without end');
  t.match(read('a: *nobody\n').problems[0], /Error OLK0101/, 'an alias of nothing');
  let nested = `${PA}metadata: {name: a}\n`;
  for (let i = 0; i < 6; i++) {
    const indented = nested.replaceAll(/^/gm, '  ').trimEnd();
    nested = `apiVersion: v1\nkind: List\nitems:\n-${indented.slice(1)}\n`;
  }
  t.match(read(nested).problems[0], /Error OLK0108/, 'lists in lists');
  const proto = parseDocuments(`${PA}metadata: {name: a}\nspec: {__proto__: {polluted: true}}\n`, 'f');
  t.equal(({} as { polluted?: boolean }).polluted, undefined);
  t.same(
    Object.keys(proto.resources[0]?.spec as object),
    ['__proto__'],
    'an own key, to be refused as unknown',
  );
});

t.test('two of one name', async (t) => {
  const both = [
    ...parseDocuments(`${PA}metadata:\n  name: a\n`, 'one.yaml').resources,
    ...parseDocuments(`# x\n${PA}metadata:\n  name: a\n  namespace: default\n`, 'two.yaml').resources,
    ...parseDocuments(`${PA}metadata:\n  name: a\n  namespace: other\n`, 'three.yaml').resources,
  ];
  const problems = findDuplicates(both);
  t.same(problems.map(brief), ['5 Error OLK0109 PeerAuthentication/default/a']);
  t.match(problems[0], { file: 'two.yaml', message: /one\.yaml:4/ }, 'both places are named');
  const meshes = parseDocuments(
    'kind: MeshConfig\n---\nkind: MeshConfig\nmetadata: {name: b}\n',
    'm',
  ).resources;
  t.equal(findDuplicates(meshes).length, 1, 'a mesh has one mesh config');
});
