/** A small HTTP server whose callers are bounded: in time, in number, and each address in its share. */
import { createServer, type RequestListener, type Server } from 'node:http';
import { boundConnections, type PlaceBounds } from './connection-places.ts';

/** Where a server listens. Port 0: the kernel chooses. */
export interface Listen {
  /** Null: all addresses, IPv6 and IPv4. Admin takes loopback addresses only; null means 127.0.0.1 there. */
  readonly host: string | null;
  readonly port: number;
}

/** Milliseconds and counts. */
export interface ServerBounds extends PlaceBounds {
  readonly headTimeoutMs: number;
  readonly requestTimeoutMs: number;
  /** How often the two are looked at. */
  readonly checkIntervalMs: number;
  /** No byte either way: a scraper that stops reading must not keep an answer in memory. */
  readonly idleTimeoutMs: number;
}

/** Small: probes and scrapers are few, near and quick; whoever is not is none of them. */
export const defaultServerBounds: ServerBounds = {
  headTimeoutMs: 5_000,
  requestTimeoutMs: 10_000,
  checkIntervalMs: 2_500,
  idleTimeoutMs: 30_000,
  maxConnections: 512,
  maxConnectionsPerAddress: 48,
};
const MAX_HEAD_BYTES = 8_192;
/** How long `close` lets answers under way finish. */
const CLOSE_MS = 500;

/** A server that listens to nobody yet. */
export function createBoundedServer(bounds: ServerBounds, listener: RequestListener): Server {
  const server = createServer(
    {
      headersTimeout: bounds.headTimeoutMs,
      requestTimeout: bounds.requestTimeoutMs,
      connectionsCheckingInterval: bounds.checkIntervalMs,
      maxHeaderSize: MAX_HEAD_BYTES,
    },
    listener,
  );
  server.timeout = bounds.idleTimeoutMs;
  boundConnections(server, bounds);
  return server;
}

/**
 * Binds it.
 * @param name of its flag: `--NAME-port`
 * @throws Error that names port and flag
 */
export function bind(server: Server, name: string, listen: Listen): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(bindError(error, name, listen)));
    server.listen(
      { port: listen.port, ...(listen.host === null ? {} : { host: listen.host }), exclusive: true },
      resolve,
    );
  });
}

function bindError(error: NodeJS.ErrnoException, name: string, listen: Listen): Error {
  const what = error.code === 'EADDRINUSE' ? 'is in use' : `cannot be bound (${error.code ?? error.message})`;
  return new Error(`${name} port ${listen.port} ${what}: choose another with --${name}-port, or off`, {
    cause: error,
  });
}

/** Stops listening, lets answers under way finish for half a second, then closes the rest. */
export function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const patience = setTimeout(() => server.closeAllConnections(), CLOSE_MS);
    server.close(() => {
      clearTimeout(patience);
      resolve();
    });
    server.closeIdleConnections();
  });
}
