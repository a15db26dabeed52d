/** Idle upstream connections, kept for the next request and retired before the other side would close them. */
import { performance } from 'node:perf_hooks';
import type { Limits } from '../mesh/limits.ts';
import type { Upstream, UpstreamUser } from './dial.ts';

/** Of the time the other side keeps an idle connection: closing takes its way, and clocks are coarse. */
const SAFE_PART = 0.8;
/** Below this an observed time says more about chance than about the other side. */
const LEAST_KEEP_ALIVE_MS = 100;
/** A learned time is believed for so long. */
const RELEARN_MS = 600_000;
const SWEEP_MS = 500;

/** The idle connections of one key, and what is known of how long the other side keeps them. */
class IdleList {
  readonly upstreams: Upstream[] = [];
  /** How long one may lie idle here. */
  idleMs: number;
  learnedAt = 0;

  constructor(idleMs: number) {
    this.idleMs = idleMs;
  }
}

/** Newest first out; each retired before the app would close it (`--pool-idle-timeout`, or what the app is seen to do). */
export class UpstreamPool implements UpstreamUser {
  readonly #idle = new Map<string, IdleList>();
  #generation = 0;
  readonly #limits: Limits;
  readonly #sweeper: NodeJS.Timeout;

  constructor(limits: Limits) {
    this.#limits = limits;
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
    this.#sweeper.unref();
  }

  get generation(): number {
    return this.#generation;
  }

  /** An idle connection of that key, or null. */
  take(key: string): Upstream | null {
    const list = this.#idle.get(key);
    if (list === undefined) return null;
    const upstream = list.upstreams.pop();
    if (upstream === undefined) return null;
    if (performance.now() - upstream.idleSince > list.idleMs) {
      // The newest is too old: so are all below it.
      this.#close(upstream);
      for (const older of list.upstreams.splice(0)) this.#close(older);
      return null;
    }
    upstream.use(null);
    if (!upstream.leaving) return upstream;
    this.#close(upstream);
    return this.take(key);
  }

  /**
   * Keeps a connection between exchanges. Any byte, end or error on it meanwhile retires it.
   * @param keepAliveMs for how long the other side says it will keep it; 0: it does not say
   */
  put(upstream: Upstream, keepAliveMs: number): void {
    let list = this.#idle.get(upstream.key);
    if (list === undefined) {
      list = new IdleList(this.#limits.poolIdleTimeout);
      this.#idle.set(upstream.key, list);
    }
    const { stream } = upstream;
    const usable =
      !stream.destroyed &&
      !stream.readableEnded &&
      upstream.generation === this.#generation &&
      !upstream.leaving;
    if (!usable || list.upstreams.length >= this.#limits.poolSize) {
      this.#close(upstream);
      return;
    }
    if (keepAliveMs > 0) this.#learn(list, keepAliveMs);
    upstream.uses++;
    upstream.idleSince = performance.now();
    upstream.use(this);
    // A slow downstream may have stopped it: unread it would tell us nothing.
    if (stream.isPaused()) stream.resume();
    list.upstreams.push(upstream);
  }

  /** Closes all idle connections, and the busy ones when they come back: new credentials must not meet old ones. */
  clear(): void {
    this.#generation++;
    for (const list of this.#idle.values()) for (const upstream of list.upstreams) this.#close(upstream);
    this.#idle.clear();
  }

  stop(): void {
    clearInterval(this.#sweeper);
    this.clear();
  }

  /** Idle connections kept now. */
  get size(): number {
    let size = 0;
    for (const list of this.#idle.values()) size += list.upstreams.length;
    return size;
  }

  upstreamData(upstream: Upstream): void {
    this.#retire(upstream);
  }

  upstreamEnd(upstream: Upstream): void {
    this.#observe(upstream);
    this.#retire(upstream);
  }

  upstreamClosed(upstream: Upstream): void {
    this.#retire(upstream);
  }

  upstreamDrain(): void {}

  /** The other side closed an idle connection: it keeps the others no longer than this one. */
  #observe(upstream: Upstream): void {
    const list = this.#idle.get(upstream.key);
    const idle = performance.now() - upstream.idleSince;
    if (list !== undefined && idle >= LEAST_KEEP_ALIVE_MS && idle < list.idleMs / SAFE_PART)
      this.#learn(list, idle);
  }

  /** What is said or seen later holds, but a shorter time is not forgotten at once. */
  #learn(list: IdleList, keepAliveMs: number): void {
    const now = performance.now();
    const idleMs = Math.min(keepAliveMs * SAFE_PART, this.#limits.poolIdleTimeout);
    if (idleMs <= list.idleMs || now - list.learnedAt > RELEARN_MS) {
      list.idleMs = idleMs;
      list.learnedAt = now;
    }
  }

  #retire(upstream: Upstream): void {
    const list = this.#idle.get(upstream.key)?.upstreams ?? [];
    const index = list.indexOf(upstream);
    if (index >= 0) list.splice(index, 1);
    this.#close(upstream);
  }

  #close(upstream: Upstream): void {
    upstream.use(null);
    upstream.stream.end();
    upstream.stream.destroy();
  }

  #sweep(): void {
    const now = performance.now();
    for (const [key, list] of this.#idle) {
      const { upstreams, idleMs } = list;
      // The oldest come first.
      let old = 0;
      while (old < upstreams.length && now - (upstreams[old] as Upstream).idleSince > idleMs) old++;
      for (const upstream of upstreams.splice(0, old)) this.#close(upstream);
      // A tunnel that leaves waits for them to end, and the peer for the tunnel.
      for (const upstream of upstreams.filter(({ leaving }) => leaving)) this.#retire(upstream);
      if (upstreams.length === 0 && now - list.learnedAt > RELEARN_MS) this.#idle.delete(key);
    }
  }
}
