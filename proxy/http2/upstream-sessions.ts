/** The HTTP/2 connections to upstreams: shared by many requests, one handshake at a time, retired with credentials and routes. */
import type { Limits } from '../../mesh/limits.ts';
import type { ReasonCode } from '../../mesh/reasons.ts';
import { type DialContext, type DialTarget, dial, poolKey } from '../dial.ts';
import type { Told } from '../told.ts';
import { type SessionKeeper, UpstreamSession } from './upstream-session.ts';

export interface SessionDone {
  /** A stream is promised on it: `UpstreamSession.leave` gives it back. */
  entered(session: UpstreamSession): void;
  failed(reason: ReasonCode, detail: string): void;
}

interface Waiting {
  /** Of the session that lost or refused the request: any but that. */
  readonly lost: Told | null;
  readonly done: SessionDone;
}

/** The connections to one place. */
class Place {
  readonly target: DialTarget;
  readonly key: string;
  readonly sessions: UpstreamSession[] = [];
  readonly waiting: Waiting[] = [];
  dialling = false;

  constructor(target: DialTarget, key: string) {
    this.target = target;
    this.key = key;
  }
}

export class UpstreamSessions implements SessionKeeper {
  readonly #limits: Limits;
  readonly #context: DialContext;
  readonly #places = new Map<string, Place>();
  readonly #sweeper: NodeJS.Timeout;

  constructor(context: DialContext) {
    this.#context = context;
    this.#limits = context.limits;
    this.#sweeper = setInterval(() => this.#sweep(), 500);
    this.#sweeper.unref();
  }

  /**
   * Enters a session to the target, or waits for one to be made.
   * @param lost of a session that lost or refused the request: any other will do, and where there is no other one is
   *   made. At the bound that one has to do, or it would wait for ever.
   */
  enter(target: DialTarget, lost: Told | null, done: SessionDone): void {
    const key = poolKey(target);
    let place = this.#places.get(key);
    if (place === undefined) {
      place = new Place(target, key);
      this.#places.set(key, place);
    }
    const but = place.sessions.length < this.#limits.poolSize ? lost : null;
    const session = roomiest(place, but);
    if (session !== undefined) {
      session.enter();
      done.entered(session);
      return;
    }
    if (place.waiting.length >= this.#limits.maxWaitingStreams) {
      done.failed('too_many_waiting', `${place.waiting.length} wait already`);
      return;
    }
    place.waiting.push({ lost: but, done });
    this.#dial(place);
  }

  /** Enters another session to where one goes that refused a stream. */
  enterAnother(session: UpstreamSession, done: SessionDone): void {
    this.enter(session.target, session.told, done);
  }

  roomChanged(session: UpstreamSession): void {
    const place = this.#places.get(session.key);
    if (place !== undefined) serve(place, session);
  }

  closed(session: UpstreamSession): void {
    const place = this.#places.get(session.key);
    if (place === undefined) return;
    const at = place.sessions.indexOf(session);
    if (at >= 0) place.sessions.splice(at, 1);
    if (place.waiting.length > 0) this.#dial(place);
    else this.#forget(place);
  }

  /** Credentials or routes changed: sessions made before take no new streams. */
  clear(): void {
    for (const place of this.#places.values()) for (const session of [...place.sessions]) session.retire();
  }

  stop(): void {
    clearInterval(this.#sweeper);
    this.clear();
  }

  /** One at a time: those that wait meanwhile share what comes of it. */
  #dial(place: Place): void {
    // At the bound those that wait get the streams that others leave.
    if (place.dialling || place.sessions.length >= this.#limits.poolSize) return;
    place.dialling = true;
    dial(this.#context, place.target, {
      connected: (upstream) => {
        place.dialling = false;
        const session = new UpstreamSession(upstream, place.target, this.#limits, this);
        place.sessions.push(session);
        serve(place, session);
        // It was made before credentials or routes changed: it serves those that waited for it, and no more.
        if (session.generation !== this.#context.generation) session.retire();
        if (place.waiting.length > 0) this.#dial(place);
      },
      failed: (reason, detail) => {
        place.dialling = false;
        for (const { done } of place.waiting.splice(0)) done.failed(reason, detail);
        this.#forget(place);
      },
    });
  }

  #forget(place: Place): void {
    const empty = place.sessions.length === 0 && place.waiting.length === 0 && !place.dialling;
    if (empty) this.#places.delete(place.key);
  }

  #sweep(): void {
    const oldest = performance.now() - this.#limits.sessionIdleTimeout;
    for (const place of this.#places.values())
      for (const session of [...place.sessions])
        if (session.upstream.leaving || (session.open === 0 && session.idleSince < oldest)) session.retire();
  }
}

function serve(place: Place, session: UpstreamSession): void {
  while (session.room > 0) {
    const at = place.waiting.findIndex(({ lost }) => lost !== session.told);
    const [waiting] = at < 0 ? [] : place.waiting.splice(at, 1);
    if (waiting === undefined) return;
    session.enter();
    waiting.done.entered(session);
  }
}

/** The fullest that has room: the others may fall idle and be closed. */
function roomiest(place: Place, lost: Told | null): UpstreamSession | undefined {
  let best: UpstreamSession | undefined;
  for (const session of place.sessions) {
    if (session.room <= 0 || session.told === lost) continue;
    if (best === undefined || session.open > best.open) best = session;
  }
  return best;
}
