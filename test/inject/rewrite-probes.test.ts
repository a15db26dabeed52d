/** Probes rewritten by injection: the cases of Istio's app_probe_test.go and injection testdata, and where we differ. */
import t from 'tap';
import { type ProbeRewriting, rewriteProbes } from '../../inject/rewrite-probes.ts';

type Json = Record<string, unknown>;

const PLAIN: ProbeRewriting = { annotations: {}, statusPort: 15020, probers: null };

function rewrite(spec: Json, how: Partial<ProbeRewriting> = {}) {
  const { spec: after, probers, warnings } = rewriteProbes(spec, { ...PLAIN, ...how });
  return {
    spec: after,
    table: probers === null ? null : (JSON.parse(probers) as unknown),
    probers,
    warnings,
  };
}

function asksSidecar(path: string): Json {
  return { httpGet: { path, port: 15020 } };
}

interface Row {
  readonly name: string;
  readonly containers: readonly Json[];
  /** The containers as they must be; absent: untouched. */
  readonly rewritten?: readonly Json[];
  /** As Istio's injected file or test has it. */
  readonly table: Json | null;
}

const hello = (more: Json): Json => ({
  name: 'hello',
  ports: [{ name: 'http', containerPort: 80 }],
  ...more,
});
const world = (more: Json): Json => ({
  name: 'world',
  ports: [{ name: 'http', containerPort: 90 }],
  ...more,
});

const rows: readonly Row[] = [
  { name: 'a pod without probes', containers: [{ name: 'foo' }], table: null },
  {
    name: 'a named port (named_port.yaml)',
    containers: [hello({ readinessProbe: { httpGet: { port: 'http' } } })],
    rewritten: [hello({ readinessProbe: asksSidecar('/app-health/hello/readyz') })],
    table: { '/app-health/hello/readyz': { httpGet: { port: 80 } } },
  },
  {
    name: 'two containers, the same name for another port (hello-probes-localhost.yaml)',
    containers: [
      hello({ livenessProbe: { httpGet: { port: 'http' } }, readinessProbe: { httpGet: { port: 3333 } } }),
      world({
        livenessProbe: { httpGet: { port: 'http' } },
        readinessProbe: { exec: { command: ['cat', '/tmp/healthy'] } },
      }),
    ],
    rewritten: [
      hello({
        livenessProbe: asksSidecar('/app-health/hello/livez'),
        readinessProbe: asksSidecar('/app-health/hello/readyz'),
      }),
      world({
        livenessProbe: asksSidecar('/app-health/world/livez'),
        readinessProbe: { exec: { command: ['cat', '/tmp/healthy'] } },
      }),
    ],
    table: {
      '/app-health/hello/livez': { httpGet: { port: 80 } },
      '/app-health/hello/readyz': { httpGet: { port: 3333 } },
      '/app-health/world/livez': { httpGet: { port: 90 } },
    },
  },
  {
    name: 'HTTPS is for the sidecar to speak (https-probes.yaml)',
    containers: [hello({ readinessProbe: { httpGet: { port: 3333, scheme: 'HTTPS' } } })],
    rewritten: [
      hello({
        readinessProbe: { httpGet: { path: '/app-health/hello/readyz', port: 15020, scheme: 'HTTP' } },
      }),
    ],
    table: { '/app-health/hello/readyz': { httpGet: { port: 3333, scheme: 'HTTPS' } } },
  },
  {
    name: 'TCP (tcp-probes.yaml)',
    containers: [
      hello({
        livenessProbe: { tcpSocket: { port: 'http' } },
        readinessProbe: { tcpSocket: { port: 3333 } },
      }),
    ],
    rewritten: [
      hello({
        livenessProbe: asksSidecar('/app-health/hello/livez'),
        readinessProbe: asksSidecar('/app-health/hello/readyz'),
      }),
    ],
    table: {
      '/app-health/hello/livez': { tcpSocket: { port: 80 } },
      '/app-health/hello/readyz': { tcpSocket: { port: 3333 } },
    },
  },
  {
    name: 'gRPC, with and without a service; times stay with the kubelet (TestPatchRewriteProbe)',
    containers: [
      {
        name: 'foo',
        livenessProbe: { grpc: { port: 1234, service: 'foo' } },
        readinessProbe: { grpc: { port: 1235, service: 'foo' }, timeoutSeconds: 10 },
      },
      {
        name: 'bar',
        startupProbe: {
          grpc: { port: 1236 },
          timeoutSeconds: 20,
          periodSeconds: 10,
          initialDelaySeconds: 10,
        },
      },
    ],
    rewritten: [
      {
        name: 'foo',
        livenessProbe: asksSidecar('/app-health/foo/livez'),
        readinessProbe: { ...asksSidecar('/app-health/foo/readyz'), timeoutSeconds: 10 },
      },
      {
        name: 'bar',
        startupProbe: {
          ...asksSidecar('/app-health/bar/startupz'),
          timeoutSeconds: 20,
          periodSeconds: 10,
          initialDelaySeconds: 10,
        },
      },
    ],
    table: {
      '/app-health/bar/startupz': { grpc: { port: 1236, service: null }, timeoutSeconds: 20 },
      '/app-health/foo/livez': { grpc: { port: 1234, service: 'foo' } },
      '/app-health/foo/readyz': { grpc: { port: 1235, service: 'foo' }, timeoutSeconds: 10 },
    },
  },
  {
    name: 'lifecycle handlers (TestDumpAppGRPCProbers); exec and sleep stay',
    containers: [
      {
        name: 'foo',
        lifecycle: {
          preStop: { httpGet: { path: '/foo', port: 1234, scheme: 'HTTP' } },
          postStart: { tcpSocket: { port: 99 } },
        },
      },
      {
        name: 'bar',
        lifecycle: { preStop: { sleep: { seconds: 3 } }, postStart: { exec: { command: ['true'] } } },
      },
    ],
    rewritten: [
      {
        name: 'foo',
        lifecycle: {
          preStop: { httpGet: { path: '/app-lifecycle/foo/prestopz', port: 15020, scheme: 'HTTP' } },
          postStart: asksSidecar('/app-lifecycle/foo/poststartz'),
        },
      },
      {
        name: 'bar',
        lifecycle: { preStop: { sleep: { seconds: 3 } }, postStart: { exec: { command: ['true'] } } },
      },
    ],
    table: {
      '/app-lifecycle/foo/poststartz': { tcpSocket: { port: 99 } },
      '/app-lifecycle/foo/prestopz': { httpGet: { path: '/foo', port: 1234, scheme: 'HTTP' } },
    },
  },
  {
    name: "headers stay in the kubelet's request: the sidecar passes them on",
    containers: [
      {
        name: 'a',
        livenessProbe: { httpGet: { path: '/x?y=1', port: 80, httpHeaders: [{ name: 'Host', value: 'h' }] } },
      },
    ],
    rewritten: [
      {
        name: 'a',
        livenessProbe: {
          httpGet: { path: '/app-health/a/livez', port: 15020, httpHeaders: [{ name: 'Host', value: 'h' }] },
        },
      },
    ],
    table: {
      '/app-health/a/livez': {
        httpGet: { path: '/x?y=1', port: 80, httpHeaders: [{ name: 'Host', value: 'h' }] },
      },
    },
  },
  {
    name: 'the sidecar itself is not rewritten',
    containers: [
      { name: 'istio-proxy', readinessProbe: { httpGet: { path: '/healthz/ready', port: 15021 } } },
    ],
    table: null,
  },
  {
    name: 'a number in quotes is one to the kubelet',
    containers: [{ name: 'a', livenessProbe: { tcpSocket: { port: '8080' } } }],
    rewritten: [{ name: 'a', livenessProbe: asksSidecar('/app-health/a/livez') }],
    table: { '/app-health/a/livez': { tcpSocket: { port: 8080 } } },
  },
];

