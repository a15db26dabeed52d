/** Inbound connections of peers whose certificates live for seconds: each ends as its protocol lets it end, none later than they do. */
import { X509Certificate } from 'node:crypto';
import { createServer } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import t from 'tap';
import { echo, listen, tcpApp } from '../e2e/harness/apps.ts';
import { type Leaf, spiffe, TestCa } from '../e2e/harness/test-ca.ts';
import { ISTIO_HTTP, openTls } from '../e2e/harness/tls-client.ts';
import { pause, until, within } from '../e2e/harness/wait.ts';
import { hboneClient, hboneClientWith } from './hbone-client.ts';
import { HTTP, hboneSidecar, TCP } from './hbone-sidecar.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

t.setTimeout(180_000);
// Each waits for certificates to end, and does nothing else meanwhile.
t.jobs = 8;

const ca = await TestCa.create();
const own = await ca.leaf(spiffe('shop', 'orders'));
/**
 * Certificates are of 40 s of which so much is left, ms. Connections are given up in the last tenth, four seconds, but
 * not in its end: there is time before that to begin, and after it to be seen.
 */
const LIFE = 8_000;
const USED = 32_000;
/** Between the end of a certificate and what a busy machine shows of it. */
const SLACK = 3_000;

const app = await listen(
  t,
  createServer((request, response) => {
    if (request.url !== '/endless') {
      response.end('ok');
      return;
    }
    const timer = setInterval(() => response.write('more\n'), 50);
    response.on('close', () => clearInterval(timer));
  }).on('upgrade', (_request, socket) => {
    socket.on('error', () => {});
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    socket.pipe(socket);
  }),
);
const echoes = await tcpApp(t, echo);

/** A certificate of the caller that ends in some seconds, and when that is. */
async function shortLived(issuer = ca, to = LIFE): Promise<{ leaf: Leaf; notAfter: number }> {
  const leaf = await issuer.leaf(spiffe('shop', 'web'), { from: -USED, to });
  return { leaf, notAfter: new X509Certificate(leaf.cert).validToDate.getTime() };
}

function inTime(t: { ok(fact: boolean, text: string): unknown }, what: string, notAfter: number): void {
  const late = Date.now() - notAfter;
  t.ok(late >= -50 && late < SLACK, `${what} ${late} ms after the certificate's end`);
}

t.test('HTTP/1: the last answer says so, and no request fails', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { leaf: own });
  const { leaf, notAfter } = await shortLived();
  let peer = await openTls(t, sidecar.port, { leaf, ALPNProtocols: ISTIO_HTTP });
  await until('the link', () => sidecar.path.links.list()[0]?.connections === 1);
  let served = 0;
  while (!peer.text.includes('onnection: close')) {
    t.ok(Date.now() < notAfter, 'told before the end');
    t.equal(await peer.get('/'), 200);
    served++;
    await pause(20);
  }
  t.ok(served > 0 && Date.now() < notAfter, `after ${served} answers`);
  t.equal(await peer.ended(), 'end', 'closed in order');
  peer = await openTls(t, sidecar.port, {
    leaf: await ca.leaf(spiffe('shop', 'web')),
    ALPNProtocols: ISTIO_HTTP,
  });
  t.equal(await peer.get('/'), 200);
  const refusals = sidecar.lines.filter(({ reason }) => reason === 'peer_expired');
  t.same(refusals, [], 'nobody was refused');
});

t.test('HTTP/1: an idle connection is closed before the end', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { leaf: own });
  const { leaf, notAfter } = await shortLived();
  const unused = await openTls(t, sidecar.port, { leaf, ALPNProtocols: ISTIO_HTTP });
  const idle = await openTls(t, sidecar.port, { leaf, ALPNProtocols: ISTIO_HTTP });
  t.equal(await idle.get('/'), 200);
  t.same([await idle.ended(), await unused.ended()], ['end', 'end']);
  t.ok(Date.now() < notAfter);
  await until('no link', () => sidecar.path.links.size === 0);
});

t.test('what still runs at the end is cut there: a request, a WebSocket, TCP', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { leaf: own });
  const tcpSidecar = await inboundSidecar(t, echoes.port, { leaf: own, protocol: 'tcp' });
  const { leaf, notAfter } = await shortLived();
  const http = { leaf, ALPNProtocols: ISTIO_HTTP };
  const endless = await openTls(t, sidecar.port, http);
  endless.write('GET /endless HTTP/1.1\r\nHost: a\r\n\r\n');
  const webSocket = await openTls(t, sidecar.port, http);
  webSocket.write('GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  await webSocket.until('the upgrade', (text) => text.endsWith('\r\n\r\n'));
  const upgraded = webSocket.text.length;
  const tcp = await openTls(t, tcpSidecar.port, { leaf, ALPNProtocols: ['istio'] });
  let sent = '';
  const writing = setInterval(() => {
    const word = `${sent.length},`;
    sent += word;
    tcp.write(word);
    webSocket.write(word);
  }, 20);
  t.teardown(() => clearInterval(writing));
  const ends = await Promise.all(
    [endless, webSocket, tcp].map(async (peer) => {
      const how = await peer.ended();
      return [how, Date.now()] as const;
    }),
  );
  clearInterval(writing);
  for (const [i, [how, at]] of ends.entries()) {
    const what = ['the request', 'the WebSocket', 'TCP'][i];
    t.not(how, 'end', `${what} is cut, which nobody takes for its end`);
    t.ok(at >= notAfter - 50 && at < notAfter + SLACK, `${what} ${at - notAfter} ms after the end`);
  }
  for (const text of [tcp.text, webSocket.text.slice(upgraded)]) {
    t.ok(sent.startsWith(text), 'intact');
    t.ok(text.length > 20, `${text.length} bytes until then`);
  }
  for (const { lines } of [sidecar, tcpSidecar]) {
    const line = await until('the log line', () => lines.find(({ reason }) => reason === 'peer_expired'));
    t.match(line.detail, /^spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web was valid until 20/);
  }
  t.match(await tcpSidecar.accessed(), [{ reason: 'peer_expired' }]);
});

