/**
 * What an app dials is an address: calls to its own pod, to names, to addresses that services share or nobody has, to
 * hosts nobody knows, and to the ports of capture themselves.
 */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { APP_UID, BRIDGE, OUTSIDE } from '../harness/pods.ts';
import { nginx, pythonApps } from '../harness/pods-apps.ts';
import { type Called, callerOf, curl, toldOf } from '../harness/pods-calls.ts';
import { document, VIPS } from '../harness/pods-resources.ts';
import { APP, shopOfPods, VIP } from '../harness/pods-shop.ts';
import { spiffe, TestCa } from '../harness/test-ca.ts';

t.setTimeout(120_000);

/** An address that two hosts share, with HTTP at 8000 and TLS at 443. */
const SHARED = { ipv4: `${VIPS.ipv4}100`, ipv6: `${VIPS.ipv6}100` } as const;

/** A port of `orders` that its Sidecar leads to another, where an app listens on 127.0.0.1 alone. */
const MOVED = 9000;
const INSIDE = 9001;

const external = (name: string, addresses: readonly string[], endpoint: readonly string[]): string =>
  document('networking.istio.io/v1', 'ServiceEntry', name, {
    spec: {
      hosts: [`${name}.example.com`],
      addresses,
      location: 'MESH_EXTERNAL',
      resolution: 'STATIC',
      ports: [
        { number: 8000, name: 'http', protocol: 'HTTP', targetPort: APP.http },
        { number: 443, name: 'tls', protocol: 'TLS', targetPort: 8443 },
      ],
      endpoints: endpoint.map((address) => ({ address })),
    },
  });

const { network, mesh, web, orders, legacy } = await shopOfPods(t, (network) => [
  external('blue', [SHARED.ipv4, SHARED.ipv6], [network.pod('legacy').ipv4]),
  external('green', [SHARED.ipv4, SHARED.ipv6], [BRIDGE.ipv4]),
  external('nowhere', [], [network.pod('legacy').ipv4]),
  document('networking.istio.io/v1', 'Sidecar', 'orders', {
    spec: {
      workloadSelector: { labels: { app: 'orders' } },
      ingress: [
        { port: { number: MOVED, name: 'http' }, defaultEndpoint: `127.0.0.1:${INSIDE}` },
        { port: { number: APP.http, name: 'http-own' }, defaultEndpoint: `0.0.0.0:${APP.http}` },
      ],
    },
  }),
]);
const { bridge } = network;

/** Apps with TLS of their own, whose names are their certificates'. */
const ca = await TestCa.create();
for (const [pod, name] of [
  [legacy, 'blue'],
  [bridge, 'green'],
] as const) {
  const { cert, key } = await ca.leaf(null, { dns: [`${name}.example.com`] });
  const files = ['cert', 'key'].map((what) => join(mesh.dir, `${name}.${what}`));
  for (const [i, text] of [cert, key].entries()) {
    writeFileSync(files[i] ?? '', text);
    chmodSync(files[i] ?? '', 0o644);
  }
  await nginx(
    t,
    pod,
    `listen 8443 ssl; listen [::]:8443 ssl; ssl_certificate ${files[0]}; ssl_certificate_key ${files[1]};
     location / { return 200 "${name} by TLS"; }`,
  );
}
await pythonApps(t, bridge, [`http:${APP.http}`]);
await pythonApps(t, orders, [`http:${INSIDE}@127.0.0.1`]);
// Threads share the ports of capture, and each asks the kernel for itself.
const [ofWeb, ofOrders] = await mesh.inject([web, orders], { flags: ['--concurrency', '2'] });
if (ofWeb === undefined || ofOrders === undefined) throw new Error('no sidecars');

const WEB = spiffe('shop', 'web');

t.test('calls of an app to itself', async (t) => {
  const [ipv4 = '', ipv6 = ''] = web.hosts;
  const cases: readonly (readonly [string, string, string, string | null])[] = [
    // By its service it leaves and comes back: Istio's rule for what our own user sends to the pod's own address.
    ['by the address of its service', `${VIPS.ipv4}${VIP.web}:80`, '127.0.0.6', WEB],
    // The endpoint is the pod at its first address.
    ['by its IPv6 address', `[${VIPS.ipv6}${VIP.web}]:80`, '127.0.0.6', WEB],
    ['by the name of its service', 'web', '127.0.0.6', WEB],
    // What does not leave the pod is the app's own affair.
    ["by its pod's address", `${ipv4}:${APP.http}`, web.ipv4, null],
    ['the same over IPv6', `${ipv6}:${APP.http}`, web.ipv6, null],
    ['by localhost', `127.0.0.1:${APP.http}`, '127.0.0.1', null],
    ['the same over IPv6', `[::1]:${APP.http}`, '::1', null],
  ];
  for (const [title, host, peer, caller] of cases) {
    const flags = host === 'web' ? ['--ipv4'] : [];
    const told = toldOf(await curl(web, `http://${host}/self`, { flags }));
    t.equal(told.peer, peer, title);
    t.equal(callerOf(told), caller, title);
  }
});

