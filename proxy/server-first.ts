/** The race of a port whose protocol its bytes must tell: which side speaks first. */

export interface Race {
  /** True while the downstream has said nothing. */
  silent(): boolean;
  /** Reach for the upstream: it may be the one to speak. */
  prepare(): void;
  /** The upstream has spoken and the downstream has not, and the time for it is over: it is TCP. */
  greet(): void;
}

/** When, in ms from the race's start: `prepare` is called, and from when on the upstream may win. */
export interface RaceTimes {
  readonly prepare: number;
  readonly hold: number;
}

/** Inbound: nearly every client speaks with its first packet, so that a tenth of the hold spares the app the rest. */
export function inboundRace(hold: number): RaceTimes {
  return { prepare: hold / 10, hold };
}

/** Outbound: the upstream is another workload, which is not to see a connection for each that the app opens early. */
export function outboundRace(hold: number): RaceTimes {
  return { prepare: hold, hold };
}

/** The race's clock. Whoever hears the downstream speak, or is done, stops it. */
export class ServerFirst {
  readonly #race: Race;
  readonly #times: RaceTimes;
  readonly #startedAt: number;
  #timer: NodeJS.Timeout | null = null;
  #spoken = false;
  #holdOver = false;
  #stopped = false;

  /** @param startedAt `performance.now()` at which the downstream could first speak */
  constructor(times: RaceTimes, startedAt: number, race: Race) {
    this.#race = race;
    this.#times = times;
    this.#startedAt = startedAt;
  }

  start(): void {
    this.#after(this.#times.prepare, this.#onPrepare);
  }

  /** The upstream has said something. */
  spoke(): void {
    this.#spoken = true;
    if (this.#holdOver) this.#greet();
  }

  stop(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #after(ms: number, act: () => void): void {
    const left = this.#startedAt + ms - performance.now();
    // A busy process finds its timers late: what the downstream said meanwhile is read before they act.
    this.#timer = setTimeout(() => setImmediate(act), Math.max(0, left));
  }

  readonly #onPrepare = (): void => {
    if (this.#stopped || !this.#race.silent()) return;
    this.#after(this.#times.hold, this.#onHoldOver);
    this.#race.prepare();
  };

  readonly #onHoldOver = (): void => {
    this.#holdOver = true;
    if (this.#spoken) this.#greet();
  };

  #greet(): void {
    if (this.#stopped || !this.#race.silent()) return;
    this.stop();
    this.#race.greet();
  }
}
