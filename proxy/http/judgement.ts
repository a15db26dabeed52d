/** Judges one inbound request that policy alone cannot: external authorization, tokens, then DENY and ALLOW. */
import type { Ask, Decision } from '../../mesh/decision.ts';
import type { CheckAnswer, ExtAuthzProvider } from '../../mesh/ext-authz.ts';
import type { ConnectionFacts } from '../../mesh/facts.ts';
import type { Snapshot } from '../../mesh/snapshot.ts';
import type { TokenVerdict, TokenVerifier } from '../../mesh/tokens.ts';
import type { Connection } from '../connections.ts';
import type { DataPath } from '../data-path.ts';
import { decideRequest, denied, observe } from '../decide.ts';
import { maskParams } from '../mask.ts';
import { badChange, changeFields, removeFields } from './change-fields.ts';
import type { Exchange } from './exchange.ts';
import { checkRequestOf, providerOf } from './ext-authz-check.ts';
import { isTarget, type RequestHead } from './head.ts';
import type { HeldBody } from './held-body.ts';
import type { LocalAnswer } from './local-answer.ts';
import type { Judged, RequestCarrier } from './side.ts';

/** What a judgement rests on from its first step to its last, however long they take. */
export interface Judging {
  readonly path: DataPath;
  readonly connection: Connection;
  readonly facts: ConnectionFacts;
  readonly snapshot: Snapshot;
  /** Null: no RequestAuthentication, tokens are ignored. */
  readonly verifier: TokenVerifier | null;
  readonly head: RequestHead;
  readonly exchange: Exchange;
  readonly carrier: RequestCarrier;
}

/**
 * The steps in Istio's order of filters (pilot's `buildHTTPConnectionManager`): CUSTOM, RequestAuthentication,
 * DENY and ALLOW. Each sees the request as the one before left it.
 */
export class Judgement {
  readonly #judging: Judging;
  /** Set while an authorizer is asked. */
  #asking: AbortController | null = null;
  #abandoned = false;

  constructor(judging: Judging) {
    this.#judging = judging;
  }

  /** Nobody waits for it any more. */
  abandon(): void {
    this.#abandoned = true;
    this.#asking?.abort();
  }

  /** @param asked what the CUSTOM policies say of the request */
  start(asked: Ask | Decision | null): Judged {
    const { exchange, head, carrier, path, snapshot } = this.#judging;
    if (asked === null) return this.#verify();
    const provider = 'provider' in asked ? providerOf(snapshot, asked) : asked;
    if ('allowed' in provider) {
      exchange.decision = provider;
      return denied(provider);
    }
    exchange.policy = (asked as Ask).policy;
    const { requestBody } = provider;
    if (requestBody === null || head.framing.kind === 'none') {
      this.#check(provider, null);
      return 'pending';
    }
    const maxBytes = Math.min(requestBody.maxRequestBytes, path.limits.maxHeldBody);
    const partial = requestBody.allowPartialMessage;
    if (!partial && head.framing.kind === 'length' && head.framing.length > maxBytes) return TOO_LARGE;
    carrier.hold({ maxBytes, partial, room: path.heldRoom }, (body) => {
      if (body.crowdedOut) carrier.judged(exchange, NO_ROOM);
      else if (body.tooLong) carrier.judged(exchange, TOO_LARGE);
      else this.#check(provider, body);
    });
    return 'pending';
  }

