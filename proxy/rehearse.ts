/** Lets a new set of credentials complete a handshake with itself before it goes live: what fails here would fail at every peer. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { Credentials } from '../mesh/credentials.ts';
import { RevocationLists } from '../mesh/crl.ts';
import type { Limits } from '../mesh/limits.ts';
import type { MeshTlsPolicy } from '../mesh/snapshot.ts';
import { reset } from './connections.ts';
import { Handshakes } from './handshakes.ts';
import { type MeshTlsParts, nobodyShunned, nobodyVerified, uncounted } from './mesh-tls.ts';
import { InboundTls } from './tls-inbound.ts';
import { OutboundTls } from './tls-outbound.ts';
import { Trust } from './trust.ts';

/** The set must not go live; the sentence says which side of the handshake refused it, and why. */
export class RehearsalError extends Error {
  override name = 'RehearsalError';
}

/** The real thing takes a few milliseconds. */
const TIMEOUT_MS = 5_000;

/**
 * Both sides of mesh mTLS, made of this set alone, meet over a loopback pair: the key must be the certificate's, the
 * chain must lead to the set's own roots and serve as client and as server, and each side must read our identity.
 * @param policy of the mesh config in force
 * @param signal gives it up
 * @throws RehearsalError
 */
export async function rehearse(
  credentials: Credentials,
  policy: MeshTlsPolicy,
  limits: Limits,
  signal?: AbortSignal,
): Promise<void> {
  const trust = new Trust({
    // The set's own roots and nobody else's: ours must not lean on what mesh config trusts besides.
    credentials: { ...credentials, federated: [] },
    mesh: null,
    fetched: new Map(),
    revoked: RevocationLists.none,
  });
  const server = createServer({ pauseOnConnect: true });
  const sockets: Socket[] = [];
  try {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const [theirs, ours] = await pair(server);
    sockets.push(theirs, ours);
    signal?.throwIfAborted();
    signal?.addEventListener('abort', () => theirs.destroy(), { once: true });
    await meet(
      {
        credentials,
        trust,
        verified: nobodyVerified(limits),
        policy,
        limits,
        counts: uncounted(),
        shunned: nobodyShunned(),
      },
      theirs,
      ours,
    );
  } catch (error) {
    if (error instanceof RehearsalError) throw error;
    throw new RehearsalError(`it could not be tried: ${(error as Error).message}`);
  } finally {
    server.close();
    // Not from inside OpenSSL: see InboundTls.
    setImmediate(() => sockets.forEach(reset));
  }
}

/** Two ends of one connection; whoever else connects meanwhile is sent away. */
async function pair(server: Server): Promise<readonly [Socket, Socket]> {
  const { port } = server.address() as AddressInfo;
  const ours = connect({ port, host: '127.0.0.1' });
  ours.on('error', ignore);
  const theirs = await new Promise<Socket>((resolve, reject) => {
    ours.once('error', reject);
    server.on('connection', (socket: Socket) => {
      socket.on('error', ignore);
      if (socket.remotePort === ours.localPort) resolve(socket);
      else reset(socket);
    });
  });
  return [theirs, ours];
}

function meet(parts: MeshTlsParts, theirs: Socket, ours: Socket): Promise<unknown> {
  const { identity } = parts.credentials;
  const inbound = new InboundTls(parts, new Handshakes(1, TIMEOUT_MS));
  const outbound = new OutboundTls(parts);
  const refused = (side: string, reason: string, detail: string): RehearsalError =>
    new RehearsalError(`as ${side} it is refused by itself: ${reason}: ${detail}`);
  const timeOut = new Promise<never>((_resolve, reject) => {
    const timer = setTimeout(() => reject(refused('peer', 'tls_handshake_timeout', '')), TIMEOUT_MS);
    timer.unref();
    theirs.once('close', () => clearTimeout(timer));
  });
  const asClient = new Promise<void>((resolve, reject) => {
    inbound.terminate(theirs, ['istio'], false, {
      terminated: (stream, peer) => {
        stream.resume();
        if (peer.identity.uri === identity.uri) resolve();
        else reject(refused('client', 'identity_mismatch', peer.identity.uri));
      },
      refused: (reason, detail) => reject(refused('client', reason, detail)),
    });
  });
  const asServer = new Promise<void>((resolve, reject) => {
    const tls = { sni: 'rehearsal', expectedIdentities: [identity.uri] };
    outbound.originate(
      ours,
      { tls, protocol: 'tcp', address: 'rehearsal' },
      {
        originated: (stream) => {
          stream.resume();
          resolve();
        },
        refused: (reason, detail) => reject(refused('server', reason, detail)),
        refusedUs: ignore,
      },
    );
  });
  return Promise.race([Promise.all([asClient, asServer]), timeOut]);
}

function ignore(): void {}
