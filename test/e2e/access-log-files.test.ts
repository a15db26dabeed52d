/** Where the access log goes, as a real process: files that are rotated, and what mesh config asks for. */
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { Mesh } from './harness/mesh.ts';
import { type ShopPorts, shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);

/** The callee of the shop alone, which takes plaintext. */
async function shopMesh(t: Test): Promise<{ mesh: Mesh; ports: ShopPorts }> {
  const ports = await shopPorts();
  const mesh = await Mesh.create(t, shop(ports, { http: http.port, tcp: tcp.port }, 'PERMISSIVE'));
  return { mesh, ports };
}

const linesOf = (path: string): string[] =>
  existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [];

/** The file's lines once there are so many. */
async function lines(path: string, count: number): Promise<string[]> {
  await until(`${count} lines of ${path}`, () => linesOf(path).length >= count);
  return linesOf(path);
}

for (const threads of process.platform === 'linux' ? ['1', '2'] : ['1']) {
  t.test(`SIGUSR1 opens the file anew after it was renamed, ${threads} thread(s)`, async (t) => {
    const { mesh, ports } = await shopMesh(t);
    const [path, old] = [join(mesh.dir, 'access.log'), join(mesh.dir, 'access.log.1')];
    const orders = await mesh.sidecar('orders', '--access-log', path, '--concurrency', threads);
    const calls = async (from: number, to: number): Promise<void> => {
      for (let i = from; i < to; i++) await call(ports.ordersHttp, `/${i}`);
    };
    await calls(0, 20);
    await lines(path, 20);
    renameSync(path, old);
    await calls(20, 40);
    await lines(old, 40);
    t.notOk(existsSync(path), 'nobody makes another before it is asked to');
    orders.process.signal('SIGUSR1');
    await until('the file to be there again', () => existsSync(path));
    // Each thread opens it for itself.
    await calls(40, 60);
    const total = (): number => linesOf(path).length + linesOf(old).length;
    await until('all lines', () => total() === 60);
    const paths = [...linesOf(old), ...linesOf(path)].map((line) => String(JSON.parse(line).path));
    t.same(
      paths.map((text) => Number(text.slice(1))).sort((a, b) => a - b),
      Array.from({ length: 60 }, (_, i) => i),
      'every line is there, whole and once',
    );
    // The signal may have found one of two threads at work.
    await until('lines in the new file alone', async () => {
      const [before, all] = [linesOf(old).length, total()];
      await calls(0, 8);
      await until('them', () => total() === all + 8);
      return linesOf(old).length === before;
    });
    t.equal(await orders.metric('oarlock_access_log_dropped_total'), 0);
    renameSync(path, `${path}.2`);
    orders.process.signal('SIGUSR1');
    await until('a third file', () => existsSync(path));
    orders.process.signal('SIGTERM');
    t.same(await orders.process.end(), { code: 0, signal: null });
    t.same(orders.process.stderr.matching({ level: 'error' }), []);
  });
}

t.test('a file that cannot be opened anew is said so, and the old one stays in use', async (t) => {
  const { mesh, ports } = await shopMesh(t);
  const path = join(mesh.dir, 'gone', 'access.log');
  mkdirSync(join(mesh.dir, 'gone'));
  const orders = await mesh.sidecar('orders', '--access-log', path);
  const moved = join(mesh.dir, 'moved');
  renameSync(join(mesh.dir, 'gone'), moved);
  const { mark } = orders;
  orders.process.signal('SIGUSR1');
  t.match(await orders.logged({ level: 'error' }, mark), { msg: /access log/, error: /ENOENT/ });
  await call(ports.ordersHttp, '/still');
  t.match((await lines(join(moved, 'access.log'), 1)).at(-1), '"/still"');
});

/** Istio's EnvoyTextLogFormat begins with these. */
const ISTIO_TEXT =
  /^\[20\d\d-[0-9T:.-]+Z\] "GET \/a\?b=1 HTTP\/1\.1" 200 - via_upstream - "-" 0 \d+ \d+ \d+ "/;
