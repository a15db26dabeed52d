/** Health, metrics and admin: what they answer, to whom, and what they refuse. */
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import t from 'tap';
import { defaultServerBounds } from '../../telemetry/bounded-server.ts';
import {
  isLocalHostHeader,
  isLoopback,
  type Readiness,
  type ServerHandlers,
  startServers,
} from '../../telemetry/servers.ts';

const READY: Readiness = { ready: true, waitingFor: [], warnings: [] };
const PEM = '-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\n';

function handlersWith(overrides: Partial<ServerHandlers> = {}): ServerHandlers {
  return {
    readiness: () => READY,
    metrics: async () => ({ contentType: 'text/plain; version=0.0.4', text: 'up 1\n' }),
    certs: async () => ({ state: 'none' }),
    handshakes: async () => ({ total: 0, failures: [] }),
    snapshot: () => ({ generation: 1 }),
    probes: null,
    drain: () => {},
    quit: () => {},
    failed: () => {},
    ...overrides,
  };
}

const local = { host: '127.0.0.1', port: 0 };

async function started(overrides: Partial<ServerHandlers> = {}, bounds = defaultServerBounds) {
  const servers = await startServers(
    { health: local, metrics: local, admin: local, bounds },
    handlersWith(overrides),
  );
  const { health, metrics, admin } = servers.ports;
  return { servers, health: health ?? 0, metrics: metrics ?? 0, admin: admin ?? 0 };
}

interface Got {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

interface Asked {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly host?: string;
  /** The address it comes from. */
  readonly from?: string;
}

function ask(port: number, path: string, asked: Asked = {}): Promise<Got> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      {
        host: asked.host ?? '127.0.0.1',
        port,
        path,
        agent: false,
        method: asked.method ?? 'GET',
        headers: asked.headers ?? {},
        ...(asked.from === undefined ? {} : { localAddress: asked.from }),
      },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          body += chunk;
        });
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
        });
      },
    );
    request.on('error', reject);
    request.end();
  });
}

