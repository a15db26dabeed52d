/** Istio's standard metrics: names, labels, histograms and the direction of bytes, read back from the text. */
import { AggregatorRegistry } from 'prom-client';
import t from 'tap';
import { reasonCodes } from '../../mesh/reasons.ts';
import { defaultBuckets } from '../../telemetry/histogram.ts';
import { defaultSeriesBounds, MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { labelsWith, parseExposition, sampleOf } from './exposition.ts';

const WALL = Date.UTC(2026, 0, 1);

function metricsAt(now: () => number = () => 0): MeshMetrics {
  return new MeshMetrics({
    seriesCap: 100,
    idleExpiryMs: 60_000,
    now,
    wallClock: () => WALL,
    cluster: 'Kubernetes',
  });
}

/** istio.io/latest/docs/reference/config/metrics, "Labels", under the names of Istio's stats filter. */
const PEER = [
  'reporter',
  'source_workload',
  'source_canonical_service',
  'source_canonical_revision',
  'source_workload_namespace',
  'source_principal',
  'source_app',
  'source_version',
  'source_cluster',
  'destination_workload',
  'destination_workload_namespace',
  'destination_principal',
  'destination_app',
  'destination_version',
  'destination_service',
  'destination_canonical_service',
  'destination_canonical_revision',
  'destination_service_name',
  'destination_service_namespace',
  'destination_cluster',
];
const HTTP = [
  ...PEER,
  'request_protocol',
  'response_code',
  'grpc_response_status',
  'response_flags',
  'connection_security_policy',
];
const TCP = [...PEER, 'request_protocol', 'response_flags', 'connection_security_policy'];

t.test('an HTTP request has exactly the labels Istio documents, in its order', async (t) => {
  const metrics = metricsAt();
  metrics.peer(labelsWith()).request('http', 200, '-', 3, 120, 4_000);
  const lines = parseExposition(await metrics.registry.metrics());
  const [line] = lines.filter((line) => line.name === 'istio_requests_total');
  t.strictSame(Object.keys(line?.labels ?? {}), HTTP);
  t.strictSame(line, {
    name: 'istio_requests_total',
    labels: {
      reporter: 'destination',
      source_workload: 'web',
      source_canonical_service: 'web',
      source_canonical_revision: 'v1',
      source_workload_namespace: 'shop',
      source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
      source_app: 'web',
      source_version: 'v1',
      source_cluster: 'unknown',
      destination_workload: 'orders',
      destination_workload_namespace: 'shop',
      destination_principal: 'spiffe://cluster.local/ns/shop/sa/orders',
      destination_app: 'orders',
      destination_version: 'v2',
      destination_service: 'orders.shop.svc.cluster.local',
      destination_canonical_service: 'orders',
      destination_canonical_revision: 'v2',
      destination_service_name: 'orders',
      destination_service_namespace: 'shop',
      destination_cluster: 'Kubernetes',
      request_protocol: 'http',
      response_code: '200',
      grpc_response_status: '',
      response_flags: '-',
      connection_security_policy: 'mutual_tls',
    },
    value: 1,
  });
  for (const name of ['istio_request_duration_milliseconds', 'istio_request_bytes', 'istio_response_bytes']) {
    const buckets = lines.filter((line) => line.name === `${name}_bucket`);
    t.equal(buckets.length, 20, `${name} has Envoy's 19 buckets and +Inf`);
    for (const bucket of buckets) t.strictSame(Object.keys(bucket.labels).sort(), ['le', ...HTTP].sort());
  }
});

t.test('TCP series appear for TCP only, without the labels of requests', async (t) => {
  const metrics = metricsAt();
  const http = metrics.peer(labelsWith());
  http.connectionsOpened++;
  http.request('http', 200, '-', 1, 1, 1);
  const tcp = metrics.peer(labelsWith({ sourceWorkload: 'batch' }));
  tcp.connectionsOpened++;
  tcp.tcpOpened++;
  tcp.tcpReceivedBytes += 11;
  tcp.tcpSentBytes += 22;
  const lines = parseExposition(await metrics.registry.metrics());
  for (const [name, value] of [
    ['istio_tcp_connections_opened_total', 1],
    ['istio_tcp_connections_closed_total', 0],
    ['istio_tcp_received_bytes_total', 11],
    ['istio_tcp_sent_bytes_total', 22],
  ] as const) {
    const found = lines.filter((line) => line.name === name);
    t.equal(found.length, 1, name);
    t.strictSame(Object.keys(found[0]?.labels ?? {}), TCP);
    t.match(found[0], {
      value,
      labels: { source_workload: 'batch', request_protocol: 'tcp', response_flags: '-' },
    });
  }
  t.equal(lines.filter((line) => line.name === 'istio_requests_total').length, 1);
  const opened = lines.filter((line) => line.name === 'oarlock_connections_opened_total');
  t.strictSame(
    opened.map((line) => [line.labels.source_workload, line.value]),
    [
      ['web', 1],
      ['batch', 1],
    ],
    'every connection is counted, whatever it carries',
  );
  t.strictSame(Object.keys(opened[0]?.labels ?? {}), [...PEER, 'connection_security_policy']);
});

t.test('a source cannot say what policy holds: unknown', async (t) => {
  const metrics = metricsAt();
  metrics.peer(labelsWith({ reporter: 'source' })).request('http', 200, '-', 1, 1, 1);
  const [line] = parseExposition(await metrics.registry.metrics()).filter(
    (line) => line.name === 'istio_requests_total',
  );
  t.match(line?.labels, {
    reporter: 'source',
    connection_security_policy: 'unknown',
    source_cluster: 'Kubernetes',
    destination_cluster: 'unknown',
  });
});

t.test('same labels, same record; each outcome its own series', async (t) => {
  const metrics = metricsAt();
  const peer = metrics.peer(labelsWith());
  t.equal(metrics.peer(labelsWith()), peer);
  t.not(metrics.peer(labelsWith({ connectionSecurityPolicy: 'none' })), peer);
  const rows = [
    ['http', 200, '-', '', 3],
    ['http', 503, 'UF', '', 2],
    ['http', 503, 'UC', '', 1],
    ['http', 0, 'DC', '', 1],
    ['grpc', 200, '-', '14', 4],
    ['grpc', 200, '-', '0', 2],
  ] as const;
  // In turns, so that the remembered last outcome is wrong each time.
  for (let round = 0; round < 4; round++) {
    for (const [protocol, code, flags, status, count] of rows) {
      if (round < count) peer.request(protocol, code, flags, 1, 1, 1, status);
    }
  }
  const lines = parseExposition(await metrics.registry.metrics());
  for (const [protocol, code, flags, status, count] of rows) {
    const labels = {
      request_protocol: protocol,
      response_code: String(code),
      response_flags: flags,
      grpc_response_status: status,
    };
    t.equal(sampleOf(lines, 'istio_requests_total', labels), count, `${protocol} ${code} ${flags} ${status}`);
  }
});

t.test('bucket arithmetic', async (t) => {
  // value → the first bound that holds it; a bound holds its own value (le: less or equal)
  const rows: readonly (readonly [number, string])[] = [
    [0, '0.5'],
    [0.5, '0.5'],
    [0.500001, '1'],
    [1, '1'],
    [7, '10'],
    [25, '25'],
    [25.1, '50'],
    [999, '1000'],
    [2_500, '2500'],
    [30_001, '60000'],
    [3_600_000, '3600000'],
    [3_600_001, '+Inf'],
    [Number.POSITIVE_INFINITY, '+Inf'],
    [-5, '0.5'],
    [Number.NaN, '0.5'],
  ];
  for (const [value, first] of rows) {
    const metrics = metricsAt();
    metrics.peer(labelsWith()).request('http', 200, '-', value, 0, 0);
    const lines = parseExposition(await metrics.registry.metrics());
    const name = 'istio_request_duration_milliseconds';
    let holds = false;
    for (const le of [...defaultBuckets.map(String), '+Inf']) {
      holds ||= le === first;
      if (sampleOf(lines, `${name}_bucket`, { le }) !== (holds ? 1 : 0)) t.fail(`${value} in le=${le}`);
    }
    t.equal(sampleOf(lines, `${name}_count`), 1, `${value} counts once, from le=${first}`);
    t.equal(sampleOf(lines, `${name}_sum`), value > 0 ? value : 0, 'sum');
  }
});

t.test('duration, request and response keep to their own histograms', async (t) => {
  const metrics = metricsAt();
  const peer = metrics.peer(labelsWith());
  peer.request('http', 200, '-', 2, 300, 40_000);
  peer.request('http', 200, '-', 4, 700, 50_000);
  const lines = parseExposition(await metrics.registry.metrics());
  t.equal(sampleOf(lines, 'istio_request_duration_milliseconds_sum'), 6);
  t.equal(sampleOf(lines, 'istio_request_bytes_sum'), 1_000);
  t.equal(sampleOf(lines, 'istio_response_bytes_sum'), 90_000);
  t.equal(sampleOf(lines, 'istio_request_bytes_bucket', { le: '500' }), 1);
});

t.test('a label from the wire can break neither text nor memory', async (t) => {
  const metrics = metricsAt();
  const evil = 'a"b\\c\nistio_requests_total{x="y"} 9';
  metrics.peer(labelsWith({ destinationService: evil, destinationServiceName: 'x'.repeat(100_000) }))
    .tcpOpened++;
  const [line] = parseExposition(await metrics.registry.metrics()).filter((line) =>
    line.name.startsWith('istio_tcp'),
  );
  t.equal(line?.labels.destination_service, evil);
  t.equal(line?.labels.destination_service_name?.length, 512);
});

t.test('refusals: every reason is there from the start, in both directions', async (t) => {
  const metrics = metricsAt();
  const before = parseExposition(await metrics.registry.metrics());
  t.equal(before.filter((line) => line.name === 'oarlock_refusals_total').length, reasonCodes.length * 2);
  metrics.refused('policy_denied', 'inbound');
  metrics.refused('policy_denied', 'inbound');
  metrics.refused('no_route', 'outbound');
  const lines = parseExposition(await metrics.registry.metrics());
  const refusals = (reason: string, direction: string) =>
    sampleOf(lines, 'oarlock_refusals_total', { reason, direction });
  t.equal(refusals('policy_denied', 'inbound'), 2);
  t.equal(refusals('policy_denied', 'outbound'), 0);
  t.equal(refusals('no_route', 'outbound'), 1);
});

t.test('certificate expiry under our name and under that of Istio’s agent', async (t) => {
  const metrics = metricsAt();
  t.notMatch(await metrics.registry.metrics(), /^(oarlock_certificate|istio_agent_cert)_expiry_seconds\{/m);
  metrics.setCertificateExpiry({
    identity: 'spiffe://td/ns/a/sa/b',
    serial: '0a',
    notAfter: WALL + 3_600_000,
    rootNotAfter: WALL - 1_000,
  });
  const lines = parseExposition(await metrics.registry.metrics());
  const labels = { identity: 'spiffe://td/ns/a/sa/b', serial: '0a' };
  t.equal(sampleOf(lines, 'oarlock_certificate_expiry_seconds', labels), WALL / 1_000 + 3_600);
  t.equal(sampleOf(lines, 'istio_agent_cert_expiry_seconds', { resource_name: 'default' }), 3_600);
  t.equal(
    sampleOf(lines, 'istio_agent_cert_expiry_seconds', { resource_name: 'ROOTCA' }),
    -1,
    'expired: negative',
  );
});

t.test('what others keep is read when scraped', async (t) => {
  const metrics = metricsAt();
  let dropped = 1;
  metrics.watch({
    name: 'oarlock_access_log_dropped_total',
    help: 'Lines lost.',
    type: 'counter',
    read: () => dropped,
  });
  metrics.watch({
    name: 'oarlock_pool',
    help: 'Pool.',
    type: 'gauge',
    read: () => [{ labels: { state: 'idle' }, value: 7 }],
  });
  dropped = 5;
  metrics.snapshotGeneration = 3;
  metrics.configValid = 0;
  metrics.configReloads.rejected++;
  metrics.credentialRenewals.failure += 2;
  metrics.openConnections.inbound += 4;
  const lines = parseExposition(await metrics.registry.metrics());
  t.equal(sampleOf(lines, 'oarlock_access_log_dropped_total'), 5);
  t.equal(sampleOf(lines, 'oarlock_pool', { state: 'idle' }), 7);
  t.equal(sampleOf(lines, 'oarlock_snapshot_generation'), 3);
  t.equal(sampleOf(lines, 'oarlock_config_valid'), 0);
  t.equal(sampleOf(lines, 'oarlock_config_reloads_total', { result: 'rejected' }), 1);
  t.equal(sampleOf(lines, 'oarlock_credentials_renewals_total', { result: 'failure' }), 2);
  t.equal(sampleOf(lines, 'oarlock_connections_open', { direction: 'inbound' }), 4);
  t.throws(() => metrics.watch({ name: 'oarlock_pool', help: '', type: 'gauge', read: () => 0 }), /already/);
});

t.test('alarms, clock and handshakes: all there from the start, the clock once it is known', async (t) => {
  const metrics = new MeshMetrics({ ...defaultSeriesBounds, now: () => 0 });
  const before = parseExposition(await metrics.registry.metrics());
  for (const kind of ['renewal_failing', 'set_refused', 'clock_skew', 'expiring']) {
    t.equal(sampleOf(before, 'oarlock_credentials_alarms', { kind }), 0, kind);
  }
  for (const direction of ['inbound', 'outbound']) {
    for (const result of ['full', 'resumed', 'failed']) {
      t.equal(
        sampleOf(before, 'oarlock_handshakes_total', { direction, result }),
        0,
        `${direction} ${result}`,
      );
    }
  }
  t.notMatch(await metrics.registry.metrics(), /^oarlock_clock_skew_seconds /m);
  metrics.credentialAlarms.expiring = 1;
  metrics.clockSkewSeconds = -31.5;
  metrics.handshakes.inbound.resumed += 3;
  const after = parseExposition(await metrics.registry.metrics());
  t.equal(sampleOf(after, 'oarlock_credentials_alarms', { kind: 'expiring' }), 1);
  t.equal(sampleOf(after, 'oarlock_credentials_alarms', { kind: 'set_refused' }), 0);
  t.equal(sampleOf(after, 'oarlock_clock_skew_seconds'), -31.5);
  t.equal(sampleOf(after, 'oarlock_handshakes_total', { direction: 'inbound', result: 'resumed' }), 3);
});

t.test('of several threads, the one that asks the CA tells', async (t) => {
  const main = new MeshMetrics({ ...defaultSeriesBounds, now: () => 0 });
  const worker = new MeshMetrics({ ...defaultSeriesBounds, now: () => 0 });
  main.credentialAlarms.renewal_failing = 1;
  main.clockSkewSeconds = -2;
  worker.handshakes.outbound.full = 4;
  main.handshakes.outbound.full = 1;
  const sets = [await main.registry.getMetricsAsJSON(), await worker.registry.getMetricsAsJSON()];
  const lines = parseExposition(await AggregatorRegistry.aggregate(sets).metrics());
  t.equal(sampleOf(lines, 'oarlock_credentials_alarms', { kind: 'renewal_failing' }), 1);
  t.equal(sampleOf(lines, 'oarlock_clock_skew_seconds'), -2);
  t.equal(sampleOf(lines, 'oarlock_handshakes_total', { direction: 'outbound', result: 'full' }), 5);
});

t.test('threads are merged by prom-client: counters and buckets add up', async (t) => {
  const threads = [metricsAt(), metricsAt()];
  for (const metrics of threads) {
    const peer = metrics.peer(labelsWith());
    peer.connectionsOpened += 2;
    peer.request('http', 200, '-', 3, 10, 10);
    metrics.snapshotGeneration = metrics === threads[0] ? 4 : 5;
  }
  const merged = AggregatorRegistry.aggregate(
    await Promise.all(threads.map((metrics) => metrics.registry.getMetricsAsJSON())),
  );
  const lines = parseExposition(await merged.metrics());
  t.equal(sampleOf(lines, 'istio_requests_total', { response_code: '200' }), 2);
  t.equal(sampleOf(lines, 'istio_request_duration_milliseconds_bucket', { le: '5' }), 2);
  t.equal(sampleOf(lines, 'istio_request_duration_milliseconds_bucket', { le: '1' }), 0);
  t.equal(sampleOf(lines, 'istio_request_duration_milliseconds_sum'), 6);
  t.equal(sampleOf(lines, 'oarlock_connections_opened_total'), 4);
  t.equal(
    sampleOf(lines, 'oarlock_snapshot_generation'),
    4,
    'the thread that lags says what holds everywhere',
  );
});

t.test("our own text says what prom-client's would", async (t) => {
  const metrics = metricsAt();
  // More lines than one turn of the event loop writes, and labels that need escaping.
  for (let i = 0; i < 200; i++) {
    const peer = metrics.peer(labelsWith({ sourceWorkload: `w${i}`, destinationService: `a"b\\c\n${i}` }));
    peer.connectionsOpened += i + 1;
    peer.tcpOpened++;
    peer.request('http', 200, '-', i, i * 10, i * 100);
  }
  metrics.watch({
    name: 'odd',
    help: 'a\\b\nc',
    type: 'gauge',
    read: () => [
      { labels: {}, value: Number.NaN },
      { labels: { x: '+' }, value: Number.POSITIVE_INFINITY },
      { labels: { x: 'é' }, value: 1e300 },
    ],
  });
  const key = (text: string) =>
    parseExposition(text)
      .map(({ name, labels, value }) => `${name} ${JSON.stringify(Object.entries(labels).sort())} ${value}`)
      .sort();
  const ours = (await metrics.text()).toString();
  const theirs = await metrics.registry.metrics();
  t.strictSame(key(ours), key(theirs));
  const comments = (text: string) => text.split('\n').filter((line) => line.startsWith('#'));
  t.strictSame(comments(ours), comments(theirs));
});

t.test("the process's own metrics", async (t) => {
  const metrics = metricsAt();
  metrics.collectProcess();
  const lines = parseExposition((await metrics.text()).toString());
  t.ok(sampleOf(lines, 'process_cpu_seconds_total') > 0);
  t.ok(lines.some((line) => line.name === 'nodejs_heap_size_used_bytes'));
});
