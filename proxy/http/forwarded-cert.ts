/** X-Forwarded-Client-Cert as policy and app get it: Envoy's `forward_client_cert_details`. */
import type { Identity } from '../../mesh/identity.ts';
import type { ForwardedClientCert } from '../../mesh/snapshot.ts';
import type { VerifiedPeer } from '../verify-peer.ts';
import { type Field, FORWARDED_CERT, standing } from './head.ts';

/** What the network sent is out of the head already, as SANITIZE has it: this is what comes in its place. */
export interface CertFacts {
  readonly how: ForwardedClientCert;
  /** As the downstream sent it; null: it did not. */
  readonly sent: string | null;
  /** The peer's certificate in our words; null on plaintext. */
  readonly peers: Field | null;
}

/** @returns null: no such field goes on */
export function forwardedCert({ how, sent, peers }: CertFacts): Field | null {
  if (how === 'SANITIZE_SET' || (how === 'APPEND_FORWARD' && (sent ?? '') === '')) return peers;
  if (how === 'APPEND_FORWARD') return peers === null ? null : fieldOf(`${sent},${peers.value}`);
  const forwards = how === 'ALWAYS_FORWARD_ONLY' || (how === 'FORWARD_ONLY' && peers !== null);
  return forwards && sent !== null ? fieldOf(sent) : null;
}

/**
 * `set_current_client_cert_details` as Istio sets it.
 * @param own our identity's URI
 * @param hash SHA-256 of the peer's certificate, hex
 * @param peer its identity's URI
 */
export function peersCert(own: string, hash: string, peer: string): Field {
  return standing(FORWARDED_CERT, `By=${own};Hash=${hash};Subject="";URI=${peer}`);
}

/** The peer's certificate as the app is told of it: one field for all requests of a connection. */
export class PeersCert {
  readonly #peer: VerifiedPeer | null;
  /** Made for `#own`, who may become another with the credentials. */
  #field: Field | null = null;
  #own: Identity | null = null;

  /** @param peer null: plaintext */
  constructor(peer: VerifiedPeer | null) {
    this.#peer = peer;
  }

  /** @param own our identity; null: we have none, and tell of nobody */
  field(own: Identity | null): Field | null {
    const peer = this.#peer;
    if (peer === null || own === null) return null;
    if (this.#field === null || this.#own !== own) {
      this.#own = own;
      this.#field = peersCert(own.uri, peer.hash, peer.identity.uri);
    }
    return this.#field;
  }
}

function fieldOf(value: string): Field {
  return { name: FORWARDED_CERT, key: FORWARDED_CERT, value };
}
