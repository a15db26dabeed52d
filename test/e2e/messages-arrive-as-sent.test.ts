/** What HTTP/1.1 knows beyond heads and bodies passes both sidecars: interim answers, Expect, trailers, answers without a body. */
import { randomBytes } from 'node:crypto';
import {
  type Agent,
  type ClientRequest,
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  request,
  type ServerResponse,
} from 'node:http';
import { buffer, text } from 'node:stream/consumers';
import t from 'tap';
import { echo, listen, tcpApp } from './harness/apps.ts';
import { call, hasTool, keepAlive, open, run } from './harness/clients.ts';
import { startPair } from './harness/pair.ts';
import { HOST, policy } from './harness/shop.ts';
import { within } from './harness/wait.ts';

t.setTimeout(180_000);

const MB = 1_048_576;
/** What the app was sent behind the last body, and whether it was asked for leave to send one. */
let trailers: IncomingMessage['trailers'] = {};
let headers: IncomingMessage['headers'] = {};
let asked = 0;

const server = createServer((request, response) => void serve(request, response));
server.keepAliveTimeout = 60_000;
server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
  asked++;
  if (request.url?.startsWith('/refuse')) {
    response.writeHead(413).end('too much');
    return;
  }
  if (request.url !== '/no-continue') response.writeContinue();
  void serve(request, response);
});

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = await buffer(request);
  trailers = request.trailers;
  headers = request.headers;
  const [, verb = '', status = '200'] = (request.url ?? '').split('/');
  if (verb === 'hints') {
    response.writeProcessing();
    response.writeEarlyHints({ link: '</style.css>; rel=preload' });
    response.writeEarlyHints({ link: '</script.js>; rel=preload', 'x-hint': 'two' });
  }
  if (verb === 'trailers') {
    response.writeHead(200, { trailer: 'x-sum' });
    response.write('body');
    response.addTrailers({
      'X-Sum': '42',
      'Grpc-Status': '0',
      'Content-Length': '3',
      'Transfer-Encoding': 'gzip',
      Host: 'evil',
      Authorization: 'Bearer evil',
      'X-Forwarded-Client-Cert': 'evil',
      x_forwarded_client_cert: 'evil',
    });
    response.end();
  } else if (verb === 'bodiless') {
    response.writeHead(
      Number(status),
      request.method === 'HEAD' || status === '304' ? { 'content-length': 1000 } : {},
    );
    response.end();
  } else response.end(body.length > 0 ? body : `${request.method} ${request.url}`);
}

const http = await listen(t, server);
const tcp = await tcpApp(t, echo);
const { ports, orders, web } = await startPair(
  t,
  { http: http.port, tcp: tcp.port },
  {
    resources: policy('denied', '[{to: [{operation: {paths: ["/denied*"]}}]}]', 'DENY'),
    flags: ['--pool-idle-timeout', '500ms'],
  },
);

interface Sent {
  readonly request: ClientRequest;
  readonly answer: Promise<IncomingMessage>;
  /** Interim answers so far: status and headers. */
  readonly interim: { readonly status: number; readonly headers: OutgoingHttpHeaders }[];
}

function send(
  path: string,
  more: { method?: string; headers?: OutgoingHttpHeaders; agent?: Agent } = {},
): Sent {
  const outgoing = request({
    host: '127.0.0.1',
    port: ports.http,
    path,
    method: more.method ?? 'POST',
    headers: { host: HOST, ...more.headers },
    agent: more.agent ?? false,
  });
  const interim: Sent['interim'] = [];
  outgoing.on('information', ({ statusCode, headers }) => interim.push({ status: statusCode, headers }));
  const answer = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.once('error', reject);
  });
  return { request: outgoing, answer: within(`an answer to ${path}`, answer), interim };
}

