/** What was seen of a handshake that came to nothing: for the flight recorder. */

/** What is known of a handshake that failed, beside why: for the flight recorder. */
export interface HandshakeFacts {
  /** OpenSSL's or Node's code and words; null where it was we who refused. */
  readonly openssl: string | null;
  readonly sni: string | null;
  readonly alpn: readonly string[];
  /** DER, leaf first, as presented. */
  readonly chain: readonly Buffer[];
}

/** The same of an inbound connection, which may not have been TLS at all. */
export interface SeenHandshake extends HandshakeFacts {
  /** What its first bytes look like: see `firstByteClass`. */
  readonly firstBytes: string;
}

/** Where only its first bytes are known. */
export function seenBytes(firstBytes: string, alpn: readonly string[] = []): SeenHandshake {
  return { firstBytes, openssl: null, sni: null, alpn, chain: [] };
}
