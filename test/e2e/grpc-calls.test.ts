/** gRPC through a pair of sidecars: all four kinds of call, statuses, metadata, cancelling, deadlines, denials. */
import { readFile } from 'node:fs/promises';
import { connect, constants } from 'node:http2';
import { type Client, Metadata, status } from '@grpc/grpc-js';
import t from 'tap';
import { echo, tcpApp } from './harness/apps.ts';
import { chat, type GrpcApp, grpcApp, grpcClient, serverStream, service, unary } from './harness/grpc-app.ts';
import { Mesh, type Sidecar } from './harness/mesh.ts';
import { HOST, policy, shop, shopPorts } from './harness/shop.ts';
import { stalled, until, within } from './harness/wait.ts';

const bytes = (value: Buffer): Buffer => value;

let app: GrpcApp;
let client: Client;
let web: Sidecar;
let orders: Sidecar;
let mesh: Mesh;
let port: number;

t.before(async () => {
  const ports = await shopPorts();
  app = await grpcApp(t);
  const tcp = await tcpApp(t, echo);
  mesh = await Mesh.create(
    t,
    shop(ports, { http: app.port, tcp: tcp.port }).replaceAll('protocol: HTTP}', 'protocol: GRPC}'),
  );
  [web, orders] = await Promise.all([mesh.sidecar('web'), mesh.sidecar('orders')]);
  port = ports.http;
  client = grpcClient(t, port, HOST);
});

t.test('a unary call with metadata both ways', async (t) => {
  const mark = orders.mark;
  const metadata = new Metadata();
  metadata.set('x-asked', 'yes');
  metadata.set('x-raw-bin', Buffer.from([0, 1, 255]));
  const { answer, code, head, trailers } = await unary(client, 'hello', { metadata });
  t.equal(code, status.OK);
  t.equal(answer?.toString(), 'hello');
  t.same(head?.get('x-head'), ['h']);
  t.same(trailers?.get('x-tail'), ['t']);
  t.same(trailers?.get('x-tail-bin'), [Buffer.from([0, 255])]);
  t.same(app.seen.metadata?.get('x-asked'), ['yes']);
  t.same(app.seen.metadata?.get('x-raw-bin'), [Buffer.from([0, 1, 255])]);
  t.match(app.seen.metadata?.get('x-forwarded-client-cert')[0], /URI=spiffe:\/\/.*\/sa\/web$/);
  const line = await orders.accessed({ path: '/test.Echo/Unary' }, mark);
  t.match(line, {
    protocol: 'HTTP/2',
    response_code: 200,
    method: 'POST',
    connection_security_policy: 'mutual_tls',
  });
});

t.test('client streaming, server streaming, both', async (t) => {
  const collected = await within(
    'the count',
    new Promise<string>((resolve, reject) => {
      const call = client.makeClientStreamRequest(service.Collect.path, bytes, bytes, (error, value) =>
        error === null ? resolve(String(value)) : reject(error),
      );
      for (let i = 0; i < 20; i++) call.write(Buffer.alloc(1_000, i));
      call.end();
    }),
  );
  t.equal(collected, '20 20000');

  const spread: number[] = [];
  const stream = serverStream(client, '5 70000');
  stream.on('data', (message: Buffer) => spread.push(message.length));
  const ended = new Promise<number>((resolve) => stream.on('status', ({ code }) => resolve(code)));
  t.equal(await within('the end of the stream', ended), status.OK);
  t.same(spread, [70_000, 70_000, 70_000, 70_000, 70_000]);

  // Full duplex: each message is answered before the next one is said.
  const both = chat(client);
  const heard: string[] = [];
  both.on('data', (message: Buffer) => {
    heard.push(message.toString());
    if (heard.length < 3) both.write(Buffer.from(`m${heard.length}`));
    else both.end();
  });
  const over = new Promise<number>((resolve) => both.on('status', ({ code }) => resolve(code)));
  both.write(Buffer.from('m0'));
  t.equal(await within('the end of the chat', over), status.OK);
  t.same(heard, ['m0', 'm1', 'm2']);
});

t.test('a failing call keeps its status, message and trailers', async (t) => {
  const mark = orders.mark;
  const metadata = new Metadata();
  metadata.set('x-fail', String(status.FAILED_PRECONDITION));
  const { code, details, trailers } = await unary(client, 'x', { metadata });
  t.equal(code, status.FAILED_PRECONDITION);
  t.equal(details, 'as you wish: ü %');
  t.same(trailers?.get('x-tail'), ['t']);
  const line = await orders.accessed({ path: '/test.Echo/Unary' }, mark);
  t.match(line, { response_code: 200, grpc_response_status: '9' });
  t.equal(
    await orders.metric('istio_requests_total', { grpc_response_status: '9', request_protocol: 'grpc' }),
    1,
  );
  t.equal(
    await web.metric('istio_requests_total', { grpc_response_status: '9', request_protocol: 'grpc' }),
    1,
  );
});

t.test('an unknown service is what the app says it is', async (t) => {
  const { code } = await unary(client, 'x', { path: '/test.Nobody/Unary' });
  t.equal(code, status.UNIMPLEMENTED);
});

