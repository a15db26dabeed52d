/** One HTTP version downstream and the other upstream: what a message says does not change on the way. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { constants, type ServerHttp2Stream } from 'node:http2';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { listen, tcpApp } from '../e2e/harness/apps.ts';
import { call, keepAlive, open } from '../e2e/harness/clients.ts';
import { stalled, until } from '../e2e/harness/wait.ts';
import { ask, heard, http2App, http2Client, readAll } from './http2-app.ts';
import { END_STREAM, frameClient, TYPE } from './http2-frames.ts';
import { inboundSidecar } from './inbound-sidecar.ts';

const { NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR } = constants;

/** An HTTP/1 app behind a port that is declared HTTP/1. */
async function http1App(t: Test, serve: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(serve);
  server.keepAliveTimeout = 60_000;
  return listen(t, server);
}

/** An app that answers the first request of each connection with these bytes. */
async function saying(t: Test, bytes: string, then: (socket: Socket) => void = () => {}) {
  return tcpApp(t, (socket) => {
    socket.once('data', () => socket.write(bytes, 'latin1', () => then(socket)));
  });
}

t.test('HTTP/2 to an app that speaks HTTP/1', async (t) => {
  let seen: IncomingMessage | null = null;
  const bodies: string[] = [];
  const app = await http1App(t, (request, response) => {
    seen = request;
    let body = '';
    request.on('data', (chunk) => {
      body += chunk;
    });
    request.on('end', () => {
      bodies.push(body);
      response.writeEarlyHints({ link: '</style.css>; rel=preload' });
      response.writeHead(201, {
        'x-a': ['1', '2'],
        'keep-alive': 'timeout=5',
        ...(request.method === 'HEAD' ? {} : { trailer: 'x-sum' }),
      });
      response.write('hel');
      if (request.method !== 'HEAD') response.addTrailers({ 'x-sum': '5', authorization: 'no' });
      response.end('lo');
    });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http' });
  const client = http2Client(t, sidecar.port);
  const answer = await ask(
    client,
    {
      ':method': 'POST',
      ':path': '/a?b',
      ':authority': 'orders:80',
      te: 'trailers',
      cookie: ['a=1', 'b=2'],
      'x-forwarded-client-cert': 'evil',
    },
    'body',
    { 'x-tail': 't', authorization: 'evil' },
  );
  t.match(answer, { status: 201, body: 'hello', whole: true, interim: [103] });
  t.strictSame(Object.entries(answer.trailers ?? {}), [['x-sum', '5']]);
  t.equal(answer.headers['x-a'], '1, 2');
  t.notOk(
    'connection' in answer.headers || 'keep-alive' in answer.headers || 'transfer-encoding' in answer.headers,
  );
  const request = seen as unknown as IncomingMessage;
  t.match(request, { method: 'POST', url: '/a?b', httpVersion: '1.1' });
  t.match(request.headers, { host: 'orders:80', 'transfer-encoding': 'chunked', cookie: 'a=1; b=2' });
  t.notOk('te' in request.headers || 'x-forwarded-client-cert' in request.headers);
  t.strictSame(Object.entries(request.trailers), [['x-tail', 't']]);
  t.strictSame(bodies, ['body']);

  // With a length, and without a body at all; one connection for all.
  t.match(await ask(client, { ':method': 'PUT', 'content-length': '3' }, 'abc'), {
    status: 201,
    whole: true,
  });
  t.match(await ask(client, { ':method': 'GET' }), { status: 201, whole: true });
  t.match(await ask(client, { ':method': 'HEAD' }), { status: 201, body: '', whole: true });
  t.strictSame(bodies, ['body', 'abc', '', '']);
  t.equal(app.sockets.size, 1);
});

t.test('what an HTTP/1 app says wrong', async (t) => {
  const answers: readonly (readonly [what: string, bytes: string, expected: object])[] = [
    ['no HTTP', 'SSH-2.0-x\r\n', { status: 502 }],
    ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab', { status: 502 }],
    [
      '101 unasked',
      'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n',
      { status: 502 },
    ],
    ['status 600', 'HTTP/1.1 600 What\r\ncontent-length: 0\r\n\r\n', { status: 502 }],
    [
      'a bad chunk',
      'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n',
      { status: 200, whole: false, code: NGHTTP2_INTERNAL_ERROR },
    ],
    [
      'nominated fields',
      'HTTP/1.1 200 OK\r\nconnection: x-a\r\nx-a: b\r\ncontent-length: 2\r\n\r\nok',
      { status: 200, body: 'ok', whole: true },
    ],
    ['until the end', 'HTTP/1.1 200 OK\r\n\r\nall', { status: 200, body: 'all', whole: true }],
    ['cut', 'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf', { status: 200, body: 'half', whole: false }],
    ['nothing', '', { status: 503 }],
  ];
  for (const [what, bytes, expected] of answers) {
    const app = await saying(t, bytes, (socket) => socket.end());
    const sidecar = await inboundSidecar(t, app.port, { protocol: 'http' });
    const answer = await ask(http2Client(t, sidecar.port), {});
    t.match(answer, expected, what);
    t.notOk('x-a' in answer.headers, what);
  }
});

t.test('a cancelled request aborts its HTTP/1 connection', async (t) => {
  const app = await http1App(t, () => {});
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http' });
  const client = http2Client(t, sidecar.port);
  const stream = client.request({ ':method': 'POST' });
  stream.on('error', () => {});
  stream.write('part');
  await until('the app to be asked', () => app.sockets.size === 1);
  stream.close(NGHTTP2_CANCEL);
  await until('the connection to be closed', () => app.sockets.size === 0);
});

t.test('a kept HTTP/1 connection that died is replaced for a GET, not for a POST', async (t) => {
  let count = 0;
  const app = await tcpApp(t, (socket) => {
    socket.on('data', () => {
      // Each connection serves one request, and dies at the second.
      if (count++ % 2 === 0) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
      else socket.destroy();
    });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http' });
  const client = http2Client(t, sidecar.port);
  t.equal((await ask(client, {})).status, 200);
  t.equal((await ask(client, {})).status, 200, 'said again');
  t.equal((await ask(client, { ':method': 'POST' }, 'x')).status, 503);
});

t.test('HTTP/1 to an app that speaks HTTP/2', async (t) => {
  let seen: Record<string, unknown> = {};
  let tail: unknown = null;
  const app = await http2App(t, async (stream, headers) => {
    seen = headers;
    const { body, trailers } = await readAll(stream);
    tail = trailers;
    stream.additionalHeaders({ ':status': 103, link: '</x>' });
    stream.respond({ ':status': 201, 'set-cookie': ['a=1', 'b=2'] }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '1', authorization: 'no' }));
    stream.end(body.toUpperCase());
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const peer = await open(t, sidecar.port);
  peer.write(
    'POST /a?b HTTP/1.1\r\nhost: orders:80\r\nconnection: x-hop\r\nx-hop: 1\r\nX-Forwarded-Client-Cert: evil\r\n' +
      'transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-tail: t\r\nauthorization: evil\r\n\r\n',
  );
  const text = await peer.until('an answer', (all) => all.endsWith('\r\n\r\n') && all.includes('x-sum'));
  t.match(seen, { ':method': 'POST', ':path': '/a?b', ':authority': 'orders:80', ':scheme': 'http' });
  t.notOk(
    ['host', 'connection', 'x-hop', 'transfer-encoding', 'x-forwarded-client-cert'].some(
      (name) => name in seen,
    ),
  );
  t.strictSame(Object.entries(tail ?? {}), [['x-tail', 't']]);
  t.match(text, /^HTTP\/1\.1 103 Early Hints\r\nlink: <\/x>\r\n\r\nHTTP\/1\.1 201 Created\r\n/);
  t.match(text, /set-cookie: a=1\r\nset-cookie: b=2\r\n/);
  t.match(text, /transfer-encoding: chunked\r\n/);
  t.match(text, /\r\n\r\n5\r\nABCDE\r\n0\r\nx-sum: 1\r\n\r\n$/);
  t.notMatch(text, /authorization|connection: close/);
  // The connection downstream is kept.
  peer.write('POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nok');
  await peer.until('a second answer', (all) => all.includes('2\r\nOK\r\n0\r\n'));
  t.equal(app.sessions.length, 1);
});

t.test('what an HTTP/2 app does, seen over HTTP/1', async (t) => {
  let cancelled = 0;
  const app = await http2App(t, (stream, headers) => {
    stream.on('aborted', () => cancelled++);
    const [, verb] = String(headers[':path']).split('/');
    if (verb === 'empty') stream.respond({ ':status': 200 }, { endStream: true });
    else if (verb === 'none') stream.respond({ ':status': 204 }, { endStream: true });
    else if (verb === 'length') {
      stream.respond({ ':status': 200, 'content-length': 5 });
      stream.end('hello');
    } else if (verb === 'cut') {
      stream.on('wantTrailers', () => {});
      stream.respond({ ':status': 200 }, { waitForTrailers: true });
      stream.write('half');
      setTimeout(() => stream.close(NGHTTP2_INTERNAL_ERROR), 50);
    } else if (verb === 'reset') stream.close(NGHTTP2_INTERNAL_ERROR);
    else if (verb === 'early') {
      stream.respond({ ':status': 413 });
      stream.end('too much');
    }
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const agent = keepAlive(t);
  const get = (path: string, method = 'GET') => call(sidecar.port, path, { agent, method });
  t.match(await get('/empty'), { status: 200, body: Buffer.alloc(0), headers: { 'content-length': '0' } });
  const none = await get('/none');
  t.equal(none.status, 204);
  t.notOk('content-length' in none.headers || 'transfer-encoding' in none.headers);
  const length = await get('/length');
  t.equal(length.headers['content-length'], '5');
  t.equal(length.body.toString(), 'hello');
  const head = await get('/length', 'HEAD');
  t.equal(head.headers['content-length'], '5');
  t.equal((await get('/reset')).status, 503);

  const cut = await open(t, sidecar.port);
  cut.write('GET /cut HTTP/1.1\r\nhost: orders\r\n\r\n');
  await cut.ended();
  t.match(cut.text, /half/);
  t.notMatch(cut.text, /0\r\n\r\n$/);
  t.not(cut.over, 'end');

  const early = await open(t, sidecar.port);
  early.write('POST /early HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000000\r\n\r\nabc');
  t.match(await early.until('the answer', (all) => all.includes('too much')), /^HTTP\/1\.1 413 /);

  const before = cancelled;
  const leaving = await open(t, sidecar.port);
  leaving.write('GET /wait HTTP/1.1\r\nhost: orders\r\n\r\n');
  await until('the app to wait', async () => (await get('/empty')).status === 200);
  leaving.abort();
  await until('the app to see it', () => cancelled > before);
});

t.test('a slow reader over HTTP/1 holds an HTTP/2 app back, and a slow app its client', async (t) => {
  let sent = 0;
  const app = await http2App(t, (stream, headers) => {
    if (headers[':method'] === 'POST') return;
    // Unread, Node would end it with a reset.
    stream.resume();
    stream.respond({ ':status': 200 });
    const more = (): void => {
      while (sent < 64 << 20) {
        sent += 65_536;
        if (!stream.write(Buffer.alloc(65_536))) {
          stream.once('drain', more);
          return;
        }
      }
      stream.end();
    };
    more();
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const reader = connect({ port: sidecar.port, host: '127.0.0.1' });
  t.teardown(() => reader.destroy());
  reader.write('GET / HTTP/1.1\r\nhost: orders\r\n\r\n');
  const stood = await stalled('what the app sends', () => sent);
  t.ok(stood < 24 << 20, `${stood} bytes went out`);
  let received = 0;
  let tail = '';
  reader.on('data', (chunk: Buffer) => {
    received += chunk.length;
    tail = chunk.toString('latin1').slice(-5);
  });
  await until('all to arrive', () => tail === '0\r\n\r\n');
  t.ok(received > 64 << 20);

  const up = await open(t, sidecar.port);
  up.write('POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 67108864\r\n\r\n');
  for (let i = 0; i < 1_024; i++) up.write(Buffer.alloc(65_536));
  const taken = await stalled('what is taken', () => up.socket.bytesWritten - up.socket.writableLength);
  t.ok(taken < 24 << 20, `${taken} bytes were taken`);
});

t.test('an undeclared port is spoken to as the downstream came', async (t) => {
  const app2 = await http2App(t, (stream) => stream.respond({ ':status': 202 }, { endStream: true }));
  const app1 = await http1App(t, (_request, response) => response.writeHead(203).end());
  const to2 = await inboundSidecar(t, app2.port, { protocol: 'auto' });
  const to1 = await inboundSidecar(t, app1.port, { protocol: 'auto' });
  t.equal((await ask(http2Client(t, to2.port), {})).status, 202);
  t.equal((await call(to1.port, '/')).status, 203);
  const wrong = http2Client(t, to1.port).request({});
  t.equal((await heard(wrong)).status, 503);
});

t.test('an answer over HTTP/1 waits for no more of it than has come', async (t) => {
  let stream: ServerHttp2Stream | null = null;
  const app = await http2App(t, (asked) => {
    stream = asked;
    asked.respond({ ':status': 200, 'x-large': 'h'.repeat(2_000) });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = await open(t, sidecar.port);
  client.write('GET / HTTP/1.1\r\nhost: orders\r\n\r\n');
  const head = await client.until('the head alone', (text) => text.endsWith('\r\n\r\n'));
  const asked = stream as unknown as ServerHttp2Stream;
  let body = '';
  for (const data of ['hello', 'x'.repeat(300)]) {
    asked.write(data);
    // RFC 9112 §7.1.
    body += `${data.length.toString(16)}\r\n${data}\r\n`;
    await client.until('a chunk', (text) => text === head + body);
  }
  asked.end();
  await client.until('the last chunk', (text) => text === `${head}${body}0\r\n\r\n`);
});

t.test('an answer that is all there at once ends with its last data, without a frame for that', async (t) => {
  for (const [what, bytes, data] of [
    ['a length', 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok', 'ok'],
    ['chunks', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', 'ok'],
  ] as const) {
    const app = await saying(t, bytes);
    const client = await frameClient(t, (await inboundSidecar(t, app.port, { protocol: 'http' })).port);
    client.request(1);
    const { flags, payload } = await client.next(TYPE.DATA, 1);
    t.equal(payload.toString(), data, what);
    t.equal(flags & END_STREAM, END_STREAM, what);
  }
});

t.test('an answer over HTTP/2 waits for no more of it than has come', async (t) => {
  let app: Socket | null = null;
  const { port } = await saying(t, 'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n', (socket) => {
    app = socket;
  });
  const client = await frameClient(t, (await inboundSidecar(t, port, { protocol: 'http' })).port);
  client.request(1);
  t.equal(await client.status(1), 200);
  (app as Socket | null)?.write('half');
  t.equal((await client.next(TYPE.DATA, 1)).payload.toString(), 'half');
});

t.test('what cannot be said in HTTP/2 costs a field, never the process', async (t) => {
  const chunks = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n';
  const length = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
  for (const [name, bytes] of [
    [
      'HTTP2-Settings in an interim answer',
      `HTTP/1.1 103 Early Hints\r\nHTTP2-Settings: AA\r\n\r\n${length}`,
      true,
    ],
    [
      'an interim answer with two ETags',
      `HTTP/1.1 103 Early Hints\r\nETag: a\r\nETag: b\r\n\r\n${length}`,
      true,
    ],
    ['HTTP2-Settings in trailers', `${chunks}HTTP2-Settings: AA\r\nX-Sum: 1\r\n\r\n`],
    ['two ETags in trailers', `${chunks}ETag: a\r\nETag: b\r\n\r\n`],
  ] as const) {
    const app = await saying(t, bytes);
    const sidecar = await inboundSidecar(t, app.port, { protocol: 'http' });
    const answer = await ask(http2Client(t, sidecar.port), { ':path': '/' });
    t.match(answer, { status: 200, body: 'ok', whole: true, code: 0 }, name);
  }
});

t.test('trailers of a request that cannot be said in HTTP/2', async (t) => {
  const app = await http2App(t, (stream) => {
    stream.resume();
    stream.on('end', () => {
      if (stream.aborted || stream.destroyed) return;
      stream.respond();
      stream.end('ok');
    });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  for (const trailers of ['HTTP2-Settings: AA\r\n', 'ETag: a\r\nETag: b\r\n', 'X-Sum: 1\r\n']) {
    const peer = await open(t, sidecar.port);
    peer.write(
      `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n${trailers}\r\n`,
    );
    await until(`an answer to ${trailers}`, () => peer.text.includes('\r\n\r\n'));
    t.match(peer.text, /^HTTP\/1\.1 200/, trailers);
    peer.abort();
  }
});

t.test('a body that the app is slow to take stays what it was while others are read', async (t) => {
  const held: (() => void)[] = [];
  const bodies: Buffer[] = [];
  const app = await http2App(t, (stream) => {
    const pieces: Buffer[] = [];
    held.push(() => stream.on('data', (piece: Buffer) => pieces.push(piece)));
    stream.on('end', () => {
      bodies.push(Buffer.concat(pieces));
      stream.respond();
      stream.end();
    });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const PIECE = 12_000;
  const PIECES = 20;
  const clients: Socket[] = [];
  for (let i = 0; i < 8; i++) {
    const socket = connect(sidecar.port, '127.0.0.1');
    t.teardown(() => socket.destroy());
    socket.on('error', () => {});
    socket.resume();
    socket.write(`POST /${i} HTTP/1.1\r\nHost: a\r\nContent-Length: ${PIECE * PIECES}\r\n\r\n`);
    clients.push(socket);
  }
  await until('all of them at the app', () => held.length === clients.length);
  for (let round = 0; round < PIECES; round++) {
    for (const [i, socket] of clients.entries()) socket.write(Buffer.alloc(PIECE, i + 1));
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const read of held) read();
  await until('all bodies', () => bodies.length === clients.length);
  for (const body of bodies) {
    t.equal(body.length, PIECE * PIECES);
    t.ok(body.equals(Buffer.alloc(body.length, body[0])), `nothing but ${body[0]}`);
  }
});
