/** One request by hand, to see that something serves, and whom. */
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';

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
export function askPlain(port: number, host = '127.0.0.1'): Promise<number> {
  return answerOn(connect({ port, host, noDelay: true }));
}

interface TlsCaller extends ConnectionOptions {
  ALPNProtocols: string[];
}

/** Asks over TLS, in the version that ALPN settled. @returns the status; 0 where there was none, the handshake refused included */
export async function askTls(port: number, tls: TlsCaller): Promise<number> {
  const socket = connectAs(port, tls);
  if (!tls.ALPNProtocols.includes('h2')) return answerOn(socket);
  return inHttp2(socket, (session, end) => {
    const stream = session.request({ ':path': '/small', ':authority': 'orders.bench.svc.cluster.local' });
    stream.setTimeout(WITHIN_MS, () => end(0));
    stream.on('error', () => end(0)).on('response', (headers) => end(headers[':status'] ?? 0));
  });
}

/**
 * Asks inside a CONNECT stream for `authority`, over TLS to `port`.
 * @returns the status of the answer inside; where the stream was refused, that of the refusal; 0 where there was none
 */
export async function askTunnel(port: number, authority: string, tls: ConnectionOptions): Promise<number> {
  return inHttp2(connectAs(port, { ...tls, ALPNProtocols: ['h2'] }), (session, end) => {
    const stream = session.request({ ':method': 'CONNECT', ':authority': authority }, { endStream: false });
    stream.on('response', ({ ':status': status = 0 }) => {
      if (status === 200) answerOn(stream).then(end);
      else end(status);
    });
    stream.on('error', () => end(0));
    stream.setTimeout(WITHIN_MS, () => end(0));
  });
}

function connectAs(port: number, tls: ConnectionOptions): TLSSocket {
  return connectTls({
    ...tls,
    port,
    host: '127.0.0.1',
    minVersion: 'TLSv1.3',
    // The chain is verified; that the name in it is a SPIFFE URI is known.
    checkServerIdentity: () => undefined,
  });
}

/** @returns what `asks` ends with; 0 where the session breaks before */
function inHttp2(
  socket: TLSSocket,
  asks: (session: ClientHttp2Session, end: (status: number) => void) => void,
): Promise<number> {
  return new Promise((resolve) => {
    const session = connectHttp2('https://orders', { createConnection: () => socket });
    const end = (status: number) => {
      resolve(status);
      session.destroy();
      socket.destroy();
    };
    session.on('error', () => end(0)).once('close', () => end(0));
    socket.on('error', () => end(0)).once('close', () => end(0));
    asks(session, end);
  });
}

/** @throws where nothing listens */
function answerOn(socket: Socket | ClientHttp2Stream): Promise<number> {
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
