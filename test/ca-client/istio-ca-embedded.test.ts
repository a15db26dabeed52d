/** The client of Istio's CA and our own CA together: what one sends beside certificates, the other understands. */
import { X509Certificate } from 'node:crypto';
import t from 'tap';
import { type CaServerOptions, startCaServer } from '../../ca-client/ca-server.ts';
import { openTokenKey, signToken } from '../../ca-client/ca-token.ts';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { type IstioCaOptions, istioCaSource } from '../../ca-client/istio-ca.ts';
import { KEY_TYPES } from '../../ca-client/keys.ts';
import { type CredentialSource, CredentialsError } from '../../ca-client/source.ts';
import { fileWith, orders, temporaryFolder } from './helper.ts';

const HOUR = 3_600_000;
const never = new AbortController().signal;
const silent = { info: () => {}, warn: () => {} };
type Tap = Parameters<typeof temporaryFolder>[0];

/** A running CA whose clock is `ahead` of ours, and a client of it. */
async function together(
  t: Tap,
  { ahead = 0, ...more }: Partial<CaServerOptions> & { readonly ahead?: number } = {},
): Promise<(options?: Partial<IstioCaOptions>) => CredentialSource> {
  const dir = temporaryFolder(t);
  const now = () => Date.now() + ahead;
  const ca = await openEmbeddedCa({ dir, trustDomain: null, now });
  const tokenKeys = await openTokenKey(dir);
  const listen = { host: '127.0.0.1', port: 0 };
  const server = await startCaServer({ ca, tokenKeys, listen, ttlMs: HOUR, log: silent, now, ...more });
  t.teardown(() => server.close());
  const account = { namespace: 'shop', serviceAccount: 'orders' };
  const tokenFile = fileWith(t, await signToken(tokenKeys, account, HOUR, now()));
  const address = `127.0.0.1:${server.address.port}`;
  return (options) =>
    istioCaSource({ address, caRootFile: ca.rootFile, tokenFile, identity: orders, ...options });
}

function refusalOf(source: CredentialSource): Promise<CredentialsError> {
  return source.obtain(never).then(
    () => {
      throw new Error('it was answered');
    },
    (error: unknown) => {
      if (error instanceof CredentialsError) return error;
      throw error;
    },
  );
}

t.test('every type of key is certified', async (t) => {
  const client = await together(t);
  for (const keyType of KEY_TYPES) {
    const { chainPem, identity } = await client({ keyType }).obtain(never);
    const { asymmetricKeyType } = new X509Certificate(chainPem).publicKey;
    t.equal(asymmetricKeyType, keyType.startsWith('RSA') ? 'rsa' : 'ec', keyType);
    t.equal(identity.uri, orders.uri);
  }
});

t.test('the clocks are compared, though the CA grants less than was asked', async (t) => {
  for (const ahead of [0, 40_000, -40_000]) {
    const client = await together(t, { ahead });
    const { clockSkewMs } = await client({ ttlMs: 24 * HOUR }).obtain(never);
    t.ok(clockSkewMs !== null && Math.abs(clockSkewMs + ahead) < 3_000, `${ahead}: ${clockSkewMs}`);
  }
});

t.test('clocks hours apart are named in refusals', async (t) => {
  const early = await together(t, { ahead: 2 * HOUR });
  const notYet =
    /UNAVAILABLE: .*not yet valid.*own certificate is not valid now: .* set this machine's clock$/;
  t.match((await refusalOf(early())).message, notYet);
  const late = await together(t, { ahead: -2 * HOUR });
  const tokenFile = fileWith(t, 'not.a.token');
  const refused = /UNAUTHENTICATED: .*; this machine's clock is 7\d{3} s ahead of the CA's$/;
  t.match((await refusalOf(late({ tokenFile }))).message, refused);
});

t.test('a CA that is asked too often says when to ask again', async (t) => {
  const client = await together(t, { maxRate: { count: 2, periodMs: 60_000 } });
  await client().obtain(never);
  await client().obtain(never);
  const { message, retryAfterMs } = await refusalOf(client());
  t.match(message, /^CA 127.0.0.1:\d+: RESOURCE_EXHAUSTED: /);
  t.ok(retryAfterMs !== null && retryAfterMs > 0 && retryAfterMs <= 120_000, `${retryAfterMs}`);
});
