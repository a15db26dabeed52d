/** How often an identity may have certificates: token buckets, one each and one for all. */

/** So many at once, and as many again each period. */
export interface Rate {
  readonly count: number;
  readonly periodMs: number;
}

/** Refused for now: the CA is asked too often. */
export class RateError extends Error {
  override name = 'RateError';
  /** Milliseconds after which asking makes sense again. */
  readonly retryAfterMs: number;

  constructor(message: string, retryAfterMs: number) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

interface Bucket {
  tokens: number;
  /** When `tokens` was worked out. */
  at: number;
}

/** Only accounts whose token passed have a bucket; the bound is for a CA with very many of them. */
const MAX_BUCKETS = 10_000;

export class RateLimit {
  readonly #each: Rate;
  readonly #all: Rate;
  readonly #random: () => number;
  /** In the order of their last use. */
  readonly #buckets = new Map<string, Bucket>();
  readonly #total: Bucket;

  constructor(each: Rate, all: Rate, random: () => number = Math.random) {
    this.#each = each;
    this.#all = all;
    this.#random = random;
    this.#total = { tokens: all.count, at: Number.NEGATIVE_INFINITY };
  }

  /** Buckets kept; for tests. */
  get size(): number {
    return this.#buckets.size;
  }

  /**
   * Takes one from the identity's bucket and one from all's, or from neither.
   * @param now milliseconds that only go forward.
   * @throws RateError with a wait that is spread over a period, so that those refused together do not return together.
   */
  take(identity: string, now: number): void {
    const bucket = this.#bucketOf(identity, now);
    if (bucket.tokens < 1) this.#refuse(`${identity} asks`, this.#each, bucket);
    if (this.#total.tokens < 1) this.#refuse('all together ask', this.#all, this.#total);
    bucket.tokens--;
    this.#total.tokens--;
  }

  /** The same for one who is told nothing. @returns whether it was taken. */
  allows(identity: string, now: number): boolean {
    const bucket = this.#bucketOf(identity, now);
    if (bucket.tokens < 1 || this.#total.tokens < 1) return false;
    bucket.tokens--;
    this.#total.tokens--;
    return true;
  }

  #bucketOf(identity: string, now: number): Bucket {
    const bucket = this.#buckets.get(identity) ?? { tokens: this.#each.count, at: now };
    this.#buckets.delete(identity);
    this.#buckets.set(identity, bucket);
    this.#bound();
    refill(bucket, this.#each, now);
    refill(this.#total, this.#all, now);
    return bucket;
  }

  #refuse(who: string, { count, periodMs }: Rate, { tokens }: Bucket): never {
    const one = periodMs / count;
    const wait = Math.ceil((1 - tokens) * one + this.#random() * Math.max(one, 1_000));
    throw new RateError(
      `${who} for certificates too often: ${count} in ${periodMs} ms are given; ask again in ${wait} ms`,
      wait,
    );
  }

  #bound(): void {
    if (this.#buckets.size <= MAX_BUCKETS) return;
    const [oldest] = this.#buckets.keys();
    if (oldest !== undefined) this.#buckets.delete(oldest);
  }
}

function refill(bucket: Bucket, { count, periodMs }: Rate, now: number): void {
  bucket.tokens = Math.min(count, bucket.tokens + (Math.max(now - bucket.at, 0) * count) / periodMs);
  bucket.at = now;
}
