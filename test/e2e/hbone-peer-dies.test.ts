/** The callee's sidecar dies under load and comes back: its callers see what they would of a connection each, and then nothing of it. */
import t from 'tap';

// Before what makes the resources is imported.
process.env.OARLOCK_TEST_OVER = 'hbone';
const { echo, httpApp, tcpApp } = await import('./harness/apps.ts');
const { call, keepAlive, open } = await import('./harness/clients.ts');
const { startPair } = await import('./harness/pair.ts');
const { until } = await import('./harness/wait.ts');

t.setTimeout(120_000);

const http = await httpApp(t);
const tcp = await tcpApp(t, echo);
const { mesh, ports, web, orders } = await startPair(t, { http: http.port, tcp: tcp.port });
let current = orders;

t.test('it is killed while twenty clients ask', async (t) => {
  const answers = new Map<number, number>();
  let lost = 0;
  let running = true;
  const client = async (): Promise<void> => {
    const agent = keepAlive(t);
    while (running) {
      try {
        const { status } = await call(ports.http, '/tell', { agent });
        answers.set(status, (answers.get(status) ?? 0) + 1);
        if (status !== 200) await new Promise((resolve) => setTimeout(resolve, 20));
      } catch {
        // Cut in the midst of its answer.
        lost++;
      }
    }
  };
  const clients = Array.from({ length: 20 }, client);
  const served = (): number => answers.get(200) ?? 0;
  await until('all to be at work', () => served() > 200);
  const peer = await open(t, ports.tcp);
  peer.write('hello');
  await peer.until('the echo', (text) => text === 'hello');
  await current.process.kill();
  t.equal(await peer.ended(), 'ECONNRESET', 'a connection is reset');
  await until('requests to fail', () => (answers.get(503) ?? 0) > 20);
  current = await mesh.sidecar('orders');
  const before = served();
  await until('requests to be served again', () => served() > before + 200);
  running = false;
  await Promise.all(clients);
  t.same([...answers.keys()].sort(), [200, 503]);
  t.ok(lost <= 20, `${lost} were cut`);
  const again = await open(t, ports.tcp);
  again.write('hello');
  await again.until('the echo', (text) => text === 'hello');
  await web.metricIs('oarlock_tunnels', { direction: 'outbound' }, 1);
  t.same(web.process.stderr.matching({ level: 'error' }), []);
});

t.test('it restarts while it is not used: nobody notices', async (t) => {
  const agent = keepAlive(t);
  t.equal((await call(ports.http, '/tell', { agent })).status, 200);
  const { mark } = web;
  current.process.signal('SIGTERM');
  t.same(await current.process.end(), { code: 0, signal: null });
  current = await mesh.sidecar('orders');
  for (let i = 0; i < 3; i++) t.equal((await call(ports.http, '/tell', { agent })).status, 200);
  t.same(
    web.process.stderr.matching({ direction: 'outbound', type: undefined }, mark),
    [],
    'no refusal of any reason',
  );
});
