/** Tells callers that their connections end, one after the other, while new ones are still taken. */
import type { Connection } from '../proxy/connections.ts';

const TICK_MS = 200;
/** Of the time there is, the part in which all are told: what is idle is to be closed within it, too. */
const SHARE = 0.6;
/** A kept connection in use is used again within this time, ms: its next answer can say that it ends. */
export const QUIET_MS = 1_000;

/**
 * The way of Envoy's graceful drain: at first few are told, at the end all, so that not every caller makes its
 * connections anew in the same moment, and those who have not heard yet that we leave come back to us no more often
 * than they must.
 */
export class Announcement {
  readonly #connections: () => Iterable<Connection>;
  /** When all are to be told, by `performance.now()`. */
  readonly #until: number;
  readonly #timer: NodeJS.Timeout;
  /** Those told, and when. */
  #told = new Map<Connection, number>();

  /**
   * @param connections those there are now
   * @param ms how long callers have to go elsewhere
   */
  constructor(connections: () => Iterable<Connection>, ms: number) {
    this.#connections = connections;
    this.#until = performance.now() + ms * SHARE;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const now = performance.now();
    const told = new Map<Connection, number>();
    for (const connection of this.#connections()) {
      const at = this.#told.get(connection);
      if (at !== undefined) {
        told.set(connection, at);
        // Whoever asks nothing cannot be told by an answer.
        if (now - at > QUIET_MS) connection.carrier?.drain();
      } else if (Math.random() * (this.#until - now) < TICK_MS) {
        told.set(connection, now);
        connection.retiring = true;
        connection.carrier?.retire?.();
      }
    }
    this.#told = told;
  }
}
