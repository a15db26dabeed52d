/** Sidecars on files that are swapped as a kubelet swaps a Secret's, while traffic flows: every swap counts, no half one does. */
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { httpApp } from './harness/apps.ts';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { start } from './harness/processes.ts';
import { policy, shop, shopPorts } from './harness/shop.ts';
import { type Leaf, spiffe, TestCa } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { Traffic } from './harness/traffic.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const NAMES = ['tls.crt', 'tls.key', 'ca.crt'] as const;
const app = await httpApp(t);
const ports = await shopPorts();
const mesh = await Mesh.create(
  t,
  `${shop(ports, { http: app.port, tcp: app.port })}---
${policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]')}`,
);

/** A Secret's volume as the kubelet keeps it: a folder a version, and one link that says which counts. */
class SecretVolume {
  readonly dir: string;
  #version = 0;

  constructor(name: string) {
    this.dir = join(mesh.dir, name);
    mkdirSync(this.dir);
  }

  put({ cert, key, ca }: Leaf): void {
    const version = `..2026_01_15_${this.#version}`;
    mkdirSync(join(this.dir, version));
    for (const [i, text] of [cert, key, ca].entries()) {
      writeFileSync(join(this.dir, version, NAMES[i] ?? ''), text, { mode: 0o600 });
    }
    symlinkSync(version, join(this.dir, '..data_tmp'));
    renameSync(join(this.dir, '..data_tmp'), join(this.dir, '..data'));
    if (this.#version === 0)
      for (const name of NAMES) symlinkSync(join('..data', name), join(this.dir, name));
    else rmSync(join(this.dir, `..2026_01_15_${this.#version - 1}`), { recursive: true });
    this.#version++;
  }
}

const leafOf = (account: string) => mesh.ca.leaf(spiffe('shop', account));
const volumes = { web: new SecretVolume('web-tls'), orders: new SecretVolume('orders-tls') };

async function begin(name: 'web' | 'orders'): Promise<Sidecar> {
  const flags = mesh.flags(`shop/${name}`, '--cert-dir', volumes[name].dir, '--access-log', 'off');
  const running = start(t, flags);
  if (name === 'orders') {
    await running.stderr.next({ msg: /none of its files is there \(yet\)/ });
  }
  volumes[name].put(await leafOf(name));
  return ready(running);
}

const [web, orders] = await Promise.all([begin('web'), begin('orders')]);
const kept = new Traffic(t, ports.http);
const fresh = new Traffic(t, ports.http, { kept: false });

/** The serial a foreign client is shown. */
async function presented(): Promise<string> {
  const { tls } = await openTls(t, ports.ordersHttp, { leaf: null });
  const serial = tls.getPeerX509Certificate()?.serialNumber ?? '';
  tls.destroy();
  return serial.toLowerCase();
}

t.test('ten swaps', async (t) => {
  for (let round = 1; round <= 10; round++) {
    const [mine, theirs] = [await leafOf('orders'), await leafOf('web')];
    volumes.orders.put(mine);
    volumes.web.put(theirs);
    await until(`swap ${round} to be shown`, async () => (await presented()) === mine.serial);
  }
  await kept.goesOn();
  await fresh.goesOn();
  t.same([kept.failures, fresh.failures], [[], []]);
});

t.test('a set that does not fit is told of, and the one before stays', async (t) => {
  const before = await presented();
  const stranger = await TestCa.create('O=another root');
  const [good, other, foreign] = [await leafOf('orders'), await leafOf('orders'), await stranger.leaf(null)];
  const rows: readonly (readonly [string, Leaf, RegExp])[] = [
    ['the key of another set', { ...good, key: other.key }, /private key is not the certificate's/],
    ['half a certificate', { ...good, cert: good.cert.slice(0, 300) }, /tls.crt holds no PEM certificate/],
    ['the root of another', { ...good, ca: foreign.ca }, /does not lead to any of the roots/],
    ['another identity', await leafOf('payments'), /offers the identity .*payments/],
  ];
  for (const [title, leaf, words] of rows) {
    const { mark } = orders;
    volumes.orders.put(leaf);
    await orders.logged({ msg: words }, mark);
    t.equal(await presented(), before, title);
    t.match((await orders.health()).status, 200, `${title}: it stays ready`);
  }
  volumes.orders.put(good);
  await until('the good one to be shown', async () => (await presented()) === good.serial);
  t.notMatch(orders.process.stderr.text, /PRIVATE KEY/);
  for (const traffic of [kept, fresh]) {
    await traffic.goesOn();
    await traffic.stop();
    t.same(traffic.failures, []);
  }
  t.equal((await web.health()).status, 200);
});
