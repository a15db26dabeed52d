/** A port of the loopback interface for a process that must be told one. */
import { createServer } from 'node:net';

/**
 * Below what Linux and macOS hand out themselves: a port the kernel chose for us and that we gave back might be
 * somebody else's by the time our process listens, and that somebody would be measured.
 */
const FIRST = 20_000;
const LAST = 29_999;

/** Chosen at random, and free now. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST + 1));
    if (await isFree(port)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
