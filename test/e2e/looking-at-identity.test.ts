/** `oarlock certs` and `oarlock handshakes` of running sidecars: peers, trust and failures of all threads, as they are. */
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh, type Sidecar } from './harness/mesh.ts';
import { runToEnd } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { spiffe, TestCa, writeCertDir } from './harness/test-ca.ts';
import { ISTIO_HTTP, openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
const orders = await mesh.sidecar('orders', '--concurrency', '2');
const web = await mesh.sidecar('web');
const stranger = await (await TestCa.create('O=other')).leaf(spiffe('shop', 'web'));

interface Asked {
  readonly code: number | null;
  readonly json: Record<string, unknown>;
}

async function ask(sidecar: Sidecar, ...args: readonly string[]): Promise<Asked> {
  const { code, stdout, stderr } = await runToEnd(t, [
    ...args,
    '--admin-port',
    String(sidecar.ports.admin),
    '-o',
    'json',
  ]);
  if (stdout === '') throw new Error(stderr);
  return { code, json: JSON.parse(stdout) as Record<string, unknown> };
}

async function failuresOf(sidecar: Sidecar): Promise<{ total: number; failures: Record<string, unknown>[] }> {
  const { json } = await ask(sidecar, 'handshakes');
  return json as { total: number; failures: Record<string, unknown>[] };
}

t.test('peers, by the certificates that live connections rest on', async (t) => {
  // A TCP connection: those of HTTP are given back and closed when idle.
  const live = await open(t, ports.tcp);
  live.write('1');
  t.equal(await live.until('the echo', (text) => text.length === 1), '1');
  for (const [sidecar, direction, peer] of [
    [orders, 'inbound', 'web'],
    [web, 'outbound', 'orders'],
  ] as const) {
    const { code, json } = await ask(sidecar, 'certs');
    t.equal(code, 0);
    t.match(json, {
      state: 'valid',
      identity: sidecar.identity,
      trust: [{ trustDomain: 'cluster.local', roots: [{ subject: 'O=test root' }] }],
      rotation: { phase: 'valid', alarms: [] },
      peers: [
        {
          identity: spiffe('shop', peer),
          direction,
          root: 'O=test root',
          issuer: 'O=test root',
          connections: 1,
        },
      ],
    });
  }
  const table = await runToEnd(t, ['certs', '--admin-port', String(orders.ports.admin)]);
  t.match(
    table.stdout,
    /^ {2}spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web +inbound +1 +5\dm(?: \d+s)? +[0-9a-f]+ +O=test root$/m,
  );
});

t.test('failed handshakes of all threads, with what was presented', async (t) => {
  for (let i = 0; i < 12; i++) {
    await openTls(t, ports.ordersHttp, {
      leaf: stranger,
      ALPNProtocols: ISTIO_HTTP,
      servername: 'x.example',
    }).catch(() => null);
  }
  // Each thread writes its own down: the next is the newest only if these are.
  await until('these to be told', async () => (await failuresOf(orders)).total === 12);
  await openTls(t, ports.ordersHttp, { leaf: null, ALPNProtocols: ISTIO_HTTP }).catch(() => null);
  await until('all of them to be told', async () => (await failuresOf(orders)).total === 13);
  const { failures } = await failuresOf(orders);
  t.match(failures[0], { reason: 'no_peer_certificate', chain: [], hint: /mutual TLS/ });
  for (const failure of failures.slice(1)) {
    t.match(failure, {
      direction: 'inbound',
      port: ports.ordersHttp,
      reason: 'untrusted_issuer',
      remote: /^(?:127\.0\.0\.1|\[::ffff:127\.0\.0\.1\]):\d+$/,
      sni: 'x.example',
      alpn: ISTIO_HTTP,
      firstBytes: 'TLS',
      openssl: /./,
      chain: [{ names: [`URI:${spiffe('shop', 'web')}`], issuer: 'O=other', serial: stranger.serial }],
    });
  }
  const times = failures.map(({ time }) => String(time));
  t.same(times, times.toSorted().reverse(), 'newest first');
  t.equal(await orders.metric('oarlock_handshakes_total', { direction: 'inbound', result: 'failed' }), 13);
});

t.test('who presents a certificate without any name has a dash in the table', async (t) => {
  const { total } = await failuresOf(orders);
  const leaf = await mesh.ca.leaf(null);
  await openTls(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP }).catch(() => null);
  await until('it to be told', async () => (await failuresOf(orders)).total === total + 1);
  const table = await runToEnd(t, ['handshakes', '--admin-port', String(orders.ports.admin), '--limit', '1']);
  t.match(table.stdout, /^ {2}\S+ +1 +inbound +\S+ +\d+ +bad_spiffe_id +-$/m);
});

t.test('outbound: whom we expected, and who was there', async (t) => {
  const impostor = await mesh.ca.leaf(spiffe('evil', 'evil'));
  const dir = join(mesh.dir, 'impostor');
  writeCertDir(dir, impostor);
  await orders.process.kill();
  const wrong = await mesh.ready('shop/orders', '--cert-dir', dir);
  t.equal((await call(ports.http, '/')).status, 503);
  const { failures } = await failuresOf(web);
  t.match(failures[0], {
    direction: 'outbound',
    port: ports.ordersHttp,
    reason: 'identity_mismatch',
    expectedIdentities: [spiffe('shop', 'orders')],
    chain: [{ names: [`URI:${spiffe('evil', 'evil')}`] }],
    sni: /orders/,
    firstBytes: null,
  });
  await wrong.process.kill();
});

t.test('an alarm is exit 1', async (t) => {
  const { dir } = await mesh.certDir('web');
  const { mark } = web;
  const foreign = await mesh.ca.leaf(spiffe('shop', 'orders'));
  writeCertDir(dir, foreign);
  await web.logged({ msg: /^no new credentials/ }, mark);
  await until('the alarm', async () => (await ask(web, 'certs')).code === 1);
  const { json } = await ask(web, 'certs');
  t.match(json, {
    state: 'valid',
    rotation: { alarms: [{ kind: 'set_refused', message: /./, since: /Z$/ }] },
  });
  await web.metricIs('oarlock_credentials_alarms', { kind: 'set_refused' }, 1);
});
