/** The SPIFFE bundles that mesh config names by URL: fetched over Web PKI, kept fresh, the last good one kept while that fails. */
import { createGetter, type Get, shown, within } from './http-get.ts';
import { readSpiffeBundle } from './spiffe-bundle.ts';

/** For log and admin; times are milliseconds since the epoch. */
export interface BundleStatus {
  readonly url: string;
  /** Roots in force. */
  readonly roots: number;
  /** `spiffe_sequence` of the bundle in force; null: it has none, or there is no bundle. */
  readonly sequence: number | null;
  readonly fetchedAt: number | null;
  readonly nextFetch: number | null;
  /** Failed fetches since the last good one, and the last one's words. */
  readonly failures: number;
  readonly lastError: string | null;
}

export interface BundleStoreOptions {
  /** Told of each fetch that changed something: other roots, or a failure (`lastError` not null). */
  readonly onChange: (status: BundleStatus) => void;
  /** Rejects with an Error whose message says why not. */
  readonly get?: Get;
  readonly now?: () => number;
  readonly random?: () => number;
  /** Runs `task` once after `ms`; the answer calls it off. The process need not stay up for it. */
  readonly schedule?: (task: () => void, ms: number) => () => void;
}

export interface BundleStore {
  /** Fetches those that are new at once, and forgets those that are not in the list. */
  retain(urls: readonly string[]): void;
  /** The roots, one PEM each; null: none were ever had. */
  bundles(url: string): readonly string[] | null;
  status(): readonly BundleStatus[];
  /** Ends all fetches and timers; the roots stay. */
  close(): void;
}

export const bundleLimits = {
  /** Istio's and SPIRE's time-out. */
  timeoutMs: 10_000,
  /** SPIFFE Federation §4.1: "five minutes is recommended". */
  refreshMs: 5 * 60_000,
  /** SPIRE's least; a hint of more than a day would keep a root that was withdrawn for as long. */
  refreshLeastMs: 60_000,
  refreshMostMs: 24 * 3_600_000,
  /** After failures: doubling from the first to the most, half of it jitter. */
  retryFirstMs: 1_000,
  retryMostMs: 5 * 60_000,
} as const;

export function createBundleStore(options: BundleStoreOptions): BundleStore {
  const all: Required<BundleStoreOptions> = {
    get: createGetter(),
    now: Date.now,
    random: Math.random,
    schedule: unrefTimer,
    ...options,
  };
  const kept = new Map<string, RemoteBundle>();
  return {
    retain(urls) {
      const wanted = new Set(urls);
      for (const [url, bundle] of kept) {
        if (wanted.has(url)) continue;
        bundle.stop();
        kept.delete(url);
      }
      for (const url of wanted) {
        if (kept.has(url)) continue;
        const bundle = new RemoteBundle(url, all);
        kept.set(url, bundle);
        bundle.start();
      }
    },
    bundles: (url) => kept.get(url)?.roots ?? null,
    status: () => [...kept.values()].map((bundle) => bundle.status),
    close() {
      for (const bundle of kept.values()) bundle.stop();
    },
  };
}

function unrefTimer(task: () => void, ms: number): () => void {
  const timer = setTimeout(task, ms).unref();
  return () => clearTimeout(timer);
}

/** One URL. */
class RemoteBundle {
  readonly #url: string;
  readonly #options: Required<BundleStoreOptions>;
  readonly #stop = new AbortController();
  #roots: readonly string[] | null = null;
  #sequence: number | null = null;
  #fetchedAt: number | null = null;
  #nextFetch: number | null = null;
  #failures = 0;
  #lastError: string | null = null;
  #cancelTimer: (() => void) | null = null;

  constructor(url: string, options: Required<BundleStoreOptions>) {
    this.#url = url;
    this.#options = options;
  }

  get roots(): readonly string[] | null {
    return this.#roots;
  }

  get status(): BundleStatus {
    return {
      url: shown(new URL(this.#url)),
      roots: this.#roots?.length ?? 0,
      sequence: this.#sequence,
      fetchedAt: this.#fetchedAt,
      nextFetch: this.#nextFetch,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  start(): void {
    this.#nextFetch = null;
    void this.#fetch();
  }

  stop(): void {
    this.#stop.abort();
    this.#cancelTimer?.();
    this.#nextFetch = null;
  }

  async #fetch(): Promise<void> {
    const { get, now, random, onChange } = this.#options;
    const { signal } = this.#stop;
    let changed = true;
    try {
      const { text } = await within(bundleLimits.timeoutMs, signal, (deadline) => get(this.#url, deadline));
      if (signal.aborted) return;
      const { roots, sequence, refreshMs } = readSpiffeBundle(text);
      changed = roots.join() !== this.#roots?.join() || this.#failures > 0;
      this.#roots = roots;
      this.#sequence = sequence;
      this.#fetchedAt = now();
      this.#failures = 0;
      this.#lastError = null;
      this.#fetchAfter(refreshDelay(refreshMs) * (0.9 + 0.1 * random()));
    } catch (error) {
      if (signal.aborted) return;
      this.#failures++;
      this.#lastError = error instanceof Error ? error.message : String(error);
      this.#fetchAfter(retryDelay(this.#failures) * (0.5 + 0.5 * random()));
    }
    if (changed) onChange(this.status);
  }

  #fetchAfter(ms: number): void {
    this.#nextFetch = this.#options.now() + ms;
    this.#cancelTimer = this.#options.schedule(() => this.start(), ms);
  }
}

function refreshDelay(hintMs: number | null): number {
  const { refreshMs, refreshLeastMs, refreshMostMs } = bundleLimits;
  return Math.min(refreshMostMs, Math.max(refreshLeastMs, hintMs ?? refreshMs));
}

function retryDelay(failures: number): number {
  const { retryFirstMs, retryMostMs } = bundleLimits;
  return Math.min(retryMostMs, retryFirstMs * 2 ** Math.min(failures - 1, 16));
}
