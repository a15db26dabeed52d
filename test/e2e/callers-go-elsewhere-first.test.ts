/** A sidecar that is about to leave tells its callers so, one after the other, while it serves whoever comes. */
import { connect } from 'node:http2';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, keepAlive, open } from './harness/clients.ts';
import { health, Mesh, type Sidecar } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { peerAuthentication, shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
mesh.write('modes.yaml', peerAuthentication('PERMISSIVE').replace('istio-system', 'shop'));

/** As a preStop hook. */
const drainOf = (sidecar: Sidecar): string[] => [
  'probe',
  `http://127.0.0.1:${sidecar.ports.metrics ?? 0}/drain`,
  '--method',
  'POST',
];

/** Each way to begin: the callers have five seconds, Istio's terminationDrainDuration, or what --drain-delay says. */
const ways: Record<string, { flags: readonly string[]; begin(t: Test, sidecar: Sidecar): Promise<void> }> = {
  'POST /drain, and no signal yet': {
    flags: [],
    begin: async (t, sidecar) => {
      const { mark } = sidecar;
      t.same(await start(t, drainOf(sidecar)).end(), { code: 0, signal: null });
      await sidecar.logged({ msg: /^about to leave/ }, mark);
    },
  },
  'SIGTERM, with a delay': {
    flags: ['--drain-delay', '8s'],
    begin: async (_t, sidecar) => {
      const { mark } = sidecar;
      sidecar.process.signal('SIGTERM');
      await sidecar.logged({ msg: /^stopping/ }, mark);
    },
  },
  'SIGTERM, of several threads': {
    flags: ['--drain-delay', '8s', '--concurrency', '2'],
    begin: async (_t, sidecar) => {
      const { mark } = sidecar;
      sidecar.process.signal('SIGTERM');
      await sidecar.logged({ msg: /^stopping/ }, mark);
    },
  },
};

for (const [name, { flags, begin }] of Object.entries(ways)) {
  t.test(name, async (t) => {
    const orders = await mesh.sidecar('orders', ...flags);
    const web = await mesh.sidecar('web');
    const raw = await open(t, ports.ordersTcp);
    raw.write('a');
    await raw.until('the echo', (text) => text === 'a');
    const idle = await open(t, ports.ordersHttp);
    idle.write('GET /tell HTTP/1.1\r\nHost: a\r\n\r\n');
    await idle.until('an answer', (text) => text.includes('}'));
    const session = connect(`http://127.0.0.1:${ports.ordersHttp}`);
    t.teardown(() => session.destroy());
    const goaway = new Promise<void>((resolve) => session.once('goaway', () => resolve()));
    const agent = keepAlive(t);
    const kept = (): ReturnType<typeof call> => call(ports.ordersHttp, '/tell', { agent });
    t.equal((await kept()).headers.connection, undefined);

    await begin(t, orders);
    t.equal((await health(orders.ports.health ?? 0)).status, 503, 'not ready: nobody new shall be sent here');
    let served = 0;
    await until('a kept connection to be told in an answer', async () => {
      const { status, headers } = await kept();
      t.equal(status, 200);
      const fresh = await call(ports.ordersHttp, '/tell');
      t.equal(fresh.status, 200, 'new connections are served');
      served++;
      return headers.connection === 'close';
    });
    await goaway;
    t.equal(await idle.ended(), 'end', 'an idle one is closed in order');
    t.equal((await call(ports.http, '/tell')).status, 200, 'new calls through the pair are answered');
    t.equal((await kept()).status, 200, 'so are the old caller on a new connection');
    raw.write('b');
    await raw.until('the echo', (text) => text === 'ab');
    t.ok(served > 0, `${served} rounds`);
    t.match(
      orders.process.stderr.matching({ msg: /^drain begins/ }),
      [],
      'all the while it takes what comes',
    );

    await orders.process.kill();
    await web.process.kill();
  });
}

t.test('what was told before is not waited for again', async (t) => {
  const orders = await mesh.sidecar('orders', '--drain-delay', '1s');
  const began = performance.now();
  t.same(await start(t, drainOf(orders)).end(), { code: 0, signal: null });
  t.same(await start(t, drainOf(orders)).end(), { code: 0, signal: null }, 'again: nothing new');
  await until('the second to be over', () => performance.now() - began > 1_500);
  const { mark } = orders;
  orders.process.signal('SIGTERM');
  t.match(await orders.logged({ msg: /^stopping/ }, mark), { drainDelayMs: 0 });
  t.same(await orders.process.end(), { code: 0, signal: null });
  t.equal(orders.process.stderr.matching({ msg: /^about to leave/ }).length, 1);
});
