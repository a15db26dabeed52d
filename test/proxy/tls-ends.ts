/** Both sides of mesh mTLS over a loopback pair, made of whatever the test gives them. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Credentials, TrustBundle } from '../../mesh/credentials.ts';
import { RevocationLists } from '../../mesh/crl.ts';
import { parseIdentity } from '../../mesh/identity.ts';
import { limitsWith } from '../../mesh/limits.ts';
import type { CaCertificates, MeshTlsPolicy } from '../../mesh/snapshot.ts';
import { Handshakes } from '../../proxy/handshakes.ts';
import {
  type MeshTlsParts,
  nobodyShunned,
  nobodyVerified,
  tlsPolicyOf,
  uncounted,
} from '../../proxy/mesh-tls.ts';
import type { HandshakeFacts } from '../../proxy/seen-handshake.ts';
import { InboundTls } from '../../proxy/tls-inbound.ts';
import { OutboundTls } from '../../proxy/tls-outbound.ts';
import { Trust } from '../../proxy/trust.ts';
import type { VerifiedPeer } from '../../proxy/verify-peer.ts';
import { type Authority, type CertificateWish, makeCertificate } from '../ca-client/helper.ts';

const limits = limitsWith({});

/** What one side of a handshake made of it. */
export type Outcome =
  | { readonly ok: true; readonly peer: VerifiedPeer | null; readonly stream: TLSSocket }
  | {
      readonly ok: false;
      readonly reason: string;
      readonly detail: string;
      readonly facts: HandshakeFacts | null;
    };

/** A root, or an intermediate where an issuer is given. */
export function authority(subject: string, wish: CertificateWish = {}): Promise<Authority> {
  return makeCertificate({ ca: true, subject: `CN=${subject}`, ...wish });
}

/** A leaf with its key, and the roots it brings along. */
export async function credentialsFor(
  uri: string,
  issuer: Authority,
  {
    roots = [issuer],
    wish = {},
    above = [],
    federated = [],
  }: {
    roots?: readonly Authority[];
    wish?: CertificateWish;
    above?: readonly Authority[];
    federated?: readonly TrustBundle[];
  } = {},
): Promise<Credentials> {
  const leaf = await makeCertificate({ uris: [uri], issuer, ...wish });
  const identity = parseIdentity(uri);
  if (identity === null) throw new Error(`${uri} is no SPIFFE ID`);
  return {
    identity,
    chainPem: leaf.pem + above.map(({ pem }) => pem).join(''),
    keyPem: leaf.keyPem,
    rootsPem: roots.map(({ pem }) => pem),
    federated,
    notBefore: 0,
    notAfter: Number.MAX_SAFE_INTEGER,
    serial: '',
    origin: 'a test',
    clockSkewMs: null,
  };
}

/** What a side is made of beside its credentials. */
export interface Surroundings {
  readonly trustDomain?: string;
  readonly aliases?: readonly string[];
  readonly caCertificates?: readonly CaCertificates[];
  readonly fetched?: ReadonlyMap<string, readonly string[]>;
  readonly revoked?: RevocationLists;
  readonly policy?: MeshTlsPolicy;
}

export function partsOf(credentials: Credentials, around: Surroundings = {}): MeshTlsParts {
  const mesh = {
    trustDomain: around.trustDomain ?? credentials.identity.trustDomain,
    trustDomainAliases: around.aliases ?? [],
    caCertificates: around.caCertificates ?? [],
  };
  const trust = new Trust({
    credentials,
    mesh,
    fetched: around.fetched ?? new Map(),
    revoked: around.revoked ?? RevocationLists.none,
  });
  return {
    credentials,
    trust,
    verified: nobodyVerified(limits),
    policy: around.policy ?? tlsPolicyOf(null),
    limits,
    counts: uncounted(),
    shunned: nobodyShunned(),
  };
}

export function serverOf(parts: MeshTlsParts): InboundTls {
  return new InboundTls(parts, new Handshakes(10, 5_000));
}

/** Two ends of a TCP connection. */
export async function socketPair(): Promise<{ theirs: Socket; ours: Socket; close(): void }> {
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const ours = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [theirs] = await accepted;
  for (const socket of [theirs, ours]) socket.on('error', () => {});
  const close = (): void => {
    server.close();
    setImmediate(() => {
      theirs.destroy();
      ours.destroy();
    });
  };
  return { theirs, ours, close };
}

export function terminate(server: InboundTls, socket: Socket): Promise<Outcome> {
  return new Promise((resolve) => {
    server.terminate(socket, ['istio'], false, {
      terminated: (stream, peer) => {
        stream.resume();
        resolve({ ok: true, peer, stream });
      },
      refused: (reason, detail, facts) => {
        // As the data path does: whoever is refused hears no more.
        socket.destroy();
        resolve({ ok: false, reason, detail, facts });
      },
    });
  });
}

/** @param expectedIdentities empty: any that is trusted */
export function originate(
  client: OutboundTls,
  socket: Socket,
  expectedIdentities: readonly string[] = [],
): Promise<Outcome> {
  return new Promise((resolve) => {
    client.originate(
      socket,
      { tls: { sni: 'peer', expectedIdentities }, protocol: 'tcp', address: 'peer:1' },
      {
        originated: (stream, peer) => {
          stream.resume();
          resolve({ ok: true, peer, stream });
        },
        refused: (reason, detail, facts) => {
          socket.destroy();
          resolve({ ok: false, reason, detail, facts });
        },
        refusedUs: () => {},
      },
    );
  });
}

/** One handshake. */
export async function shakeHands(
  server: InboundTls,
  client: OutboundTls,
): Promise<{ inbound: Outcome; outbound: Outcome }> {
  const { theirs, ours, close } = await socketPair();
  const [inbound, outbound] = await Promise.all([terminate(server, theirs), originate(client, ours)]);
  close();
  return { inbound, outbound };
}

export { OutboundTls };
