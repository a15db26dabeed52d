/** A downstream connection of a verified peer as the register of links has it. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { Connection } from './connections.ts';
import { type CertificateLife, type Link, lifeOf } from './links.ts';
import type { VerifiedPeer } from './verify-peer.ts';

/** Whoever serves the connection. */
export interface LinkOwner {
  /** Takes nothing new where the peer loses nothing by it. */
  linkRetires(): void;
  /** Refuses the connection, whatever it carries. */
  linkEnds(reason: ReasonCode, detail: string): void;
}

export class ConnectionLink implements Link {
  readonly direction = 'inbound';
  readonly peer: VerifiedPeer;
  readonly life: CertificateLife;
  readonly since = Date.now();
  readonly #connection: Connection;
  readonly #owner: LinkOwner;

  constructor(connection: Connection, peer: VerifiedPeer, owner: LinkOwner) {
    this.#connection = connection;
    this.peer = peer;
    this.life = lifeOf(peer);
    this.#owner = owner;
  }

  get tunnelled(): boolean {
    return this.#connection.connect !== null;
  }

  retire(): void {
    this.#owner.linkRetires();
  }

  drain(): void {
    this.#connection.carrier?.drain();
  }

  close(reason: ReasonCode, detail: string): void {
    this.#owner.linkEnds(reason, detail);
  }
}
