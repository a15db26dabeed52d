/** What policy may know of a connection and of a request: the only input a decision has. */
import type { Identity } from './identity.ts';

/** Facts of an inbound connection, complete before the first decision. */
export interface ConnectionFacts {
  /** The peer's verified identity; null for plaintext. */
  readonly peer: Identity | null;
  /** The connection's own source address, IPv4-mapped IPv6 written as IPv4. */
  readonly sourceIp: string;
  /** The original client's address (PROXY protocol, trusted X-Forwarded-For); else `sourceIp`. */
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
}
