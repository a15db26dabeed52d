/** Free ports that no other process takes between being chosen and being bound. */
import { createServer, type Server } from 'node:net';

/*
 * Below every kernel's range of ephemeral ports: a port that was free a moment ago may meanwhile be the local end of
 * somebody's connection, or rest in TIME_WAIT after ten thousand of them. Test files run as processes of their own,
 * some at the same time: each has blocks of its own, by listening on their first ports for as long as it runs.
 */
const FIRST = 20_000;
const BLOCK = 48;
const BLOCKS = 250;
/** What is left of the block that ports are taken from. */
let next = 0;
let end = 0;

/** The next ports of this process's blocks that can be bound on all addresses. */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  while (ports.length < count) {
    if (next === end) await claimBlock();
    const port = next++;
    const probe = await bind(port);
    if (probe === null) continue;
    await new Promise((resolve) => probe.close(resolve));
    ports.push(port);
  }
  return ports;
}

/** One free port. */
export async function freePort(): Promise<number> {
  const [port = 0] = await freePorts(1);
  return port;
}

async function claimBlock(): Promise<void> {
  for (let i = 0; i < BLOCKS; i++) {
    const first = FIRST + ((process.pid + i) % BLOCKS) * BLOCK;
    const claim = await bind(first);
    if (claim === null) continue;
    claim.unref();
    next = first + 1;
    end = first + BLOCK;
    return;
  }
  throw new Error('no free port is left');
}

/** Null where somebody has it. */
function bind(port: number): Promise<Server | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(null));
    server.listen(port, () => resolve(server));
  });
}
