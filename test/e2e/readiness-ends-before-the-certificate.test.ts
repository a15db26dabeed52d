/** A sidecar whose certificate is not renewed stops being ready before it ends, says so, and comes back with the next one. */
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { spiffe, writeCertDir } from './harness/test-ca.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

/** Of a life of twenty seconds: a fifth before its end, when readiness goes, there is time for all that is asked then. */
const LIFE_MS = 12_000;
const USED_MS = 8_000;
const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
const [orders, web] = await Promise.all([mesh.sidecar('orders'), mesh.sidecar('web')]);

t.test('in time', async (t) => {
  const leaf = await mesh.ca.leaf(spiffe('shop', 'orders'), { from: -USED_MS, to: LIFE_MS });
  // X.509 counts whole seconds.
  const end = Date.now() + LIFE_MS;
  const { mark } = orders;
  writeCertDir(orders.certDir, leaf);
  await orders.logged({ msg: 'new credentials are in force' }, mark);
  t.equal((await orders.health()).status, 200, 'ready with it');
  await until('readiness to end', async () => (await orders.health()).status === 503);
  t.ok(Date.now() < end, `${end - Date.now()} ms before the certificate does`);
  const { body } = await orders.health();
  t.match(JSON.stringify(body), /ours expire at/);
  t.equal(await orders.metric('oarlock_credentials_alarms', { kind: 'expiring' }), 1, 'and an alarm is up');
  t.match((await orders.admin('/certs')).rotation, { alarms: [{ kind: 'expiring' }] });
  t.equal((await call(ports.http, '/tell')).status, 200, 'who comes all the same is served');
});

t.test('after the end nobody is let in', async (t) => {
  await until('the end', async () => /have expired/.test(JSON.stringify((await orders.health()).body)));
  await until('a refusal', async () => (await call(ports.http, '/tell')).status === 503);
  t.ok((await orders.refusals('no_credentials')) + (await web.refusals('expired', 'outbound')) > 0);
});

t.test('the next certificate brings it back', async (t) => {
  writeCertDir(orders.certDir, await mesh.ca.leaf(spiffe('shop', 'orders')));
  await until('readiness', async () => (await orders.health()).status === 200);
  t.equal((await call(ports.http, '/tell')).status, 200);
  t.equal(await orders.metric('oarlock_credentials_alarms'), 0, 'no alarm is left');
});
