/** One side of a pair that moves bytes in CONNECT streams of our own tunnels, in a process of its own. */
import { createServer, connect as dial, type Socket } from 'node:net';
import { connect, createServer as createTlsServer } from 'node:tls';
import { limitsWith } from '../../mesh/limits.ts';
import type { ConnectionSocket } from '../../proxy/connections.ts';
import type { StreamAddresses } from '../../proxy/hbone/stream.ts';
import { Tunnel, type TunnelKeeper } from '../../proxy/hbone/tunnel.ts';
import { Pipe, type PipeEnd, type PipeObserver } from '../../proxy/pipe.ts';
import { clientTls, serverTls, sideOf } from './node-tls.ts';
import { CALLER_URI } from './peer.ts';

const TICK_MS = 500;
/** Nobody looks at a stream's ends here. */
const NOWHERE: StreamAddresses = { remoteAddress: '', remotePort: 0, localAddress: '', localPort: 0 };

const side = sideOf();
const limits = limitsWith({});
const tunnels = new Set<Tunnel>();
/** Connections of the app until there is a stream for them. */
const waiting: Socket[] = [];
let dialling = false;

const keeper: TunnelKeeper = {
  addressesOf: () => NOWHERE,
  asked: (_tunnel, stream) => {
    stream.accept();
    join(stream, dial({ port: side.dial, host: '127.0.0.1', noDelay: true }));
  },
  roomChanged: () => serveWaiting(),
  closed: (tunnel) => {
    tunnels.delete(tunnel);
    serveWaiting();
  },
};

const UNHEARD: PipeObserver = { moved: () => {}, finished: () => {} };

/** As the sidecar joins TCP: the way bytes are read is a part of what frames cost. */
function join(a: ConnectionSocket, b: ConnectionSocket): void {
  const ends: [PipeEnd, PipeEnd] = [
    { stream: a, socket: a },
    { stream: b, socket: b },
  ];
  new Pipe(...ends, UNHEARD, { downstream: null, upstream: null });
}

function keep(role: 'client' | 'server', tls: Socket): void {
  const tunnel = new Tunnel(role, tls, limits, keeper);
  tunnels.add(tunnel);
  tunnel.start();
}

function callee(): void {
  const server = createTlsServer({ ...serverTls(side), noDelay: true, ALPNProtocols: ['h2'] }, (tls) => {
    tls.on('error', () => {});
    const known = tls.getPeerCertificate().subjectaltname === `URI:${CALLER_URI}`;
    // Not from inside OpenSSL, which calls this.
    setImmediate(() => (known ? keep('server', tls) : tls.destroy()));
  });
  server.listen(side.listen, '127.0.0.1');
}

function caller(): void {
  const server = createServer({ noDelay: true, pauseOnConnect: true }, (from) => {
    from.on('error', () => {});
    waiting.push(from);
    serveWaiting();
  });
  server.listen(side.listen, '127.0.0.1');
}

function serveWaiting(): void {
  while (waiting.length > 0) {
    const tunnel = [...tunnels].find(({ room }) => room > 0);
    if (tunnel === undefined) {
      dialTunnel();
      return;
    }
    const from = waiting.shift();
    if (from !== undefined) openStream(tunnel, from);
  }
}

function openStream(tunnel: Tunnel, from: Socket): void {
  tunnel.open([[':authority', `127.0.0.1:${side.tunnelled}`]], NOWHERE, {
    opened: (stream) => join(from, stream),
    refused: () => from.destroy(),
    lost: () => from.destroy(),
  });
}

function dialTunnel(): void {
  if (dialling) return;
  dialling = true;
  const tls = connect({ port: side.dial, host: '127.0.0.1', ...clientTls(side), ALPNProtocols: ['h2'] });
  tls.setNoDelay(true);
  const failed = (): void => {
    dialling = false;
    for (const from of waiting.splice(0)) from.destroy();
  };
  tls.once('error', failed);
  tls.once('secureConnect', () => {
    tls.off('error', failed);
    dialling = false;
    keep('client', tls);
    serveWaiting();
  });
}

setInterval(() => {
  const now = performance.now();
  for (const tunnel of tunnels) tunnel.tick(now);
}, TICK_MS);
if (side.role === 'callee') callee();
else caller();
