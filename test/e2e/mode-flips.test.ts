/** The mode goes through STRICT, PERMISSIVE and DISABLE under load: no request fails, and each switch is in force in the end. */
import { connect as connectHttp2 } from 'node:http2';
import t, { type Test } from 'tap';
import { http2App } from '../proxy/http2-app.ts';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { overHbone } from './harness/hbone.ts';
import { Mesh } from './harness/mesh.ts';
import { freePorts } from './harness/ports.ts';
import { egress, hostOf, ingress, service, sidecar, workload } from './harness/resources.ts';
import { peerAuthentication } from './harness/shop.ts';
import { spiffe } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { Traffic } from './harness/traffic.ts';
import { pause, until, within } from './harness/wait.ts';

t.setTimeout(180_000);

/** The default of --mode-grace. */
const GRACE = 3_000;

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const h2 = await http2App(t, (stream) => {
  stream.respond({ ':status': 200 });
  stream.pipe(stream);
});

const [httpPort = 0, tcpPort = 0, h2Port = 0, ordersHttp = 0, ordersTcp = 0, ordersH2 = 0] =
  await freePorts(6);
const kinds = [
  { name: 'http', protocol: 'HTTP', port: httpPort, at: ordersHttp, app: http.port },
  { name: 'tcp-echo', protocol: 'TCP', port: tcpPort, at: ordersTcp, app: tcp.port },
  { name: 'http2', protocol: 'HTTP2', port: h2Port, at: ordersH2, app: h2.port },
];
const portOf = ({ name, protocol }: (typeof kinds)[number], number: number) => ({ number, name, protocol });
const mesh = await Mesh.create(
  t,
  [
    service(
      'orders',
      kinds.map((kind) => portOf(kind, kind.port)),
    ),
    workload('orders', Object.fromEntries(kinds.map(({ name, at }) => [name, at]))),
    workload('web'),
    sidecar('web', { egress: kinds.map((kind) => egress(portOf(kind, kind.port), hostOf('orders'))) }),
    sidecar('orders', { ingress: kinds.map((kind) => ingress(portOf(kind, kind.at), kind.app)) }),
  ].join('---\n'),
);
mesh.write('mode.yaml', peerAuthentication('STRICT'));
const [web, orders] = await Promise.all([mesh.sidecar('web'), mesh.sidecar('orders')]);
const both = [web, orders];
const leaf = await mesh.ca.leaf(spiffe('shop', 'web'));

/** One exchange after the other, each told of where it fails. */
class Load {
  served = 0;
  readonly failures: string[] = [];
  readonly #done: Promise<void>;
  #stopping = false;

  constructor(one: () => Promise<void>) {
    this.#done = this.#loop(one);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #loop(one: () => Promise<void>): Promise<void> {
    while (!this.#stopping) {
      try {
        await within('an exchange', one(), 10_000);
        this.served++;
      } catch (error) {
        this.failures.push(`${(error as Error).message} at ${new Date().toISOString()}`);
      }
      await pause(5);
    }
  }
}

/** A connection for each, there and back. */
function tcpLoad(t: Test): Load {
  return new Load(async () => {
    const peer = await open(t, tcpPort);
    peer.write('there and back');
    peer.end();
    await peer.ended();
    if (peer.text !== 'there and back') throw new Error(`${peer.over}, so far ${peer.text}`);
  });
}

/** All on one session, each with a body. */
function http2Load(t: Test): Load {
  const session = connectHttp2(`http://127.0.0.1:${h2Port}`);
  session.on('error', () => {});
  t.teardown(() => session.destroy());
  return new Load(
    () =>
      new Promise((resolve, reject) => {
        const stream = session.request({ ':method': 'POST', ':path': '/', ':authority': hostOf('orders') });
        let [status, text] = [0, ''];
        stream.on('response', (headers) => {
          status = Number(headers[':status']);
        });
        stream.setEncoding('utf8').on('data', (piece: string) => {
          text += piece;
        });
        stream.on('error', reject);
        stream.on('close', () => {
          if (status === 200 && text === 'there and back') resolve();
          else reject(new Error(`HTTP/2: ${status} ${text} ${stream.rstCode}`));
        });
        stream.end('there and back');
      }),
  );
}

const plaintextAnswer = (): Promise<number | string> =>
  call(ordersHttp, '/tell').then(
    ({ status }) => status,
    ({ code }: NodeJS.ErrnoException) => code ?? 'error',
  );

