/** Whoever reads slowly holds its sender back, through both sidecars: they keep little, and lose no byte. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  type ClientRequest,
  createServer,
  type IncomingMessage,
  request,
  type ServerResponse,
} from 'node:http';
import { connect, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import t from 'tap';
import { listen, tcpApp } from './harness/apps.ts';
import { hbonePorts, overHbone } from './harness/hbone.ts';
import { startPair } from './harness/pair.ts';
import { bytesInKernel, hasTcpTable, procOf, written } from './harness/proc.ts';
import { HOST } from './harness/shop.ts';
import { pause, stalled, until, within } from './harness/wait.ts';

t.setTimeout(120_000);

const MB = 1_048_576;
/** More than most kernels' buffers on the way can take. */
const TOTAL = 32 * MB;
/** Of one write: also how far a count of bytes written may be off. */
const BLOCK = 65_536;
/** What both sidecars together may hold of one connection. */
const HELD = MB;
/** Growth of one sidecar's resident memory while it carries eight flows that all stand still (MB). */
const GROWTH = 100;

/** Requests and connections that wait at the apps for the test to take them up. */
const requests = new Map<string, { request: IncomingMessage; response: ServerResponse }>();
const connections: Socket[] = [];
const server = createServer((request, response) => {
  requests.set(request.url ?? '', { request, response });
});
const http = await listen(t, server);
const tcp = await tcpApp(t, (socket) => connections.push(socket));
const { ports, orders, web } = await startPair(t, { http: http.port, tcp: tcp.port });
const sidecars = [web, orders];
const between = overHbone ? [hbonePorts().of('orders')] : [ports.ordersHttp, ports.ordersTcp];
const onTheWay = [ports.http, ports.tcp, ...between, http.port, tcp.port];

/** Bytes without a pattern, and the digest of what was taken of them. */
class Source {
  readonly #hash = createHash('sha256');
  readonly #block = randomBytes(BLOCK);
  readonly stream: Readable;

  constructor(total: number) {
    this.stream = Readable.from(this.#blocks(total), { objectMode: false, highWaterMark: BLOCK });
  }

  get digest(): string {
    return this.#hash.digest('hex');
  }

  *#blocks(total: number): Generator<Buffer> {
    for (let sent = 0; sent < total; sent += BLOCK) {
      // Every block another: one that is lost or changes places shows.
      const block = Buffer.from(this.#block);
      block.writeUInt32BE(sent / BLOCK, 0);
      this.#hash.update(block);
      yield block;
    }
  }
}

/** Reads all of it, with a rest after each megabyte. */
async function readSlowly(stream: Readable): Promise<string> {
  const hash = createHash('sha256');
  let rest = MB;
  // Its other direction may go on when this one is over.
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
    hash.update(chunk as Buffer);
    rest -= (chunk as Buffer).length;
    if (rest > 0) continue;
    rest += MB;
    await pause(5);
  }
  return hash.digest('hex');
}

/** A flow that has begun and whose reader has not. */
interface Flow {
  /** The sender's socket. */
  readonly sender: Socket;
  readonly source: Source;
  readonly outgoing?: ClientRequest;
  /** Lets the reader read to the end; the digest of what it got. */
  read(): Promise<string>;
  /** Lets the reader go without having read. */
  abort(): void;
}

let count = 0;

/** The client asks, and does not read the answer. */
async function download(framing: 'length' | 'chunked' | 'close'): Promise<Flow> {
  const path = `/down/${framing}/${++count}`;
  const outgoing = request({
    host: '127.0.0.1',
    port: ports.http,
    path,
    headers: { host: HOST },
    agent: false,
  });
  outgoing.on('error', () => {});
  const answered = once(outgoing, 'response');
  outgoing.end();
  const { response } = await until(path, () => requests.get(path));
  const source = new Source(TOTAL);
  const { socket } = response;
  if (socket === null) throw new Error('no socket');
  response.on('error', () => {});
  if (framing === 'length') response.setHeader('content-length', TOTAL);
  // RFC 9112 §6.3: neither a length nor chunks, so the connection's end is the body's.
  if (framing === 'close') {
    response.useChunkedEncodingByDefault = false;
    response.setHeader('connection', 'close');
  }
  pipeline(source.stream, response).catch(() => {});
  const [answer] = (await within('the head', answered)) as [IncomingMessage];
  answer.on('error', () => {});
  return {
    sender: socket,
    source,
    read: () => readSlowly(answer),
    abort: () => outgoing.destroy(),
  };
}

/** The client sends, and the app does not read. */
async function upload(framing: 'length' | 'chunked'): Promise<Flow> {
  const path = `/up/${framing}/${++count}`;
  const length = framing === 'length' ? { 'content-length': TOTAL } : {};
  const outgoing = request({
    host: '127.0.0.1',
    port: ports.http,
    path,
    method: 'POST',
    headers: { host: HOST, ...length },
    agent: false,
  });
  outgoing.on('error', () => {});
  const answered = once(outgoing, 'response');
  const [sender] = (await once(outgoing, 'socket')) as [Socket];
  const source = new Source(TOTAL);
  pipeline(source.stream, outgoing).catch(() => {});
  const { request: incoming, response } = await until(path, () => requests.get(path));
  incoming.on('error', () => {});
  return {
    sender,
    source,
    outgoing,
    async read() {
      const digest = await readSlowly(incoming);
      response.end(digest);
      const [answer] = (await within('the answer', answered)) as [IncomingMessage];
      return text(answer);
    },
    abort: () => incoming.destroy(),
  };
}

