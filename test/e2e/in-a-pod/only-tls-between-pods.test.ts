/**
 * Apps that know nothing of a mesh call each other from pod to pod, rules and sidecars between them: what arrives, as
 * whom, what is refused, and that the wire carried TLS alone wherever the mesh says so.
 */
import t, { type Test } from 'tap';
import { APP_UID, type Pod } from '../harness/pods.ts';
import { callerOf, curl, newSecret, toldOf } from '../harness/pods-calls.ts';
import { document, VIPS } from '../harness/pods-resources.ts';
import { APP, podsOf, shopOfPods, VIP } from '../harness/pods-shop.ts';
import { between, notTls, openWire } from '../harness/pods-wire.ts';
import { spiffe } from '../harness/test-ca.ts';

t.setTimeout(120_000);

const policy = (name: string, spec: Readonly<Record<string, unknown>>): string =>
  document('security.istio.io/v1', 'AuthorizationPolicy', name, {
    spec: { selector: { matchLabels: { app: 'orders' } }, ...spec },
  });

/** Istio's port of tunnels. */
const HBONE = 15_008;
/** In a DENY rule the path does not count on TCP: without the ports all of it would be denied. */
const HTTP_PORTS = [`${APP.http}`, `${APP.open}`];
const NOT_IN_THE_MESH = [{ source: { notPrincipals: ['*'] } }];

const shop = await shopOfPods(t, () => [
  policy('closed', {
    action: 'DENY',
    rules: [
      { to: [{ operation: { paths: ['/closed*'], ports: HTTP_PORTS } }] },
      { from: NOT_IN_THE_MESH, to: [{ operation: { paths: ['/members*'], ports: HTTP_PORTS } }] },
      {
        from: [{ source: { principals: ['cluster.local/ns/shop/sa/web'] } }],
        to: [{ operation: { ports: [`${APP.echo}`] } }],
      },
    ],
  }),
]);
const { network, mesh, web, orders, legacy } = shop;
const [ofWeb, ofOrders] = await mesh.inject([web, orders]);
if (ofWeb === undefined || ofOrders === undefined) throw new Error('no sidecars');
const wire = await openWire(t, network);

/** What nobody on the wire may read, and what everybody may, for it went in the clear on purpose. */
const secrets: string[] = [];
const readable: string[] = [];

const vips = (vip: number, port: number): string[] => [
  `http://${VIPS.ipv4}${vip}:${port}`,
  `http://[${VIPS.ipv6}${vip}]:${port}`,
];
const addressesOf = (pod: Pod, port: number): string[] => pod.hosts.map((host) => `http://${host}:${port}`);

interface Row {
  readonly title: string;
  readonly from: Pod;
  readonly urls: readonly string[];
  /** The caller's identity as the app is told it; null: it has none. */
  readonly as: string | null;
  readonly clear?: boolean;
}

/** Of the pods with sidecars. */
const POD_ADDRESSES = [web.ipv4, web.ipv6, orders.ipv4, orders.ipv6];
const WEB = spiffe('shop', 'web');
const ORDERS = spiffe('shop', 'orders');
const answered: readonly Row[] = [
  { title: 'STRICT, by service address', from: web, urls: vips(VIP.orders, 80), as: WEB },
  {
    title: 'STRICT, by name',
    from: web,
    urls: ['http://orders', 'http://orders.shop.svc.cluster.local:80'],
    as: WEB,
  },
  { title: "STRICT, by the pod's own address", from: web, urls: addressesOf(orders, APP.http), as: WEB },
  {
    title: 'the other way, between the pods of a headless service',
    from: orders,
    urls: addressesOf(web, APP.http),
    as: ORDERS,
  },
  { title: 'STRICT, a port that nobody declared', from: web, urls: addressesOf(orders, APP.stray), as: WEB },
  {
    title: 'PERMISSIVE, from the mesh',
    from: web,
    urls: [...vips(VIP.orders, 81), ...addressesOf(orders, APP.open)],
    as: WEB,
  },
  {
    title: 'PERMISSIVE, from outside',
    from: legacy,
    urls: addressesOf(orders, APP.open),
    as: null,
    clear: true,
  },
  { title: 'DISABLE, from the mesh', from: web, urls: vips(VIP.orders, 82), as: null, clear: true },
  {
    title: 'DISABLE, from outside',
    from: legacy,
    urls: addressesOf(orders, APP.plain),
    as: null,
    clear: true,
  },
  { title: 'to a pod without a sidecar', from: web, urls: vips(VIP.legacy, 80), as: null, clear: true },
];

