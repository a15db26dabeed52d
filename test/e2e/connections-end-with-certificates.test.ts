/** Certificates of either side end while connections live: requests go on without a failure, and nothing outlives its peer's certificate. */
import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { open, type Peer } from './harness/clients.ts';
import { overHbone } from './harness/hbone.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';
import { spiffe, writeCertDir } from './harness/test-ca.ts';
import { Traffic } from './harness/traffic.ts';
import { pause } from './harness/wait.ts';

t.setTimeout(120_000);

/** Of the certificate that ends, ms: what two daemons need to start, and then some. */
const LIFE = 16_000;
/** Before its end there is another, ms. */
const RENEWED = 8_000;
/**
 * And so long before it no connection or tunnel rests on the old one but what cannot be ended sooner: such as were made
 * when it was renewed are given up when 0.6 of what was left then is left.
 */
const MOVED = 3_500;
/** Between the end of a certificate and what a busy machine shows of it. */
const SLACK = 3_000;

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);

interface Scene {
  readonly web: Sidecar;
  readonly orders: Sidecar;
  readonly ports: Awaited<ReturnType<typeof shopPorts>>;
  readonly notAfter: number;
  /** Gives the workload whose certificate ends a new one. */
  renew(): Promise<void>;
}

/** The shop, where that workload's first certificate ends soon. */
async function shopWith(t: Test, whose: 'web' | 'orders'): Promise<Scene> {
  const ports = await shopPorts();
  const mesh = await Mesh.create(t, shop(ports, { http: http.port, tcp: tcp.port }));
  const begin = async (name: 'web' | 'orders') => {
    const leaf = await mesh.ca.leaf(spiffe('shop', name), name === whose ? { to: LIFE } : {});
    const dir = join(mesh.dir, `certs-of-${name}`);
    writeCertDir(dir, leaf);
    const sidecar = await ready(start(t, mesh.flags(`shop/${name}`, '--cert-dir', dir)), dir);
    return { sidecar, leaf, dir };
  };
  const [web, orders] = await Promise.all([begin('web'), begin('orders')]);
  const one = whose === 'web' ? web : orders;
  return {
    web: web.sidecar,
    orders: orders.sidecar,
    ports,
    notAfter: new X509Certificate(one.leaf.cert).validToDate.getTime(),
    renew: async () => writeCertDir(one.dir, await mesh.ca.leaf(spiffe('shop', whose))),
  };
}

/** Goes on writing to an echo; says when and how it ended, and whether what came back is what was sent. */
async function untilItEnds(t: Test, peer: Peer, notAfter: number): Promise<void> {
  let sent = '';
  const writing = setInterval(() => {
    const word = `${sent.length},`;
    sent += word;
    peer.write(word);
  }, 20);
  try {
    const how = await peer.ended();
    const late = Date.now() - notAfter;
    t.not(how, 'end', 'TCP is cut, which nobody takes for its end');
    t.ok(late >= -50 && late < SLACK, `${late} ms after the certificate's end`);
  } finally {
    clearInterval(writing);
  }
  t.ok(sent.startsWith(peer.text), 'intact until then');
  // What was under way, at 250 bytes a second and as late as above.
  t.ok(sent.length - peer.text.length < 1_000, `${peer.text.length} bytes of ${sent.length}`);
}

for (const [whose, direction] of [
  ['web', 'inbound'],
  ['orders', 'outbound'],
] as const) {
  t.test(`the certificate of ${whose === 'web' ? 'the client' : 'the server'} ends`, async (t) => {
    const { web, orders, ports, notAfter, renew } = await shopWith(t, whose);
    const kept = new Traffic(t, ports.http);
    const fresh = new Traffic(t, ports.http, { kept: false });
    await Promise.all([kept.goesOn(), fresh.goesOn()]);
    const old = await open(t, ports.tcp);
    // With a body: without one it would be asked anew, of another connection, and nobody would notice.
    const endless = await open(t, ports.http);
    endless.write('POST /slow/60000 HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\n\r\nx');
    await pause(Math.max(notAfter - RENEWED - Date.now(), 0));
    t.ok(Date.now() < notAfter - RENEWED + 1_500, 'in time');
    await renew();
    await pause(notAfter - MOVED - Date.now());
    const young = await open(t, ports.tcp);
    young.write('new');
    await young.until('the echo', (text) => text === 'new');
    await Promise.all([
      untilItEnds(t, old, notAfter),
      endless
        .until('an answer', (text) => text.startsWith('HTTP/1.1 503 '))
        .then(() => {
          const late = Date.now() - notAfter;
          t.ok(late >= -50 && late < SLACK, `a request that runs is cut ${late} ms after the end`);
        }),
    ]);
    // Whoever watches the peer's certificate says so.
    const watching = whose === 'web' ? orders : web;
    const line = await watching.logged({ reason: 'peer_expired', direction });
    t.match(line.detail, `${spiffe('shop', whose)} was valid until ${new Date(notAfter).toISOString()}`);
    const { peers } = (await watching.admin('/certs')) as { peers?: readonly { notAfter: string }[] };
    t.ok(
      peers?.every((peer) => Date.parse(peer.notAfter) > Date.now()),
      'nobody is left who has expired',
    );
    young.write(' and old');
    await young.until('the echo', (text) => text === 'new and old');
    await Promise.all([kept.goesOn(20), fresh.goesOn(20)]);
    await Promise.all([kept.stop(), fresh.stop()]);
    t.same([...kept.failures, ...fresh.failures], [], `${kept.served + fresh.served} requests, no failure`);
    t.comment(overHbone ? 'over HBONE' : 'over mTLS');
  });
}
