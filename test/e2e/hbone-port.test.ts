/** The HBONE port: where it is, what says so, and what happens where another has it. */
import { createServer } from 'node:net';
import t, { type Test } from 'tap';
import { Mesh, ready, type Sidecar } from './harness/mesh.ts';
import { freePort, freePorts } from './harness/ports.ts';
import { type Oarlock, start } from './harness/processes.ts';
import { spiffe } from './harness/test-ca.ts';
import { openTls } from './harness/tls-client.ts';
import { until } from './harness/wait.ts';

t.setTimeout(120_000);

const ISTIO = 15_008;
/** Where Linux alone lets threads share a port. */
const counts = process.platform === 'linux' ? ['1', '2'] : ['1'];

/** A workload by its label and its port named `hbone`; 0: neither. */
function orders({ label = false, hbone = 0 }): string {
  return `apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: orders, namespace: shop}
spec:
  address: 127.0.0.1
  labels: {app: orders${label ? ', networking.istio.io/tunnel: http' : ''}}
  serviceAccount: orders
  ports: {${hbone === 0 ? '' : `hbone: ${hbone}`}}
`;
}

/** Starts it with what the harness says of all ports but this one. */
async function run(
  t: Test,
  workload: { label?: boolean; hbone?: number },
  ...flags: string[]
): Promise<Oarlock> {
  const mesh = await Mesh.create(t, orders(workload));
  const { dir } = await mesh.certDir('orders');
  const all = mesh.flags('shop/orders', '--cert-dir', dir, ...flags);
  all.splice(all.indexOf('--hbone-port'), 2);
  const running = start(t, all);
  trust.set(running, mesh);
  return running;
}

const trust = new Map<Oarlock, Mesh>();

/** Sees that a peer's handshake succeeds there. */
async function takesTunnels(t: Test, { process, ports }: Sidecar): Promise<void> {
  const leaf = (await trust.get(process)?.ca.leaf(spiffe('shop', 'web'))) ?? null;
  for (let i = 0; i < 4; i++) {
    const { tls } = await openTls(t, ports.hbone ?? 0, { leaf, ALPNProtocols: ['h2'] });
    t.equal(tls.alpnProtocol, 'h2');
  }
}

/** Another process's, on all addresses. Where somebody keeps it that is as good; one who has it for a moment is waited for. */
async function taken(t: Test, port: number): Promise<number> {
  const server = createServer();
  t.teardown(() => server.close());
  const listens = (): Promise<boolean> =>
    new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, () => resolve(true));
    });
  await until('the port to be free', listens, 5_000).catch(() => {});
  return port;
}

/** How often it was warned so by the time its resources are in force. */
async function warnings(running: Oarlock, text: RegExp): Promise<number> {
  await running.stderr.next({ msg: 'resources are in force' });
  return running.stderr.matching({ level: 'warn', msg: text }).length;
}

for (const count of counts) {
  const threads = ['--concurrency', count];

  t.test(`${count} thread(s): port 0 is the kernel's choice, one for all`, async (t) => {
    const sidecar = await ready(await run(t, {}, ...threads, '--hbone-port', '0'));
    t.ok((sidecar.ports.hbone ?? 0) > 0);
    await takesTunnels(t, sidecar);
    t.equal(await warnings(sidecar.process, /peers dial/), 0, 'nobody dials by a label');
  });

  t.test(`${count} thread(s): a port in use that nothing asks for is done without`, async (t) => {
    await taken(t, ISTIO);
    const sidecar = await ready(await run(t, {}, ...threads));
    t.equal(sidecar.ports.hbone, undefined);
    t.equal(
      await warnings(sidecar.process, /port 15008 is in use by another process; .*going on without HBONE/),
      1,
    );
  });

  t.test(`${count} thread(s): a port in use that is asked for ends it`, async (t) => {
    const port = await taken(t, await freePort());
    await taken(t, ISTIO);
    const rows: { title: string; running: Oarlock; named: number }[] = [
      { title: 'by flag', running: await run(t, {}, ...threads, '--hbone-port', String(port)), named: port },
      { title: 'by the label', running: await run(t, { label: true }, ...threads), named: ISTIO },
    ];
    for (const { title, running, named } of rows) {
      t.equal((await running.end()).code, 2, title);
      t.match(running.stderr.text, new RegExp(`port ${named} is in use by another process.*--hbone-port`));
    }
  });
}

t.test('where it is not where peers dial, a warning says so', async (t) => {
  const [a = 0, b = 0, c = 0, d = 0] = await freePorts(4);
  const rows = [
    { workload: { label: true, hbone: a }, flag: String(b), says: `on port ${b}` },
    { workload: { label: true }, flag: 'off', says: 'off' },
    { workload: { label: true, hbone: c }, flag: String(c), says: null },
    { workload: { hbone: a }, flag: String(d), says: null },
  ];
  const one = async ({ workload, flag, says }: (typeof rows)[number]): Promise<void> => {
    const { process } = await ready(await run(t, workload, '--hbone-port', flag));
    const where = workload.hbone ?? ISTIO;
    const text = new RegExp(`peers dial HBONE on port ${where} of shop/orders, and ours is ${says}: `);
    const title = `${JSON.stringify(workload)}, --hbone-port ${flag}`;
    t.equal(await warnings(process, says === null ? /peers dial/ : text), says === null ? 0 : 1, title);
  };
  await Promise.all(rows.map(one));
});