t.test('readiness: 200 or 503 with what it waits for, on all three', async (t) => {
  let readiness: Readiness = { ready: false, waitingFor: ['credentials', 'a valid snapshot'], warnings: [] };
  const { servers, health, metrics, admin } = await started({ readiness: () => readiness });
  t.teardown(() => servers.close());
  for (const port of [health, metrics, admin]) {
    const got = await ask(port, '/healthz/ready');
    t.equal(got.status, 503);
    t.match(JSON.parse(got.body), { ready: false, waitingFor: ['credentials', 'a valid snapshot'] });
  }
  readiness = READY;
  for (const port of [health, metrics, admin]) {
    const got = await ask(port, '/healthz/ready');
    t.equal(got.status, 200);
    t.strictSame(JSON.parse(got.body), { ready: true });
    t.match(got.headers, { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
  }
  readiness = { ready: true, waitingFor: [], warnings: ['policy.yaml is broken; the set of 10:02 stays'] };
  t.match(JSON.parse((await ask(health, '/healthz/ready')).body), { ready: true, warnings: [/policy.yaml/] });
});

t.test('methods and paths', async (t) => {
  const { servers, health, metrics, admin } = await started();
  t.teardown(() => servers.close());
  const rows: readonly (readonly [number, string, string, number])[] = [
    [health, 'HEAD', '/healthz/ready', 200],
    [health, 'GET', '/healthz/ready?verbose', 200],
    [health, 'POST', '/healthz/ready', 405],
    [health, 'GET', '/', 404],
    [health, 'GET', '/healthz/ready/', 404],
    [health, 'GET', '/metrics', 404],
    [health, 'GET', '/certs', 404],
    [health, 'GET', '/handshakes', 404],
    [metrics, 'GET', '/metrics', 200],
    [metrics, 'GET', '/stats/prometheus', 200],
    [metrics, 'HEAD', '/metrics', 200],
    [metrics, 'POST', '/metrics', 405],
    [metrics, 'GET', '/quitquitquit', 405],
    [metrics, 'HEAD', '/quitquitquit', 405],
    [metrics, 'GET', '/certs', 404],
    [metrics, 'GET', '/handshakes', 404],
    [metrics, 'GET', '/snapshot', 404],
    [admin, 'GET', '/', 200],
    [admin, 'GET', '/certs', 200],
    [admin, 'GET', '/snapshot', 200],
    [admin, 'HEAD', '/certs', 200],
    [admin, 'GET', '/handshakes', 200],
    [admin, 'POST', '/', 405],
    [admin, 'DELETE', '/snapshot', 405],
    [admin, 'PUT', '/certs', 405],
    [admin, 'GET', '/constructor', 404],
    [admin, 'GET', '/__proto__', 404],
    [admin, 'GET', '//certs', 404],
    [admin, 'POST', '/quitquitquit', 404],
  ];
  for (const [port, method, path, status] of rows) {
    const got = await ask(port, path, { method });
    t.equal(got.status, status, `${method} ${path}`);
    if (method === 'HEAD') t.equal(got.body, '');
    if (status === 405) t.match(got.headers.allow, path === '/quitquitquit' ? /^POST$/ : /^GET, HEAD$/);
  }
  const got = await ask(metrics, '/metrics');
  t.equal(got.body, 'up 1\n');
  t.equal(got.headers['content-type'], 'text/plain; version=0.0.4');
  t.match(Object.keys(JSON.parse((await ask(admin, '/')).body)), ['/certs', '/handshakes', '/snapshot']);
});

t.test('admin answers only to names of this machine: no DNS rebinding', async (t) => {
  const { servers, admin } = await started();
  t.teardown(() => servers.close());
  for (const host of ['localhost', 'LOCALHOST:15000', '127.0.0.1', '127.0.0.1:1', '[::1]', '[::1]:15000']) {
    t.equal((await ask(admin, '/certs', { headers: { host } })).status, 200, host);
  }
  for (const host of [
    'evil.com',
    'evil.com:15000',
    'localhost.evil.com',
    'localhost:15000@evil.com',
    '127.0.0.1.evil.com',
    'evil.com#localhost',
    'localhost,evil.com',
    '10.0.0.1',
    '0.0.0.0',
    '::1',
    '[::1]x',
  ]) {
    for (const path of ['/', '/certs', '/handshakes', '/snapshot', '/healthz/ready', '/nothing']) {
      t.equal((await ask(admin, path, { headers: { host } })).status, 403, `${host} ${path}`);
    }
  }
  for (const [head, status] of [
    ['GET /certs HTTP/1.0\r\n\r\n', 403],
    ['GET /certs HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n', 403],
    ['GET http://localhost/certs HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n', 403],
    ['GET /certs HTTP/1.1\r\n\r\n', 400],
  ] as const) {
    const raw = await rawSocket(admin);
    raw.socket.write(head);
    await raw.closed;
    t.match(raw.text(), `HTTP/1.1 ${status} `, JSON.stringify(head));
  }
  t.equal(isLocalHostHeader(undefined), false);
});

t.test('admin binds loopback only', async (t) => {
  for (const host of ['0.0.0.0', '::', '10.0.0.1', 'example.com']) {
    const starting = startServers({ health: null, metrics: null, admin: { host, port: 0 } }, handlersWith());
    await t.rejects(starting, /loopback only/, host);
  }
  const servers = await startServers(
    { health: null, metrics: null, admin: { host: null, port: 0 } },
    handlersWith(),
  );
  t.teardown(() => servers.close());
  t.strictSame({ ...servers.ports, admin: 0 }, { health: null, metrics: null, admin: 0 });
  t.equal((await ask(servers.ports.admin ?? 0, '/')).status, 200);
});

t.test('no private key leaves, whatever a provider hands over', async (t) => {
  const leak = () => ({
    keyPem: PEM,
    deep: [{ chain: `${PEM} and more` }],
    map: new Map([['labels', PEM]]),
    list: new Map([['app', 'orders']]),
  });
  const { servers, admin } = await started({ certs: async () => leak(), snapshot: leak });
  t.teardown(() => servers.close());
  for (const path of ['/certs', '/snapshot']) {
    const { body } = await ask(admin, path);
    t.notMatch(body, /PRIVATE KEY|MIGHAgEAMBMG/);
    t.match(JSON.parse(body), { keyPem: '[redacted]', list: { app: 'orders' } });
  }
});

/** What only this machine may ask for, and how it is told. */
const ORDERS: readonly [string, 'drain' | 'quit'][] = [
  ['/drain', 'drain'],
  ['/quitquitquit', 'quit'],
];

const outside = Object.values(networkInterfaces())
  .flat()
  .find((address) => address?.family === 'IPv4' && !address.internal)?.address;

for (const [path, handler] of ORDERS) {
  t.test(`${path}: POST from this machine, not from a page in its browser`, async (t) => {
    let calls = 0;
    const { servers, metrics } = await started({ [handler]: () => calls++ });
    t.teardown(() => servers.close());
    t.equal((await ask(metrics, path)).status, 405);
    const headers = { origin: 'http://evil.com' };
    t.equal((await ask(metrics, path, { method: 'POST', headers })).status, 403);
    t.equal(calls, 0);
    t.equal((await ask(metrics, path, { method: 'POST' })).status, 200);
    t.equal(calls, 1);
  });

  t.test(`${path} from another address is refused`, { skip: outside === undefined }, async (t) => {
    let calls = 0;
    const servers = await startServers(
      { health: null, metrics: { host: null, port: 0 }, admin: null },
      handlersWith({ [handler]: () => calls++ }),
    );
    t.teardown(() => servers.close());
    const port = servers.ports.metrics ?? 0;
    const host = outside ?? '';
    t.equal((await ask(port, path, { method: 'POST', host })).status, 403);
    const headers = { host: 'localhost' };
    t.equal((await ask(port, path, { method: 'POST', host, headers })).status, 403);
    t.equal((await ask(port, '/metrics', { host })).status, 200, 'but scrapes are welcome');
    t.equal(calls, 0);
  });
}

t.test('what the sidecar itself carries here is not from this machine', async (t) => {
  let calls = 0;
  const { servers, metrics, admin } = await started({ quit: () => calls++, drain: () => calls++ });
  t.teardown(() => servers.close());
  // Whom it dials the app as, wherever the caller is.
  const from = '127.0.0.6';
  for (const [path] of ORDERS) t.equal((await ask(metrics, path, { method: 'POST', from })).status, 403);
  for (const path of ['/', '/certs', '/snapshot', '/handshakes']) {
    t.equal((await ask(admin, path, { from })).status, 403, path);
  }
  t.equal((await ask(metrics, '/healthz/ready', { from })).status, 200);
  t.equal((await ask(admin, '/certs', { from: '127.0.0.7' })).status, 200);
  t.equal(calls, 0);
});

t.test('which addresses are this machine', (t) => {
  for (const address of ['127.0.0.1', '127.255.0.9', '::1', '::ffff:127.0.0.1', '::FFFF:127.1.2.3']) {
    t.ok(isLoopback(address), address);
  }
  for (const address of [
    '',
    '10.0.0.1',
    '128.0.0.1',
    '::',
    '::2',
    '::ffff:10.0.0.1',
    'fe80::1',
    '127.0.0.1.evil.com',
  ]) {
    t.notOk(isLoopback(address), address);
  }
  t.end();
});

t.test('a provider that throws is a 500 without its words, and is reported', async (t) => {
  const failures: string[] = [];
  const { servers, admin, metrics } = await started({
    certs: () => {
      throw new Error('secret path /etc/x');
    },
    metrics: () => Promise.reject(new Error('broken')),
    failed: (error, path) => failures.push(`${path}: ${(error as Error).message}`),
  });
  t.teardown(() => servers.close());
  const got = await ask(admin, '/certs');
  t.equal(got.status, 500);
  t.notMatch(got.body, 'secret');
  t.equal((await ask(metrics, '/metrics')).status, 500);
  t.equal((await ask(metrics, '/metrics')).status, 500, 'and again, not stuck on the first');
  t.strictSame(failures, ['/certs: secret path /etc/x', '/metrics: broken', '/metrics: broken']);
});

t.test('scrapes at the same time share one rendering', async (t) => {
  let renderings = 0;
  const { servers, metrics } = await started({
    metrics: async () => {
      renderings++;
      // Those who ask at the same time may be heard a while after the first.
      await new Promise((resolve) => setTimeout(resolve, 500));
      return { contentType: 'text/plain', text: 'x' };
    },
  });
  t.teardown(() => servers.close());
  await Promise.all([ask(metrics, '/metrics'), ask(metrics, '/metrics'), ask(metrics, '/stats/prometheus')]);
  t.equal(renderings, 1);
  await ask(metrics, '/metrics');
  t.equal(renderings, 2);
});

t.test('a port in use names the port and the flag, and leaves nothing listening', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  t.teardown(() => taken.close());
  const { port } = taken.address() as { port: number };
  const free = await new Promise<number>((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port: freePort } = probe.address() as { port: number };
      probe.close(() => resolve(freePort));
    });
  });
  for (const name of ['metrics', 'admin'] as const) {
    const options = { health: { host: '127.0.0.1', port: free }, metrics: null, admin: null };
    const starting = startServers({ ...options, [name]: { host: '127.0.0.1', port } }, handlersWith());
    await t.rejects(starting, {
      message: `${name} port ${port} is in use: choose another with --${name}-port, or off`,
    });
    await t.rejects(ask(free, '/healthz/ready'), { code: 'ECONNREFUSED' });
  }
});

