/** HTTP probes through the sidecar: the cases of Istio's TestAppProbe, TestHttpsAppProbe and TestProbeHeader, and hostile apps. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Socket } from 'node:net';
import t from 'tap';
import { until } from '../e2e/harness/wait.ts';
import { type Answer, closedPort, httpApp, httpsApp, listening, sidecar } from './helper.ts';

const LIVEZ = '/app-health/web/livez';

function httpGet(port: number, more: object = {}, timeoutSeconds = 5): object {
  return { [LIVEZ]: { httpGet: { port, ...more }, timeoutSeconds } };
}

/** Istio's app: server_test.go, `handler.ServeHTTP`. */
function istioApp(request: IncomingMessage, response: ServerResponse): void {
  const [, first = '', second = ''] = (request.url ?? '').split('/');
  if (first === 'header') {
    const right = request.headers.host === 'test.com:9999' && request.headers['some-header'] === 'some-value';
    response.writeHead(right ? 200 : 400).end();
  } else if (first === 'redirect') response.writeHead(301, { location: '/' }).end();
  else if (first === 'redirect-loop') response.writeHead(301, { location: '/redirect-loop' }).end();
  else if (first === 'remote-redirect') response.writeHead(301, { location: 'http://example.com/foo' }).end();
  else if (first === 'status') response.writeHead(Number(second), { location: '/' }).end();
  else response.end('welcome, it works');
}

t.test("Istio's rows", async (t) => {
  const port = await httpApp(t, istioApp);
  const rows: readonly (readonly [string, number])[] = [
    ['/hello/sunnyvale', 200],
    ['hello/texas', 200],
    ['', 200],
    ['redirect', 200],
    ['redirect-loop', 500],
    ['remote-redirect', 200],
  ];
  for (const [path, status] of rows) {
    const { ask } = await sidecar(t, httpGet(port, { path }));
    t.equal((await ask(LIVEZ)).status, status, path);
  }
  const { ask } = await sidecar(t, httpGet(port, { path: '/header' }));
  t.equal(
    (await ask(LIVEZ, { headers: ['Some-Header', 'some-value', 'Host', 'test.com:9999'] })).status,
    200,
  );
  t.equal((await ask(LIVEZ)).status, 400);
});

t.test("the app's status comes back, and a redirect as success", async (t) => {
  const port = await httpApp(t, istioApp);
  for (const status of [200, 201, 204, 206, 300, 304, 305, 307, 308, 400, 404, 418, 429, 500, 503, 511]) {
    const { ask } = await sidecar(t, httpGet(port, { path: `status/${status}` }));
    t.equal((await ask(LIVEZ)).status, status >= 300 && status < 400 ? 200 : status, `${status}`);
  }
});

t.test('only what the table has is served, and by GET', async (t) => {
  const asked: string[] = [];
  const port = await httpApp(t, (request, response) => {
    asked.push(request.url ?? '');
    response.end();
  });
  const { ask } = await sidecar(t, httpGet(port, { path: '/live' }));
  for (const path of [
    '/app-health/web/readyz',
    '/app-health/other/livez',
    '/app-health/web/livez/',
    '/app-health/web/livez/../readyz',
    '/app-health//web/livez',
    '/app-health/web',
    '/app-health/',
    '/app-lifecycle/web/prestopz',
    '/app-health/web%2flivez',
    `http://127.0.0.1:${port}/app-health/web/livez`,
  ]) {
    t.equal((await ask(path)).status, 404, path);
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
    t.equal((await ask(LIVEZ, { method })).status, 405, method);
  }
  t.same(asked, [], 'the app was not asked');
  t.equal((await ask(`${LIVEZ}?path=/other&port=1`)).status, 200);
  t.same(asked, ['/live'], 'a query changes nothing');
});