t.test('flips under load', async (t) => {
  const [kept, fresh] = [new Traffic(t, httpPort), new Traffic(t, httpPort, { kept: false })];
  const loads = [tcpLoad(t), http2Load(t)];
  // Some stay longer than the grace time, some go before it is over, and one goes back.
  const modes = [
    ['PERMISSIVE', 1_000],
    ['DISABLE', GRACE + 1_000],
    ['STRICT', 1_000],
    ['DISABLE', 500],
    ['STRICT', GRACE + 1_000],
    ['DISABLE', GRACE + 1_000],
    ['PERMISSIVE', 500],
    ['STRICT', GRACE + 1_000],
  ] as const;
  for (const [mode, ms] of modes) {
    await mesh.change('mode.yaml', peerAuthentication(mode), both);
    await pause(ms);
  }
  await Promise.all([kept.stop(), fresh.stop(), ...loads.map((load) => load.stop())]);
  const failures = [kept, fresh, ...loads].flatMap((load) => load.failures);
  t.same(failures, [], 'no failure');
  for (const [i, { served }] of [kept, fresh, ...loads].entries())
    t.ok(served > 100, `${['kept', 'fresh', 'TCP', 'HTTP/2'][i]}: ${served} served`);
  // Unless it was always plaintext, or never.
  if (!overHbone) {
    const { body } = await call(orders.ports.metrics ?? 0, '/metrics');
    for (const policy of ['mutual_tls', 'none'])
      t.match(body.toString(), new RegExp(`istio_requests_total\\{.*connection_security_policy="${policy}"`));
  }
});

t.test('to STRICT: plaintext is taken for the grace time, and then it is not', async (t) => {
  await mesh.change('mode.yaml', peerAuthentication('PERMISSIVE'), both);
  const live = await open(t, ordersTcp);
  const idle = await open(t, ordersHttp);
  live.write('here');
  await live.until('the echo', (text) => text === 'here');
  idle.write('GET /tell HTTP/1.1\r\nHost: a\r\n\r\n');
  await idle.until('an answer', (text) => text.includes('}'));
  const { mark } = orders;
  const before = Date.now();
  await mesh.change('mode.yaml', peerAuthentication('STRICT'), [orders]);
  const changed = Date.now();
  t.equal(await plaintextAnswer(), 200, 'new ones are taken');
  const line = await orders.logged({ to: 'STRICT', port: ordersTcp }, mark);
  t.match(line, { from: 'PERMISSIVE', policy: 'istio-system/default', msg: /until then/ });
  const told = Date.parse(String(line.until));
  t.ok(told >= before + GRACE && told <= changed + GRACE, 'the log tells until when');
  idle.write('GET /tell HTTP/1.1\r\nHost: a\r\n\r\n');
  await idle.until('an answer that says so', (text) => /\r\nconnection: close\r\n/i.test(text));
  t.equal(await idle.ended(), 'end', 'a kept connection is closed in order');
  live.write(' still');
  await live.until('the echo', (text) => text === 'here still');
  t.ok(Date.now() < told, 'all that within the grace time');
  t.equal(await live.ended(), 'ECONNRESET', 'what is left is closed');
  t.ok(Date.now() >= told && Date.now() < told + 10_000, `${Date.now() - told} ms after it`);
  t.equal(await plaintextAnswer(), 'ECONNRESET', 'and nothing new is taken');
  await orders.logged({ reason: 'plaintext_to_strict', policy: 'istio-system/default' }, mark);
  // And in time nothing is left of it: the next switch has a grace time of its own.
  t.equal((await call(httpPort, '/tell')).status, 200);
});

t.test('to DISABLE: mesh TLS is terminated for the grace time, and then it is the app’s', async (t) => {
  const live = await openTls(t, ordersTcp, { leaf, ALPNProtocols: ['istio'] });
  live.write('here');
  await live.until('the echo', (text) => text === 'here');
  const { mark } = orders;
  await mesh.change('mode.yaml', peerAuthentication('DISABLE'), [orders]);
  const young = await openTls(t, ordersTcp, { leaf, ALPNProtocols: ['istio'] });
  for (const peer of [live, young]) {
    const said = peer.text;
    peer.write(' still');
    await peer.until('the echo', (text) => text === `${said} still`);
  }
  t.equal(await plaintextAnswer(), 200, 'plaintext is taken already');
  t.equal(await live.ended(), 'ECONNRESET');
  t.equal(await young.ended(), 'ECONNRESET');
  await orders.logged({ reason: 'mtls_to_disabled', peer: spiffe('shop', 'web') }, mark);
  await until('new TLS not to be terminated', () =>
    openTls(t, ordersTcp, { leaf, ALPNProtocols: ['istio'] }).then(
      () => false,
      () => true,
    ),
  );
});
