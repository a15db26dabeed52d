/** Idle upstream connections, kept for the next request and retired before the other side would close them. */
import type { Limits } from '../mesh/limits.ts';
import type { Upstream } from './dial.ts';

const IDLE_EVENTS = ['data', 'end', 'error', 'close'] as const;

function unpool(upstream: Upstream): void {
  upstream.pooled = false;
  const listener = upstream.onIdleEvent;
  if (listener !== null) for (const event of IDLE_EVENTS) upstream.stream.off(event, listener);
}

/** Idle upstream connections, newest first out; each retired before a usual app would close it. */
export class UpstreamPool {
  readonly #idle = new Map<string, Upstream[]>();
  #generation = 0;
  readonly #limits: Limits;
  readonly #sweeper: NodeJS.Timeout;

  constructor(limits: Limits) {
    this.#limits = limits;
    this.#sweeper = setInterval(() => this.#sweep(), 500);
    this.#sweeper.unref();
  }

  /** An idle connection of that key, or null. */
  take(key: string): Upstream | null {
    const list = this.#idle.get(key);
    while (list !== undefined) {
      const upstream = list.pop();
      if (upstream === undefined) break;
      if (!upstream.pooled || upstream.stream.destroyed || upstream.stream.readableEnded) continue;
      if (performance.now() - upstream.idleSince > this.#limits.poolIdleTimeout) {
        this.#retire(upstream);
        continue;
      }
      unpool(upstream);
      return upstream;
    }
    return null;
  }

  /** Keeps a connection between exchanges. Any byte, end or error on it meanwhile retires it. */
  put(upstream: Upstream): void {
    let list = this.#idle.get(upstream.key);
    if (list === undefined) {
      list = [];
      this.#idle.set(upstream.key, list);
    }
    if (list.length >= this.#limits.poolSize || upstream.generation !== this.#generation) {
      upstream.stream.destroy();
      return;
    }
    upstream.pooled = true;
    upstream.uses++;
    upstream.idleSince = performance.now();
    upstream.onIdleEvent ??= () => this.#retire(upstream);
    const retire = upstream.onIdleEvent;
    for (const event of IDLE_EVENTS) upstream.stream.on(event, retire);
    upstream.stream.resume();
    list.push(upstream);
  }

  get generation(): number {
    return this.#generation;
  }

  /** Closes all idle connections, and the busy ones when they come back: new credentials must not meet old ones. */
  clear(): void {
    this.#generation++;
    for (const list of this.#idle.values()) for (const upstream of list) this.#retire(upstream);
    this.#idle.clear();
  }

  stop(): void {
    clearInterval(this.#sweeper);
    this.clear();
  }

  #retire(upstream: Upstream): void {
    if (!upstream.pooled) return;
    // The listener stays: an error that comes while it closes has to be heard by someone.
    upstream.pooled = false;
    upstream.stream.end();
    upstream.stream.destroy();
  }

  #sweep(): void {
    const oldest = performance.now() - this.#limits.poolIdleTimeout;
    for (const [key, list] of this.#idle) {
      const kept = list.filter((upstream) => {
        if (upstream.pooled && upstream.idleSince < oldest) this.#retire(upstream);
        return upstream.pooled;
      });
      if (kept.length === 0) this.#idle.delete(key);
      else if (kept.length < list.length) this.#idle.set(key, kept);
    }
  }
}
