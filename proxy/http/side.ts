/** The seam between carrying HTTP and judging it: a carrier (HTTP/1 or HTTP/2) on one hand, a side (inbound or outbound) on the other. */
import type { Limits } from '../../mesh/limits.ts';
import type { DialDone, Upstream } from '../dial.ts';
import type { Exchange } from './exchange.ts';
import type { NormalizeTarget, RequestHead } from './head.ts';
import type { HeldBody, HeldBounds } from './held-body.ts';
import type { LocalAnswer } from './local-answer.ts';

/** Null: let it pass. `pending`: `RequestCarrier.judged` is called later. */
export type Judged = LocalAnswer | null | 'pending';

/** Whoever carries a request, as its judge sees it. */
export interface RequestCarrier {
  /**
   * Holds the body of the request under judgement back until there is enough of it to judge by. Called by `judge`.
   * @param done called once, later, unless the request is over before
   */
  hold(bounds: HeldBounds, done: (body: HeldBody) => void): void;
  /**
   * Tells what became of a pending judgement. Safe to call when nobody waits for it any more.
   * @param answer null lets the request pass
   */
  judged(exchange: Exchange, answer: LocalAnswer | null): void;
  /** A deadline set by `HttpSide.expect` passed. */
  timedOut(): void;
}

/** What differs between the two sides of the data path: everything but HTTP itself. */
export interface HttpSide {
  readonly limits: Limits;
  readonly normalize: NormalizeTarget;
  /**
   * Judges a request. May set `exchange`'s fields, and change the head: it goes on as it is then. While it is
   * pending nothing of it goes on; `finished` tells where nobody waits for the answer any more.
   */
  judge(head: RequestHead, exchange: Exchange): Judged;
  /**
   * Judges by the set now in force what is carried on the strength of a request (a tunnel).
   * @returns false where it may not go on: `exchange` says why
   */
  stillAllowed(exchange: Exchange): boolean;
  /**
   * Finds an upstream for a judged request: one of the pool, or a new one where `fresh`.
   * Calls back once, maybe at once.
   */
  reach(head: RequestHead, exchange: Exchange, fresh: boolean, done: DialDone): void;
  /**
   * Takes back an upstream that can serve another exchange.
   * @param keepAliveMs for how long it says it keeps an idle connection; 0: it does not say
   */
  release(upstream: Upstream, keepAliveMs: number): void;
  /** The upstream of an exchange will not serve another. */
  dropped(upstream: Upstream): void;
  /** An exchange is over, answered or not. */
  finished(exchange: Exchange): void;
  /** The stop is under way, or the connection's own end: answers say so, and it ends with the one at hand. */
  readonly draining: boolean;
  /** What the connection waits for: each has its own deadline. Cheap where the last one told was alike. */
  expect(what: Expected): void;
  /** Something of ours threw: the connection is aborted next. */
  broke(error: Error): void;
}

/** `half-closed`: an answer for a downstream that ended its side, and may be gone. */
export type Expected = 'head' | 'held-body' | 'exchange' | 'half-closed' | 'idle';
