/** Resumed TLS sessions skip the chain and the names in OpenSSL and Node: identity, expiry and trust must hold all the same. */
import { createServer, type TLSSocket } from 'node:tls';
import t from 'tap';
import { echo, httpApp, listen, tcpApp } from './harness/apps.ts';
import { open } from './harness/clients.ts';
import { Mesh, type Sidecar } from './harness/mesh.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { type Leaf, spiffe, writeCertDir } from './harness/test-ca.ts';
import { ISTIO_HTTP, openTls, type TlsPeer } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(180_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(
  t,
  `${shop(ports, { http: app.port, tcp: tcp.port })}---
${policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]')}`,
);
const orders = await mesh.sidecar('orders');
const web = await mesh.ca.leaf(spiffe('shop', 'web'));

/** Of certificates whose end is waited for, ms: what two handshakes may take on a busy machine. */
const BRIEF = 6_000;

interface Visit {
  readonly peer: TlsPeer;
  readonly status: number;
  readonly resumed: boolean;
  /** A newer one where the server gave one, else the one that was used. */
  readonly ticket: Buffer;
}

/** One connection with one request. */
async function visit(leaf: Leaf, session?: Buffer): Promise<Visit> {
  const options = session === undefined ? {} : { session };
  const peer = await openTls(t, ports.ordersHttp, { leaf, ALPNProtocols: ISTIO_HTTP, ...options });
  const resumed = peer.tls.isSessionReused();
  const status = await peer.get('/tell');
  if (status === 200) await peer.until('the body', (text) => text.endsWith('}'));
  const ticket = await until('a ticket', () => peer.session ?? (resumed ? session : null));
  peer.tls.destroy();
  return { peer, status, resumed, ticket };
}

t.test('a client that comes back is resumed, and is still who it was', async (t) => {
  const first = await visit(web);
  t.equal(first.resumed, false);
  const second = await visit(web, first.ticket);
  t.equal(second.resumed, true);
  t.equal(second.status, 200);
  t.match(second.peer.text, /URI=spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web/, 'the app is told who it is');
  const third = await visit(web, second.ticket);
  t.equal(third.resumed, true, 'and once more');
});

t.test('policy holds for the resumed as for the new', async (t) => {
  const stranger = await mesh.ca.leaf(spiffe('shop', 'stranger'));
  const first = await visit(stranger);
  t.equal(first.status, 403);
  const second = await visit(stranger, first.ticket);
  t.equal(second.resumed, true);
  t.equal(second.status, 403, 'resumed');
  const disguised = await visit(web, second.ticket);
  t.equal(
    disguised.status,
    403,
    "a stranger's ticket with another's certificate beside it is the stranger's",
  );
});

t.test('a certificate that has expired since ends its tickets', async (t) => {
  const brief = await mesh.ca.leaf(spiffe('shop', 'web'), { to: BRIEF });
  const end = Date.now() + BRIEF;
  const { ticket, status } = await visit(brief);
  t.equal(status, 200, 'served while it was valid');
  await until('the certificate to expire', () => Date.now() > end + 50);
  const { mark } = orders;
  const peer = await openTls(t, ports.ordersHttp, {
    leaf: brief,
    ALPNProtocols: ISTIO_HTTP,
    session: ticket,
  });
  const resumed = peer.tls.isSessionReused();
  await t.rejects(peer.get('/tell'), 'not served');
  t.equal(resumed, true, 'though OpenSSL resumed it');
  t.match((await orders.logged({ reason: 'expired' }, mark)).msg, /TLS/);
});

t.test('tickets die with the credentials and the trust they were made under', async (t) => {
  const changes: { title: string; change: (orders: Sidecar) => Promise<unknown> }[] = [
    {
      title: 'a rotated certificate',
      change: async ({ certDir }) => {
        const { mark } = orders;
        const leaf = await mesh.ca.leaf(spiffe('shop', 'orders'));
        writeCertDir(certDir, leaf);
        await orders.logged({ msg: 'new credentials are in force', serial: leaf.serial }, mark);
      },
    },
    {
      title: 'an alias added',
      change: () => mesh.change('meshconfig.yaml', aliases('old.example'), [orders]),
    },
    { title: 'an alias taken away', change: () => mesh.change('meshconfig.yaml', aliases(), [orders]) },
  ];
  for (const { title, change } of changes) {
    const { ticket } = await visit(web);
    t.equal((await visit(web, ticket)).resumed, true, `before ${title}: resumed`);
    const again = await visit(web);
    await change(orders);
    const after = await visit(web, again.ticket);
    t.equal(after.resumed, false, `after ${title}: not resumed`);
    t.equal(after.status, 200, 'but served');
  }
});

t.test('our own client resumes, and checks the resumed server again', async (t) => {
  const seen: { reused: boolean; port: number }[] = [];
  const serve = (socket: TLSSocket): void => {
    seen.push({ reused: socket.isSessionReused(), port: socket.remotePort ?? 0 });
    socket.on('error', () => {});
    socket.end('hello');
  };
  /** A server that is `orders`. */
  const options = { requestCert: true, rejectUnauthorized: true, ALPNProtocols: ['istio'] };
  const tls = createServer(options, serve);
  const server = await listen(t, tls);
  const elsewhere = await shopPorts();
  const pair = await Mesh.create(
    t,
    shop({ ...elsewhere, ordersTcp: server.port }, { http: app.port, tcp: tcp.port }),
  );
  const own = await mesh.ca.leaf(spiffe('shop', 'web'));
  const certDir = `${pair.dir}/certs`;
  writeCertDir(certDir, own);
  const sidecar = await pair.ready('shop/web', '--cert-dir', certDir);
  // Not before the sidecar is there: a busy machine may take long to start it.
  const { cert, key, ca } = await mesh.ca.leaf(spiffe('shop', 'orders'), { to: BRIEF });
  const end = Date.now() + BRIEF;
  tls.setSecureContext({ cert, key, ca });
  const dial = async (): Promise<string> => {
    const peer = await open(t, elsewhere.tcp);
    await peer.ended();
    return peer.text;
  };
  t.equal(await dial(), 'hello');
  t.equal(await dial(), 'hello');
  t.same(
    seen.map(({ reused }) => reused),
    [false, true],
    'the second handshake was a resumption',
  );

  await until("the server's certificate to expire", () => Date.now() > end + 50);
  const { mark } = sidecar;
  t.equal(await dial(), '', 'an expired server is refused, resumed or not');
  await sidecar.logged({ reason: 'expired', direction: 'outbound' }, mark);
});

function aliases(...names: readonly string[]): string {
  return `kind: MeshConfig\ntrustDomain: cluster.local\ntrustDomainAliases: [${names.join(', ')}]\n`;
}
