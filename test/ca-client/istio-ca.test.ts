/** The client of Istio's CA against CAs that refuse, hang or are not who they should be. */
import { writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import t from 'tap';
import type { IstioCaOptions } from '../../ca-client/istio-ca.ts';
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
} from '../../ca-client/istio-ca-proto.ts';
import {
  clientOf,
  embeddedCa,
  fileWith,
  makeCertificate,
  orders,
  type Scene,
  scene,
  scriptedCa,
} from './helper.ts';

const HOUR = 3_600_000;
const never = new AbortController().signal;
type Teardown = Parameters<typeof fileWith>[0];

t.test('statuses are named, with what to do', async (t) => {
  const rows: readonly (readonly [number, RegExp])[] = [
    [16, /UNAUTHENTICATED: no, not you; check that .* holds a fresh token/],
    [7, /PERMISSION_DENIED: no, not you; check whose token/],
    [14, /UNAVAILABLE: no, not you; check that the CA runs/],
    [13, /INTERNAL: no, not you; look into the CA.s log$/],
  ];
  for (const [code, words] of rows) {
    const world = await scene(t, () => (_call, callback) => callback({ code, details: 'no,\nnot you' }));
    await t.rejects(clientOf(world).obtain(never), { name: 'CredentialsError', message: words });
  }
  const world = await scene(t, () => (_call, callback) => callback({ code: 13, details: 'x'.repeat(5_000) }));
  const error: Error = await clientOf(world)
    .obtain(never)
    .then(
      () => t.fail(),
      (reason) => reason,
    );
  t.ok(error.message.length < 700, 'a long complaint is shortened');
});

t.test('401, then 200 with the token read again', async (t) => {
  const tokens: unknown[] = [];
  const world = await scene(t, (ca) => (call, callback) => {
    const token = call.metadata.get('authorization')[0];
    tokens.push(token);
    if (token !== 'Bearer fresh') return callback({ code: 16, details: 'expired' });
    const issued = ca.issueForRequest(call.request.csr, orders, HOUR);
    issued.then(({ certificatePem }) => callback(null, { certChain: [certificatePem, ca.rootPem] }));
  });
  const tokenFile = fileWith(t, 'stale');
  const one = clientOf(world, { tokenFile });
  await t.rejects(one.obtain(never), /UNAUTHENTICATED/);
  writeFileSync(tokenFile, 'fresh\n');
  t.equal((await one.obtain(never)).identity.uri, orders.uri);
  t.same(tokens, ['Bearer stale', 'Bearer fresh']);
});

t.test('hangs of every kind end at the deadline, and leave no connection behind', async (t) => {
  const open = new Set<Socket>();
  const take = (socket: Socket) => {
    open.add(socket.on('error', () => {}).on('close', () => open.delete(socket)));
    socket.resume();
  };
  const world = await scene(t, () => () => {});
  const own = await world.ca.issueServer(['127.0.0.1'], HOUR);
  const tls = { cert: own.certificatePem, key: own.keyPem, ALPNProtocols: ['h2'] };
  const rows: readonly (readonly [string, Scene])[] = [
    ['no answer', world],
    ['no TLS', { ...world, address: await listening(t, createServer(take)) }],
    ['no HTTP/2', { ...world, address: await listening(t, createTlsServer(tls, take)) }],
  ];
  for (const [title, place] of rows) {
    const started = performance.now();
    await t.rejects(
      clientOf(place, { deadlineMs: 500 }).obtain(never),
      { message: /DEADLINE_EXCEEDED.*within 0.5 s/ },
      title,
    );
    t.ok(performance.now() - started < 8_000, title);
  }
  const abort = new AbortController();
  const stopped = clientOf(world).obtain(abort.signal);
  setTimeout(() => abort.abort(), 200);
  await t.rejects(stopped, { message: /CANCELLED/ }, 'stop ends it at once');
  const end = performance.now() + 15_000;
  while (open.size > 0 && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 50));
  t.equal(open.size, 0);
});

async function listening(t: Teardown, server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const bound = server.address();
  return `127.0.0.1:${typeof bound === 'object' ? bound?.port : 0}`;
}