async function raw(from: 'client' | 'app'): Promise<Flow> {
  const before = connections.length;
  const client = connect({ port: ports.tcp, host: '127.0.0.1', allowHalfOpen: true });
  client.on('error', () => {});
  const app = await until('the connection at the app', () => connections[before]);
  const [sender, reader] = from === 'client' ? [client, app] : [app, client];
  const source = new Source(TOTAL);
  pipeline(source.stream, sender).catch(() => {});
  return {
    sender,
    source,
    async read() {
      const digest = await readSlowly(reader);
      reader.end();
      return digest;
    },
    abort: () => reader.resetAndDestroy(),
  };
}

const rows: [title: string, start: () => Promise<Flow>][] = [
  ['an answer with a length', () => download('length')],
  ['an answer in chunks', () => download('chunked')],
  ['an answer that ends with its connection', () => download('close')],
  ['an upload with a length', () => upload('length')],
  ['an upload in chunks', () => upload('chunked')],
  ['TCP to the client', () => raw('app')],
  ['TCP to the app', () => raw('client')],
];

for (const [title, start] of rows) {
  t.test(title, async (t) => {
    const flow = await start();
    const stoodAt = await stalled('the sender', () => written(flow.sender));
    if (!hasTcpTable) t.ok(stoodAt < TOTAL, `the sender is held back at ${stoodAt} of ${TOTAL} bytes`);
    // A kernel with large buffers may take it all: what counts is what is in neither kernel nor reader.
    else {
      const held = stoodAt - bytesInKernel(onTheWay);
      t.ok(held < HELD, `${held} bytes are in the two sidecars`);
    }
    const got = await within('all of it', flow.read());
    t.equal(got, flow.source.digest, 'every byte came through');
    if (!flow.sender.destroyed) flow.sender.destroy();
  });
}

t.test('10 MB each way at once, both ends slow', async (t) => {
  const total = 10 * MB;
  const before = connections.length;
  const client = connect({ port: ports.tcp, host: '127.0.0.1', allowHalfOpen: true });
  const app = await until('the connection at the app', () => connections[before]);
  const path = '/both';
  const outgoing = request({
    host: '127.0.0.1',
    port: ports.http,
    path,
    method: 'POST',
    headers: { host: HOST },
    agent: false,
  });
  const answered = once(outgoing, 'response');
  const [up, down, httpUp, httpDown] = Array.from({ length: 4 }, () => new Source(total)) as [
    Source,
    Source,
    Source,
    Source,
  ];
  const sending = [
    pipeline(up.stream, client),
    pipeline(down.stream, app),
    pipeline(httpUp.stream, outgoing),
  ];
  const { request: incoming, response } = await until(path, () => requests.get(path));
  const uploaded = readSlowly(incoming);
  sending.push(answerBehind(uploaded, pipeline(httpDown.stream, response, { end: false }), response));
  const [answer] = (await within('the head', answered)) as [IncomingMessage];
  const got: string[] = [];
  for (const reading of [readSlowly(app), readSlowly(client), uploaded, readSlowly(answer)])
    got.push(await within(`flow ${got.length}`, reading));
  await Promise.all(sending);
  t.same(got, [up.digest, down.digest, httpUp.digest, httpDown.digest]);
});

t.test('eight flows that stand still cost little memory, and end when their reader goes', async (t) => {
  const before = sidecars.map(({ process: { pid } }) => procOf(pid)?.rss() ?? 0);
  const chosen = [...rows, rows[0] as (typeof rows)[0]];
  const flows: Flow[] = [];
  // One after the other: what arrives at the TCP app has no name.
  for (const [, start] of chosen) flows.push(await start());
  await stalled('all senders', () => flows.reduce((sum, { sender }) => sum + written(sender), 0));
  for (const [i, { process }] of sidecars.entries()) {
    const rss = procOf(process.pid)?.rss() ?? 0;
    t.ok(
      rss < (before[i] ?? 0) + GROWTH,
      `resident: ${before[i]} MB before, ${rss} MB with ${flows.length * 32} MB on their way`,
    );
  }
  const gone = flows.map(({ sender }) => closing(sender));
  for (const flow of flows) flow.abort();
  for (const [i, [title]] of chosen.entries())
    await within(`the sender of ${title} to be told`, gone[i] as Promise<void>);
});

/** Ends an answer once the upload it answers is read: one that ends before may cut the upload short. */
async function answerBehind(
  read: Promise<string>,
  sent: Promise<void>,
  response: ServerResponse,
): Promise<void> {
  await Promise.all([read, sent]);
  response.end();
}

t.test('an app that answers and never reads: the client has its answer, and nothing hangs', async (t) => {
  const flow = await upload('length');
  const { response } = [...requests.values()].at(-1) as { response: ServerResponse };
  await stalled('the client', () => written(flow.sender));
  const over = closing(flow.sender);
  const answer = new Promise<number>((resolve) => {
    flow.outgoing?.once('response', (answer: IncomingMessage) => {
      answer.resume();
      resolve(answer.statusCode ?? 0);
    });
  });
  response.writeHead(413).end('no');
  t.equal(await within('the answer', answer), 413);
  await within('the end of the upload', over);
});

function closing(socket: Socket): Promise<void> {
  socket.on('error', () => {});
  return new Promise((resolve) => {
    if (socket.destroyed) resolve();
    else socket.once('close', () => resolve());
  });
}

t.test('nothing is left', async (t) => {
  for (const sidecar of sidecars) {
    await sidecar.metricIs('oarlock_connections_open', {}, 0);
    t.same(sidecar.process.stderr.matching({ level: 'error' }), []);
  }
});
