/** WebSockets through the pair: every frame as it was sent, aborts as aborts, and policy on the way in. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { type RawData, WebSocket, WebSocketServer } from 'ws';
import { echo, listen, tcpApp } from './harness/apps.ts';
import { open, type Peer } from './harness/clients.ts';
import { overHbone } from './harness/hbone.ts';
import { type Pair, startPair } from './harness/pair.ts';
import { bytesInKernel, hasTcpTable, written } from './harness/proc.ts';
import { HOST, policy } from './harness/shop.ts';
import { stalled, until, within } from './harness/wait.ts';

t.setTimeout(120_000);

const MB = 1_048_576;
const PART = 65_536;
const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';
/** RFC 6455 §1.3: the answer to that key. */
const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=';
const SWITCHED = `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${ACCEPT}\r\n\r\n`;

/** Requests that reached the app, and the tunnels it holds: as sockets all of them, as WebSockets those of `/ws`. */
const requests: string[] = [];
const tunnels = new Map<string, Socket>();
const servers = new Map<string, WebSocket>();

const plain = new WebSocketServer({ noServer: true, maxPayload: 32 * MB });
const deflating = new WebSocketServer({ noServer: true, perMessageDeflate: { threshold: 0 } });
const server = createServer(
  // What is not for `/ws` or `/raw` is declined: answered as if nobody had asked for an upgrade.
  { shouldUpgradeCallback: (request) => /^\/(ws|raw)/.test(request.url ?? '') },
  async (request, response) => {
    requests.push(`${request.method} ${request.url}`);
    await text(request);
    const status = Number(/^\/decline\/(\d+)/.exec(request.url ?? '')?.[1] ?? 200);
    response.writeHead(status, status === 426 ? { upgrade: 'websocket', connection: 'Upgrade' } : {});
    response.end('no tunnel');
  },
);
server.keepAliveTimeout = 60_000;
server.on('upgrade', (request, socket, head) => {
  const url = request.url ?? '';
  requests.push(`UPGRADE ${url}`);
  tunnels.set(url, socket as Socket);
  if (url.startsWith('/raw')) {
    serveRaw(url, socket as Socket, head);
    return;
  }
  const wss = url.includes('deflate') ? deflating : plain;
  wss.handleUpgrade(request, socket, head, (ws) => {
    servers.set(url, ws);
    ws.on('error', () => {});
    if (url.includes('echo')) ws.on('message', (data, binary) => ws.send(data, { binary }));
    if (url.includes('greet')) ws.send('hello');
  });
});

/** A tunnel without frames: an echo, or one that the test speaks for. */
function serveRaw(url: string, socket: Socket, head: Buffer): void {
  socket.on('error', () => {});
  if (url.includes('late')) return;
  socket.write(url.includes('greet') ? `${SWITCHED}first words` : SWITCHED, 'latin1');
  if (!url.includes('echo')) return;
  if (head.length > 0) socket.write(head);
  socket.pipe(socket);
}

const http = await listen(t, server);
const tcp = await tcpApp(t, echo);
const apps = { http: http.port, tcp: tcp.port };
const denied = policy('denied', '[{to: [{operation: {paths: ["/ws/denied*", "/denied*"]}}]}]', 'DENY');
const byHeader = policy(
  'by-header',
  '[{to: [{operation: {paths: ["/ws/header*"]}}], when: [{key: "request.headers[upgrade]", values: [websocket]}]}]',
  'DENY',
);
const pair = await startPair(t, apps, {
  resources: `${denied}---\n${byHeader}`,
  flags: ['--access-log', 'stderr'],
});
const { ports, orders, web } = pair;

async function connected(t: Test, path: string, options: { deflate?: boolean } = {}): Promise<WebSocket> {
  const { deflate = false } = options;
  const ws = new WebSocket(`ws://127.0.0.1:${ports.http}${path}`, {
    perMessageDeflate: deflate ? { threshold: 0 } : false,
    headers: { host: HOST },
    maxPayload: 32 * MB,
  });
  t.teardown(() => ws.terminate());
  await within(`a WebSocket at ${path}`, once(ws, 'open'));
  return ws;
}

/** The app's end of it. */
function atApp(path: string): Promise<WebSocket> {
  return until(`${path} at the app`, () => servers.get(path));
}

