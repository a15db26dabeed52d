/** Probes of an app behind a STRICT port, without capture: the sidecar answers for it; the port itself answers nobody. */
import t from 'tap';
import { healthApp } from '../probes/helper.ts';
import { echo, httpApp, tcpApp } from './harness/apps.ts';
import { call } from './harness/clients.ts';
import { Mesh, ready } from './harness/mesh.ts';
import { runToEnd, start } from './harness/processes.ts';
import { shop, shopPorts } from './harness/shop.ts';

t.setTimeout(120_000);

const app = await httpApp(t);
const tcp = await tcpApp(t, echo);
const health = await healthApp(t, { '': 1, 'shop.Cart': 2 });
const ports = await shopPorts();
const mesh = await Mesh.create(t, shop(ports, { http: app.port, tcp: tcp.port }));
const { dir: certs } = await mesh.certDir('orders');
const flags = mesh.flags('shop/orders', '--cert-dir', certs);

const TABLE = {
  '/app-health/app/readyz': { httpGet: { path: '/ready', port: app.port } },
  '/app-health/app/livez': { tcpSocket: { port: tcp.port } },
  '/app-health/cart/readyz': { grpc: { port: health.port }, timeoutSeconds: 5 },
  '/app-health/cart/livez': { grpc: { port: health.port, service: 'shop.Cart' }, timeoutSeconds: 5 },
  '/app-lifecycle/app/prestopz': { httpGet: { path: '/bye', port: app.port } },
};

t.test('the table comes by the environment, as injection gives it', async (t) => {
  const env = { ISTIO_KUBE_APP_PROBERS: JSON.stringify(TABLE) };
  const orders = await ready(start(t, flags, env));
  const { metrics } = orders.ports;
  const ask = async (path: string) => {
    const { status, body } = await call(metrics ?? 0, path);
    return { status, text: body.toString() };
  };
  t.match(await ask('/app-health/app/readyz'), { status: 200, text: /"url":"\/ready"/ });
  t.match(await ask('/app-health/app/livez'), { status: 200 });
  t.match(await ask('/app-health/cart/readyz'), { status: 200 });
  t.match(await ask('/app-health/cart/livez'), { status: 500 });
  t.match(await ask('/app-lifecycle/app/prestopz'), { status: 200, text: /"url":"\/bye"/ });
  t.match(await ask('/app-health/app/startupz'), { status: 404 });
  await t.rejects(
    call(ports.ordersHttp, '/ready'),
    { code: 'ECONNRESET' },
    'the app itself is not to be asked',
  );
  t.equal(await orders.metric('istio_requests_total'), 0);
  t.match(await orders.logged({ path: '/app-health/cart/livez' }), {
    level: 'warn',
    failure: /NOT_SERVING/,
  });
});

t.test('a table that is wrong ends the start, by the name of its field', async (t) => {
  for (const [text, said] of [
    ['{', /ISTIO_KUBE_APP_PROBERS.*must be JSON/],
    [
      '{"/app-health/a/livez":{"httpGet":{"port":"web"}}}',
      /\/app-health\/a\/livez\.httpGet\.port must be a number/,
    ],
    ['{"/app-health/a/livez":{"exec":{}}}', /exactly one of httpGet, tcpSocket and grpc/],
  ] as const) {
    const { code, stderr, stdout } = await runToEnd(t, flags, { ISTIO_KUBE_APP_PROBERS: text });
    t.equal(code, 2, text);
    t.match(stderr, said);
    t.equal(stdout, '');
  }
});
