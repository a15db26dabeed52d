/** An app that starts before its sidecar has credentials: what it connects is held up to a bound, and then served. */
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { Listeners } from '../../proxy/setup/listeners.ts';
import { type App, echo, tcpApp } from '../e2e/harness/apps.ts';
import { open } from '../e2e/harness/clients.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { credentialsOf, type InboundSidecar, inboundSidecar } from './inbound-sidecar.ts';

/** Of each direction. */
const BOUND = 1_024;
/** Of one address, coming in. */
const SHARE = 64;

const app = await tcpApp(t, echo);
const ca = await TestCa.create();
const leaf = await ca.leaf(spiffe('shop', 'orders'));

/** Ports of capture that take all for connections to `app`; no credentials yet. */
async function capture(
  t: Test,
  { port }: App,
): Promise<{ sidecar: InboundSidecar; listeners: Listeners; port: number; inbound: number }> {
  const sidecar = await inboundSidecar(t, port, { intercept: 'redirect' });
  const ask = () => ({ address: '127.0.0.1', port });
  const listeners = new Listeners(sidecar.path, { bind: '127.0.0.1', reusePort: false, ask });
  const ports = { outbound: 0, inbound: 0, nonce: '' };
  await listeners.listen({ capture: ports, hbone: null, hboneNeeded: false, others: [] });
  t.teardown(() => listeners.close());
  const { outbound = 0, inbound = 0 } = listeners.ports();
  return { sidecar, listeners, port: outbound, inbound };
}

t.test('held, and served once there are credentials', async (t) => {
  const { sidecar, listeners, port } = await capture(t, app);
  const before = app.seen.count;
  const peers = await Promise.all(Array.from({ length: 10 }, () => open(t, port)));
  for (const peer of peers) peer.write('hello');
  listeners.release();
  t.equal(app.seen.count, before, 'nobody goes on without');
  sidecar.path.applyCredentials(credentialsOf(leaf));
  listeners.release();
  for (const peer of peers) t.equal(await peer.until('the echo', (text) => text === 'hello'), 'hello');
  t.same(sidecar.path.connections.size, 10);
});

t.test('more than can be held are refused, with the reason', async (t) => {
  const { sidecar, listeners, port } = await capture(t, app);
  const sockets = new Set<Socket>();
  let lost = 0;
  for (let i = 0; i < BOUND + 3; i++) {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.on('error', () => {}).on('close', () => lost++);
    sockets.add(socket);
  }
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  await until('three to be refused', () => lost === 3);
  t.match(
    sidecar.lines.filter(({ reason }) => reason !== undefined),
    [{ reason: 'no_credentials', direction: 'outbound', port }],
    'a line tells of them',
  );
  sidecar.path.applyCredentials(credentialsOf(leaf));
  listeners.release();
  await until('all others to be served', () => sidecar.path.connections.size === BOUND);
  t.equal(lost, 3);
});

t.test('who comes in takes no place of the app, and no more than his own share', async (t) => {
  const { sidecar, listeners, port, inbound } = await capture(t, app);
  const [sockets, lost] = [new Set<Socket>(), new Map<string, number>()];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  // Two strangers, who say a byte and leave: what they said is held, as an app's would be.
  for (const localAddress of ['127.0.0.2', '127.0.0.3']) {
    for (let i = 0; i < SHARE + 3; i++) {
      const socket = connect({ port: inbound, host: '127.0.0.1', localAddress });
      socket.on('error', () => {});
      socket.on('close', (failed) => {
        if (failed) lost.set(localAddress, (lost.get(localAddress) ?? 0) + 1);
      });
      socket.end('G');
      sockets.add(socket);
    }
  }
  await until('three of each to be refused', () => [...lost.values()].join() === '3,3');
  const peers = await Promise.all(Array.from({ length: 10 }, () => open(t, port)));
  for (const peer of peers) peer.write('hello');
  sidecar.path.applyCredentials(credentialsOf(leaf));
  listeners.release();
  for (const peer of peers) t.equal(await peer.until('the echo', (text) => text === 'hello'), 'hello');
  t.match([...lost.values()], [3, 3], 'no more than what had no place');
});