t.test('probes ask the sidecar, which knows what to ask', async (t) => {
  for (const { name, containers, rewritten, table } of rows) {
    const before = structuredClone(containers);
    const got = rewrite({ containers });
    t.strictSame(got.spec, { containers: rewritten ?? containers }, name);
    t.strictSame(got.table, table, name);
    t.strictSame(got.warnings, [], name);
    t.strictSame(containers, before, `${name}: what was given is not touched`);
    const again = rewriteProbes(got.spec, { ...PLAIN, probers: got.probers });
    t.equal(again.spec, got.spec, `${name}: nothing to do the second time`);
    t.equal(again.probers, got.probers, name);
  }
});

t.test('native sidecars are containers too (native-sidecar.yaml)', async (t) => {
  const other = {
    name: 'other-sidecar',
    restartPolicy: 'Always',
    readinessProbe: { httpGet: { port: 3333 } },
  };
  const got = rewrite({ initContainers: [{ name: 'istio-proxy' }, other], containers: [hello({})] });
  t.strictSame(got.spec, {
    initContainers: [
      { name: 'istio-proxy' },
      { ...other, readinessProbe: asksSidecar('/app-health/other-sidecar/readyz') },
    ],
    containers: [hello({})],
  });
  t.strictSame(got.table, { '/app-health/other-sidecar/readyz': { httpGet: { port: 3333 } } });
});