interface Held {
  readonly socket: Socket;
  readonly text: () => string;
  readonly closed: Promise<unknown>;
}

async function rawSocket(port: number, from = '127.0.0.1'): Promise<Held> {
  const socket = connect({ port, host: '127.0.0.1', localAddress: from });
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1');
  });
  socket.on('error', () => {});
  // Not once(): an RST behind the answer is an end like another.
  const closed = new Promise((resolve) => socket.once('close', resolve));
  await once(socket, 'connect');
  return { socket, text: () => text, closed };
}

t.test('a slow or endless head ends the connection; the next client is served', async (t) => {
  const bounds = { ...defaultServerBounds, headTimeoutMs: 300, requestTimeoutMs: 300, checkIntervalMs: 100 };
  const { servers, health } = await started({}, bounds);
  t.teardown(() => servers.close());
  const slow = await rawSocket(health);
  slow.socket.write('GET /healthz/ready HTTP/1.1\r\nhost: x\r\n');
  const drip = setInterval(() => slow.socket.write('a: b\r\n'), 50);
  await slow.closed;
  clearInterval(drip);
  t.match(slow.text(), /^HTTP\/1\.1 408 /);
  const long = await rawSocket(health);
  long.socket.write(`GET /healthz/ready HTTP/1.1\r\nhost: x\r\na: ${'b'.repeat(20_000)}`);
  await long.closed;
  t.match(long.text(), /^HTTP\/1\.1 431 /);
  t.equal((await ask(health, '/healthz/ready')).status, 200);
});

