/** Credentials from a SPIFFE Workload API, such as SPIRE's agent: it pushes each new set over a stream that stays open. */
import { unwatchFile, watchFile } from 'node:fs';
import type { Credentials } from '../mesh/credentials.ts';
import type { Identity } from '../mesh/identity.ts';
import { checkCredentials } from './check.ts';
import { type Clock, systemClock } from './clock.ts';
import { type Grpc, loadGrpc } from './grpc.ts';
import { retryDelay } from './schedule.ts';
import { type CredentialSource, CredentialsError, RefusedSet } from './source.ts';
import { parseWorkloadEndpoint, type WorkloadEndpoint } from './workload-api-endpoint.ts';
import type { X509SvidResponse } from './workload-api-proto.ts';
import { describe, WorkloadApiSession } from './workload-api-session.ts';
import { type Bundles, bundlesOf, pushedSet, type SvidChoice } from './workload-api-set.ts';

export interface WorkloadApiOptions {
  /** Where it listens: a path, `unix:PATH`, `unix:///PATH` or `tcp://IP:PORT` (as `SPIFFE_ENDPOINT_SOCKET`). */
  readonly socket: string;
  /** Who we are; null adopts the chosen SVID's identity. */
  readonly identity: Identity | null;
  /** Where `identity` is null: of several SVIDs, this one's if it is there, before the first. */
  readonly preferred?: Identity;
  /** Of several SVIDs, the one with this hint. */
  readonly hint?: string;
  /** Of several SVIDs, the one with this SPIFFE ID, or with this path where it begins with `/`. */
  readonly spiffeId?: string;
  /** Longest wait for the first message of a connection in milliseconds, default 10 s. */
  readonly deadlineMs?: number;
  readonly clock?: Clock;
}

/** How often it is looked whether the socket is there (again), so that a new agent is not waited for in long backoff. */
const SOCKET_POLL_MS = 500;
/** After a session that held so long the next is opened at once; after shorter ones in backoff. */
const STEADY_MS = 30_000;
/** News that come so shortly one after the other are one: an SVID and the bundles with it, or a flood. */
const SETTLE_MS = 100;
/** More complaints a session are not told: an agent could make up new ones for ever. */
const MAX_COMPLAINTS = 100;

/**
 * The source for one Workload API. While it is watched the streams stay open, and each push calls back; so does each
 * end, once it is time for a new session, which is for the `obtain` that follows to open. An `obtain` that has no news
 * opens a new one as well: it answers with the newest set at once, or shows that the agent hangs.
 * @throws CredentialsError on an address that is none.
 */
export function workloadApiSource(options: WorkloadApiOptions): CredentialSource {
  return new WorkloadApiSource(options, parseWorkloadEndpoint(options.socket));
}

interface Waiter {
  settle(outcome: X509SvidResponse | Error): void;
}

class WorkloadApiSource implements CredentialSource {
  readonly origin: string;
  readonly #endpoint: WorkloadEndpoint;
  #choice: SvidChoice;
  readonly #deadlineMs: number;
  readonly #clock: Clock;
  #onChange: (() => void) | null = null;
  #session: WorkloadApiSession | null = null;
  /** The newest message of SVIDs of this session; null before the first. */
  #svids: X509SvidResponse | null = null;
  /** Bundles that came on their own after it; null where its own count. */
  #bundles: Bundles | null = null;
  /** Something came that no `obtain` has looked at. */
  #news = false;
  /** For the next `obtain` to throw, once: what no message that we hold tells. */
  #problem: CredentialsError | null = null;
  /** What this session complained of, so that each push of the same is no new complaint. */
  readonly #complaints = new Set<string>();
  readonly #waiters = new Set<Waiter>();
  #openedAt = 0;
  /** Sessions in a row that gave a set and ended soon. */
  #shortLives = 0;
  #cancelReopening: (() => void) | null = null;
  #cancelNotice: (() => void) | null = null;

  constructor(options: WorkloadApiOptions, endpoint: WorkloadEndpoint) {
    this.origin = describe(endpoint);
    this.#endpoint = endpoint;
    const { identity, preferred = null, hint = null, spiffeId = null } = options;
    this.#choice = { identity, preferred, hint, spiffeId };
    this.#deadlineMs = options.deadlineMs ?? 10_000;
    this.#clock = options.clock ?? systemClock;
  }

