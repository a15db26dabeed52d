/** A real ztunnel at the other end of HBONE, both ways: HTTP, TCP, half-closes, aborts, many streams, and only TLS between. */
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { until } from '../e2e/harness/wait.ts';
import { GREETING } from './ztunnel-apps.ts';
import { captureWire } from './ztunnel-capture.ts';
import { createWorld, HBONE_PORT, here, oarlockCalls, type Way, ztunnelCalls } from './ztunnel-mesh.ts';
import { READINESS_PORT } from './ztunnel-peer.ts';

t.setTimeout(120_000);

const MB = 1_048_576;
/** As the kernel's table has it. */
const ESTABLISHED = '01';
/** In a path that must not be read on the wire. */
const SECRET = 'the-secret-of-the-orders';

const world = await createWorld(t);
const wire = await captureWire(t, world.namespace);
const orders = await world.startOarlock();
const ztunnel = await world.startZtunnel();
const ways = [ztunnelCalls(world), oarlockCalls(world)];

for (const { title, ask, to, app } of ways) {
  t.test(title, async (t) => {
    await t.test('HTTP/1.1', async (t) => {
      for (let i = 0; i < 3; i++) {
        const { status, body } = await ask('get', to('http'), `/${SECRET}`, { 'x-mine': 'yes' });
        t.equal(status, 200);
        t.match(JSON.parse(body), { method: 'GET', url: `/${SECRET}`, headers: { 'x-mine': 'yes' } });
      }
      t.equal(await ask('postAndCompare', to('http'), MB), 1, '1 MB and back');
      t.equal(await ask('postAndCompare', to('http'), MB, 20), 20, 'twenty at once');
    });

    await t.test('HTTP/2', async (t) => {
      const answers = await ask('getByHttp2', to('http2'), ['/1', '/2', '/3']);
      const told = answers.map(({ status, body }) => `${status} ${JSON.parse(body).url}`);
      t.same(told, ['200 /1', '200 /2', '200 /3']);
    });

    await t.test('TCP: the answer comes after the FIN', async (t) => {
      t.ok(await ask('halfClose', to('digest'), 5), 'a few bytes');
      t.ok(await ask('halfClose', to('digest'), 5 * MB), '5 MB');
    });

    await t.test('TCP: the app ends first and reads on', async (t) => {
      const digest = await ask('outlast', to('farewell'), 5 * MB);
      await until('the app to have read it', async () => (await app('farewells')).includes(digest));
      t.pass();
    });

    await t.test('TCP: the server speaks first', async (t) => {
      t.equal(await ask('beGreeted', to('greet')), `${GREETING}EHLO`);
    });

    await t.test('200 connections at once on a few tunnels', async (t) => {
      const count = 200;
      let most = 0;
      const watch = setInterval(() => {
        most = Math.max(most, tunnels(ask !== here ? 'local' : 'remote'));
      }, 5);
      t.equal(await ask('manyAtOnce', to('reset'), count), count);
      clearInterval(watch);
      // Two or three, and those of earlier cases that are not gone yet.
      t.ok(most >= 1 && most <= count / 10, `${most} tunnels`);
    });

    // ztunnel knows no abort: what its app or its peer resets, it ends.
    await t.test('TCP: the app resets', async (t) => {
      const mark = ztunnel.log.mark;
      t.same(await ask('beReset', to('reset')), { text: 'ping', over: 'end' });
      if (ask !== here) await ztunnel.failed(/reset or abnormally closed/, mark);
    });
    await t.test('TCP: the caller resets', async (t) => {
      const before = (await app('endings')).length;
      const mark = ztunnel.log.mark;
      t.equal(await ask('reset', to('reset')), 'ping');
      const endings = await until('the app to see it', async () => {
        const all = await app('endings');
        return all.length > before ? all.slice(before) : null;
      });
      t.same(endings, ['end']);
      if (ask === here) await ztunnel.failed(/reset or abnormally closed/, mark);
    });
  });
}

t.test('all of it at once, both ways', async (t) => {
  const kinds: readonly ((way: Way) => Promise<unknown>)[] = [
    async ({ ask, to }) => (await ask('get', to('http'), '/')).status === 200,
    async ({ ask, to }) => (await ask('postAndCompare', to('http'), size())) === 1,
    ({ ask, to }) => ask('abandon', to('http')),
    async ({ ask, to }) => (await ask('getByHttp2', to('http2'), ['/1', '/2'])).length === 2,
    ({ ask, to }) => ask('halfClose', to('digest'), size()),
    async ({ ask, to, app }) => {
      const digest = await ask('outlast', to('farewell'), size());
      return until('the app to have read it', async () => (await app('farewells')).includes(digest));
    },
    async ({ ask, to }) => (await ask('beGreeted', to('greet'))) === `${GREETING}EHLO`,
    async ({ ask, to }) => (await ask('beReset', to('reset'))).text === 'ping',
    async ({ ask, to }) => (await ask('reset', to('reset'))) === 'ping',
  ];
  const worker = async (way: Way): Promise<readonly string[]> => {
    const wrong: string[] = [];
    for (let i = 0; i < 25; i++) {
      const kind = kinds[randomInt(kinds.length)];
      const right = await kind?.(way).catch(String);
      if (right !== true) wrong.push(`${way.title}: ${kind}: ${right}`);
    }
    return wrong;
  };
  const size = (): number => (randomInt(2) === 0 ? randomInt(100) : randomInt(MB));
  const workers = ways.flatMap((way) => Array.from({ length: 12 }, () => worker(way)));
  t.same((await Promise.all(workers)).flat(), []);
  for (const direction of ['inbound', 'outbound'])
    await orders.metricIs('oarlock_tunnel_streams', { direction }, 0);
  t.pass('nothing is left of it');
});

/** Established connections of this namespace with the HBONE port at that end. */
function tunnels(end: 'local' | 'remote'): number {
  const port = `:${HBONE_PORT.toString(16).toUpperCase().padStart(4, '0')}`;
  const table = ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((file) =>
    readFileSync(file, 'latin1').split('\n'),
  );
  return table.filter((line) => {
    const [, local = '', remote = '', state] = line.trim().split(/\s+/);
    return state === ESTABLISHED && (end === 'local' ? local : remote).endsWith(port);
  }).length;
}

t.test(
  'between them is nothing but TLS on the HBONE port',
  { skip: wire === null && 'no tcpdump' },
  async (t) => {
    if (wire === null) return;
    const { bytes, contains } = await wire.stop();
    t.ok((bytes.get(HBONE_PORT) ?? 0) > 20 * MB, 'what was sent is there');
    t.same(new Set(bytes.keys()), new Set([HBONE_PORT, READINESS_PORT, world.ca.port]), 'no other port');
    t.ok(contains('/healthz/ready'), 'plaintext is seen where there is some: the probe of ztunnel');
    for (const word of [SECRET, GREETING, 'k8s.namespace.name']) t.notOk(contains(word), word);
  },
);
