/** Texts of manifests: what is not touched stays to the letter, what is touched keeps its comments and its meaning. */
import t from 'tap';
import { parse, parseAllDocuments } from 'yaml';
import { injectText } from '../../inject/documents.ts';
import { DEFAULT_INJECT_CONFIG } from '../../inject/inject-config.ts';
import { fileWith } from '../ca-client/helper.ts';
import { runToEnd } from '../e2e/harness/processes.ts';

const inject = (text: string) => injectText(text, 'file.yaml', 'default', DEFAULT_INJECT_CONFIG);

const service = `# A service.
apiVersion: v1
kind: Service   # odd spacing stays
metadata: {name:    web}
spec:
    ports:
    - {port: 0x50}
`;
const deployment = `# A deployment.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web # its name
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      # The app.
      - name: web
        image: "web:1" # pinned
      volumes:
      - name: files
        configMap:
          name: files
          defaultMode: 0440
`;

t.test('documents without a pod template stay to the letter', async (t) => {
  const comment = '# nothing but a comment\n';
  const text = `${comment}---\n${service}---\n${deployment}--- # the last\n${service}`;
  const done = inject(text);
  const [head, first, touched, last] = done.text.split(/^(?=---)/m);
  t.equal(head, comment);
  t.equal(first, `---\n${service}`);
  t.equal(last, `--- # the last\n${service}`);
  t.match(touched, /istio-proxy/);
  t.equal(inject(done.text).text, done.text, 'twice is once');
  t.equal(inject(service).text, service);
  t.equal(inject('').text, '');
});

t.test('a touched document keeps comments, quotes, the style of its lists, and octal numbers', async (t) => {
  const { text } = inject(deployment);
  for (const line of deployment.split('\n')) t.ok(text.split('\n').includes(line), line);
  t.equal(parse(text, { version: '1.1' }).spec.template.spec.volumes[0].configMap.defaultMode, 0o440);
  t.match(text, /\n {6}initContainers:\n {6}- name: istio-init\n/);
});

t.test('what kubectl reads as a truth is one', async (t) => {
  const pod = `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {hostNetwork: yes, containers: [{name: a}]}}\n`;
  const { text, warnings } = inject(pod);
  t.equal(text, pod);
  t.match(warnings.join(), /hostNetwork/);
  const words =
    'apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: {a: "yes", b: "0x1", c: 2020-01-01}}\nspec: {containers: [{name: a}]}\n';
  const { annotations } = parse(inject(words).text, {
    version: '1.1',
    customTags: (tags) => tags.filter((tag) => typeof tag !== 'object' || !tag.tag.endsWith(':timestamp')),
  }).metadata;
  t.match(annotations, { a: 'yes', b: '0x1', c: '2020-01-01' });
});

t.test('anchors, JSON, Windows lines', async (t) => {
  const anchored = `apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: &l {app: x}}\nspec:\n  nodeSelector: *l\n  containers: [{name: a}]\n`;
  const { spec, metadata } = parse(inject(anchored).text);
  t.same(spec.nodeSelector, { app: 'x' });
  t.equal(metadata.labels.app, 'x');
  t.equal(spec.initContainers.length, 2);
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'x' },
    spec: { containers: [{ name: 'a' }] },
  };
  for (const indent of [undefined, 2, 4, '\t']) {
    const json = JSON.stringify(pod, null, indent);
    const { text, values } = inject(json);
    t.equal(text, `${JSON.stringify(JSON.parse(text), null, indent)}\n`, 'JSON stays JSON, in its own shape');
    t.same(JSON.parse(text), values[0]);
    t.match(inject(`---\n${json}`).text, /^---\n\{/);
  }
  const flow = inject(
    '{apiVersion: v1, kind: Pod, metadata: {name: x}, # a comment\nspec: {containers: [{name: a}]}}',
  );
  t.match(flow.text, /# a comment/, 'YAML that only looks like it stays YAML');
  const windows = `${service}---\n${deployment}`.replaceAll('\n', '\r\n');
  t.equal(parseAllDocuments(inject(windows).text).length, 2);
});

