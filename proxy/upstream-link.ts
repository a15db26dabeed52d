/** An upstream as the register of links has it. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { ConnectionSocket } from './connections.ts';
import type { Link, Links } from './links.ts';
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
  readonly peer: VerifiedPeer;
  readonly since = Date.now();
  readonly #upstream: LinkedUpstream;

  constructor(upstream: LinkedUpstream, peer: VerifiedPeer) {
    this.#upstream = upstream;
    this.peer = peer;
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

/** Registers an upstream for as long as it lives; one without a verified peer has nothing to outlive. */
export function register(links: Links, upstream: LinkedUpstream): void {
  const { peer, socket } = upstream;
  if (peer === null || socket.closed) return;
  const link = new UpstreamLink(upstream, peer);
  links.add(link);
  socket.once('close', () => links.remove(link));
}
