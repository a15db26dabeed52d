/** The seam between a downstream's stream and whoever answers it: an HTTP/2 stream of ours, or an HTTP/1 connection. */
import type { ReasonCode } from '../../mesh/reasons.ts';
import type { Field } from '../http/head.ts';
import type { AnswerHead } from './head.ts';

/** The way of a request to its upstream, begun by whoever made it. */
export interface UpstreamExchange {
  /** @returns false: no more until `Answered.onRoom` */
  write(data: Buffer): boolean;
  /** The request is complete. */
  end(trailers: readonly Field[]): void;
  /** Holds the answer's body back, and lets it go on. */
  pause(): void;
  resume(): void;
  /**
   * Nobody waits for the answer any more, or for the rest of it. Nothing is told after that.
   * @param code of RST_STREAM
   */
  cancel(code: number): void;
}

/** Why an exchange broke off. */
export interface Break {
  /** For RST_STREAM downstream. */
  readonly code: number;
  readonly reason: ReasonCode;
  readonly detail: string;
  /**
   * `reset`: the upstream reset this stream, and the downstream is told so. `refused`: it said that it has not looked
   * at the request. `kept`: a connection kept from before died under it. `calm`: an app has had enough of a connection
   * kept from before, and reset this stream for it. `failed`: anything else.
   */
  readonly how: 'reset' | 'refused' | 'kept' | 'calm' | 'failed';
}

/** Whoever waits for the answer. Called in this order: interim answers, the answer, its data, its end (always). */
export interface Answered {
  onInterim(answer: AnswerHead): void;
  /** @param ended there is no body and there are no trailers */
  onAnswer(answer: AnswerHead, ended: boolean): void;
  onData(data: Buffer): void;
  onEnd(trailers: readonly Field[]): void;
  /** More of the request is taken. */
  onRoom(): void;
  /** There will be no answer, or no more of it; nothing is told after that. */
  onBreak(broken: Break): void;
}
