/** What is kept of a TLS handshake that failed: who came, what was presented, and why it was refused. Never a secret. */
import type { ReasonCode } from './reasons.ts';

/** One certificate as its bearer presented it: a claim, whoever signed it. Texts are cut to a bound and printable. */
export interface PresentedCertificate {
  readonly subject: string;
  readonly issuer: string;
  /** Every name of the subject alternative name: `URI:spiffe://…`, `DNS:…`, `IP:…`. */
  readonly names: readonly string[];
  /** Hex. */
  readonly serial: string;
  /** ISO 8601. */
  readonly notBefore: string;
  readonly notAfter: string;
  /** SHA-256, hex. */
  readonly fingerprint256: string;
}

/** One failed handshake, plain data: it crosses threads and is served as JSON. */
export interface FailedHandshake {
  /** ISO 8601. */
  readonly time: string;
  readonly direction: 'inbound' | 'outbound';
  /** Inbound: the port it arrived at. Outbound: the upstream's. */
  readonly port: number;
  /** `address:port` of the other side. */
  readonly remote: string;
  readonly reason: ReasonCode;
  readonly detail: string;
  /** OpenSSL's or Node's code and words; null where they refused nothing. */
  readonly openssl: string | null;
  /** Of the ClientHello: what the peer asked for (inbound), or what we did (outbound). */
  readonly sni: string | null;
  readonly alpn: readonly string[];
  /** Inbound: what the first bytes look like: `TLS`, `HTTP/1`, …; null where none came, and outbound. */
  readonly firstBytes: string | null;
  /** Leaf first; empty where the peer presented none, or the handshake did not come so far. */
  readonly chain: readonly PresentedCertificate[];
  /** Outbound: the identities secure naming expected; empty: any of the mesh. */
  readonly expectedIdentities: readonly string[];
}