t.test('a cancelled call is cancelled at the app', async (t) => {
  const { calls, cancelled } = app.seen;
  const { mark } = orders;
  const metadata = new Metadata();
  metadata.set('x-wait', '1');
  const call = client.makeUnaryRequest(
    service.Unary.path,
    bytes,
    bytes,
    Buffer.from('x'),
    metadata,
    () => {},
  );
  await until('the app to be called', () => app.seen.calls === calls + 1);
  call.cancel();
  await until('the app to see it', () => app.seen.cancelled === cancelled + 1);
  const line = await orders.accessed({ path: '/test.Echo/Unary', response_flags: 'DC' }, mark);
  t.match(line.response_code_details, /^http2\.remote_reset$/);
});

t.test('a deadline ends the call at both ends', async (t) => {
  const before = app.seen.cancelled;
  const metadata = new Metadata();
  metadata.set('x-wait', '1');
  const { code } = await unary(client, 'x', { metadata, deadline: new Date(Date.now() + 500) });
  t.equal(code, status.DEADLINE_EXCEEDED);
  await until('the app to see it', () => app.seen.cancelled === before + 1);
});

t.test('8 MB both ways', async (t) => {
  const message = Buffer.alloc(8 << 20, 'abc');
  const { answer, code, details } = await unary(client, message);
  t.equal(code, status.OK, details);
  t.ok(answer?.equals(message));
});

t.test('a slow reader holds the app back, and the sidecars keep little', async (t) => {
  const kept = await Promise.all([resident(web), resident(orders)]);
  const session = connect(`http://127.0.0.1:${port}`);
  t.teardown(() => session.destroy());
  // 256 MB if nobody held it back.
  const stream = session.request({
    ':method': 'POST',
    ':path': service.Spread.path,
    ':authority': HOST,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.on('error', () => {});
  const before = app.seen.sent;
  stream.end(framed('4096 65536'));
  const sent = (await stalled('what the app sends', () => app.seen.sent - before)) * 65_536;
  t.ok(sent < 16 << 20, `${sent} bytes went out`);
  const now = await Promise.all([resident(web), resident(orders)]);
  now.forEach((bytes, i) => {
    const grown = bytes - (kept[i] ?? 0);
    t.ok(grown < 32 << 20, `${grown} bytes more are kept`);
  });
  stream.close(constants.NGHTTP2_CANCEL);
});

t.test('an app that reads slowly holds the caller back', async (t) => {
  const session = connect(`http://127.0.0.1:${port}`);
  t.teardown(() => session.destroy());
  const stream = session.request({
    ':method': 'POST',
    ':path': '/test.Echo/Sleep',
    ':authority': HOST,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.on('error', () => {});
  let sent = 0;
  const more = (): void => {
    while (sent < 256 << 20) {
      sent += 65_536;
      if (!stream.write(framed(Buffer.alloc(65_536 - 5)))) {
        stream.once('drain', more);
        return;
      }
    }
  };
  more();
  const stood = await stalled('what the caller sends', () => sent);
  t.ok(stood < 16 << 20, `${stood} bytes went out`);
  stream.close(constants.NGHTTP2_CANCEL);
});

t.test('500 calls at once on one connection', async (t) => {
  const all = await Promise.all(Array.from({ length: 500 }, (_, i) => unary(client, `call ${i}`)));
  t.same(
    all.map(({ answer }) => answer?.toString()),
    all.map((_, i) => `call ${i}`),
  );
});

t.test('a denied call gets PERMISSION_DENIED, and the next one is judged on its own', async (t) => {
  await mesh.change(
    'deny.yaml',
    policy('deny', '[{to: [{operation: {paths: ["/test.Echo/Unary"]}}]}]', 'DENY'),
    [orders],
  );
  const mark = orders.mark;
  const { code, details } = await unary(client, 'x');
  t.equal(code, status.PERMISSION_DENIED);
  t.equal(details, 'RBAC: access denied');
  const line = await orders.accessed({ path: '/test.Echo/Unary' }, mark);
  t.match(line, {
    response_code: 200,
    grpc_response_status: '7',
    reason: 'policy_denied',
    policy: 'shop/deny',
  });
  const both = chat(client);
  const over = new Promise<number>((resolve) => both.on('status', (end) => resolve(end.code)));
  both.on('data', () => both.end());
  both.write(Buffer.from('m'));
  t.equal(await within('the chat', over), status.OK);
  await mesh.change('deny.yaml', '', [orders]);
  t.equal((await unary(client, 'x')).code, status.OK);
});

t.test('an app that is gone is UNAVAILABLE', async (t) => {
  app.server.forceShutdown();
  const { code } = await unary(client, 'x');
  t.equal(code, status.UNAVAILABLE);
});

/** A message as gRPC frames it. */
function framed(message: Buffer | string): Buffer {
  const data = Buffer.from(message);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(data.length, 1);
  return Buffer.concat([head, data]);
}

/** Bytes a sidecar has in memory. */
async function resident({ process }: Sidecar): Promise<number> {
  const text = await readFile(`/proc/${process.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(text)?.[1] ?? 0) * 1024;
}
