/** PeerAuthentication: what decides a port's mode (rows `policies → mode of a port, and whose`), and what is refused. */
import t from 'tap';
import { parse } from 'yaml';
import type { Problem } from '../../mesh/resource.ts';
import { compileModes, decodePeerAuthentication } from '../../policy/peer-authentication.ts';
import { peerAuthentication, type ResourceParts, resource } from './helper.ts';

const labels = new Map([
  ['app', 'web'],
  ['tier', 'front'],
]);
const ROOT = 'istio-system';
const app = { matchLabels: { app: 'web' } };

function of(namespace: string, name: string, spec: unknown, creationTimestamp: number | null = null) {
  return { namespace, name, spec, creationTimestamp } satisfies ResourceParts;
}

function strict(mode = 'STRICT') {
  return { mtls: { mode } };
}

interface Row {
  readonly name: string;
  readonly policies: readonly ResourceParts[];
  readonly workload?: string;
  readonly port?: number;
  readonly mode: string;
  readonly source: string | null;
}

const rows: readonly Row[] = [
  { name: 'no policy at all', policies: [], mode: 'PERMISSIVE', source: null },
  {
    name: 'mesh',
    policies: [of(ROOT, 'default', strict())],
    mode: 'STRICT',
    source: 'istio-system/default',
  },
  {
    name: 'mesh UNSET is the default',
    policies: [of(ROOT, 'default', strict('UNSET'))],
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'mesh without mtls is the default',
    policies: [of(ROOT, 'default', {})],
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'namespace over mesh',
    policies: [of(ROOT, 'default', strict()), of('foo', 'ns', strict('DISABLE'))],
    mode: 'DISABLE',
    source: 'foo/ns',
  },
  {
    name: 'namespace UNSET inherits from mesh, and the mesh policy is the source',
    policies: [of(ROOT, 'default', strict()), of('foo', 'ns', { mtls: {} })],
    mode: 'STRICT',
    source: 'istio-system/default',
  },
  {
    name: "another namespace's policy does not count",
    policies: [of('bar', 'ns', strict()), of('bar', 'wl', { selector: app, ...strict() })],
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'workload over namespace over mesh',
    policies: [
      of(ROOT, 'default', strict('DISABLE')),
      of('foo', 'ns', strict('PERMISSIVE')),
      of('foo', 'wl', { selector: app, ...strict() }),
    ],
    mode: 'STRICT',
    source: 'foo/wl',
  },
  {
    name: 'a selector that asks for one label too many does not select',
    policies: [of('foo', 'wl', { selector: { matchLabels: { app: 'web', x: 'y' } }, ...strict() })],
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'an empty selector is none',
    policies: [of('foo', 'ns', { selector: {}, ...strict() })],
    mode: 'STRICT',
    source: 'foo/ns',
  },
  {
    name: 'a root policy with a selector never holds',
    policies: [of(ROOT, 'wl', { selector: app, ...strict() })],
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'not even for workloads of the root namespace',
    policies: [of(ROOT, 'wl', { selector: app, ...strict() })],
    workload: ROOT,
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'a mesh policy holds for workloads of the root namespace',
    policies: [of(ROOT, 'default', strict())],
    workload: ROOT,
    mode: 'STRICT',
    source: 'istio-system/default',
  },
  {
    name: 'oldest of one scope',
    policies: [of('foo', 'a', strict('DISABLE'), 2000), of('foo', 'b', strict(), 1000)],
    mode: 'STRICT',
    source: 'foo/b',
  },
  {
    name: 'oldest even when UNSET',
    policies: [of('foo', 'a', strict(), 2000), of('foo', 'b', { mtls: { mode: 'UNSET' } }, 1000)],
    mode: 'PERMISSIVE',
    source: null,
  },
  {
    name: 'one age: by name',
    policies: [of('foo', 'b', strict('DISABLE'), 1000), of('foo', 'a', strict(), 1000)],
    mode: 'STRICT',
    source: 'foo/a',
  },
  {
    name: 'no timestamps: by name',
    policies: [of('foo', 'b', strict('DISABLE')), of('foo', 'a', strict())],
    mode: 'STRICT',
    source: 'foo/a',
  },
  {
    name: 'no timestamp is older than any (zero time)',
    policies: [of('foo', 'a', strict(), 1000), of('foo', 'b', strict('DISABLE'))],
    mode: 'DISABLE',
    source: 'foo/b',
  },
  {
    name: 'oldest of several that select the workload, its ports alone',
    policies: [
      of('foo', 'a', { selector: app, portLevelMtls: { 80: { mode: 'STRICT' } } }, 2000),
      of('foo', 'b', { selector: { matchLabels: { tier: 'front' } }, ...strict('DISABLE') }, 1000),
    ],
    port: 80,
    mode: 'DISABLE',
    source: 'foo/b',
  },
  {
    name: 'port over workload',
    policies: [of('foo', 'wl', { selector: app, ...strict(), portLevelMtls: { 9090: { mode: 'DISABLE' } } })],
    port: 9090,
    mode: 'DISABLE',
    source: 'foo/wl',
  },
  {
    name: 'another port of the same workload',
    policies: [of('foo', 'wl', { selector: app, ...strict(), portLevelMtls: { 9090: { mode: 'DISABLE' } } })],
    port: 9091,
    mode: 'STRICT',
    source: 'foo/wl',
  },
  {
    name: "port UNSET inherits the workload's merged mode",
    policies: [
      of('foo', 'ns', strict()),
      of('foo', 'wl', { selector: app, portLevelMtls: { 80: { mode: 'UNSET' }, 81: {} } }),
    ],
    port: 81,
    mode: 'STRICT',
    source: 'foo/ns',
  },
];

