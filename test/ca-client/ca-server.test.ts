/** CreateCertificate over real gRPC and TLS: our client, our server, and every token that should not pass. */

import { generateKeyPairSync } from 'node:crypto';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { SignJWT, UnsecuredJWT } from 'jose';
import t from 'tap';
import { type CaServerOptions, startCaServer } from '../../ca-client/ca-server.ts';
import { openTokenKey, signToken } from '../../ca-client/ca-token.ts';
import { openEmbeddedCa } from '../../ca-client/embedded-ca.ts';
import { istioCaSource } from '../../ca-client/istio-ca.ts';
import { identityOf } from '../../mesh/identity.ts';
import { fileWith, openssl, orders, temporaryFolder } from './helper.ts';

const HOUR = 3_600_000;
const never = new AbortController().signal;
const account = { namespace: 'shop', serviceAccount: 'orders' };

type Tap = Parameters<typeof temporaryFolder>[0];

async function running(t: Tap, more: Partial<CaServerOptions> = {}) {
  const dir = temporaryFolder(t);
  const ca = await openEmbeddedCa({ dir, trustDomain: null });
  const tokenKeys = await openTokenKey(dir);
  const lines: Record<string, unknown>[] = [];
  const log = {
    info: (record: object, message: string) => lines.push({ ...record, message }),
    warn: (record: object, message: string) => lines.push({ ...record, message }),
  };
  const requests = () => lines.filter(({ event }) => event === 'issued' || event === 'refused');
  const listen = { host: '127.0.0.1', port: 0 };
  const server = await startCaServer({ ca, tokenKeys, listen, ttlMs: HOUR, log, ...more });
  t.teardown(() => server.close());
  const address = `127.0.0.1:${server.address.port}`;
  const token = await signToken(tokenKeys, account, HOUR, Date.now());
  const client = (text: string, ttlMs?: number) =>
    istioCaSource({
      address,
      caRootFile: ca.rootFile,
      tokenFile: fileWith(t, text),
      identity: orders,
      ...(ttlMs !== undefined && { ttlMs }),
    });
  return { dir, ca, tokenKeys, lines, requests, address, token, client, port: server.address.port };
}

t.test('a token gets the certificate of the account it names', async (t) => {
  const { client, token, requests, lines, ca, dir } = await running(t);
  const credentials = await client(token).obtain(never);
  t.equal(credentials.identity.uri, 'spiffe://cluster.local/ns/shop/sa/orders');
  t.same(credentials.rootsPem, [ca.rootPem]);
  const { writeFileSync } = await import('node:fs');
  writeFileSync(join(dir, 'leaf.pem'), credentials.chainPem);
  t.match(await openssl('verify', '-CAfile', ca.rootFile, join(dir, 'leaf.pem')), /OK/);
  t.match(requests(), [
    { event: 'issued', identity: credentials.identity.uri, serial: credentials.serial, peer: /127.0.0.1/ },
  ]);
  t.notMatch(JSON.stringify(lines), token.slice(-20), 'no token in the log');
});

t.test('who asks for another identity gets its own, and refuses it', async (t) => {
  const { address, ca, token } = await running(t);
  const identity = identityOf('cluster.local', 'shop', 'payments');
  const client = istioCaSource({ address, caRootFile: ca.rootFile, tokenFile: fileWith(t, token), identity });
  await t.rejects(client.obtain(never), /is for .*orders, but this workload is .*payments/);
});

t.test('validity is bounded by --ttl', async (t) => {
  const { client, token } = await running(t);
  const rows: readonly (readonly [number, number])[] = [
    [24 * HOUR, HOUR],
    [60_000, 60_000],
    [12_000, 12_000],
  ];
  for (const [wish, granted] of rows) {
    const { notAfter } = await client(token, wish).obtain(never);
    t.ok(Math.abs(notAfter - Date.now() - granted) < 6_000, `${wish} ms gets ${notAfter - Date.now()} ms`);
  }
});

