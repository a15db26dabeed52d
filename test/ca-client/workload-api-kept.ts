/** A keeper on a Workload API as the daemon has it, with all that it told, for tests to wait on. */
import { CredentialKeeper, type KeeperOptions } from '../../ca-client/keeper.ts';
import { type WorkloadApiOptions, workloadApiSource } from '../../ca-client/workload-api.ts';
import type { Credentials } from '../../mesh/credentials.ts';
import { until } from '../e2e/harness/wait.ts';

interface Teardown {
  teardown(fn: () => unknown): void;
}

export type KeptOptions = Partial<WorkloadApiOptions> &
  Pick<WorkloadApiOptions, 'socket'> &
  Pick<KeeperOptions, 'rehearse'>;

/** Started at once, stopped with the test. */
export class Kept {
  readonly sets: Credentials[] = [];
  readonly failures: string[] = [];
  readonly keeper: CredentialKeeper;

  constructor(t: Teardown, { rehearse, ...options }: KeptOptions) {
    this.keeper = new CredentialKeeper({
      ...(rehearse === undefined ? {} : { rehearse }),
      source: workloadApiSource({ identity: null, ...options }),
      onCredentials: (credentials) => this.sets.push(credentials),
      onFailure: (error) => this.failures.push(error.message),
    });
    t.teardown(() => this.keeper.stop());
    this.keeper.start();
  }

  get serial(): string {
    return this.keeper.current?.serial ?? 'none';
  }

  /** Waits for the n-th set. */
  async set(n: number): Promise<Credentials> {
    await until(`set ${n}; failures: ${this.failures.at(-1)}`, () => this.sets.length >= n);
    const set = this.sets[n - 1];
    if (set === undefined) throw new Error('no set');
    return set;
  }

  /** Waits for a failure that says so. */
  failure(words: RegExp, from = 0): Promise<boolean> {
    return until(`${words}`, () => this.failures.slice(from).some((failure) => words.test(failure)));
  }
}

/** How many roots vouch for whom. */
export function trust(credentials: Credentials | null): Record<string, number> {
  const federated = (credentials?.federated ?? []).map(
    ({ trustDomain, rootsPem }) => [trustDomain, rootsPem.length] as const,
  );
  return { own: credentials?.rootsPem.length ?? 0, ...Object.fromEntries(federated) };
}