t.test('the mode of a port', async (t) => {
  for (const row of rows) {
    const policies = row.policies.map(peerAuthentication);
    for (const order of [policies, policies.toReversed()]) {
      const modeOf = compileModes(order, row.workload ?? 'foo', labels, ROOT);
      t.same(modeOf(row.port ?? 8080), { mode: row.mode, source: row.source }, row.name);
    }
  }
});

t.test('the same record each time', async (t) => {
  const modeOf = compileModes([peerAuthentication(of('foo', 'ns', strict()))], 'foo', labels, ROOT);
  t.equal(modeOf(1), modeOf(1));
});

t.test('what Istio refuses', async (t) => {
  const refused: readonly [spec: string, field: string, code: string][] = [
    ['mtls: {mode: STRIKT}', 'spec.mtls.mode', 'OLK0105'],
    ['mtls: {mode: strict}', 'spec.mtls.mode', 'OLK0105'],
    ['mtls: {mod: STRICT}', 'spec.mtls.mod', 'OLK0103'],
    ['mtls: STRICT', 'spec.mtls', 'OLK0104'],
    ['mode: STRICT', 'spec.mode', 'OLK0103'],
    ['portLevelMtls: {80: {mode: STRICT}}', 'spec.portLevelMtls', 'OLK0108'],
    ['{selector: {}, portLevelMtls: {80: {mode: STRICT}}}', 'spec.portLevelMtls', 'OLK0108'],
    ['{selector: {matchLabels: {a: b}}, portLevelMtls: {}}', 'spec.portLevelMtls', 'OLK0108'],
    ['{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {}}}', 'spec.portLevelMtls.0', 'OLK0108'],
    ['{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {}}}', 'spec.portLevelMtls.65536', 'OLK0108'],
    ['{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {}}}', 'spec.portLevelMtls.http', 'OLK0108'],
    ['{selector: {matchLabels: {a: "b*"}}}', 'spec.selector.matchLabels.a', 'OLK0108'],
    ['{selector: {matchLabels: {"a*": b}}}', 'spec.selector.matchLabels.a*', 'OLK0108'],
    ['{selector: {matchLabels: {"": b}}}', 'spec.selector.matchLabels.', 'OLK0108'],
    [`{selector: {matchLabels: {a: ${'x'.repeat(64)}}}}`, 'spec.selector.matchLabels.a', 'OLK0108'],
    ['{selector: {matchLabels: {a: 1}}}', 'spec.selector.matchLabels.a', 'OLK0104'],
    ['{selector: {labels: {a: b}}}', 'spec.selector.labels', 'OLK0103'],
    ['[]', 'spec', 'OLK0104'],
  ];
  for (const [spec, field, code] of refused) {
    const problems: Problem[] = [];
    const kind = 'PeerAuthentication';
    t.equal(decodePeerAuthentication(resource({ kind, spec: parse(spec) }), problems), null, spec);
    t.ok(
      problems.some((one) => one.field === field && one.code === code && one.severity === 'Error'),
      `${spec}: ${code} at ${field}, got ${problems.map((one) => `${one.code} ${one.field}`).join(', ')}`,
    );
  }
  for (const annotation of ['istio.io/dry-run', 'internal.istio.io/parents']) {
    const problems: Problem[] = [];
    const parts = { kind: 'PeerAuthentication', spec: {}, annotations: { [annotation]: 'true' } };
    t.equal(decodePeerAuthentication(resource(parts), problems), null, annotation);
    t.equal(problems[0]?.field, `metadata.annotations.${annotation}`);
  }
});

t.test('what is fine', async (t) => {
  for (const spec of [undefined, null, {}, { mtls: null }, { selector: null }]) {
    const problems: Problem[] = [];
    t.ok(decodePeerAuthentication(resource({ kind: 'PeerAuthentication', spec }), problems), String(spec));
    t.same(problems, []);
  }
  const problems: Problem[] = [];
  const decoded = decodePeerAuthentication(
    resource({ kind: 'PeerAuthentication', spec: { selector: {} } }),
    problems,
  );
  t.ok(decoded, 'an empty selector is a Warning');
  t.match(problems, [{ severity: 'Warning', field: 'spec.selector' }]);
});
