/** Peers that a sidecar of ours opens tunnels to: node:http2's server, and frames by hand. */
import {
  createSecureServer,
  type IncomingHttpHeaders,
  type SecureServerOptions,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Server, Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Test } from 'tap';
import { listen } from '../e2e/harness/apps.ts';
import { Peer } from '../e2e/harness/clients.ts';
import type { Leaf } from '../e2e/harness/test-ca.ts';
import { until } from '../e2e/harness/wait.ts';
import { ACK, block, END_HEADERS, FrameEnd, frame, PREFACE, TYPE } from './http2-frames.ts';

/** A CONNECT as it came. */
export interface Asked {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  /** Which tunnel it came on, counted from 0. */
  readonly tunnel: number;
}

export interface HbonePeer {
  readonly port: number;
  readonly server: Server;
  /** All tunnels there ever were. */
  readonly sessions: readonly ServerHttp2Session[];
  readonly asked: readonly Asked[];
  /** The nth CONNECT, waiting for it. */
  at(n: number): Promise<Asked>;
}

/** Who is at the other end must show a certificate; whose it is, tests look at. */
function tlsOf({ cert, key, ca }: Leaf): TlsOptions {
  return { cert, key, ca, requestCert: true, minVersion: 'TLSv1.3' };
}

/** Answers 200 and sends back what it gets. */
export function echo({ stream }: Asked): void {
  stream.respond({ ':status': 200 });
  stream.pipe(stream);
}

/** A peer of prior knowledge: `serve` does as it likes with each CONNECT. */
export async function hbonePeer(
  t: Test,
  leaf: Leaf,
  serve: (asked: Asked) => void = echo,
  options: SecureServerOptions = {},
): Promise<HbonePeer> {
  const sessions: ServerHttp2Session[] = [];
  const asked: Asked[] = [];
  const server = createSecureServer({ ...tlsOf(leaf), ...options });
  server.on('session', (session) => {
    sessions.push(session);
    session.on('error', () => {});
  });
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => {});
    const tunnel = sessions.indexOf(stream.session as ServerHttp2Session);
    const one = { stream, headers, tunnel };
    asked.push(one);
    serve(one);
  });
  const { port } = await listen(t, server as unknown as Server);
  return {
    port,
    server: server as unknown as Server,
    sessions,
    asked,
    at: (n) => until(`CONNECT number ${n}`, () => asked[n]),
  };
}

/** A tunnel of ours, spoken frame by frame. */
export class RawTunnel extends FrameEnd {
  readonly tls: TLSSocket;

  constructor(tls: TLSSocket) {
    super(new Peer(tls as Socket), PREFACE.length);
    this.tls = tls;
  }

  /** Says its SETTINGS, and takes ours. */
  greet(settings: readonly (readonly [name: number, value: number])[] = []): void {
    const payload = Buffer.alloc(6 * settings.length);
    for (const [i, [name, value]] of settings.entries()) {
      payload.writeUInt16BE(name, 6 * i);
      payload.writeUInt32BE(value, 6 * i + 2);
    }
    this.say(frame(TYPE.SETTINGS, 0, 0, payload), frame(TYPE.SETTINGS, ACK, 0));
  }

  /** Answers a CONNECT as a peer does whose app greets. */
  accept(stream: number): void {
    const status = block([[':status', '200']]);
    this.say(frame(TYPE.HEADERS, END_HEADERS, stream, status), frame(TYPE.DATA, 0, stream, 'hello'));
  }

  /** Waits for the CONNECT of that stream. */
  async asked(stream: number): Promise<void> {
    await this.next(TYPE.HEADERS, stream);
  }
}

export interface RawPeer {
  readonly port: number;
  readonly tunnels: readonly RawTunnel[];
  /** The nth tunnel, waiting for it. */
  at(n: number): Promise<RawTunnel>;
}

/** @param begin speaks for it, from the end of its handshake on */
export async function rawPeer(
  t: Test,
  leaf: Leaf,
  begin: (tunnel: RawTunnel, n: number) => void,
  options: TlsOptions = {},
): Promise<RawPeer> {
  const tunnels: RawTunnel[] = [];
  const alpn = 'ALPNCallback' in options ? {} : { ALPNProtocols: ['h2'] };
  const server = createTlsServer({ ...tlsOf(leaf), ...alpn, ...options }, (tls) => {
    const tunnel = new RawTunnel(tls);
    tunnels.push(tunnel);
    begin(tunnel, tunnels.length - 1);
  });
  server.on('tlsClientError', () => {});
  const { port } = await listen(t, server);
  return { port, tunnels, at: (n) => until(`tunnel number ${n}`, () => tunnels[n]) };
}
