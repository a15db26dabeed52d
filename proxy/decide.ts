/** The last step of judging: DENY and ALLOW, and what policies that only look on have to say. */
import type { Decision } from '../mesh/decision.ts';
import type { ConnectionFacts, RequestFacts } from '../mesh/facts.ts';
import type { Snapshot } from '../mesh/snapshot.ts';
import type { Connection } from './connections.ts';
import type { DataPath } from './data-path.ts';
import type { Exchange } from './http/exchange.ts';
import type { LocalAnswer } from './http/local-answer.ts';

/** Decides a request that external authorization and tokens let pass; null lets it go on. */
export function decideRequest(
  snapshot: Snapshot,
  facts: ConnectionFacts,
  head: RequestFacts,
  exchange: Exchange,
): LocalAnswer | null {
  const decision = snapshot.authorization.decideRequest(facts, head);
  exchange.decision = decision;
  return decision.allowed ? null : denied(decision);
}

/** Envoy's answer to what RBAC denies. */
export function denied(decision: Decision): LocalAnswer {
  return { status: 403, body: 'RBAC: access denied', reason: 'policy_denied', detail: decision.detail };
}

/** Who is looked on at, and by what. */
export interface Observing {
  readonly path: DataPath;
  readonly connection: Connection;
  readonly facts: ConnectionFacts;
  readonly snapshot: Snapshot;
}

/** Counts what AUDIT and dry-run policies match; a denial that is only tried out gets a line too. */
export function observe(
  { path, connection, facts, snapshot }: Observing,
  request: RequestFacts | null,
): void {
  const observed = snapshot.authorization.observe?.(facts, request);
  if (observed === undefined) return;
  const { observations } = path.metrics;
  for (const policy of observed.audit) observations.audited(policy);
  for (const { policy, decision } of observed.dryRun) {
    observations.triedOut(policy, decision);
    if (decision === 'DENY') path.wouldDeny(connection, policy, request);
  }
}
