/** What both HTTP sides share: limits, deadlines, the pool, and the report of each exchange. */
import type { Nearest } from '../../mesh/decision.ts';
import type { Limits } from '../../mesh/limits.ts';
import type { PathNormalization } from '../../mesh/snapshot.ts';
import { normalizeTarget } from '../../policy/path.ts';
import type { Connection } from '../connections.ts';
import type { DataPath, Explainer } from '../data-path.ts';
import { type DialDone, type DialTarget, dial, poolKey, type Reached, type Upstream } from '../dial.ts';
import { viewAsHttp1 } from '../http2/http1-view.ts';
import type { UpstreamSession } from '../http2/upstream-session.ts';
import type { SessionDone } from '../http2/upstream-sessions.ts';
import { keepLoggedHeaders, reportExchange } from '../report.ts';
import { addFields } from './added-fields.ts';
import type { Exchange } from './exchange.ts';
import type { Field, NormalizeTarget, RequestHead } from './head.ts';
import type { Expected, HttpSide, Judged, RequestCarrier } from './side.ts';

const NORMALIZERS: Readonly<Record<PathNormalization, NormalizeTarget>> = {
  NONE: (target) => normalizeTarget(target, 'NONE'),
  BASE: (target) => normalizeTarget(target, 'BASE'),
  MERGE_SLASHES: (target) => normalizeTarget(target, 'MERGE_SLASHES'),
  DECODE_AND_MERGE_SLASHES: (target) => normalizeTarget(target, 'DECODE_AND_MERGE_SLASHES'),
};

/**
 * Called once: with a connection of its own, or with a promised stream of a shared session. Who has no use for that,
 * HTTP/1, gets a connection made of it.
 */
export type ReachDone = DialDone & Partial<SessionDone>;

export abstract class HttpSideBase implements HttpSide, Explainer {
  readonly path: DataPath;
  readonly connection: Connection;
  /** Set right after birth: side and carrier need each other. */
  carrier: RequestCarrier | null = null;

  constructor(path: DataPath, connection: Connection) {
    this.path = path;
    this.connection = connection;
  }

  abstract judge(head: RequestHead, exchange: Exchange): Judged;
  abstract reach(head: RequestHead, exchange: Exchange, fresh: boolean, done: ReachDone): void;
  abstract dropped(upstream: Reached): void;

  get limits(): Limits {
    return this.path.limits;
  }

  get draining(): boolean {
    const { path, connection } = this;
    return path.draining[connection.direction] || connection.retiring;
  }

  /** Another function after a reload that changes how: what was normalized before is not taken for it. */
  get normalize(): NormalizeTarget {
    return NORMALIZERS[this.path.snapshot?.mesh.pathNormalization ?? 'BASE'];
  }

  release(upstream: Upstream, keepAliveMs: number): void {
    if (this.path.draining[this.connection.direction]) {
      upstream.stream.end();
      upstream.stream.destroy();
    } else this.path.pool.put(upstream, keepAliveMs);
  }

  expect(what: Expected): void {
    const { connection } = this;
    const { limits } = this.path;
    if (what === 'head') connection.expire(limits.requestHeadTimeout, this.#expired);
    else if (what === 'held-body') connection.expireIdle(limits.handshakeTimeout, this.#expired);
    else if (what === 'half-closed') connection.expireIdle(limits.halfCloseGrace, this.#expired);
    else {
      const ms = what === 'exchange' ? limits.streamIdleTimeout : limits.idleTimeout;
      // Asked twice a request: where it runs already, its next look at `active` is soon enough.
      if (connection.idleMs !== ms || connection.onDeadline !== this.#expired)
        connection.expireIdle(ms, this.#expired);
    }
  }

  stillAllowed(_exchange: Exchange): boolean {
    return true;
  }

  finished(exchange: Exchange): void {
    reportExchange(this.path, this.connection, exchange, this);
  }

  readonly #expired = (): void => this.carrier?.timedOut();

  /** Why policy denied the request at hand; null where it did not. */
  explain(): Nearest | null {
    return null;
  }

  broke(error: Error): void {
    this.path.log.error({ error: error.stack ?? error.message }, 'a connection was aborted: fault of ours');
  }

  /** Adds fields before anything is judged: policy sees what goes on, and both sidecars' logs name a request alike. */
  protected addFields(head: RequestHead, exchange: Exchange, own: Field | null): void {
    exchange.requestId = addFields(head, this.connection.tls, exchange.requestId);
    if (own !== null) head.add(own);
    keepLoggedHeaders(this.path, head, exchange);
  }

  /** @param reached told first, as what the carrier will give back */
  protected entered(session: UpstreamSession, done: ReachDone, reached?: (upstream: Reached) => void): void {
    if (done.entered !== undefined) {
      reached?.(session);
      done.entered(session);
      return;
    }
    const view = viewAsHttp1(session, this.path.sessions, this.path.limits);
    reached?.(view);
    done.connected(view);
  }

  /** An idle connection to the same place, else a new one; a stream of a session where that is what is spoken there. */
  protected connect(target: DialTarget, fresh: boolean, exchange: Exchange, done: ReachDone): void {
    if (target.protocol === 'http2') {
      this.path.sessions.enter(target, fresh ? (exchange.upstream?.told ?? null) : null, {
        entered: (session) => this.entered(session, done),
        failed: (reason, detail) => done.failed(reason, detail),
      });
      return;
    }
    const pooled = fresh ? null : this.path.pool.take(poolKey(target));
    if (pooled !== null) done.connected(pooled);
    else dial(this.path, target, done);
  }
}
