/** The app behind the sidecars: answers each path with one prepared buffer, in a process of its own. */
import { createServer as createHttp2, type Http2Stream, type IncomingHttpHeaders } from 'node:http2';
import { type AddressInfo, createServer, type Socket } from 'node:net';

/** `/small`: 1 KiB, keep-alive. `/bulk`: 10 MB. `/close`: 1 KiB, then the connection ends. `/held`: no answer at all. */
const bodies = { small: Buffer.alloc(1024, 'x'), bulk: Buffer.alloc(10_000_000, 'x') } as const;
const answers = {
  small: prepared(bodies.small, ''),
  bulk: prepared(bodies.bulk, ''),
  close: prepared(bodies.small, 'Connection: close\r\n'),
} as const;

/** Requests for `/held` whose connection is open; `/waiting` tells. */
let held = 0;

function prepared(body: Buffer, field: string): Buffer {
  const head = `HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: ${body.length}\r\n${field}\r\n`;
  return Buffer.concat([Buffer.from(head), body]);
}

function hold(carrier: Socket | Http2Stream): void {
  held++;
  carrier.once('close', () => {
    held--;
  });
}

/** Requests have no body here, and no client sends the next one before the answer: a head's end is all to look for. */
function serve(socket: Socket): void {
  let head = '';
  socket.setNoDelay(true);
  socket.on('data', (chunk: Buffer) => {
    head += chunk.toString('latin1');
    if (!head.endsWith('\r\n\r\n')) return;
    const path = head.slice(5, head.indexOf(' ', 5));
    head = '';
    if (path === 'small') socket.write(answers.small);
    else if (path === 'bulk') socket.write(answers.bulk);
    else if (path === 'close') socket.end(answers.close);
    else if (path === 'held') hold(socket);
    else if (path === 'waiting') socket.write(prepared(Buffer.from(String(held)), ''));
    else socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
  });
  socket.on('error', () => socket.destroy());
}

/** The same in HTTP/2, where no connection ends with a request. */
function serveStream(
  stream: Http2Stream & { respond: (headers: object) => void },
  headers: IncomingHttpHeaders,
): void {
  stream.on('error', () => {});
  const path = headers[':path'];
  if (path === '/held') {
    hold(stream);
    return;
  }
  const body = path === '/bulk' ? bodies.bulk : bodies.small;
  stream.respond({
    ':status': 200,
    'content-type': 'application/octet-stream',
    'content-length': String(body.length),
  });
  stream.end(body);
}

const server = createServer(serve);
const http2 = createHttp2({ settings: { maxConcurrentStreams: 10_000 } }).on('stream', serveStream);
/** The last argument, where there is one. */
const [, , host = '127.0.0.1'] = process.argv;
server.listen({ port: 0, host, backlog: 4096 }, () => {
  http2.listen(0, host, () => {
    const ports = {
      http1: (server.address() as AddressInfo).port,
      http2: (http2.address() as AddressInfo).port,
    };
    process.stdout.write(`${JSON.stringify({ ready: true, ports })}\n`);
  });
});
