/** Sidecars whose credentials are SPIRE's: no request fails while certificates and roots change, nor across trust domains. */
import t from 'tap';
import { httpApp } from '../e2e/harness/apps.ts';
import { call } from '../e2e/harness/clients.ts';
import { Mesh, type Sidecar } from '../e2e/harness/mesh.ts';
import { policy, shop, shopPorts } from '../e2e/harness/shop.ts';
import { Traffic } from '../e2e/harness/traffic.ts';
import { until } from '../e2e/harness/wait.ts';
import { needSpire, type SpireAgent, SpireServer } from './spire-world.ts';

t.setTimeout(150_000);
needSpire(t);

const RENEWALS = 'oarlock_credentials_renewals_total';
/** SPIRE backdates by ten seconds and renews at half: so certificates of fifteen seconds change every three or so. */
const ttlSeconds = 15;

const app = await httpApp(t);

interface Certs {
  readonly chain: readonly { readonly serial: string }[];
  readonly roots: readonly unknown[];
}

async function renewed(sidecar: Sidecar, times: number): Promise<void> {
  const goal = (await sidecar.metric(RENEWALS, { result: 'success' })) + times;
  await until(
    `${times} renewals`,
    async () => (await sidecar.metric(RENEWALS, { result: 'success' })) >= goal,
  );
}

await t.test('one trust domain', async (t) => {
  const spire = await SpireServer.start(t, 'cluster.local');
  const agent = await spire.startAgent();
  for (const path of ['/ns/shop/sa/web', '/ns/shop/sa/orders']) {
    await spire.createEntry({ path, hint: path.slice(-4), ttlSeconds });
  }
  const ports = await shopPorts();
  const webOnly = policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]');
  const mesh = await Mesh.create(t, `${shop(ports, { http: app.port, tcp: app.port })}---\n${webOnly}`);
  const socket = ['--spiffe-socket', `unix://${agent.socket}`, '--access-log', 'off'];
  // one is chosen by the workload's own identity, the other by hint
  const [web, orders] = await Promise.all([
    mesh.ready('shop/web', ...socket),
    mesh.ready('shop/orders', ...socket, '--spiffe-hint', 'ders'),
  ]);
  t.equal(web.identity, 'spiffe://cluster.local/ns/shop/sa/web');
  t.equal(orders.identity, 'spiffe://cluster.local/ns/shop/sa/orders');

  const kept = new Traffic(t, ports.http);
  const fresh = new Traffic(t, ports.http, { kept: false });
  await Promise.all([web, orders].map((sidecar) => renewed(sidecar, 5)));
  await Promise.all([kept.goesOn(), fresh.goesOn()]);

  const old = await spire.activateRoot(await spire.prepareRoot());
  await Promise.all([web, orders].map((sidecar) => renewed(sidecar, 4)));
  await spire.retireRoot(old);
  await Promise.all([web, orders].map((sidecar) => renewed(sidecar, 2)));
  const roots = async (sidecar: Sidecar) =>
    ((await sidecar.admin('/certs')) as unknown as Certs).roots.length;
  await until('the new root alone', async () => (await roots(web)) === 1 && (await roots(orders)) === 1);
  await Promise.all([kept.goesOn(), fresh.goesOn()]);

  await agent.kill();
  await web.logged({ msg: /no new credentials: workload API/ });
  await Promise.all([kept.goesOn(), fresh.goesOn()]);
  await spire.startAgent(agent.socket);
  await Promise.all([web, orders].map((sidecar) => renewed(sidecar, 2)));
  await Promise.all([kept.goesOn(), fresh.goesOn()]);
  for (const traffic of [kept, fresh]) {
    await traffic.stop();
    t.same(traffic.failures, []);
  }
});

await t.test('two trust domains that federate', async (t) => {
  const [one, two] = [await SpireServer.start(t, 'one.test'), await SpireServer.start(t, 'two.test')];
  await Promise.all([one.trust(two), two.trust(one)]);
  const [ordersAgent, webAgent] = [await one.startAgent(), await two.startAgent()];
  const ordersEntry = { path: '/ns/shop/sa/orders', ttlSeconds };
  const federated = await one.createEntry({ ...ordersEntry, federatesWith: ['two.test'] });
  await two.createEntry({ path: '/ns/shop/sa/web', federatesWith: ['one.test'], ttlSeconds });
  const ports = await shopPorts();
  const webOnly = policy('web-only', '[{from: [{source: {principals: [two.test/ns/shop/sa/web]}}]}]');
  const mesh = await Mesh.create(t, `${shop(ports, { http: app.port, tcp: app.port })}---\n${webOnly}`);
  const flags = ({ socket }: SpireAgent) => ['--spiffe-socket', socket, '--access-log', 'off'];
  const [web, orders] = await Promise.all([
    mesh.ready(
      'shop/web',
      ...flags(webAgent),
      '--trust-domain',
      'two.test',
      '--trust-domain-alias',
      'one.test',
    ),
    mesh.ready('shop/orders', ...flags(ordersAgent), '--trust-domain', 'one.test'),
  ]);
  t.equal(web.identity, 'spiffe://two.test/ns/shop/sa/web');
  t.equal(orders.identity, 'spiffe://one.test/ns/shop/sa/orders');
  const { status, body } = await call(ports.http, '/across');
  t.equal(status, 200);
  t.match(JSON.parse(body.toString()), { url: '/across' });
  const kept = new Traffic(t, ports.http);
  await Promise.all([web, orders].map((sidecar) => renewed(sidecar, 3)));
  await kept.goesOn();
  await kept.stop();
  t.same(kept.failures, []);

  // the agent no longer gives two.test's bundle: nobody of it is let in any more, over connections that live neither
  await one.deleteEntry(federated);
  await one.createEntry(ordersEntry);
  await until('web to be refused', async () => (await call(ports.http, '/')).status === 503);
  t.ok((await orders.refusals('untrusted_issuer')) > 0);
});