t.test('HTTP/2: GOAWAY before the end; what runs finishes, or is cut at it', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { leaf: own });
  const { leaf, notAfter } = await shortLived();
  const begin = async () => {
    const { tls } = await openTls(t, sidecar.port, { leaf, ALPNProtocols: ['istio-h2'] });
    const session = connectHttp2('http://orders', { createConnection: () => tls });
    session.on('error', () => {});
    t.teardown(() => session.destroy());
    let goneAway = 0;
    session.on('goaway', () => {
      goneAway = Date.now();
    });
    const closed = new Promise<number>((resolve) => session.on('close', () => resolve(Date.now())));
    return { session, closed, goaway: () => until('GOAWAY', () => goneAway) };
  };
  const idle = await begin();
  const busy = await begin();
  const stream = busy.session.request({ ':path': '/endless' });
  let bytes = 0;
  stream.on('error', () => {});
  stream.on('data', (piece: Buffer) => {
    bytes += piece.length;
  });
  const over = new Promise<number>((resolve) => stream.on('close', () => resolve(Date.now())));
  t.ok((await idle.goaway()) < notAfter);
  t.ok((await busy.goaway()) < notAfter);
  t.ok((await idle.closed) < notAfter);
  const before = bytes;
  await pause(200);
  t.ok(bytes > before, 'the stream goes on behind GOAWAY');
  await over;
  inTime(t, 'the stream is cut', notAfter);
  t.not(stream.rstCode, 0, 'which nobody takes for its end');
  await busy.closed;
});

t.test('a tunnel: GOAWAY before the end, requests within it told so, TCP cut at it', async (t) => {
  const sidecar = await hboneSidecar(t, { http: app.port, tcp: echoes.port });
  const { leaf, notAfter } = await shortLived(sidecar.ca);
  const client = await hboneClientWith(t, sidecar.port, leaf);
  const tcp = await client.open(TCP);
  const http = await client.open(HTTP);
  const closes = async (): Promise<boolean> =>
    /^connection: close/im.test(await http.exchange('GET / HTTP/1.1\r\nhost: orders\r\n\r\n'));
  await until('an answer that says close', closes);
  t.equal(await http.ended(), 'end');
  await until('GOAWAY', () => client.goaways.length > 0);
  t.ok(Date.now() < notAfter, 'before the end');
  tcp.write('still here');
  await tcp.until('the echo', (text) => text === 'still here');
  t.not(await tcp.reset, 0, 'reset');
  inTime(t, 'the stream is cut', notAfter);
  await within('the end of the tunnel', client.closed);
  t.equal((await sidecar.refused('peer_expired')).direction, 'inbound');

  const other = await hboneClient(t, sidecar);
  const refused = await other.open(TCP);
  await sidecar.rotate(undefined, await TestCa.create('O=another'));
  t.not(await refused.reset, 0, 'of a peer that is refused now: the stream');
  await within('the end of its tunnel', other.closed);
  await sidecar.refused('untrusted_issuer');
});

t.test('of a peer that is refused now everything is closed at once, and of no other', async (t) => {
  const sidecar = await inboundSidecar(t, app.port, { leaf: own });
  const tcpSidecar = await inboundSidecar(t, echoes.port, { leaf: own, protocol: 'tcp' });
  const [web, cart] = [await ca.leaf(spiffe('shop', 'web')), await ca.leaf(spiffe('shop', 'cart'))];
  const http = await openTls(t, sidecar.port, { leaf: web, ALPNProtocols: ISTIO_HTTP });
  t.equal(await http.get('/'), 200);
  const tcp = await openTls(t, tcpSidecar.port, { leaf: web, ALPNProtocols: ['istio'] });
  const kept = await openTls(t, tcpSidecar.port, { leaf: cart, ALPNProtocols: ['istio'] });
  for (const peer of [tcp, kept]) {
    peer.write('here');
    await peer.until('the echo', (text) => text === 'here');
  }
  for (const { path } of [sidecar, tcpSidecar])
    path.links.judge(({ identity, serial }) =>
      identity.uri === spiffe('shop', 'web')
        ? { ok: false, reason: 'revoked', detail: `serial ${serial}` }
        : null,
    );
  t.not(await http.ended(), 'end');
  t.not(await tcp.ended(), 'end');
  kept.write(' still');
  await kept.until('the echo', (text) => text === 'here still');
  const line = await until('the log line', () => tcpSidecar.lines.find(({ reason }) => reason === 'revoked'));
  t.match(line, { peer: spiffe('shop', 'web'), detail: /^serial [0-9a-f]+$/ });
  const again = await openTls(t, tcpSidecar.port, { leaf: web, ALPNProtocols: ['istio'] });
  t.not(await again.ended(), 'end', 'nor is it let in again');
});
