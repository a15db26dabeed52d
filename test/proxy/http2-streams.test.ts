/** HTTP/2 to HTTP/2: fields, trailers, interim answers, resets, GOAWAY and cancelling go on as they came. */
import { constants, type IncomingHttpHeaders, type ServerHttp2Stream, sensitiveHeaders } from 'node:http2';
import t from 'tap';
import { until, within } from '../e2e/harness/wait.ts';
import { ask, heard, http2App, http2Client, readAll } from './http2-app.ts';
import { inboundSidecar, passed, provider } from './inbound-sidecar.ts';

const {
  NGHTTP2_CANCEL,
  NGHTTP2_INTERNAL_ERROR,
  NGHTTP2_REFUSED_STREAM,
  NGHTTP2_ENHANCE_YOUR_CALM,
  NGHTTP2_NO_ERROR,
} = constants;

t.test('fields and trailers both ways, but for those that nobody may send', async (t) => {
  let seen: Record<string, unknown> = {};
  let tail: unknown = null;
  const app = await http2App(t, async (stream, headers) => {
    seen = headers;
    const { body, trailers } = await readAll(stream);
    tail = trailers;
    stream.additionalHeaders({ ':status': 103, link: '</style.css>' });
    stream.respond(
      { ':status': 201, 'content-type': 'text/plain', 'set-cookie': ['a=1', 'b=2'], 'x-raw': '\xe4' },
      { waitForTrailers: true },
    );
    stream.on('wantTrailers', () =>
      stream.sendTrailers({ 'x-sum': '1', authorization: 'no', 'x-forwarded-client-cert': 'no' }),
    );
    stream.end(body.toUpperCase());
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const answer = await ask(
    http2Client(t, sidecar.port),
    {
      ':method': 'POST',
      ':path': '/a//b?c=d',
      ':authority': 'orders:80',
      te: 'trailers',
      cookie: ['a=1', 'b=2'],
      'x-forwarded-client-cert': 'evil',
      x_forwarded_client_cert: 'evil',
      'x-many': ['1', '2'],
    },
    'hello',
    { 'x-tail': 't', 'x-forwarded-client-cert': 'evil', authorization: 'evil' },
  );
  t.match(seen, {
    ':method': 'POST',
    ':path': '/a//b?c=d',
    ':authority': 'orders:80',
    ':scheme': 'http',
    te: 'trailers',
    cookie: 'a=1; b=2',
    'x-many': '1, 2',
    'x-forwarded-proto': 'http',
  });
  t.match(seen['x-request-id'], /^[0-9a-f-]{36}$/);
  t.notOk('host' in seen || 'x-forwarded-client-cert' in seen || 'x_forwarded_client_cert' in seen);
  t.strictSame(Object.entries(tail ?? {}), [['x-tail', 't']]);
  t.match(answer, { status: 201, body: 'HELLO', whole: true, interim: [103] });
  t.strictSame(answer.headers['set-cookie'], ['a=1', 'b=2']);
  t.equal(answer.headers['x-raw'], '\xe4');
  t.strictSame(Object.entries(answer.trailers ?? {}), [['x-sum', '1']]);
  const [line] = await sidecar.accessed();
  t.match(line, {
    protocol: 'HTTP/2',
    response_code: 201,
    bytes_received: 5,
    bytes_sent: 5,
    response_flags: '-',
  });
});

t.test('fields that the sender would have no table remember stay out of ours', async (t) => {
  let seen: unknown = null;
  const app = await http2App(t, (stream, headers) => {
    seen = sensitiveOf(headers);
    stream.respond(
      { ':status': 200, 'x-secret': 's', [sensitiveHeaders]: ['x-secret'] },
      { endStream: true },
    );
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const answer = await ask(http2Client(t, sidecar.port), {
    authorization: 'Bearer x',
    'x-open': 'o',
    [sensitiveHeaders]: ['authorization'],
  });
  t.strictSame(seen, ['authorization']);
  t.strictSame(sensitiveOf(answer.headers), ['x-secret']);
});

t.test('answers without a body', async (t) => {
  const app = await http2App(t, (stream, headers) => {
    const status = Number(String(headers[':path']).slice(1));
    stream.respond({ ':status': status, 'content-length': status === 200 ? '5' : '0' }, { endStream: true });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  t.match(await ask(client, { ':path': '/204' }), { status: 204, body: '', whole: true });
  t.match(await ask(client, { ':path': '/304' }), { status: 304, body: '', whole: true });
  const head = await ask(client, { ':path': '/200', ':method': 'HEAD' });
  t.match(head, { status: 200, body: '', whole: true });
  t.equal(head.headers['content-length'], '5');
});

t.test('each request of a connection is judged on its own', async (t) => {
  const app = await http2App(t, (stream) => stream.respond({ ':status': 200 }, { endStream: true }));
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http2',
    resources: `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/secret*]}}]}]
`,
  });
  const client = http2Client(t, sidecar.port);
  const paths = ['/', '/secret', '/a/../secret', '/public', '/%73ecret', '/secret', '/'];
  const answers = await Promise.all(paths.map((path) => ask(client, { ':path': path })));
  t.strictSame(
    answers.map(({ status }) => status),
    [200, 403, 403, 200, 403, 403, 200],
  );
  t.equal(answers[1]?.body, 'RBAC: access denied');
  const { body, ...posted } = await ask(
    client,
    { ':path': '/secret', ':method': 'POST' },
    'x'.repeat(200_000),
  );
  t.match(posted, { status: 403, whole: true }, 'whatever its body');
  const lines = await sidecar.accessed();
  t.equal(lines.filter(({ policy }) => policy === 'shop/deny').length, 5);
});

t.test('a denied gRPC call is told so in its own words, in either version', async (t) => {
  const app = await http2App(t, (stream) => stream.respond({ ':status': 200 }, { endStream: true }));
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http2',
    resources: `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: shop}
spec: {}
`,
  });
  const client = http2Client(t, sidecar.port);
  const call = { ':method': 'POST', ':path': '/a/b', te: 'trailers' };
  const denied = await ask(client, { ...call, 'content-type': 'application/grpc+proto' }, 'x');
  t.match(denied, { status: 200, whole: true, trailers: null });
  t.match(denied.headers, {
    'content-type': 'application/grpc',
    'grpc-status': '7',
    'grpc-message': 'RBAC: access denied',
  });
  t.equal((await ask(client, { ...call, 'content-type': 'application/grpc-web' }, 'x')).status, 403);
});

t.test('a body is held for an external authorizer, then goes on whole', async (t) => {
  let got = '';
  const app = await http2App(t, async (stream) => {
    got = (await readAll(stream)).body;
    stream.respond({ ':status': 200 }, { endStream: true });
  });
  const requestBody = { maxRequestBytes: 10, allowPartialMessage: false, packAsBytes: false };
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http2',
    provider: { ...provider, requestBody },
    limits: { handshakeTimeout: 1_500 },
  });
  const client = http2Client(t, sidecar.port);
  const asked = ask(client, { ':method': 'POST', expect: '100-continue' }, 'short');
  const check = await sidecar.nextCheck();
  t.equal(check.request.request?.body?.toString(), 'short');
  t.equal(check.request.request?.protocol, 'HTTP/2');
  t.equal(got, '', 'nothing went on before');
  check.answer(passed);
  t.match(await asked, { status: 200, interim: [100] });
  t.equal(got, 'short');

  t.equal((await ask(client, { ':method': 'POST' }, 'longer than ten')).status, 413);
  t.equal((await ask(client, { ':method': 'POST', 'content-length': '15' }, 'longer than ten')).status, 413);

  const denied = ask(client, { ':method': 'POST' }, 'short');
  (await sidecar.nextCheck()).answer({ kind: 'denied', status: 418, fields: [], body: Buffer.from('no') });
  t.match(await denied, { status: 418, body: 'no' });

  // Its request leaves while the authorizer thinks.
  const leaving = client.request({ ':method': 'POST' });
  leaving.on('error', () => {});
  leaving.end('x');
  const third = await sidecar.nextCheck();
  leaving.close(NGHTTP2_CANCEL);
  await until('the check to be given up', () => third.signal.aborted);

  const slow = client.request({ ':method': 'POST' });
  slow.write('s');
  t.match(await heard(slow), { status: 408 });
  t.equal(sidecar.path.heldRoom.used, 0);
});

