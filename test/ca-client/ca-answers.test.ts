/** What the embedded CA's server says beside the certificate: the chain's order, its clock, when to ask again. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Metadata } from '@grpc/grpc-js';
import t from 'tap';
import { type CaServerOptions, startCaServer } from '../../ca-client/ca-server.ts';
import { openTokenKey, signToken } from '../../ca-client/ca-token.ts';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { loadGrpc } from '../../ca-client/grpc.ts';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import { CREATE_CERTIFICATE, decodeResponse, encodeRequest } from '../../ca-client/istio-ca-proto.ts';
import { makeRequest } from '../../ca-client/request.ts';
import { HOUR } from './ca-world.ts';
import { openssl, orders, temporaryFolder } from './helper.ts';

const shopOrders = { namespace: 'shop', serviceAccount: 'orders' };

type Tap = Parameters<typeof temporaryFolder>[0];

interface Reply {
  readonly status: string;
  readonly certificates: readonly string[];
  readonly initial: Metadata | null;
  readonly trailers: Metadata | null;
}

async function world(
  t: Tap,
  more: Partial<CaServerOptions> & { readonly rootDir?: string } = {},
): Promise<{ dir: string; address: string; call: (account?: string, csr?: string) => Promise<Reply> }> {
  const dir = temporaryFolder(t);
  const { rootDir = null, ...options } = more;
  const ca = await openEmbeddedCa({ dir, rootDir, trustDomain: null });
  const tokenKeys = await openTokenKey(dir);
  const log = { info: () => {}, warn: () => {} };
  const listen = { host: '127.0.0.1', port: 0 };
  const server = await startCaServer({ ca, tokenKeys, listen, ttlMs: HOUR, log, ...options });
  t.teardown(() => server.close());
  const grpc = await loadGrpc();
  const secure = grpc.credentials.createSsl(Buffer.from(ca.rootPem));
  const client = new grpc.Client(`localhost:${server.address.port}`, secure);
  t.teardown(() => client.close());
  const { csrPem } = await makeRequest(orders);

  async function call(account = 'orders', csr = csrPem): Promise<Reply> {
    const now = (options.now ?? Date.now)();
    const token = await signToken(tokenKeys, { namespace: 'shop', serviceAccount: account }, HOUR, now);
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    return new Promise((resolve) => {
      let initial: Metadata | null = null;
      let reply = { status: '', certificates: [] as readonly string[] };
      const request = { csr, validityDuration: 0 };
      client
        .makeUnaryRequest(
          CREATE_CERTIFICATE,
          encodeRequest,
          decodeResponse,
          request,
          metadata,
          (error, response) => {
            reply = {
              status: error === null ? 'OK' : `${grpc.status[error.code]}: ${error.details}`,
              certificates: response?.certChain ?? [],
            };
          },
        )
        .on('metadata', (found: Metadata) => {
          initial = found;
        })
        .on('status', ({ metadata: trailers }) =>
          setImmediate(() => resolve({ ...reply, initial, trailers })),
        );
    });
  }
  return { dir, address: `127.0.0.1:${server.address.port}`, call };
}

t.test('leaf, intermediate, root: one certificate each, in Istio’s order', async (t) => {
  const rootDir = join(temporaryFolder(t), 'root');
  const { dir, call } = await world(t, { rootDir });
  const { status, certificates } = await call();
  t.equal(status, 'OK');
  t.equal(certificates.length, 3);
  const [leaf = '', intermediate = '', root = ''] = certificates;
  t.equal(intermediate, readFileSync(join(dir, 'ca-cert.pem'), 'utf8'));
  t.equal(root, readFileSync(join(rootDir, 'root-cert.pem'), 'utf8'));
  for (const [name, text] of Object.entries({ leaf, intermediate, root }))
    writeFileSync(join(dir, name), text);
  const files = ['-CAfile', join(dir, 'root'), '-untrusted', join(dir, 'intermediate'), join(dir, 'leaf')];
  t.match(await openssl('verify', '-x509_strict', '-purpose', 'sslclient', ...files), /leaf: OK/);
});

t.test('each answer tells the CA’s time', async (t) => {
  const past = Date.UTC(2026, 0, 2, 3, 4, 5);
  const { call } = await world(t, { now: () => past });
  const good = await call();
  t.same(good.initial?.get('date'), ['Fri, 02 Jan 2026 03:04:05 GMT']);
  const bad = await call('orders', 'no CSR');
  t.match(bad.status, /^INVALID_ARGUMENT/);
  t.same(bad.initial?.get('date'), ['Fri, 02 Jan 2026 03:04:05 GMT'], 'with a refusal too');
});

t.test('who asks too often is told when to ask again', async (t) => {
  const { dir, call } = await world(t, { maxRate: { count: 2, periodMs: 60_000 } });
  t.equal((await call()).status, 'OK');
  t.equal((await call()).status, 'OK');
  const refused = await call();
  t.match(
    refused.status,
    /^RESOURCE_EXHAUSTED: spiffe:.*\/sa\/orders asks for certificates too often: 2 in 60000 ms/,
  );
  const [wait] = refused.trailers?.get('grpc-retry-pushback-ms') ?? [];
  t.match(wait, /^\d+$/);
  t.ok(Number(wait) > 25_000 && Number(wait) <= 60_000, `${wait} ms`);
  t.equal((await call('web')).status, 'OK', 'another account is not concerned');
  const log = readFileSync(join(dir, 'issued.jsonl'), 'utf8');
  t.match(log, /"event":"refused".*"status":"RESOURCE_EXHAUSTED".*"account":"shop\/orders"/);
});

t.test('our own client hears both: the clock, and when to ask again', async (t) => {
  const ahead = 90_000;
  const { dir, address } = await world(t, {
    now: () => Date.now() + ahead,
    maxRate: { count: 1, periodMs: 60_000 },
  });
  const tokenFile = join(dir, 'token');
  const token = await signToken(await openTokenKey(dir), shopOrders, HOUR, Date.now() + ahead);
  writeFileSync(tokenFile, token);
  const caRootFile = join(dir, 'root-cert.pem');
  const source = istioCaSource({ address, caRootFile, tokenFile, identity: orders });
  const { signal } = new AbortController();
  const { clockSkewMs } = await source.obtain(signal);
  t.ok(Math.abs((clockSkewMs ?? 0) + ahead) < 5_000, `we are behind: ${clockSkewMs} ms`);
  const refused = await source.obtain(signal).then(
    () => null,
    (error) => error,
  );
  t.match(refused, { name: 'CredentialsError', message: /RESOURCE_EXHAUSTED/ });
  t.ok(refused.retryAfterMs > 50_000 && refused.retryAfterMs <= 121_000, `${refused.retryAfterMs} ms`);
});

t.test('all together have a bound', async (t) => {
  const { call } = await world(t, { maxTotalRate: { count: 2, periodMs: 60_000 } });
  const replies = [await call('a'), await call('b'), await call('c')];
  t.match(
    replies.map(({ status }) => status),
    ['OK', 'OK', /^RESOURCE_EXHAUSTED: all together ask/],
  );
});

t.test('many at once: each is answered, with a certificate or with when to ask again', async (t) => {
  const day = 86_400_000;
  const maxTotalRate = { count: 1_000, periodMs: day };
  const { call } = await world(t, { maxRate: { count: 200, periodMs: day }, maxTotalRate });
  const replies = await Promise.all(Array.from({ length: 250 }, () => call()));
  const counts = new Map<string, number>();
  for (const { status } of replies) {
    const word = status.split(':')[0] ?? '';
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  t.same(Object.fromEntries(counts), { OK: 200, RESOURCE_EXHAUSTED: 50 });
});