t.test('connections are bounded, and whoever comes finds a place', async (t) => {
  const { servers, health } = await started({}, { ...defaultServerBounds, maxConnections: 3 });
  t.teardown(() => servers.close());
  const held: Held[] = [];
  for (let i = 0; i < 4; i++) held.push(await rawSocket(health));
  await held[0]?.closed;
  t.equal((await ask(health, '/healthz/ready')).status, 200);
  await held[1]?.closed;
  t.equal(held[3]?.socket.destroyed, false);
  for (const { socket } of held) socket.destroy();
});

t.test('strangers do not shut out the kubelet', async (t) => {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  const metrics = async () => {
    asked.resolve();
    await answer.promise;
    return { contentType: 'text/plain', text: 'late' };
  };
  const bounds = { ...defaultServerBounds, maxConnections: 12, maxConnectionsPerAddress: 4 };
  const { servers, metrics: port } = await started({ metrics }, bounds);
  t.teardown(() => servers.close());
  const scrape = ask(port, '/metrics', { from: '127.0.0.9' });
  await asked.promise;
  const held: Held[] = [];
  for (let round = 0; round < 4; round++) {
    for (let n = 1; n <= 8; n++) held.push(await rawSocket(port, `127.0.2.${n}`));
    t.equal((await ask(port, '/healthz/ready', { from: '127.0.0.8' })).status, 200);
  }
  answer.resolve();
  t.equal((await scrape).body, 'late', 'what is under way stays');
  for (const { socket } of held) socket.destroy();
});

t.test('one address has its share, and its newest connections', async (t) => {
  const { servers, metrics } = await started({}, { ...defaultServerBounds, maxConnectionsPerAddress: 3 });
  t.teardown(() => servers.close());
  const other = await rawSocket(metrics, '127.0.0.9');
  const held: Held[] = [];
  for (let i = 0; i < 5; i++) held.push(await rawSocket(metrics));
  await Promise.all([held[0]?.closed, held[1]?.closed]);
  t.same(
    [other, ...held.slice(2)].map(({ socket }) => socket.destroyed),
    [false, false, false, false],
  );
  t.equal((await ask(metrics, '/healthz/ready')).status, 200);
  await held[2]?.closed;
  for (const { socket } of [other, ...held]) socket.destroy();
});

t.test('close lets an answer under way finish and waits for no idle keep-alive', async (t) => {
  const asked = Promise.withResolvers<void>();
  const { servers, metrics } = await started({
    metrics: async () => {
      asked.resolve();
      await new Promise((resolve) => setTimeout(resolve, 100));
      return { contentType: 'text/plain', text: 'late' };
    },
  });
  const idle = await rawSocket(metrics);
  const answer = ask(metrics, '/metrics');
  await asked.promise;
  const before = performance.now();
  await servers.close();
  t.equal((await answer).body, 'late');
  await idle.closed;
  t.ok(performance.now() - before < 2_000);
  await t.rejects(ask(metrics, '/metrics'), { code: 'ECONNREFUSED' });
});
