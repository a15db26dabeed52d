/** Two sidecars between two apps: what is permitted arrives whole over mTLS, and what is not is refused and named. */
import type { Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { echo, httpApp, type Told, tcpApp } from './harness/apps.ts';
import { CaProcess } from './harness/ca-process.ts';
import { call, keepAlive, open } from './harness/clients.ts';
import { overHbone } from './harness/hbone.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { HOST, policy, shop, shopPorts } from './harness/shop.ts';
import { within } from './harness/wait.ts';

t.setTimeout(180_000);

const app = await httpApp(t);
let serveTcp: (socket: Socket) => void = echo;
const tcp = await tcpApp(t, (socket) => serveTcp(socket));
const ports = await shopPorts();
const web = 'cluster.local/ns/shop/sa/web';
const mesh = await Mesh.create(
  t,
  `${shop(ports, { http: app.port, tcp: tcp.port })}---
${policy('orders-viewer', `[{from: [{source: {principals: [${web}]}}], to: [{operation: {notPaths: [/secret*]}}]}]`)}---
${policy('orders-tcp', `[{from: [{source: {principals: [${web}]}}], to: [{operation: {ports: ["${ports.ordersTcp}"]}}]}]`)}---
${policy('no-deletes', `[{to: [{operation: {methods: [DELETE], ports: ["${ports.ordersHttp}"]}}]}]`, 'DENY')}`,
);
const ca = await CaProcess.start(t, join(mesh.dir, 'ca'));
const begin = async (name: string): Promise<Sidecar> =>
  ready(start(t, mesh.flags(`shop/${name}`, ...(await ca.flags(name)))));
const [caller, callee] = await Promise.all([begin('web'), begin('orders')]);

const MEGABYTE = Buffer.alloc(1_000_000, 'm');

t.test('the ready line names the identity the CA gave', async (t) => {
  t.equal(caller.identity, 'spiffe://cluster.local/ns/shop/sa/web');
  t.equal(callee.identity, 'spiffe://cluster.local/ns/shop/sa/orders');
});

t.test('bodies arrive whole, in either framing', async (t) => {
  const rows = [
    { title: 'no body', path: '/tell', sent: 0 },
    { title: 'Content-Length up', path: '/tell', method: 'POST', body: 'hello', sent: 5 },
    { title: 'chunked up', path: '/tell', method: 'POST', body: 'hello', chunked: true, sent: 5 },
    { title: '1 MB up with a length', path: '/tell', method: 'PUT', body: MEGABYTE, sent: 1_000_000 },
    {
      title: '1 MB up in chunks',
      path: '/tell',
      method: 'PUT',
      body: MEGABYTE,
      chunked: true,
      sent: 1_000_000,
    },
  ];
  for (const { title, path, sent, ...options } of rows) {
    const answer = await call(ports.http, path, options);
    t.equal(answer.status, 200, title);
    t.equal(tellOf(answer.body).bodyBytes, sent, title);
  }
  const down = [
    { title: '1 MB down with a length', path: '/bytes/1000000', size: 1_000_000 },
    { title: '1 MB down in chunks', path: '/chunks/1000000', size: 1_000_000 },
    { title: 'nothing, with a length', path: '/bytes/0', size: 0 },
    { title: 'nothing, in chunks', path: '/chunks/0', size: 0 },
  ];
  for (const { title, path, size } of down) {
    const answer = await call(ports.http, path);
    t.equal(answer.body.length, size, title);
  }
  const both = await call(ports.http, '/echo', { method: 'POST', body: MEGABYTE, chunked: true });
  t.ok(both.body.equals(MEGABYTE), '1 MB there and back, byte for byte');
});

t.test('one connection serves request after request', async (t) => {
  const agent = keepAlive(t);
  const used = new Set<number>();
  const rows = [
    { path: '/tell' },
    { path: '/tell', method: 'POST', body: 'x'.repeat(10_000) },
    { path: '/chunks/50000' },
    { path: '/tell', method: 'POST', body: 'y'.repeat(10_000), chunked: true },
    { path: '/bytes/7', method: 'HEAD' },
    { path: '/status/204' },
    { path: '/status/304' },
    { path: '/status/500' },
    { path: '/secret' },
    { path: '/tell' },
  ];
  for (const { path, ...options } of rows)
    used.add((await call(ports.http, path, { ...options, agent })).localPort);
  t.equal(used.size, 1, 'ten requests, one local port');
});

t.test('answers without a body', async (t) => {
  const head = await call(ports.http, '/bytes/1234', { method: 'HEAD' });
  t.equal(head.headers['content-length'], '1234', 'HEAD tells the length GET would have');
  t.equal(head.body.length, 0);
  for (const status of [204, 304]) {
    const answer = await call(ports.http, `/status/${status}`);
    t.equal(answer.status, status);
    t.equal(answer.body.length, 0);
  }
});

t.test('an HTTP/1.0 client gets an answer it understands', async (t) => {
  const peer = await open(t, ports.http);
  peer.write(`GET /chunks/30000 HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`);
  t.equal(await peer.ended(), 'end', 'the answer ends with the connection');
  const [head = '', ...rest] = peer.text.split('\r\n\r\n');
  t.match(head, /^HTTP\/1\.[01] 200 /);
  t.notMatch(head, /transfer-encoding/i, 'RFC 9112 §7: no transfer coding to a 1.0 client');
  t.equal(rest.join('\r\n\r\n').length, 30_000);
});

t.test('Expect: 100-continue is answered by the app, through both sidecars', async (t) => {
  const peer = await open(t, ports.http);
  peer.write(`PUT /tell HTTP/1.1\r\nHost: ${HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n`);
  await peer.until('100 (Continue)', (text) => text.startsWith('HTTP/1.1 100 '));
  peer.write('hello');
  const text = await peer.until('the answer', (text) => text.includes('bodyBytes'));
  t.match(text, /HTTP\/1\.1 200 OK[\s\S]*"bodyBytes":5/);
});

t.test('pipelined requests are answered in order', async (t) => {
  const peer = await open(t, ports.http);
  peer.write(
    ['/one', '/two', '/three'].map((path) => `GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`).join(''),
  );
  const text = await peer.until('three answers', (text) => text.includes('/three'));
  const order = [...text.matchAll(/"url":"(\/\w+)"/g)].map(([, url]) => url);
  t.same(order, ['/one', '/two', '/three']);
});

t.test('the app is told who called, and only by us', async (t) => {
  const headers = {
    'X-Forwarded-Client-Cert': ['By=spiffe://forged;URI=spiffe://cluster.local/ns/shop/sa/admin', 'Hash=00'],
    x_forwarded_client_cert: 'URI=spiffe://forged',
  };
  const { body } = await call(ports.http, '/tell', { headers });
  const { rawHeaders } = tellOf(body);
  const values = rawHeaders.filter(
    (_, i) => i % 2 === 1 && /forwarded.client.cert/i.test(rawHeaders[i - 1] ?? ''),
  );
  const { chain } = (await caller.admin('/certs')) as { chain: { fingerprint256: string }[] };
  const hash = chain[0]?.fingerprint256.replaceAll(':', '').toLowerCase();
  t.equal(values.length, 1, 'one, whatever came');
  t.equal(
    values[0],
    `By=spiffe://cluster.local/ns/shop/sa/orders;Hash=${hash};Subject="";URI=spiffe://cluster.local/ns/shop/sa/web`,
  );
});

t.test('what policy denies is 403, and log and access log name the policy', async (t) => {
  const rows = [
    { title: 'no ALLOW rule matches', path: '/secret', method: 'GET', policy: /orders-viewer/ },
    { title: 'a DENY rule matches', path: '/tell', method: 'DELETE', policy: /no-deletes/ },
  ];
  for (const { title, path, method, policy } of rows) {
    const { mark } = callee;
    const before = app.seen.count;
    const answer = await call(ports.http, path, { method });
    t.equal(answer.status, 403, title);
    t.equal(answer.body.toString(), 'RBAC: access denied', title);
    t.equal(app.seen.count, before, 'the app saw nothing');
    const logged = await callee.logged({ reason: 'policy_denied', policy }, mark);
    t.equal(logged.peer, 'spiffe://cluster.local/ns/shop/sa/web', 'the log names the peer');
    const accessed = await callee.accessed({ response_code: 403, path }, mark);
    t.match(accessed.policy, policy, 'so does the access log');
    t.match(accessed.response_code_details, /rbac_access_denied_matched_policy\[/);
  }
  t.ok((await callee.refusals('policy_denied')) >= 2);
});

t.test('metrics and access log tell both ends', async (t) => {
  const labels = {
    source_workload: 'web',
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
    destination_workload: 'orders',
    destination_principal: 'spiffe://cluster.local/ns/shop/sa/orders',
    destination_service: HOST,
    response_code: '200',
  };
  const ours = { ...labels, reporter: 'destination', connection_security_policy: 'mutual_tls' };
  const theirs = { ...labels, reporter: 'source', connection_security_policy: 'unknown' };
  const before = [
    await callee.metric('istio_requests_total', ours),
    await caller.metric('istio_requests_total', theirs),
  ];
  const mark = [callee.mark, caller.mark];
  await call(ports.http, '/told?by=access');
  await callee.metricIs('istio_requests_total', ours, (before[0] ?? 0) + 1);
  await caller.metricIs('istio_requests_total', theirs, (before[1] ?? 0) + 1);
  const inbound = await callee.accessed({ path: '/told?by=access' }, mark[0]);
  t.match(inbound, { direction: 'inbound', response_code: 200, connection_security_policy: 'mutual_tls' });
  const sni = overHbone ? null : `outbound_.${ports.http}_._.${HOST}`;
  t.equal(inbound.requested_server_name, sni, "Istio's SNI; a tunnel has none, as ztunnel's");
  const outbound = await caller.accessed({ path: '/told?by=access' }, mark[1]);
  t.match(outbound, { direction: 'outbound', response_code: 200 });
});

t.test('TCP: half-close both ways, aborts as aborts', async (t) => {
  t.test('the client ends first; the server answers after that', async (t) => {
    serveTcp = (socket) => {
      let got = '';
      socket.on('data', (chunk: Buffer) => {
        got += chunk;
      });
      socket.on('end', () => socket.end(`you said ${got}`));
    };
    const peer = await open(t, ports.tcp);
    peer.write('hello');
    peer.end();
    t.equal(await peer.ended(), 'end');
    t.equal(peer.text, 'you said hello');
  });
  t.test('the server ends first; the client goes on', async (t) => {
    let got = '';
    const whole = new Promise<void>((resolve) => {
      serveTcp = (socket) => {
        socket.end('goodbye');
        socket.on('data', (chunk: Buffer) => {
          got += chunk;
        });
        socket.on('end', resolve);
      };
    });
    const peer = await open(t, ports.tcp);
    t.equal(await peer.ended(), 'end');
    t.equal(peer.text, 'goodbye');
    peer.write('but I had ');
    peer.write('more to say');
    peer.end();
    await within('the rest', whole);
    t.equal(got, 'but I had more to say');
  });
  t.test('1 MB both ways', async (t) => {
    serveTcp = echo;
    const peer = await open(t, ports.tcp);
    peer.write(MEGABYTE);
    peer.end();
    t.equal(await peer.ended(), 'end');
    t.ok(peer.received.equals(MEGABYTE));
  });
  t.test("a client's abort is an abort to the app", async (t) => {
    const how = new Promise<string>((resolve) => {
      serveTcp = (socket) => {
        socket.on('data', () => {});
        socket.on('end', () => resolve('end'));
        socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
        socket.write('ready');
      };
    });
    const peer = await open(t, ports.tcp);
    peer.write('half a mess');
    await peer.until('the greeting', (text) => text === 'ready');
    peer.abort();
    t.equal(await within('the abort', how), 'ECONNRESET');
  });
  t.test("an app's abort is an abort to the client", async (t) => {
    serveTcp = (socket) => socket.once('data', () => socket.resetAndDestroy());
    const peer = await open(t, ports.tcp);
    peer.write('hello');
    t.equal(await peer.ended(), 'ECONNRESET');
  });
});

t.test('an answer that the app cuts is cut, not ended', async (t) => {
  await t.rejects(call(ports.http, '/cut'), 'the client sees an abort');
  t.equal((await call(ports.http, '/tell')).status, 200, 'and the next request is served');
});

function tellOf(body: Buffer): Told {
  return JSON.parse(body.toString()) as Told;
}