t.test('Expect: 100-continue', async (t) => {
  const EXPECT = { expect: '100-continue', 'content-length': MB };
  const body = randomBytes(MB);
  const agent = keepAlive(t);

  await t.test('the body waits for leave and then passes', async (t) => {
    const { request, answer } = send('/', { headers: EXPECT, agent });
    const leave = new Promise<void>((resolve) => request.once('continue', resolve));
    request.flushHeaders();
    await within('100', leave);
    t.equal(asked, 1, 'it was the app that gave it');
    request.end(body);
    t.ok((await buffer(await answer)).equals(body));
  });

  await t.test('an app that refuses never sees the body', async (t) => {
    const { request, answer } = send('/refuse', { headers: EXPECT, agent });
    request.on('continue', () => t.fail('nobody gave leave'));
    request.flushHeaders();
    const refused = await answer;
    t.equal(refused.statusCode, 413);
    t.equal(await text(refused), 'too much');
    request.destroy();
  });

  await t.test('what policy denies gets no leave', async (t) => {
    const before = asked;
    const { request, answer } = send('/denied', { headers: EXPECT });
    request.on('continue', () => t.fail('nobody gave leave'));
    request.flushHeaders();
    t.equal((await answer).statusCode, 403);
    t.equal(asked, before, 'the app was not asked');
    request.destroy();
  });

  await t.test('a client that does not wait', async (t) => {
    for (const path of ['/', '/no-continue']) {
      const { request, answer } = send(path, { headers: EXPECT });
      request.end(body);
      t.ok((await buffer(await answer)).equals(body), path);
    }
  });

  if (!hasTool('curl')) return;
  await t.test('curl', async (t) => {
    const url = `http://127.0.0.1:${ports.http}`;
    const args = ['-sv', '--expect100-timeout', '20', '-H', 'Expect: 100-continue', '--data-binary', '@-'];
    const passed = await run('curl', [...args, `${url}/`], 'a'.repeat(MB));
    t.match(passed.output, '< HTTP/1.1 100 Continue');
    t.match(passed.output, '< HTTP/1.1 200 OK');
    t.ok(passed.output.includes('a'.repeat(MB)), 'the body came back');
    const refused = await run(
      'curl',
      [...args, `${url}/refuse`, '--next', '-s', `${url}/after`],
      'a'.repeat(MB),
    );
    t.match(refused.output, '< HTTP/1.1 413');
    t.notMatch(refused.output, '100 Continue');
    t.match(refused.output, 'GET /after', 'the next request is served');
    const denied = await run('curl', [...args, `${url}/denied`], 'a'.repeat(MB));
    t.match(denied.output, '< HTTP/1.1 403');
    t.notMatch(denied.output, '100 Continue');
  });
});

t.test('interim answers', async (t) => {
  const { request, answer, interim } = send('/hints', { method: 'GET' });
  request.end();
  t.equal((await answer).statusCode, 200);
  const hints = interim.filter(({ status }) => status === 103);
  t.equal(hints.length, 2);
  t.match(hints[0], { headers: { link: '</style.css>; rel=preload' } });
  t.match(hints[1], { headers: { link: '</script.js>; rel=preload', 'x-hint': 'two' } });
  t.match(await answer.then(text), 'GET /hints');

  const old = await open(t, ports.http);
  old.write(`GET /hints HTTP/1.0\r\nHost: ${HOST}\r\n\r\n`);
  await old.ended();
  // RFC 9110 §15.2: a server must not send a 1xx to an HTTP/1.0 client.
  t.match(old.text, /^HTTP\/1\.[01] 200 /);
});

t.test('trailers', async (t) => {
  const agent = keepAlive(t);
  for (const round of [1, 2]) {
    const { request, answer } = send('/trailers', { headers: { trailer: 'x-sum' }, agent });
    request.write('half ');
    request.addTrailers({
      'X-Sum': '41',
      'Content-Length': '3',
      'Transfer-Encoding': 'gzip',
      Host: 'evil',
      Authorization: 'Bearer evil',
      'X-Forwarded-Client-Cert': 'evil',
      x_forwarded_client_cert: 'evil',
    });
    request.end('half');
    const got = await answer;
    t.equal(await text(got), 'body');
    t.same(got.trailers, { 'x-sum': '42', 'grpc-status': '0' }, `round ${round}: to the client`);
    t.same(trailers, { 'x-sum': '41' }, `round ${round}: to the app`);
    t.notOk('x-sum' in headers, 'never among the headers');
    t.notOk('x-sum' in got.headers);
    t.notMatch(headers, { authorization: 'Bearer evil' });
  }
});

t.test('answers without a body, and what comes behind them on the same connection', async (t) => {
  const rows: [method: string, path: string, status: number][] = [
    ['HEAD', '/bodiless/200', 200],
    ['HEAD', '/bodiless/404', 404],
    ['GET', '/bodiless/204', 204],
    ['GET', '/bodiless/304', 304],
    ['HEAD', '/bodiless/304', 304],
    ['DELETE', '/bodiless/204', 204],
  ];
  const agent = keepAlive(t);
  const first = await call(ports.http, '/first', { agent });
  for (const [method, path, status] of rows) {
    const got = await call(ports.http, path, { method, agent });
    t.equal(got.status, status, `${method} ${path}`);
    t.equal(got.body.length, 0);
    if (method === 'HEAD' || status === 304) t.equal(got.headers['content-length'], '1000');
    const next = await call(ports.http, '/next', { agent });
    t.equal(next.body.toString(), 'GET /next', 'the next answer is its own');
    t.equal(next.localPort, first.localPort, 'over the same connection');
  }
});

t.test('bodies of every size, with a length and in chunks', async (t) => {
  const agent = keepAlive(t);
  for (const size of [1, 2, 1_000, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, MB]) {
    const body = randomBytes(size);
    for (const chunked of [false, true]) {
      const got = await call(ports.http, '/', { method: 'PUT', body, chunked, agent });
      t.ok(got.body.equals(body), `${size} bytes${chunked ? ' in chunks' : ''}`);
    }
  }
});

t.test('nothing is left', async (t) => {
  for (const sidecar of [web, orders]) {
    await sidecar.metricIs('oarlock_connections_open', {}, 0);
    t.same(sidecar.process.stderr.matching({ level: 'error' }), []);
  }
});
