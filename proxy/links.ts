/** Every connection that rests on a peer's certificate, of either side: none outlives it, and none outlives our trust in it. */
import type { ReasonCode } from '../mesh/reasons.ts';
import type { PeerCertificate } from '../telemetry/certs-view.ts';
import type { Direction } from './connections.ts';
import type { RefusedVerdict, VerifiedPeer } from './verify-peer.ts';

/** How long what a connection rests on holds. */
export interface CertificateLife {
  /** Whose it is, for the log. */
  readonly name: string;
  /** Milliseconds since the epoch. */
  readonly notBefore: number;
  readonly notAfter: number;
}

/** Of the whole path to the root. */
export function lifeOf({ identity, notBefore, notAfter }: VerifiedPeer): CertificateLife {
  return { name: identity.uri, notBefore, notAfter };
}

/** One such connection: TLS of either side, a tunnel, or a stream of a tunnel. */
export interface Link {
  readonly direction: Direction;
  /** Null: a server outside the mesh, whom our trust says nothing of. */
  readonly peer: VerifiedPeer | null;
  readonly life: CertificateLife;
  /** When it was made, ms since the epoch. */
  readonly since: number;
  /** A stream of a tunnel: the tunnel is the TLS connection, and counted as that. */
  readonly tunnelled: boolean;
  /**
   * It ends soon: takes nothing new where its peer loses nothing by it. HTTP/1 says so with its next answer or is not
   * used again, HTTP/2 and tunnels say GOAWAY. TCP and WebSocket have no such place. Safe to call again.
   */
  retire(): void;
  /** It ends very soon: what still lies idle is closed. Safe to call again. */
  drain(): void;
  /** Ends it at once, whatever runs on it. Safe to call again, and while it is being closed. */
  close(reason: ReasonCode, detail: string): void;
}

/** Tells why a peer is refused now; null: it is not. */
export type Judge = (peer: VerifiedPeer) => RefusedVerdict | null;

/** The part of a certificate's whole life in which its connections are brought to their end. */
const LAST_PART = 0.1;
/** That part is at least so long where life is short, and at most so long where it is not. */
const LEAST_LEAD_MS = 2_000;
const MOST_LEAD_MS = 600_000;
/** Of the lead: over so much of it the connections of one peer spread, and so much later their idle ones close. */
const SPREAD = 0.4;
/** The wall clock may be set: it is looked at so often, ms, and whenever the next certificate ends. */
const SWEEP_MS = 250;

/** Of judging all peers, ms: what else waits meanwhile. */
const SLICE_MS = 5;

type Stage = 'live' | 'retired' | 'drained';

/** A connection and what comes next for it. */
interface Entry {
  readonly link: Link;
  stage: Stage;
  /** When that is due, ms since the epoch. */
  due: number;
  readonly drainAt: number;
}

