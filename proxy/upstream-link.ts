/** An upstream as the register of links has it. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { ConnectionSocket } from './connections.ts';
import { type CertificateLife, type Link, type Links, lifeOf } from './links.ts';
import type { VerifiedPeer } from './verify-peer.ts';

/** What is asked of an upstream. */
export interface LinkedUpstream {
  readonly peer: VerifiedPeer | null;
  readonly socket: ConnectionSocket;
  /** Null: it is a connection of its own. */
  readonly tunnel: object | null;
  /** Takes nothing new. */
  retire(): void;
  /** Aborts it, and whoever uses it learns why. */
  break(reason: ReasonCode, detail: string): void;
}

class UpstreamLink implements Link {
  readonly direction = 'outbound';
  readonly peer: VerifiedPeer | null;
  readonly life: CertificateLife;
  readonly since = Date.now();
  readonly #upstream: LinkedUpstream;

  constructor(upstream: LinkedUpstream, life: CertificateLife) {
    this.#upstream = upstream;
    this.peer = upstream.peer;
    this.life = life;
  }

  get tunnelled(): boolean {
    return this.#upstream.tunnel !== null;
  }

  retire(): void {
    this.#upstream.retire();
  }

  /** What lay idle is closed already: it is ours, and nobody can be about to use it. */
  drain(): void {}

  close(reason: ReasonCode, detail: string): void {
    this.#upstream.break(reason, detail);
  }
}

/**
 * Registers an upstream for as long as it lives; one without a certificate has nothing to outlive.
 * @param external of a server outside the mesh: how long its certificate holds
 */
export function register(
  links: Links,
  upstream: LinkedUpstream,
  external: CertificateLife | null = null,
): void {
  const { peer, socket } = upstream;
  const life = peer === null ? external : lifeOf(peer);
  if (life === null || socket.closed) return;
  const link = new UpstreamLink(upstream, life);
  links.add(link);
  socket.once('close', () => links.remove(link));
}
