/** A TCP connection's way to the app: authorizers asked, policy decided, dialled; kept back until it is known to be TCP. */
import type { Ask } from '../mesh/decision.ts';
import type { ReasonCode } from '../mesh/reasons.ts';
import type { AppAddress, Snapshot } from '../mesh/snapshot.ts';
import type { Connection } from './connections.ts';
import type { DataPath, Explainer } from './data-path.ts';
import { observe } from './decide.ts';
import { dial, type Reaching, type Upstream } from './dial.ts';
import { checkRequestOf, providerOf } from './http/ext-authz-check.ts';
import { deniedBy } from './report.ts';
import { holdBack, letFlow, pipeConnection } from './tcp.ts';
import { closeUpstream, WaitingUpstream } from './waiting-upstream.ts';

/** Why it does not come to the app. */
export interface TcpRefusal {
  readonly reason: ReasonCode;
  readonly detail: string;
  readonly policy: string | null;
  readonly explainer: Explainer | null;
}

export interface AppTcpEvents {
  /** Only once it was committed to. */
  refused(refusal: TcpRefusal): void;
  /** The app said something, or ended, before anybody committed. What it said is kept. */
  spoke(): void;
}

/** One connection's TCP to the app. `connection.facts` must be set. */
export class AppTcp {
  readonly #path: DataPath;
  readonly #connection: Connection;
  readonly #app: AppAddress;
  readonly #events: AppTcpEvents;
  #committed = false;
  /** Asking or dialling. */
  #busy = false;
  #over = false;
  #observed = false;
  #asking: AbortController | null = null;
  #reaching: Reaching | null = null;
  /** Reached before anybody committed. */
  #waiting: WaitingUpstream | null = null;
  /** Why the app was not reached, before anybody committed. */
  #early: TcpRefusal | null = null;

  constructor(path: DataPath, connection: Connection, app: AppAddress, events: AppTcpEvents) {
    this.#path = path;
    this.#connection = connection;
    this.#app = app;
    this.#events = events;
  }

  /** What stood against it before anybody committed; null where nothing did, or it is not known yet. */
  get refusal(): TcpRefusal | null {
    return this.#early;
  }

  /**
   * Goes as far as it may before anybody knows what is spoken: nothing moves either way. What refuses it now is told
   * to nobody: who commits asks anew.
   */
  prepare(): void {
    this.#open();
  }

  /** It is TCP: joins both sides as soon as the app is reached. */
  commit(): void {
    this.#committed = true;
    const waiting = this.#waiting;
    const { snapshot } = this.#path;
    if (waiting !== null && snapshot !== null) {
      if (this.#judge(snapshot)) this.#join(waiting.take(), waiting.said);
      return;
    }
    // One that leaves while the app is reached for is noticed at once.
    holdBack(this.#connection.stream);
    if (!this.#busy) this.#open();
  }

  /** It is something else, or over. */
  drop(): void {
    this.#over = true;
    this.#asking?.abort();
    this.#reaching?.cancel();
    this.#waiting?.close();
  }

  /** Judges what was committed to by the set now in force. */
  rejudge(): void {
    const { snapshot } = this.#path;
    if (this.#committed && snapshot !== null) this.#decide(snapshot);
  }

  /** CUSTOM policies first, as for a request: an external authorizer is asked before the app is dialled. */
  #open(): void {
    const path = this.#path;
    const connection = this.#connection;
    const { snapshot } = path;
    const { facts } = connection;
    if (snapshot === null || facts === null) return;
    this.#busy = true;
    const asked = snapshot.authorization.ask(facts, null);
    const provider = asked !== null && 'provider' in asked ? providerOf(snapshot, asked) : asked;
    if (provider !== null && 'allowed' in provider) {
      this.#refuse('policy_denied', provider.detail, provider.policy);
      return;
    }
    // An HTTP provider has no say over TCP (pilot's `buildTCP`).
    if (asked === null || provider === null || provider.protocol === 'http') {
      this.#dial(snapshot);
      return;
    }
    const abort = new AbortController();
    this.#asking = abort;
    path.extAuthz
      .check(provider, checkRequestOf(path, connection, facts, null), abort.signal)
      // A fault of ours is none of the authorizer's: failOpen must not excuse it.
      .catch((error: Error) => ({ kind: 'denied', why: error.message }) as const)
      .then((answer) => {
        this.#asking = null;
        if (this.#over || connection.closed || connection.refusal !== null) return;
        path.metrics.externalChecks[answer.kind]++;
        const { policy } = asked as Ask;
        if (answer.kind === 'denied') {
          const detail = answer.why === undefined ? ' denied the connection' : `: ${answer.why}`;
          this.#refuse('ext_authz_denied', `${provider.name}${detail}`, policy);
        } else if (answer.kind === 'failed' && !provider.failOpen) {
          this.#refuse('ext_authz_failed', `${provider.name}: ${answer.reason}`, policy);
        } else {
          if (answer.kind === 'failed') path.failedOpen(connection, `${provider.name}: ${answer.reason}`);
          this.#dial(snapshot);
        }
      });
  }

  /** @param snapshot the one that CUSTOM policies were asked of */
  #dial(snapshot: Snapshot): void {
    if (!this.#judge(snapshot)) return;
    this.#reaching = dial(
      this.#path,
      { kind: 'app', address: this.#app, protocol: 'tcp' },
      {
        connected: (upstream) => this.#connected(upstream),
        failed: (reason, detail) => this.#refuse(reason, detail, null),
      },
    );
  }

  #connected(upstream: Upstream): void {
    this.#busy = false;
    const { snapshot } = this.#path;
    if (this.#over || this.#connection.closed || this.#connection.refusal !== null || snapshot === null) {
      closeUpstream(upstream);
    } else if (!this.#committed) {
      this.#waiting = new WaitingUpstream(upstream, {
        spoke: () => this.#events.spoke(),
        lost: () => {
          this.#waiting = null;
        },
      });
      this.#waiting.start();
    } else if (this.#judge(snapshot)) this.#join(upstream, null);
    else closeUpstream(upstream);
  }

  #join(upstream: Upstream, said: Buffer | null): void {
    this.#waiting = null;
    letFlow(this.#connection.stream);
    pipeConnection(this.#path, this.#connection, upstream, said);
  }

  /** False where policy denies it. Audit and dry-run policies see it once, and only what is TCP. */
  #judge(snapshot: Snapshot): boolean {
    const path = this.#path;
    const connection = this.#connection;
    const { facts } = connection;
    if (facts === null) return false;
    if (this.#committed && !this.#observed && snapshot.authorization.observe !== null) {
      this.#observed = true;
      observe({ path, connection, facts, snapshot }, null);
    }
    return this.#decide(snapshot);
  }

  #decide(snapshot: Snapshot): boolean {
    const { facts } = this.#connection;
    if (facts === null) return false;
    const { authorization } = snapshot;
    const decision = authorization.decideConnection(facts);
    if (decision.allowed) return true;
    const explainer = { explain: () => authorization.explain(facts, null, decision) };
    this.#refuse('policy_denied', decision.detail, deniedBy(decision.policy, decision.missed), explainer);
    return false;
  }

  #refuse(
    reason: ReasonCode,
    detail: string,
    policy: string | null,
    explainer: Explainer | null = null,
  ): void {
    this.#busy = false;
    const refusal = { reason, detail, policy, explainer };
    if (this.#over) return;
    if (this.#committed) this.#events.refused(refusal);
    else this.#early = refusal;
  }
}
