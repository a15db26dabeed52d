/** What policies and their helpers did that no refusal tells: AUDIT and dry-run matches, external checks. */
import type { Labels } from './scraped-metric.ts';

/** Policies that have counters of their own; later ones share `other`. Reloads may rename policies for ever. */
const MAX_POLICIES = 1_000;

/** Counts by `NS/NAME` of a policy, and by its decision where it has one. */
export class Observations {
  readonly #audits = new Map<string, number>();
  readonly #tried = new Map<string, number>();

  /** An AUDIT policy matched. */
  audited(policy: string): void {
    count(this.#audits, policy);
  }

  /** A dry-run policy matched, and would have said this. */
  triedOut(policy: string, decision: 'ALLOW' | 'DENY'): void {
    count(this.#tried, `${policy} ${decision}`);
  }

  get audits(): { labels: Labels; value: number }[] {
    return [...this.#audits].map(([policy, value]) => ({ labels: { policy }, value }));
  }

  get dryRuns(): { labels: Labels; value: number }[] {
    return [...this.#tried].map(([key, value]) => {
      const [policy = '', decision = ''] = key.split(' ');
      return { labels: { policy, decision }, value };
    });
  }
}

function count(counts: Map<string, number>, key: string): void {
  const known = counts.has(key) || counts.size < MAX_POLICIES ? key : key.replace(/^\S+/, 'other');
  counts.set(known, (counts.get(known) ?? 0) + 1);
}