async function message(ws: WebSocket): Promise<{ data: Buffer; binary: boolean }> {
  const [data, binary] = (await within('a message', once(ws, 'message'))) as [RawData, boolean];
  return { data: data as Buffer, binary };
}

async function closed(ws: WebSocket): Promise<{ code: number; reason: string }> {
  const [code, reason] = (await within('the close', once(ws, 'close'))) as [number, Buffer];
  return { code, reason: reason.toString() };
}

function upgrade(path: string, more = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}\r\n\r\n${more}`;
}

/** A tunnel by hand, the head of its 101 read. */
async function rawTunnel(t: Test, path: string, more = ''): Promise<Peer> {
  const peer = await open(t, ports.http);
  peer.write(upgrade(path, more));
  const head = await peer.until('the 101', (all) => all.includes('\r\n\r\n'));
  t.match(head, /^HTTP\/1\.1 101 /);
  t.match(head, /\r\nupgrade: websocket\r\n/i);
  t.match(head, /\r\nconnection: upgrade\r\n/i);
  t.match(head, `\r\nSec-WebSocket-Accept: ${ACCEPT}\r\n`);
  return peer;
}

const afterHead = (all: string): string => all.slice(all.indexOf('\r\n\r\n') + 4);

for (const deflate of [false, true]) {
  t.test(`an echo of every size${deflate ? ', compressed' : ''}`, async (t) => {
    const ws = await connected(t, deflate ? '/ws/echo/deflate' : '/ws/echo', { deflate });
    t.equal(ws.extensions, deflate ? 'permessage-deflate' : '', 'the extension both ends agreed on');
    for (const size of [0, 1, 125, 126, 127, 65_535, 65_536, MB]) {
      for (const binary of [false, true]) {
        const sent = binary ? randomBytes(size) : Buffer.alloc(size, 'ä€x');
        if (!binary) sent.fill('x', size - (size % 6));
        ws.send(binary ? sent : sent.toString(), { binary });
        const got = await message(ws);
        t.equal(got.binary, binary);
        t.ok(got.data.equals(sent), `${size} bytes, ${binary ? 'binary' : 'text'}`);
      }
    }
  });
}

t.test('fragments, pings between them, and pongs nobody asked for', async (t) => {
  const ws = await connected(t, '/ws/echo/fragments');
  const there = await atApp('/ws/echo/fragments');
  const pongs: string[] = [];
  const unasked: string[] = [];
  ws.on('pong', (data) => pongs.push(data.toString()));
  there.on('pong', (data) => unasked.push(data.toString()));
  const part = randomBytes(100_000);
  const echoed = message(ws);
  for (let i = 0; i < 10; i++) {
    ws.send(part, { binary: true, fin: i === 9 });
    ws.ping(`ping ${i}`);
    ws.pong(`pong ${i}`);
  }
  t.ok((await echoed).data.equals(Buffer.concat(Array<Buffer>(10).fill(part))));
  t.same(
    pongs,
    Array.from({ length: 10 }, (_, i) => `ping ${i}`),
  );
  t.same(
    unasked,
    Array.from({ length: 10 }, (_, i) => `pong ${i}`),
  );
});

t.test('close codes, from either end', async (t) => {
  const rows: [code: number, reason: string][] = [
    [1000, ''],
    [1001, 'going away'],
    [1011, 'x'.repeat(123)],
    [3000, 'ä'],
    [4999, 'mine'],
  ];
  for (const [code, reason] of rows) {
    for (const from of ['client', 'app']) {
      const path = `/ws/close/${from}/${code}`;
      const ws = await connected(t, path);
      const there = await atApp(path);
      const [closing, other] = from === 'client' ? [ws, there] : [there, ws];
      const both = Promise.all([closed(closing), closed(other)]);
      closing.close(code, reason);
      for (const seen of await both) t.same(seen, { code, reason }, `${code} from the ${from}`);
    }
  }
});

t.test('what the app says first, and what the client says early', async (t) => {
  const ws = new WebSocket(`ws://127.0.0.1:${ports.http}/ws/greet`);
  t.teardown(() => ws.terminate());
  t.equal((await message(ws)).data.toString(), 'hello');
  const peer = await rawTunnel(t, '/raw/greet/echo');
  await peer.until('words in the same write as the 101', (all) => afterHead(all) === 'first words');
  const early = await rawTunnel(t, '/raw/echo/early', 'said before the 101');
  await early.until('the echo', (all) => afterHead(all) === 'said before the 101');
});