t.test('a container that joins an injected pod joins the table (merge-probers.yaml)', async (t) => {
  const probers =
    '{"/app-health/hello/livez":{"httpGet":{"port":80}},"/app-health/hello/readyz":{"httpGet":{"port":3333}},' +
    '"/app-health/world/livez":{"httpGet":{"port":90}}}';
  const containers = [
    hello({
      livenessProbe: asksSidecar('/app-health/hello/livez'),
      readinessProbe: asksSidecar('/app-health/hello/readyz'),
    }),
    world({ livenessProbe: asksSidecar('/app-health/world/livez') }),
    { name: 'new', livenessProbe: { httpGet: { path: '/testLive', port: 8008 } } },
  ];
  const got = rewrite({ containers }, { probers });
  t.equal(
    got.probers,
    '{"/app-health/hello/livez":{"httpGet":{"port":80}},"/app-health/hello/readyz":{"httpGet":{"port":3333}},' +
      '"/app-health/new/livez":{"httpGet":{"path":"/testLive","port":8008}},' +
      '"/app-health/world/livez":{"httpGet":{"port":90}}}',
  );
  t.match(got.spec, { containers: [{}, {}, { livenessProbe: asksSidecar('/app-health/new/livez') }] });
});

t.test('a probe that was changed since counts anew', async (t) => {
  const probers = '{"/app-health/a/livez":{"httpGet":{"port":80}}}';
  const got = rewrite({ containers: [{ name: 'a', livenessProbe: { httpGet: { port: 81 } } }] }, { probers });
  t.strictSame(got.table, { '/app-health/a/livez': { httpGet: { port: 81 } } });
});

t.test('the annotation decides (TestShouldRewriteAppHTTPProbers)', async (t) => {
  const spec = { containers: [{ name: 'a', livenessProbe: { httpGet: { port: 80 } } }] };
  for (const [value, rewritten] of [
    ['true', true],
    ['T', true],
    ['1', true],
    ['false', false],
    ['False', false],
    ['f', false],
    ['0', false],
    // Go's strconv.ParseBool takes neither, and the default holds.
    ['no', true],
    ['', true],
  ] as const) {
    const annotations = { 'sidecar.istio.io/rewriteAppHTTPProbers': value };
    const got = rewrite(spec, { annotations });
    t.equal(got.spec !== spec, rewritten, value);
    t.equal(got.probers !== null, rewritten, value);
  }
});

t.test('the annotation for the status port', async (t) => {
  const spec = { containers: [{ name: 'a', livenessProbe: { httpGet: { port: 80 } } }] };
  const at = (port: unknown) => rewrite(spec, { annotations: { 'status.sidecar.istio.io/port': port } });
  t.match(at('14020').spec, { containers: [{ livenessProbe: { httpGet: { port: 14020 } } }] });
  for (const port of ['0', 'x', '70000']) {
    t.equal(at(port).spec, spec, port);
    t.match(at(port).warnings, [/status.sidecar.istio.io\/port/]);
  }
});

t.test('what the sidecar could not ask as the kubelet does is left alone, and said', async (t) => {
  for (const [probe, warning] of [
    [{ httpGet: { path: '/', port: 80, host: 'other.example' } }, /host of its own \(other.example\)/],
    [{ tcpSocket: { port: 80, host: '10.0.0.1' } }, /host of its own/],
    [{ httpGet: { port: 'web' } }, /port web, which its container does not name/],
    [{ httpGet: { port: 0 } }, /port 0/],
    [{ httpGet: { port: 65_536 } }, /port 65536/],
    [{ grpc: {} }, /port undefined/],
  ] as const) {
    const spec = {
      containers: [{ name: 'a', ports: [{ name: 'http', containerPort: 80 }], livenessProbe: probe }],
    };
    const got = rewrite(spec);
    t.equal(got.spec, spec);
    t.equal(got.probers, null);
    t.match(got.warnings, [warning]);
  }
});

t.test('what is no pod is not our fault', async (t) => {
  for (const spec of [
    {},
    { containers: null },
    { containers: 'x' },
    { containers: [null, 'x', 3, {}, { name: 3, livenessProbe: { httpGet: { port: 1 } } }] },
    { containers: [{ name: 'a', livenessProbe: [], lifecycle: 'x', ports: 'y' }] },
    { containers: [{ name: 'a', livenessProbe: { httpGet: 'x' }, lifecycle: { preStop: null } }] },
  ]) {
    t.equal(rewrite(spec as Json).spec, spec);
  }
  for (const probers of ['{', '[]', '"x"', '{"/app-health/a/livez": 3}']) {
    t.throws(() => rewrite({}, { probers }), /ISTIO_KUBE_APP_PROBERS/, probers);
  }
});