t.test('tokens that do not pass', async (t) => {
  const world = await running(t);
  const foreign = await openTokenKey(temporaryFolder(t));
  const now = Date.now();
  const claims = (alg = 'ES256') =>
    new SignJWT()
      .setProtectedHeader({ alg })
      .setIssuer('oarlock-ca')
      .setAudience('istio-ca')
      .setSubject('system:serviceaccount:shop:orders')
      .setExpirationTime('1h');
  const key = world.tokenKeys.privateKey;
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  const unsigned = new UnsecuredJWT({ sub: 'system:serviceaccount:shop:orders' });
  const parts = world.token.split('.');
  const rows: readonly (readonly [string, RegExp, string])[] = [
    ['expired', /the token has expired/, await signToken(world.tokenKeys, account, 1_000, now - 10_000)],
    ['signed by another CA', /not signed by this CA/, await signToken(foreign, account, HOUR, now)],
    ['wrong audience', /claim aud is not/, await claims().setAudience('vault').sign(key)],
    [
      'no audience',
      /claim aud is missing/,
      await new SignJWT({ sub: 'system:serviceaccount:a:b' })
        .setProtectedHeader({ alg: 'ES256' })
        .setIssuer('oarlock-ca')
        .setExpirationTime('1h')
        .sign(key),
    ],
    [
      'wrong issuer',
      /claim iss is not/,
      await claims().setIssuer('https://kubernetes.default.svc').sign(key),
    ],
    [
      'no expiry',
      /claim exp is missing/,
      await new SignJWT({ sub: 'system:serviceaccount:a:b' })
        .setProtectedHeader({ alg: 'ES256' })
        .setIssuer('oarlock-ca')
        .setAudience('istio-ca')
        .sign(key),
    ],
    ['another subject', /names no service account/, await claims().setSubject('admin').sign(key)],
    [
      'a subject that climbs',
      /names no service account/,
      await claims().setSubject('system:serviceaccount:a:b/../c').sign(key),
    ],
    [
      'one part too many',
      /names no service account/,
      await claims().setSubject('system:serviceaccount:a:b:c').sign(key),
    ],
    [
      'alg none',
      /not signed with ES256|not a signed JWT/,
      unsigned.setIssuer('oarlock-ca').setAudience('istio-ca').setExpirationTime('1h').encode(),
    ],
    ['another algorithm', /not signed with ES256/, await claims('RS256').sign(rsa)],
    [
      'claims changed',
      /not signed by this CA/,
      [parts[0], Buffer.from('{"sub":"x"}').toString('base64url'), parts[2]].join('.'),
    ],
    ['no signature', /not signed by this CA|not a signed JWT/, `${parts[0]}.${parts[1]}.`],
    ['garbage', /not a signed JWT/, 'garbage'],
    ['dots', /not a signed JWT/, '..'],
  ];
  for (const [title, words, token] of rows) {
    const error: Error = await world
      .client(token)
      .obtain(never)
      .then(
        () => t.fail(title),
        (reason) => reason,
      );
    t.match(error.message, /UNAUTHENTICATED/, title);
    t.match(error.message, words, title);
  }
  t.equal(world.requests().length, rows.length);
  for (const line of world.requests())
    t.match(line, { event: 'refused', status: 'UNAUTHENTICATED', reason: String });
  t.equal(
    (await world.client(world.token).obtain(never)).identity.uri,
    orders.uri,
    'the good one still passes',
  );
});

t.test('metadata that is no bearer token', async (t) => {
  const world = await running(t);
  const { loadGrpc } = await import('../../ca-client/grpc.ts');
  const { CREATE_CERTIFICATE, decodeResponse, encodeRequest } = await import(
    '../../ca-client/istio-ca-proto.ts'
  );
  const grpc = await loadGrpc();
  const client = new grpc.Client(
    `localhost:${world.port}`,
    grpc.credentials.createSsl(Buffer.from(world.ca.rootPem)),
  );
  t.teardown(() => client.close());
  const call = (
    values: readonly string[],
    csr = 'x',
    bytes = encodeRequest({ csr, validityDuration: 0 }),
  ) => {
    const metadata = new grpc.Metadata();
    for (const value of values) metadata.add('authorization', value);
    return new Promise<string>((resolve) => {
      client.makeUnaryRequest(
        CREATE_CERTIFICATE,
        () => bytes,
        decodeResponse,
        null,
        metadata,
        (error) => resolve(error === null ? 'OK' : `${grpc.status[error.code]}: ${error.details}`),
      );
    });
  };
  t.match(await call([]), /^UNAUTHENTICATED: no bearer token/);
  t.match(await call(['Basic abc']), /^UNAUTHENTICATED: .*not one bearer token/);
  t.match(await call([`Bearer ${world.token}`]), /^INVALID_ARGUMENT: the CSR is not one PEM block/);
  t.match(
    await call([`Bearer ${world.token}`], 'x', Buffer.from('0aff01', 'hex')),
    /^INTERNAL/,
    'no protobuf',
  );
  t.match(await call([`Bearer ${world.token}`], 'x'.repeat(100_000)), /^RESOURCE_EXHAUSTED/, 'too long');
});

t.test('the server renews its own certificate without a pause', async (t) => {
  const world = await running(t, { serverTtlMs: 4_000 });
  const serial = () =>
    new Promise<string>((resolve, reject) => {
      const socket = connect(
        { port: world.port, host: '127.0.0.1', ca: world.ca.rootPem, ALPNProtocols: ['h2'] },
        () => {
          resolve(socket.getPeerCertificate().serialNumber);
          socket.destroy();
        },
      );
      socket.on('error', reject);
    });
  const seen = new Set<string>();
  const end = Date.now() + 30_000;
  while (seen.size < 3 && Date.now() < end) {
    seen.add(await serial());
    await world.client(world.token).obtain(never);
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  t.equal(seen.size, 3, 'three certificates, each valid when asked');
});

t.test('an address in use is a clear error', async (t) => {
  const { port } = await running(t);
  await t.rejects(running(t, { listen: { host: '127.0.0.1', port } }), {
    message: /cannot listen on 127.0.0.1:.*EADDRINUSE/,
  });
});
