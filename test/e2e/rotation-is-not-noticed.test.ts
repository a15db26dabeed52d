/** Certificates of seconds, renewed while traffic flows: nobody who asks notices, not even while the CA is away. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { CaProcess } from './harness/ca-process.ts';
import { open } from './harness/clients.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { replace } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { Traffic } from './harness/traffic.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

/** Renewed at half, or not much later: what is left then is as long as a busy machine may need to start a CA anew. */
const TTL_SECONDS = 16;
const RENEWALS = 'oarlock_credentials_renewals_total';

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(
  t,
  `${shop(ports, { http: app.port, tcp: tcp.port })}---
${policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]')}`,
);
const ca = await CaProcess.start(t, join(mesh.dir, 'ca'), `${TTL_SECONDS}s`);
const begin = async (name: string): Promise<Sidecar> =>
  ready(start(t, mesh.flags(`shop/${name}`, ...(await ca.flags(name)), '--access-log', 'off')));
const [web, orders] = await Promise.all([begin('web'), begin('orders')]);

const kept = new Traffic(t, ports.http);
const fresh = new Traffic(t, ports.http, { kept: false });
const live = await open(t, ports.tcp);
live.write('0');
await live.until('the echo', (text) => text === '0');

interface Certs {
  readonly chain: readonly { readonly serial: string; readonly notAfter: string }[];
}

async function serialOf(sidecar: Sidecar): Promise<string> {
  const { chain } = (await sidecar.admin('/certs')) as unknown as Certs;
  return chain[0]?.serial ?? '';
}

/** The serial a foreign client is shown. */
async function presented(): Promise<string> {
  const { tls } = await openTls(t, ports.ordersHttp, { leaf: null });
  const serial = tls.getPeerX509Certificate()?.serialNumber ?? '';
  tls.destroy();
  return serial.toLowerCase();
}

t.test('new handshakes are shown the new certificate', async (t) => {
  const serials = new Set<string>();
  while (serials.size < 3) {
    const serial = await serialOf(orders);
    // A renewal between the two questions makes them differ once, not for long.
    await until(
      'the handshake to show the serial of /certs',
      async () => (await presented()) === (await serialOf(orders)),
    );
    serials.add(serial);
    if (serials.size < 3) await until('the next renewal', async () => (await serialOf(orders)) !== serial);
  }
  t.equal(serials.size, 3, 'three certificates, one after the other');
  for (const sidecar of [web, orders]) {
    await until('a third renewal', async () => (await sidecar.metric(RENEWALS, { result: 'success' })) >= 3);
    t.equal(await sidecar.metric(RENEWALS, { result: 'failure' }), 0);
    // X.509 counts whole seconds: up to one more than asked for.
    const left = (await sidecar.metric('oarlock_certificate_expiry_seconds')) - Date.now() / 1000;
    t.ok(left > 0 && left <= TTL_SECONDS + 1, `the metric tells the expiry: ${left} s left`);
  }
});

t.test('the CA is away: the old certificate serves, retries back off, then it renews', async (t) => {
  const { mark } = orders;
  const renewed = await orders.metric(RENEWALS, { result: 'success' });
  await ca.kill();
  for (const attempt of [1, 2]) {
    const line = await orders.logged({ attempt, msg: /^no new credentials/ }, mark);
    const ceiling = 200 * 2 ** (attempt - 1);
    t.ok(
      Number(line.nextRetryMs) <= ceiling,
      `attempt ${attempt}: again in ${line.nextRetryMs} ms, at most ${ceiling}`,
    );
  }
  t.ok((await orders.metric(RENEWALS, { result: 'failure' })) >= 2);
  t.match(JSON.stringify((await orders.health()).body.warnings), /./, '/healthz warns');
  await kept.goesOn();
  await fresh.goesOn();
  await ca.restart();
  await until('a renewal', async () => (await orders.metric(RENEWALS, { result: 'success' })) > renewed);
  t.same(await orders.health(), { status: 200, body: { ready: true } });
});

t.test('a token that has become garbage: failures, and recovery with a good one', async (t) => {
  const file = ca.tokenFile('orders');
  const good = readFileSync(file, 'utf8');
  const { mark } = orders;
  replace(file, 'no token at all\n');
  const line = await orders.logged({ msg: /^no new credentials/ }, mark);
  t.match(line.msg, /token|UNAUTHENTICATED|unauthenticated/i, 'the log says whose fault it is');
  t.notMatch(orders.process.stderr.text, /no token at all/, 'and keeps the token to itself');
  const renewed = await orders.metric(RENEWALS, { result: 'success' });
  replace(file, good);
  await until('a renewal', async () => (await orders.metric(RENEWALS, { result: 'success' })) > renewed);
});

t.test('nobody noticed', async (t) => {
  for (const traffic of [kept, fresh]) {
    await traffic.goesOn();
    await traffic.stop();
    t.same(traffic.failures, []);
    t.ok(traffic.served > 100, `${traffic.served} requests served`);
  }
  await t.rejects(
    live.until('its end', () => false),
    /ECONNRESET/,
    "a TCP connection ends with its peer's certificate",
  );
  const said = web.process.stderr.text + orders.process.stderr.text;
  t.match(said, /"reason":"peer_expired"/, 'and the log says why');
  const again = await open(t, ports.tcp);
  again.write('1');
  t.equal(await again.until('the echo', (text) => text.length === 1), '1', 'a new one is served');
  const keys = /PRIVATE KEY/;
  for (const sidecar of [web, orders]) {
    t.notMatch(JSON.stringify(await sidecar.admin('/certs')), keys, '/certs hands out no key');
    t.notMatch(JSON.stringify(await sidecar.admin('/snapshot')), keys);
    t.notMatch(sidecar.process.stderr.text, keys, 'nor does the log');
  }
});
