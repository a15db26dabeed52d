/** What the bench's processes are told and what they answer: JSON in the last argument, one JSON line on stdout. */

/** Where the bench's processes listen. */
export const LOOPBACK = '127.0.0.1';

/** HTTP/1.1 requests over keep-alive connections: a closed loop, or an open one of a fixed rate. */
export interface LoadTask {
  readonly host: string;
  readonly port: number;
  readonly path: string;
  /** Most requests in flight: each connection has one. */
  readonly connections: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** A connection for each request. */
  readonly fresh: boolean;
  /** Requests a second, whatever the answers do; null for as many as are answered. */
  readonly rate: number | null;
  /** Whose CPU time is taken at both ends of the measured time. */
  readonly pids: readonly number[];
}

/** What was counted between warm-up and end. */
export interface LoadResult {
  readonly seconds: number;
  readonly requests: number;
  /** Of bodies. */
  readonly bytes: number;
  /** Answers other than 200, and connections that ended early. */
  readonly errors: number;
  /** Closed loop: from sending. Fixed rate: from when the request was due. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  /** CPU time of all `pids` together; null where the system does not tell. */
  readonly cpuMs: number | null;
  /** CPU time of the generator itself. */
  readonly ownCpuMs: number;
}

/** Mutual TLS handshakes, each on a connection of its own, `concurrency` at a time. */
export interface HandshakeTask {
  /** On 127.0.0.1. */
  readonly port: number;
  readonly cert: string;
  readonly key: string;
  readonly root: string;
  /** The one group the client offers. */
  readonly group: string;
  readonly concurrency: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Resume one session instead of shaking hands in full. */
  readonly resumed: boolean;
  readonly pids: readonly number[];
}

export interface HandshakeResult {
  readonly seconds: number;
  readonly handshakes: number;
  readonly errors: number;
  readonly cpuMs: number | null;
}

/** Requests that are never answered, all open at once until the process is stopped. */
export interface HeldTask {
  readonly host: string;
  readonly port: number;
  /** Where the app tells how many have come. */
  readonly app: { readonly host: string; readonly port: number };
  readonly connections: number;
  readonly withinMs: number;
}

export interface HeldResult {
  readonly held: number;
}

/** Keep-alive connections that had one request each and stay open, idle, until the process is stopped. */
export interface IdleTask {
  readonly host: string;
  readonly port: number;
  readonly connections: number;
  /** Files to present and to verify with; null for plaintext. */
  readonly tls: { readonly cert: string; readonly key: string; readonly root: string } | null;
}

/** The task this process was started with. */
export function taskOf<T>(): T {
  return JSON.parse(process.argv.at(-1) ?? '') as T;
}

/** Says the result and ends the process once it is written. */
export function answer(result: LoadResult | HandshakeResult): void {
  process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
}
