/** A port that is closed has served all whom the kernel let in before. */
import { connect } from 'node:net';
import t from 'tap';
import { Listeners } from '../../proxy/setup/listeners.ts';
import { echo, tcpApp } from '../e2e/harness/apps.ts';
import { spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { within } from '../e2e/harness/wait.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

t.test('connections that wait to be accepted when a port is closed are served', async (t) => {
  const app = await tcpApp(t, echo);
  const leaf = await (await TestCa.create()).leaf(spiffe('shop', 'orders'));
  const { path } = await inboundSidecar(t, app.port, { intercept: 'redirect', leaf });
  const ask = () => ({ address: '127.0.0.1', port: app.port });
  const listeners = new Listeners(path, { bind: '127.0.0.1', reusePort: false, ask });
  t.teardown(() => listeners.close());
  const capture = { outbound: null, inbound: 0, nonce: '' };
  await listeners.listen({ capture, hbone: null, hboneNeeded: false, others: [] });
  const { inbound: port = 0 } = listeners.ports();
  const peers = Array.from({ length: 30 }, () => connect({ port, host: '127.0.0.1' }));
  const echoes = peers.map((peer) => {
    t.teardown(() => peer.destroy());
    peer.write('hello\n');
    return new Promise<string>((resolve) => {
      peer.on('data', (said) => resolve(String(said)));
      peer.on('error', ({ message }) => resolve(message));
    });
  });
  // Node dials behind this: the kernel has answered them before anything else is looked at.
  await new Promise<void>((resolve) => process.nextTick(resolve));
  await listeners.closeInbound();
  const words = await within('the echoes', Promise.all(echoes));
  t.same(
    words,
    words.map(() => 'hello\n'),
  );
  const late = connect({ port, host: '127.0.0.1' });
  t.match(await new Promise((resolve) => late.on('error', resolve)), { code: 'ECONNREFUSED' });
});