t.test('a tunnel carries any bytes', async (t) => {
  const peer = await rawTunnel(t, '/raw/echo/any');
  const bytes = Buffer.concat([
    Buffer.from('GET /denied HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n'),
    randomBytes(MB),
  ]);
  peer.write(bytes);
  await peer.until('all of it back', (all) => afterHead(all).length >= bytes.length);
  t.ok(peer.received.subarray(peer.received.indexOf('\r\n\r\n') + 4).equals(bytes));
  t.notOk(requests.includes('GET /denied'));
});

t.test('many at once', async (t) => {
  const all = await Promise.all(Array.from({ length: 100 }, () => connected(t, '/ws/echo/many')));
  const talk = async (ws: WebSocket, who: number): Promise<boolean> => {
    for (let i = 0; i < 20; i++) {
      const sent = `${who}: ${i} ${'x'.repeat((who * 131 + i * 977) % 5_000)}`;
      ws.send(sent);
      if ((await message(ws)).data.toString() !== sent) return false;
    }
    return true;
  };
  t.notOk((await Promise.all(all.map(talk))).includes(false));
  for (const ws of all) ws.close();
  await Promise.all(all.map(closed));
});

t.test('a reader that stops holds the app back, and gets every byte in the end', async (t) => {
  const path = '/ws/slow';
  const ws = await connected(t, path);
  const there = await atApp(path);
  const part = randomBytes(PART);
  const total = 16 * MB;
  const expected = createHash('sha256');
  ws.pause();
  for (let bytes = 0; bytes < total; bytes += PART) {
    expected.update(part);
    there.send(part);
  }
  const socket = await until("the app's socket", () => tunnels.get(path));
  await stalled('the app', () => written(socket));
  if (!hasTcpTable) t.ok(written(socket) < total, `the app wrote ${written(socket)} of ${total} bytes`);
  // A kernel with large buffers may take it all: what counts is what is in neither kernel nor reader.
  else {
    const held = written(socket) - bytesInKernel([ports.http, ports.ordersHttp, http.port]);
    t.ok(held < MB, `${held} bytes are in the two sidecars`);
  }
  const got = createHash('sha256');
  let bytes = 0;
  const done = new Promise<void>((resolve) => {
    ws.on('message', (data) => {
      got.update(data as Buffer);
      bytes += (data as Buffer).length;
      if (bytes === total) resolve();
    });
  });
  ws.resume();
  await within('all messages', done);
  t.equal(got.digest('hex'), expected.digest('hex'));
  ws.close();
});

t.test('an end stays an end, an abort an abort', async (t) => {
  const rows = [
    { from: 'client', how: 'abort', seen: 'ECONNRESET' },
    { from: 'client', how: 'end', seen: 'end' },
    { from: 'app', how: 'abort', seen: 'ECONNRESET' },
    { from: 'app', how: 'end', seen: 'end' },
  ] as const;
  for (const { from, how, seen } of rows) {
    const path = `/raw/${from}/${how}`;
    const peer = await rawTunnel(t, path);
    const there = await until(path, () => tunnels.get(path));
    if (from === 'client') {
      const over = endOf(there);
      peer.write('before');
      if (how === 'end') peer.end();
      else peer.abort();
      t.equal(await over, seen, `${how} of the client`);
      there.destroy();
    } else {
      there.write('last words');
      if (how === 'end') there.end();
      else there.resetAndDestroy();
      t.equal(await peer.ended(), seen, `${how} of the app`);
      if (how === 'end') t.equal(afterHead(peer.text), 'last words');
      peer.socket.destroy();
    }
  }
  const ws = await connected(t, '/ws/terminated');
  const there = await atApp('/ws/terminated');
  const seen = closed(there);
  ws.terminate();
  t.equal((await seen).code, 1006, 'no close frame was made up');
});

