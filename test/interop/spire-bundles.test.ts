/** A real SPIRE server's bundle, from its bundle endpoint: read before and while a new root is prepared. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { get } from 'node:https';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { readSpiffeBundle, type SpiffeBundle } from '../../providers/spiffe-bundle.ts';
import { until } from '../e2e/harness/wait.ts';
import { needSpire, SpireServer } from './spire-world.ts';

t.setTimeout(120_000);
needSpire(t);

/** Its certificate is an SVID: for this profile (https_spiffe) no name of a host is in it. */
async function bundleOf({ bundleEndpoint }: SpireServer): Promise<SpiffeBundle> {
  const request = get(bundleEndpoint, { rejectUnauthorized: false, agent: false });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return readSpiffeBundle(await text(response));
}

t.test('one root, then two', async (t) => {
  const server = await SpireServer.start(t, 'one.test');
  const first = await bundleOf(server);
  t.equal(first.roots.length, 1);
  const [root] = first.roots.map((pem) => new X509Certificate(pem));
  t.match(root?.subjectAltName, 'URI:spiffe://one.test');
  t.ok(root?.ca);
  t.equal(first.refreshMs, 300_000, "SPIRE's default hint of five minutes");
  await server.prepareRoot();
  await until('the endpoint to have the new root', async () => (await bundleOf(server)).roots.length === 2);
  const second = await bundleOf(server);
  t.ok(second.roots.includes(first.roots[0] ?? ''), 'the first is still there');
  t.ok((second.sequence ?? 0) > (first.sequence ?? 0), 'and the sequence has grown');
});
