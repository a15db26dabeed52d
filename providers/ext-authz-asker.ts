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
   * @param signal nobody waits for the answer any more
   * @throws Error where there is no answer, or none that makes sense: its message says why
   */
  ask(question: Question, signal: AbortSignal): Promise<CheckAnswer>;
  close(): void;
}

/** An answer with its body. A login page is some kilobytes; Envoy sets no bound that matters. */
export const MAX_ANSWER_BYTES = 1_048_576;
