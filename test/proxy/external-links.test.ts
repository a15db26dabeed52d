/** Connections to servers outside the mesh: they end with the server's certificate, and our trust says nothing of them. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:tls';
import t, { type Test } from 'tap';
import type { RouteTls } from '../../mesh/route.ts';
import { dial, type Upstream } from '../../proxy/dial.ts';
import { listen } from '../e2e/harness/apps.ts';
import { type Leaf, spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { until, within } from '../e2e/harness/wait.ts';
import { credentialsOf } from './inbound-sidecar.ts';
import { type Scene, target, webPath } from './web-path.ts';

t.setTimeout(60_000);

const ca = await TestCa.create();
const ours = await ca.leaf(spiffe('shop', 'web'));

/** A server that holds its connections open, and one of ours to it. */
async function reach(t: Test, { path }: Scene, leaf: Leaf, more: Partial<RouteTls> = {}): Promise<Upstream> {
  const { cert, key } = leaf;
  const server = createServer({ cert, key }, (socket) => socket.on('error', () => {}).resume());
  const { port } = await listen(t, server);
  const upstream = await new Promise<Upstream>((connected, failed) => {
    dial(path, target(port, 'SIMPLE', more), {
      connected,
      failed: (reason, detail) => failed(new Error(`${reason} ${detail}`)),
    });
  });
  upstream.stream.on('error', () => {}).resume();
  t.teardown(() => upstream.abort());
  return upstream;
}

t.test('takes nothing new before the end of the certificate, and is closed at it', async (t) => {
  const leaf = await ca.leaf(null, { dns: ['orders.example'], to: 4_000 });
  const notAfter = new X509Certificate(leaf.cert).validToDate.getTime();
  const web = webPath(t, ours);
  const upstream = await reach(t, web, leaf);
  const closed = once(upstream.stream, 'close');
  await within('its retirement', once(upstream.stream, 'leaving'));
  t.ok(Date.now() < notAfter && !upstream.stream.destroyed);
  t.ok(upstream.leaving);
  await within('its end', closed);
  t.ok(Date.now() >= notAfter - 50);
  t.match(upstream.broken, { reason: 'peer_expired', message: /^DNS:orders\.example was valid until/ });
  await until('nobody to be registered', () => web.path.links.size === 0);
});

t.test("our mesh's trust judges nobody outside it, and no page of the mesh has them", async (t) => {
  const web = webPath(t, ours);
  const upstream = await reach(t, web, await ca.leaf(null, { dns: ['orders.example'] }));
  t.equal(web.path.links.size, 1);
  t.same(web.path.links.list(), []);
  const others = await TestCa.create('O=another');
  web.path.applyCredentials(credentialsOf(await others.leaf(spiffe('shop', 'web'))));
  t.notOk(upstream.stream.destroyed);
});

t.test('insecureSkipVerify looks at no certificate, and at no end of one', async (t) => {
  const web = webPath(t, ours);
  const over = await ca.leaf(null, { dns: ['other.example'], from: -7_200_000, to: -3_600_000 });
  await reach(t, web, over, { insecureSkipVerify: true });
  t.equal(web.path.links.size, 0);
});