  async obtain(signal: AbortSignal): Promise<Credentials> {
    const grpc = await loadGrpc();
    signal.throwIfAborted();
    const problem = this.#problem;
    this.#problem = null;
    if (problem !== null) throw problem;
    try {
      if (this.#session === null || !this.#news) this.#open(grpc);
      return this.#read(this.#svids ?? (await this.#firstMessage(signal)));
    } finally {
      if (this.#onChange === null) this.#close();
    }
  }

  watch(onChange: () => void): () => void {
    this.#onChange = onChange;
    const { path } = this.#endpoint;
    const look = (): void => {
      if (this.#session === null) onChange();
    };
    if (path !== null) watchFile(path, { interval: SOCKET_POLL_MS, persistent: false }, look);
    return () => {
      this.#onChange = null;
      if (path !== null) unwatchFile(path, look);
      this.#cancelReopening?.();
      this.#close();
    };
  }

  #open(grpc: Grpc): void {
    this.#close();
    this.#cancelReopening?.();
    this.#openedAt = this.#clock.tick();
    this.#session = new WorkloadApiSession(grpc, this.#endpoint, this.#clock, {
      onSvids: (response) => {
        this.#svids = response;
        this.#bundles = null;
        this.#pushed(response);
      },
      onBundles: (response) => {
        this.#bundles = bundlesOf(response, (words) => this.#complain(words));
        if (this.#svids !== null) this.#pushed(this.#svids);
      },
      onUnreadable: (error) => this.#unreadable(error),
      onProblem: (words) => this.#complain(words),
      onEnd: (error) => this.#ended(error),
    });
  }

  #close(): void {
    this.#cancelNotice?.();
    this.#cancelNotice = null;
    this.#session?.close();
    this.#session = null;
    this.#svids = null;
    this.#bundles = null;
    this.#news = false;
    this.#complaints.clear();
  }

  #firstMessage(signal: AbortSignal): Promise<X509SvidResponse> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => this.#ended(signal.reason);
      const waiter: Waiter = {
        settle: (outcome) => {
          this.#waiters.delete(waiter);
          cancelDeadline();
          signal.removeEventListener('abort', onAbort);
          if (outcome instanceof Error) reject(outcome);
          else resolve(outcome);
        },
      };
      const cancelDeadline = this.#clock.setTimeout(() => {
        const seconds = this.#deadlineMs / 1000;
        const words = `${this.origin} gave no answer within ${seconds} s; does the agent hang? look at its log`;
        this.#ended(new CredentialsError(words));
      }, this.#deadlineMs);
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiters.add(waiter);
    });
  }

  /** @throws CredentialsError where the set does not pass the checks. */
  #read(svids: X509SvidResponse): Credentials {
    this.#news = false;
    const complaints: string[] = [];
    try {
      const set = pushedSet(svids, this.#bundles, this.#choice, (words) => complaints.push(words));
      const credentials = checkCredentials({ ...set, origin: this.origin, now: this.#clock.now() });
      // who we are does not change with the order of what is offered, nor with an entry that is new
      this.#choice = { ...this.#choice, preferred: credentials.identity };
      for (const words of complaints) this.#complain(words);
      return credentials;
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      throw new RefusedSet(`${this.origin}: what it pushed is refused: ${error.message}`);
    }
  }

  /** Those who wait take what came; where nobody waits, it is news. */
  #pushed(svids: X509SvidResponse): void {
    this.#news = true;
    if (this.#waiters.size === 0) this.#noticeSoon();
    for (const waiter of this.#waiters) waiter.settle(svids);
  }

  /** §4.5: the message is reported and discarded. The `obtain` after that has no news, and asks anew. */
  #unreadable(error: CredentialsError): void {
    if (this.#waiters.size === 0) this.#report(error);
    for (const waiter of this.#waiters) waiter.settle(error);
  }

  /** What keeps us from nothing, but should be known. */
  #complain(words: string): void {
    if (this.#complaints.has(words) || this.#complaints.size >= MAX_COMPLAINTS) return;
    this.#complaints.add(words);
    // the obtain after the one that tells takes the set, and asks for no other
    this.#news = this.#svids !== null;
    this.#report(new CredentialsError(`${this.origin}: ${words}`));
  }

  #report(problem: CredentialsError): void {
    if (this.#onChange === null) return;
    this.#problem = problem;
    this.#noticeSoon();
  }

  #noticeSoon(): void {
    this.#cancelNotice ??= this.#clock.setTimeout(() => {
      this.#cancelNotice = null;
      // an obtain may have looked at it meanwhile
      if (this.#news || this.#problem !== null) this.#onChange?.();
    }, SETTLE_MS);
  }

  /**
   * Who waits is told, and tries again in its own time. Else the end is told only where the next session fails too.
   * The set we have stays, also where the agent says that we have none any more: SPIFFE Workload API §5.2.1 would have
   * us cease at once ("SHOULD"), but an agent that has just started says the same until it has heard of its server.
   */
  #ended(error: Error): void {
    const waited = this.#waiters.size > 0;
    this.#close();
    for (const waiter of this.#waiters) waiter.settle(error);
    if (waited || this.#onChange === null) return;
    this.#shortLives = this.#clock.tick() - this.#openedAt < STEADY_MS ? this.#shortLives + 1 : 0;
    const delay = this.#shortLives === 0 ? 0 : retryDelay(this.#shortLives, 0, this.#clock.random());
    this.#cancelReopening = this.#clock.setTimeout(() => this.#onChange?.(), delay);
  }
}
