/** The key sets that tokens are verified with: inline ones, and fetched ones that are kept, refreshed and shared. */
import type { JwtRule } from '../mesh/tokens.ts';
import { shown } from './http-get.ts';
import { createKeyFetcher, type FetchKeys, type KeyPlace } from './jwks-fetch.ts';
import { type KeySet, parseKeySet } from './key-set.ts';

/** One rule's keys, always the newest. */
export interface KeySource {
  /** Null: none yet, or none of use. */
  readonly current: KeySet | null;
  /** Envoy's reason where `current` is null. */
  readonly fault: 'noKeys' | 'fetchFailed';
  /** The fetch under way; null where there is none to wait for. Never rejects. */
  waiting(): Promise<void> | null;
  /** A token asks for keys that are not there: fetches again, but not often. Null: not now. Never rejects. */
  refetch(): Promise<void> | null;
}

/** For the admin page; times are milliseconds since the epoch. No key. */
export interface KeySourceStatus {
  /** The URI, or the issuer where keys are discovered. */
  readonly place: string;
  /** Where they came from in the end; null before the first. */
  readonly uri: string | null;
  /** Keys of use. */
  readonly keys: number;
  readonly fetchedAt: number | null;
  readonly nextFetch: number | null;
  /** Failed fetches since the last good one, and the last one's words. */
  readonly failures: number;
  readonly lastError: string | null;
}

export interface JwksStoreOptions {
  /** Null: nothing is fetched, and only inline keys verify. */
  readonly fetch?: FetchKeys | null;
  /** Told of each fetch that changed something: new keys, or a failure (`error` not null). */
  readonly onChange?: (status: KeySourceStatus) => void;
  readonly now?: () => number;
  readonly random?: () => number;
  /** Runs `task` once after `ms`; the answer calls it off. The process need not stay up for it. */
  readonly schedule?: (task: () => void, ms: number) => () => void;
}

export const jwksLimits = {
  /**
   * Envoy's cache of remote keys (`cacheDuration`: 300 s). Istiod asks every 20 minutes; a withdrawn key should
   * not verify that long, and one request in 5 minutes costs nobody anything.
   */
  refreshMs: 5 * 60_000,
  /** After failures: doubling from the first to the most, half of it jitter. */
  retryFirstMs: 1_000,
  retryMostMs: 60_000,
  /** Tokens with unknown keys, made up by anybody, cause no more fetches than this. */
  refetchLeastMs: 10_000,
  /** "if pilot has failed to refresh it for more than": Istio's seven days, then the keys are not trusted any more. */
  keepMs: 7 * 24 * 3_600_000,
} as const;

/** Lives as long as its data path: a new snapshot with the same places keeps their keys. */
export class JwksStore {
  readonly #options: Required<JwksStoreOptions>;
  readonly #inline = new Map<string, KeySource>();
  readonly #remote = new Map<string, RemoteKeys>();

