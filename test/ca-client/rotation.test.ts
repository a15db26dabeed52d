/** Keeper, client and CA together in real time: short certificates are renewed, and a CA that is down costs nothing. */
import t from 'tap';
import { type CaServer, startCaServer } from '../../ca-client/ca-server.ts';
import { openTokenKey, signToken } from '../../ca-client/ca-token.ts';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import { CredentialKeeper } from '../../ca-client/keeper.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { fileWith, orders, temporaryFolder } from './helper.ts';

const silent = { info: () => {}, warn: () => {} };

t.test('certificates of six seconds, and a CA that goes away and comes back', async (t) => {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const tokenKeys = await openTokenKey(dir);
  const serve = (port: number) =>
    startCaServer({ ca, tokenKeys, listen: { host: '127.0.0.1', port }, ttlMs: 6_000, log: silent });
  let server: CaServer = await serve(0);
  t.teardown(() => server.close());
  const { port } = server.address;
  const token = await signToken(
    tokenKeys,
    { namespace: 'shop', serviceAccount: 'orders' },
    60_000,
    Date.now(),
  );
  const sets: Credentials[] = [];
  const failures: string[] = [];
  const keeper = new CredentialKeeper({
    source: istioCaSource({
      address: `127.0.0.1:${port}`,
      caRootFile: ca.rootFile,
      tokenFile: fileWith(t, token),
      identity: orders,
    }),
    onCredentials: (credentials) => sets.push(credentials),
    onFailure: ({ message }) => failures.push(message),
  });
  t.teardown(() => keeper.stop());
  keeper.start();
  const until = async (done: () => boolean) => {
    const end = Date.now() + 40_000;
    while (!done() && Date.now() < end) {
      if (sets.length > 0 && keeper.expired) t.fail('expired while the CA was there');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return done();
  };
  t.ok(await until(() => sets.length === 3), 'renewed twice');
  t.equal(new Set(sets.map(({ keyPem }) => keyPem)).size, 3, 'a new key each time');
  t.same(failures, []);

  await server.close();
  t.ok(await until(() => failures.length >= 1), 'the CA is missed');
  t.equal(keeper.current, sets.at(-1), 'the last set is kept');
  server = await serve(port);
  const had = sets.length;
  t.ok(await until(() => sets.length > had), 'and renewed once it is back');
  t.match(keeper.state, { failures: 0, lastError: null, identity: orders.uri });
});
