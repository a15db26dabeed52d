/** Pods that are made to take long: the webhook answers them at once, for all who create pods wait behind them. */
import t from 'tap';
import { answerReview } from '../../inject/admission.ts';
import { names } from '../../inject/annotations.ts';
import { DEFAULT_INJECT_CONFIG } from '../../inject/inject-config.ts';
import type { Json } from '../../inject/json.ts';
import { parseSmallYaml } from '../../inject/proxy-config-text.ts';

/** What is quadratic takes a minute and more for these sizes, the rest some hundredths of a second. */
const QUICK_MS = 5_000;

// biome-ignore lint/suspicious/noExplicitAny: answers are looked into by tests that know them
function answered(spec: object, annotations: object = {}): any {
  const pod = { metadata: { name: 'p', annotations }, spec: { containers: [{ name: 'a' }], ...spec } };
  const request = {
    uid: 'u',
    kind: { group: '', version: 'v1', kind: 'Pod' },
    operation: 'CREATE',
    namespace: 'default',
    object: pod,
  };
  const body = JSON.stringify({ apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', request });
  return answerReview(JSON.parse(body) as Json, DEFAULT_INJECT_CONFIG);
}

const items = (count: number): readonly object[] =>
  Array.from({ length: count }, (_, i) => ({ name: `v${i}`, mountPath: `/v/${i}`, containerPort: i }));
const volumesOf = (count: number): string =>
  JSON.stringify(Object.fromEntries(Array.from({ length: count }, (_, i) => [`v${i}`, {}])));
const nested = (depth: number): unknown => JSON.parse(`${'['.repeat(depth)}1${']'.repeat(depth)}`);

const rows: readonly (readonly [
  what: string,
  spec: object,
  annotations: object,
  /** Null: it is injected. */
  error: RegExp | null,
])[] = [
  ...(['env', 'volumeMounts', 'ports'] as const).map(
    (list) =>
      [
        `${list} of the sidecar`,
        { containers: [{ name: 'a' }, { name: 'istio-proxy', [list]: items(60_000) }] },
        {},
        null,
      ] as const,
  ),
  ['env of the app', { containers: [{ name: 'a', env: items(60_000) }] }, {}, null],
  ['containers', { containers: items(1_001) }, {}, /spec\.containers has 1001 items, more than 1000/],
  ['init containers', { initContainers: items(30_000) }, {}, /spec\.initContainers has 30000 items/],
  ['volumes', { volumes: items(30_000) }, {}, /spec\.volumes has 30000 items/],
  ['as many volumes as can be', { volumes: items(1_000) }, { [names.userVolume]: volumesOf(20_000) }, null],
  ['depth', { x: nested(50_000) }, {}, /spec is more than 64 levels deep/],
  ['annotations in all', {}, { a: 'x'.repeat(300_000) }, /annotations have 3000\d+ characters/],
  ['a quantity', {}, { [names.proxyCpu]: `${'1'.repeat(250_000)}!` }, /proxyCPU must be a quantity/],
  ['ports', {}, { [names.includeInboundPorts]: `${' '.repeat(250_000)}x` }, /must be \* or ports/],
  ['a long configuration', {}, { [names.proxyConfig]: `${'a: 1\n'.repeat(1_700)}` }, /8500 characters/],
  ['nested keys', {}, { [names.proxyConfig]: '? '.repeat(4_000) }, /nested too deeply/],
  ['nested lists', {}, { [names.proxyConfig]: `a: ${'['.repeat(8_000)}` }, /nested too deeply/],
  [
    'aliases',
    {},
    { [names.proxyConfig]: `a: &a [1]\nb: [${'*a ,'.repeat(1_500)}]` },
    /cannot be parsed: Excessive alias count/,
  ],
];

for (const [what, spec, annotations, error] of rows) {
  t.test(what, async (t) => {
    const from = performance.now();
    const answer = answered(spec, annotations);
    t.ok(performance.now() - from < QUICK_MS, 'at once');
    t.equal(answer.outcome, error === null ? 'injected' : 'refused');
    if (error !== null) t.match(answer.error, error);
  });
}

t.test('a small YAML', async (t) => {
  const good: readonly (readonly [string, Json])[] = [
    ['', null],
    ['# none\n', null],
    ['{"concurrency": 2, "proxyMetadata": {"A": "? b"}}', { concurrency: 2, proxyMetadata: { A: '? b' } }],
    ['concurrency: 2\nproxyMetadata:\n  A: "1"\n', { concurrency: 2, proxyMetadata: { A: '1' } }],
    ['tracing: {zipkin: {address: "x:1"}}', { tracing: { zipkin: { address: 'x:1' } } }],
    ['a: &a {b: 1}\nc: *a', { a: { b: 1 }, c: { b: 1 } }],
  ];
  for (const [text, value] of good) t.same(parseSmallYaml(text), value, text);
  const bad: readonly (readonly [string, RegExp])[] = [
    ['a: 1\na: 2', /"a" is there twice/],
    ['{"a": {"b": 1, "b": 2}}', /"b" is there twice/],
    ['? [a]\n: 1', /a key is no text/],
    ['a: 1\n---\nb: 2', /more than one document/],
    ['a: [1', /Flow sequence/],
  ];
  for (const [text, error] of bad) t.throws(() => parseSmallYaml(text), { message: error }, text);
});

t.test('words that objects know are no log levels', async (t) => {
  for (const level of ['constructor', 'toString', '__proto__']) {
    const answer = answered({}, { 'sidecar.istio.io/logLevel': level });
    const patch = Buffer.from(answer.review.response.patch, 'base64').toString();
    t.match(patch, '{"name":"OARLOCK_LOG_LEVEL","value":"info"}', level);
    t.match(answer.review.response.warnings, [/log level .* is not known: info is used/], level);
  }
});
