/** Resources edited while traffic flows: good ones take effect each time, broken ones change nothing, and nothing is lost. */
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { Traffic } from './harness/traffic.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

/** A change must be in force by then (ms). */
const SOON = 5_000;

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));

/** Open to `web` and, on the TCP port, to `tcpAccounts`; HTTP paths as given. */
function opened(paths: readonly string[], tcpAccounts: readonly string[] = ['web']): string {
  const from = (names: readonly string[]): string =>
    `from: [{source: {principals: [${names.map((name) => `cluster.local/ns/shop/sa/${name}`).join(', ')}]}}]`;
  const http = `{${from(['web'])}, to: [{operation: {ports: ["${ports.ordersHttp}"], paths: [${paths.join(', ')}]}}]}`;
  const raw = `{${from(tcpAccounts)}, to: [{operation: {ports: ["${ports.ordersTcp}"]}}]}`;
  return policy('open', `[${http}, ${raw}]`);
}

/** A folder as Kubernetes mounts a ConfigMap: files link into `..data`, which is swapped by rename. */
const mount = join(mesh.dir, 'configmap');
mkdirSync(mount);
let version = 0;
function swapMount(text: string): void {
  const folder = `..2026_${++version}`;
  mkdirSync(join(mount, folder));
  writeFileSync(join(mount, folder, 'deny.yaml'), text);
  symlinkSync(folder, join(mount, '..data_tmp'));
  renameSync(join(mount, '..data_tmp'), join(mount, '..data'));
  if (version === 1) symlinkSync(join('..data', 'deny.yaml'), join(mount, 'deny.yaml'));
  else rmSync(join(mount, `..2026_${version - 1}`), { recursive: true });
}

const always = ['/tell', '/swap*'];
mesh.write('policy.yaml', opened([...always, '/round-0']));
swapMount(denyPath('/nothing'));
const more = ['--config', mount];
const [orders] = await Promise.all([mesh.sidecar('orders', ...more), mesh.sidecar('web', ...more)]);

const kept = new Traffic(t, ports.http);
const fresh = new Traffic(t, ports.http, { kept: false });
const live = await open(t, ports.tcp);
live.write('0');
await live.until('the echo', (text) => text === '0');

const status = async (path: string): Promise<number> => (await call(ports.http, path)).status;
const becomes = (path: string, wanted: number): Promise<unknown> =>
  until(`${path} to become ${wanted}`, async () => (await status(path)) === wanted, SOON);

t.test('a file replaced by rename takes effect, the tenth time as the first', async (t) => {
  for (let i = 1; i <= 10; i++) {
    mesh.write('policy.yaml', opened([...always, `/round-${i}`]));
    await becomes(`/round-${i}`, 200);
    t.equal(await status(`/round-${i - 1}`), 403, `round ${i}: the one before is over`);
  }
});

t.test("a ConfigMap's ..data swap takes effect, the tenth time as the first", async (t) => {
  for (let i = 1; i <= 10; i++) {
    swapMount(denyPath(`/swap-${i}`));
    await becomes(`/swap-${i}`, 403);
    t.equal(await status(`/swap-${i - 1}`), 200, `swap ${i}: the one before is over`);
  }
});

t.test('a broken file changes nothing, is reported, and mending it recovers', async (t) => {
  mesh.write('policy.yaml', opened(always));
  await becomes('/round-10', 403);
  const rows = [
    { title: 'no YAML', text: 'kind: AuthorizationPolicy\nspec: {rules: [', says: /broken\.yaml:[12]\b/ },
    { title: 'an unknown field', text: policy('broken', '[{form: []}]'), says: /broken\.yaml:7.*form/ },
    { title: 'a bad enum', text: policy('broken', '[{}]', 'ALOW'), says: /broken\.yaml:6.*(action|ALOW)/ },
    {
      title: 'an unsupported field',
      text: policy('broken', '[{}]', 'CUSTOM'),
      says: /broken\.yaml:\d+.*(CUSTOM|provider)/,
    },
    {
      title: 'a kind of a wrong version',
      text: policy('broken', '[{}]').replace('/v1', '/v7'),
      says: /broken\.yaml:\d+.*v7/,
    },
  ];
  for (const [i, { title, text, says }] of rows.entries()) {
    const { mark } = orders;
    mesh.write('broken.yaml', text);
    // A good change in the same set must wait for the bad one: a set is swapped whole or not at all.
    mesh.write('policy.yaml', opened([...always, `/mended-${i}`]));
    const line = await orders.logged({ level: 'error', problems: says }, mark);
    t.match(String(line.problems), says, `${title}: file, line and field in the log`);
    await orders.metricIs('oarlock_config_valid', {}, 0);
    const { status: code, body } = await orders.health();
    t.equal(code, 200, `${title}: still ready`);
    t.match(JSON.stringify(body.warnings), /broken\.yaml/, `${title}: with a warning`);
    t.equal(await status(`/mended-${i}`), 403, `${title}: the old decisions stay`);
    t.equal(await status('/tell'), 200);
    mesh.remove('broken.yaml');
    await becomes(`/mended-${i}`, 200);
    await orders.metricIs('oarlock_config_valid', {}, 1);
    t.same(await orders.health(), { status: 200, body: { ready: true } }, `${title}: mended`);
  }
});

t.test('a connection that policy no longer allows is closed, one that it allows stays', async (t) => {
  const change = (accounts: readonly string[]): Promise<void> =>
    mesh.change('policy.yaml', opened(always, accounts), [orders]);
  await change(['web', 'batch']);
  const connect = async (account: string) => {
    const peer = await openTls(t, ports.ordersTcp, { leaf: await mesh.ca.leaf(spiffe('shop', account)) });
    peer.write('a');
    await peer.until('the echo', (text) => text === 'a');
    return peer;
  };
  const [web, batch] = await Promise.all([connect('web'), connect('batch')]);
  const { mark } = orders;
  await change(['web']);
  t.match(await batch.ended(), /ECONNRESET|closed/);
  // The access log has every refusal; the other log only the first few of a second.
  const line = await orders.accessed({ source_principal: spiffe('shop', 'batch') }, mark);
  t.match(line, { reason: 'policy_denied', policy: 'shop/open' });
  web.write('b');
  t.equal(await web.until('the echo', (text) => text === 'ab'), 'ab');
});

t.test('nothing was lost on the way', async (t) => {
  for (const traffic of [kept, fresh]) {
    await traffic.goesOn();
    await traffic.stop();
    t.same(traffic.failures, []);
    t.ok(traffic.served > 100, `${traffic.served} requests served`);
  }
  live.write('1');
  t.equal(await live.until('the echo', (text) => text.length === 2), '01', 'the connection of before lives');
});

function denyPath(path: string): string {
  return policy(
    'deny',
    `[{to: [{operation: {paths: ["${path}"], ports: ["${ports.ordersHttp}"]}}]}]`,
    'DENY',
  );
}