t.test('who the CA is, is checked', async (t) => {
  const world = await scene(t, () => (_call, callback) => callback(null, { certChain: [] }));
  const other = await embeddedCa(t);
  const noRoot =
    /UNAVAILABLE.*does not hold the root of the CA's certificate: take the root from the CA anew$/;
  await t.rejects(clientOf({ ...world, ca: other }).obtain(never), { message: noRoot }, 'another root');
  const misnamed = await scriptedCa(t, world.ca, () => t.fail('was asked'), ['ca.example']);
  const noName = /UNAVAILABLE.*the CA's certificate does not carry that name/;
  await t.rejects(
    clientOf({ ...world, address: misnamed }).obtain(never),
    { message: noName },
    'another name',
  );
  const istiod = await scriptedCa(
    t,
    world.ca,
    (_call, callback) => callback({ code: 16, details: 'reached' }),
    ['istiod.istio-system.svc'],
  );
  await t.rejects(
    clientOf({ ...world, address: istiod }).obtain(never),
    /reached/,
    "istiod's name by loopback",
  );
  const gone = clientOf({ ...world, address: '127.0.0.1:1' });
  await t.rejects(gone.obtain(never), {
    message:
      /^CA 127.0.0.1:1: UNAVAILABLE.*ECONNREFUSED 127.0.0.1:1; check that the CA runs there and that .* holds the root/,
  });
  t.throws(() => clientOf({ ...world, address: 'nowhere' }), /not HOST:PORT/);
});

t.test("a CA whose own certificate's time is over, or not there yet", async (t) => {
  const root = await makeCertificate({ ca: true });
  const advice =
    /UNAVAILABLE.*the CA's own certificate is not valid now: have it renewed, or set this machine's clock$/;
  for (const times of [
    { from: -600, until: -5 },
    { from: 600, until: 1_200 },
  ]) {
    const { pem, keyPem } = await makeCertificate({ issuer: root, dns: ['localhost'], ...times });
    const server = createTlsServer({ cert: pem, key: keyPem, ALPNProtocols: ['h2'] }, () => {});
    const address = await listening(t, server);
    const ca = await embeddedCa(t);
    const caRootFile = fileWith(t, root.pem);
    await t.rejects(clientOf({ t, ca, address }, { caRootFile }).obtain(never), { message: advice });
  }
});

t.test('files that cannot be used are named, the token never quoted', async (t) => {
  const world = await scene(t, () => () => t.fail('was asked'));
  const torn = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n';
  const rows: readonly (readonly [Partial<IstioCaOptions>, RegExp])[] = [
    [{ tokenFile: '/nowhere/token' }, /token for the CA cannot be read.*\/nowhere\/token/],
    [{ tokenFile: fileWith(t, '  \n') }, /is empty/],
    [{ tokenFile: fileWith(t, 'secret words') }, /does not hold one bearer token/],
    [{ tokenFile: fileWith(t, 'secret\u0007') }, /does not hold one bearer token/],
    [{ tokenFile: fileWith(t, 'secret'.repeat(20_000)) }, /does not hold one bearer token/],
    [{ caRootFile: '/nowhere/root' }, /root of the CA cannot be read.*\/nowhere\/root/],
    [{ caRootFile: fileWith(t, 'nothing') }, /holds no PEM certificate/],
    [{ caRootFile: fileWith(t, torn) }, /file holds a certificate that cannot be read/],
  ];
  for (const [more, words] of rows) {
    const error: Error = await clientOf(world, more)
      .obtain(never)
      .then(
        () => t.fail(),
        (reason) => reason,
      );
    t.match(error.message, words);
    t.notMatch(error.message, /secret/);
  }
});

t.test('the messages on the wire', (t) => {
  // csr = 1 (string), validity_duration = 3 (int64): istio/api security/v1alpha1/ca.proto
  t.equal(encodeRequest({ csr: 'abc', validityDuration: 86_400 }).toString('hex'), '0a036162631880a305');
  t.equal(encodeResponse({ certChain: ['a', 'bc'] }).toString('hex'), '0a01610a026263');
  t.same(decodeRequest(Buffer.from('0a036162631880a305', 'hex')), { csr: 'abc', validityDuration: 86_400 });
  t.same(decodeResponse(Buffer.from('0a01610a026263', 'hex')), { certChain: ['a', 'bc'] });
  t.same(
    decodeRequest(Buffer.from('220212000a0161', 'hex')),
    { csr: 'a', validityDuration: 0 },
    'metadata is skipped',
  );
  t.throws(() => decodeResponse(Buffer.from('0a0561', 'hex')), 'cut off');
  t.throws(() => decodeResponse(Buffer.from('ffffffffffffffffffff', 'hex')), 'no tag');
  t.end();
});
