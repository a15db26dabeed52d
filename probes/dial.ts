/** Connects a probe to what it asks, and to nothing else: TCP, from the address that capture lets past, and TLS over it. */
import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { hostPort } from '../mesh/text.ts';

export interface Target {
  readonly host: string;
  readonly port: number;
  /** Where the host is; null: as DNS says. */
  readonly address: string | null;
  /** Address to dial from; null: the kernel's choice. */
  readonly from: string | null;
}

/** How a server's certificate is looked at. */
export interface Verification {
  /** False: any will do, as for the kubelet's probes. */
  readonly verify: boolean;
  /** Roots in PEM; null: the system's and Node's own. */
  readonly ca: string | null;
  /** Name or address the certificate must have. A name is sent as SNI. */
  readonly host: string;
}

/**
 * A TCP connection, without delay. `signal` ends it at any time, also once it is handed out.
 * @throws Error `no connection to HOST:PORT: CODE`, or the signal's reason
 */
export function dial({ host, port, address, from }: Target, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const source = from === null ? {} : { localAddress: from };
    const socket = connect({ host: address ?? host, port, noDelay: true, signal, ...source });
    // For good: it may also break between those who use it.
    socket.on('error', (error) => {
      const where = `${hostPort(host, port)}${from === null ? '' : ` from ${from}`}`;
      const failure = new Error(`no connection to ${where}: ${reasonOf(error)}`, { cause: error });
      reject(signal.aborted ? signal.reason : failure);
    });
    socket.once('connect', () => resolve(socket));
  });
}

/**
 * TLS over a connection, with ALPN for HTTP/2 and HTTP/1.1, as Go's client offers them.
 * @throws Error `TLS failed: …`, or the signal's reason; the connection is destroyed then
 */
export function secure(
  socket: Socket,
  { verify, ca, host }: Verification,
  signal: AbortSignal,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const tls = connectTls({
      socket,
      ALPNProtocols: ['h2', 'http/1.1'],
      rejectUnauthorized: verify,
      host,
      servername: isIP(host) === 0 ? host : '',
      ...(ca === null ? {} : { ca }),
    });
    tls.on('error', (error) => {
      socket.destroy();
      reject(signal.aborted ? signal.reason : new Error(`TLS failed: ${reasonOf(error)}`, { cause: error }));
    });
    tls.once('secureConnect', () => resolve(tls));
  });
}

/** An error's code where it has one: the message of a refused connection repeats the address. */
export function reasonOf(error: Error): string {
  const { code } = error as NodeJS.ErrnoException;
  // Happy Eyeballs: an error for each address tried.
  if (error instanceof AggregateError) return error.errors.map((one) => reasonOf(one as Error)).join(', ');
  return code !== undefined && /^E[A-Z]+$/.test(code) ? code : error.message;
}