  #check(provider: ExtAuthzProvider, body: HeldBody | null): void {
    const { path, connection, facts, head, exchange } = this.#judging;
    const request = checkRequestOf(path, connection, facts, { head, exchange, body });
    this.#asking = new AbortController();
    path.extAuthz.check(provider, request, this.#asking.signal).then(
      (answer) => this.#settle(() => this.#checked(provider, answer)),
      // A fault of ours is none of the authorizer's: failOpen must not excuse it.
      (error: Error) => this.#settle(() => this.#checked(provider, { ...BARE_DENIAL, why: error.message })),
    );
  }

  #checked(provider: ExtAuthzProvider, answer: CheckAnswer): Judged {
    const { path, head, exchange, connection } = this.#judging;
    this.#asking = null;
    const sound = this.#soundAnswer(answer);
    path.metrics.externalChecks[sound.kind]++;
    if (sound.kind === 'denied') {
      const { status, fields, body, why } = sound;
      const detail = `${provider.name}${why === undefined ? ` answered ${status}` : `: ${why}`}`;
      return { status, fields, body, reason: 'ext_authz_denied', detail };
    }
    if (sound.kind === 'failed') {
      const detail = `${provider.name}: ${sound.reason}`;
      if (!provider.failOpen) {
        return { status: provider.statusOnError, body: '', reason: 'ext_authz_failed', detail };
      }
      path.failedOpen(connection, detail);
    } else {
      head.fields = removeFields(changeFields(head.fields, sound.set), sound.remove);
      if (sound.path !== null) {
        head.path = sound.path;
        exchange.path = maskParams(sound.path, path.tokenParams);
      }
      if (sound.answerFields.length > 0) exchange.answerFields = sound.answerFields;
    }
    exchange.policy = null;
    return this.#verify();
  }

  /** An answer that HTTP/1.1 cannot carry out denies: `failed` would let failOpen pass it. */
  #soundAnswer(answer: CheckAnswer): CheckAnswer {
    if (answer.kind === 'failed') return answer;
    const { head, path } = this.#judging;
    const allowed = answer.kind === 'allowed';
    const changes = allowed ? [...answer.set, ...answer.answerFields] : answer.fields;
    const sound = allowed
      ? answer.path === null || isTarget(answer.path)
      : answer.status >= 200 && answer.status <= 999;
    const room = path.limits.maxHeadFields + MORE_FIELDS - head.fields.length;
    return sound && badChange(changes) === null && changes.length <= room ? answer : BARE_DENIAL;
  }

  #verify(): Judged {
    const { verifier, head } = this.#judging;
    if (verifier === null) return this.#decide();
    const verdict = verifier.verify(head);
    if (!(verdict instanceof Promise)) return this.#verified(verdict);
    verdict.then(
      (late) => this.#settle(() => this.#verified(late)),
      (error: Error) => this.#settle(() => this.#refusedToken(UNVERIFIED, error.message)),
    );
    return 'pending';
  }

  #verified(verdict: TokenVerdict): Judged {
    const { head, exchange } = this.#judging;
    if (verdict.kind === 'refused') return this.#refusedToken(verdict, verdict.message);
    const { path, remove, set, claims } = verdict;
    const fault = badChange(set) ?? (path === null || isTarget(path) ? null : 'a target that cannot be sent');
    // A claim that cannot be a header field: the app must not take the request for one without it.
    if (fault !== null) return this.#refusedToken(UNVERIFIED, `its output is ${fault}`);
    if (path !== null) {
      head.path = path;
      exchange.path = maskParams(path, this.#judging.path.tokenParams);
    }
    head.fields = changeFields(removeFields(head.fields, remove), set);
    head.claims = claims;
    return this.#decide();
  }

  #refusedToken(verdict: TokenVerdict & { kind: 'refused' }, detail: string): LocalAnswer {
    const { snapshot, exchange } = this.#judging;
    exchange.policy = snapshot.tokens.policies.join(',') || null;
    const { status, message, challenge } = verdict;
    const fields = challenge === null ? [] : [{ name: 'www-authenticate', value: challenge, append: false }];
    return { status, body: message, reason: 'token_invalid', detail, fields };
  }

  #decide(): LocalAnswer | null {
    const { facts, snapshot, head, exchange } = this.#judging;
    observe(this.#judging, head);
    return decideRequest(snapshot, facts, head, exchange);
  }

  /** Goes on after a wait, unless there is nobody left to answer. */
  #settle(step: () => Judged): void {
    const { carrier, exchange, path } = this.#judging;
    if (this.#abandoned) return;
    let judged: Judged;
    try {
      judged = step();
    } catch (error) {
      // A fault of ours after a wait has nobody above it; what is not judged does not pass.
      path.log.error({ error: (error as Error).stack }, 'a request could not be judged: fault of ours');
      judged = BROKEN;
    }
    if (judged !== 'pending') carrier.judged(exchange, judged);
  }
}

const BARE_DENIAL: CheckAnswer & { readonly kind: 'denied' } = {
  kind: 'denied',
  status: 403,
  fields: [],
  body: Buffer.alloc(0),
};

/** Fields that authorizers may add beyond what a downstream may send. */
const MORE_FIELDS = 100;

/** Envoy's answer and words; its connection is not kept either. */
const TOO_LARGE: LocalAnswer = {
  status: 413,
  body: 'Payload Too Large',
  reason: 'body_too_large',
  detail: '',
  close: true,
};

/** Whatever failOpen says: a downstream that holds all the room must not open a way past the authorizer. */
const NO_ROOM: LocalAnswer = {
  status: 503,
  body: 'no room to hold the request body',
  reason: 'too_many_held_bodies',
  detail: '',
  close: true,
};

const UNVERIFIED = {
  kind: 'refused',
  status: 401,
  message: 'Jwt verification fails',
  challenge: null,
} as const;

const BROKEN: LocalAnswer = {
  status: 403,
  body: '',
  reason: 'policy_denied',
  detail: 'it could not be judged',
};
