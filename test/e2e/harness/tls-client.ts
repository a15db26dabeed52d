/** A TLS client that is no sidecar: with any certificate, ALPN and session, and every event told. */
import { connect as connectTcp, type Socket } from 'node:net';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import type { Test } from 'tap';
import { Peer } from './clients.ts';
import type { Leaf } from './test-ca.ts';
import { within } from './wait.ts';

export interface TlsCall extends Pick<ConnectionOptions, 'session' | 'ALPNProtocols' | 'servername'> {
  /** Null: present no certificate. */
  readonly leaf: Leaf | null;
  readonly ecdhCurve?: string;
  /** Where to, if not 127.0.0.1. */
  readonly address?: string;
}

/** What Istio's client sidecars offer for HTTP. */
export const ISTIO_HTTP = ['istio-http/1.1', 'istio', 'http/1.1'];

/** A TLS connection, seen as a Peer; the last session ticket is kept. */
export class TlsPeer extends Peer {
  readonly tls: TLSSocket;
  session: Buffer | null = null;

  constructor(tls: TLSSocket) {
    super(tls as Socket);
    this.tls = tls;
    tls.on('session', (session) => {
      this.session = session;
    });
  }

  /** Sends a request and waits for the whole of a short answer's head; returns the status. */
  async get(path: string, host = 'orders'): Promise<number> {
    const from = this.text.length;
    this.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    const text = await this.until('an answer', (all) =>
      /HTTP\/1\.1 \d{3} [\s\S]*\r\n\r\n/.test(all.slice(from)),
    );
    return Number(text.slice(from + 9, from + 12));
  }
}

/** Connects and finishes the handshake; rejects where that fails. */
export async function openTls(t: Test, port: number, options: TlsCall): Promise<TlsPeer> {
  const { leaf, address = '127.0.0.1', ...rest } = options;
  const socket = connectTcp({ port, host: address, noDelay: true });
  const tls = connect({
    socket,
    ...rest,
    ...(leaf === null ? {} : { cert: leaf.cert, key: leaf.key }),
    // Who the server is, is looked at where a test asks for it.
    rejectUnauthorized: false,
  });
  t.teardown(() => {
    tls.destroy();
    socket.destroy();
  });
  const secured = new Promise<void>((resolve, reject) => {
    tls.once('secureConnect', resolve);
    tls.once('error', reject);
    tls.once('close', () => reject(new Error('closed during the handshake')));
  });
  await within(`a handshake with port ${port}`, secured);
  return new TlsPeer(tls);
}

/** How a handshake and one request end: the status, or the error's code. TLS 1.3 tells a refusal only after it. */
export async function attempt(
  t: Test,
  port: number,
  options: TlsCall,
  path = '/tell',
): Promise<number | string> {
  let peer: TlsPeer;
  try {
    peer = await openTls(t, port, options);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? (error as Error).message;
  }
  try {
    return await peer.get(path);
  } catch {
    return peer.over ?? 'unknown';
  } finally {
    peer.tls.destroy();
  }
}
