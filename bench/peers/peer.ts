/** What a proxy must tell the bench about itself to be measured: how it is found, and how each of its sides is started. */
import type { Command } from '../children.ts';

export const CALLER_URI = 'spiffe://cluster.local/ns/bench/sa/web';
export const CALLEE_URI = 'spiffe://cluster.local/ns/bench/sa/orders';
export const SERVICE = 'orders.bench.svc.cluster.local';

/** What a side's port is declared as, and is spoken between the two sides. */
export type Protocol = 'http1' | 'http2' | 'tcp';

/** One process of a pair, between two ports of 127.0.0.1. */
export interface Side {
  /** `caller`: plaintext in, mutual TLS out. `callee`: mutual TLS in, plaintext out. `plain`: plaintext both ways. */
  readonly role: 'caller' | 'callee' | 'plain';
  readonly listen: number;
  readonly dial: number;
  /** A folder of its own, for its configuration and logs. */
  readonly dir: string;
  /** Of no use to `plain`. */
  readonly credentials: Credentials;
  readonly protocol: Protocol;
  /**
   * For two sides with HBONE between: the port of the callee's side that each stream names as where it goes, and that
   * nobody is to connect to. Null for two sides with a connection for each.
   */
  readonly tunnelled: number | null;
  readonly accessLog: boolean;
  readonly tls: SideTls;
  /** Flags of Node, for those that run under it. */
  readonly nodeFlags: readonly string[];
}

/** What is asked of the TLS between two sides. */
export interface SideTls {
  /** Key exchange groups by OpenSSL's names, best first; null for each one's usual. */
  readonly groups: readonly string[] | null;
  /** The caller's side resumes sessions as often as it can, or never; null for as it comes. */
  readonly resumes: boolean | null;
  /** False: the caller's side makes a connection for each of its app's, where it could keep them. */
  readonly keeps: boolean;
}

export const USUAL_TLS: SideTls = { groups: null, resumes: null, keeps: true };

/** Files of one identity. */
export interface Credentials {
  readonly cert: string;
  readonly key: string;
  readonly root: string;
  /** The same key and identity with the DNS name {@link SERVICE} beside the URI, for those that check only such names. */
  readonly certWithName: string;
}

export interface AllCredentials {
  readonly web: Credentials;
  readonly orders: Credentials;
  /** Of the same CA, and allowed nothing. */
  readonly stranger: Credentials;
}

interface PeerFacts {
  readonly name: string;
  /** Decides who may call by the SPIFFE identity, not by the chain alone. */
  readonly judges: boolean;
  /** Key exchange groups that its handshakes are measured with; none where they are not, another peer's being the same. */
  readonly groups: readonly string[];
  /** Joins connections and reads nothing of what they carry: its row is one of HTTP and one of TCP. */
  readonly carriesBytes?: boolean;
  /** What its rows have and lack, for the notes below the tables. */
  readonly note: string;
  /** Why it cannot run on this machine; null where it can. */
  missing(): string | null;
}

/** A peer whose sides lie on ports of 127.0.0.1 that they are given. */
export interface PortPeer extends PeerFacts {
  /** Writes what the side needs into its folder. @returns what to start */
  command(side: Side): Command;
}

/** A peer that has its own way to start. */
export interface OtherPeer extends PeerFacts {
  /** As {@link Pair} tells; the app is one of its own. @throws where it does not serve */
  startPair(wanted: Wanted): Promise<Pair>;
}

export type Peer = PortPeer | OtherPeer;

/** What a pair is started with. */
export interface Wanted {
  readonly protocol: Protocol;
  /** As {@link Side} has it, free so far. */
  readonly tunnelled: number | null;
  /** Port of the app, in the version the callee's side speaks to it. */
  readonly app: number;
  /** A folder of its own; it need not exist. */
  readonly dir: string;
  readonly credentials: AllCredentials;
  readonly accessLog: boolean;
  /** Left out: {@link USUAL_TLS}. */
  readonly tls?: SideTls;
  readonly nodeFlags?: readonly string[];
}

/** Where something listens. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** Two sides that run. */
export interface Pair {
  /** Where the caller's app dials, in plaintext: host and port. */
  readonly host: string;
  readonly egress: number;
  /** Where the caller's side dials, in mutual TLS: for each connection, or a tunnel. */
  readonly ingress: number;
  /** The port that streams of a tunnel name; null where there is none, or none that could be reached beside the tunnel. */
  readonly tunnelled: number | null;
  /** Where to ask the app that it leads to, where that is not the bench's; else null. */
  readonly app: Address | null;
  readonly callerPid: number;
  readonly calleePid: number;
  readonly pids: readonly number[];
  /** Starts one more caller's side, dialling `port`, and stops it again. @returns ms to its first answer of 200; throws where none comes */
  timedStart(port?: number, withinMs?: number): Promise<number>;
  /** Proves that both identities are checked, where that takes other ways than `verify.ts` has. @throws with the check that failed */
  verify?(): Promise<void>;
  /** Empties what was logged: it grows by megabytes a second. */
  emptyLogs(): void;
  stop(): Promise<void>;
}
