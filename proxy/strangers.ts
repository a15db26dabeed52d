/** Holds back the handshakes of an address where no peer was verified yet: few at once, and none once it is shunned. */
import type { Shunned } from './shunned.ts';

/** A handshake that may have to wait for others of its address. */
export interface StrangersHandshake {
  /** Null: nobody is held back. */
  readonly caller: string | null;
  /** Its turn has come. */
  proceed(): void;
  /** Its address was shunned meanwhile, for so many milliseconds more. */
  turnAway(ms: number): void;
  /** Its turn never came: its time is over. */
  timedOut(): void;
}

/** What a handshake costs is known when it is over: so many may each cost as much as one may. */
const AT_ONCE = 2;

interface Queue {
  readonly running: Set<StrangersHandshake>;
  /** Each with its time-out. */
  readonly held: Map<StrangersHandshake, NodeJS.Timeout>;
}

/** Of one thread. An honest peer's first handshake takes milliseconds, and with it all others of its address go on. */
export class Strangers {
  readonly #shunned: Shunned;
  readonly #timeoutMs: number;
  readonly #queues = new Map<string, Queue>();

  /** @param timeoutMs how long one may be held */
  constructor(shunned: Shunned, timeoutMs: number) {
    this.#shunned = shunned;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * To be followed by `done`, however it ends.
   * @returns false where it is held: it will be told
   */
  admits(handshake: StrangersHandshake): boolean {
    const { caller } = handshake;
    if (caller === null || this.#shunned.trusts(caller)) return true;
    let queue = this.#queues.get(caller);
    if (queue === undefined) {
      queue = { running: new Set(), held: new Map() };
      this.#queues.set(caller, queue);
    }
    if (queue.running.size < AT_ONCE) {
      queue.running.add(handshake);
      return true;
    }
    const timer = setTimeout(() => handshake.timedOut(), this.#timeoutMs).unref();
    queue.held.set(handshake, timer);
    return false;
  }

  /** It is over, or nobody wants it any more; again: nothing. */
  done(handshake: StrangersHandshake): void {
    const { caller } = handshake;
    const queue = caller === null ? undefined : this.#queues.get(caller);
    if (caller === null || queue === undefined) return;
    clearTimeout(queue.held.get(handshake));
    if (!queue.held.delete(handshake) && !queue.running.delete(handshake)) return;
    this.#goOn(caller, queue);
    if (queue.running.size === 0 && queue.held.size === 0) this.#queues.delete(caller);
  }

  #goOn(caller: string, { running, held }: Queue): void {
    const shunned = this.#shunned.left(caller);
    const trusted = this.#shunned.trusts(caller);
    for (const [handshake, timer] of held) {
      if (shunned === 0 && !trusted && running.size >= AT_ONCE) return;
      clearTimeout(timer);
      held.delete(handshake);
      if (shunned > 0) {
        handshake.turnAway(shunned);
      } else {
        running.add(handshake);
        handshake.proceed();
      }
    }
  }
}
