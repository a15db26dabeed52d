/** What the bench proves of a pair with a tunnel before it measures it: many connections of the app, one between the sides. */
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import type { Pair } from '../../bench/peers/peer.ts';
import { rows } from '../../bench/rows.ts';
import { usesTunnel } from '../../bench/verify.ts';

const ANSWER = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n';

async function listen(t: Test, accepted: (socket: Socket) => void): Promise<number> {
  const open: Socket[] = [];
  const server: Server = createServer((socket) => {
    open.push(socket);
    socket.on('error', () => {});
    accepted(socket);
  });
  t.teardown(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as { readonly port: number }).port;
}

const skip = process.platform === 'linux' ? false : 'connections are counted under /proc';

t.test(
  'a pair is taken to have a tunnel only where it uses one, and nothing beside it',
  { skip },
  async (t) => {
    const row = rows.find(({ id }) => id === 'oarlock-hbone');
    if (row === undefined) throw new Error('no such row');
    const cases = [
      { name: 'one for all', tunnels: 1, each: 'none', status: ANSWER, refused: null },
      {
        name: 'none at all',
        tunnels: 0,
        each: 'none',
        status: ANSWER,
        refused: /made 0 to the tunnels' port and 0 beside it: no HBONE/,
      },
      {
        name: 'one each',
        tunnels: 0,
        each: 'tunnel',
        status: ANSWER,
        refused: /made 16 to the tunnels' port and 0 beside it: no HBONE/,
      },
      {
        name: 'one each beside the tunnel',
        tunnels: 1,
        each: 'beside',
        status: ANSWER,
        refused: /made 1 to the tunnels' port and 16 beside it: no HBONE/,
      },
      {
        name: 'not answered',
        tunnels: 1,
        each: 'none',
        status: 'HTTP/1.1 503 No\r\n\r\n',
        refused: /was not answered/,
      },
    ] as const;
    for (const { name, tunnels, each, status, refused } of cases) {
      await t.test(name, async (t) => {
        const ingress = await listen(t, () => {});
        const tunnelled = await listen(t, () => {});
        const open = (port: number): Promise<void> =>
          new Promise((resolve) => {
            const socket = dial(port, '127.0.0.1', resolve);
            t.teardown(() => socket.destroy());
          });
        for (let i = 0; i < tunnels; i++) await open(ingress);
        const egress = await listen(t, (socket) => {
          socket.once('data', async () => {
            if (each !== 'none') await open(each === 'tunnel' ? ingress : tunnelled);
            socket.write(status);
          });
        });
        const pair = {
          host: '127.0.0.1',
          egress,
          ingress,
          tunnelled,
          callerPid: process.pid,
        } as unknown as Pair;
        if (refused === null) await usesTunnel(row, pair);
        else await t.rejects(usesTunnel(row, pair), { message: refused });
      });
    }
  },
);
