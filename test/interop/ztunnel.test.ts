/** A real ztunnel at the other end of HBONE, both ways: HTTP, TCP, many streams, policy, identities, aborts, restarts. */
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { spiffe } from '../e2e/harness/test-ca.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { captureWire } from './ztunnel-capture.ts';
import { allow, createWorld, HBONE_PORT, type PortName, STRAY, VIP } from './ztunnel-mesh.ts';
import { missing } from './ztunnel-net.ts';
import { READINESS_PORT } from './ztunnel-peer.ts';
import { type Ask, callers, GREETING, isShut, type Target } from './ztunnel-traffic.ts';

t.setTimeout(180_000);

const binary = process.env.OARLOCK_ZTUNNEL ?? '';
const lacking = [...(binary === '' ? ['OARLOCK_ZTUNNEL, the path of a ztunnel'] : []), ...missing()];
if (lacking.length > 0) {
  t.plan(0, `SKIPPED: it needs ${lacking.join(', ')}`);
  process.exit(0);
}

const MB = 1_048_576;
/** As the kernel's table has it. */
const ESTABLISHED = '01';
/** In a path that must not be read on the wire. */
const SECRET = 'the-secret-of-the-orders';

const world = await createWorld(t, binary);
const { mesh, namespace, ca, theirs, ours, toOrders, toLegacy, toImpostor } = world;
const wire = await captureWire(t, namespace);
let orders = await world.startOarlock();
let ztunnel = await world.startZtunnel();

/** Has this process be the caller. */
const here: Ask = (name, ...args) => {
  const caller = callers[name] as (...args: readonly unknown[]) => Promise<never>;
  return within(name, caller(...args));
};

interface Way {
  readonly title: string;
  /** The caller's side. */
  readonly ask: Ask;
  readonly to: (name: PortName) => Target;
  /** The app's side. */
  readonly app: Ask;
}

const ztunnelCalls: Way = { title: 'ztunnel calls Oarlock', ask: theirs.ask, to: toOrders, app: here };
const oarlockCalls: Way = { title: 'Oarlock calls ztunnel', ask: here, to: toLegacy, app: theirs.ask };

// ---- what passes

for (const { title, ask, to, app } of [ztunnelCalls, oarlockCalls]) {
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
        most = Math.max(most, tunnels(ask === theirs.ask ? 'local' : 'remote'));
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
      if (ask === theirs.ask) await ztunnelSaw(/reset or abnormally closed/, mark);
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
      if (ask === here) await ztunnelSaw(/reset or abnormally closed/, mark);
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
  const workers = [ztunnelCalls, oarlockCalls].flatMap((way) =>
    Array.from({ length: 12 }, () => worker(way)),
  );
  t.same((await Promise.all(workers)).flat(), []);
  for (const direction of ['inbound', 'outbound'])
    await orders.metricIs('oarlock_tunnel_streams', { direction }, 0);
  t.pass('nothing is left of it');
});

/** The error of a connection in ztunnel's access log. */
async function ztunnelSaw(error: RegExp, mark: number): Promise<Readonly<Record<string, unknown>>> {
  return ztunnel.log.next({ scope: 'access', error }, mark);
}

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

// ---- ztunnel calls: who it is, what is refused

t.test('the app beside Oarlock is told who calls, and so are the metrics', async (t) => {
  const { body } = await theirs.ask('get', toOrders('http'), '/');
  t.match(JSON.parse(body).headers['x-forwarded-client-cert'], `URI=${spiffe('shop', 'legacy')}`);
  const labels = { source_principal: spiffe('shop', 'legacy'), connection_security_policy: 'mutual_tls' };
  t.ok((await orders.metric('istio_requests_total', { ...labels, reporter: 'destination' })) >= 5);
  await theirs.ask('beGreeted', toOrders('greet'));
  t.ok(
    (await orders.metric('istio_tcp_connections_opened_total', { ...labels, reporter: 'destination' })) >= 1,
  );
});

t.test('a service by its address: ztunnel says which one it means', async (t) => {
  const { status, body } = await theirs.ask('get', VIP, '/by-service');
  t.equal(status, 200);
  t.equal(JSON.parse(body).url, '/by-service');
});

t.test('a port without a listener of ours is dialled as the CONNECT says', async (t) => {
  t.ok(await theirs.ask('halfClose', { host: namespace.here, port: ours.digest }, MB));
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
  await ztunnelSaw(/401 Unauthorized/, mark);
  await mesh.change('policy.yaml', allow('legacy'), [orders]);
  t.equal((await theirs.ask('get', toOrders('http'), '/')).status, 200);
});

t.test('an app beside Oarlock that is down', async (t) => {
  const mark = ztunnel.log.mark;
  const { text } = await theirs.ask('say', toOrders('down'), 'hello');
  t.equal(text, '');
  await ztunnelSaw(/503 Service Unavailable/, mark);
  t.equal((await theirs.ask('get', toOrders('httpDown'), '/')).status, 503, 'HTTP answers for itself');
});

t.test('an address that is not ours is refused', async (t) => {
  const mark = ztunnel.log.mark;
  const logged = orders.mark;
  const { text } = await theirs.ask('say', STRAY, 'hello');
  t.equal(text, '');
  await ztunnelSaw(/400 Bad Request/, mark);
  const line = JSON.stringify(await orders.logged({ reason: 'bad_connect' }, logged));
  t.match(line, STRAY.host, 'our log names it');
});

// ---- Oarlock calls: what ztunnel is told, what is refused