t.test("the kubelet's headers go on, but those about the connection and the caller", async (t) => {
  const seen: IncomingMessage[] = [];
  const port = await httpApp(t, (request, response) => {
    seen.push(request);
    response.end();
  });
  const { ask, port: ours } = await sidecar(t, httpGet(port, { path: '/live?full=1' }));
  const headers = [
    ...['User-Agent', 'kube-probe/1.34', 'Accept', '*/*', 'Some-Header', 'one', 'some-header', 'two'],
    ...[
      'Keep-Alive',
      'timeout=5',
      'TE',
      'trailers',
      'Upgrade',
      'h2c',
      'X-Forwarded-Client-Cert',
      'URI=spiffe://cluster.local/ns/shop/sa/admin',
      'Expect-CT',
      'stays',
      'X-Latin',
      'caf\xe9',
    ],
  ];
  t.equal((await ask(LIVEZ, { headers })).status, 200);
  t.equal(seen[0]?.url, '/live?full=1');
  t.strictSame(seen[0]?.rawHeaders, [
    // Our port in Host becomes the app's.
    ...['Host', `127.0.0.1:${port}`],
    ...['User-Agent', 'kube-probe/1.34', 'Accept', '*/*', 'Some-Header', 'one', 'some-header', 'two'],
    ...['Expect-CT', 'stays', 'X-Latin', 'caf\xe9'],
    ...['Connection', 'close'],
  ]);
  const hosts: readonly (readonly [string, string])[] = [
    ['web.example', 'web.example'],
    ['web.example:9999', 'web.example:9999'],
    [`web.example:${ours}`, `web.example:${port}`],
    [`[fd00::1]:${ours}`, `[fd00::1]:${port}`],
  ];
  for (const [host, arrives] of hosts) {
    await ask(LIVEZ, { headers: ['Host', host] });
    t.equal(seen.at(-1)?.headers.host, arrives, host);
  }
});

t.test('redirects: followed on the same host alone, whatever port and scheme', async (t) => {
  const met: string[] = [];
  const tls = await httpsApp(t, null, (request, response) => {
    met.push(`tls ${request.headers.host} ${request.url}`);
    response.writeHead(203).end('over TLS');
  });
  const locations: Record<string, string> = {};
  const port = await httpApp(t, (request, response) => {
    const { url = '', headers } = request;
    met.push(`${headers.host} ${url}`);
    const location = locations[url];
    response.writeHead(location === undefined ? 202 : 302, location === undefined ? {} : { location }).end();
  });
  const rows: readonly (readonly [string, number, readonly string[]])[] = [
    // Relative: the Host we were given holds, as in Go's client.
    ['/b?c=d', 202, ['named.example /a', 'named.example /b?c=d']],
    ['b', 202, ['named.example /a', 'named.example /b']],
    ['?x', 202, ['named.example /a', 'named.example /a?x']],
    [`http://127.0.0.1:${port}/c`, 202, ['named.example /a', `127.0.0.1:${port} /c`]],
    [
      `//127.0.0.1:${port}/d`,
      202,
      ['named.example /a', /* no scheme is relative to Go too */ 'named.example /d'],
    ],
    [`https://127.0.0.1:${tls}/e`, 203, ['named.example /a', `tls 127.0.0.1:${tls} /e`]],
    ['http://named.example/f', 200, ['named.example /a']],
    ['http://127.0.0.2:1/', 200, ['named.example /a']],
    ['//evil.example/x', 200, ['named.example /a']],
    ['http:///', 500, ['named.example /a']],
    ['ftp://127.0.0.1/', 500, ['named.example /a']],
    ['http://127.0.0.1:99999/', 500, ['named.example /a']],
  ];
  const { ask, broken } = await sidecar(t, httpGet(port, { path: '/a' }));
  for (const [location, status, way] of rows) {
    met.length = 0;
    locations['/a'] = location;
    t.equal((await ask(LIVEZ, { headers: ['Host', 'named.example'] })).status, status, location);
    t.strictSame(met, way, location);
  }
  t.same(broken, []);
});

