/** Rules that go, sidecars that are late or dead, every backend of the rules: a captured app is never let past its sidecar. */
import t from 'tap';
import { APP_UID } from '../harness/pods.ts';
import { callerOf, curl, toldOf } from '../harness/pods-calls.ts';
import type { PodSidecar } from '../harness/pods-mesh.ts';
import { VIPS } from '../harness/pods-resources.ts';
import { APP, shopOfPods, VIP } from '../harness/pods-shop.ts';
import { between, notTls, openWire } from '../harness/pods-wire.ts';
import { spiffe } from '../harness/test-ca.ts';
import { pause, until } from '../harness/wait.ts';

t.setTimeout(150_000);

const { network, mesh, web, orders, legacy } = await shopOfPods(t);
const WEB = spiffe('shop', 'web');
const urls = [
  `http://${VIPS.ipv4}${VIP.orders}`,
  `http://[${VIPS.ipv6}${VIP.orders}]`,
  ...orders.hosts.map((host) => `http://${host}:${APP.http}`),
];

/** Says one thing, lets a second pass, says another; tells what came back. */
const TALK = `
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for word in [b"first", b"second"]:
    connection.sendall(word)
    print(connection.recv(64).decode(), flush=True)
    time.sleep(1)
`;
const FLAGS = ['--canary-interval', '500ms', '--drain', '20s'];
let ofWeb: PodSidecar;
let ofOrders: PodSidecar;

/** All of these, over both families, reach `orders` as calls of `web`. */
async function allPass(t: Tap, what: string): Promise<void> {
  for (const url of urls) t.equal(callerOf(toldOf(await curl(web, `${url}/`))), WEB, `${what}: ${url}`);
}
type Tap = Pick<typeof t, 'equal'>;

const wire = await openWire(t, network);

t.test('an app that calls before its sidecar has an identity waits, and is answered', async (t) => {
  await Promise.all([web, orders].map((pod) => mesh.rules(pod)));
  ofOrders = mesh.start(orders, { credentials: mesh.token('orders'), flags: FLAGS });
  ofWeb = mesh.start(web, { credentials: mesh.token('web'), flags: FLAGS });
  await Promise.all([ofWeb, ofOrders].map((sidecar) => sidecar.logged({ msg: /no new credentials/ })));
  const calls = urls.map((url) => curl(web, `${url}/early`, { patience: 60 }));
  let answered = 0;
  for (const call of calls) void call.then(() => answered++);
  // What must not happen: that one of them is told anything.
  await pause(1_000);
  t.equal(answered, 0, 'they wait');
  await mesh.serveCa();
  for (const call of calls) t.equal(callerOf(toldOf(await call)), WEB);
  await Promise.all([ofWeb.ready(), ofOrders.ready()]);
});

t.test('the rules are flushed: the canary tells within moments, and again once they stand', async (t) => {
  const gauge = (family: string): Promise<number> => ofOrders.metric('oarlock_capture_rules', { family });
  const both = (value: number): Promise<unknown> =>
    until(
      `the gauges to be ${value}`,
      async () => (await gauge('ipv4')) === value && (await gauge('ipv6')) === value,
      10_000,
    );
  await both(1);
  const mark = ofOrders.mark;
  await orders.must(['iptables', '-t', 'nat', '-F']);
  await until('the gauge of IPv4 to fall', async () => (await gauge('ipv4')) === 0, 10_000);
  t.equal(await gauge('ipv6'), 1, 'the other family stands');
  await ofOrders.logged({ level: 'error', family: 'ipv4', msg: /rules of capture/ }, mark);
  await orders.must(['ip6tables', '-t', 'nat', '-F']);
  await both(0);
  t.match(JSON.parse(await ofOrders.get('http://127.0.0.1:15021/healthz/ready')).warnings, [/ipv4/, /ipv6/]);
  const gone = ofOrders.mark;
  await mesh.rules(orders);
  await both(1);
  for (const family of ['ipv4', 'ipv6']) await ofOrders.logged({ level: 'info', family }, gone);
});

t.test('the sidecar is killed', async (t) => {
  await ofWeb.kill();
  const secrets: string[] = [];
  for (const url of urls) {
    const { exit, secret } = await curl(web, `${url}/unguarded`, { patience: 5 });
    secrets.push(secret);
    t.equal(exit, 7, `${url}: curl's "failed to connect"`);
  }
  const outside = await curl(web, `http://${legacy.ipv4}:${APP.http}/unguarded`, { patience: 5 });
  secrets.push(outside.secret);
  t.equal(outside.exit, 7, 'nor does anybody else hear of it');
  const inbound = await curl(legacy, `http://${web.ipv4}:${APP.http}/unguarded`, { patience: 5 });
  t.equal(inbound.exit, 7, 'and nobody reaches the app');
  ofWeb = await mesh.start(web, { credentials: mesh.token('web'), flags: FLAGS }).ready();
  await allPass(t, 'a new one');
  const seen = await wire.stop();
  for (const secret of secrets) t.notOk(seen.contains(secret), `${secret} did not leave the pod`);
  for (const conversation of between(seen, [web.ipv4, web.ipv6], [orders.ipv4, orders.ipv6])) {
    t.equal(notTls(conversation), null);
  }
});

