/** A real ztunnel at the other end of HBONE: callers that leave, whoever stops or dies, and restarts under load. */
import t, { type Test } from 'tap';
import { until } from '../e2e/harness/wait.ts';
import { isShut } from './ztunnel-callers.ts';
import { createWorld, HBONE_PORT, here, oarlockCalls, type Way, ztunnelCalls } from './ztunnel-mesh.ts';

t.setTimeout(120_000);

const MB = 1_048_576;

const world = await createWorld(t);
const { wire, theirs, toOrders, toLegacy } = world;
const statusOf = ({ status }: { readonly status: number }): number => status;
/** Stands for an answer of which not all came. */
const notWhole = (): number => 0;

let orders = await world.startOarlock();
let ztunnel = await world.startZtunnel();

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

t.test('whoever stops takes nothing new and lets what runs go on to its end', async (t) => {
  await here('startTalk', toLegacy('reset'));
  const ztunnelGone = ztunnel.stop();
  await until('ztunnel to take no more', () => isShut({ host: wire.there, port: HBONE_PORT }));
  t.same(await here('endTalk'), { echoed: true, over: 'end' }, 'through a ztunnel that drains');
  await ztunnelGone;
  ztunnel = await world.startZtunnel();
  await theirs.ask('startTalk', toOrders('reset'));
  orders.process.signal('SIGTERM');
  await until('Oarlock to take no more', () => isShut({ host: wire.here, port: HBONE_PORT }));
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
  await restart(t, oarlockCalls(world), 'which drains', async () => {
    await ztunnel.stop();
    await start();
  });
  await restart(t, oarlockCalls(world), 'which is killed', async () => {
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
  await restart(t, ztunnelCalls(world), 'which drains', again('SIGTERM'));
  await restart(t, ztunnelCalls(world), 'which is killed', again('SIGKILL'));
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
