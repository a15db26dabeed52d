/** What one answer of a Workload API is turned into, and everything that is refused, with the reason. */
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { workloadApiSource } from '../../ca-client/workload-api.ts';
import type { X509Svid } from '../../ca-client/workload-api-proto.ts';
import { identityOf } from '../../mesh/identity.ts';
import { makeCertificate, temporaryFolder } from './helper.ts';
import {
  type Behaviour,
  bundlesMessage,
  INTERNAL,
  INVALID_ARGUMENT,
  OK,
  PERMISSION_DENIED,
  RESOURCE_EXHAUSTED,
  svidMessage,
  TrustDomain,
  UNAVAILABLE,
  UNIMPLEMENTED,
  WorkloadApiServer,
} from './workload-api-server.ts';

const never = new AbortController().signal;
const one = await TrustDomain.create('one.test');
const two = await TrustDomain.create('two.test');
const PATH = '/ns/shop/sa/orders';
const orders = identityOf('one.test', 'shop', 'orders');
const good = await one.svid(PATH);

async function obtain(
  t: Parameters<typeof WorkloadApiServer.start>[0],
  svids: Behaviour,
  more: Partial<Parameters<typeof workloadApiSource>[0]> = {},
) {
  const server = await WorkloadApiServer.start(t);
  server.svids = svids;
  return workloadApiSource({ socket: server.path, identity: orders, deadlineMs: 5_000, ...more }).obtain(
    never,
  );
}

t.test('an SVID becomes credentials', async (t) => {
  const middle = await makeCertificate({ ca: true, issuer: one.root });
  const newRoot = await makeCertificate({ ca: true });
  const svid = { ...(await one.svid(PATH, { middle })), bundle: Buffer.concat([one.root.der, newRoot.der]) };
  const federatedBundles = new Map([
    ['spiffe://two.test', two.root.der],
    ['spiffe://three.test', new Uint8Array()],
    ['spiffe://a.test', Buffer.concat([newRoot.der, two.root.der])],
  ]);
  const credentials = await obtain(t, svidMessage([svid], { federatedBundles }));
  t.equal(credentials.identity.uri, orders.uri);
  t.match(credentials.origin, /^workload API .*agent\.sock$/);
  t.match(credentials.keyPem, /^-----BEGIN PRIVATE KEY-----\n/);
  t.equal(credentials.chainPem.match(/BEGIN/g)?.length, 2, 'the leaf and its intermediate');
  t.same(credentials.rootsPem.map(trimmed), [one.root.pem, newRoot.pem].map(trimmed));
  t.same(
    credentials.federated.map(({ trustDomain, rootsPem }) => [trustDomain, rootsPem.map(trimmed)]),
    [
      ['a.test', [newRoot.pem, two.root.pem].map(trimmed)],
      ['three.test', []],
      ['two.test', [trimmed(two.root.pem)]],
    ],
    'an emptied bundle is one of nobody, and stands for its trust domain all the same',
  );
});

t.test('the metadata that every request must carry', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = svidMessage([good]);
  await workloadApiSource({ socket: `unix://${server.path}`, identity: orders }).obtain(never);
  t.equal(server.opened.svids, 1, 'and the server would have refused it else');
});

t.test('over TCP', async (t) => {
  const server = await WorkloadApiServer.start(t, '127.0.0.1:0');
  server.svids = svidMessage([good]);
  const source = workloadApiSource({ socket: `tcp://127.0.0.1:${server.port}`, identity: orders });
  t.equal((await source.obtain(never)).origin, `workload API 127.0.0.1:${server.port}`);
});

t.test('which of several SVIDs', async (t) => {
  const offered = [
    await one.svid('/first'),
    await one.svid(PATH, { hint: 'internal' }),
    await two.svid('/edge', { hint: 'external' }),
    await one.svid('/second', { hint: 'external' }),
  ];
  const message = svidMessage(offered);
  for (const [title, choice, outcome] of [
    ['the first by default', { identity: null }, 'spiffe://one.test/first'],
    ['the preferred before the first', { identity: null, preferred: orders }, orders.uri],
    [
      'the first, where the preferred is not offered',
      { identity: null, preferred: identityOf('one.test', 'shop', 'payments') },
      'spiffe://one.test/first',
    ],
    [
      'by hint, whatever is preferred',
      { identity: null, preferred: orders, hint: 'external' },
      'spiffe://two.test/edge',
    ],
    ['ours', { identity: orders }, orders.uri],
    ['by hint, adopted', { identity: null, hint: 'internal' }, orders.uri],
    ['of the same hint the first', { identity: null, hint: 'external' }, 'spiffe://two.test/edge'],
    ['by hint, and ours', { identity: orders, hint: 'internal' }, orders.uri],
    [
      'by hint, and not ours',
      { identity: orders, hint: 'external' },
      /with the hint "external" is spiffe:\/\/two\.test\/edge, but this workload is spiffe:\/\/one/,
    ],
    ['by ID', { identity: null, spiffeId: 'spiffe://one.test/second' }, 'spiffe://one.test/second'],
    ['by path', { identity: null, spiffeId: '/edge' }, 'spiffe://two.test/edge'],
    ['by half a path', { identity: null, spiffeId: '/ns/shop' }, /no SVID for the path \/ns\/shop, but/],
    [
      'none with that hint',
      { identity: null, hint: 'admin' },
      /no SVID with the hint "admin", but spiffe:\/\/one\.test\/first, spiffe:\/\/one\.test\/ns\/shop\/sa\/orders \(hint "internal"\), .*\/second \(hint "external"\); check/,
    ],
    [
      'none of ours',
      { identity: identityOf('one.test', 'shop', 'payments') },
      /no SVID for spiffe:\/\/one\.test\/ns\/shop\/sa\/payments, but spiffe:\/\/one\.test\/first/,
    ],
    ['none with that ID', { identity: null, spiffeId: 'spiffe://x/y' }, /no SVID for spiffe:\/\/x\/y, but/],
  ] as const) {
    const answer = obtain(t, message, choice);
    if (typeof outcome === 'string') t.equal((await answer).identity.uri, outcome, title);
    else await t.rejects(answer, { name: 'CredentialsError', message: outcome }, title);
  }
  const { federated } = await obtain(t, message);
  t.same(
    federated.map(({ trustDomain, rootsPem }) => [trustDomain, rootsPem.length]),
    [['two.test', 1]],
    "another SVID's bundle vouches for its trust domain",
  );
});

