/** What proves who we are and whom we trust: the finished set the data path is handed. */
import type { Identity } from './identity.ts';

/** The roots that may vouch for one trust domain, and for no other. */
export interface TrustBundle {
  readonly trustDomain: string;
  /** One PEM a root. */
  readonly rootsPem: readonly string[];
}

export interface Credentials {
  readonly identity: Identity;
  /** Leaf first, then intermediates, PEM. */
  readonly chainPem: string;
  /** PKCS#8 or SEC1 PEM. Never logged, never served. */
  readonly keyPem: string;
  /** Trust bundle of our trust domain: one PEM a root. */
  readonly rootsPem: readonly string[];
  /** Bundles of other trust domains that came with the set (SPIFFE federation); usually none. */
  readonly federated: readonly TrustBundle[];
  /** Milliseconds since the epoch: when the chain (all of it) starts and stops being valid. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** Leaf's serial number, hex; for logs and `/certs`. */
  readonly serial: string;
  /** Where it came from, for people: `ca 127.0.0.1:15012`, `files /etc/certs`. */
  readonly origin: string;
  /** How far our clock is ahead of the issuer's (negative: behind), in milliseconds; null: its answer did not tell. */
  readonly clockSkewMs: number | null;
}