t.test('ten requests and no more', async (t) => {
  let count = 0;
  const app = await httpApp(t, (_request, response) => {
    count++;
    response.writeHead(count < 10 ? 307 : 200, { location: `/${count}` }).end(`asked ${count}`);
  });
  const { ask } = await sidecar(t, httpGet(app));
  t.match(await ask(LIVEZ), { status: 200, body: 'asked 10' });
  count = -10_000;
  const got = await ask(LIVEZ);
  t.match(got, { status: 500, body: /stopped after 10 redirects/ });
  t.equal(count, -9_990);
});

t.test('3xx that lead nowhere are success: no Location, or none that is followed', async (t) => {
  for (const [status, location] of [
    [301, null],
    [304, '/'],
    [300, '/'],
    [399, '/'],
  ] as const) {
    let count = 0;
    const port = await httpApp(t, (_request, response) => {
      count++;
      response.writeHead(status, location === null ? {} : { location }).end();
    });
    const { ask } = await sidecar(t, httpGet(port));
    t.equal((await ask(LIVEZ)).status, 200, `${status}`);
    t.equal(count, 1);
  }
});

t.test('HTTPS by a certificate that nobody knows, and the protocol the app chooses', async (t) => {
  const rows: readonly (readonly [readonly string[] | null, number, string])[] = [
    [null, 200, '1.1'],
    [['http/1.1'], 200, '1.1'],
    [['h2'], 200, '2.0'],
    [['h2', 'http/1.1'], 200, '2.0'],
    [['foo'], 500, ''],
  ];
  for (const [alpn, status, version] of rows) {
    let seen = '';
    const port = await httpsApp(t, alpn, (request, response) => {
      seen = request.httpVersion;
      response.end(
        `host ${request.headers.host ?? request.headers[':authority']}, ${request.headers['some-header']}`,
      );
    });
    const { ask, broken } = await sidecar(t, httpGet(port, { scheme: 'HTTPS', path: '/x' }));
    const headers = ['Host', 'named.example', 'Some-Header', 'one', 'Some-Header', 'two', 'Keep-Alive', 'x'];
    const got = await ask(LIVEZ, { headers });
    t.equal(got.status, status, String(alpn));
    t.equal(seen, version, String(alpn));
    if (status === 200) t.equal(got.body, 'host named.example, one, two');
    else t.match(got.body, /TLS failed/);
    t.same(broken, []);
  }
});

t.test('an app that speaks HTTP/2 alone is asked over TLS only, as by the kubelet', async (t) => {
  const port = await httpsApp(t, ['h2'], (request, response) => {
    if (request.url === '/reset') request.socket.destroy();
    else response.writeHead(request.url === '/bad' ? 503 : 200).end('x'.repeat(20_000));
  });
  for (const [path, status, length] of [
    ['/good', 200, 10_240],
    ['/bad', 503, 10_240],
  ] as const) {
    const { ask } = await sidecar(t, httpGet(port, { scheme: 'HTTPS', path }));
    const got = await ask(LIVEZ);
    t.equal(got.status, status);
    t.equal(got.body.length, length);
  }
  const { ask, broken } = await sidecar(t, httpGet(port, { scheme: 'HTTPS', path: '/reset' }));
  t.match(await ask(LIVEZ), { status: 500, body: /no HTTP\/2 answer/ });
  t.same(broken, []);
});

