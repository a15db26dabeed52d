/** One request by hand, to see that something serves, and whom. */
import { connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';

const REQUEST = 'GET /small HTTP/1.1\r\nHost: orders.bench.svc.cluster.local\r\nConnection: close\r\n\r\n';
const WITHIN_MS = 5_000;

/** @throws where nothing listens */
export function connects(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.on('error', reject).once('connect', () => {
      resolve();
      socket.destroy();
    });
  });
}

/** Asks in plaintext. @returns the answer's status; 0 where the connection came but no answer */
export function askPlain(port: number): Promise<number> {
  return answerOn(connect({ port, host: '127.0.0.1', noDelay: true }));
}

interface TlsCaller extends ConnectionOptions {
  ALPNProtocols: string[];
}

/** Asks over TLS, in the version that ALPN settled. @returns the status; 0 where there was none, the handshake refused included */
export async function askTls(port: number, tls: TlsCaller): Promise<number> {
  const socket = connectTls({
    ...tls,
    port,
    host: '127.0.0.1',
    minVersion: 'TLSv1.3',
    // The chain is verified; that the name in it is a SPIFFE URI is known.
    checkServerIdentity: () => undefined,
  });
  if (!tls.ALPNProtocols.includes('h2')) return answerOn(socket);
  return new Promise((resolve) => {
    const session = connectHttp2('https://orders', { createConnection: () => socket });
    const end = (status: number) => {
      resolve(status);
      session.destroy();
      socket.destroy();
    };
    session.on('error', () => end(0)).once('close', () => end(0));
    socket.on('error', () => end(0)).once('close', () => end(0));
    const stream = session.request({ ':path': '/small', ':authority': 'orders.bench.svc.cluster.local' });
    stream.setTimeout(WITHIN_MS, () => end(0));
    stream.on('error', () => end(0)).on('response', (headers) => end(headers[':status'] ?? 0));
  });
}

/** @throws where nothing listens */
function answerOn(socket: Socket): Promise<number> {
  return new Promise((resolve, reject) => {
    const end = (status: number) => {
      resolve(status);
      socket.destroy();
    };
    socket.setTimeout(WITHIN_MS, () => end(0));
    socket.on('data', (chunk: Buffer) =>
      end(Number(/^HTTP\/1\.1 (\d{3}) /.exec(chunk.toString('latin1', 0, 13))?.[1] ?? 0)),
    );
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED') reject(error);
      else end(0);
    });
    socket.once('close', () => end(0));
    socket.write(REQUEST);
  });
}