// A peer that is asked for streams and told to forget them in the same breath ends the tunnel: CVE-2023-44487.
t.test('callers that leave at once do not cost others the tunnel', async (t) => {
  let over = false;
  const outcomes: number[] = [];
  const others = Array.from({ length: 4 }, async () => {
    while (!over) outcomes.push(await here('get', toLegacy('http'), '/').then(statusOf, notWhole));
  });
  await here('leaveAtOnce', toLegacy('reset'), 600);
  over = true;
  await Promise.all(others);
  t.same(new Set(outcomes), new Set([200]));
  t.equal(ztunnel.log.matching({ message: /too_many_resets|reached limit/ }).length, 0);
  await orders.metricIs('oarlock_tunnel_streams', { direction: 'outbound' }, 0);
});

t.test('ztunnel is told who calls', async (t) => {
  const mark = ztunnel.log.mark;
  t.equal((await here('get', toLegacy('http'), '/')).status, 200);
  const accessed = await ztunnel.log.next({ scope: 'access', direction: 'inbound' }, 0);
  t.equal(accessed['src.identity'], spiffe('shop', 'orders'));
  // A stream that was there may have carried the request: this one is new for certain.
  await here('beGreeted', toLegacy('greet'));
  const { req } = await ztunnel.log.next({ message: 'received request' }, mark);
  t.match(String(req), /method: CONNECT/);
  t.match(String(req), `uri: ${namespace.there}:`);
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

t.test('whoever stops takes nothing new and lets what runs go on to its end', async (t) => {
  await here('startTalk', toLegacy('reset'));
  const ztunnelGone = ztunnel.stop();
  await until('ztunnel to take no more', () => isShut({ host: namespace.there, port: HBONE_PORT }));
  t.same(await here('endTalk'), { echoed: true, over: 'end' }, 'through a ztunnel that drains');
  await ztunnelGone;
  ztunnel = await world.startZtunnel();
  await theirs.ask('startTalk', toOrders('reset'));
  orders.process.signal('SIGTERM');
  await until('Oarlock to take no more', () => isShut({ host: namespace.here, port: HBONE_PORT }));
  t.same(await theirs.ask('endTalk'), { echoed: true, over: 'end' }, 'through an Oarlock that drains');
  t.equal((await orders.process.end()).code, 0);
  orders = await world.startOarlock();
});

t.test('a ztunnel that dies takes its connections with it: not as if they were at their end', async (t) => {
  await here('startTalk', toLegacy('reset'));
  await ztunnel.kill();
  t.same(await here('endTalk'), { echoed: false, over: 'ECONNRESET' });
  ztunnel = await world.startZtunnel();
});

t.test('a ztunnel that puts all on one tunnel', async (t) => {
  await ztunnel.stop();
  ztunnel = await world.startZtunnel({ POOL_MAX_STREAMS_PER_CONNECTION: '1000' });
  t.equal(await theirs.ask('manyAtOnce', toOrders('reset'), 200), 200);
});

t.test('a restart of ztunnel under load: new streams reach the new one', async (t) => {
  const start = async (): Promise<void> => {
    ztunnel = await world.startZtunnel();
  };
  await restart(t, oarlockCalls, 'which drains', async () => {
    await ztunnel.stop();
    await start();
  });
  await restart(t, oarlockCalls, 'which is killed', async () => {
    await ztunnel.kill();
    await start();
  });
});

t.test('a restart of Oarlock under load: new streams reach the new one', async (t) => {
  const again = (signal: NodeJS.Signals) => async (): Promise<void> => {
    orders.process.signal(signal);
    await orders.process.end();
    orders = await world.startOarlock();
  };
  await restart(t, ztunnelCalls, 'which drains', again('SIGTERM'));
  await restart(t, ztunnelCalls, 'which is killed', again('SIGKILL'));
});

async function restart(
  t: Test,
  { ask, to }: Way,
  how: string,
  restarted: () => Promise<void>,
): Promise<void> {
  let over = false;
  const outcomes = new Set<number>();
  const load = Array.from({ length: 4 }, async () => {
    while (!over) outcomes.add(await ask('get', to('http'), '/').then(statusOf, notWhole));
  });
  await until('answers', () => outcomes.has(200));
  await restarted();
  const answers = async (): Promise<boolean> => (await ask('get', to('http'), '/')).status === 200;
  await until('the new one to answer', answers);
  for (let i = 0; i < 20; i++) t.ok(await answers(), how);
  t.ok(await ask('halfClose', to('digest'), MB), how);
  over = true;
  await Promise.all(load);
  // While there was none: our own 503, or a connection cut. Never anything else.
  const odd = [...outcomes].filter((outcome) => ![200, 503, notWhole()].includes(outcome));
  t.same(odd, [], how);
}

const statusOf = ({ status }: { readonly status: number }): number => status;
/** Stands for an answer of which not all came. */
const notWhole = (): number => 0;

t.test(
  'between them is nothing but TLS on the HBONE port',
  { skip: wire === null && 'no tcpdump' },
  async (t) => {
    if (wire === null) return;
    const { bytes, contains } = await wire.stop();
    t.ok((bytes.get(HBONE_PORT) ?? 0) > 20 * MB, 'what was sent is there');
    t.same(new Set(bytes.keys()), new Set([HBONE_PORT, READINESS_PORT, ca.port]), 'no other port');
    t.ok(contains('/healthz/ready'), 'plaintext is seen where there is some: the probe of ztunnel');
    for (const word of [SECRET, GREETING, 'k8s.namespace.name']) t.notOk(contains(word), word);
  },
);