t.test('many SVIDs are not all named', async (t) => {
  const many = Array.from({ length: 40 }, (_, i) => ({ ...good, spiffeId: `spiffe://one.test/${i}` }));
  await t.rejects(obtain(t, svidMessage(many)), { message: /one\.test\/9 and 30 more; check/ });
});

t.test('bundles of a thousand trust domains at most', async (t) => {
  const names = Array.from({ length: 1_005 }, (_, i) => [`spiffe://${i}.test`, two.root.der] as const);
  const { federated } = await obtain(t, svidMessage([good], { federatedBundles: new Map(names) }));
  t.equal(federated.length, 1_000);
});

t.test('messages that are refused', async (t) => {
  const other = await one.svid(PATH);
  const from = async (wish: object) => ({ ...(await one.svid(PATH, wish)) });
  const rows: readonly (readonly [string, RegExp, readonly X509Svid[]])[] = [
    ['no SVID', /X509SVIDResponse has no SVID/, []],
    ['no SPIFFE ID', /an SVID for "", which is no SPIFFE ID/, [{ ...good, spiffeId: '' }]],
    [
      'another kind of ID',
      /an SVID for "https:\/\/x\/y", which is no SPIFFE ID/,
      [{ ...good, spiffeId: 'https://x/y' }],
    ],
    ['no chain', /has an empty x509_svid$/, [{ ...good, chain: Buffer.alloc(0) }]],
    ['no key', /has an empty x509_svid_key$/, [{ ...good, key: Buffer.alloc(0) }]],
    ['no bundle', /has an empty bundle$/, [{ ...good, bundle: Buffer.alloc(0) }]],
    ['another SVID without a key', /has an empty x509_svid_key$/, [good, { ...other, key: Buffer.alloc(0) }]],
    [
      'garbage for a chain',
      /x509_svid is not made of whole DER/,
      [{ ...good, chain: Buffer.from('garbage') }],
    ],
    [
      'PEM for a chain',
      /x509_svid is not made of whole DER/,
      [{ ...good, chain: Buffer.from(one.root.pem) }],
    ],
    [
      'half a certificate',
      /x509_svid is not made of whole DER/,
      [{ ...good, chain: good.chain.slice(0, 200) }],
    ],
    [
      'a byte too many',
      /x509_svid is not made of whole DER/,
      [{ ...good, chain: Buffer.concat([good.chain, Buffer.of(0)]) }],
    ],
    [
      'garbage of the right length',
      /x509_svid has a certificate that cannot be read/,
      [{ ...good, chain: Buffer.concat([Buffer.of(0x30, 0x81, 0x80), Buffer.alloc(128, 1)]) }],
    ],
    [
      'garbage for a bundle',
      /its bundle is not made of whole DER/,
      [{ ...good, bundle: Buffer.from('garbage') }],
    ],
    [
      'a bundle too long',
      /its bundle has more than 256 cert/,
      [{ ...good, bundle: Buffer.concat(new Array(257).fill(one.root.der)) }],
    ],
    ['garbage for a key', /a key that is no unencrypted PKCS#8$/, [{ ...good, key: Buffer.from('secret') }]],
    ['a key of another', /private key is not the certificate's/, [{ ...good, key: other.key }]],
    [
      'a certificate for another',
      /certificate is for spiffe:\/\/one\.test\/other, but/,
      [{ ...(await one.svid('/other')), spiffeId: orders.uri }],
    ],
    ['expired', /expired at .*clock/, [await from({ from: -600, until: -5 })]],
    ['not yet valid', /not valid before .*clocks/, [await from({ from: 120 })]],
    ["another's bundle", /does not lead to any of the roots/, [{ ...good, bundle: two.root.der }]],
    ['a bundle that is no CA', /does not lead to any of the roots/, [{ ...good, bundle: good.chain }]],
    [
      'a chain in the wrong order',
      /is a CA's/,
      [{ ...good, chain: Buffer.concat([one.root.der, good.chain]) }],
    ],
  ];
  for (const [title, words, svids] of rows) {
    await t.rejects(obtain(t, svidMessage(svids)), { name: 'CredentialsError', message: words }, title);
  }
  await t.rejects(obtain(t, svidMessage([])), {
    message: /^workload API .*agent\.sock: what it pushed is refused: /,
  });
  for (const [title, bytes] of [
    ['garbage', Buffer.from('garbage, no protobuf')],
    ['a message cut off', svidMessage([good]).subarray(0, 300)],
    ['a field that ends beyond the message', Buffer.of(0x0a, 0x7f, 0x01)],
  ] as const) {
    await t.rejects(obtain(t, bytes), { message: /agent\.sock: its message is no protobuf: / }, title);
  }
  const error = await obtain(t, svidMessage([{ ...good, key: Buffer.from('my-secret') }])).catch(String);
  t.notMatch(error, /secret/, 'no word of a key in the error');
});

t.test('agents that refuse, fail or hang', async (t) => {
  for (const [title, behaviour, words, retryAfterMs] of [
    [
      'no entry',
      PERMISSION_DENIED,
      /PERMISSION_DENIED: as told; no registration entry fits.*unix:uid:\d/,
      null,
    ],
    ['not the header', INVALID_ARGUMENT, /INVALID_ARGUMENT: .*metadata workload\.spiffe\.io/, 300_000],
    ['another service', UNIMPLEMENTED, /UNIMPLEMENTED: .*is that a Workload API\?/, 300_000],
    ['not ready', UNAVAILABLE, /UNAVAILABLE: as told; check that the agent runs/, null],
    ['its limit', RESOURCE_EXHAUSTED, /RESOURCE_EXHAUSTED: as told; it limits our calls/, null],
    ['broken', INTERNAL, /INTERNAL: as told$/, null],
    ['an end without an answer', OK, /ended the stream$/, null],
    [
      'more than 4 MiB',
      svidMessage([{ ...good, hint: 'x'.repeat(4_194_304) }]),
      /RESOURCE_EXHAUSTED: .*too long/,
      null,
    ],
  ] as const) {
    await t.rejects(obtain(t, behaviour), { name: 'CredentialsError', message: words, retryAfterMs }, title);
  }
  await t.rejects(obtain(t, 'hang', { deadlineMs: 50 }), {
    message: /gave no answer within 0\.05 s; does the agent hang/,
  });
});

t.test('what is no agent at all', async (t) => {
  const dir = temporaryFolder(t);
  const ask = (socket: string) =>
    workloadApiSource({ socket, identity: orders, deadlineMs: 300 }).obtain(never);
  await t.rejects(ask(join(dir, 'absent.sock')), {
    message: /the socket is not there \(yet\); start the agent/,
  });
  await t.rejects(ask(dir), { message: /UNAVAILABLE: .*check that the agent runs/ }, 'a folder');
  for (const [name, onConnection, words] of [
    ['closes', (socket: Socket) => socket.destroy(), /UNAVAILABLE|gave no answer/],
    [
      'http1',
      (socket: Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'),
      /UNAVAILABLE|INTERNAL|gave no answer/,
    ],
    [
      'noise',
      (socket: Socket) => socket.write(Buffer.alloc(65_536, 0xa5)),
      /UNAVAILABLE|INTERNAL|gave no answer/,
    ],
    ['silence', () => {}, /gave no answer within 0\.3 s/],
  ] as const) {
    const path = join(dir, name);
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => {});
      onConnection(socket);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    await t.rejects(ask(path), { name: 'CredentialsError', message: words }, name);
  }
});

t.test('an obtain that is aborted settles at once, and leaves nothing open', async (t) => {
  const server = await WorkloadApiServer.start(t);
  const source = workloadApiSource({ socket: server.path, identity: orders });
  const stop = new AbortController();
  const opened = server.nextStream('svids');
  const pending = source.obtain(stop.signal);
  await opened;
  const closed = server.noStreams();
  stop.abort(new Error('enough'));
  await t.rejects(pending, { message: 'enough' });
  await closed;
  await t.rejects(source.obtain(AbortSignal.abort(new Error('before'))), { message: 'before' });
  t.equal(server.opened.svids, 1, 'the second was not even asked');
});

t.test('an obtain that nobody watches closes its streams', async (t) => {
  const server = await WorkloadApiServer.start(t);
  server.svids = svidMessage([good]);
  server.bundles = bundlesMessage({ 'one.test': one.root.der });
  await workloadApiSource({ socket: server.path, identity: orders }).obtain(never);
  await server.noStreams();
  t.pass();
});

function trimmed(pem: string): string {
  return pem.replace(/\s/g, '');
}
