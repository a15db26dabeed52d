/** Opens many keep-alive connections, has one request answered on each, and leaves them idle, in a process of its own. */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { connect as connectTls, createSecureContext } from 'node:tls';
import { type IdleTask, taskOf } from './task.ts';

const task = taskOf<IdleTask>();
/** Handshakes of a thousand at once would wait for each other longer than they are given. */
const AT_ONCE = 20;
const REQUEST = 'GET /small HTTP/1.1\r\nHost: orders.bench.svc.cluster.local\r\n\r\n';

const { tls } = task;
const secureContext =
  tls === null
    ? null
    : createSecureContext({
        cert: readFileSync(tls.cert),
        key: readFileSync(tls.key),
        ca: readFileSync(tls.root),
        minVersion: 'TLSv1.3',
      });

function open(): Socket {
  const { port, host } = task;
  if (secureContext === null) return connect(port, host);
  return connectTls({
    ...{ port, host, secureContext },
    servername: 'orders.bench.svc.cluster.local',
    ALPNProtocols: ['istio-http/1.1', 'istio', 'http/1.1'],
    checkServerIdentity: () => undefined,
  });
}

let answered = 0;

/** One connection after the other; all stay. */
async function openMany(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const socket = open();
    let bytes = 0;
    socket.on('error', reject).on('close', () => reject(new Error('a connection was closed')));
    socket.on('data', (chunk: Buffer) => {
      if (bytes === 0 && !chunk.subarray(0, 13).equals(Buffer.from('HTTP/1.1 200 '))) {
        reject(new Error('an answer other than 200'));
      }
      bytes += chunk.length;
      if (bytes > 1024) resolve();
    });
    socket.write(REQUEST);
    await promise;
    answered++;
  }
}

const share = Math.ceil(task.connections / AT_ONCE);
const shares = Array.from({ length: AT_ONCE }, (_, i) =>
  openMany(Math.max(0, Math.min(share, task.connections - i * share))),
);
await Promise.all(shares);
process.stdout.write(`${JSON.stringify({ answered })}\n`);
