/** TCP and gRPC probes through the sidecar: the cases of Istio's TestAppProbe and TestGRPCAppProbe, and hostile apps. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2';
import { connect, createServer, type Socket } from 'node:net';
import t from 'tap';
import { closedPort, emptyGrpcApp, healthApp, httpApp, listening, sidecar } from './helper.ts';

const LIVEZ = '/app-health/db/livez';

t.test('TCP: whoever accepts is well, on both families', async (t) => {
  for (const address of ['127.0.0.1', '::1', 'localhost']) {
    const ended = Promise.withResolvers<string>();
    const server = createServer((socket) => {
      socket.once('error', (error: NodeJS.ErrnoException) => ended.resolve(error.code ?? ''));
      socket.once('end', () => ended.resolve('end'));
      // A server that speaks first: what is not read would turn the close into a reset.
      socket.resume();
      socket.write('220 ready\r\n');
    });
    const port = await listening(t, server, address === '::1' ? '::1' : '127.0.0.1');
    const { ask } = await sidecar(t, { [LIVEZ]: { tcpSocket: { port } } }, { address });
    t.match(await ask(LIVEZ), { status: 200, body: '' }, address);
    t.equal(await ended.promise, 'end', 'closed cleanly');
  }
});

t.test('TCP: nobody there', async (t) => {
  const port = await closedPort();
  const { ask, turned } = await sidecar(t, { [LIVEZ]: { tcpSocket: { port } } });
  t.match(await ask(LIVEZ), { status: 500, body: /no connection to 127\.0\.0\.1:\d+: ECONNREFUSED/ });
  t.match(turned, [/ECONNREFUSED/]);
  // Istio's row tcp-livez-wrapped-ipv6: an address in brackets is none.
  const wrapped = await sidecar(t, { [LIVEZ]: { tcpSocket: { port } } }, { address: '[::1]' });
  t.equal((await wrapped.ask(LIVEZ)).status, 500);
});

t.test('TCP: an app that never closes is left after a while', async (t) => {
  const closed = Promise.withResolvers<void>();
  const server = createServer({ allowHalfOpen: true }, (socket: Socket) => {
    const more = (): void => {
      while (socket.writable && socket.write('x'.repeat(65_536)));
    };
    socket.on('drain', more);
    socket.once('close', () => closed.resolve());
    more();
  });
  const port = await listening(t, server, '127.0.0.1');
  const { ask } = await sidecar(t, { [LIVEZ]: { tcpSocket: { port } } });
  t.equal((await ask(LIVEZ)).status, 200);
  await closed.promise;
});

t.test('TCP: a listener that does not accept costs its time-out', async (t) => {
  // A backlog of one that is full: the kernel leaves further SYNs unanswered.
  const script =
    'import socket,sys\ns=socket.socket()\ns.bind(("127.0.0.1",0))\ns.listen(0)\nprint(s.getsockname()[1],flush=True)\nsys.stdin.read()';
  const child = spawn('python3', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const port = Number(line.toString());
  const waiting = Array.from({ length: 4 }, () => connect(port, '127.0.0.1').on('error', () => {}));
  t.teardown(() => {
    for (const socket of waiting) socket.destroy();
  });
  await once(waiting[0] as Socket, 'connect');
  const { ask } = await sidecar(t, { [LIVEZ]: { tcpSocket: { port }, timeoutSeconds: 1 } });
  t.match(await ask(LIVEZ), { status: 500, body: 'no answer within 1000 ms' });
});

t.test("gRPC: Istio's rows, on both families", async (t) => {
  for (const host of ['127.0.0.1', '::1']) {
    // UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN of health.proto.
    const app = await healthApp(
      t,
      { '': 1, 'serving-svc': 1, 'unknown-svc': 0, 'not-serving-svc': 2, 'service-unknown-svc': 3, later: 7 },
      host,
    );
    const rows: readonly (readonly [string | null, number, RegExp])[] = [
      [null, 200, /^$/],
      ['serving-svc', 200, /^$/],
      ['not-serving-svc', 500, /NOT_SERVING, not SERVING/],
      ['unknown-svc', 500, /UNKNOWN, not SERVING/],
      ['service-unknown-svc', 500, /SERVICE_UNKNOWN, not SERVING/],
      ['later', 500, /state 7/],
      ['nobody', 500, /gRPC status 5: unknown service nobody/],
    ];
    for (const [service, status, body] of rows) {
      const { ask, broken } = await sidecar(
        t,
        { [LIVEZ]: { grpc: { port: app.port, service }, timeoutSeconds: 5 } },
        { address: host },
      );
      t.match(
        await ask(LIVEZ, { headers: ['User-Agent', 'kube-probe/1.34'] }),
        { status, body },
        `${service}`,
      );
      t.same(broken, []);
    }
    t.equal(app.seen.calls, rows.length);
    t.match(app.seen.userAgent, /^kube-probe\/1\.34/);
  }
});

t.test('gRPC: servers that have no health service, or no gRPC', async (t) => {
  const rows: readonly (readonly [string, number, RegExp])[] = [
    ['nobody', await closedPort(), /no connection to .*ECONNREFUSED/],
    ['no such service', await emptyGrpcApp(t), /does not implement grpc\.health\.v1\.Health/],
    ['HTTP/1', await httpApp(t, (_, response) => response.end()), /no gRPC answer/],
    [
      'closes',
      await listening(
        t,
        createServer((socket) => socket.end()),
        '127.0.0.1',
      ),
      /no gRPC answer/,
    ],
  ];
  for (const [name, port, body] of rows) {
    const { ask, broken } = await sidecar(t, { [LIVEZ]: { grpc: { port }, timeoutSeconds: 5 } });
    t.match(await ask(LIVEZ), { status: 500, body }, name);
    t.same(broken, []);
  }
});

t.test('gRPC: answers that are not as they must be', async (t) => {
  const GRPC = { ':status': 200, 'content-type': 'application/grpc' };
  const message = (...bytes: number[]) => Buffer.from([0, 0, 0, 0, bytes.length, ...bytes]);
  const answers = (body: Buffer, trailers: Record<string, string>) => (stream: ServerHttp2Stream) => {
    stream.respond(GRPC, { waitForTrailers: true });
    stream.once('wantTrailers', () => stream.sendTrailers(trailers));
    stream.end(body);
  };
  const ok = { 'grpc-status': '0' };
  const rows: readonly (readonly [string, (stream: ServerHttp2Stream) => void, number, RegExp])[] = [
    ['as it must be', answers(message(8, 1), ok), 200, /^$/],
    ['a field nobody knows', answers(message(0x12, 2, 65, 66, 8, 1), ok), 200, /^$/],
    ['no field: UNKNOWN', answers(message(), ok), 500, /UNKNOWN/],
    ['no message', answers(Buffer.alloc(0), ok), 500, /no single message/],
    ['two messages', answers(Buffer.concat([message(8, 1), message(8, 1)]), ok), 500, /no single message/],
    ['a compressed one', answers(Buffer.from([1, 0, 0, 0, 2, 8, 1]), ok), 500, /no single message/],
    ['cut off', answers(Buffer.from([0, 0, 0, 0, 9, 8, 1]), ok), 500, /no single message/],
    ['no protobuf', answers(message(0xff, 0xff), ok), 500, /./],
    [
      'megabytes',
      (stream) => {
        stream.respond(GRPC);
        stream.write(Buffer.alloc(1 << 20));
      },
      500,
      /longer than 1024 bytes/,
    ],
    [
      'a status with a message',
      answers(Buffer.alloc(0), { 'grpc-status': '14', 'grpc-message': 'warming up' }),
      500,
      /gRPC status 14: warming up/,
    ],
    [
      'Trailers-Only',
      (stream) => stream.respond({ ...GRPC, 'grpc-status': '12' }, { endStream: true }),
      500,
      /does not implement/,
    ],
    ['a message, then failure', answers(message(8, 1), { 'grpc-status': '13' }), 500, /gRPC status 13/],
    [
      'no status',
      (stream) => {
        stream.respond(GRPC);
        stream.end(message(8, 1));
      },
      500,
      /no gRPC status, HTTP status 200/,
    ],
    [
      'a proxy that knows nothing',
      (stream) => stream.respond({ ':status': 502 }, { endStream: true }),
      500,
      /HTTP status 502/,
    ],
    ['reset', (stream) => stream.close(7), 500, /no gRPC answer/],
    ['gone', (stream) => stream.session?.destroy(), 500, /no gRPC answer/],
    ['never', () => {}, 500, /no answer within 1000 ms/],
  ];
  for (const [name, answer, status, body] of rows) {
    const server = createHttp2Server();
    server.on('stream', (stream: ServerHttp2Stream) => {
      stream.on('error', () => {});
      answer(stream);
    });
    server.on('sessionError', () => {});
    const port = await listening(t, server, '127.0.0.1');
    const { ask, broken } = await sidecar(t, { [LIVEZ]: { grpc: { port }, timeoutSeconds: 1 } });
    t.match(await ask(LIVEZ), { status, body }, name);
    t.same(broken, [], name);
  }
});

t.test('gRPC under capture comes from the address that the rules let past', async (t) => {
  const from = Promise.withResolvers<string | undefined>();
  const server = createHttp2Server();
  server.on('stream', (stream: ServerHttp2Stream) => {
    from.resolve(stream.session?.socket.remoteAddress);
    stream.respond({ ':status': 503 }, { endStream: true });
  });
  const port = await listening(t, server, '127.0.0.1');
  const { ask } = await sidecar(t, { [LIVEZ]: { grpc: { port } } }, { captured: true });
  await ask(LIVEZ);
  t.equal(await from.promise, '127.0.0.6');
});
