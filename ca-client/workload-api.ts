/** Credentials from a SPIFFE Workload API, such as SPIRE's agent: it pushes each new set over a stream that stays open. */
import type { Identity } from '../mesh/identity.ts';
import type { Clock } from './clock.ts';
import type { CredentialSource } from './source.ts';

export interface WorkloadApiOptions {
  /** Where it listens: a path, `unix:PATH`, `unix:///PATH` or `tcp://IP:PORT` (as `SPIFFE_ENDPOINT_SOCKET`). */
  readonly socket: string;
  /** Who we are; null adopts the chosen SVID's identity. */
  readonly identity: Identity | null;
  /** Of several SVIDs, the one with this hint. */
  readonly hint?: string;
  /** Of several SVIDs, the one with this SPIFFE ID, or with this path where it begins with `/`. */
  readonly spiffeId?: string;
  /** Longest wait for the first answer of a connection in milliseconds, default 10 s. */
  readonly deadlineMs?: number;
  readonly clock?: Clock;
}

/** @throws CredentialsError on an address that is none. */
export declare function workloadApiSource(options: WorkloadApiOptions): CredentialSource;