t.test('sidecars run as Istio has it: another user than all apps, without a capability', async (t) => {
  for (const { pod, child } of [ofWeb, ofOrders]) {
    const status = await pod.must(['cat', `/proc/${child.pid}/status`]);
    for (const [field, value] of [
      ['Uid', '1337\t1337\t1337\t1337'],
      ['Gid', '1337\t1337\t1337\t1337'],
      ['CapPrm', '0000000000000000'],
      ['CapEff', '0000000000000000'],
      ['CapBnd', '0000000000000000'],
    ] as const) {
      t.match(status, `${field}:\t${value}\n`, `${pod.name}: ${field}`);
    }
  }
});

t.test('answered, and the app sees whom the mesh knows', async (t) => {
  for (const { title, from, urls, as, clear = false } of answered) {
    await t.test(title, async (t) => {
      for (const url of urls) {
        const called = await curl(from, `${url}/hello`, {
          headers: { 'x-colour': 'blue' },
          body: 'and more',
        });
        (clear ? readable : secrets).push(called.secret);
        const told = toldOf(called);
        t.equal(callerOf(told), as, `${url}: the caller`);
        t.equal(told.method, 'POST');
        t.equal(told.path, `/hello?${called.secret}`, `${url}: the path`);
        t.match(told.headers, { 'x-secret': called.secret, 'x-colour': 'blue' }, `${url}: the headers`);
        t.equal(told.body, `${called.secret} and more`, `${url}: the body`);
        const callee = from === orders ? web : title.includes('without a sidecar') ? legacy : orders;
        t.ok([callee.ipv4, callee.ipv6].includes(told.at), `${url}: it came to ${told.at}`);
        const overIpv6 = told.at === callee.ipv6;
        if (callee.hosts.some((host) => url.includes(host)))
          t.equal(overIpv6, url.includes('['), `${url}: as it was asked for`);
        // Behind a sidecar the app sees Istio's address for what came by it.
        const own = overIpv6 ? from.ipv6 : from.ipv4;
        t.equal(
          told.peer,
          callee === legacy ? own : overIpv6 ? '::6' : '127.0.0.6',
          `${url}: the peer's address`,
        );
      }
    });
  }
});

t.test('an app on the addresses of its pod alone (nginx)', async (t) => {
  for (const url of [...vips(VIP.orders, 83), ...addressesOf(orders, APP.nginx)]) {
    const { status, body, secret } = await curl(web, `${url}/static`);
    secrets.push(secret);
    t.equal(status, 200, url);
    t.match(body, new RegExp(`^nginx for (127\\.0\\.0\\.6|::6): /static\\?${secret}$`), url);
  }
});