t.test('resets keep their code, both ways', async (t) => {
  const codes: number[] = [];
  let last: ServerHttp2Stream | null = null;
  const app = await http2App(t, (stream, headers) => {
    last = stream;
    stream.on('close', () => codes.push(stream.rstCode));
    const [, verb, code] = String(headers[':path']).split('/');
    if (verb === 'reset') stream.close(Number(code));
    else if (verb === 'cut') {
      // Otherwise Node would say END_STREAM before the reset.
      stream.on('wantTrailers', () => {});
      stream.respond({ ':status': 200 }, { waitForTrailers: true });
      stream.write('half');
      setTimeout(() => stream.close(Number(code)), 50);
    }
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  for (const code of [NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_INTERNAL_ERROR]) {
    t.match(await ask(client, { ':path': `/reset/${code}` }), { status: 0, code });
    t.match(await ask(client, { ':path': `/cut/${code}` }), {
      status: 200,
      body: 'half',
      whole: false,
      code,
    });
  }
  // A cut must not become an end, whatever it is called.
  const soft = await ask(client, { ':path': `/cut/${NGHTTP2_NO_ERROR}` });
  t.match(soft, { body: 'half', whole: false, code: NGHTTP2_INTERNAL_ERROR });

  for (const code of [NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR]) {
    last = null;
    codes.length = 0;
    const stream = client.request({ ':path': '/wait', ':method': 'POST' }, { waitForTrailers: true });
    stream.on('error', () => {});
    stream.write('part');
    await until('the app to see it', () => last);
    stream.close(code);
    await until('the app to see its reset', () => codes.length > 0);
    t.strictSame(codes, [code]);
  }
  const lines = await sidecar.accessed();
  t.equal(lines.filter(({ response_flags: flags }) => flags === 'UR').length, 7);
  t.equal(lines.filter(({ response_flags: flags }) => flags === 'DC').length, 2);
  t.equal(client.destroyed || client.closed, false, 'and the connection lives');
});

t.test('an upload that is cut never ends at the app', async (t) => {
  let ended = false;
  let aborted = false;
  const app = await http2App(t, (stream) => {
    stream.resume();
    stream.on('aborted', () => {
      aborted = true;
    });
    stream.on('end', () => {
      ended ||= !stream.aborted;
    });
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  const stream = client.request({ ':method': 'POST' }, { waitForTrailers: true });
  stream.on('error', () => {});
  stream.write('part');
  await until('the app to be asked', () => app.sessions.length > 0 && sidecar.path.connections.size > 0);
  stream.write('another');
  setTimeout(() => stream.close(NGHTTP2_CANCEL), 50);
  await until('the app to see the cut', () => aborted);
  t.notOk(ended);
});

t.test('an answer before the request is complete', async (t) => {
  const app = await http2App(t, (stream) => {
    stream.respond({ ':status': 413 });
    stream.end('too much');
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  const stream = client.request({ ':method': 'POST' });
  stream.write('x');
  t.match(await heard(stream), { status: 413, body: 'too much', whole: true, code: 0 });
});

t.test('both ways at once', async (t) => {
  const app = await http2App(t, (stream) => {
    stream.respond({ ':status': 200 });
    stream.pipe(stream);
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const stream = http2Client(t, sidecar.port).request({ ':method': 'POST' });
  const said: string[] = [];
  for (let i = 0; i < 5; i++) {
    const echoed = new Promise((resolve) => stream.once('data', (chunk) => resolve(String(chunk))));
    stream.write(`m${i}`);
    said.push(String(await within('an echo', echoed)));
  }
  stream.end();
  t.strictSame(said, ['m0', 'm1', 'm2', 'm3', 'm4']);
});

t.test('an app that says GOAWAY ends what it has; what it refused goes to another connection', async (t) => {
  let held: ServerHttp2Stream | null = null;
  const app = await http2App(t, async (stream, headers) => {
    if (headers[':path'] === '/held') {
      held = stream;
      return;
    }
    const { body } = await readAll(stream);
    stream.respond({ ':status': 200 });
    stream.end(`${app.sessions.indexOf(stream.session as never)} ${body}`);
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  const waiting = ask(client, { ':path': '/held' });
  await until('the app to hold it', () => held);
  t.equal((await ask(client, {}, null)).body, '0 ');
  app.sessions[0]?.close();
  // Whether the GOAWAY or the request comes first: it is answered.
  const more = await Promise.all([1, 2, 3].map((i) => ask(client, { ':method': 'POST' }, `${i}`)));
  t.strictSame(
    more.map(({ body }) => body),
    ['1 1', '1 2', '1 3'],
  );
  const stream = held as unknown as ServerHttp2Stream;
  stream.respond({ ':status': 200 });
  stream.end('late');
  t.match(await waiting, { status: 200, body: 'late', whole: true });
});

t.test('a request that the app refused unread is said again, once', async (t) => {
  let refusals = 0;
  let refuse = 1;
  const app = await http2App(t, async (stream) => {
    if (refuse-- > 0) {
      refusals++;
      stream.close(NGHTTP2_REFUSED_STREAM);
      return;
    }
    const { body, trailers } = await readAll(stream);
    stream.respond({ ':status': 200 });
    stream.end(body + String(trailers?.['x-tail']));
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  t.match(await ask(client, { ':method': 'POST' }, 'small', { 'x-tail': 't' }), {
    status: 200,
    body: 'smallt',
  });
  t.equal(refusals, 1);
  refuse = 2;
  t.equal((await ask(client, { ':method': 'POST' }, 'small')).status, 503);
  t.equal(refusals, 3);
});

t.test('an app that dies', async (t) => {
  const app = await http2App(t, (stream, headers) => {
    if (headers[':path'] === '/cut') {
      stream.respond({ ':status': 200 });
      stream.write('half');
      setTimeout(() => stream.session?.destroy(), 50);
    } else stream.session?.destroy();
  });
  const sidecar = await inboundSidecar(t, app.port, { protocol: 'http2' });
  const client = http2Client(t, sidecar.port);
  t.match(await ask(client, { ':path': '/' }), { status: 503, body: 'upstream closed without an answer' });
  const cut = await ask(client, { ':path': '/cut' });
  t.match(cut, { status: 200, body: 'half', whole: false });
  t.not(cut.code, 0);
});

t.test('a stream on which nothing moves', async (t) => {
  const codes: number[] = [];
  const app = await http2App(t, (stream, headers) => {
    stream.on('close', () => codes.push(stream.rstCode));
    if (headers[':path'] === '/begun') {
      stream.respond({ ':status': 200 });
      stream.write('b');
    }
  });
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http2',
    limits: { streamIdleTimeout: 600 },
  });
  const client = http2Client(t, sidecar.port);
  t.match(await ask(client, { ':path': '/' }), { status: 504, body: 'stream timeout' });
  t.match(await ask(client, { ':path': '/begun' }), { status: 200, whole: false, code: NGHTTP2_CANCEL });
  t.strictSame(codes, [NGHTTP2_CANCEL, NGHTTP2_CANCEL]);
  t.equal((await sidecar.accessed()).filter(({ response_flags: flags }) => flags === 'SI').length, 2);
});

t.test('many streams share few connections to the app, and leave nothing behind', async (t) => {
  const app = await http2App(t, async (stream) => {
    await readAll(stream);
    setTimeout(() => {
      if (!stream.destroyed) stream.respond({ ':status': 200 }, { endStream: true });
    }, 20);
  });
  const sidecar = await inboundSidecar(t, app.port, {
    protocol: 'http2',
    limits: { maxUpstreamStreams: 100 },
  });
  const client = http2Client(t, sidecar.port);
  const answers = await Promise.all(Array.from({ length: 500 }, (_, i) => ask(client, { ':path': `/${i}` })));
  t.equal(answers.filter(({ status, whole }) => status === 200 && whole).length, 500);
  t.ok(app.sessions.length <= 5, `${app.sessions.length} connections`);
  client.close();
  await until('the connection to be over', () => sidecar.path.connections.size === 0);
  t.equal(sidecar.path.loads.size, 0);
});

/** Which fields came as sensitive. */
function sensitiveOf(headers: IncomingHttpHeaders): unknown {
  return Reflect.get(headers, sensitiveHeaders);
}