/** How a socket ended: a FIN is `end`. */
function endOf(socket: Socket): Promise<string> {
  const over = new Promise<string>((resolve) => {
    socket.once('end', () => resolve('end'));
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.once('close', () => resolve('closed'));
  });
  socket.resume();
  return within('the end of the tunnel', over);
}

t.test('a declined upgrade leaves an ordinary connection, judged request by request', async (t) => {
  for (const status of [200, 426]) {
    const peer = await open(t, ports.http);
    const answer = async (request: string): Promise<string> => {
      const from = peer.text.length;
      peer.write(request);
      const whole = /HTTP\/1\.1 (\d{3}) [\s\S]*\r\n\r\n[\s\S]*(0\r\n\r\n|no tunnel|denied)$/;
      const all = await peer.until('an answer', (text) => whole.test(text.slice(from)));
      return all.slice(from + 9, from + 12);
    };
    const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`;
    t.equal(await answer(upgrade(`/decline/${status}`)), String(status));
    t.equal(await answer(get('/after')), '200', 'the next request is served');
    t.equal(await answer(get('/denied')), '403', 'and the one after judged');
    const seen = requests.length;
    t.equal(await answer(upgrade('/decline/200', get('/denied/behind')).trimEnd().concat('\r\n\r\n')), '200');
    await peer.until('the answer to what came right behind it', (all) => all.endsWith('denied'));
    t.same(requests.slice(seen), ['GET /decline/200'], 'which never was taken for bytes of a tunnel');
    peer.write(upgrade('/ws/greet/after'));
    await peer.until('a tunnel after all that', (all) => all.includes('HTTP/1.1 101 '));
  }
});

t.test('policy judges upgrades', async (t) => {
  await refused(t, '/ws/denied');
  t.notOk(requests.includes('UPGRADE /ws/denied'), 'the app heard nothing of it');
});

t.test('policy sees the Upgrade field that the app will see', async (t) => {
  await refused(t, '/ws/header');
  t.notOk(requests.includes('UPGRADE /ws/header'), 'the app heard nothing of it');
  t.equal(await statusOf(t, '/ws/header'), 200, 'without the upgrade it is no such request');
});

async function refused(t: Test, path: string): Promise<void> {
  const { mark } = orders;
  const ws = new WebSocket(`ws://127.0.0.1:${ports.http}${path}`);
  t.teardown(() => ws.terminate());
  const status = await within(
    'the refusal',
    new Promise<number>((resolve, reject) => {
      ws.on('error', reject);
      ws.once('open', () => resolve(101));
      ws.once('unexpected-response', (_request, response: IncomingMessage) =>
        resolve(response.statusCode ?? 0),
      );
    }),
  );
  ws.on('error', () => {});
  t.equal(status, 403, path);
  if (status === 403)
    t.match(await orders.accessed({ path }, mark), { response_code: 403, reason: 'policy_denied' });
}

async function statusOf(t: Test, path: string): Promise<number> {
  const peer = await open(t, ports.http);
  peer.write(`GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\nConnection: close\r\n\r\n`);
  await peer.ended();
  return Number(peer.text.slice(9, 12));
}

t.test('only a WebSocket gets a tunnel', async (t) => {
  const rows: [title: string, request: string][] = [
    ['h2c', upgrade('/raw/echo/no').replace('Upgrade: websocket', 'Upgrade: h2c')],
    ['another protocol', upgrade('/raw/echo/no').replace('Upgrade: websocket', 'Upgrade: irc')],
    ['not named in Connection', upgrade('/raw/echo/no').replace('Connection: Upgrade\r\n', '')],
    ['HTTP/1.0', upgrade('/raw/echo/no').replace('HTTP/1.1', 'HTTP/1.0')],
  ];
  const seen = requests.length;
  for (const [title, request] of rows) {
    const peer = await open(t, ports.http);
    peer.write(request);
    const all = await peer.until('an answer', (all) => all.includes('\r\n\r\n'));
    t.match(all, /^HTTP\/1\.[01] [2-5]\d\d /, `${title}: ${all.slice(0, 40)}`);
    peer.socket.destroy();
  }
  t.notOk(
    requests.slice(seen).some((line) => line.startsWith('UPGRADE')),
    'the app was asked for none',
  );
});

t.test('twenty changes of policy: it lives until one denies it', async (t) => {
  const ws = await connected(t, '/ws/echo/reloads');
  for (let i = 1; i <= 20; i++) {
    await pair.mesh.change('more.yaml', policy('more', denying(`/round-${i}`), 'DENY'), [orders]);
    ws.send(`${i}`);
    t.equal((await message(ws)).data.toString(), `${i}`, `after change ${i}`);
  }
  const other = await connected(t, '/ws/echo/other');
  const there = await atApp('/ws/echo/reloads');
  const both = Promise.all([closed(ws), closed(there)]);
  const { mark } = orders;
  const before = await orders.refusals('policy_denied');
  await pair.mesh.change('more.yaml', policy('more', denying('/ws/echo/reloads'), 'DENY'), [orders]);
  for (const { code } of await both) t.equal(code, 1006, 'it is cut, at both ends');
  t.match(await orders.accessed({ path: '/ws/echo/reloads' }, mark), {
    response_code: 101,
    reason: 'policy_denied',
    policy: 'shop/more',
    response_code_details: 'rbac_access_denied_matched_policy[ns[shop]-policy[more]-rule[0]]',
  });
  t.equal(await orders.refusals('policy_denied'), before + 1);
  other.send('still here');
  t.equal((await message(other)).data.toString(), 'still here', 'the next one lives');
  other.close();
});

t.test('a policy that comes before the 101 holds for the tunnel behind it', async (t) => {
  const path = '/raw/late';
  const peer = await open(t, ports.http);
  peer.write(upgrade(path));
  const there = await until('the upgrade at the app', () => tunnels.get(path));
  const { mark } = orders;
  await pair.mesh.change('more.yaml', policy('more', denying(path), 'DENY'), [orders]);
  there.write(SWITCHED, 'latin1');
  // A tunnel's stream is reset before the 101 has left: that is no answer, and the connection is good for another.
  if (overHbone) await peer.until('a 503', (text) => text.startsWith('HTTP/1.1 503 '));
  else t.equal(await peer.ended(), 'ECONNRESET');
  t.match(await orders.accessed({ path }, mark), { reason: 'policy_denied', policy: 'shop/more' });
  pair.mesh.remove('more.yaml');
});

function denying(path: string): string {
  return `[{to: [{operation: {paths: ["${path}"]}}]}]`;
}

t.test('it is logged when it is over, with what it carried', async (t) => {
  const marks = [orders.mark, web.mark];
  const ws = await connected(t, '/ws/echo/logged');
  ws.send(Buffer.alloc(100_000));
  await message(ws);
  ws.close();
  await closed(ws);
  for (const [i, sidecar] of [orders, web].entries()) {
    const line = await sidecar.accessed({ path: '/ws/echo/logged' }, marks[i]);
    t.match(line, { response_code: 101, method: 'GET', response_flags: '-' });
    t.ok(Number(line.bytes_sent) >= 100_000, `${String(line.bytes_sent)} bytes to the client`);
    t.ok(Number(line.bytes_received) >= 100_000, `${String(line.bytes_received)} bytes from the client`);
  }
});

t.test('a drain leaves tunnels alone until its time is over', async (t) => {
  for (const which of ['orders', 'web'] as const) {
    const { ports, ...both }: Pair = await startPair(t, apps, { flags: ['--drain', '1s'] });
    const ws = new WebSocket(`ws://127.0.0.1:${ports.http}/ws/echo/drained`);
    t.teardown(() => ws.terminate());
    ws.on('error', () => {});
    await within('the tunnel', once(ws, 'open'));
    const over = closed(ws);
    const began = performance.now();
    both[which].process.signal('SIGTERM');
    await both[which].logged({ msg: 'stopping' });
    ws.send('still here');
    t.equal((await message(ws)).data.toString(), 'still here', `${which} drains`);
    t.equal((await over).code, 1006, 'cut, without a close frame of ours');
    t.ok(performance.now() - began >= 900, 'it had its second');
    t.same(await both[which].process.end(), { code: 0, signal: null });
  }
});

t.test('nothing is left', async (t) => {
  for (const sidecar of [orders, web]) await sidecar.metricIs('oarlock_connections_open', {}, 0);
  t.same(orders.process.stderr.matching({ level: 'error' }), []);
  t.same(web.process.stderr.matching({ level: 'error' }), []);
});
