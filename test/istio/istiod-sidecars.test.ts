/** Sidecars whose credentials come from a real istiod: renewed under traffic, through its restart and every root it has. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { splitCertificates } from '../../ca-client/pem.ts';
import { httpApp } from '../e2e/harness/apps.ts';
import { Mesh, ready, type Sidecar, tempDir } from '../e2e/harness/mesh.ts';
import { start } from '../e2e/harness/processes.ts';
import { policy, shop, shopPorts } from '../e2e/harness/shop.ts';
import { replace } from '../e2e/harness/test-ca.ts';
import { openTls } from '../e2e/harness/tls-client.ts';
import { Traffic } from '../e2e/harness/traffic.ts';
import { until } from '../e2e/harness/wait.ts';
import { type ControlPlane, controlPlane, Istiod } from './control-plane.ts';
import { PluggedRoot } from './plugged-root.ts';

/** Renewed at half: a busy machine has as many seconds to be late, an istiod that starts again some more. */
const TTL_SECONDS = 12;
const TTL_THROUGH_RESTART_SECONDS = 36;
const RENEWALS = 'oarlock_credentials_renewals_total';

t.setTimeout(240_000);
const plane = controlPlane();
if (plane === null) t.plan(0, 'OARLOCK_CONTROL_PLANE_DIR is not set: no real istiod to ask');
else {
  await t.test('renewed under traffic, and istiod gone and back, and hanging', (t) => restarts(t, plane));
  await t.test('root and intermediate plugged in, and exchanged', (t) => exchanges(t, plane));
}

interface Shop {
  readonly web: Sidecar;
  readonly orders: Sidecar;
  readonly ordersPort: number;
  readonly traffic: readonly Traffic[];
}

/** The shop over this istiod; `web` calls `orders` all the time. */
async function open(
  t: Test,
  plane: ControlPlane,
  { istiod, rootFile, ttl }: { readonly istiod: Istiod; readonly rootFile: string; readonly ttl: number },
): Promise<Shop> {
  const app = await httpApp(t);
  const ports = await shopPorts();
  const mesh = await Mesh.create(
    t,
    `${shop(ports, { http: app.port, tcp: app.port })}---
${policy('web-only', '[{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]')}`,
  );
  const begin = async (name: string, keyType: string): Promise<Sidecar> => {
    const tokenFile = join(mesh.dir, `${name}.token`);
    writeFileSync(tokenFile, await plane.token('shop', name));
    const ca = ['--ca-address', istiod.address, '--ca-root', rootFile, '--token', tokenFile];
    const more = ['--certificate-ttl', `${ttl}s`, '--key-type', keyType, '--access-log', 'off'];
    return ready(start(t, mesh.flags(`shop/${name}`, ...ca, ...more)));
  };
  const [web, orders] = await Promise.all([begin('web', 'EC-P384'), begin('orders', 'RSA-2048')]);
  const traffic = [new Traffic(t, ports.http), new Traffic(t, ports.http, { kept: false })];
  for (const one of traffic) await one.goesOn();
  return { web, orders, ordersPort: ports.ordersHttp, traffic };
}

async function renewed(sidecars: readonly Sidecar[], times = 1): Promise<void> {
  const count = (sidecar: Sidecar) => sidecar.metric(RENEWALS, { result: 'success' });
  const before = await Promise.all(sidecars.map(count));
  const again = async (sidecar: Sidecar, i: number) =>
    until('a renewal', async () => (await count(sidecar)) >= (before[i] ?? 0) + times);
  await Promise.all(sidecars.map(again));
}

async function noticedNothing(t: Test, traffic: readonly Traffic[]): Promise<void> {
  for (const one of traffic) {
    await one.goesOn();
    t.same(one.failures, []);
  }
}

async function restarts(t: Test, plane: ControlPlane): Promise<void> {
  const istiod = await Istiod.start(t, plane);
  const { web, orders, traffic } = await open(t, plane, {
    istiod,
    rootFile: plane.rootFile,
    ttl: TTL_THROUGH_RESTART_SECONDS,
  });
  t.equal(orders.identity, 'spiffe://cluster.local/ns/shop/sa/orders');
  await renewed([web, orders]);
  await noticedNothing(t, traffic);

  const { mark } = orders;
  await istiod.kill();
  const line = await orders.logged(
    { msg: /no new credentials: CA localhost:\d+: UNAVAILABLE.*check that the CA runs/ },
    mark,
  );
  t.ok(Number(line.nextRetryMs) > 0, 'it says when it tries again');
  await noticedNothing(t, traffic);
  await istiod.up();
  await renewed([web, orders]);
  await noticedNothing(t, traffic);

  const frozen = orders.mark;
  istiod.freeze();
  await orders.logged({ msg: /no new credentials: .*(DEADLINE_EXCEEDED|gave no answer within)/ }, frozen);
  await noticedNothing(t, traffic);
  istiod.thaw();
  await renewed([web, orders]);
  await noticedNothing(t, traffic);
}

async function exchanges(t: Test, plane: ControlPlane): Promise<void> {
  const home = tempDir(t);
  const folder = tempDir(t);
  const [old, next] = [await PluggedRoot.create(home, 'old'), await PluggedRoot.create(home, 'next')];
  const rootCert = join(folder, 'root-cert.pem');
  writeFileSync(rootCert, old.pem);
  await old.plugInto(folder);
  // what istiod hands out to every namespace, and the kubelet to every pod
  const rootFile = join(home, 'root-for-clients.pem');
  writeFileSync(rootFile, old.pem);
  const istiod = await Istiod.start(t, plane, { ROOT_CA_DIR: folder, ISTIO_MULTIROOT_MESH: 'true' });
  const { web, orders, ordersPort, traffic } = await open(t, plane, { istiod, rootFile, ttl: TTL_SECONDS });

  /** Subjects' organizations of the chain `orders` shows a foreign client, from its leaf's issuer on. */
  const shown = async (): Promise<string> => {
    const { tls } = await openTls(t, ordersPort, { leaf: null });
    const issuer = tls.getPeerX509Certificate()?.issuer ?? '';
    tls.destroy();
    return issuer;
  };
  t.equal(await shown(), 'O=old intermediate');
  const { chain } = (await orders.admin('/certs')) as { chain: readonly unknown[] };
  t.equal(chain.length, 2, 'the intermediate goes with the leaf');

  const updated = async (change: () => Promise<void> | void): Promise<void> => {
    const times = () => istiod.log.match(/updated its key and certs accordingly/g)?.length ?? 0;
    const before = times();
    await change();
    await until('istiod to take its new files', () => times() > before);
    await renewed([web, orders], 2);
    await noticedNothing(t, traffic);
  };
  await updated(() => old.plugInto(folder));
  t.equal(await shown(), 'O=old intermediate', 'another intermediate of the same root');
  await updated(() => {
    replace(rootFile, old.pem + next.pem);
    appendFileSync(rootCert, next.pem);
  });
  t.equal(splitCertificates(readFileSync(rootCert, 'utf8'), rootCert).length, 2);
  await updated(() => next.plugInto(folder));
  t.equal(await shown(), 'O=next intermediate', 'both roots are trusted, the next one issues');
  await updated(() => {
    replace(rootFile, next.pem);
    writeFileSync(rootCert, next.pem);
  });
  t.equal(await shown(), 'O=next intermediate', 'only the next one is left');
  for (const sidecar of [web, orders]) {
    t.equal(await sidecar.metric(RENEWALS, { result: 'failure' }), 0);
  }
}
