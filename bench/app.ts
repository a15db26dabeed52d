/** The app behind the sidecars: answers each path with one prepared buffer, in a process of its own. */
import { createServer, type Socket } from 'node:net';

/** `/small`: 1 KiB, keep-alive. `/bulk`: 10 MB. `/close`: 1 KiB, then the connection ends. */
const answers = {
  small: prepared(1024, ''),
  bulk: prepared(10_000_000, ''),
  close: prepared(1024, 'Connection: close\r\n'),
} as const;

function prepared(size: number, field: string): Buffer {
  const head = `HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: ${size}\r\n${field}\r\n`;
  return Buffer.concat([Buffer.from(head), Buffer.alloc(size, 'x')]);
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
    if (path === 'close') socket.end(answers.close);
    else socket.write(path === 'bulk' ? answers.bulk : answers.small);
  });
  socket.on('error', () => socket.destroy());
}

const server = createServer(serve);
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`${JSON.stringify({ ready: true, address: server.address() })}\n`);
});
// Whoever started us is gone.
process.stdin
  .on('close', () => process.exit(0))
  .on('error', () => {})
  .resume();
