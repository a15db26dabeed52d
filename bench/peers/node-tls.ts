/** What the Node peers share: how a user would put mutual TLS with SPIFFE identities under a server and an agent. */
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { PeerCertificate, TLSSocket, TlsOptions } from 'node:tls';
import { CALLEE_URI, CALLER_URI, type Side } from './peer.ts';

/** The side this process was started as. */
export function sideOf(): Side {
  return JSON.parse(process.argv.at(-1) ?? '') as Side;
}

function identity({ credentials }: Side): {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
} {
  const { cert, key, root } = credentials;
  return { cert: readFileSync(cert), key: readFileSync(key), ca: readFileSync(root) };
}

/** Listens where the side is told to, in TLS where it is the callee. */
export function serve(side: Side, listener: RequestListener): Server {
  const server: Server = side.role === 'callee' ? tlsServer(side, listener) : createServer(listener);
  return server.listen(side.listen, '127.0.0.1');
}

function groupsOf({ tls }: Side): string {
  return (tls.groups ?? ['X25519MLKEM768', 'X25519']).join(':');
}

/** Of a server that only the mesh reaches; who of the mesh, the caller of this decides. */
export function serverTls(side: Side) {
  return {
    ...identity(side),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    ecdhCurve: groupsOf(side),
    ALPNProtocols: ['http/1.1'],
  } satisfies TlsOptions;
}

/** Only the one allowed caller comes in, decided once a connection. */
function tlsServer(side: Side, listener: RequestListener): Server {
  const server = createTlsServer(serverTls(side), listener);
  return server.prependListener('secureConnection', (socket: TLSSocket) => {
    if (socket.getPeerCertificate().subjectaltname === `URI:${CALLER_URI}`) return;
    setImmediate(() => socket.destroy());
  });
}

/** For the callee, told by an agent or by undici. */
export function clientTls(side: Side) {
  return {
    ...identity(side),
    minVersion: 'TLSv1.3',
    ecdhCurve: groupsOf(side),
    checkServerIdentity: (_host: string, { subjectaltname }: PeerCertificate): Error | undefined =>
      subjectaltname?.split(', ').includes(`URI:${CALLEE_URI}`)
        ? undefined
        : new Error(`unexpected peer ${subjectaltname}`),
  } as const;
}