t.test('what cannot be read is told with file and line', async (t) => {
  const rows: readonly (readonly [text: string, words: RegExp])[] = [
    [`${service}---\nkind: [\n`, /^file\.yaml:1\d: /],
    ['a: 1\na: 2\n', /^file\.yaml:2: .*unique/],
    [
      `---\n${service}---\napiVersion: v1\nkind: Pod\nspec: 5\n`,
      /^file\.yaml:9: Pod .*spec must be an object/,
    ],
    ['a: &a [x]\nb: [*c]\n', /^file\.yaml:\d: /],
    [
      `a: &a [${'1,'.repeat(50)}]\n${[...'bcdefg'].map((key, i) => `${key}: &${key} [${`*${'abcdef'[i]},`.repeat(20)}]`).join('\n')}`,
      /alias/i,
    ],
  ];
  for (const [text, words] of rows)
    t.throws(() => inject(text), { name: 'InjectError', message: words }, text.slice(0, 60));
});

t.test('the command', async (t) => {
  const file = fileWith(t, `${service}---\n${deployment}`);
  const { code, stdout, stderr } = await runToEnd(t, [
    'inject',
    '-f',
    file,
    '-f',
    file,
    '-o',
    'json',
    '--image',
    'i:2',
  ]);
  t.equal(code, 0, stderr);
  const { kind, items } = JSON.parse(stdout);
  t.same(
    [kind, items.map((item: { kind: string }) => item.kind)],
    ['List', ['Service', 'Deployment', 'Service', 'Deployment']],
  );
  t.equal(items[1].spec.template.spec.initContainers[1].image, 'i:2');

  const config = fileWith(t, 'image: i:3\nnativeSidecar: true\n');
  const plain = await runToEnd(t, [
    'inject',
    '-f',
    file,
    '--inject-config',
    config,
    '--native-sidecar=false',
  ]);
  const [, second] = parseAllDocuments(plain.stdout).map((one) => one.toJS());
  t.equal(
    second.spec.template.spec.containers[1].image,
    'i:3',
    'a flag beats the file, the file the default',
  );

  const json = fileWith(t, JSON.stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'x' } }));
  const both = await runToEnd(t, ['inject', '-f', json, '-f', json]);
  t.match(both.stdout, /^---\n\{.*\}\n---\n\{.*\}$/, 'kubectl takes for JSON alone what begins with a brace');

  const rows: readonly (readonly [args: readonly string[], words: RegExp])[] = [
    [[], /--filename/],
    [['-f', '/none'], /-f \/none: ENOENT/],
    [
      ['-f', file, '--inject-config', fileWith(t, 'imagee: x')],
      /imagee is not known; there are policy, image/,
    ],
    [['-f', file, '--inject-config', fileWith(t, 'cni: 1')], /cni must be true or false/],
    [
      ['-f', file, '--inject-config', fileWith(t, 'excludeOutboundPorts: 5432,http')],
      /excludeOutboundPorts must be ports with commas/,
    ],
    [
      ['-f', file, '--inject-config', fileWith(t, 'includeIPRanges: 10.0.0.1')],
      /includeIPRanges must be \* or CIDR ranges with commas/,
    ],
    [['-f', file, '--ca-address', 'nowhere'], /caAddress must be HOST:PORT/],
    [['-f', fileWith(t, 'kind: [')], /:1: /],
  ];
  const ends = await Promise.all(rows.map(([args]) => runToEnd(t, ['inject', ...args])));
  for (const [i, [args, words]] of rows.entries()) {
    t.match(ends[i], { code: 2, stdout: '', stderr: words }, args.join(' '));
  }
});

t.test('what is no manifest is refused', async (t) => {
  for (const text of ['just words', '5', '- a\n- b\n', `${service}---\n[]\n`]) {
    t.throws(() => inject(text), { message: /^file\.yaml:\d+: this is no Kubernetes object/ }, text);
  }
  t.equal(inject('null\n').text, 'null\n', 'nothing at all is nothing to do');
  const { code, stdout } = await runToEnd(t, ['inject', '-f', fileWith(t, 'just words')]);
  t.equal(code, 2);
  t.equal(stdout, '');
});