/** Each, and what tells of the rules it holds. */
const backends: readonly (readonly [string, readonly string[]])[] = [
  ['nft', ['nft --stateless list ruleset']],
  ['iptables-legacy', ['iptables-legacy-save -t nat', 'ip6tables-legacy-save -t nat']],
  ['iptables', ['iptables-nft-save -t nat', 'ip6tables-nft-save -t nat']],
];

t.test('every backend', async (t) => {
  for (const [backend, tools] of backends) {
    await t.test(backend, async (t) => {
      const saved = async (): Promise<string> => {
        const texts = await Promise.all(tools.map((tool) => orders.must(tool.split(' '))));
        // Without comments, and what was counted.
        return texts.join('').replaceAll(/^#.*\n|\[\d+:\d+\]/gm, '');
      };
      const check = ['--check', '--backend', backend];
      await Promise.all(
        [web, orders].map(async (pod) => {
          await mesh.rules(pod, '--clean');
          const { status, output } = await pod.run([...mesh.image.oarlock, 'iptables', ...check]);
          t.equal(status, 1, `none of the backend before has stayed in ${pod.name}`);
          t.match(output, /missing/);
          await mesh.rules(pod, '--backend', backend);
          await mesh.rules(pod, ...check);
        }),
      );
      const once = await saved();
      await mesh.rules(orders, '--backend', backend);
      t.equal(await saved(), once, 'set twice is set once');
      await allPass(t, backend);
      for (const host of orders.hosts) {
        t.match((await curl(legacy, `http://${host}:${APP.http}/`)).error, /reset by peer/, 'STRICT');
      }
    });
  }
});

t.test('what the rules leave out', async (t) => {
  const all = orders.hosts.map((host) => `http://${host}:${APP.http}/`);
  const each = async (
    from: typeof web,
    check: (called: Awaited<ReturnType<typeof curl>>, url: string) => void,
  ) => {
    for (const url of all) check(await curl(from, url), url);
  };
  await mesh.rules(web, '--exclude-outbound-ports', `${APP.http},9999`);
  await each(web, ({ error }, url) => t.match(error, /reset by peer/, `${url}: an outbound port`));
  await mesh.rules(web, '--exclude-outbound-cidrs', '10.77.0.0/16,fd00:77::/64');
  await each(web, ({ error }, url) => t.match(error, /reset by peer/, `${url}: outbound addresses`));
  t.equal((await curl(web, `${urls[0]}/`)).status, 200, 'and no others');
  await mesh.rules(web);
  await mesh.rules(orders, '--exclude-inbound-ports', `${APP.http}`);
  await each(legacy, (called, url) =>
    t.equal(toldOf(called).peer, url.includes('[') ? legacy.ipv6 : legacy.ipv4, `${url}: an inbound port`),
  );
  await mesh.rules(orders);
  await each(legacy, ({ error }, url) => t.match(error, /reset by peer/, `${url}: captured again`));
});

t.test('a sidecar that stops keeps what its app has under way', async (t) => {
  const mark = ofWeb.mark;
  const open = await ofWeb.metric('oarlock_connections_open', { direction: 'outbound' });
  const talk = web.run(['python3', '-c', TALK, orders.ipv4, `${APP.echo}`], { uid: APP_UID });
  await until(
    'the app to be heard',
    async () => (await ofWeb.metric('oarlock_connections_open', { direction: 'outbound' })) > open,
  );
  ofWeb.child.kill('SIGTERM');
  await ofWeb.logged({ msg: /drain begins/ }, mark);
  t.equal(
    (await curl(web, `${urls[0]}/meanwhile`)).status,
    200,
    'new calls of the app are carried meanwhile',
  );
  t.equal((await talk).output, 'first\nsecond\n', 'and what had begun comes to its end');
  await ofWeb.exited;
});

t.test('no rules yet, in a pod without IPv6', async (t) => {
  for (const scope of ['all', 'default'])
    await web.must(['sysctl', '-w', `net.ipv6.conf.${scope}.disable_ipv6=1`]);
  await mesh.rules(web, '--clean');
  ofWeb = mesh.start(web, { credentials: mesh.token('web'), flags: FLAGS });
  const rules = ['rules of capture for ipv4 (oarlock iptables)'];
  await until('nothing but the rules to be waited for', async () => {
    const { stdout } = await web.run(['curl', '--silent', 'http://127.0.0.1:15021/healthz/ready']);
    const { ready, waitingFor } = JSON.parse(stdout) as { ready: boolean; waitingFor: string[] };
    return !ready && waitingFor.join() === rules.join();
  });
  await mesh.rules(web);
  await mesh.rules(web, '--check');
  await ofWeb.ready();
  for (const url of urls.filter((url) => !url.includes('['))) {
    t.equal(callerOf(toldOf(await curl(web, `${url}/`))), WEB, url);
  }
  t.equal(await ofWeb.metric('oarlock_capture_rules', { family: 'ipv4' }), 1);
  const exposition = await ofWeb.get('http://127.0.0.1:15020/metrics');
  t.notMatch(exposition, /oarlock_capture_rules\{family="ipv6"\}/, 'nothing is said of what is not there');
});
