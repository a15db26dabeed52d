/** Metrics tell how many tunnels there are on either side, and how many connections share them. */
import { once } from 'node:events';
import { connect } from 'node:net';
import t from 'tap';

// Before what makes the resources is imported.
process.env.OARLOCK_TEST_OVER = 'hbone';
const { echo, httpApp, tcpApp } = await import('./harness/apps.ts');
const { startPair } = await import('./harness/pair.ts');

const CONNECTIONS = 3;

t.test('three connections share one tunnel, and leave it to the next', async (t) => {
  const app = await httpApp(t);
  const tcp = await tcpApp(t, echo);
  // An idle tunnel must still be there when it is counted.
  const flags = ['--session-idle-timeout', '5m'];
  const { ports, web, orders } = await startPair(t, { http: app.port, tcp: tcp.port }, { flags });
  const sides = [
    { sidecar: web, direction: 'outbound', other: 'inbound' },
    { sidecar: orders, direction: 'inbound', other: 'outbound' },
  ];
  const countsAre = async (tunnels: number, streams: number): Promise<void> => {
    for (const { sidecar, direction, other } of sides) {
      await sidecar.metricIs('oarlock_tunnels', { direction }, tunnels);
      await sidecar.metricIs('oarlock_tunnel_streams', { direction }, streams);
      await sidecar.metricIs('oarlock_tunnels', { direction: other }, 0);
      await sidecar.metricIs('oarlock_tunnel_streams', { direction: other }, 0);
    }
  };
  await countsAre(0, 0);
  const clients = await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      const client = connect(ports.tcp, '127.0.0.1');
      client.write('ping');
      const [answer] = await once(client, 'data');
      t.equal(String(answer), 'ping');
      return client;
    }),
  );
  await countsAre(1, CONNECTIONS);
  clients.pop()?.end();
  await countsAre(1, CONNECTIONS - 1);
  for (const client of clients) client.end();
  await countsAre(1, 0);
});
