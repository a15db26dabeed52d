/** Sidecars whose credentials a SPIFFE Workload API pushes: ready with the first set, and nothing fails while they change. */
import t from 'tap';
import { svidMessage, TrustDomain, WorkloadApiServer } from '../ca-client/workload-api-server.ts';
import { httpApp } from './harness/apps.ts';
import { health, Mesh } from './harness/mesh.ts';
import { freePort } from './harness/ports.ts';
import { start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { Traffic } from './harness/traffic.ts';
import { until } from './harness/wait.ts';

t.setTimeout(90_000);

const RENEWALS = 'oarlock_credentials_renewals_total';
const WEB = '/ns/shop/sa/web';
const ORDERS = '/ns/shop/sa/orders';

const app = await httpApp(t);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: app.port }));
const domain = await TrustDomain.create('cluster.local');
const agent = await WorkloadApiServer.start(t);

/** Both sidecars are given both SVIDs, as an agent does that cannot tell them apart. */
async function bothSvids(): Promise<Buffer> {
  return svidMessage([await domain.svid(WEB), await domain.svid(ORDERS, { hint: 'server' })]);
}

t.test('an agent that is away is waited for, and told of', async (t) => {
  const port = await freePort();
  const flags = mesh.flags('shop/web', '--spiffe-socket', '/nowhere/agent.sock', '--health-port', `${port}`);
  start(t, flags);
  const told = await until('the health', async () => {
    const { status, body } = await health(port);
    const text = JSON.stringify(body);
    return status === 503 && text.includes('socket is not there') ? text : null;
  });
  t.match(told, /workload API \/nowhere\/agent\.sock: the socket is not there \(yet\)/);
});

t.test('each takes its own of several, and every push counts', async (t) => {
  agent.svids = await bothSvids();
  const [web, orders] = await Promise.all([
    mesh.ready('shop/web', '--spiffe-socket', `unix://${agent.path}`),
    mesh.ready('shop/orders', '--spiffe-socket', agent.path, '--spiffe-hint', 'server'),
  ]);
  t.equal(web.identity, `spiffe://cluster.local${WEB}`);
  t.equal(orders.identity, `spiffe://cluster.local${ORDERS}`);
  const traffic = new Traffic(t, ports.http, { kept: false });
  for (let n = 2; n <= 4; n++) {
    await traffic.goesOn();
    agent.push('svids', await bothSvids());
    for (const sidecar of [web, orders]) await sidecar.metricIs(RENEWALS, { result: 'success' }, n);
  }
  agent.push('svids', svidMessage([]));
  for (const sidecar of [web, orders]) await sidecar.logged({ msg: /X509SVIDResponse has no SVID/ });
  await traffic.goesOn();
  await traffic.stop();
  t.same(traffic.failures, []);
});
