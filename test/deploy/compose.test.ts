/** The compose file of deploy/: of compose's own schema, hardened, and its whole arrangement run, in network namespaces. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import t from 'tap';
import { parse } from 'yaml';
import { needPods } from '../e2e/harness/pods.ts';
import { curl } from '../e2e/harness/pods-calls.ts';
import { stageImage } from '../e2e/harness/pods-image.ts';
import { between, notTls, openWire } from '../e2e/harness/pods-wire.ts';
import { runToEnd } from '../e2e/harness/processes.ts';
import { until } from '../e2e/harness/wait.ts';
import { networkOf, readCompose } from './compose-file.ts';
import { ComposeUp } from './compose-up.ts';

t.setTimeout(120_000);

const root = join(import.meta.dirname, '../..');
const file = join(root, 'deploy/compose/docker-compose.yml');
const compose = readCompose(file);
const services = Object.entries(compose.services);
const APPS = ['web', 'orders', 'payments'] as const;

t.test("the file is one of compose's schema", async (t) => {
  const schema = JSON.parse(readFileSync(join(root, 'test/fixtures/compose/compose-spec.json'), 'utf8'));
  // The schema names draft 7 by an address that is not quite draft 7's own.
  const { $schema: _, ...rules } = schema as Record<string, unknown>;
  const validate = new Ajv({ strict: false, formats: { duration: true } }).compile(rules);
  t.ok(validate(parse(readFileSync(file, 'utf8'), { merge: true })), JSON.stringify(validate.errors));
  t.notOk(validate({ services: { web: { image: 1 } } }), 'the schema can say no');
});

t.test('its resources have no fault', async (t) => {
  const { code, stdout } = await runToEnd(t, ['analyze', '--config', join(root, 'deploy/compose/mesh')]);
  t.equal(code, 0);
  t.match(stdout, /0 errors, 0 warnings/);
});

t.test('each container has no more rights than it needs', async (t) => {
  for (const [name, service] of services) {
    t.equal(service.read_only, true, `${name}: a read-only root`);
    t.same(service.cap_drop, ['ALL'], `${name}: no capability`);
    t.same(service.security_opt, ['no-new-privileges:true'], `${name}: none to be had`);
    const sets = name.endsWith('-pod');
    t.same(service.cap_add ?? [], sets ? ['NET_ADMIN', 'NET_RAW'] : [], `${name}: but for rules`);
    if (!sets) t.not(service.user?.split(':')[0], '0', `${name}: not root`);
  }
});

t.test('no app starts before its rules stand and its sidecar serves', async (t) => {
  for (const app of APPS) {
    const [holder, sidecar] = [`${app}-pod`, `${app}-sidecar`];
    const ready = { condition: 'service_healthy' };
    t.match(compose.services[app]?.depends_on, { [sidecar]: ready, [holder]: { ...ready, restart: true } });
    t.match(compose.services[sidecar]?.depends_on, { [holder]: { ...ready, restart: true } });
    for (const part of [app, sidecar, holder]) {
      const service = compose.services[part];
      if (service !== undefined) t.equal(networkOf(part, service), holder, part);
    }
    // Tokens are the CA's to make: its folder is mounted nowhere else.
    t.notOk(
      compose.services[sidecar]?.volumes?.some((volume) => volume.startsWith('ca:')),
      app,
    );
  }
});

t.test('no network is ever without rules: what holds it sets them, and nothing sets them once', async (t) => {
  for (const [name, service] of services) {
    const captured = networkOf(name, service)?.endsWith('-pod');
    if (captured || name === 'ca') t.equal(service.restart, 'unless-stopped', name);
    if (!name.endsWith('-pod')) continue;
    t.same(service.command, ['iptables', '--hold'], name);
    t.same(service.healthcheck?.test, ['CMD', '/usr/local/bin/oarlock', 'iptables', '--check'], name);
  }
});

t.test('as a whole', async (t) => {
  needPods(t);
  const up = new ComposeUp(t, compose, stageImage(t), file);
  const wire = await openWire(t, up.network);
  await up.up();
  const [web, orders, outsider] = ['web-pod', 'orders-pod', 'outsider'].map((name) => up.pod(name));
  if (web === undefined || orders === undefined || outsider === undefined) throw new Error('no pods');
  const id = (account: string): string => `spiffe://cluster.local/ns/shop/sa/${account}`;

  // The apps' containers have started, and may not listen yet.
  const named = await until('the apps to answer', async () => {
    const called = await curl(web, 'http://orders.shop.svc.cluster.local/');
    return called.body.includes('"app": "payments"') && called;
  });
  t.same(
    JSON.parse(named.body),
    { app: 'orders', caller: id('web'), next: { app: 'payments', caller: id('orders') } },
    'by name: orders knows who calls, and so does payments',
  );
  const byAddress = await curl(web, `http://${orders.ipv4}:8080/`);
  t.match(JSON.parse(byAddress.body), { app: 'orders', caller: id('web') }, 'by address');
  const forbidden = await curl(web, 'http://payments.shop.svc.cluster.local/');
  t.equal(forbidden.status, 403, 'payments is not for web');
  t.match(forbidden.body, /^RBAC: access denied/);

  const refused = await curl(outsider, `http://${orders.ipv4}:8080/`);
  t.not(refused.exit, 0, 'whoever has no identity is told nothing');
  t.equal(refused.status, 0);

  const seen = await wire.stop();
  const ours = between(seen, [web.ipv4, orders.ipv4], [orders.ipv4, up.pod('payments-pod').ipv4]);
  t.ok(ours.length > 0, 'the wire was seen');
  for (const conversation of ours) t.equal(notTls(conversation), null, `${conversation.port}: TLS alone`);
  for (const { secret } of [named, byAddress, forbidden])
    t.notOk(seen.contains(secret), 'nothing is readable');
});