t.test('refused', async (t) => {
  const strict = [
    ...addressesOf(orders, APP.http),
    ...addressesOf(orders, APP.stray),
    ...addressesOf(orders, APP.nginx),
  ];
  for (const url of strict) {
    await t.test(`plaintext at ${url}, which is STRICT`, async (t) => {
      const mark = ofOrders.mark;
      const { exit, status, error, secret } = await curl(legacy, `${url}/hello`);
      readable.push(secret);
      t.equal(exit, 56, `curl's "failure in receiving": ${error}`);
      t.match(error, /reset by peer/, 'a reset');
      t.equal(status, 0);
      await ofOrders.logged({ reason: 'plaintext_to_strict', policy: 'shop/orders' }, mark);
    });
  }

  const byPolicy: readonly (readonly [string, Pod, string, number])[] = [
    ['a path that is closed', web, `${vips(VIP.orders, 80)[0]}/closed/door`, 403],
    ['the same by the address of the pod', web, `${addressesOf(orders, APP.http)[1]}/closed`, 403],
    ['a path for members, from one', web, `${vips(VIP.orders, 81)[1]}/members`, 200],
    ['the same in plaintext, from none', legacy, `${addressesOf(orders, APP.open)[0]}/members`, 403],
  ];
  for (const [title, from, url, expected] of byPolicy) {
    await t.test(`by policy: ${title}`, async (t) => {
      const { status, secret } = await curl(from, url);
      (from === legacy ? readable : secrets).push(secret);
      t.equal(status, expected);
    });
  }

  t.test('by policy: a TCP port', async (t) => {
    const mark = ofOrders.mark;
    const { output } = await web.run(
      ['curl', '--silent', '--max-time', '10', `telnet://${VIPS.ipv4}${VIP.orders}:${APP.echo}`],
      { uid: APP_UID, input: 'hello' },
    );
    t.equal(output, '', 'nothing came back');
    await ofOrders.logged({ reason: 'policy_denied', policy: 'shop/closed', port: APP.echo }, mark);
  });
});

/** Sends much while it reads what comes back, and ends its side before the other does. */
const THERE_AND_BACK = `
import os, socket, sys, threading
sent, back = os.urandom(4_000_000), bytearray()
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def send():
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while piece := connection.recv(65536):
    back += piece
print("as it was sent" if back == sent else f"{len(back)} of {len(sent)} bytes")
`;

/** An SMTP client waits to be greeted; VRFY is its question here. */
async function mail(t: Test, from: Pod, host: string, port: number): Promise<string> {
  const secret = newSecret();
  const argv = [
    'curl',
    '--silent',
    '--show-error',
    '--globoff',
    '--max-time',
    '20',
    `smtp://${host}:${port}`,
    '--request',
    `VRFY ${secret}`,
  ];
  const { status, output } = await from.run(argv, { uid: APP_UID });
  t.equal(status, 0, `${host}:${port}: ${output}`);
  t.match(output, new RegExp(`252 \\S+ asked: VRFY ${secret}`), `${host}:${port}`);
  return secret;
}

t.test('servers that speak first (SMTP)', async (t) => {
  await t.test('a declared port, by service and by pod', async (t) => {
    for (const host of [`${VIPS.ipv4}${VIP.orders}`, `[${VIPS.ipv6}${VIP.orders}]`, 'orders']) {
      secrets.push(await mail(t, web, host, 25));
    }
    for (const host of orders.hosts) secrets.push(await mail(t, web, host, APP.smtp));
  });
  await t.test('a port that nobody declared', async (t) => {
    for (const host of orders.hosts) secrets.push(await mail(t, web, host, APP.straySmtp));
  });
  await t.test('the same, PERMISSIVE, from outside', async (t) => {
    for (const host of orders.hosts) readable.push(await mail(t, legacy, host, APP.straySmtp));
  });
});

t.test('redis', async (t) => {
  for (const host of ['orders', orders.ipv4, orders.ipv6]) {
    const secret = newSecret();
    secrets.push(secret);
    const ask = (...words: string[]): Promise<string> =>
      web.must(['redis-cli', '-h', host, ...words], { uid: APP_UID });
    t.equal(await ask('SET', 'word', secret), 'OK\n', host);
    t.equal(await ask('GET', 'word'), `${secret}\n`, host);
  }
});

