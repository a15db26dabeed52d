/** The apps on either side of ztunnel: they run in a test's own process and, by ztunnel-agent.ts, in a namespace. */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';

/** What an app says that ends at once. */
export const FAREWELL = 'bye';
export const GREETING = '220 ready\r\n';
/** What the resetting app waits for. */
export const RESET_WORD = 'reset me';

/** Ports of the apps of one side. */
export interface AppPorts {
  /** Tells what it was sent; `/echo` sends the body back. */
  readonly http: number;
  /** The same over HTTP/2 with prior knowledge, as gRPC has it. */
  readonly http2: number;
  /** Reads all there is, up to the FIN, and only then answers: with its length and digest. */
  readonly digest: number;
  /** Ends its own side at once, and reads all there is. */
  readonly farewell: number;
  /** Speaks first, then sends back what it gets. */
  readonly greet: number;
  /** Sends back what it gets, and resets the connection when told to; tells how its connections ended. */
  readonly reset: number;
}

export interface Side {
  readonly ports: AppPorts;
  close(): void;
}

/** Digests of what the app that ends first has read of each connection. */
export const farewells: string[] = [];
/** How each connection of this process's resetting app ended, in order: `end`, or an error's code. */
export const endings: string[] = [];

/** Starts the apps of one side on all its addresses, on ports of the kernel's choosing. */
export async function startApps(): Promise<Side> {
  const sockets = new Set<Socket>();
  const http = createServer((incoming, response) => {
    const { method, url, headers } = incoming;
    buffer(incoming).then(
      (body) =>
        response.end(
          url === '/echo' ? body : JSON.stringify({ method, url, headers, bodyBytes: body.length }),
        ),
      () => {}, // the caller has left
    );
  });
  http.keepAliveTimeout = 60_000;
  const http2 = createHttp2Server((incoming, response) => {
    const { method, url, headers } = incoming;
    response.end(JSON.stringify({ method, url, headers }));
  });
  const servers: Server[] = [
    http,
    http2,
    tcp((socket) => readAll(socket, (digest) => socket.end(digest))),
    tcp((socket) => {
      socket.end(FAREWELL);
      readAll(socket, (digest) => farewells.push(digest));
    }),
    tcp((socket) => {
      socket.write(GREETING);
      socket.pipe(socket);
    }),
    tcp((socket) => {
      socket.on('data', (chunk: Buffer) => {
        if (chunk.includes(RESET_WORD)) socket.resetAndDestroy();
        else socket.write(chunk);
      });
      let ending: string | null = null;
      const over = (how: string): void => {
        ending ??= how;
      };
      socket.on('end', () => {
        over('end');
        socket.end();
      });
      socket.on('error', (error: NodeJS.ErrnoException) => over(error.code ?? error.message));
      socket.on('close', () => endings.push(ending ?? 'closed'));
    }),
  ];
  for (const server of servers) {
    server.on('connection', (socket: Socket) => {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
    });
  }
  const [httpPort = 0, http2Port = 0, digest = 0, farewell = 0, greet = 0, reset = 0] = await Promise.all(
    servers.map(listen),
  );
  return {
    ports: { http: httpPort, http2: http2Port, digest, farewell, greet, reset },
    close() {
      for (const server of servers) server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** @param done gets the digest of all that came before the FIN */
function readAll(socket: Socket, done: (digest: string) => void): void {
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  socket.on('end', () => done(digestOf(Buffer.concat(parts))));
}

function tcp(serve: (socket: Socket) => void): Server {
  return createTcpServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on('error', () => {});
    serve(socket);
  });
}

function listen(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, () => {
      const address = server.address();
      resolve(address === null || typeof address === 'string' ? 0 : address.port);
    });
  });
}

/** Length and SHA-256. */
export function digestOf(bytes: Buffer): string {
  return `${bytes.length} ${createHash('sha256').update(bytes).digest('hex')}`;
}
