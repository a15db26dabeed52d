/** A revocation list shuts out whom it names: their handshakes, resumed ones too, and what is open, in both directions. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { CaProcess } from './harness/ca-process.ts';
import { call, open } from './harness/clients.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { runToEnd, start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { type Leaf, replace, spiffe, TestCa, writeCertDir } from './harness/test-ca.ts';
import { attempt, ISTIO_HTTP, openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
const crlFile = join(mesh.dir, 'crl.pem');
const firstEdition = await mesh.ca.crl([]);
replace(crlFile, firstEdition);

const begin = async (name: string): Promise<{ sidecar: Sidecar; leaf: Leaf; dir: string }> => {
  const { dir, leaf } = await mesh.certDir(name);
  const flags = mesh.flags(`shop/${name}`, '--cert-dir', dir, '--crl', crlFile);
  return { sidecar: await ready(start(t, flags), dir), leaf, dir };
};
const [web, orders] = await Promise.all([begin('web'), begin('orders')]);

interface Failure {
  readonly reason: string;
  readonly direction: string;
  readonly chain: readonly { readonly serial: string }[];
}

async function failures(sidecar: Sidecar): Promise<readonly Failure[]> {
  return ((await sidecar.admin('/handshakes')) as unknown as { failures: readonly Failure[] }).failures;
}

t.test('a client', async (t) => {
  const [bad, good] = [await mesh.ca.leaf(spiffe('shop', 'bad')), await mesh.ca.leaf(spiffe('shop', 'good'))];
  const calls = (leaf: Leaf) => ({ leaf, ALPNProtocols: ISTIO_HTTP });
  const [open1, open2] = [
    await openTls(t, ports.ordersHttp, calls(bad)),
    await openTls(t, ports.ordersHttp, calls(good)),
  ];
  t.equal(await open1.get('/tell'), 200);
  t.equal(await open2.get('/tell'), 200);
  const session = await until('a ticket', () => open1.session);
  const { mark } = orders.sidecar;
  replace(crlFile, await mesh.ca.crl([bad]));
  t.equal(await open1.ended(), 'ECONNRESET', 'what was open is closed');
  const line = await orders.sidecar.logged({ reason: 'revoked' }, mark);
  t.match(line, { direction: 'inbound', peer: spiffe('shop', 'bad') });
  t.same(await failures(orders.sidecar), [], 'which is no handshake that failed');
  t.equal(await open2.get('/tell'), 200, 'another peer loses nothing');
  t.match(await attempt(t, ports.ordersHttp, calls(bad)), /ECONNRESET|closed/, 'a new handshake is refused');
  t.match(
    await attempt(t, ports.ordersHttp, { ...calls(bad), session }),
    /ECONNRESET|closed/,
    'and so is a resumed one',
  );
  const { reason, direction, chain } = (await failures(orders.sidecar))[0] as Failure;
  t.same({ reason, direction }, { reason: 'revoked', direction: 'inbound' });
  t.equal(chain[0]?.serial, bad.serial.toLowerCase(), 'with what it presented');
  t.equal(await attempt(t, ports.ordersHttp, calls(good)), 200);
});

t.test('a server, and what is open to it', async (t) => {
  const tunnel = await open(t, ports.tcp);
  tunnel.write('0');
  await tunnel.until('the echo', (text) => text === '0');
  t.equal((await call(ports.http, '/tell')).status, 200);
  replace(crlFile, await mesh.ca.crl([orders.leaf]));
  t.equal(await tunnel.ended(), 'ECONNRESET');
  await web.sidecar.logged({ reason: 'revoked', direction: 'outbound' });
  const { status } = await call(ports.http, '/tell');
  t.equal(status, 503);
  await until('the failed handshake', async () => (await failures(web.sidecar))[0]?.reason === 'revoked');
  // What was taken back is replaced: by files, which are watched.
  writeCertDir(orders.dir, await mesh.ca.leaf(spiffe('shop', 'orders')));
  await until('the new certificate to serve', async () => (await call(ports.http, '/tell')).status === 200);
});

t.test('a list that cannot be read keeps the last one in force', async (t) => {
  const bad = await mesh.ca.leaf(spiffe('shop', 'bad'));
  replace(crlFile, await mesh.ca.crl([bad, orders.leaf]));
  const refused = async (): Promise<boolean> =>
    (await attempt(t, ports.ordersHttp, { leaf: bad, ALPNProtocols: ISTIO_HTTP })) !== 200;
  await until('the list to be in force', refused);
  const { mark } = orders.sidecar;
  replace(crlFile, '-----BEGIN X509 CRL-----\nhalf of it');
  await orders.sidecar.logged({ level: 'error', file: crlFile }, mark);
  t.ok(await refused(), 'still shut out');
  t.match(JSON.stringify((await orders.sidecar.health()).body), /revocation lists/, '/healthz tells');
  const { crl } = (await orders.sidecar.admin('/certs')) as { crl: { error: string; lists: unknown[] } };
  t.match(crl.error, /revocation lists/);
  t.equal(crl.lists.length, 1);
});

t.test('an edition from before lets nobody in again', async (t) => {
  const bad = await mesh.ca.leaf(spiffe('shop', 'bad'));
  replace(crlFile, await mesh.ca.crl([bad]));
  const refused = async (): Promise<boolean> =>
    (await attempt(t, ports.ordersHttp, { leaf: bad, ALPNProtocols: ISTIO_HTTP })) !== 200;
  await until('the list to be in force', refused);
  const { mark } = orders.sidecar;
  replace(crlFile, firstEdition);
  const { msg } = await orders.sidecar.logged({ level: 'error', file: crlFile }, mark);
  t.match(msg, /O=test root of \S+ is older than O=test root of \S+, which stays in force/);
  t.ok(await refused(), 'still shut out');
  const { crl } = (await orders.sidecar.admin('/certs')) as { crl: { error: string; lists: unknown[] } };
  t.match(crl, { error: msg, lists: [{ entries: 1 }] });
  t.match(JSON.stringify((await orders.sidecar.health()).body), /is older than/, '/healthz tells');
});

t.test('nor do lists count that our CA has not signed', async (t) => {
  const bad = await mesh.ca.leaf(spiffe('shop', 'bad'));
  replace(crlFile, await mesh.ca.crl([bad]));
  const served = async (): Promise<boolean> =>
    (await attempt(t, ports.ordersHttp, { leaf: bad, ALPNProtocols: ISTIO_HTTP })) === 200;
  await until('the list to be in force', async () => !(await served()));
  for (const name of ['O=test root', 'O=another root']) {
    const { mark } = orders.sidecar;
    replace(crlFile, await (await TestCa.create(name)).crl([]));
    const { msg } = await orders.sidecar.logged({ level: 'error', file: crlFile }, mark);
    t.match(msg, /has no list any more that O=test root has signed/, `one of ${name}`);
    t.notOk(await served(), 'the list before shuts out whom it did');
    const mended = orders.sidecar.mark;
    replace(crlFile, await mesh.ca.crl([bad]));
    await orders.sidecar.logged({ msg: 'revocation lists can be read again' }, mended);
  }
});

t.test("after a CA's root was exchanged by the book, for whoever still holds the old one too", async (t) => {
  const ports = await shopPorts();
  const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
  const caDir = join(mesh.dir, 'ca');
  const ca = (command: string, ...args: string[]) => runToEnd(t, ['ca', command, '--dir', caDir, ...args]);
  const must = async (command: string, ...args: string[]): Promise<void> => {
    const { code, stderr } = await ca(command, ...args);
    if (code !== 0) throw new Error(`ca ${command} ${args.join(' ')}: ${stderr}`);
  };
  const dirOf = (name: string) => join(mesh.dir, name);
  const issue = async (name: string, ttl: string): Promise<Leaf> => {
    const to = ['--out', dirOf(name), '--ttl', ttl];
    await must('issue', '--namespace', 'shop', '--service-account', name, ...to);
    const [cert, key] = ['cert-chain.pem', 'key.pem'].map((file) =>
      readFileSync(join(dirOf(name), file), 'utf8'),
    );
    return { cert, key } as Leaf;
  };
  const revoke = (name: string) =>
    must('revoke', '--cert', join(dirOf(name), 'cert-chain.pem'), '--reason', 'keyCompromise');
  const answer = (leaf: Leaf) => attempt(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP });
  await issue('first', '1s');
  await must('rotate-root', '--step', 'add');
  const old = await issue('old', '10m');
  await revoke('old');
  await until('the first certificate to expire', async () => {
    return (await ca('rotate-root', '--step', 'issue')).code === 0;
  });
  const server = await CaProcess.start(t, caDir, '10m');
  const flags = [...(await server.flags('orders')), '--crl', join(caDir, 'crl.pem')];
  const orders = await ready(start(t, mesh.flags('shop/orders', ...flags)));
  t.not(await answer(old), 200);
  await must('rotate-root', '--step', 'retire');
  const bad = await issue('bad', '10m');
  t.equal(await answer(bad), 200);
  await revoke('bad');
  await until('the revoked to be shut out', async () => (await answer(bad)) !== 200);
  t.equal((await failures(orders))[0]?.reason, 'revoked');
  const { roots } = (await orders.admin('/certs')) as { roots: unknown[] };
  t.equal(roots.length, 2, 'the sidecar holds the old root for minutes');
  t.not(await answer(old), 200, 'and goes on to shut out whom that one vouched for');
  t.same((await orders.health()).body, { ready: true }, 'and nobody is asked for a list of the old root');
});

t.test('one that cannot be read at the start is an error', async (t) => {
  const { dir } = await mesh.certDir('web');
  for (const [file, text] of [
    [join(mesh.dir, 'nowhere.pem'), null],
    [join(mesh.dir, 'garbage.pem'), 'garbage'],
  ] as const) {
    if (text !== null) replace(file, text);
    const { code, stderr } = await runToEnd(t, mesh.flags('shop/web', '--cert-dir', dir, '--crl', file));
    t.equal(code, 2);
    t.match(stderr, file, 'and names the file');
  }
});