  constructor(options: JwksStoreOptions = {}) {
    this.#options = {
      fetch: options.fetch === undefined ? createKeyFetcher() : options.fetch,
      onChange: options.onChange ?? (() => {}),
      now: options.now ?? Date.now,
      random: options.random ?? Math.random,
      schedule: options.schedule ?? unrefTimer,
    };
  }

  /** The keys of a rule. A place seen for the first time is fetched at once. */
  source(rule: JwtRule): KeySource {
    if (rule.jwks !== null) return this.#inlineSource(rule.jwks);
    const place: KeyPlace = { uri: rule.jwksUri, issuer: rule.issuer };
    const known = this.#remote.get(placeKey(place));
    if (known !== undefined) {
      known.timeout = rule.timeout;
      return known;
    }
    const source = new RemoteKeys(place, rule.timeout, this.#options);
    this.#remote.set(placeKey(place), source);
    source.start();
    return source;
  }

  /** Starts what these rules need and forgets what they do not: to be called with each snapshot's rules. */
  retain(rules: readonly JwtRule[]): void {
    const sources = new Set(rules.map((rule) => this.source(rule)));
    for (const [key, source] of this.#inline) if (!sources.has(source)) this.#inline.delete(key);
    for (const [key, source] of this.#remote) {
      if (sources.has(source)) continue;
      source.stop();
      this.#remote.delete(key);
    }
  }

  /** Of the places that are fetched, sorted. */
  status(): readonly KeySourceStatus[] {
    const list = [...this.#remote.values()].map((source) => source.status);
    return list.sort((a, b) => (a.place < b.place ? -1 : 1));
  }

  /** Ends all fetches and timers; the keys stay. */
  close(): void {
    for (const source of this.#remote.values()) source.stop();
  }

  #inlineSource(text: string): KeySource {
    const known = this.#inline.get(text);
    if (known !== undefined) return known;
    const source: KeySource = {
      current: inlineKeys(text),
      fault: 'noKeys',
      waiting: () => null,
      refetch: () => null,
    };
    this.#inline.set(text, source);
    return source;
  }
}

function placeKey({ uri, issuer }: KeyPlace): string {
  return uri === null ? `issuer ${issuer}` : `uri ${uri}`;
}

function inlineKeys(text: string): KeySet | null {
  try {
    return parseKeySet(text);
  } catch {
    // The policy's reader has reported what it could; a set without keys verifies nothing.
    return null;
  }
}

function unrefTimer(task: () => void, ms: number): () => void {
  const timer = setTimeout(task, ms).unref();
  return () => clearTimeout(timer);
}

/** Keys at one place: fetched at once, refreshed in the background, kept while fetches fail. */
class RemoteKeys implements KeySource {
  readonly fault = 'fetchFailed';
  timeout: number;
  readonly #place: KeyPlace;
  readonly #options: Required<JwksStoreOptions>;
  readonly #stop = new AbortController();
  #current: KeySet | null = null;
  #running: Promise<void> | null = null;
  #cancelTimer: (() => void) | null = null;
  #lastStart = Number.NEGATIVE_INFINITY;
  #uri: string | null = null;
  #fetchedAt: number | null = null;
  #nextFetch: number | null = null;
  #failures = 0;
  #lastError: string | null = null;

  constructor(place: KeyPlace, timeout: number, options: Required<JwksStoreOptions>) {
    this.#place = place;
    this.timeout = timeout;
    this.#options = options;
  }

  get current(): KeySet | null {
    return this.#current;
  }

  get status(): KeySourceStatus {
    return {
      place: shownPlace(this.#place),
      uri: this.#uri,
      keys: this.#current?.keys.length ?? 0,
      fetchedAt: this.#fetchedAt,
      nextFetch: this.#nextFetch,
      failures: this.#failures,
      lastError: this.#lastError,
    };
  }

  waiting(): Promise<void> | null {
    return this.#running;
  }

  refetch(): Promise<void> | null {
    if (this.#running !== null) return this.#running;
    const { now } = this.#options;
    if (this.#stop.signal.aborted || now() - this.#lastStart < jwksLimits.refetchLeastMs) return null;
    this.start();
    return this.#running;
  }

  /** Fetches now, unless a fetch is under way. */
  start(): void {
    const { fetch } = this.#options;
    if (this.#running !== null || fetch === null || this.#stop.signal.aborted) return;
    this.#cancelTimer?.();
    this.#nextFetch = null;
    this.#lastStart = this.#options.now();
    this.#running = this.#fetchOnce(fetch).finally(() => {
      this.#running = null;
    });
  }

  stop(): void {
    this.#stop.abort();
    this.#cancelTimer?.();
    this.#nextFetch = null;
  }

  async #fetchOnce(fetch: FetchKeys): Promise<void> {
    let changed = false;
    try {
      const { text, uri } = await fetch(this.#place, this.timeout, this.#stop.signal);
      if (this.#stop.signal.aborted) return;
      // The same text keeps the same set, and with it the tokens already verified.
      changed = text !== this.#current?.text;
      if (changed) this.#current = parseKeySet(text);
      this.#uri = shown(new URL(uri));
      this.#fetchedAt = this.#options.now();
      this.#failures = 0;
      this.#lastError = null;
      this.#fetchAfter(jwksLimits.refreshMs * (0.9 + 0.2 * this.#options.random()));
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      changed = true;
      this.#failed(error instanceof Error ? error.message : String(error));
    }
    if (changed) this.#options.onChange(this.status);
  }

  #failed(message: string): void {
    const { now, random } = this.#options;
    this.#failures++;
    this.#lastError = message;
    if (this.#fetchedAt !== null && now() - this.#fetchedAt > jwksLimits.keepMs) this.#current = null;
    const { retryFirstMs, retryMostMs } = jwksLimits;
    const ceiling = Math.min(retryMostMs, retryFirstMs * 2 ** Math.min(this.#failures - 1, 16));
    this.#fetchAfter(ceiling * (0.5 + 0.5 * random()));
  }

  #fetchAfter(ms: number): void {
    this.#nextFetch = this.#options.now() + ms;
    this.#cancelTimer = this.#options.schedule(() => this.start(), ms);
  }
}

function shownPlace({ uri, issuer }: KeyPlace): string {
  const text = uri ?? issuer;
  return URL.canParse(text) ? shown(new URL(text)) : text;
}
