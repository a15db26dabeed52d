/** Host names of endpoints → addresses, as the data path asks for them: at once where known, else when they come. */

export interface NameResolver {
  /** Counts up whenever an answer changes: what was derived from older answers is to be derived anew. */
  readonly version: number;
  /** The addresses last seen; null: none are known, or they are too old to go by. Asks anew in the background. */
  known(host: string): readonly string[] | null;
  /** Waits for addresses; called back once, with an error's code where there never were any. */
  resolve(host: string, done: NameDone): void;
}

export interface NameDone {
  resolved(addresses: readonly string[]): void;
  unresolved(code: string): void;
}
