/** One side of a pair that moves bytes in CONNECT streams of `node:http2`, in a process of its own. */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  createSecureServer,
  type Http2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { createServer, connect as dial } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { join } from './join.ts';
import { clientTls, serverTls, sideOf } from './node-tls.ts';
import { CALLER_URI } from './peer.ts';

/** As ztunnel has them: streams of a tunnel, and the windows of a stream and of a tunnel. */
const STREAMS = 100;
const STREAM_WINDOW = 4 * 1024 * 1024;
const TUNNEL_WINDOW = 4 * STREAM_WINDOW;

const side = sideOf();
const settings = { initialWindowSize: STREAM_WINDOW, maxConcurrentStreams: STREAMS };

function widen(session: Http2Session): void {
  session.setLocalWindowSize(TUNNEL_WINDOW);
  session.on('error', () => {});
}

/** Tunnels with the number of their streams. */
const tunnels = new Map<ClientHttp2Session, number>();

function tunnelWithRoom(): ClientHttp2Session {
  for (const [tunnel, streams] of tunnels) if (streams < STREAMS) return tunnel;
  const tunnel = connect(`https://127.0.0.1:${side.dial}`, {
    ...clientTls(side),
    settings,
    ALPNProtocols: ['h2'],
  });
  tunnel.once('connect', () => widen(tunnel));
  tunnel.on('error', () => {}).once('close', () => tunnels.delete(tunnel));
  tunnels.set(tunnel, 0);
  return tunnel;
}

function openStream(): ClientHttp2Stream {
  const tunnel = tunnelWithRoom();
  tunnels.set(tunnel, (tunnels.get(tunnel) ?? 0) + 1);
  const authority = `127.0.0.1:${side.tunnelled}`;
  const stream = tunnel.request({ ':method': 'CONNECT', ':authority': authority }, { endStream: false });
  return stream.once('close', () => {
    const streams = tunnels.get(tunnel);
    if (streams !== undefined) tunnels.set(tunnel, streams - 1);
  });
}

function callee(): void {
  const server = createSecureServer({ ...serverTls(side), settings, noDelay: true, ALPNProtocols: ['h2'] });
  server.prependListener('secureConnection', (socket: TLSSocket) => {
    if (socket.getPeerCertificate().subjectaltname !== `URI:${CALLER_URI}`) socket.destroy();
  });
  server.on('session', widen);
  server.on('stream', (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': 200 });
    join(stream, dial({ port: side.dial, host: '127.0.0.1', noDelay: true }));
  });
  server.listen(side.listen, '127.0.0.1');
}

function caller(): void {
  const server = createServer({ noDelay: true, pauseOnConnect: true }, (from) => {
    const stream = openStream();
    from.on('error', () => stream.destroy());
    // As a proxy would: not before it knows that somebody takes it.
    stream.once('response', () => join(from, stream));
    stream.once('close', () => from.destroy());
  });
  server.listen(side.listen, '127.0.0.1');
}

if (side.role === 'callee') callee();
else caller();
