/** Whether the peer of a tunnel uses it fairly: what it sends weighed against what is carried, and how much of what it asks for it takes back. */
import { ConnectionFault } from '../http2/frame.ts';

/** In so many ms is it weighed. */
const WEIGH_MS = 10_000;
/** What may come on top of eight times the payload in that time: nginx's measure of a flood. */
const FREE_OVERHEAD = 1_048_576;

export class FairUse {
  readonly #maxResets: number;
  #since: number;
  /** Octets in this time: all that came, and what was carried either way. */
  #total = 0;
  #carried = 0;
  /** Streams in its whole life: asked for, and taken back or faulty. */
  #opened = 0;
  #resets = 0;

  /** @param now `performance.now()` */
  constructor(maxResets: number, now: number) {
    this.#maxResets = maxResets;
    this.#since = now;
  }

  /** Octets came, or what costs us as much. */
  came(octets: number): void {
    this.#total += octets;
  }

  /** Octets that somebody wanted were carried. */
  carried(octets: number): void {
    this.#carried += octets;
  }

  /**
   * Empty frames, padding, PING, SETTINGS, priorities and whatever else carries nothing.
   * @throws ConnectionFault where it is more than anybody needs
   */
  weigh(): void {
    if (this.#total > FREE_OVERHEAD + 8 * this.#carried)
      throw new ConnectionFault('ENHANCE_YOUR_CALM', `${this.#total} octets carried ${this.#carried}`);
  }

  opened(): void {
    this.#opened++;
  }

  /**
   * A peer that asks and takes it back makes us and the app work for nothing (CVE-2023-44487). Envoy's measure: so
   * many, and most of all it asked for.
   * @throws ConnectionFault
   */
  reset(): void {
    if (++this.#resets <= this.#maxResets || 2 * this.#resets <= this.#opened) return;
    throw new ConnectionFault(
      'ENHANCE_YOUR_CALM',
      `${this.#resets} of ${this.#opened} streams reset unanswered, or by their faults`,
    );
  }

  /** @returns true where another time of weighing has begun */
  tick(now: number): boolean {
    if (now - this.#since <= WEIGH_MS) return false;
    this.#since = now;
    this.#total = 0;
    this.#carried = 0;
    return true;
  }
}
