/** A real ztunnel at the other end of HBONE: who it is to us and we to it, and what either refuses. */
import t from 'tap';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { allow, createWorld, here } from './ztunnel-mesh.ts';

t.setTimeout(120_000);

const MB = 1_048_576;

const world = await createWorld(t);
const { mesh, wire, vip, stray, theirs, ours, toOrders, toLegacy, toImpostor } = world;
const orders = await world.startOarlock();
const ztunnel = await world.startZtunnel();

// ---- ztunnel calls

t.test('the app beside Oarlock is told who calls, and so are the metrics', async (t) => {
  const { body } = await theirs.ask('get', toOrders('http'), '/');
  t.match(JSON.parse(body).headers['x-forwarded-client-cert'], `URI=${spiffe('shop', 'legacy')}`);
  const labels = { source_principal: spiffe('shop', 'legacy'), connection_security_policy: 'mutual_tls' };
  t.ok((await orders.metric('istio_requests_total', { ...labels, reporter: 'destination' })) >= 1);
  await theirs.ask('beGreeted', toOrders('greet'));
  t.ok(
    (await orders.metric('istio_tcp_connections_opened_total', { ...labels, reporter: 'destination' })) >= 1,
  );
});

t.test('a service by its address: ztunnel says which one it means', async (t) => {
  const { status, body } = await theirs.ask('get', vip, '/by-service');
  t.equal(status, 200);
  t.equal(JSON.parse(body).url, '/by-service');
});

t.test('a port without a listener of ours is dialled as the CONNECT says', async (t) => {
  t.ok(await theirs.ask('halfClose', { host: wire.here, port: ours.digest }, MB));
});

t.test('our policy judges ztunnel by its identity', async (t) => {
  const mark = ztunnel.log.mark;
  await theirs.ask('startTalk', toOrders('reset'));
  await mesh.change('policy.yaml', allow('another'), [orders]);
  t.same(await theirs.ask('endTalk'), { echoed: false, over: 'end' }, 'what runs is cut');
  const { status, body } = await theirs.ask('get', toOrders('http'), '/');
  t.equal(status, 403);
  t.equal(body, 'RBAC: access denied');
  const { text } = await theirs.ask('say', toOrders('reset'), 'ping');
  t.equal(text, '', 'not a byte of a TCP app');
  await ztunnel.failed(/401 Unauthorized/, mark);
  await mesh.change('policy.yaml', allow('legacy'), [orders]);
  t.equal((await theirs.ask('get', toOrders('http'), '/')).status, 200);
});

t.test('an app beside Oarlock that is down', async (t) => {
  const mark = ztunnel.log.mark;
  const { text } = await theirs.ask('say', toOrders('down'), 'hello');
  t.equal(text, '');
  await ztunnel.failed(/503 Service Unavailable/, mark);
  t.equal((await theirs.ask('get', toOrders('httpDown'), '/')).status, 503, 'HTTP answers for itself');
});

t.test('an address that is not ours is refused', async (t) => {
  const mark = ztunnel.log.mark;
  const logged = orders.mark;
  const { text } = await theirs.ask('say', stray, 'hello');
  t.equal(text, '');
  await ztunnel.failed(/400 Bad Request/, mark);
  const line = JSON.stringify(await orders.logged({ reason: 'bad_connect' }, logged));
  t.match(line, stray.host, 'our log names it');
});

// ---- Oarlock calls

t.test('ztunnel is told who calls', async (t) => {
  const mark = ztunnel.log.mark;
  t.equal((await here('get', toLegacy('http'), '/')).status, 200);
  const accessed = await ztunnel.log.next({ scope: 'access', direction: 'inbound' }, 0);
  t.equal(accessed['src.identity'], spiffe('shop', 'orders'));
  // A stream that was there may have carried the request: this one is new for certain.
  await here('beGreeted', toLegacy('greet'));
  const { req } = await ztunnel.log.next({ message: 'received request' }, mark);
  t.match(String(req), /method: CONNECT/);
  t.match(String(req), `uri: ${wire.there}:`);
  t.match(String(req), /"baggage": "[^"]*k8s\.namespace\.name=shop[^"]*"/);
  t.match(String(req), /"baggage": "[^"]*service\.name=orders[^"]*"/);
  t.match(String(req), /"forwarded": "for=/);
});

t.test("a denial of ztunnel's policy is told as such", async (t) => {
  const mark = orders.mark;
  const { status, body } = await here('get', toLegacy('denied'), '/');
  t.equal(status, 503);
  t.match(body, 'tunnel_refused');
  t.match(
    JSON.stringify(await orders.logged({ reason: 'tunnel_refused' }, mark)),
    /CONNECT was answered 401/,
  );
});

t.test('an app beside ztunnel that is down', async (t) => {
  const mark = orders.mark;
  const { status, body } = await here('get', toLegacy('httpDown'), '/');
  t.equal(status, 503);
  t.match(body, 'connect_failed');
  t.match(
    JSON.stringify(await orders.logged({ reason: 'connect_failed' }, mark)),
    /CONNECT was answered 503/,
  );
  const { text, over } = await here('say', toLegacy('down'), 'hello');
  t.same({ text, over }, { text: '', over: 'ECONNRESET' });
});

t.test('a ztunnel of another identity is refused by secure naming', async (t) => {
  const mark = orders.mark;
  const { status, body } = await here('get', toImpostor('http'), '/');
  t.equal(status, 503);
  t.match(body, 'identity_mismatch');
  for (const name of ['greet', 'reset'] as const) {
    const { text, over } = await here('say', toImpostor(name), 'hello');
    t.same({ text, over }, { text: '', over: 'ECONNRESET' }, name);
  }
  const line = JSON.stringify(await orders.logged({ reason: 'identity_mismatch' }, mark));
  t.match(line, /expected spiffe:\/\/cluster\.local\/ns\/shop\/sa\/somebody, got .*sa\/legacy/);
});
