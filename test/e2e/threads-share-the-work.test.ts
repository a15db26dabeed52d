/** `--concurrency 2`: two threads on the same ports, one sidecar to everybody else. */
import { request } from 'node:http';
import t from 'tap';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call, open } from './harness/clients.ts';
import { overHbone } from './harness/hbone.ts';
import { health, Mesh } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

if (process.platform !== 'linux') {
  t.comment('SKIPPED: the kernel of this system does not spread connections over threads (needs Linux)');
  process.exit(0);
}

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: http.port, tcp: tcp.port }));
const [web, orders] = await Promise.all([
  mesh.sidecar('web', '--concurrency', '2'),
  mesh.sidecar('orders', '--concurrency', '2'),
]);

/** Each on a connection of its own, so that the kernel spreads them. */
function statuses(count: number, path: string): Promise<number[]> {
  const one = (): Promise<number> =>
    new Promise((resolve, reject) => {
      request({ port: ports.http, path, agent: false }, (answer) => {
        answer.resume();
        resolve(answer.statusCode ?? 0);
      })
        .on('error', reject)
        .end();
    });
  return Promise.all(Array.from({ length: count }, one));
}

t.test('requests and TCP are served, and counted as one', async (t) => {
  t.same(new Set(await statuses(60, '/')), new Set([200]));
  if (overHbone)
    t.equal(await web.metric('oarlock_tunnels', { direction: 'outbound' }), 2, 'each thread has a tunnel');
  const peer = await open(t, ports.tcp);
  peer.write('hello');
  peer.end();
  t.equal(await peer.ended(), 'end');
  t.equal(peer.text, 'hello');
  const counted = { reporter: 'destination', response_code: '200', connection_security_policy: 'mutual_tls' };
  await orders.metricIs('istio_requests_total', counted, 60);
  t.equal(await orders.metric('istio_tcp_connections_opened_total', { reporter: 'destination' }), 1);
  t.equal(
    await orders.metric('oarlock_snapshot_generation'),
    1,
    'the slowest thread counts, they are not added',
  );
});

t.test('a policy holds in every thread', async (t) => {
  await mesh.change('deny.yaml', policy('no', '[{to: [{operation: {paths: ["/no"]}}]}]', 'DENY'), [orders]);
  t.same(new Set(await statuses(60, '/no')), new Set([403]));
  t.same(new Set(await statuses(20, '/yes')), new Set([200]));
});

t.test('a port taken by a stranger is noticed, though threads share theirs', async (t) => {
  const { dir } = await mesh.certDir('orders');
  const second = start(t, mesh.flags('shop/orders', '--cert-dir', dir, '--concurrency', '2'));
  t.equal((await second.exited).code, 2);
  t.match(second.stderr.text, String(ports.ordersHttp));
});

t.test('SIGTERM drains all of them', async (t) => {
  const before = http.seen.count;
  const slow = call(ports.http, '/slow/800');
  await until('the request to be at the app', () => http.seen.count > before);
  web.process.child.kill('SIGTERM');
  t.equal((await slow).status, 200);
  t.equal((await web.process.exited).code, 0);
  t.equal((await health(orders.ports.health ?? 0)).status, 200);
});
