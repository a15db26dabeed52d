/** Free ports that no other process takes between being chosen and being bound. */
import { createServer } from 'node:net';

/*
 * Below every kernel's range of ephemeral ports: a port that was free a moment ago may meanwhile be the local end of
 * somebody's connection, or rest in TIME_WAIT after ten thousand of them. Test files run as processes of their own,
 * so each has a block of its own.
 */
const FIRST = 20_000;
const BLOCK = 48;
const BLOCKS = 250;
let next = 0;

/** The next ports of this process's block that can be bound on all addresses. */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  while (ports.length < count) {
    if (next >= BLOCK * BLOCKS) throw new Error('no free port is left');
    const offset = (process.pid % BLOCKS) * BLOCK + next++;
    const port = FIRST + (offset % (BLOCK * BLOCKS));
    if (await canBind(port)) ports.push(port);
  }
  return ports;
}

/** One free port. */
export async function freePort(): Promise<number> {
  const [port = 0] = await freePorts(1);
  return port;
}

function canBind(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, () => server.close(() => resolve(true)));
  });
}
