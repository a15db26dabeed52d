/** What every source of credentials offers: a CA, a folder of files, and others to come. */
import type { Credentials } from '../mesh/credentials.ts';

export interface CredentialSource {
  /** For people: `ca 127.0.0.1:15012`, `files /etc/certs`. The same text as `Credentials.origin`. */
  readonly origin: string;
  /**
   * One attempt. What it answers has been checked (checkCredentials): key, chain, roots, identity and times.
   * Settles within its own deadline, and at once when the signal is aborted.
   * @throws CredentialsError where the source gave no usable set; its message says what to do.
   */
  obtain(signal: AbortSignal): Promise<Credentials>;
  /**
   * Calls back when a new set may be there. Sources that have it are obtained from when it calls, not by the
   * clock; the others are obtained from at half life.
   * @returns what stops the watching.
   */
  watch?(onChange: () => void): () => void;
}

/** No usable credentials this time: one sentence of what was wrong, and one of what to do where that is known. */
export class CredentialsError extends Error {
  override name = 'CredentialsError';
  /** The source asked to be left alone so long; null: it did not say. */
  readonly retryAfterMs: number | null;
  /** As in Credentials: known although there are none; null: it is not. */
  readonly clockSkewMs: number | null;

  constructor(
    message: string,
    {
      retryAfterMs = null,
      clockSkewMs = null,
    }: { readonly retryAfterMs?: number | null; readonly clockSkewMs?: number | null } = {},
  ) {
    super(message);
    this.retryAfterMs = retryAfterMs;
    this.clockSkewMs = clockSkewMs;
  }
}

/** There was a set, and it cannot be used: whoever issues it should know. */
export class RefusedSet extends CredentialsError {}