t.test('what is no answer is a failure that says why', async (t) => {
  const says = (text: string, leave: (socket: Socket) => void = (socket) => socket.end()) =>
    listening(
      t,
      createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => {
          socket.write(text, 'latin1');
          leave(socket);
        });
      }),
      '127.0.0.1',
    );
  const rows: readonly (readonly [string, number, object, RegExp])[] = [
    ['nobody listens', await closedPort(), {}, /no connection to 127\.0\.0\.1:\d+: ECONNREFUSED/],
    ['no TLS there', await httpApp(t, (_, response) => response.end()), { scheme: 'HTTPS' }, /TLS failed/],
    ['TLS where none is', await httpsApp(t, null, (_, response) => response.end()), {}, /no HTTP answer/],
    ['closed', await says(''), {}, /no HTTP answer/],
    ['reset', await says('', (socket) => socket.resetAndDestroy()), {}, /no HTTP answer: ECONNRESET/],
    ['no HTTP', await says('SSH-2.0-OpenSSH_9\r\n'), {}, /no HTTP answer/],
    ['a bad header', await says('HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n'), {}, /no HTTP answer/],
    [
      'a control character',
      await says('HTTP/1.1 200 OK\r\nA: x\x01y\r\nContent-Length: 0\r\n\r\n'),
      {},
      /no HTTP answer/,
    ],
    [
      'a head without end',
      await says(`HTTP/1.1 200 OK\r\nA: ${'x'.repeat(70_000)}\r\n\r\n`),
      {},
      /no HTTP answer/,
    ],
    ['half a body', await says('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf'), {}, /no HTTP answer/],
    [
      'a protocol nobody asked for',
      await says('HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'),
      {},
      /no HTTP answer/,
    ],
    ['a status that is none', await says('HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n'), {}, /status 999/],
  ];
  for (const [name, port, more, body] of rows) {
    const { ask, turned, broken } = await sidecar(t, httpGet(port, more));
    t.match(await ask(LIVEZ), { status: 500, body }, name);
    t.match(turned, [/^\/app-health\/web\/livez: /], name);
    t.same(broken, [], name);
  }
});

t.test('a hung app costs its time-out, whatever it hangs at', async (t) => {
  const silent = await listening(
    t,
    createServer(() => {}),
    '127.0.0.1',
  );
  const rows: readonly (readonly [string, number, object])[] = [
    ['no answer', silent, {}],
    ['no TLS', silent, { scheme: 'HTTPS' }],
    ['no end of its body', await httpApp(t, (_, response) => response.writeHead(200).write('a')), {}],
    ['no answer over HTTP/2', await httpsApp(t, ['h2'], () => {}), { scheme: 'HTTPS' }],
    [
      'informational answers for ever',
      await httpApp(t, (_, response) => {
        const timer = setInterval(() => response.writeProcessing(), 50);
        response.once('close', () => clearInterval(timer));
      }),
      {},
    ],
  ];
  await Promise.all(
    rows.map(async ([name, port, more]) => {
      // The socket's idle time is shorter: the probe's own time counts.
      const { ask, broken } = await sidecar(t, httpGet(port, more, 1), { idleTimeoutMs: 300 });
      const began = performance.now();
      t.match(await ask(LIVEZ), { status: 500, body: 'no answer within 1000 ms' }, name);
      const took = performance.now() - began;
      t.ok(took >= 950, `${name}: ${took}`);
      t.same(broken, []);
    }),
  );
});

t.test('a slow app is waited for', async (t) => {
  const port = await httpApp(t, (_request, response) => {
    setTimeout(() => response.end('late'), 600);
  });
  const { ask } = await sidecar(t, httpGet(port, {}, 10), { idleTimeoutMs: 200 });
  t.match(await ask(LIVEZ), { status: 200, body: 'late' });
});

t.test('who asked and left is not asked for any longer', async (t) => {
  const closed = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const port = await httpApp(t, (_request, response) => {
    response.once('close', () => closed.resolve());
    asked.resolve();
  });
  const { ask, turned } = await sidecar(t, httpGet(port, {}, 600));
  const kubelet = new AbortController();
  const asking = ask(LIVEZ, { signal: kubelet.signal });
  await asked.promise;
  kubelet.abort();
  await t.rejects(asking);
  await closed.promise;
  t.same(turned, [], "that is no failure of the app's");
});

t.test('a huge body is cut at 10 KiB and not waited for', async (t) => {
  const left = Promise.withResolvers<void>();
  const port = await httpApp(t, (_request, response) => {
    response.once('close', () => left.resolve());
    const more = (): void => {
      while (response.write('x'.repeat(65_536)) && !response.destroyed);
    };
    response.on('drain', more);
    more();
  });
  const { ask } = await sidecar(t, httpGet(port));
  const got = await ask(LIVEZ);
  t.equal(got.status, 200);
  t.equal(got.body, 'x'.repeat(10_240));
  await left.promise;
});

