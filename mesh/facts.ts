/** What policy may know of a connection and of a request: the only input a decision has. */
import type { Identity } from './identity.ts';
import type { Claims } from './tokens.ts';

/** Facts of an inbound connection, complete before the first decision. */
export interface ConnectionFacts {
  /** The peer's verified identity; null for plaintext. */
  readonly peer: Identity | null;
  /** The connection's own source address, IPv4-mapped IPv6 written as IPv4. */
  readonly sourceIp: string;
  /** The original client's address (PROXY protocol); else `sourceIp`. A request may know better. */
  readonly remoteIp: string;
  readonly destinationIp: string;
  /** The workload's inbound port, not the service's. */
  readonly destinationPort: number;
  /** TLS server name, if one was sent. */
  readonly sni: string | null;
}

/** Facts of one HTTP request, after normalization: exactly what the app will see. */
export interface RequestFacts {
  readonly method: string;
  /** Host header or authority with its port as sent; matched without regard to case. */
  readonly host: string;
  /** Normalized target, query included. */
  readonly path: string;
  /** Every value of a header, in order, each alone; `name` in lower case. Empty when absent. */
  headerValues(name: string): readonly string[];
  /** Payload of the verified token; null where the request carries none, or nobody asked for one. */
  readonly claims: Claims | null;
  /** The original client's address by a trusted X-Forwarded-For; null: the connection's `remoteIp` holds. */
  readonly remoteIp: string | null;
}
