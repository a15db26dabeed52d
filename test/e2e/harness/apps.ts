/** The apps behind the sidecars: an HTTP app that tells what it was sent, and TCP apps with set manners. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import type { Test } from 'tap';

/** What the HTTP app answers with: the request as it arrived. */
export interface Told {
  readonly method: string;
  readonly url: string;
  /** Names as they were sent, values in order. */
  readonly rawHeaders: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
  readonly bodyBytes: number;
}

export interface App {
  readonly port: number;
  /** Connections it has open now. */
  readonly sockets: ReadonlySet<Socket>;
  /** Requests or connections it has seen. */
  readonly seen: { count: number };
}

/**
 * Paths: `/status/N` answers N; `/bytes/N` N bytes with a length, `/chunks/N` without; `/echo` the body back;
 * `/slow/MS` after that long; `/cut` half an answer and a reset; anything else tells what it was sent.
 */
export async function httpApp(t: Test): Promise<App> {
  const seen = { count: 0 };
  const server = createServer((request, response) => {
    seen.count++;
    const [, verb = '', argument = '0'] = (request.url ?? '').split(/[/?]/);
    const number = Number(argument);
    if (verb === 'status') response.writeHead(number).end();
    else if (verb === 'bytes')
      response.writeHead(200, { 'content-length': number }).end(Buffer.alloc(number, 'b'));
    else if (verb === 'chunks') writeChunks(response, number);
    else if (verb === 'echo') request.pipe(response);
    else if (verb === 'slow') setTimeout(() => void tell(request, response), number).unref();
    else if (verb === 'cut') {
      response.writeHead(200, { 'content-length': 1000 }).write('half an answer');
      setTimeout(() => response.socket?.resetAndDestroy(), 50);
    } else void tell(request, response);
  });
  // The sidecar's pool must never meet a connection that the app closes by the clock.
  server.keepAliveTimeout = 60_000;
  return listen(t, server, seen);
}

function writeChunks(response: ServerResponse, left: number): void {
  const size = Math.min(left, 10_000);
  if (size === 0) response.end();
  else response.write(Buffer.alloc(size, 'c'), () => writeChunks(response, left - size));
}

async function tell(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let bodyBytes = 0;
  try {
    for await (const chunk of request) bodyBytes += (chunk as Buffer).length;
  } catch {
    return;
  }
  const { method, url, headers, rawHeaders } = request;
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ method, url, headers, rawHeaders, bodyBytes }));
}

/** A TCP app: `serve` does as it likes with each connection. */
export async function tcpApp(t: Test, serve: (socket: Socket) => void): Promise<App> {
  const seen = { count: 0 };
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    seen.count++;
    socket.on('error', () => {});
    serve(socket);
  });
  return listen(t, server, seen);
}

/** Sends back what it gets, and ends when the client has. */
export function echo(socket: Socket): void {
  socket.pipe(socket);
}

/** Serves on a port of the kernel's choosing until the test is over. */
export async function listen(t: Test, server: Server, seen = { count: 0 }): Promise<App> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { port: address.port, sockets, seen };
}
