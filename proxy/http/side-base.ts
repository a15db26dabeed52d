/** What both HTTP sides share: limits, deadlines, the pool, and the report of each exchange. */
import type { Nearest } from '../../mesh/decision.ts';
import type { Limits } from '../../mesh/limits.ts';
import { normalizeTarget } from '../../policy/path.ts';
import type { Connection } from '../connections.ts';
import type { DataPath, Explainer } from '../data-path.ts';
import { type DialDone, type DialTarget, dial, poolKey, type Upstream } from '../dial.ts';
import { reportExchange } from '../report.ts';
import { addedFields } from './added-fields.ts';
import type { Exchange } from './exchange.ts';
import type { Field, RequestHead } from './head.ts';
import type { Expected, HttpSide, Judged, RequestCarrier } from './side.ts';

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
  abstract reach(head: RequestHead, exchange: Exchange, fresh: boolean, done: DialDone): void;
  abstract dropped(upstream: Upstream): void;

  get limits(): Limits {
    return this.path.limits;
  }

  get draining(): boolean {
    return this.path.draining;
  }

  readonly normalize = (target: string): string | null =>
    normalizeTarget(target, this.path.snapshot?.mesh.pathNormalization ?? 'BASE');

  release(upstream: Upstream): void {
    if (this.path.draining) {
      upstream.stream.end();
      upstream.stream.destroy();
    } else this.path.pool.put(upstream);
  }

  expect(what: Expected): void {
    const { limits } = this.path;
    const expired = (): void => this.carrier?.timedOut();
    if (what === 'head') this.connection.expire(limits.requestHeadTimeout, expired);
    else if (what === 'held-body') this.connection.expireIdle(limits.handshakeTimeout, expired);
    else this.connection.expireIdle(limits.idleTimeout, expired);
  }

  finished(exchange: Exchange): void {
    reportExchange(this.path, this.connection, exchange, this);
  }

  /** Why policy denied the request at hand; null where it did not. */
  explain(): Nearest | null {
    return null;
  }

  broke(error: Error): void {
    this.path.log.error({ error: error.stack ?? error.message }, 'a connection was aborted: fault of ours');
  }

  /** Adds fields before anything is judged: policy sees what goes on, and both sidecars' logs name a request alike. */
  protected addFields(head: RequestHead, exchange: Exchange, own: Field | null): void {
    const added = addedFields(head.fields, this.connection.tls);
    if (own !== null) added.push(own);
    if (added.length > 0) head.fields = head.fields.concat(added);
    if (exchange.requestId === '') exchange.requestId = head.headerValues('x-request-id')[0] ?? '';
  }

  /** An idle connection to the same place, else a new one. */
  protected connect(target: DialTarget, fresh: boolean, done: DialDone): void {
    const pooled = fresh ? null : this.path.pool.take(poolKey(target));
    if (pooled !== null) done.connected(pooled);
    else dial(this.path, target, done);
  }
}
