/** Whether the peer of a tunnel still lives: asked by PING where it is silent, given up where that is not answered. */

/** So often `look` is called, ms. */
export const TICK_MS = 500;

export class Liveness {
  readonly #pingAfter: number;
  #heard = true;
  #quietSince: number;
  #asked = false;

  /**
   * @param pingAfter silence before it is asked, ms
   * @param now `performance.now()`
   */
  constructor(pingAfter: number, now: number) {
    this.#pingAfter = pingAfter;
    this.#quietSince = now;
  }

  /** Something came. */
  heard(): void {
    this.#heard = true;
  }

  /** Somebody waits for it, and waits. @returns true where it is to be asked now */
  ask(): boolean {
    if (this.#heard || this.#asked) return false;
    this.#asked = true;
    return true;
  }

  /** ms without a sign of it. */
  silent(now: number): number {
    return now - this.#quietSince;
  }

  /** @returns `ask`: send PING; `dead`: it did not answer for twice as long as it was silent before */
  look(now: number): 'alive' | 'ask' | 'dead' {
    if (this.#heard) {
      this.#heard = false;
      this.#asked = false;
      this.#quietSince = now;
    }
    const quiet = this.silent(now);
    if (quiet > 3 * this.#pingAfter) return 'dead';
    if (quiet <= this.#pingAfter || this.#asked) return 'alive';
    this.#asked = true;
    return 'ask';
  }
}