t.test('names', async (t) => {
  const ask = async (title: string): Promise<void> => {
    const told = toldOf(await curl(web, 'http://orders.shop/named'));
    t.equal(callerOf(told), WEB, title);
  };
  await ask('DNS over UDP, which is no affair of ours');
  web.etc('resolv.conf', `search svc.cluster.local\nnameserver ${BRIDGE.ipv4}\noptions ndots:5 use-vc\n`);
  await ask('DNS over TCP');
  web.etc('resolv.conf', `search svc.cluster.local\nnameserver ${BRIDGE.ipv6}\noptions ndots:5\n`);
  await ask('DNS over IPv6');
  web.etc('resolv.conf', 'nameserver 192.0.2.1\n');
  web.etc('hosts', `127.0.0.1 localhost\n${VIPS.ipv4}${VIP.orders} orders.shop\n`);
  await ask('a hosts file, and no DNS');
});

t.test('an address that services share', async (t) => {
  const ask = (host: string, name: string): Promise<Called> =>
    curl(web, `http://${host}:8000/shared`, { headers: { host: name } });
  for (const host of [SHARED.ipv4, `[${SHARED.ipv6}]`]) {
    t.equal(toldOf(await ask(host, 'blue.example.com')).at, legacy.ipv4, `${host}: by Host`);
    t.equal(
      toldOf(await ask(host, 'green.example.com:8000')).at,
      BRIDGE.ipv4,
      `${host}: by Host with a port`,
    );
    for (const name of ['blue', 'green']) {
      const to = `${name}.example.com:443:${host}`;
      const { body, error } = await curl(web, `https://${name}.example.com/`, {
        flags: ['--insecure', '--resolve', to],
      });
      t.equal(body, `${name} by TLS`, `${host}: by SNI ${error}`);
    }
  }
});

t.test('a name without an address of its own goes where its endpoints are', async (t) => {
  for (const host of [OUTSIDE.ipv4, `[${OUTSIDE.ipv6}]`]) {
    const headers = { host: 'nowhere.example.com' };
    t.equal(
      toldOf(await curl(web, `http://${host}:8000/named`, { headers })).at,
      legacy.ipv4,
      `${host}: by Host`,
    );
    const flags = ['--insecure', '--resolve', `nowhere.example.com:443:${host}`];
    const { body, error } = await curl(web, 'https://nowhere.example.com/', { flags });
    t.equal(body, 'blue by TLS', `${host}: by SNI ${error}`);
  }
});

t.test('a service without a pod that is ready', async (t) => {
  await mesh.change(
    'empty.yaml',
    document('v1', 'Service', 'empty', {
      spec: { selector: { app: 'nobody' }, clusterIP: `${VIPS.ipv4}50`, ports: [{ name: 'http', port: 80 }] },
    }),
    [ofWeb],
  );
  const { status } = await curl(web, `http://${VIPS.ipv4}50/`);
  t.equal(status, 503);
});