export class Links {
  readonly #entries = new Map<Link, Entry>();
  readonly #random: () => number;
  #judge: Judge | null = null;
  /** What it has said of peers that are live. */
  #verdicts = new WeakMap<VerifiedPeer, RefusedVerdict | 'fine'>();
  #timer: NodeJS.Timeout | null = null;
  /** When the timer rings, by the wall clock as it was when it was set. */
  #wakesAt = Number.POSITIVE_INFINITY;

  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Takes a connection in; whoever does removes it when it is over. Ask `refuses` first. */
  add(link: Link): void {
    const { since } = link;
    const { notBefore, notAfter } = link.life;
    const lead = Math.min(
      Math.max((notAfter - notBefore) * LAST_PART, LEAST_LEAD_MS),
      MOST_LEAD_MS,
      Math.max(notAfter - since, 0),
    );
    // Of a peer's thousand connections no two should be made anew in one moment.
    const retireAt = notAfter - lead * (1 - SPREAD * this.#random());
    const entry: Entry = { link, stage: 'live', due: retireAt, drainAt: retireAt + SPREAD * lead };
    this.#entries.set(link, entry);
    this.#wakeBy(Math.min(since + SWEEP_MS, notAfter), since);
  }

  /** Safe to call twice. */
  remove(link: Link): void {
    this.#entries.delete(link);
  }

  /** Judges a peer that is about to be let in as those who are in were judged last: its handshake may be older than that. */
  refuses(peer: VerifiedPeer): RefusedVerdict | null {
    if (this.#judge === null) return null;
    let verdict = this.#verdicts.get(peer);
    if (verdict === undefined) {
      verdict = this.#judge(peer) ?? 'fine';
      this.#verdicts.set(peer, verdict);
    }
    return verdict === 'fine' ? null : verdict;
  }

  /**
   * Trust has changed: closes every connection whose peer is refused now, and from now on holds new ones to it.
   * @param judge asked once a peer
   */
  judge(judge: Judge): void {
    this.#judge = judge;
    this.#verdicts = new WeakMap();
    this.#judgeFrom(this.#streamsFirst(this.#entries.keys()), 0);
  }

  /** In slices: a peer takes up to a millisecond, and there may be thousands. New ones are held to the judge anyway. */
  #judgeFrom(links: readonly Link[], from: number): void {
    const judge = this.#judge;
    const until = performance.now() + SLICE_MS;
    for (let at = from; at < links.length; at++) {
      const link = links[at] as Link;
      const refused = link.peer !== null && this.#entries.has(link) ? this.refuses(link.peer) : null;
      if (refused !== null) link.close(refused.reason, refused.detail);
      if (performance.now() < until) continue;
      setImmediate(() => {
        // Another trust came meanwhile: its judge has them all.
        if (this.#judge === judge) this.#judgeFrom(links, at + 1);
      });
      return;
    }
  }

  /** Whom of the mesh we are connected to, and by which certificate. */
  list(): PeerCertificate[] {
    const peers = new Map<string, PeerCertificate & { connections: number }>();
    for (const { direction, peer, tunnelled } of this.#entries.keys()) {
      // The tunnel is the TLS connection.
      if (tunnelled || peer === null) continue;
      const key = `${direction} ${peer.hash}`;
      const known = peers.get(key);
      if (known !== undefined) known.connections++;
      else {
        const { identity, serial, issuer, root, notAfter } = peer;
        const about = { identity: identity.uri, serial, issuer, root: root.subject, notAfter, direction };
        peers.set(key, { ...about, connections: 1 });
      }
    }
    return [...peers.values()];
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#wakesAt = Number.POSITIVE_INFINITY;
  }

  /**
   * Brings on the way what is due.
   * @param now by the wall clock, which certificates are written in: it may have been set since the last time
   */
  sweep(now: number): void {
    let nextEnd = Number.POSITIVE_INFINITY;
    const over: Link[] = [];
    for (const entry of this.#entries.values()) {
      const { notAfter } = entry.link.life;
      if (now >= notAfter) over.push(entry.link);
      else {
        if (now >= entry.due) bringOn(entry, now);
        if (notAfter < nextEnd) nextEnd = notAfter;
      }
    }
    for (const link of this.#streamsFirst(over)) {
      const { name, notAfter } = link.life;
      link.close('peer_expired', `${name} was valid until ${new Date(notAfter).toISOString()}`);
    }
    if (this.#entries.size > 0) this.#wakeBy(Math.min(now + SWEEP_MS, nextEnd), now);
  }

  /** A tunnel takes its streams with it: they would not be told why. */
  #streamsFirst(links: Iterable<Link>): Link[] {
    return [...links].sort((one, other) => Number(other.tunnelled) - Number(one.tunnelled));
  }

  #wakeBy(at: number, now: number): void {
    if (at >= this.#wakesAt) return;
    this.#wakesAt = at;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ring(), Math.max(at - now, 1));
    this.#timer.unref();
  }

  #ring(): void {
    this.#timer = null;
    this.#wakesAt = Number.POSITIVE_INFINITY;
    this.sweep(Date.now());
  }
}

/** One step, or two where the clock jumped. */
function bringOn(entry: Entry, now: number): void {
  const { link, drainAt } = entry;
  if (entry.stage === 'live') {
    entry.stage = 'retired';
    entry.due = drainAt;
    link.retire();
  }
  if (entry.stage === 'retired' && now >= drainAt) {
    entry.stage = 'drained';
    entry.due = Number.POSITIVE_INFINITY;
    link.drain();
  }
}