t.test('many at once, and much', async (t) => {
  const secret = newSecret();
  secrets.push(secret);
  const urls = [`http://orders/[1-130]?${secret}`, `http://${orders.ipv4}:${APP.http}/[1-70]?${secret}`];
  const flags = [
    '--silent',
    '--parallel',
    '--parallel-max',
    '40',
    '--max-time',
    '60',
    '--write-out',
    'status=%{http_code}\n',
  ];
  const outs = urls.flatMap((url) => ['--output', '/dev/null', url]);
  const { output } = await web.run(['curl', ...flags, ...outs], { uid: APP_UID, ms: 70_000 });
  t.equal(output.match(/status=200\n/g)?.length, 200, `none is lost: ${output}`);
  const { output: back } = await web.run(['python3', '-c', THERE_AND_BACK, 'orders', `${APP.bulk}`], {
    uid: APP_UID,
  });
  t.equal(back, 'as it was sent\n', 'megabytes there and back, and the end of them');
});

t.test('over HBONE, once the pod says so', async (t) => {
  await mesh.change('pods.yaml', podsOf(shop, { 'networking.istio.io/tunnel': 'http' }), [ofWeb, ofOrders]);
  const tunnels = (): Promise<number> => ofOrders.metric('oarlock_tunnels', { direction: 'inbound' });
  t.equal(await tunnels(), 0);
  for (const url of [
    ...vips(VIP.orders, 80),
    ...addressesOf(orders, APP.http),
    ...addressesOf(orders, APP.open),
  ]) {
    const called = await curl(web, `${url}/tunnelled`, { body: 'through' });
    secrets.push(called.secret);
    t.equal(callerOf(toldOf(called)), WEB, url);
  }
  secrets.push(await mail(t, web, 'orders', 25));
  t.ok((await tunnels()) > 0, 'there are tunnels');
});

t.test('the wire', async (t) => {
  const seen = await wire.stop();

  t.test('shows what went in the clear: it would show more', async (t) => {
    t.ok(readable.length > 0);
    for (const secret of readable) t.ok(seen.contains(secret), secret);
    const open = between(seen, [legacy.ipv4], [orders.ipv4]).find(({ port }) => port === APP.open);
    t.match(open === undefined ? null : notTls(open), /no TLS record but "POST \/hello/);
  });

  t.test('shows none of the secrets of the mesh', async (t) => {
    t.ok(secrets.length > 30, `${secrets.length} calls`);
    for (const secret of secrets) t.notOk(seen.contains(secret), secret);
    // Names of services are in the ClientHello, as in Istio; who calls whom is not: TLS 1.3 hides certificates.
    for (const word of ['x-colour', 'user-agent', '/hello', 'ESMTP says hello', 'spiffe://', 'sa/web']) {
      const clear = between(seen, POD_ADDRESSES, POD_ADDRESSES).filter(
        ({ port, toServer, toClient }) =>
          port !== APP.plain && [toServer, toClient].some((all) => all.includes(word)),
      );
      t.strictSame(clear, [], word);
    }
  });

  t.test('carried TLS from the first byte to the last, between sidecars', async (t) => {
    const ports = new Map<number, number>();
    for (const conversation of between(seen, POD_ADDRESSES, POD_ADDRESSES)) {
      const { client, server, port } = conversation;
      if (port === APP.plain) continue;
      ports.set(port, (ports.get(port) ?? 0) + 1);
      t.equal(notTls(conversation), null, `${client} to ${server} at ${port}`);
    }
    // Each port that was called, and no other.
    t.strictSame(
      [...ports.keys()].sort((a, b) => a - b),
      [
        APP.smtp,
        APP.straySmtp,
        APP.redis,
        APP.echo,
        APP.bulk,
        APP.http,
        APP.open,
        APP.nginx,
        APP.stray,
        HBONE,
      ],
    );
  });

  t.test('never saw the address of a service, nor a port of capture', async (t) => {
    const stray = seen.conversations.filter(
      ({ server, port }) => /^(10\.96\.|fd00:96:)/.test(server) || port === 15_001 || port === 15_006,
    );
    t.strictSame(stray, []);
  });
});