t.test('hosts that nobody knows', async (t) => {
  const urls = [`http://${OUTSIDE.ipv4}:${APP.http}/unknown`, `http://[${OUTSIDE.ipv6}]:${APP.http}/unknown`];
  const https = [`https://${OUTSIDE.ipv4}:8443/`, `https://[${OUTSIDE.ipv6}]:8443/`];
  const through = (): Promise<number> =>
    ofWeb.metric('oarlock_connections_opened_total', {
      reporter: 'source',
      destination_service_name: 'PassthroughCluster',
    });

  await t.test('are passed through where mesh config says nothing, and counted', async (t) => {
    const before = await through();
    for (const url of urls) {
      const told = toldOf(await curl(web, url));
      t.equal(told.peer, url.includes('[') ? web.ipv6 : web.ipv4, url);
      t.equal(told.headers['x-forwarded-client-cert'], undefined);
    }
    for (const url of https) {
      const { body, error } = await curl(web, url, { flags: ['--insecure'] });
      t.equal(body, 'green by TLS', `${url} ${error}`);
    }
    t.equal(await through(), before + 4);
    const { exit } = await curl(web, `http://${OUTSIDE.ipv4}:9/`);
    // However soon after it was accepted.
    t.ok([7, 52, 56].includes(exit ?? 0), `nobody listens there: curl ends with ${exit}`);
  });

  await t.test('are refused under REGISTRY_ONLY, and counted', async (t) => {
    await mesh.change(
      'mesh-config.yaml',
      'kind: MeshConfig\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n',
      [ofWeb],
    );
    const before = await ofWeb.metric('oarlock_refusals_total', {
      reason: 'no_route',
      direction: 'outbound',
    });
    for (const url of urls) {
      const { status, exit } = await curl(web, url);
      t.ok(status === 502 || exit === 56, `${url}: ${status}, curl ends with ${exit}`);
    }
    for (const url of https) t.not((await curl(web, url, { flags: ['--insecure'] })).exit, 0, url);
    t.equal(
      await ofWeb.metric('oarlock_refusals_total', { reason: 'no_route', direction: 'outbound' }),
      before + 4,
    );
    t.equal(
      toldOf(await curl(web, `http://${VIPS.ipv4}${VIP.orders}/known`)).method,
      'GET',
      'who is known is reached',
    );
    await mesh.change('mesh-config.yaml', 'kind: MeshConfig\n', [ofWeb, ofOrders]);
  });
});

t.test('a port that a Sidecar resource leads elsewhere', async (t) => {
  for (const host of orders.hosts) {
    const told = toldOf(await curl(web, `http://${host}:${MOVED}/`));
    t.equal(told.at, '127.0.0.1', host);
    t.equal(callerOf(told), WEB);
    const own = toldOf(await curl(web, `http://${host}:${APP.http}/`));
    t.ok([orders.ipv4, orders.ipv6].includes(own.at), `the pod's own address: ${own.at}`);
    // Nobody leads this one there: it is the pod's own address that is dialled.
    t.equal((await curl(web, `http://${host}:${INSIDE}/`)).status, 503);
  }
});

t.test("the admin API is nobody else's, however it is asked for", async (t) => {
  for (const host of orders.hosts) {
    for (const from of [web, legacy]) {
      const { status } = await curl(from, `http://${host}:15000/certs`, { headers: { host: 'localhost' } });
      t.ok(status === 0 || status === 503, `${from.name} to ${host}: ${status}`);
    }
  }
});

t.test('the ports of capture themselves', async (t) => {
  const [ipv4 = '', ipv6 = ''] = orders.hosts;
  const loops: readonly (readonly [string, typeof web, readonly string[]])[] = [
    ['from the app', orders, [ipv4, ipv6, '127.0.0.1', '[::1]']],
    ['from another pod', legacy, [ipv4, ipv6]],
    ['from the mesh', web, [ipv4, ipv6]],
  ];
  for (const [title, from, hosts] of loops) {
    for (const host of hosts) {
      for (const port of [15_001, 15_006]) {
        const { exit, status } = await curl(from, `http://${host}:${port}/loop`, { patience: 5 });
        t.ok(
          exit !== 0 && exit !== 28 && status === 0,
          `${title} to ${host}:${port}: curl ends with ${exit}, ${status}`,
        );
      }
    }
  }
  // It is as well as before: nothing went round and round.
  t.equal(callerOf(toldOf(await curl(web, `http://${ipv4}:${APP.http}/after`))), WEB);
  for (const sidecar of [ofWeb, ofOrders]) {
    const open = await sidecar.metric('oarlock_connections_open', {});
    t.ok(open < 20, `${open} connections of ${sidecar.pod.name} are open`);
  }
});

t.test('our own user is not captured, so that nobody else may be it', async (t) => {
  const { error } = await curl(web, `http://${orders.ipv4}:${APP.http}/`, { uid: 1337 });
  t.match(error, /reset by peer/, 'plaintext at a STRICT port');
  t.equal((await curl(web, `http://${orders.ipv4}:${APP.http}/`, { uid: APP_UID + 1 })).status, 200);
});

t.test(
  'ports of a pod that its rules leave alone are called in plaintext, as a Prometheus in the mesh does',
  async (t) => {
    for (const host of orders.hosts) {
      const { status, body } = await curl(web, `http://${host}:15020/metrics`);
      t.equal(status, 200, host);
      t.match(body, /^istio_requests_total\{.*destination_app="orders"/m);
      t.equal((await curl(web, `http://${host}:15021/healthz/ready`)).status, 200, host);
    }
  },
);