t.test('bytes come back as they are, and never as a page', async (t) => {
  const port = await httpApp(t, (_request, response) => {
    response.setHeader('content-type', 'text/html');
    response.end(Buffer.from([0x3c, 0x68, 0x31, 0x3e, 0xff, 0x00]));
  });
  const { ask } = await sidecar(t, httpGet(port));
  const got: Answer = await ask(LIVEZ);
  t.equal(got.body, '<h1>\xff\0');
  t.match(got.headers, {
    'content-type': /^text\/plain/,
    'x-content-type-options': 'nosniff',
    connection: 'close',
  });
});

t.test('no more than two of one probe for one caller, and others are not held up', async (t) => {
  const waiting: ServerResponse[] = [];
  const port = await httpApp(t, (request, response) => {
    if (request.url === '/other') response.end();
    else waiting.push(response);
  });
  const { ask } = await sidecar(t, {
    ...httpGet(port, {}, 60),
    '/app-health/other/livez': { httpGet: { port, path: '/other' } },
  });
  const callers = Array.from({ length: 20 }, (_, i) => `127.0.1.${i + 1}`);
  const asking = callers.flatMap((from) => [ask(LIVEZ, { from }), ask(LIVEZ, { from })]);
  await until('all are with the app', () => waiting.length === asking.length);
  t.match(await ask(LIVEZ, { from: '127.0.1.1' }), { status: 503, body: /2 such probes of 127\.0\.1\.1 / });
  t.equal((await ask('/app-health/other/livez', { from: '127.0.1.1' })).status, 200);
  const kubelet = ask(LIVEZ);
  await until('the kubelet is heard beside forty of strangers', () => waiting.length === asking.length + 1);
  for (const response of waiting) response.end('done');
  for (const got of await Promise.all([...asking, kubelet])) t.equal(got.status, 200);
  const again = ask(LIVEZ, { from: '127.0.1.1' });
  await until('the share is free again', () => waiting.length === asking.length + 2);
  waiting.at(-1)?.end();
  t.equal((await again).status, 200);
});

t.test('no connection is kept: each probe has its own', async (t) => {
  const seen = new Set<number | undefined>();
  const port = await httpApp(t, (request, response) => {
    seen.add(request.socket.remotePort);
    response.end();
  });
  const { ask } = await sidecar(t, httpGet(port));
  for (let n = 0; n < 3; n++) t.equal((await ask(LIVEZ)).status, 200);
  t.equal(seen.size, 3);
});

t.test('under capture the app is dialled from the address that the rules let past', async (t) => {
  let from: string | undefined;
  const port = await httpApp(t, (request, response) => {
    from = request.socket.remoteAddress;
    response.end();
  });
  for (const [captured, source] of [
    [true, '127.0.0.6'],
    [false, '127.0.0.1'],
  ] as const) {
    const { ask } = await sidecar(t, httpGet(port), { captured, address: '127.0.0.1' });
    t.equal((await ask(LIVEZ)).status, 200);
    t.equal(from, source);
  }
  // ::6 is no loopback address until the rules make it one: better a failure than a way around them.
  const { ask } = await sidecar(t, httpGet(port), { captured: true, address: '::1' });
  t.match(await ask(LIVEZ), { status: 500, body: /no connection to \[::1\]:\d+ from ::6: EADDRNOTAVAIL/ });
});

t.test('the log hears of it when an app fails and when it is well again', async (t) => {
  let status = 200;
  const port = await httpApp(t, (_request, response) => response.writeHead(status).end());
  const { ask, turned } = await sidecar(t, httpGet(port));
  await ask(LIVEZ);
  t.same(turned, []);
  status = 503;
  await ask(LIVEZ);
  await ask(LIVEZ);
  t.same(turned, [`${LIVEZ}: answered 503`]);
  status = 200;
  await ask(LIVEZ);
  t.equal(turned.length, 1, 'not twice in a second');
  await new Promise((resolve) => setTimeout(resolve, 1_050));
  await ask(LIVEZ);
  t.same(turned, [`${LIVEZ}: answered 503`, `${LIVEZ}: well`]);
});