const OWN_TEXT =
  '%REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE% %UPSTREAM_CLUSTER% %REQ(X-NOTE?:AUTHORITY)% 100%%';
const OWN_JSON =
  '{"code": "%RESPONSE_CODE%", "note": "<%REQ(X-NOTE)%>", "in": {"who": "%OARLOCK_REASON%"}, "n": 1}';

t.test('mesh config says where, in which encoding and in which format', async (t) => {
  const rows: readonly {
    title: string;
    fields: readonly string[];
    flags?: string[];
    line: RegExp | object;
  }[] = [
    { title: 'a file alone: TEXT, as Istio has it', fields: [], line: ISTIO_TEXT },
    { title: 'JSON', fields: ['accessLogEncoding: JSON'], line: { path: '/a?b=1', response_code: 200 } },
    { title: 'TEXT', fields: ['accessLogEncoding: TEXT'], line: ISTIO_TEXT },
    {
      title: 'a text format',
      fields: [`accessLogFormat: '${OWN_TEXT}'`],
      line: /^GET HTTP\/1\.1 200 inbound\|\d+\|\| noted 100%$/,
    },
    {
      title: 'a JSON format',
      fields: ['accessLogEncoding: JSON', `accessLogFormat: '${OWN_JSON}'`],
      line: { code: 200, note: '<noted>', in: { who: null }, n: 1 },
    },
    {
      title: 'a flag beats its encoding',
      fields: ['accessLogEncoding: TEXT', `accessLogFormat: '${OWN_TEXT}'`],
      flags: ['--access-log-encoding', 'json'],
      line: { path: '/a?b=1', response_code: 200 },
    },
  ];
  for (const { title, fields, flags = [], line } of rows) {
    const { mesh, ports } = await shopMesh(t);
    const path = join(mesh.dir, 'access.log');
    mesh.write('mesh-config.yaml', meshConfig(path, fields));
    const orders = await mesh.sidecar('orders', ...flags);
    await call(ports.ordersHttp, '/a?b=1', { headers: { 'x-note': 'noted' } });
    const [got = ''] = await lines(path, 1);
    if (line instanceof RegExp) t.match(got, line, title);
    else t.match(JSON.parse(got), line, title);
    t.same(orders.process.stderr.matching({ type: 'access' }), [], `${title}: it goes nowhere else`);
    await orders.process.kill();
  }
});

t.test('mesh config changes it in a running process', async (t) => {
  const { mesh, ports } = await shopMesh(t);
  const [first, second] = [join(mesh.dir, 'first'), join(mesh.dir, 'second')];
  mesh.write('mesh-config.yaml', meshConfig(first, ['accessLogFormat: "%REQ(:PATH)%"']));
  const orders = await mesh.sidecar('orders');
  const peer = await open(t, ports.ordersHttp);
  const get = async (path: string): Promise<void> => {
    const from = peer.text.length;
    peer.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`);
    await peer.until('an answer', (text) => text.slice(from).includes('}'));
  };
  await get('/1');
  t.same(await lines(first, 1), ['/1']);
  await mesh.change('mesh-config.yaml', meshConfig(second, ['accessLogEncoding: JSON']), [orders]);
  await get('/2');
  t.match(JSON.parse((await lines(second, 1))[0] ?? ''), { path: '/2' }, 'on a connection of before');
  const { mark } = orders;
  mesh.write('mesh-config.yaml', meshConfig(join(mesh.dir, 'no', 'such'), []));
  await orders.logged({ level: /warn|error/ }, mark);
  await get('/3');
  t.match(JSON.parse((await lines(second, 2))[1] ?? ''), { path: '/3' }, 'a file that cannot be is not used');
  t.same(linesOf(first), ['/1']);
});

function meshConfig(file: string, fields: readonly string[]): string {
  return ['kind: MeshConfig', `accessLogFile: ${file}`, ...fields, ''].join('\n');
}
