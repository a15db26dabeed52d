/** What the two protocols of external authorization have in common: a question, and who puts it to one service. */
import type { CheckAnswer, CheckRequest, ExtAuthzProvider } from '../mesh/ext-authz.ts';

export interface Question {
  readonly provider: ExtAuthzProvider;
  readonly check: CheckRequest;
  /** Milliseconds since the epoch. */
  readonly now: number;
  /** Distinct for each request. */
  readonly id: string;
}

/** Puts questions on the connections it keeps to one service and port. */
export interface Asker {
  /**
   * No question waits for another: it has a connection or stream of its own, or is not put.
   * @param signal nobody waits for the answer any more
   * @throws NotAsked where we did not put the question, Error where there is no answer, or none that makes sense:
   * its message says why
   */
  ask(question: Question, signal: AbortSignal): Promise<CheckAnswer>;
  close(): void;
}

/**
 * It is us who could not ask, for the question's sake or for too much load. Whoever sends requests can bring that
 * about, so failOpen must not excuse it: the check denies.
 */
export class NotAsked extends Error {}

/** An answer with its body. A login page is some kilobytes; Envoy sets no bound that matters. */
export const MAX_ANSWER_BYTES = 1_048_576;

/** Connections to one service. istiod sets Envoy no bound; this one keeps a slow authorizer from our descriptors. */
export const MAX_CONNECTIONS = 1_024;

export const ALL_BUSY = `all ${MAX_CONNECTIONS} connections to it are busy`;

/** What comes of some work, unless the signal is first. */
export function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    work.then(resolve, reject);
  });
}
