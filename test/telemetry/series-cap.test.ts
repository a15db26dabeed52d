/** Metrics don't grow for ever: the cap of series, their idle expiry and the overflow record. */
import t from 'tap';
import { MeshMetrics } from '../../telemetry/mesh-metrics.ts';
import { labelsWith, parseExposition, sampleOf } from './exposition.ts';

const EXPIRY = 600_000;

function fixture(seriesCap: number) {
  const clock = { now: 0 };
  const metrics = new MeshMetrics({ seriesCap, idleExpiryMs: EXPIRY, now: () => clock.now });
  const peer = (i: number) =>
    metrics.peer(labelsWith({ sourcePrincipal: `spiffe://td/ns/jobs/sa/job-${i}` }));
  return { clock, metrics, peer };
}

t.test('a hundred thousand identities stay within the cap, and none of their requests is lost', async (t) => {
  const { metrics, peer } = fixture(200);
  for (let i = 0; i < 100_000; i++) {
    const series = peer(i);
    series.connectionsOpened++;
    series.request('http', 200, '-', 1, 1, 1);
  }
  t.equal(metrics.seriesCount, 200);
  const lines = parseExposition(await metrics.registry.metrics());
  const requests = lines.filter((line) => line.name === 'istio_requests_total');
  t.ok(requests.length <= 201, `${requests.length} lines`);
  t.equal(
    requests.reduce((sum, line) => sum + line.value, 0),
    100_000,
  );
  const other = requests.filter((line) => line.labels.source_principal === 'other');
  t.equal(other.length, 1);
  t.match(other[0]?.labels, {
    reporter: 'destination',
    connection_security_policy: 'mutual_tls',
    source_workload: 'other',
    response_code: '200',
  });
  t.ok(sampleOf(lines, 'oarlock_metrics_overflow_total') >= 99_900);
  t.equal(sampleOf(lines, 'oarlock_metrics_series'), 200);
});

t.test('past the cap all strangers share a record; known peers keep theirs', (t) => {
  const { peer } = fixture(2);
  const first = peer(1);
  const second = peer(2);
  t.equal(peer(3), peer(4));
  t.not(peer(3), first);
  t.equal(peer(1), first);
  t.equal(peer(2), second);
  t.end();
});

t.test('the overflow keeps plaintext apart from mutual TLS, and source from destination', (t) => {
  const { metrics, peer } = fixture(1);
  peer(1);
  const mtls = metrics.peer(labelsWith({ sourceWorkload: 'a' }));
  const plain = metrics.peer(labelsWith({ sourceWorkload: 'b', connectionSecurityPolicy: 'none' }));
  const source = metrics.peer(labelsWith({ reporter: 'source', sourceWorkload: 'c' }));
  t.equal(new Set([mtls, plain, source]).size, 3);
  t.end();
});

t.test('an app that answers with made-up codes fills neither its own record nor the cap', async (t) => {
  const { metrics, peer } = fixture(1_000);
  for (let code = 200; code < 900; code++) peer(1).request('http', code, '-', 1, 1, 1);
  for (let code = 200; code < 900; code++) peer(1).request('http', code, '-', 1, 1, 1);
  t.ok(metrics.seriesCount <= 34, `${metrics.seriesCount} series`);
  const lines = parseExposition(await metrics.registry.metrics());
  t.equal(sampleOf(lines, 'istio_requests_total', { response_code: '200' }), 2);
  t.equal(sampleOf(lines, 'istio_requests_total', { response_code: 'other' }), (700 - 32) * 2);
});

t.test('an outcome that finds no room counts in the overflow, under its own code', async (t) => {
  const { metrics, peer } = fixture(2);
  peer(1).request('http', 200, '-', 1, 1, 1);
  peer(1).request('http', 503, 'UF', 1, 1, 1);
  t.equal(metrics.seriesCount, 2);
  const lines = parseExposition(await metrics.registry.metrics());
  t.equal(sampleOf(lines, 'istio_requests_total', { response_code: '503', source_workload: 'other' }), 1);
});

t.test('what nobody uses vanishes after the expiry, and its room is free again', async (t) => {
  const { clock, metrics, peer } = fixture(2);
  const first = peer(1);
  first.request('http', 200, '-', 1, 1, 1);
  t.equal(metrics.seriesCount, 2);
  const scraped = async () =>
    parseExposition(await metrics.registry.metrics()).some((line) => line.name === 'istio_requests_total');
  clock.now = EXPIRY / 2;
  t.ok(await scraped(), 'seen in use');
  clock.now = EXPIRY / 2 + EXPIRY - 1;
  t.ok(await scraped(), 'a moment before the expiry it is still there');
  clock.now = EXPIRY / 2 + EXPIRY + EXPIRY / 10;
  t.notOk(await scraped(), 'and then not');
  t.equal(metrics.seriesCount, 0);
  t.not(peer(1), first, 'a new record begins at 0');
  first.request('http', 404, '-', 1, 1, 1);
  t.equal(metrics.seriesCount, 1, 'a record that somebody still holds by mistake takes no room');
});

t.test('a live connection holds its record, however idle', (t) => {
  const { clock, metrics, peer } = fixture(10);
  const series = peer(1);
  series.retain();
  series.retain();
  series.release();
  for (let i = 1; i <= 20; i++) {
    clock.now = i * EXPIRY;
    metrics.sweep();
  }
  t.equal(peer(1), series);
  series.release();
  metrics.sweep();
  clock.now += EXPIRY - 1;
  metrics.sweep();
  t.equal(peer(1), series, 'the time runs from the release');
  clock.now += 1;
  metrics.sweep();
  t.equal(metrics.seriesCount, 0);
  series.release();
  t.equal(series.live, 0, 'one release too many does no harm');
  t.end();
});

t.test('released long after the last sweep, it still has its whole time', (t) => {
  const { clock, metrics, peer } = fixture(10);
  const series = peer(1);
  series.retain();
  clock.now = 10 * EXPIRY;
  series.release();
  metrics.sweep();
  t.equal(metrics.seriesCount, 1);
  t.end();
});

t.test('a full table makes room by itself once peers are idle, without a scrape', (t) => {
  const { clock, metrics, peer } = fixture(3);
  for (let i = 0; i < 3; i++) peer(i).connectionsOpened++;
  metrics.sweep();
  clock.now = EXPIRY + 1;
  t.not(peer(100), peer(101), 'both found room');
  t.equal(metrics.seriesCount, 2);
  t.end();
});
